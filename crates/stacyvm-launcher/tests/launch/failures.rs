//! What is left when a launch fails, or the launcher itself.

use std::fs;

use stacyvm_launcher::control::{LaunchFailure, LaunchRequest, OverlaySpec, PidFile};
use stacyvm_sys::{cgroup, pidfd, proc};

use crate::scripted;
use crate::support::{Fixture, Launcher, TEST_TIMEOUT, gone, own_ids};

#[test]
fn a_failed_step_is_named_and_nothing_is_left() {
    let Some(program) = scripted() else { return };
    let home = Fixture::new("failing");
    let mut launcher = Launcher::start(&program, &[], None);
    let failed = |launcher: &mut Launcher, request: &mut LaunchRequest| -> LaunchFailure {
        let failure = launcher.launch(request).err().expect("it must fail");
        assert!(
            !failure.to_string().contains("stacyvm-launch-"),
            "a host path in {failure}"
        );
        let waiting = std::time::Instant::now();
        while !users_from(request.id_base).is_empty() {
            assert!(waiting.elapsed() < TEST_TIMEOUT, "a process is left");
        }
        failure
    };

    let mut request = home.request("no-layer", false, "");
    request.id_base = own_ids(0);
    request.overlays[0].lowers = vec!["/nowhere/at/all".into()];
    let failure = failed(&mut launcher, &mut request);
    assert_eq!(failure.step, "open a layer of the overlay at /");
    assert_eq!(failure.errno, 2);
    assert!(!request.box_dir.join("pid.json").exists());

    let mut request = home.request("no-box", false, "");
    request.box_dir = home.box_dir("never-made");
    let failure = failed(&mut launcher, &mut request);
    assert_eq!(failure.step, "open the sandbox's directory");

    let mut request = home.request("bad-id", false, "");
    request.id = "../escape".into();
    let failure = failed(&mut launcher, &mut request);
    assert_eq!(failure.step, "check the request");

    // A step of the sandbox's own process: said on the status pipe.
    let mut request = home.request("no-target", false, "");
    request.overlays.push(OverlaySpec {
        target: "/usr/not/there".into(),
        lowers: vec!["/usr/share".into()],
        of_host: None,
    });
    let mut sandbox = launcher.launch(&mut request).unwrap();
    let failure = sandbox.set_up().unwrap_err();
    assert_eq!(failure.step, "mount /usr/not/there");
    assert_eq!(failure.errno, 2);
    assert!(sandbox.ended(), "it ends by itself");
    let directories = sandbox.launched.cgroups.clone();
    drop(sandbox);
    assert!(gone(&directories));

    // And the launcher goes on.
    let mut request = home.request("after", false, "exit 0\n");
    let mut sandbox = launcher.launch(&mut request).unwrap();
    sandbox.set_up().unwrap();
    assert!(sandbox.ended());
}

#[test]
fn packets_that_make_no_sense_do_no_harm() {
    let Some(program) = scripted() else { return };
    let home = Fixture::new("nonsense");
    let mut launcher = Launcher::start(&program, &[], None);
    for packet in [&b"{"[..], b"null", b"{\"op\":\"dance\"}", &[0xff; 1000]] {
        stacyvm_sys::fds::send(&launcher.socket, packet, &[]).unwrap();
    }
    let mut request = home.request("sane", false, "exit 0\n");
    let packet = serde_json::json!({"op": "launch", "seq": 77, "id": "x", "box_dir": "/",
        "overlays": [], "read_only_rootfs": false, "id_base": 1, "id_count": 1, "uid": 0, "gid": 0,
        "limits": {"memory_bytes": 1, "vcpus": 1, "pids": 1, "open_files": 1},
        "cgroup_parent": "x"});
    stacyvm_sys::fds::send(&launcher.socket, packet.to_string().as_bytes(), &[]).unwrap();
    let (reply, _) = launcher.receive().unwrap();
    assert_eq!(reply.seq, 77);
    assert!(
        reply
            .result
            .unwrap_err()
            .message
            .contains("listening socket")
    );
    let mut sandbox = launcher.launch(&mut request).unwrap();
    sandbox.set_up().unwrap();
}

#[test]
fn sandboxes_outlive_the_launcher_and_no_other_process_does() {
    let Some(program) = scripted() else { return };
    let home = Fixture::new("killed");
    let base = own_ids(1);
    let mut survivors = 0;
    for round in 0..24_u32 {
        let mut launcher = Launcher::start(&program, &[], None);
        let id = format!("killed-{round}");
        let mut request = home.request(&id, false, "exec sleep 1000\n");
        request.id_base = base;
        let _status = launcher.send(&mut request);
        // Spread over the whole launch; which moment is hit does not matter.
        let moment = std::time::Instant::now();
        while moment.elapsed().as_micros() < u128::from(round) * 400 {
            std::hint::spin_loop();
        }
        launcher.process.kill().unwrap();
        launcher.process.wait().unwrap();
        let recorded: Option<PidFile> = fs::read(request.box_dir.join("pid.json"))
            .ok()
            .map(|text| serde_json::from_slice(&text).expect("whole or not at all"));
        // Processes of a box that was not recorded end by themselves.
        let expected: Vec<i32> = recorded.iter().map(|record| record.pid).collect();
        let waiting = std::time::Instant::now();
        loop {
            let there = users_from(base);
            if there.iter().all(|pid| expected.contains(pid)) {
                break;
            }
            assert!(
                waiting.elapsed() < TEST_TIMEOUT,
                "{there:?}, not {expected:?}"
            );
            std::thread::yield_now();
        }
        if let Some(record) = recorded {
            survivors += usize::from(proc::start_ticks(record.pid) == Some(record.start_ticks));
            if let Some(pidfd) = pidfd::open_started_at(record.pid, record.start_ticks).unwrap() {
                pidfd::kill(&pidfd).unwrap();
                assert!(pidfd::wait(&pidfd, TEST_TIMEOUT).unwrap());
            }
        }
        remove_cgroups(&request);
    }
    println!("{survivors} of 24 sandboxes had been recorded and lived on");
}

/// Cgroups of a sandbox whose launcher never answered, found as the reconciler finds them.
fn remove_cgroups(request: &LaunchRequest) {
    let layout = cgroup::Layout::detect();
    let name = format!("{}/{}", request.cgroup_parent, request.id);
    let directories = layout
        .v1
        .iter()
        .map(|(controller, place)| (controller.clone(), place.mount.join(&name)))
        .chain(
            layout
                .unified
                .iter()
                .map(|place| ("unified".to_owned(), place.mount.join(&name))),
        )
        .collect();
    cgroup::remove(&directories, TEST_TIMEOUT).unwrap();
}

/// Processes on the host whose user is of the range that starts there.
fn users_from(base: u32) -> Vec<i32> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let uid = status
                .lines()
                .find_map(|line| {
                    line.strip_prefix("Uid:\t")?
                        .split('\t')
                        .next()?
                        .parse()
                        .ok()
                })
                .unwrap_or(0);
            (base..base + 65_536).contains(&uid) && !status.contains("State:\tZ")
        })
        .collect()
}
