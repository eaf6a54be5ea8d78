//! Looking up the user of a spawn: its numbers in the image.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, open};
use stacyvm_provider::ProviderError;

use crate::slots::IDS_PER_SLOT;

/// The number of the sandbox's user when a spawn names none, and of the user's group.
pub(crate) const DEFAULT_ID: u32 = 1000;
/// More than any `/etc/passwd` that a person would read.
const MAX_PASSWD: u64 = 1024 * 1024;

/// A user and a group, as numbers inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Resolves the user of a spawn. `rootfs` is the layer that has the image's `/etc/passwd`; it is
/// opened only for a name that must be looked up. Blocks.
pub(crate) fn resolve(user: Option<&str>, rootfs: &Path) -> Result<User, ProviderError> {
    match user {
        None | Some("" | "user" | "1000") => Ok(User {
            uid: DEFAULT_ID,
            gid: DEFAULT_ID,
        }),
        Some("root" | "0") => Ok(User { uid: 0, gid: 0 }),
        Some(name) => look_up(name, rootfs),
    }
}

/// Resolves the user that an image names: its own account files decide, also about `user`. Blocks.
pub(crate) fn of_image(user: &str, rootfs: &Path) -> Result<User, ProviderError> {
    match look_up(user, rootfs) {
        Err(_) if user == "root" => Ok(User { uid: 0, gid: 0 }),
        found => found,
    }
}

fn look_up(name: &str, rootfs: &Path) -> Result<User, ProviderError> {
    let unknown = || {
        let shown: String = name.chars().take(64).collect();
        ProviderError::Invalid(format!("user {shown:?} does not exist in the image"))
    };
    let (user, group) = match name.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (name, None),
    };
    let passwd = read_accounts(rootfs, "etc/passwd").unwrap_or_default();
    let entry = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?;
        let gid = fields.next()?;
        (name == user || uid == user).then(|| Some((uid.parse().ok()?, gid.parse().ok()?)))?
    });
    let number = user.parse::<u32>().ok();
    let uid = entry.map(|(uid, _)| uid).or(number).ok_or_else(unknown)?;
    let gid = match group {
        Some(group) => match group.parse() {
            Ok(number) => number,
            Err(_) => group_number(group, rootfs).ok_or_else(unknown)?,
        },
        None => entry.map_or(uid, |(_, gid)| gid),
    };
    if uid >= IDS_PER_SLOT || gid >= IDS_PER_SLOT {
        return Err(ProviderError::Invalid(format!(
            "users and groups of a sandbox are below {IDS_PER_SLOT}"
        )));
    }
    Ok(User { uid, gid })
}

/// The number of a group that is named.
fn group_number(group: &str, rootfs: &Path) -> Option<u32> {
    let text = read_accounts(rootfs, "etc/group").ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == group).then(|| fields.nth(1)?.parse().ok())?
    })
}

/// Reads the image's file as a program inside would: an absolute link means the image's own root.
fn read_accounts(rootfs: &Path, path: &str) -> io::Result<String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root: OwnedFd = open(rootfs, flags, Mode::empty())?;
    let file = stacyvm_sys::resolve::open(
        &root,
        path,
        OFlags::RDONLY | OFlags::NONBLOCK,
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )?;
    let mut bytes = Vec::new();
    File::from(file).take(MAX_PASSWD).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_in_the_image_and_nowhere_else() {
        let home = tempfile::tempdir().unwrap();
        let rootfs = home.path().join("rootfs");
        std::fs::create_dir_all(rootfs.join("etc")).unwrap();
        std::fs::create_dir_all(rootfs.join("real")).unwrap();
        std::fs::write(
            rootfs.join("real/passwd"),
            "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/:/bin/sh\nbig:x:70000:1::/:/bin/sh\n",
        )
        .unwrap();
        std::fs::write(rootfs.join("etc/group"), "staff:x:50:\nbig:x:70000:\n").unwrap();
        // A link that climbs: it must land in the image, not on the host.
        std::os::unix::fs::symlink("/../../real/passwd", rootfs.join("etc/passwd")).unwrap();

        let at = |user: Option<&str>| resolve(user, &rootfs).map(|user| (user.uid, user.gid));
        for (user, expected) in [
            (None, (1000, 1000)),
            (Some("user"), (1000, 1000)),
            (Some("root"), (0, 0)),
            (Some("web"), (33, 34)),
            (Some("33"), (33, 34)),
            (Some("web:7"), (33, 7)),
            (Some("web:staff"), (33, 50)),
            (Some("4242"), (4242, 4242)),
        ] {
            assert_eq!(at(user).unwrap(), expected, "{user:?}");
        }
        for wrong in ["daemon", "big", "65536", "-1", "web:x", "web:big", "../etc"] {
            assert!(
                matches!(at(Some(wrong)), Err(ProviderError::Invalid(_))),
                "{wrong}"
            );
        }
    }

    #[test]
    fn an_image_means_its_own_accounts() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("etc")).unwrap();
        let of = |user: &str| of_image(user, home.path()).map(|user| (user.uid, user.gid));
        assert_eq!(of("root").unwrap(), (0, 0), "without any account file");
        assert_eq!(of("0:0").unwrap(), (0, 0));
        assert!(of("user").is_err());
        std::fs::write(
            home.path().join("etc/passwd"),
            "user:x:999:998::/:/bin/sh\n",
        )
        .unwrap();
        assert_eq!(of("user").unwrap(), (999, 998));
        assert_eq!(of("1000").unwrap(), (1000, 1000));
    }
}
