//! A workload that swaps files for links while the service works on them.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use stacyvm_types::FileMode;

use super::{CANARY, Fixture};
use crate::files::FileService;

const ROUNDS: usize = 1500;

/// Ends the other thread, also when the work fails: the test would wait for it for ever.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `work` many times while another thread exchanges `/workspace/x`, a directory with a file
/// `canary`, with a link to the directory outside, and the file `/workspace/f` with a link to the
/// canary.
fn while_swapping(work: impl Fn(&Fixture, &FileService, usize)) {
    let fixture = Fixture::new();
    let workspace = fixture.inside("workspace");
    fs::create_dir(workspace.join("x")).unwrap();
    fs::write(workspace.join("x/canary"), "harmless").unwrap();
    fs::write(workspace.join("f"), "harmless").unwrap();
    symlink("../../outside", workspace.join("x-trap")).unwrap();
    symlink("../../outside/canary", workspace.join("f-trap")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for name in ["x", "f"] {
                    let trap = workspace.join(format!("{name}-trap"));
                    // Fails when the work has just removed one of them.
                    let _ =
                        renameat_with(CWD, workspace.join(name), CWD, trap, RenameFlags::EXCHANGE);
                }
            }
        });
        let _stop = Stop(&stop);
        for round in 0..ROUNDS {
            work(&fixture, &fixture.service, round);
        }
    });
    fixture.assert_outside_untouched();
}

#[test]
fn reading_stays_inside() {
    while_swapping(|fixture, service, _| {
        for path in ["x/canary", "f"] {
            if let Ok(content) = fixture.read(path) {
                assert_ne!(content, CANARY.as_bytes());
            }
        }
        for file in service.list("x", 2).unwrap_or_default() {
            assert_eq!(file.size, "harmless".len() as u64);
        }
    });
}

#[test]
fn writing_stays_inside() {
    while_swapping(|fixture, _, _| {
        drop(fixture.write("x/canary", b"written!"));
        drop(fixture.write("f", b"written!"));
    });
}

#[test]
fn changing_modes_stays_inside() {
    while_swapping(|_, service, round| {
        let mode = FileMode::from_bits(if round % 2 == 0 { 0o600 } else { 0o666 });
        drop(service.chmod("x/canary", mode));
        drop(service.chmod("f", mode));
    });
}

#[test]
fn removing_stays_inside() {
    while_swapping(|fixture, service, _| {
        drop(service.remove("x/canary", false));
        drop(service.remove("x", true));
        drop(service.remove("f", true));
        // Laid out again for the next round, under whichever name is free.
        let workspace = fixture.inside("workspace");
        for name in ["x", "x-trap"] {
            let _ = fs::create_dir(workspace.join(name));
            let _ = symlink("../../outside", workspace.join(name));
        }
        for name in ["f", "f-trap"] {
            let _ = symlink("../../outside/canary", workspace.join(name));
        }
    });
}

#[test]
fn moving_and_unpacking_stay_inside() {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(8);
    header.set_mode(0o666);
    header.set_cksum();
    builder
        .append_data(&mut header, "x/canary", &b"unpacked"[..])
        .unwrap();
    let packed = builder.into_inner().unwrap();
    while_swapping(|_, service, _| {
        drop(service.rename("x/canary", "x/other"));
        drop(service.rename("x/other", "x/canary"));
        drop(service.archive_in(".", &mut packed.as_slice()));
        let mut out = Vec::new();
        if service.archive_out("x", &mut out).is_ok() {
            assert!(!String::from_utf8_lossy(&out).contains(CANARY));
        }
        drop(service.mkdir("x/new/directory", FileMode::DIRECTORY));
    });
}
