//! What a command runs with: its account, its environment, its directory.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::process::geteuid;
use stacyvm_proto::message::{Code, Exec, Failure};
use stacyvm_sys::resolve;
use stacyvm_sys::spawn::Directory;

use crate::agent::Agent;
use crate::replies::failure;
use crate::users::Account;

/// Where programs are looked up unless the environment has a `PATH`.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where relative paths start.
const WORKSPACE: &str = "/workspace";

/// The account that the command runs as.
pub(super) fn account(agent: &Agent, exec: &Exec) -> Result<Account, Failure> {
    let configured = || agent.defaults.lock().user.clone();
    let wanted = exec.user.clone().or_else(configured);
    let mut users = agent.users.lock();
    let account = match &wanted {
        Some(wanted) => users.find(agent.root.as_fd(), wanted)?,
        None => users.of_number(agent.root.as_fd(), agent.uid, agent.gid),
    };
    if wanted.is_some() && !agent.can_switch && account.uid != geteuid().as_raw() {
        return Err(failure(
            Code::Unsupported,
            "this sandbox has one user only: another one needs a server that runs as root",
        ));
    }
    Ok(account)
}

/// The command's variables: the agent's defaults, overridden by the sandbox's own, overridden by the
/// request's.
pub(super) fn environment(
    agent: &Agent,
    exec: &Exec,
    account: &Account,
) -> BTreeMap<String, String> {
    let name = account.name.as_deref().unwrap_or("user");
    let home = account.home.as_deref().unwrap_or("/home/user");
    // Without isolation the sandbox's home is below the directory that stands for its root.
    let home = match &agent.root_path {
        None => home.to_owned(),
        Some(root) => {
            let inside = root.join(home.trim_start_matches('/'));
            let home = if account.home.is_some() || inside.is_dir() {
                inside
            } else {
                root.join(&WORKSPACE[1..])
            };
            home.to_string_lossy().into_owned()
        }
    };
    let mut environment: BTreeMap<String, String> = [
        ("PATH", PATH),
        ("HOME", home.as_str()),
        ("USER", name),
        ("LOGNAME", name),
        ("SHELL", account.shell.as_deref().unwrap_or("/bin/sh")),
        ("LANG", "C.UTF-8"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    if exec.tty.is_some() {
        environment.insert("TERM".into(), "xterm-256color".into());
    }
    environment.extend(agent.defaults.lock().env.clone());
    environment.extend(exec.env.clone());
    environment
}

/// The requested directory as an absolute path.
pub(super) fn workdir(agent: &Agent, exec: &Exec) -> String {
    let default = || agent.defaults.lock().workdir.clone();
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
    match filled(exec.workdir.clone()).or_else(|| filled(default())) {
        None => WORKSPACE.to_owned(),
        Some(path) if path.starts_with('/') => path,
        Some(path) => format!("{WORKSPACE}/{path}"),
    }
}

/// The directory that a command starts in.
pub(super) enum WorkingDirectory {
    Path(CString),
    Open(OwnedFd),
}

impl WorkingDirectory {
    pub(super) fn find(agent: &Agent, workdir: &str) -> Result<Self, Failure> {
        if agent.root_path.is_none() {
            let path = CString::new(workdir).map_err(|_| missing(workdir))?;
            return Ok(Self::Path(path));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let relative = Path::new(workdir.trim_start_matches('/'));
        let relative = if relative.as_os_str().is_empty() {
            Path::new(".")
        } else {
            relative
        };
        resolve::open(&agent.root, relative, flags, ResolveFlags::IN_ROOT)
            .map(Self::Open)
            .map_err(|errno| no_workdir(errno, workdir))
    }

    pub(super) fn as_directory(&self) -> Directory<'_> {
        match self {
            Self::Path(path) => Directory::Path(path),
            Self::Open(fd) => Directory::Open(fd.as_fd()),
        }
    }
}

fn missing(workdir: &str) -> Failure {
    failure(
        Code::Invalid,
        format!("workdir {workdir:?} does not exist or is no directory"),
    )
}

/// The failure for a directory that cannot be entered.
pub(super) fn no_workdir(errno: Errno, workdir: &str) -> Failure {
    match errno {
        Errno::ACCESS | Errno::PERM => failure(
            Code::Denied,
            format!("workdir {workdir:?} may not be entered by this user"),
        ),
        Errno::BUSY => failure(
            Code::Conflict,
            format!("workdir {workdir:?} cannot be told while files are renamed without a break"),
        ),
        _ => missing(workdir),
    }
}
