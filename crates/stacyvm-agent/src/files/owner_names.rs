//! Names of owners and groups, as the sandbox's own `/etc/passwd` and `/etc/group` say.
//!
//! Owns a cache of both, refreshed when a file's identity, size or time changes. Never asks the
//! name service: static glibc would load foreign modules.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FileType, OFlags, Stat};

use super::root::Root;

/// The longest file that is read, in bytes; what comes after is not looked at.
const LONGEST: u64 = 1024 * 1024;

#[derive(Debug, Default)]
pub(super) struct Names {
    users: Mutex<Table>,
    groups: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    seen: Option<Stamp>,
    names: HashMap<u32, String>,
}

/// What changes when a file does: device, inode, size, seconds and nanoseconds of its time.
type Stamp = (u64, u64, i64, i64, u64);

impl Names {
    /// The name of user `uid`, or its number.
    pub(super) fn user(&self, root: &Root, uid: u32) -> String {
        look_up(&self.users, root, "etc/passwd", uid)
    }

    /// The name of group `gid`, or its number.
    pub(super) fn group(&self, root: &Root, gid: u32) -> String {
        look_up(&self.groups, root, "etc/group", gid)
    }

    /// Looks whether the files have changed. Done once an operation, not once a file.
    pub(super) fn refresh(&self, root: &Root) {
        refresh(&self.users, root, "etc/passwd");
        refresh(&self.groups, root, "etc/group");
    }
}

fn look_up(table: &Mutex<Table>, root: &Root, path: &str, id: u32) -> String {
    let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
    if table.seen.is_none() {
        table.reload(root, path);
    }
    table
        .names
        .get(&id)
        .cloned()
        .unwrap_or_else(|| id.to_string())
}

fn refresh(table: &Mutex<Table>, root: &Root, path: &str) {
    let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
    let now = root
        .open(path, OFlags::PATH)
        .and_then(rustix::fs::fstat)
        .ok()
        .map(|stat| stamp(&stat));
    if table.seen != now {
        table.reload(root, path);
    }
}

impl Table {
    fn reload(&mut self, root: &Root, path: &str) {
        self.seen = None;
        self.names.clear();
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let Ok(file) = root.open(path, flags) else {
            return;
        };
        let Ok(stat) = rustix::fs::fstat(&file) else {
            return;
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return;
        }
        let mut content = Vec::new();
        if std::fs::File::from(file)
            .take(LONGEST)
            .read_to_end(&mut content)
            .is_ok()
        {
            self.seen = Some(stamp(&stat));
            self.names = parse(&content);
        }
    }
}

// The fields' types differ between architectures.
#[allow(clippy::unnecessary_cast)]
fn stamp(stat: &Stat) -> Stamp {
    (
        stat.st_dev as u64,
        stat.st_ino as u64,
        stat.st_size as i64,
        stat.st_mtime as i64,
        stat.st_mtime_nsec as u64,
    )
}

/// Reads `name:password:number:…` lines; the first line of a number wins.
fn parse(content: &[u8]) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in String::from_utf8_lossy(content).lines() {
        let mut fields = line.split(':');
        let (Some(name), Some(_), Some(number)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if let (false, Ok(number)) = (name.is_empty(), number.parse()) {
            names.entry(number).or_insert_with(|| name.to_owned());
        }
    }
    names
}
