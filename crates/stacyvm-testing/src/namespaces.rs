//! Network and mount namespaces of a test's own, so that no test touches those of the machine.
//!
//! Making one needs the program `unshare`, and root where its function does not say otherwise.

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::thread::move_into_link_name_space;

use crate::{is_root, wait_until};

/// A network namespace. It ends with this value and the last process in it.
#[derive(Debug)]
pub struct NetworkNamespace(OwnedFd);

impl NetworkNamespace {
    /// Makes one, with nothing in it that is up.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn make() -> Self {
        let mut holder = Command::new("unshare")
            .args(["--net", "sleep", "600"])
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare starts");
        let path = format!("/proc/{}/ns/net", holder.id());
        let own = std::fs::read_link("/proc/thread-self/ns/net").expect("/proc is mounted");
        wait_until("a network namespace is made", || {
            std::fs::read_link(&path).is_ok_and(|made| made != own)
        });
        let file = File::open(path);
        // From here on the descriptor holds it.
        holder.kill().expect("the holder is a child");
        holder.wait().expect("the holder is a child");
        Self(file.expect("the holder was there").into())
    }

    /// The namespace that a file names, like `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: impl AsRef<Path>) -> std::io::Result<Self> {
        Ok(Self(File::open(path)?.into()))
    }

    /// The file that names it, as long as this process and this value live.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// A program that runs in it.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path()));
        command.args(["--", program]);
        command
    }

    /// Runs a function on a thread inside; sockets that it makes stay there wherever they are used.
    ///
    /// # Panics
    /// When `body` panics.
    pub fn inside<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(self.0.as_fd(), None).expect("root may enter");
                body()
            });
            match thread.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Moves the calling thread in until the returned value is dropped.
    ///
    /// # Panics
    /// When the thread may not move.
    #[must_use]
    pub fn enter(&self) -> Entered {
        let home = File::open("/proc/thread-self/ns/net").expect("/proc is mounted");
        move_into_link_name_space(self.0.as_fd(), None).expect("root may enter");
        Entered { home: home.into() }
    }
}

/// A thread's stay in a network namespace.
#[derive(Debug)]
pub struct Entered {
    home: OwnedFd,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let _ = move_into_link_name_space(self.home.as_fd(), None);
    }
}

/// A command that runs its arguments in a mount namespace of its own, in which `directory` is a file
/// system of so many bytes. Its exit code is 77 where that cannot be mounted. Without root it needs
/// user namespaces.
#[must_use]
pub fn on_small_disk(directory: &Path, bytes: u64) -> Command {
    let mut command = Command::new("unshare");
    command.arg("--mount");
    if !is_root() {
        command.arg("--map-root-user");
    }
    command
        .args(["sh", "-c"])
        .arg("mount -t tmpfs -o size=$1,mode=0700 tmpfs \"$0\" || exit 77; shift; exec \"$@\"")
        .arg(directory)
        .arg(bytes.to_string());
    command
}
