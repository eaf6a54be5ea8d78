//! The launcher's loop: one request at a time, and preparation in between.

use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use stacyvm_sys::{fds, process};

use crate::Options;
use crate::control::{LaunchFailure, MAX_PACKET, Reply, Request};
use crate::failure::wrong;
use crate::launch::launch;
use crate::state::LauncherState;

/// Serves requests until the socket closes. In a sandbox's first process this does not return.
///
/// # Errors
/// The step that failed when the launcher could not prepare itself.
pub fn serve(control: &OwnedFd, options: Options) -> Result<ExitCode, LaunchFailure> {
    let mut state = prepare_launcher(options)?;
    let mut buffer = vec![0; MAX_PACKET];
    loop {
        while !is_readable(control) && state.prepare_one() {}
        let (length, descriptors) = match fds::receive(control, &mut buffer) {
            Ok((0, _)) | Err(Errno::CONNRESET) => return Ok(ExitCode::SUCCESS),
            Ok(received) => received,
            // Without its number a packet that is too long cannot be answered.
            Err(Errno::MSGSIZE) => continue,
            Err(_) => return Ok(ExitCode::FAILURE),
        };
        let answered = answer(control, &mut state, &buffer[..length], descriptors);
        // The next sandbox is a copy of this process: it is not to know of the ones before.
        buffer[..length].fill(0);
        if answered.is_err() {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// Sets the process up as a launcher and prepares its state.
pub(crate) fn prepare_launcher(options: Options) -> Result<LauncherState, LaunchFailure> {
    use crate::failure::Step;

    // So that a key typed at the server's terminal ends the server, not its sandboxes. Fails when
    // the process leads a group already, which serves as well.
    let _ = rustix::process::setsid();
    rustix::process::chdir("/").step("leave the working directory")?;
    rustix::process::umask(rustix::fs::Mode::empty());
    process::set_title(c"stacyvm-launcher").step("name the process")?;
    process::reap_children_automatically().step("set signals")?;
    LauncherState::open(options)
}

fn is_readable(control: &OwnedFd) -> bool {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut watched = [PollFd::new(control, PollFlags::IN)];
    // Should poll fail, the read that follows reports it.
    poll(&mut watched, Some(&now)) != Ok(0)
}

fn answer(
    control: &OwnedFd,
    state: &mut LauncherState,
    packet: &[u8],
    descriptors: Vec<OwnedFd>,
) -> Result<(), Errno> {
    // Without a number an unknown request cannot be answered.
    let Ok(Request::Launch(request)) = serde_json::from_slice(packet) else {
        return Ok(());
    };
    let mut descriptors = descriptors.into_iter();
    let mut next = |wanted: bool| {
        if wanted {
            descriptors.next().map(Some)
        } else {
            Some(None)
        }
    };
    let given = (
        next(true),
        next(true),
        next(request.network.is_some()),
        next(request.disk),
    );
    let result = match given {
        (Some(Some(listener)), Some(Some(status)), Some(network), Some(disk))
            if descriptors.next().is_none() =>
        {
            launch(state, &request, listener, status, network, disk)
        }
        _ => Err(wrong(
            "check the request",
            "it must carry a listening socket and a status pipe, and a network and a disk where it names one",
        )),
    };
    let (result, pidfd) = match result {
        Ok((launched, pidfd)) => (Ok(launched), Some(pidfd)),
        Err(failure) => (Err(failure), None),
    };
    let reply = Reply {
        seq: request.seq,
        result,
    };
    let Ok(text) = serde_json::to_vec(&reply) else {
        return Ok(());
    };
    let beside: Vec<_> = pidfd.iter().map(AsFd::as_fd).collect();
    let sent = fds::send(control, &text, &beside);
    drop(state.used_mounts.take());
    sent
}
