//! Names of owners and groups, as the sandbox's own `/etc/passwd` and `/etc/group` say.
//!
//! This module caches both files and reads one again when its identity, size or time changes. It
//! never asks the name service, because static glibc would load foreign modules.

use std::collections::HashMap;
use std::io::Read;

use parking_lot::Mutex;
use rustix::fs::{FileType, OFlags, Stat};

use super::root::Root;

/// How many bytes of a file are read; the rest is ignored.
const MAX_FILE: u64 = 1024 * 1024;

/// Maps user and group ids to names.
#[derive(Debug, Default)]
pub(super) struct OwnerNames {
    users: Mutex<NameTable>,
    groups: Mutex<NameTable>,
}

#[derive(Debug, Default)]
struct NameTable {
    seen: Option<Stamp>,
    names: HashMap<u32, String>,
}

/// What tells two versions of a file apart: device, inode, size, seconds and nanoseconds of its
/// modification time.
type Stamp = (u64, u64, i64, i64, u64);

impl OwnerNames {
    /// The name of user `uid`, or its number.
    pub(super) fn user(&self, root: &Root, uid: u32) -> String {
        look_up(&self.users, root, "etc/passwd", uid)
    }

    /// The name of group `gid`, or its number.
    pub(super) fn group(&self, root: &Root, gid: u32) -> String {
        look_up(&self.groups, root, "etc/group", gid)
    }

    /// Reads the files again if they have changed. Each operation calls this once, not once per file.
    pub(super) fn refresh(&self, root: &Root) {
        refresh(&self.users, root, "etc/passwd");
        refresh(&self.groups, root, "etc/group");
    }
}

fn look_up(table: &Mutex<NameTable>, root: &Root, path: &str, id: u32) -> String {
    let mut table = table.lock();
    if table.seen.is_none() {
        table.reload(root, path);
    }
    table
        .names
        .get(&id)
        .cloned()
        .unwrap_or_else(|| id.to_string())
}

fn refresh(table: &Mutex<NameTable>, root: &Root, path: &str) {
    let mut table = table.lock();
    let now = root
        .open(path, OFlags::PATH)
        .and_then(rustix::fs::fstat)
        .ok()
        .map(|stat| stamp(&stat));
    if table.seen != now {
        table.reload(root, path);
    }
}

impl NameTable {
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
            .take(MAX_FILE)
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
