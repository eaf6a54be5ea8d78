//! The agent in a container: where its files are, and how it is started.
//!
//! The one rule: nothing depends on the image. The agent is the container's first process whatever
//! the image's entry point is, and it needs no shell, library or file of the image.

use bollard::models::{Mount, MountType, MountVolumeOptions};

use crate::parameters::Capabilities;

/// The directory with the program in a container.
pub(crate) const PROGRAM_DIR: &str = "/.stacyvm/bin";
/// The program in a container.
pub(crate) const PROGRAM: &str = "/.stacyvm/bin/agent";
/// The directory with the agent's socket: a file system of its own in memory, open to root alone.
pub(crate) const RUN_DIR: &str = "/.stacyvm/run";
/// The agent's socket, relative to the container's root.
pub(crate) const SOCKET: &str = ".stacyvm/run/agent.sock";
/// The mount options of [`RUN_DIR`].
pub(crate) const RUN_OPTIONS: &str = "rw,nosuid,nodev,noexec,size=64k,mode=0700";
/// The agent's exit code when the user that it was given does not exist in the image.
pub(crate) const NO_SUCH_USER: i64 = 3;

/// How the program gets into a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AgentSource {
    /// A file of the engine's machine, mounted.
    File(String),
    /// A volume that this server has filled, by its name.
    Volume(String),
}

impl AgentSource {
    /// The mount in the engine's form.
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

/// The user that a sandbox's commands run as unless they name another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AgentUser<'a> {
    /// The one that neither spawn nor image has named: `user`, number 1000.
    Default,
    /// A user of the image's own account files.
    Named(&'a str),
}

/// The agent's command line.
pub(crate) fn command(user: AgentUser<'_>, root: Capabilities) -> Vec<String> {
    let socket = format!("/{SOCKET}");
    let mut words = vec!["--init", "--prepare", "--stdio", "--socket", &socket];
    match user {
        AgentUser::Default => words.extend(["--uid", "1000", "--gid", "1000"]),
        AgentUser::Named(name) => words.extend(["--user", name]),
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
        let usual = command(AgentUser::Default, none).join(" ");
        assert!(usual.ends_with("--uid 1000 --gid 1000"), "{usual}");
        let some = Capabilities::of_root(&["ALL".to_owned()], &["KILL".to_owned()]).unwrap();
        let named = command(AgentUser::Named("web:staff"), some).join(" ");
        assert!(
            named.ends_with("--user web:staff --root-caps 20"),
            "{named}"
        );
    }

    #[test]
    fn the_program_is_mounted_read_only_either_way() {
        for source in [
            AgentSource::File("/data/agent".to_owned()),
            AgentSource::Volume("stacyvm-agent-1".to_owned()),
        ] {
            let mount = source.mount();
            assert_eq!(mount.read_only, Some(true));
            assert!(PROGRAM.starts_with(&mount.target.unwrap()));
        }
    }
}
