//! Makes a sandbox of the root of a container: workspace, user, home; then drops capabilities.
//!
//! This is for an agent that starts as root in a container. The rule: the image is hostile. Paths are
//! resolved inside the root, every file is examined before it is changed, and no directory of the
//! kernel or of the agent gets a new owner, wherever a link leads. A read-only root keeps the agent
//! from making files, which is no error; failing to drop capabilities is one.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fchmod, fchown, fstat, mkdirat, openat};
use rustix::io::{Errno, Result};
use rustix::process::{DumpableBehavior, Gid, Uid, set_dumpable_behavior};
use stacyvm_sys::caps::{self, Set};
use stacyvm_sys::resolve;

use crate::options::AgentOptions;
use crate::users::{MAX_ACCOUNT_FILE, Users};

/// Where commands start.
const WORKSPACE: &str = "workspace";
/// The directory in which every user may write.
const TEMPORARY: &str = "tmp";
/// The mode of that directory.
const TEMPORARY_MODE: u32 = 0o1777;
/// The home of a user that has no other.
const HOME: &str = "home/user";
/// Names for a user that the account files do not name; the first free one is taken.
const NAMES: [&str; 2] = ["user", "sandbox"];
/// Directories whose owner and mode are never changed.
const PROTECTED: [&str; 4] = ["/.stacyvm", "/dev", "/proc", "/sys"];

/// Makes what is missing, then keeps only the capabilities for running and ending commands. Returns
/// the capabilities that commands of user 0 may have.
///
/// # Errors
/// When the capabilities cannot be dropped.
pub(crate) fn prepare(root: BorrowedFd<'_>, options: &AgentOptions) -> io::Result<Set> {
    let preparation = Preparation {
        root,
        uid: options.uid,
        gid: options.gid,
    };
    // The sandbox works without any of them, less comfortably.
    for (what, done) in [
        ("the workspace", preparation.workspace()),
        ("the temporary directory", preparation.temporary()),
        ("the group", preparation.group()),
        ("the user", preparation.user()),
        ("the home", preparation.home()),
    ] {
        match done {
            Ok(()) | Err(Errno::ROFS) => {}
            Err(errno) => {
                let kind = io::Error::from(errno).kind();
                eprintln!("stacyvm-agent: prepare {what}: {kind}");
            }
        }
    }
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let own = Set::SETUID | Set::SETGID | Set::KILL;
    Ok(caps::confine_to(own, options.root_capabilities)?)
}

/// The root that is prepared, and the sandbox's user.
struct Preparation<'a> {
    root: BorrowedFd<'a>,
    uid: u32,
    gid: u32,
}

impl Preparation<'_> {
    fn open(&self, path: &str, flags: OFlags) -> Result<OwnedFd> {
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        resolve::open(self.root, path, flags, how)
    }

    fn workspace(&self) -> Result<()> {
        self.directory(WORKSPACE)?;
        let directory = self.open(WORKSPACE, OFlags::RDONLY | OFlags::DIRECTORY)?;
        self.give(&directory)
    }

    /// Lets every user write to `/tmp`. A runtime may give a file system that it mounts there the mode of
    /// the image's directory (runc 1.1 does), whatever mode it was told.
    fn temporary(&self) -> Result<()> {
        self.directory(TEMPORARY)?;
        let directory = self.open(TEMPORARY, OFlags::RDONLY | OFlags::DIRECTORY)?;
        if fstat(&directory)?.st_mode & TEMPORARY_MODE == TEMPORARY_MODE {
            return Ok(());
        }
        check_unprotected(&directory)?;
        fchmod(&directory, Mode::from_raw_mode(TEMPORARY_MODE))
    }

    /// Makes one directory unless it exists. Links on its path are followed.
    fn directory(&self, path: &str) -> Result<()> {
        match self.open(path, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => {}
            other => return other.map(drop),
        }
        let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
        let parent = self.open(parent, OFlags::PATH | OFlags::DIRECTORY)?;
        mkdirat(&parent, name, Mode::from_raw_mode(0o755))
    }

    /// Makes the sandbox's user the owner of a directory.
    fn give(&self, directory: &OwnedFd) -> Result<()> {
        let stat = fstat(directory)?;
        if (stat.st_uid, stat.st_gid) == (self.uid, self.gid) {
            return Ok(());
        }
        check_unprotected(directory)?;
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        fchown(directory, Some(uid), Some(gid))
    }

    fn user(&self) -> Result<()> {
        let passwd = self.account_file("etc/passwd")?;
        let Some(name) = free_name(&passwd.text, self.uid) else {
            return Ok(());
        };
        let (uid, gid) = (self.uid, self.gid);
        passwd.append(&format!("{name}:x:{uid}:{gid}::/{HOME}:/bin/sh\n"))
    }

    fn group(&self) -> Result<()> {
        let group = self.account_file("etc/group")?;
        let Some(name) = free_name(&group.text, self.gid) else {
            return Ok(());
        };
        group.append(&format!("{name}:x:{}:\n", self.gid))
    }

    /// Opens an account file, and makes it if it is missing.
    fn account_file(&self, path: &str) -> Result<AccountFile> {
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match self.open(path, flags) {
            Err(Errno::NOENT) => {
                let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
                self.directory(parent)?;
                let parent = self.open(parent, OFlags::PATH | OFlags::DIRECTORY)?;
                let new = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                openat(&parent, name, flags | new, Mode::from_raw_mode(0o644))?
            }
            other => other?,
        };
        let stat = fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Errno::INVAL);
        }
        let mut file = File::from(file);
        let mut bytes = Vec::new();
        // A line after the part that is read would have no effect.
        let read = (&mut file).take(MAX_ACCOUNT_FILE).read_to_end(&mut bytes);
        read.map_err(|error| errno_of(&error))?;
        if bytes.len() as u64 == MAX_ACCOUNT_FILE {
            return Err(Errno::FBIG);
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(AccountFile { file, text })
    }

    /// The user's home, if it is missing and its parent is there.
    fn home(&self) -> Result<()> {
        let account = Users::default().of_number(self.root, self.uid, self.gid);
        let home = account.home.unwrap_or_else(|| format!("/{HOME}"));
        let home = home.trim_matches('/');
        if home.is_empty() || self.open(home, OFlags::PATH).is_ok() {
            return Ok(());
        }
        if let Some((parent, _)) = home.rsplit_once('/') {
            self.directory(parent)?;
        }
        self.directory(home)?;
        self.give(&self.open(home, OFlags::RDONLY | OFlags::DIRECTORY)?)
    }
}

struct AccountFile {
    file: File,
    text: String,
}

impl AccountFile {
    /// Appends a line in one write, and ends an unfinished line before it.
    fn append(mut self, line: &str) -> Result<()> {
        let whole = self.text.is_empty() || self.text.ends_with('\n');
        let line = format!("{}{line}", if whole { "" } else { "\n" });
        let written = self.file.write_all(line.as_bytes());
        written.map_err(|error| errno_of(&error))
    }
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// Refuses a directory whose real path is protected.
fn check_unprotected(directory: &OwnedFd) -> Result<()> {
    let own = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let path = rustix::fs::readlink(own, Vec::new())?;
    if is_unprotected(&path.to_string_lossy()) {
        Ok(())
    } else {
        Err(Errno::PERM)
    }
}

/// Whether a directory at this path may get another owner or mode.
fn is_unprotected(path: &str) -> bool {
    path != "/"
        && path.starts_with('/')
        && !PROTECTED.iter().any(|directory| {
            let below = path.strip_prefix(directory);
            below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
}

/// A free name for `number` in the text of a passwd(5) or group(5) file, which both have the number
/// in the third field. None when a line has the number, or every name is taken.
fn free_name(text: &str, number: u32) -> Option<&'static str> {
    let fields = |line: &str| -> (String, Option<u32>) {
        let mut fields = line.split(':');
        let name = fields.next().unwrap_or_default().to_owned();
        (name, fields.nth(1).and_then(|it| it.parse().ok()))
    };
    let lines: Vec<_> = text.lines().map(fields).collect();
    if lines.iter().any(|(_, found)| *found == Some(number)) {
        return None;
    }
    let free = |name: &&str| !lines.iter().any(|(taken, _)| taken == name);
    NAMES.into_iter().find(free)
}

#[cfg(test)]
mod tests;
