//! What the launcher makes in a sandbox's own directory: layers to write to, and `pid.json`.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{
    AtFlags, CWD, Gid, IFlags, Mode, OFlags, Uid, chmodat, chownat, ioctl_getflags, ioctl_setflags,
    mkdirat, openat,
};
use rustix::io::Errno;
use stacyvm_sys::mount;

use crate::control::{LaunchFailure, LaunchRequest, PidFile};
use crate::failure::{Step, wrong};

const LAYERS: &str = "layers";
const DIRECTORY: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
const PID_FILE: &str = "pid.json";
const PID_FILE_UNFINISHED: &str = "pid.json.unfinished";

/// A sandbox's directory, open for as long as this lives.
#[derive(Debug)]
pub(crate) struct BoxDir {
    directory: OwnedFd,
    /// The sandbox's own file system, not attached yet, when its layers are not in the directory.
    disk: Option<OwnedFd>,
    /// The host's id for the sandbox's user 0; none when the launcher has a single id to give.
    id_base: Option<u32>,
}

impl BoxDir {
    pub(crate) fn open(
        path: &Path,
        id_base: Option<u32>,
        disk: Option<OwnedFd>,
    ) -> Result<Self, LaunchFailure> {
        let directory =
            openat(CWD, path, DIRECTORY, Mode::empty()).step("open the sandbox's directory")?;
        Ok(Self {
            directory,
            disk,
            id_base,
        })
    }

    /// Makes the writable layers of every overlay, and in the root's the places where something
    /// is mounted or must be there in any image, so that nothing has to be copied up for them.
    pub(crate) fn make_layers(&self, request: &LaunchRequest) -> Result<(), LaunchFailure> {
        let made = self.make_all(request);
        made.step("make the writable layers")
    }

    fn make_all(&self, request: &LaunchRequest) -> Result<(), Errno> {
        let layers = &self.layers()?;
        for number in 0..request.overlays.len() {
            self.make(layers, &number.to_string(), 0o700, None)?;
            // Like /tmp: the sandbox's user may add `/app` or `/data`, and only that; what the image
            // has stays its owner's.
            let mode = if number == 0 { 0o1777 } else { 0o755 };
            self.make(layers, &format!("{number}/upper"), mode, Some((0, 0)))?;
            self.make(layers, &format!("{number}/work"), 0o700, None)?;
        }
        let user = Some((request.uid, request.gid));
        let root = "0/upper";
        self.make(layers, &format!("{root}/workspace"), 0o755, user)?;
        self.make(layers, &format!("{root}/tmp"), 0o1777, Some((0, 0)))?;
        for place in ["dev", "proc", "sys"] {
            self.make(layers, &format!("{root}/{place}"), 0o755, Some((0, 0)))?;
        }
        if let Some(network) = &request.network {
            self.make(layers, &format!("{root}/etc"), 0o755, Some((0, 0)))?;
            for (name, content) in [
                ("resolv.conf", &network.resolv_conf),
                ("hosts", &network.hosts),
            ] {
                self.write(layers, &format!("{root}/etc/{name}"), content)?;
            }
        }
        for overlay in &request.overlays[1..] {
            let mut path = root.to_owned();
            for part in overlay.target.components() {
                let Component::Normal(name) = part else {
                    continue;
                };
                path.push('/');
                path.push_str(name.to_str().ok_or(Errno::ILSEQ)?);
                self.make(layers, &path, 0o755, Some((0, 0)))?;
            }
        }
        Ok(())
    }

    /// Makes one directory, unless it exists.
    fn make(
        &self,
        directory: &OwnedFd,
        path: &str,
        mode: u32,
        owner: Option<(u32, u32)>,
    ) -> Result<(), Errno> {
        match mkdirat(directory, path, Mode::from_raw_mode(mode)) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Ok(()),
            Err(error) => return Err(error),
        }
        if let (Some((uid, gid)), Some(base)) = (owner, self.id_base) {
            chownat(
                directory,
                path,
                Some(Uid::from_raw(base + uid)),
                Some(Gid::from_raw(base + gid)),
                AtFlags::SYMLINK_NOFOLLOW,
            )?;
        }
        if mode & 0o7000 != 0 {
            // mkdir(2) leaves the sticky bit to the file system's taste.
            chmodat(directory, path, Mode::from_raw_mode(mode), AtFlags::empty())?;
        }
        Ok(())
    }

    /// Writes one file that belongs to root and that all may read. The layer holds nothing of the
    /// image yet, so no link of the image can lead elsewhere; the image's file of this name is covered.
    fn write(&self, directory: &OwnedFd, path: &str, content: &str) -> Result<(), Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(directory, path, flags, Mode::from_raw_mode(0o644))?;
        let file = fs::File::from(file);
        std::io::Write::write_all(&mut &file, content.as_bytes())
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        if let Some(base) = self.id_base {
            rustix::fs::fchown(&file, Some(Uid::from_raw(base)), Some(Gid::from_raw(base)))?;
        }
        Ok(())
    }

    /// Opens the directory of the layers, making it where it is missing.
    fn layers(&self) -> Result<OwnedFd, Errno> {
        if let Some(disk) = &self.disk {
            return disk
                .try_clone()
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
        }
        self.make(&self.directory, LAYERS, 0o700, None)?;
        openat(&self.directory, LAYERS, DIRECTORY, Mode::empty())
    }

    /// A detached mount of the layer with this number.
    pub(crate) fn layer(&self, number: usize) -> Result<OwnedFd, Errno> {
        let (holder, path) = match &self.disk {
            Some(disk) => (disk, number.to_string()),
            None => (&self.directory, format!("{LAYERS}/{number}")),
        };
        let directory = openat(holder, path, DIRECTORY, Mode::empty())?;
        mount::clone_tree(directory.as_fd(), c"", false)
    }

    /// Writes `pid.json` whole or not at all. It need not survive a crash of the machine, which
    /// ends the sandbox as well.
    pub(crate) fn write_pid_file(&self, content: &PidFile) -> Result<(), LaunchFailure> {
        const STEP: &str = "record the sandbox's process";
        let text = serde_json::to_vec(content).map_err(|error| wrong(STEP, error.to_string()))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let file = openat(
            &self.directory,
            PID_FILE_UNFINISHED,
            flags,
            Mode::from_raw_mode(0o600),
        )
        .step(STEP)?;
        let mut file = fs::File::from(file);
        std::io::Write::write_all(&mut file, &text).step(STEP)?;
        rustix::fs::renameat(
            &self.directory,
            PID_FILE_UNFINISHED,
            &self.directory,
            PID_FILE,
        )
        .step(STEP)
    }

    /// Removes `pid.json` of a launch that failed.
    pub(crate) fn remove_pid_file(&self) {
        let _ = rustix::fs::unlinkat(&self.directory, PID_FILE, AtFlags::empty());
    }
}

/// Asks the file system to put each new directory below `path` into a region of its own.
///
/// Ext4 does not use the place of a deleted inode again for minutes, and looks at every such place
/// when it makes a new one in the same region. Where sandboxes come and go by the hundred, all in
/// one region, each file made then costs a millisecond and more. Other file systems refuse, and
/// do not need it.
pub(crate) fn set_topdir_flag(path: &Path) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let set_flag = || -> Result<(), Errno> {
        let directory = openat(CWD, path, flags, Mode::empty())?;
        let now = ioctl_getflags(&directory)?;
        if now.contains(IFlags::TOPDIR) {
            return Ok(());
        }
        ioctl_setflags(&directory, now | IFlags::TOPDIR)
    };
    // Only speed depends on it.
    let _ = set_flag();
}

impl AsFd for BoxDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}
