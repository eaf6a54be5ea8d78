//! The state of one agent, which all requests share.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use rustix::thread::CapabilitySet;
use stacyvm_proto::message::Configure;
use stacyvm_sys::spawn::Spawner;
use tokio::sync::Notify;

use crate::blocking::Blocking;
use crate::exec::table::ExecTable;
use crate::files::FileService;
use crate::logs::Logs;
use crate::options::AgentOptions;
use crate::preparation;
use crate::read_buffer::ReadBuffer;
use crate::reaper::Reaper;
use crate::users::Users;

/// The smallest mark of a command, far above any value that a program sets as its limit of locks.
const MIN_MARK: u64 = 1 << 62;

/// The descriptors over which peers connect.
#[derive(Debug)]
pub(crate) struct PeerSockets {
    pub(crate) listener: Option<OwnedFd>,
    pub(crate) stdio: Option<[OwnedFd; 2]>,
}

/// One agent.
#[derive(Debug)]
pub(crate) struct Agent {
    /// The sandbox's `/`.
    pub(crate) root: OwnedFd,
    /// The path of that directory, unless it really is `/`.
    pub(crate) root_path: Option<PathBuf>,
    pub(crate) init: bool,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Whether commands can be given another identity than the agent's own.
    pub(crate) can_switch: bool,
    /// The capabilities of a command that runs as user 0.
    pub(crate) root_capabilities: CapabilitySet,
    /// `/dev/null`, for commands without input.
    pub(crate) null: OwnedFd,
    pub(crate) files: FileService,
    pub(crate) blocking: Blocking,
    pub(crate) reaper: Reaper,
    pub(crate) spawner: Mutex<Spawner>,
    pub(crate) users: Mutex<Users>,
    pub(crate) logs: Mutex<Logs>,
    pub(crate) execs: ExecTable,
    /// The sandbox's defaults for commands.
    pub(crate) defaults: Mutex<Configure>,
    pub(crate) read_buffer: ReadBuffer,
    /// Whether every process is being ended.
    pub(crate) ending: AtomicBool,
    /// Notified when the agent may exit.
    pub(crate) ended: Notify,
    memory_events: Option<OwnedFd>,
    /// Makes the marks of this agent differ from those of other agents.
    salt: u64,
    next_exec: AtomicU64,
}

impl Agent {
    /// Makes an agent of its options. The descriptors for peers are returned beside it.
    pub(crate) fn new(options: AgentOptions) -> io::Result<(Arc<Self>, PeerSockets)> {
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&options.root, directory, Mode::empty())?;
        let root_capabilities = if options.prepare {
            preparation::prepare(root.as_fd(), &options)?
        } else {
            CapabilitySet::empty()
        };
        let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let able = rustix::thread::capabilities(None).is_ok_and(|sets| {
            sets.effective
                .contains(CapabilitySet::SETUID | CapabilitySet::SETGID)
        });
        // Without a pid namespace of its own, the agent sees processes that other agents marked.
        let mut salt = [0; 4];
        if !options.init {
            rustix::rand::getrandom(&mut salt, rustix::rand::GetRandomFlags::empty())?;
        }
        let agent = Self {
            files: FileService::new(root.as_fd().try_clone_to_owned()?),
            root,
            root_path: (options.root != *"/").then_some(options.root),
            init: options.init,
            uid: options.uid,
            gid: options.gid,
            can_switch: able,
            root_capabilities,
            null,
            blocking: Blocking::default(),
            reaper: Reaper::default(),
            spawner: Mutex::default(),
            users: Mutex::default(),
            logs: Mutex::default(),
            execs: ExecTable::default(),
            defaults: Mutex::default(),
            read_buffer: ReadBuffer::default(),
            ending: AtomicBool::new(false),
            ended: Notify::new(),
            memory_events: options.memory_events,
            salt: u64::from(u32::from_ne_bytes(salt) >> 3),
            next_exec: AtomicU64::new(0),
        };
        let sockets = PeerSockets {
            listener: options.listener,
            stdio: options.stdio,
        };
        Ok((Arc::new(agent), sockets))
    }

    /// Returns the number of a new command.
    pub(crate) fn next_exec(&self) -> u64 {
        self.next_exec.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The mark of a command's process tree: unique among all agents that can see each other's processes.
    pub(crate) fn mark(&self, exec: u64) -> u64 {
        MIN_MARK | self.salt << 32 | (exec & 0xffff_ffff)
    }

    /// How many processes the memory limit has killed so far.
    pub(crate) fn oom_kills(&self) -> u64 {
        let mut buffer = [0; 512];
        let Some(events) = &self.memory_events else {
            return 0;
        };
        let Ok(count) = rustix::io::pread(events, &mut buffer, 0) else {
            return 0;
        };
        let text = String::from_utf8_lossy(&buffer[..count]);
        text.lines()
            .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
            .unwrap_or(0)
    }

    /// Whether every process is being ended.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }
}
