//! Layers on a file system that comes with the request.

use std::os::fd::{AsRawFd, OwnedFd};

use stacyvm_sys::mount::{self, Attributes, Parameter};

use crate::scripted;
use crate::support::{Fixture, Launcher};

/// A small file system, mounted nowhere, in which the sandbox finds `script`.
fn disk(script: &str) -> OwnedFd {
    let size = [Parameter::Text("size", "4m")];
    let disk = mount::filesystem("tmpfs", &size, Attributes::empty()).unwrap();
    let inside = format!("/proc/self/fd/{}/0/upper/workspace", disk.as_raw_fd());
    std::fs::create_dir_all(&inside).unwrap();
    std::fs::write(format!("{inside}/run.sh"), script).unwrap();
    disk
}

#[test]
fn what_is_written_goes_to_the_disk_that_came_along() {
    let Some(program) = scripted() else { return };
    for arguments in [&[][..], &["--overlay-by-path"]] {
        let home = Fixture::new(&format!("disk{}", arguments.len()));
        let mut launcher = Launcher::start(&program, arguments, None);
        let script = "head -c 1000000 /dev/zero > /tmp/fits || exit 1
head -c 9000000 /dev/zero > /tmp/hog && exit 2
exit 0
";
        for round in 0..2 {
            let id = format!("disk-{round}");
            let mut request = home.request(&id, false, "exit 9\n");
            request.disk = true;
            let disk = disk(script);
            let probe = disk.try_clone().unwrap();
            let mut sandbox = launcher.launch_with(&mut request, Some(disk)).unwrap();
            sandbox.set_up().unwrap();
            assert!(sandbox.ended());
            let place = format!("/proc/self/fd/{}/0/upper/tmp", probe.as_raw_fd());
            let fits = std::fs::metadata(format!("{place}/fits")).unwrap();
            assert_eq!(fits.len(), 1_000_000, "{arguments:?}");
            let hog = std::fs::metadata(format!("{place}/hog")).unwrap();
            assert!(hog.len() < 4 << 20, "{arguments:?}: {}", hog.len());
            let own = home.box_dir(&id).join("layers/0/upper/tmp");
            assert!(!own.exists(), "{arguments:?}: written beside the disk");
        }
        let mounts =
            std::fs::read_to_string(format!("/proc/{}/mountinfo", launcher.process.id())).unwrap();
        assert!(
            !mounts.contains("/stand "),
            "{arguments:?}: it stands still\n{mounts}"
        );
    }
}

#[test]
fn a_disk_and_the_word_for_it_come_together_or_not_at_all() {
    let Some(program) = scripted() else { return };
    let home = Fixture::new("disk-word");
    let mut launcher = Launcher::start(&program, &[], None);
    let mut request = home.request("without", false, "exit 0\n");
    request.disk = true;
    let failure = launcher.launch(&mut request).err().expect("refused");
    assert!(failure.message.contains("disk"), "{failure}");
    let mut request = home.request("unsaid", false, "exit 0\n");
    let refused = launcher.launch_with(&mut request, Some(disk("exit 0\n")));
    assert!(refused.err().expect("refused").message.contains("disk"));
}
