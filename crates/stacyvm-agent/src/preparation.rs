//! A root that somebody else made becomes a sandbox's: workspace, user, home; then fewer rights.
//!
//! For an agent that starts as root in a container. Its rule: the image is hostile. Paths are
//! resolved inside the root, what is found is looked at before anything is changed, and nothing of
//! the kernel's or of our own is given away, wherever a link leads. What a read-only root does not
//! take is left out; only the rights that stay are no matter of luck.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fchmod, fchown, fstat, mkdirat, openat};
use rustix::io::{Errno, Result};
use rustix::process::{DumpableBehavior, Gid, Uid, set_dumpable_behavior};
use stacyvm_sys::caps::{self, Set};
use stacyvm_sys::resolve;

use crate::AgentOptions;
use crate::users::{LONGEST, Users};

/// Where commands start.
const WORKSPACE: &str = "workspace";
/// Where everybody may write, and what that is as a mode.
const TEMPORARY: &str = "tmp";
const FOR_EVERYBODY: u32 = 0o1777;
/// Where a user without a home of its own lives.
const HOME: &str = "home/user";
/// Names for a user that no line names; the first that is free.
const NAMES: [&str; 2] = ["user", "sandbox"];
/// Directories that are never given to the sandbox's user.
const NOT_OURS_TO_GIVE: [&str; 4] = ["/.stacyvm", "/dev", "/proc", "/sys"];

/// Makes what is missing, then keeps only what running, ending and serving commands needs. The
/// answer is what commands that run as user 0 may have.
///
/// # Errors
/// When the rights cannot be given up.
pub(crate) fn prepare(root: BorrowedFd<'_>, options: &AgentOptions) -> io::Result<Set> {
    let place = Place {
        root,
        uid: options.uid,
        gid: options.gid,
    };
    // The sandbox lives without any of them, with less comfort.
    for (what, done) in [
        ("the workspace", place.workspace()),
        ("the temporary directory", place.temporary()),
        ("the group", place.group()),
        ("the user", place.user()),
        ("the home", place.home()),
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

struct Place<'a> {
    root: BorrowedFd<'a>,
    uid: u32,
    gid: u32,
}

impl Place<'_> {
    fn open(&self, path: &str, flags: OFlags) -> Result<OwnedFd> {
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        resolve::open(self.root, path, flags, how)
    }

    fn workspace(&self) -> Result<()> {
        self.directory(WORKSPACE)?;
        let directory = self.open(WORKSPACE, OFlags::RDONLY | OFlags::DIRECTORY)?;
        self.give(&directory)
    }

    /// Opens `/tmp` to everybody. A runtime may give a file system that it mounts there the mode of
    /// the image's directory (runc 1.1 does), whatever mode it was told.
    fn temporary(&self) -> Result<()> {
        self.directory(TEMPORARY)?;
        let directory = self.open(TEMPORARY, OFlags::RDONLY | OFlags::DIRECTORY)?;
        if fstat(&directory)?.st_mode & FOR_EVERYBODY == FOR_EVERYBODY {
            return Ok(());
        }
        may_be_changed(&directory)?;
        fchmod(&directory, Mode::from_raw_mode(FOR_EVERYBODY))
    }

    /// Makes one directory, unless it is there, also through links.
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
        may_be_changed(directory)?;
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

    /// Opens an account file, which is made where there is none.
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
        // One that is longer than is ever read gains nothing by another line.
        let read = (&mut file).take(LONGEST).read_to_end(&mut bytes);
        read.map_err(|error| errno_of(&error))?;
        if bytes.len() as u64 == LONGEST {
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
    /// Adds a line in one write, after a whole one.
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

/// Refuses a directory that no image brings, whatever led to it.
fn may_be_changed(directory: &OwnedFd) -> Result<()> {
    let own = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let path = rustix::fs::readlink(own, Vec::new())?;
    if may_be_given(&path.to_string_lossy()) {
        Ok(())
    } else {
        Err(Errno::PERM)
    }
}

/// Whether a directory at this path is one that an image may bring.
fn may_be_given(path: &str) -> bool {
    path != "/"
        && path.starts_with('/')
        && !NOT_OURS_TO_GIVE.iter().any(|kept| {
            let below = path.strip_prefix(kept);
            below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
}

/// A name for `number` in an account file, where both kinds have it third; none when a line has the
/// number, or every name is taken.
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
