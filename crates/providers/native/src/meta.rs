//! The two files by which a later server finds a box.
//!
//! `meta.json` is written here and complete before anything of the sandbox exists; the launcher
//! writes `pid.json`. A box whose `meta.json` cannot be read was never finished.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use stacyvm_launcher::control::{Limits, PidFile};
use stacyvm_types::SandboxId;

use crate::disk::Disk;
use crate::layout::{META_FILE, PID_FILE};
use crate::network::Lease;

/// The version of `meta.json` that this code writes. A reader accepts older ones and takes a
/// newer one as a box that it must not touch but may destroy.
pub(crate) const META_VERSION: u32 = 1;

/// Far more than either file ever has, bytes; a larger one is damaged.
const MAX_FILE: u64 = 256 * 1024;

/// What must be known about a box to take it over or to remove it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Meta {
    /// The version of this file's form.
    pub(crate) version: u32,
    /// The sandbox's id, which is also the directory's name.
    pub(crate) id: SandboxId,
    /// The image as the spawn named it.
    pub(crate) image: String,
    /// Topmost directory of the image of the store that it uses, when it does. The removal of images
    /// reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) image_root: Option<PathBuf>,
    /// Generation of the host view that it uses, when it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) host_view: Option<String>,
    /// The number of its range of user ids.
    pub(crate) slot: u32,
    /// User of the sandbox, as a number inside.
    pub(crate) uid: u32,
    /// Group of the sandbox, as a number inside.
    pub(crate) gid: u32,
    /// Limits of what it may use.
    pub(crate) limits: Limits,
    /// What limits its disk, where something does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) disk: Option<Disk>,
    /// Seconds since 1970.
    pub(crate) created: u64,
    /// Its network, when it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) network: Option<Lease>,
}

/// Now, as `Meta::created` wants it.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Writes the file so that a reader sees all of it or nothing.
pub(crate) fn write(box_dir: &Path, meta: &Meta) -> io::Result<()> {
    let bytes = serde_json::to_vec(meta)?;
    let temporary = box_dir.join("meta.json.new");
    // One that a crash left is overwritten.
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(&bytes)?;
    std::fs::rename(&temporary, box_dir.join(META_FILE))
}

/// Reads `meta.json`; an error when it is missing, torn, of a newer version or of another box.
pub(crate) fn read(box_dir: &Path, id: &SandboxId) -> io::Result<Meta> {
    let meta: Meta = serde_json::from_slice(&read_bounded(&box_dir.join(META_FILE))?)?;
    if meta.version > META_VERSION || &meta.id != id {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    Ok(meta)
}

/// Reads `pid.json`; none when it is missing or torn.
pub(crate) fn read_pid(box_dir: &Path) -> Option<PidFile> {
    serde_json::from_slice(&read_bounded(&box_dir.join(PID_FILE)).ok()?).ok()
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(File::open(path)?, MAX_FILE), &mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(id: &SandboxId) -> Meta {
        Meta {
            version: META_VERSION,
            id: id.clone(),
            image: "host".to_owned(),
            image_root: None,
            host_view: Some("abc".to_owned()),
            slot: 5,
            uid: 1000,
            gid: 1000,
            limits: Limits {
                memory_bytes: 1,
                vcpus: 0.5,
                pids: 1,
                open_files: 1,
                io: None,
            },
            disk: None,
            created: now(),
            network: None,
        }
    }

    #[test]
    fn a_meta_file_of_the_first_version_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"version":1,"id":"sb-00000007","image":"host","host_view":"a","slot":1,
            "uid":1000,"gid":1000,"created":9,
            "limits":{"memory_bytes":9,"vcpus":2,"pids":3,"open_files":4}}"#;
        std::fs::write(dir.path().join(META_FILE), text).unwrap();
        let meta = read(dir.path(), &SandboxId::from_u32(7)).unwrap();
        assert!((meta.limits.vcpus - 2.0).abs() < 1e-9 && meta.limits.io.is_none());
        assert_eq!(meta.disk, None);
    }

    #[test]
    fn a_meta_file_comes_back_as_written_and_damage_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let id = SandboxId::from_u32(1);
        assert!(read(dir.path(), &id).is_err(), "there is none yet");
        write(dir.path(), &sample(&id)).unwrap();
        let back = read(dir.path(), &id).unwrap();
        assert_eq!((back.slot, back.uid), (5, 1000));
        assert_eq!(back.limits.vcpus.to_string(), "0.5");
        assert!(
            read(dir.path(), &SandboxId::from_u32(2)).is_err(),
            "a box must not take another one's file for its own"
        );

        let path = dir.path().join(META_FILE);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        assert!(read(dir.path(), &id).is_err(), "half a file was accepted");
    }
}
