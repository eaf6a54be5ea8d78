//! From a request to a process: program, arguments, streams.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::WaitStatus;
use rustix::thread::CapabilitySet;
use stacyvm_proto::message::{Code, Exec, Failure, TerminalSize};
use stacyvm_proto::{DATA, STDERR};
use stacyvm_sys::spawn::{Identity, Program, SpawnError, Step};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use super::environment::{PATH, WorkingDirectory, account, environment, no_workdir, workdir};
use super::input::{Input, InputQueue};
use super::output::Output;
use crate::agent::Agent;
use crate::processes;
use crate::pty;
use crate::replies::failure;
use crate::tree::Tree;
use crate::users::Account;

/// The OOM score of commands: the kernel kills them before the agent when memory is short.
const OOM_SCORE: &std::ffi::CStr = c"500";

/// A command that has been started.
pub(super) struct Child {
    pub(super) pid: i32,
    pub(super) tree: Tree,
    pub(super) exited: oneshot::Receiver<WaitStatus>,
    pub(super) input: Input,
    pub(super) outputs: [Option<Output>; 2],
}

/// Why a command was not started.
pub(super) enum NotStarted {
    /// The request itself failed.
    Refused(Failure),
    /// The program does not exist or cannot be run. The values are those of a shell.
    NoProgram { exit_code: i32, message: String },
}

impl From<Failure> for NotStarted {
    fn from(refused: Failure) -> Self {
        Self::Refused(refused)
    }
}

/// The streams of a command that is about to start: its ends, and the agent's.
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
    let directory = WorkingDirectory::find(agent, &workdir)?;
    let streams = match exec.tty {
        Some(size) => terminal(agent, number, size, &account),
        None => pipes(agent, number, exec.stdin),
    }
    .map_err(|error| streams_failed(&error))?;
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
        directory: directory.as_directory(),
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
    let pid = agent
        .spawner
        .lock()
        .spawn(&program)
        .map_err(|error| start_failed(error, name, &workdir))?;
    let (leader, exited) = agent.reaper.expect(pid);
    Ok(Child {
        pid,
        tree: Tree { leader, mark },
        exited,
        input: streams.input,
        outputs: streams.outputs,
    })
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

fn pipes(agent: &Agent, number: u64, stdin: bool) -> io::Result<Streams> {
    let (input, their_input) = if stdin {
        let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::fs::fcntl_setfl(&ours, OFlags::NONBLOCK)?;
        let ours = pipe::Sender::from_owned_fd_unchecked(ours)?;
        (Input::Pipe(InputQueue::new(ours)), theirs)
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
    // A terminal belongs to the user that opens it, which must be the command's user.
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
        input: Input::Terminal(InputQueue::new(write)),
        outputs: [
            Some(Output::new(read, DATA, lane(number, DATA), true)),
            None,
        ],
    })
}

/// The lane of one stream of one command in the log.
fn lane(number: u64, channel: u8) -> u64 {
    number << 2 | u64::from(channel)
}

fn streams_failed(error: &io::Error) -> Failure {
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

/// The failure that a failed start means.
fn start_failed(error: SpawnError, name: &str, workdir: &str) -> NotStarted {
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
