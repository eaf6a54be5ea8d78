//! From a request to a process: identity, environment, directory, program, streams.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitStatus, geteuid};
use rustix::thread::CapabilitySet;
use stacyvm_proto::message::{Code, Exec, Failure, TerminalSize};
use stacyvm_proto::{DATA, STDERR};
use stacyvm_sys::resolve;
use stacyvm_sys::spawn::{Directory, Identity, Program, SpawnError, Step};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use super::streams::{Feed, Input, Output};
use crate::agent::{Agent, lock};
use crate::failure::failure;
use crate::processes;
use crate::pty;
use crate::tree::Tree;
use crate::users::Account;

/// Where commands are looked up when nothing else is said.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where relative paths start.
const WORKSPACE: &str = "/workspace";
/// Commands are the first to go when memory is short, before the agent.
const OOM_SCORE: &std::ffi::CStr = c"500";

/// A command that runs.
pub(super) struct Child {
    pub(super) pid: i32,
    pub(super) tree: Tree,
    pub(super) exited: oneshot::Receiver<WaitStatus>,
    pub(super) input: Input,
    pub(super) outputs: [Option<Output>; 2],
}

/// Why none runs.
pub(super) enum NotStarted {
    /// The request itself failed.
    Refused(Failure),
    /// As a shell would say: the program is not there, or is none.
    NoProgram { exit_code: i32, message: String },
}

impl From<Failure> for NotStarted {
    fn from(refused: Failure) -> Self {
        Self::Refused(refused)
    }
}

/// The streams of a command that is about to start: its ends, and ours.
struct Streams {
    theirs: [OwnedFd; 3],
    input: Input,
    outputs: [Option<Output>; 2],
}

/// Starts a command.
pub(super) fn start(agent: &Agent, exec: &Exec, number: u64) -> Result<Child, NotStarted> {
    let name = match exec.argv.first() {
        Some(name) if !name.is_empty() => name,
        _ => return Err(failure(Code::Invalid, "the command is empty").into()),
    };
    let account = account(agent, exec)?;
    let environment = environment(agent, exec, &account);
    let path = environment.get("PATH").map_or(PATH, String::as_str);
    let candidates = candidates(name, path)?;
    let arguments = strings(exec.argv.iter().cloned())?;
    let mark = agent.mark(number);
    let environment = strings(
        environment
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .chain(processes::mark_in_environment(mark)),
    )?;
    let workdir = workdir(agent, exec);
    let place = Place::find(agent, &workdir)?;
    let streams = match exec.tty {
        Some(size) => terminal(agent, number, size, &account),
        None => pipes(agent, number, exec.stdin),
    }
    .map_err(|error| out_of(&error))?;
    let identity = agent.can_switch.then(|| Identity {
        uid: account.uid,
        gid: account.gid,
        groups: Some(&account.groups),
    });
    let [stdin, stdout, stderr] = &streams.theirs;
    let program = Program {
        candidates: &candidates,
        arguments: &arguments,
        environment: &environment,
        directory: place.directory(),
        stdio: [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
        terminal: exec.tty.is_some(),
        identity,
        mark: Some(mark),
        oom_score: Some(OOM_SCORE),
        capabilities: match account.uid {
            0 => agent.root_capabilities,
            _ => CapabilitySet::empty(),
        },
    };
    let pid = lock(&agent.spawner)
        .spawn(&program)
        .map_err(|error| explain(error, name, &workdir))?;
    let (leader, exited) = agent.reaper.expect(pid);
    Ok(Child {
        pid,
        tree: Tree { leader, mark },
        exited,
        input: streams.input,
        outputs: streams.outputs,
    })
}

/// Who runs it.
fn account(agent: &Agent, exec: &Exec) -> Result<Account, Failure> {
    let configured = || lock(&agent.configure).user.clone();
    let wanted = exec.user.clone().or_else(configured);
    let mut users = lock(&agent.users);
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

/// The defaults, the sandbox's own variables over them, the command's over those.
fn environment(agent: &Agent, exec: &Exec, account: &Account) -> BTreeMap<String, String> {
    let name = account.name.as_deref().unwrap_or("user");
    let home = account.home.as_deref().unwrap_or("/home/user");
    // Without isolation there is no /home of the sandbox's own, only one below its directory.
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
    environment.extend(lock(&agent.configure).env.clone());
    environment.extend(exec.env.clone());
    environment
}

/// Paths that may be the program, in the order of the search.
fn candidates(name: &str, path: &str) -> Result<Vec<CString>, Failure> {
    if name.contains('/') {
        return strings([name.to_owned()].into_iter());
    }
    strings(path.split(':').map(|directory| match directory {
        "" => format!("./{name}"),
        directory => format!("{}/{name}", directory.trim_end_matches('/')),
    }))
}

fn strings(all: impl Iterator<Item = String>) -> Result<Vec<CString>, Failure> {
    all.map(CString::new)
        .collect::<Result<_, _>>()
        .map_err(|_| {
            failure(
                Code::Invalid,
                "arguments and variables may not hold a zero byte",
            )
        })
}

/// The directory as asked for, absolute.
fn workdir(agent: &Agent, exec: &Exec) -> String {
    let default = || lock(&agent.configure).workdir.clone();
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
    match filled(exec.workdir.clone()).or_else(|| filled(default())) {
        None => WORKSPACE.to_owned(),
        Some(path) if path.starts_with('/') => path,
        Some(path) => format!("{WORKSPACE}/{path}"),
    }
}

/// A directory to start in.
enum Place {
    Path(CString),
    Open(OwnedFd),
}

impl Place {
    fn find(agent: &Agent, workdir: &str) -> Result<Self, NotStarted> {
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
            .map_err(|errno| no_workdir(errno, workdir).into())
    }

    fn directory(&self) -> Directory<'_> {
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

fn no_workdir(errno: Errno, workdir: &str) -> Failure {
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

fn pipes(agent: &Agent, number: u64, stdin: bool) -> io::Result<Streams> {
    let (input, their_input) = if stdin {
        let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::fs::fcntl_setfl(&ours, OFlags::NONBLOCK)?;
        let ours = pipe::Sender::from_owned_fd_unchecked(ours)?;
        (Input::Pipe(Feed::new(ours)), theirs)
    } else {
        (Input::None, agent.null.try_clone()?)
    };
    let output = |channel: u8| -> io::Result<_> {
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::fs::fcntl_setfl(&ours, OFlags::NONBLOCK)?;
        let ours = pipe::Receiver::from_owned_fd_unchecked(ours)?;
        let output = Output::new(ours, channel, lane(number, channel), false);
        Ok((output, theirs))
    };
    let (stdout, their_stdout) = output(DATA)?;
    let (stderr, their_stderr) = output(STDERR)?;
    Ok(Streams {
        theirs: [their_input, their_stdout, their_stderr],
        input,
        outputs: [Some(stdout), Some(stderr)],
    })
}

fn terminal(
    agent: &Agent,
    number: u64,
    size: TerminalSize,
    account: &Account,
) -> io::Result<Streams> {
    // The kernel gives the terminal to whoever opens it: that must be the command's user.
    let switch = agent.can_switch && account.uid != agent.uid;
    if switch {
        stacyvm_sys::signals::set_file_ids(account.uid, account.gid);
    }
    let opened = pty::open(size);
    if switch {
        stacyvm_sys::signals::set_file_ids(agent.uid, agent.gid);
    }
    let (ours, theirs) = opened?;
    // The runtime watches any readable descriptor as if it were a pipe; each direction has a copy.
    let write = pipe::Sender::from_owned_fd_unchecked(ours.try_clone()?)?;
    let read = pipe::Receiver::from_owned_fd_unchecked(ours)?;
    Ok(Streams {
        theirs: [theirs.try_clone()?, theirs.try_clone()?, theirs],
        input: Input::Terminal(Feed::new(write)),
        outputs: [
            Some(Output::new(read, DATA, lane(number, DATA), true)),
            None,
        ],
    })
}

/// The log's name for one stream of one command.
fn lane(number: u64, channel: u8) -> u64 {
    number << 2 | u64::from(channel)
}

fn out_of(error: &io::Error) -> Failure {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOSPC) => {
            failure(Code::Limit, "the sandbox may have no more open files")
        }
        Some(Errno::NOENT) => failure(Code::Unsupported, "the sandbox has no terminals"),
        _ => failure(
            Code::Failed,
            format!("prepare the streams: {}", error.kind()),
        ),
    }
}

/// What a failed start means.
fn explain(error: SpawnError, name: &str, workdir: &str) -> NotStarted {
    match (error.step, error.errno) {
        (Step::Clone, Errno::AGAIN) => {
            failure(Code::Limit, "the sandbox may have no more processes").into()
        }
        (_, Errno::NOMEM) => failure(Code::Limit, "the sandbox is out of memory").into(),
        (Step::Directory, errno) => no_workdir(errno, workdir).into(),
        (Step::Execute, Errno::TOOBIG) => failure(
            Code::Invalid,
            "the arguments and variables are larger than the kernel takes",
        )
        .into(),
        (Step::Execute, Errno::NOENT | Errno::NOTDIR) => NotStarted::NoProgram {
            exit_code: 127,
            message: format!("stacyvm: {name}: not found\n"),
        },
        (Step::Execute, Errno::ACCESS | Errno::PERM | Errno::ISDIR) => NotStarted::NoProgram {
            exit_code: 126,
            message: format!("stacyvm: {name}: permission denied\n"),
        },
        (Step::Execute, Errno::NOEXEC) => NotStarted::NoProgram {
            exit_code: 126,
            message: format!("stacyvm: {name}: not a program\n"),
        },
        (Step::Execute, errno) => NotStarted::NoProgram {
            exit_code: 126,
            message: format!("stacyvm: {name}: {}\n", io::Error::from(errno).kind()),
        },
        (step, errno) => failure(
            Code::Failed,
            format!(
                "start the command: {step:?}: {}",
                io::Error::from(errno).kind()
            ),
        )
        .into(),
    }
}
