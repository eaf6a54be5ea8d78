//! What sandboxes see of the host's `/sys`: a copy of harmless parts, taken when the launcher starts.
//!
//! A copy, because a file of sysfs is one inode for the whole machine: whoever may read it can lock it
//! and watch it, and so signal to all others. It is what programs ask to size their thread pools and
//! buffers; what changes by the minute, or only describes the host, is left out.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, linkat, mkdirat, openat, symlinkat};
use rustix::io::Errno;

/// The parts, below `/sys`.
const PARTS: [&str; 3] = [
    "devices/system/cpu",
    "devices/system/node",
    "kernel/mm/transparent_hugepage",
];

/// Names that are left out wherever they stand: counters, power management, links into the rest.
const LEFT_OUT: [&str; 17] = [
    "cpuidle",
    "crash_hotplug",
    "crash_notes",
    "crash_notes_size",
    "driver",
    "firmware_node",
    "hotplug",
    "khugepaged",
    "microcode",
    "modalias",
    "numastat",
    "power",
    "stats",
    "subsystem",
    "thermal_throttle",
    "uevent",
    "vmstat",
];

/// A machine with more than a thousand processors has fewer files than this.
const MAX_ENTRIES: usize = 200_000;
const MAX_DEPTH: usize = 8;
/// Longer than any of these files.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// The copy. Parents stand before what is in them.
#[derive(Debug, Default)]
pub(crate) struct SystemCopy {
    entries: Vec<(String, Entry)>,
}

#[derive(Debug)]
enum Entry {
    Directory,
    Link(String),
    File(Vec<u8>),
}

impl SystemCopy {
    /// Reads the parts that this machine has. What cannot be read is left out.
    pub(crate) fn of_this_machine() -> Self {
        let mut copy = Self::default();
        for part in PARTS {
            if !Path::new("/sys").join(part).is_dir() {
                continue;
            }
            let mut path = String::new();
            for name in part.split('/') {
                path.push_str(name);
                if !copy.entries.iter().any(|(known, _)| *known == path) {
                    copy.entries.push((path.clone(), Entry::Directory));
                }
                path.push('/');
            }
            copy.read(part, 0);
        }
        copy
    }

    /// Reads what is in a directory.
    fn read(&mut self, directory: &str, depth: usize) {
        let Ok(found) = fs::read_dir(Path::new("/sys").join(directory)) else {
            return;
        };
        for entry in found.flatten() {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if LEFT_OUT.contains(&name.as_str()) || self.entries.len() >= MAX_ENTRIES {
                continue;
            }
            let path = format!("{directory}/{name}");
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if kind.is_dir() && depth < MAX_DEPTH {
                self.entries.push((path.clone(), Entry::Directory));
                self.read(&path, depth + 1);
            } else if kind.is_symlink() {
                self.entries
                    .extend(inner_link(&entry.path()).map(|to| (path, Entry::Link(to))));
            } else if kind.is_file() {
                self.entries
                    .extend(content(&entry.path()).map(|text| (path, Entry::File(text))));
            }
        }
    }

    /// Writes the copy into an empty tree. Files of equal content are one file.
    pub(crate) fn write(&self, tree: impl AsFd) -> Result<(), Errno> {
        let mut written: HashMap<&[u8], &str> = HashMap::new();
        for (path, entry) in &self.entries {
            match entry {
                Entry::Directory => mkdirat(&tree, path, Mode::from_raw_mode(0o755))?,
                Entry::Link(target) => symlinkat(target, &tree, path)?,
                Entry::File(content) => {
                    if let Some(same) = written.get(content.as_slice()) {
                        linkat(&tree, *same, &tree, path, AtFlags::empty())?;
                        continue;
                    }
                    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                    let file = openat(&tree, path, flags, Mode::from_raw_mode(0o444))?;
                    std::io::Write::write_all(&mut fs::File::from(file), content)
                        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
                    written.insert(content, path);
                }
            }
        }
        Ok(())
    }
}

/// The target of a relative link that leads into a part.
fn inner_link(path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok()?;
    let real = path.canonicalize().ok()?;
    let below = real.strip_prefix("/sys").ok()?;
    let inside = PARTS.iter().any(|part| below.starts_with(part));
    (inside && target.is_relative()).then(|| target.into_os_string().into_string().ok())?
}

/// The content of a file that everybody may read.
fn content(path: &Path) -> Option<Vec<u8>> {
    if fs::symlink_metadata(path).ok()?.permissions().mode() & 0o004 == 0 {
        return None;
    }
    let mut content = Vec::new();
    let file = fs::File::open(path).ok()?;
    file.take(MAX_FILE_BYTES).read_to_end(&mut content).ok()?;
    Some(content)
}
