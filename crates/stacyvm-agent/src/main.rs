//! `stacyvm-agent` as a program of its own: reads its flags and runs the library.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::process::{getegid, geteuid};
use stacyvm_agent::{AgentOptions, Capabilities, run};

const USAGE: &str = "\
usage: stacyvm-agent [--socket PATH | --listen-fd N] [--stdio] [options]
  --socket PATH     make a unix socket there and listen on it
  --listen-fd N     serve on the inherited listening unix socket N
  --stdio           serve on standard input and output, one peer at a time
  --root DIR        the directory that is the sandbox's / (default /)
  --uid N, --gid N  the sandbox's user and group (default: its own)
  --user USER       the same by name, as the root's account files have it: user, uid,
                    user:group or uid:gid; exits with 3 when they have no such user
  --memory-events FILE
                    the sandbox's memory.events (cgroup v2) or memory.oom_control (v1)
  --prepare         make the workspace and the user, then give up what only that needs;
                    --memory-events is then looked for where containers have it
  --root-caps HEX   capabilities of commands that run as root, a bit each (default none);
                    only with --prepare
  --init            do the duties of a pid namespace's first process
  --version         print the version
";

/// The exit code when the user of `--user` does not exist.
const NO_SUCH_USER: u8 = 3;

/// The memory events of a container as its own processes see them, in both versions of cgroups. The
/// path outside is not known before the container starts.
const OWN_MEMORY_EVENTS: [&str; 2] = [
    "/sys/fs/cgroup/memory.events",
    "/sys/fs/cgroup/memory/memory.oom_control",
];

/// What the command line asks for.
enum Invocation {
    Run(AgentOptions),
    /// A text has been printed; nothing else is to be done.
    Printed,
    /// `--user` names a user that does not exist.
    NoSuchUser(String),
}

fn main() -> ExitCode {
    match parse(std::env::args_os().skip(1)) {
        Ok(Invocation::Run(options)) => run(options),
        Ok(Invocation::Printed) => ExitCode::SUCCESS,
        Ok(Invocation::NoSuchUser(user)) => {
            eprintln!("stacyvm-agent: user {user:?} does not exist");
            ExitCode::from(NO_SUCH_USER)
        }
        Err(message) => {
            eprintln!("stacyvm-agent: {message}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// Reads the command line.
fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Invocation, String> {
    let mut listener = None;
    let mut stdio = None;
    let mut prepare = false;
    let mut root_capabilities = None;
    let mut root = PathBuf::from("/");
    let mut init = false;
    let mut memory_events = None;
    let mut user = None;
    let (mut uid, mut gid) = (geteuid().as_raw(), getegid().as_raw());
    while let Some(flag) = arguments.next() {
        let flag = flag.to_string_lossy().into_owned();
        let mut value = || arguments.next().ok_or(format!("{flag} wants a value"));
        match flag.as_str() {
            "--socket" => listener = Some(listen(Path::new(&value()?))?),
            "--listen-fd" => listener = Some(inherited(number(&flag, &value()?)?)?),
            "--stdio" => stdio = Some([inherited(0)?, inherited(1)?]),
            "--prepare" => prepare = true,
            "--root-caps" => root_capabilities = Some(capabilities(&value()?)?),
            "--root" => root = value()?.into(),
            "--uid" => uid = number(&flag, &value()?)?,
            "--gid" => gid = number(&flag, &value()?)?,
            "--user" => user = Some(value()?.to_string_lossy().into_owned()),
            "--memory-events" => memory_events = Some(open(Path::new(&value()?))?),
            "--init" => init = true,
            "--version" => {
                println!("stacyvm-agent {}", env!("CARGO_PKG_VERSION"));
                return Ok(Invocation::Printed);
            }
            "--help" => {
                print!("{USAGE}");
                return Ok(Invocation::Printed);
            }
            _ => return Err(format!("unknown option {flag}")),
        }
    }
    if listener.is_none() && stdio.is_none() {
        return Err("say where to listen: --socket PATH, --listen-fd N or --stdio".to_owned());
    }
    if root_capabilities.is_some() && !prepare {
        return Err("--root-caps wants --prepare".to_owned());
    }
    if prepare && memory_events.is_none() {
        memory_events = OWN_MEMORY_EVENTS
            .iter()
            .find_map(|path| open(Path::new(path)).ok());
    }
    if let Some(user) = user {
        match stacyvm_agent::user_numbers(&root, &user) {
            Some(numbers) => (uid, gid) = numbers,
            None => return Ok(Invocation::NoSuchUser(user)),
        }
    }
    Ok(Invocation::Run(AgentOptions {
        listener,
        stdio,
        prepare,
        root_capabilities: root_capabilities.unwrap_or(Capabilities::empty()),
        root,
        init,
        uid,
        gid,
        memory_events,
    }))
}

fn number(flag: &str, text: &OsString) -> Result<u32, String> {
    let number = text.to_str().and_then(|text| text.parse().ok());
    number.ok_or(format!("{flag} wants a number"))
}

/// Parses a set of capabilities. Bits that no capability has are ignored.
fn capabilities(text: &OsString) -> Result<Capabilities, String> {
    let bits = text
        .to_str()
        .and_then(|text| u64::from_str_radix(text, 16).ok());
    bits.map(Capabilities::from_bits_truncate)
        .ok_or_else(|| "--root-caps wants a hexadecimal number".to_owned())
}

fn listen(path: &Path) -> Result<OwnedFd, String> {
    let listener =
        UnixListener::bind(path).map_err(|error| format!("listen on the socket: {error}"))?;
    Ok(listener.into())
}

fn open(path: &Path) -> Result<OwnedFd, String> {
    let file = File::open(path).map_err(|error| format!("open the memory events: {error}"))?;
    Ok(file.into())
}

/// Copies an inherited descriptor. The original stays open and is marked close-on-exec, so that no
/// command inherits it.
fn inherited(number: u32) -> Result<OwnedFd, String> {
    stacyvm_sys::spawn::inherited(number)
        .map_err(|error| format!("take over descriptor {number}: {error}"))
}
