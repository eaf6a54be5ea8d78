//! Limits of what a box writes to its disk, held by the kernel.
//!
//! All that a box writes (its root, `/workspace`, `/tmp`) is in its writable layers. Where the
//! file system of the boxes counts by project, the layers get a project of their own with a
//! limit. Elsewhere they get a file system of their own, of the size asked for, in a file of the
//! box's directory. Which one this machine can do is found out once, at the start. A box without
//! a limit has neither, and costs nothing.

mod file_system;
mod image;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use stacyvm_provider::ProviderError;
use stacyvm_sys::caps::{self, Set};
use stacyvm_sys::{namespaces, project_quota};

use crate::slots::{IDS_PER_SLOT, id_base};

pub(crate) use file_system::shut_down;

/// Files and directories that a project may have for each MiB: as many as a file system of its
/// own has room for.
const INODES_PER_MIB: u64 = 128;
const MIB: u64 = 1 << 20;

/// What limits a box's disk, as its `meta.json` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Disk {
    /// MiB.
    pub(crate) mb: u64,
    /// The kernel's mechanism.
    pub(crate) held_by: HeldBy,
}

impl Disk {
    /// The limit in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.mb.saturating_mul(MIB)
    }
}

/// What enforces a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum HeldBy {
    /// The project with this number.
    Project(u32),
    /// A file system in the box's directory, behind the loop device with this number.
    Loop(u32),
}

/// How this machine limits disks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mechanism {
    /// Project quotas.
    Project,
    /// A file system for each box.
    Own,
    /// Disks cannot be limited.
    None {
        /// The reason.
        why: String,
        /// What a person can do about it.
        remedy: &'static str,
    },
}

impl Mechanism {
    /// The mechanism for boxes below this directory.
    pub(crate) fn of(boxes: &Path) -> Self {
        let none = |why: &str, remedy| Self::None {
            why: why.to_owned(),
            remedy,
        };
        let allowed = namespaces::has_every_id()
            && caps::effective().is_ok_and(|held| held.contains(Set::SYS_ADMIN));
        if !allowed {
            return none(
                "the server does not run as root of the machine",
                "run the server as root",
            );
        }
        if open(boxes).is_ok_and(|directory| project_quota::available(&directory)) {
            return Self::Project;
        }
        if !stacyvm_sys::loop_device::available() {
            return none(
                "its file system has no project quotas, and the machine gives no loop devices",
                "modprobe loop, or mount the data directory's file system with prjquota",
            );
        }
        if image::formatter().is_none() {
            return none(
                "its file system has no project quotas, and mkfs.ext4 is missing",
                "apt-get install e2fsprogs",
            );
        }
        Self::Own
    }
}

/// Makes the disks of boxes.
#[derive(Debug)]
pub(crate) struct Disks {
    pub(crate) mechanism: Mechanism,
    boxes: OwnedFd,
    images: image::EmptyImages,
}

/// A disk that has been made for a box.
#[derive(Debug)]
pub(crate) struct NewDisk {
    pub(crate) disk: Disk,
    /// The file system for the box's layers, not attached yet; none when they are in its directory.
    pub(crate) root: Option<OwnedFd>,
}

impl Disks {
    /// Finds the mechanism for boxes below this directory.
    pub(crate) fn open(boxes: &Path) -> io::Result<Self> {
        Ok(Self {
            mechanism: Mechanism::of(boxes),
            boxes: open(boxes)?,
            images: image::EmptyImages::default(),
        })
    }

    /// Whether disks can be limited.
    pub(crate) fn available(&self) -> bool {
        !matches!(self.mechanism, Mechanism::None { .. })
    }

    /// The degradation of a machine that cannot limit disks.
    pub(crate) fn degraded(&self) -> Option<String> {
        match &self.mechanism {
            Mechanism::None { why, remedy } => {
                Some(format!("disk use is not limited: {why}; hint: {remedy}"))
            }
            Mechanism::Project | Mechanism::Own => None,
        }
    }

    /// Makes a disk for the box in `box_dir`, which is empty yet. Blocks. Its files are removed with the
    /// directory.
    ///
    /// # Errors
    /// `Unsupported` where disks cannot be limited, else the step that failed.
    pub(crate) fn make(
        &self,
        box_dir: &Path,
        slot: u32,
        mb: u64,
    ) -> Result<NewDisk, ProviderError> {
        let failed = |step: &'static str| {
            move |error: io::Error| ProviderError::backend(step, error.kind().to_string(), error)
        };
        match &self.mechanism {
            Mechanism::None { why, remedy } => Err(ProviderError::Unsupported(format!(
                "provider native lacks the capability disk-limit: {why}; hint: {remedy}"
            ))),
            Mechanism::Project => {
                let project = self
                    .assign(box_dir, slot, mb)
                    .map_err(failed("limit the sandbox's disk with a project quota"))?;
                Ok(NewDisk {
                    disk: Disk {
                        mb,
                        held_by: HeldBy::Project(project),
                    },
                    root: None,
                })
            }
            Mechanism::Own => {
                let (number, root) = file_system::make(&self.images, box_dir, mb)
                    .map_err(failed("make the sandbox's disk"))?;
                Ok(NewDisk {
                    disk: Disk {
                        mb,
                        held_by: HeldBy::Loop(number),
                    },
                    root: Some(root),
                })
            }
        }
    }

    /// Releases what is not removed with the box's directory. Blocks.
    pub(crate) fn release(&self, disk: Disk) {
        if let HeldBy::Project(project) = disk.held_by
            && let Err(error) = project_quota::limit(&self.boxes, project, 0, 0)
        {
            tracing::warn!(%error, project, "the quota of a removed sandbox stays");
        }
    }

    fn assign(&self, box_dir: &Path, slot: u32, mb: u64) -> io::Result<u32> {
        let layers = box_dir.join("layers");
        rustix::fs::mkdir(&layers, Mode::RWXU)?;
        // One of the numbers that belong to the box's range: what an earlier box of the range left
        // in the trash still counts for another one.
        let mut bytes = [0; 2];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        let project = id_base(slot) + u32::from(u16::from_ne_bytes(bytes)) % IDS_PER_SLOT;
        let directory = open(&layers)?;
        project_quota::assign(&directory, project)?;
        let inodes = mb.saturating_mul(INODES_PER_MIB);
        project_quota::limit(&directory, project, mb.saturating_mul(MIB), inodes)?;
        Ok(project)
    }
}

fn open(directory: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(directory, flags, Mode::empty())
}

/// How full the file system is that a live process has as its root, bytes in use and bytes still
/// free; none when it has ended. With a limit of either kind this is about the box alone: the
/// kernel answers for the project or file system that has the limit.
pub(crate) fn fill(pid: i32) -> Option<Fill> {
    let found = rustix::fs::statvfs(format!("/proc/{pid}/root")).ok()?;
    let unit = found.f_frsize;
    Some(Fill {
        used_bytes: found.f_blocks.saturating_sub(found.f_bfree) * unit,
        free_bytes: found.f_bavail * unit,
        free_inodes: found.f_favail,
    })
}

/// How full a file system is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fill {
    pub(crate) used_bytes: u64,
    pub(crate) free_bytes: u64,
    pub(crate) free_inodes: u64,
}

/// Tries the mechanism: makes a disk in a directory of its own and throws it away. Blocks.
pub(crate) fn attempt(boxes: &Path) -> Result<(), ProviderError> {
    const SMALL: u64 = 16;
    let failed =
        |error: io::Error| ProviderError::backend("try a disk", error.kind().to_string(), error);
    let disks = Disks::open(boxes).map_err(failed)?;
    let directory = boxes.join(format!("disk-{}", std::process::id()));
    std::fs::create_dir(&directory).map_err(failed)?;
    let made = disks.make(&directory, 0, SMALL);
    let outcome = made.map(|made| disks.release(made.disk));
    let _ = std::fs::remove_dir_all(&directory);
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_reads_back_as_it_was_written() {
        for held_by in [HeldBy::Project(7), HeldBy::Loop(3)] {
            let disk = Disk { mb: 64, held_by };
            let text = serde_json::to_string(&disk).unwrap();
            assert_eq!(serde_json::from_str::<Disk>(&text).unwrap(), disk, "{text}");
        }
        let all = Disk {
            mb: u64::MAX,
            held_by: HeldBy::Loop(0),
        };
        assert_eq!(all.bytes(), u64::MAX);
    }

    #[test]
    fn where_nothing_can_be_had_the_capability_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let disks = Disks {
            mechanism: Mechanism::None {
                why: "of this".to_owned(),
                remedy: "do that",
            },
            boxes: open(dir.path()).unwrap(),
            images: image::EmptyImages::default(),
        };
        assert!(!disks.available());
        assert!(disks.degraded().unwrap().contains("do that"));
        let error = disks.make(dir.path(), 0, 64).unwrap_err();
        assert!(matches!(error, ProviderError::Unsupported(_)));
        assert!(error.to_string().contains("disk-limit"), "{error}");
    }

    #[test]
    fn a_process_has_a_file_system_with_room() {
        let own = i32::try_from(std::process::id()).unwrap();
        let fill = fill(own).unwrap();
        assert!(fill.used_bytes > 0, "{fill:?}");
        assert_eq!(super::fill(i32::MAX), None);
    }
}
