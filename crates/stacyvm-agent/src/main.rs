//! `stacyvm-agent` as a program of its own: reads its flags and runs the library.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::process::{getegid, geteuid};
use stacyvm_agent::{AgentOptions, run};

const USAGE: &str = "\
usage: stacyvm-agent (--socket PATH | --listen-fd N) [options]
  --socket PATH     make a unix socket there and listen on it
  --listen-fd N     serve on the inherited listening unix socket N
  --root DIR        the directory that is the sandbox's / (default /)
  --uid N, --gid N  the sandbox's user and group (default: its own)
  --memory-events FILE
                    the sandbox's memory.events (cgroup v2) or memory.oom_control (v1)
  --init            do the duties of a pid namespace's first process
  --version         print the version
";

fn main() -> ExitCode {
    match parse(std::env::args_os().skip(1)) {
        Ok(Some(options)) => run(options),
        Ok(None) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("stacyvm-agent: {message}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// Reads the command line; none when it asked for something that has been printed.
fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Option<AgentOptions>, String> {
    let mut listener = None;
    let mut root = PathBuf::from("/");
    let mut init = false;
    let mut memory_events = None;
    let (mut uid, mut gid) = (geteuid().as_raw(), getegid().as_raw());
    while let Some(flag) = arguments.next() {
        let flag = flag.to_string_lossy().into_owned();
        let mut value = || arguments.next().ok_or(format!("{flag} wants a value"));
        match flag.as_str() {
            "--socket" => listener = Some(listen(Path::new(&value()?))?),
            "--listen-fd" => listener = Some(inherited(number(&flag, &value()?)?)?),
            "--root" => root = value()?.into(),
            "--uid" => uid = number(&flag, &value()?)?,
            "--gid" => gid = number(&flag, &value()?)?,
            "--memory-events" => memory_events = Some(open(Path::new(&value()?))?),
            "--init" => init = true,
            "--version" => {
                println!("stacyvm-agent {}", env!("CARGO_PKG_VERSION"));
                return Ok(None);
            }
            "--help" => {
                print!("{USAGE}");
                return Ok(None);
            }
            _ => return Err(format!("unknown option {flag}")),
        }
    }
    let listener = listener.ok_or("say where to listen: --socket PATH or --listen-fd N")?;
    Ok(Some(AgentOptions {
        listener,
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

fn listen(path: &Path) -> Result<OwnedFd, String> {
    let listener =
        UnixListener::bind(path).map_err(|error| format!("listen on the socket: {error}"))?;
    Ok(listener.into())
}

fn open(path: &Path) -> Result<OwnedFd, String> {
    let file = File::open(path).map_err(|error| format!("open the memory events: {error}"))?;
    Ok(file.into())
}

/// A copy of an inherited descriptor; the original stays open and marked close-on-exec, so that no
/// command inherits it.
fn inherited(number: u32) -> Result<OwnedFd, String> {
    stacyvm_sys::spawn::inherited(number)
        .map_err(|error| format!("take over descriptor {number}: {error}"))
}
