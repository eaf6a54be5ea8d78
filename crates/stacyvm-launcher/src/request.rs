//! Checking a request before anything is made for it.
//!
//! The provider is trusted, its bugs are not: what would put a name or a mount where it does not
//! belong is refused here, so that no later step has to ask.

use std::path::{Component, Path};

use crate::control::{LaunchFailure, LaunchRequest};
use crate::failure::wrong;

const MAX_OVERLAYS: usize = 16;
const MAX_LOWERS: usize = 128;
/// The smallest share that the kernel takes, 1 ms of 100.
const MIN_VCPUS: f64 = 0.01;
const MAX_VCPUS: f64 = 65_536.0;
/// The longest host name, see sethostname(2).
const MAX_ID: usize = 64;

pub(crate) fn check(request: &LaunchRequest) -> Result<(), LaunchFailure> {
    let bad = |what: &str| Err(wrong("check the request", what));
    if request.id.is_empty()
        || request.id.len() > MAX_ID
        || !request
            .id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    {
        return bad("the id must be 1 to 64 letters, digits and hyphens");
    }
    if !is_plain(&request.box_dir) {
        return bad("the sandbox's directory must be an absolute path without `..`");
    }
    if request.overlays.is_empty() || request.overlays.len() > MAX_OVERLAYS {
        return bad("there must be 1 to 16 overlays");
    }
    for (number, overlay) in request.overlays.iter().enumerate() {
        if !is_plain(&overlay.target) || (number == 0) != (overlay.target == Path::new("/")) {
            return bad("the first overlay must be at `/` and the others below it");
        }
        let mut layers = overlay.lowers.iter().chain(&overlay.of_host);
        if !(1..=MAX_LOWERS).contains(&layers.clone().count()) {
            return bad("an overlay must have 1 to 128 layers");
        }
        if !layers.all(|layer| is_plain(layer)) {
            return bad("a layer must be an absolute path without `..`");
        }
    }
    if request.cgroup_parent.is_empty()
        || !Path::new(&request.cgroup_parent)
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
    {
        return bad("the cgroup parent must be a relative path without `..`");
    }
    let last = request.id_base.checked_add(request.id_count);
    if request.id_base == 0 || last.is_none() || request.id_count == 0 {
        return bad("the id range must not reach the host's root or wrap");
    }
    if request.uid >= request.id_count || request.gid >= request.id_count {
        return bad("the user must be inside the id range");
    }
    let limits = &request.limits;
    if limits.memory_bytes == 0 || limits.pids == 0 || limits.open_files == 0 {
        return bad("limits must not be 0");
    }
    if !(MIN_VCPUS..=MAX_VCPUS).contains(&limits.vcpus) {
        return bad("there must be 0.01 to 65,536 cores");
    }
    Ok(())
}

fn is_plain(path: &Path) -> bool {
    path.is_absolute()
        && path
            .components()
            .all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Limits, OverlaySpec};

    fn good() -> LaunchRequest {
        LaunchRequest {
            seq: 1,
            id: "sb-00c0ffee".into(),
            disk: false,
            box_dir: "/var/lib/box".into(),
            overlays: vec![
                OverlaySpec {
                    target: "/".into(),
                    lowers: vec!["/view".into()],
                    of_host: None,
                },
                OverlaySpec {
                    target: "/usr".into(),
                    lowers: Vec::new(),
                    of_host: Some("/usr".into()),
                },
            ],
            read_only_rootfs: false,
            id_base: 0x2000_0000,
            id_count: 65_536,
            uid: 1000,
            gid: 1000,
            limits: Limits {
                memory_bytes: 1 << 30,
                vcpus: 0.5,
                pids: 256,
                open_files: 1024,
                io: None,
            },
            cgroup_parent: "stacyvm/main".into(),
            network: None,
        }
    }

    #[test]
    fn takes_what_is_right_and_refuses_what_would_end_elsewhere() {
        assert_eq!(check(&good()), Ok(()));
        let breaks: [fn(&mut LaunchRequest); 19] = [
            |request| request.id = "../up".into(),
            |request| request.id = String::new(),
            |request| request.id = "x".repeat(65),
            |request| request.box_dir = "relative".into(),
            |request| request.box_dir = "/a/../etc".into(),
            |request| request.overlays.clear(),
            |request| request.overlays[0].target = "/usr".into(),
            |request| request.overlays[1].target = "/".into(),
            |request| request.overlays[1].target = "/../usr".into(),
            |request| request.overlays[0].lowers.clear(),
            |request| request.overlays[1].of_host = Some("/usr/../etc".into()),
            |request| request.cgroup_parent = "../other".into(),
            |request| request.cgroup_parent = "/absolute".into(),
            |request| request.id_base = 0,
            |request| request.uid = 70_000,
            |request| request.limits.vcpus = 0.0,
            |request| request.limits.vcpus = f64::NAN,
            |request| request.limits.vcpus = -1.0,
            |request| request.limits.open_files = 0,
        ];
        for (number, change) in breaks.iter().enumerate() {
            let mut request = good();
            change(&mut request);
            assert!(check(&request).is_err(), "change {number} went through");
        }
    }
}
