//! A provider in miniature: starts a launcher, asks it for sandboxes, cleans up after them.
#![allow(
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    clippy::unwrap_used
)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use stacyvm_launcher::control::{
    LaunchFailure, LaunchRequest, Launched, Limits, MAX_PACKET, OverlaySpec, Reply, Request,
};
use stacyvm_sys::{cgroup, fds, pidfd};

pub const TEST_TIMEOUT: Duration = Duration::from_secs(60);
pub const ID_BASE: u32 = 0x3000_0000;

/// A range of ids that no other run on this machine uses now: `which` tells those of one run apart.
pub fn own_ids(which: u32) -> u32 {
    0x3100_0000 + (which << 24) + (std::process::id() % 256) * 0x1_0000
}

/// A running launcher.
pub struct Launcher {
    pub process: Child,
    pub socket: OwnedFd,
    seq: u64,
}

impl Launcher {
    pub fn start(program: &Path, arguments: &[&str], uid: Option<u32>) -> Self {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let mut command = Command::new(program);
        command
            .arg0("stacyvm-launcher")
            .args(arguments)
            .env("STACYVM_TEST_SECRET", "must not be seen")
            .stdin(Stdio::from(theirs));
        if let Some(uid) = uid {
            command.uid(uid).gid(uid);
        }
        let process = command.spawn().unwrap();
        Self {
            process,
            socket: ours,
            seq: 0,
        }
    }

    /// Sends one request, without waiting; answers the read end of its status pipe.
    pub fn send(&mut self, request: &mut LaunchRequest) -> OwnedFd {
        self.send_with(request, None)
    }

    /// The same, with a file system beside it.
    pub fn send_with(&mut self, request: &mut LaunchRequest, disk: Option<OwnedFd>) -> OwnedFd {
        self.seq += 1;
        request.seq = self.seq;
        let socket = request.box_dir.join("agent.sock");
        // Where the box is missing, the launcher is to say so.
        let listener: OwnedFd = match UnixListener::bind(&socket) {
            Ok(listener) => listener.into(),
            Err(_) => socket_with(
                AddressFamily::UNIX,
                SocketType::STREAM,
                SocketFlags::CLOEXEC,
                None,
            )
            .unwrap(),
        };
        let (status, status_end) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let request: LaunchRequest =
            serde_json::from_value(serde_json::to_value(&request).unwrap()).unwrap();
        let packet = serde_json::to_vec(&Request::Launch(Box::new(request))).unwrap();
        let mut beside = vec![listener.as_fd(), status_end.as_fd()];
        beside.extend(disk.as_ref().map(AsFd::as_fd));
        fds::send(&self.socket, &packet, &beside).unwrap();
        status
    }

    /// Closes the control socket.
    pub fn hang_up(&mut self) {
        let (other, _) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        self.socket = other;
    }

    pub fn receive(&self) -> Option<(Reply, Option<OwnedFd>)> {
        let mut buffer = vec![0; MAX_PACKET];
        let (length, descriptors) = fds::receive(&self.socket, &mut buffer).ok()?;
        let reply = serde_json::from_slice(&buffer[..length]).ok()?;
        Some((reply, descriptors.into_iter().next()))
    }

    pub fn launch(&mut self, request: &mut LaunchRequest) -> Result<Sandbox, LaunchFailure> {
        self.launch_with(request, None)
    }

    pub fn launch_with(
        &mut self,
        request: &mut LaunchRequest,
        disk: Option<OwnedFd>,
    ) -> Result<Sandbox, LaunchFailure> {
        let status = self.send_with(request, disk);
        let (reply, pidfd) = self.receive().expect("the launcher answers");
        assert_eq!(reply.seq, request.seq);
        let launched = reply.result?;
        Ok(Sandbox {
            launched,
            pidfd: pidfd.expect("a pidfd comes with success"),
            status: Some(status),
        })
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A launched sandbox; ended and removed when dropped.
pub struct Sandbox {
    pub launched: Launched,
    pub pidfd: OwnedFd,
    status: Option<OwnedFd>,
}

impl Sandbox {
    /// Waits for the end of the setup.
    pub fn set_up(&mut self) -> Result<(), LaunchFailure> {
        let status = self.status.take().expect("asked once");
        assert!(
            pidfd::wait(&status, TEST_TIMEOUT).unwrap(),
            "the setup takes too long"
        );
        let mut text = String::new();
        File::from(status).read_to_string(&mut text).unwrap();
        if text.is_empty() {
            Ok(())
        } else {
            Err(serde_json::from_str(&text).unwrap())
        }
    }

    /// Waits until its first process has ended.
    pub fn ended(&self) -> bool {
        pidfd::wait(&self.pidfd, TEST_TIMEOUT).unwrap()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = pidfd::kill(&self.pidfd);
        let _ = pidfd::wait(&self.pidfd, TEST_TIMEOUT);
        let _ = cgroup::remove(&self.launched.cgroups, TEST_TIMEOUT);
    }
}

/// A directory with a small root that stands on the host's `/usr`, and boxes beside it.
pub struct Fixture {
    pub directory: tempfile::TempDir,
    parent: String,
}

impl Fixture {
    pub fn new(name: &str) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("stacyvm-launch-")
            .tempdir()
            .unwrap();
        // A user who is not root must be able to walk in.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(directory.path(), open).unwrap();
        let root = directory.path().join("root");
        for place in ["usr", "etc", "proc", "sys", "dev", "home/user"] {
            fs::create_dir_all(root.join(place)).unwrap();
        }
        for link in ["bin", "lib", "lib64", "sbin"] {
            symlink(format!("usr/{link}"), root.join(link)).unwrap();
        }
        fs::write(
            root.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
        )
        .unwrap();
        fs::write(root.join("etc/owned-by-root"), "lower\n").unwrap();
        fs::write(root.join("etc/for-everybody"), "lower\n").unwrap();
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        fs::set_permissions(root.join("etc/for-everybody"), all).unwrap();
        Self {
            directory,
            parent: format!("stacyvm-test-{}/{name}", std::process::id()),
        }
    }

    pub fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    pub fn box_dir(&self, id: &str) -> PathBuf {
        self.directory.path().join("boxes").join(id)
    }

    /// A request whose sandbox finds `script` as `/workspace/run.sh`.
    pub fn request(&self, id: &str, read_only: bool, script: &str) -> LaunchRequest {
        let box_dir = self.box_dir(id);
        let workspace = box_dir.join("layers/0/upper/workspace");
        fs::create_dir_all(&workspace).unwrap();
        fs::write(workspace.join("run.sh"), script).unwrap();
        LaunchRequest {
            seq: 0,
            id: id.to_owned(),
            disk: false,
            box_dir,
            overlays: vec![
                OverlaySpec {
                    target: "/".into(),
                    lowers: vec![self.root()],
                    of_host: None,
                },
                OverlaySpec {
                    target: "/usr".into(),
                    lowers: Vec::new(),
                    of_host: Some("/usr".into()),
                },
            ],
            read_only_rootfs: read_only,
            id_base: ID_BASE,
            id_count: 65_536,
            uid: 1000,
            gid: 1000,
            limits: Limits {
                memory_bytes: 256 << 20,
                vcpus: 1.0,
                pids: 64,
                open_files: 1024,
                io: None,
            },
            cgroup_parent: self.parent.clone(),
            network: None,
        }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let layout = cgroup::Layout::detect();
        let places = layout.v1.values().chain(&layout.unified);
        for place in places {
            let parent = place.mount.join(&self.parent);
            let _ = fs::remove_dir(&parent);
            let _ = parent.parent().map(fs::remove_dir);
        }
    }
}

pub fn gone(directories: &BTreeMap<String, PathBuf>) -> bool {
    directories.values().all(|directory| !directory.exists())
}
