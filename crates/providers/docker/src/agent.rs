//! The agent in a container: where it stands, and how it is started.
//!
//! Its one rule: the image has no say. The agent is the container's first process whatever the
//! image's entry point is, and it needs nothing of the image: no shell, no library, no file.

use bollard::models::{Mount, MountType, MountVolumeOptions};

use crate::parameters::Capabilities;

/// Where the program's directory is.
pub(crate) const PROGRAM_DIR: &str = "/.stacyvm/bin";
/// The program.
pub(crate) const PROGRAM: &str = "/.stacyvm/bin/agent";
/// Where it listens; a file system of its own in memory, closed to everybody but root.
pub(crate) const RUN_DIR: &str = "/.stacyvm/run";
/// The socket below the container's root, without the first slash.
pub(crate) const SOCKET: &str = ".stacyvm/run/agent.sock";
/// How that file system is mounted.
pub(crate) const RUN_OPTIONS: &str = "rw,nosuid,nodev,noexec,size=64k,mode=0700";
/// The agent's exit code when the user that it was given does not exist in the image.
pub(crate) const NO_SUCH_USER: i64 = 3;

/// How the program comes into a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A file of the engine's machine, mounted.
    File(String),
    /// A volume that has it, filled by us.
    Volume(String),
}

impl Source {
    /// As the engine is told.
    pub(crate) fn mount(&self) -> Mount {
        let (typ, source, target) = match self {
            Self::File(path) => (MountType::BIND, path, PROGRAM),
            Self::Volume(name) => (MountType::VOLUME, name, PROGRAM_DIR),
        };
        Mount {
            typ: Some(typ),
            source: Some(source.clone()),
            target: Some(target.to_owned()),
            read_only: Some(true),
            volume_options: matches!(self, Self::Volume(_)).then(|| MountVolumeOptions {
                no_copy: Some(true),
                ..MountVolumeOptions::default()
            }),
            ..Mount::default()
        }
    }
}

/// Who the sandbox's own user is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User<'a> {
    /// The one that every sandbox has unless something else is said: number 1000, `user`.
    Usual,
    /// As the image's own account files have it.
    Named(&'a str),
}

/// The agent's command line.
pub(crate) fn command(user: User<'_>, root: Capabilities) -> Vec<String> {
    let socket = format!("/{SOCKET}");
    let mut words = vec!["--init", "--prepare", "--stdio", "--socket", &socket];
    match user {
        User::Usual => words.extend(["--uid", "1000", "--gid", "1000"]),
        User::Named(name) => words.extend(["--user", name]),
    }
    let mask = root.hexadecimal();
    if !root.is_empty() {
        words.extend(["--root-caps", &mask]);
    }
    words.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_command_line_says_who_runs_and_with_what() {
        let none = Capabilities::default();
        let usual = command(User::Usual, none).join(" ");
        assert!(usual.ends_with("--uid 1000 --gid 1000"), "{usual}");
        let some = Capabilities::of_root(&["ALL".to_owned()], &["KILL".to_owned()]).unwrap();
        let named = command(User::Named("web:staff"), some).join(" ");
        assert!(
            named.ends_with("--user web:staff --root-caps 20"),
            "{named}"
        );
    }

    #[test]
    fn the_program_is_mounted_read_only_either_way() {
        for source in [
            Source::File("/data/agent".to_owned()),
            Source::Volume("stacyvm-agent-1".to_owned()),
        ] {
            let mount = source.mount();
            assert_eq!(mount.read_only, Some(true));
            assert!(PROGRAM.starts_with(&mount.target.unwrap()));
        }
    }
}
