//! What an image wants for the commands that run in it, under what a spawn wants.
//!
//! The same for every provider that makes boxes from images. An image's maker is a stranger: what
//! makes no sense in a variable is left out, and a directory that cannot be is replaced by
//! `/workspace`.

use stacyvm_types::FileMode;

use crate::ops::{Configure, OpError};
use crate::{AgentSandbox, BoxSpec, Files as _};

/// More variables than any honest image has; the rest is left out.
const MAX_VARIABLES: usize = 1024;
/// The longest variable, with its name, bytes: what the kernel takes (MAX_ARG_STRLEN).
const MAX_VARIABLE: usize = 128 * 1024 - 1;

/// What an image says about how it wants to be run.
#[derive(Clone, Copy, Debug, Default)]
pub struct ImageDefaults<'a> {
    /// `NAME=VALUE` each.
    pub env: &'a [String],
    /// Where commands start.
    pub working_dir: Option<&'a str>,
}

impl ImageDefaults<'_> {
    /// What the agent gives to commands that say nothing: the spawn's, else the image's. Who they
    /// run as is the provider's affair, `user`.
    pub fn under(&self, spec: &BoxSpec, user: Option<String>) -> Configure {
        let mut env = spec.env.clone();
        let variables = self.env.iter().filter_map(|text| variable(text));
        for (name, value) in variables.take(MAX_VARIABLES) {
            env.entry(name.to_owned())
                .or_insert_with(|| value.to_owned());
        }
        let workdir = spec.workdir.clone().or_else(|| {
            let wanted = self.working_dir?;
            is_place(wanted).then(|| wanted.to_owned())
        });
        Configure { env, user, workdir }
    }
}

/// Whether an image's directory is there, after it was made if need be. The sandbox's user makes
/// it, so it comes into being where that user may.
pub async fn directory_stands(sandbox: &AgentSandbox, place: &str) -> bool {
    match sandbox.stat(place).await {
        // A link is followed when a command starts there.
        Ok(info) => info.is_dir || info.is_symlink,
        Err(OpError::NotFound(_)) => sandbox.mkdir(place, FileMode::DIRECTORY).await.is_ok(),
        Err(_) => false,
    }
}

fn variable(text: &str) -> Option<(&str, &str)> {
    let (name, value) = text.split_once('=')?;
    let fits = !name.is_empty() && text.len() <= MAX_VARIABLE && !text.contains('\0');
    fits.then_some((name, value))
}

fn is_place(path: &str) -> bool {
    path.starts_with('/') && path.len() < 4096 && !path.contains('\0')
}

#[cfg(test)]
mod tests {
    use stacyvm_types::{Isolation, SandboxId, Vcpus};

    use super::*;
    use crate::NetworkMode;

    fn spec() -> BoxSpec {
        BoxSpec {
            id: SandboxId::from_u32(1),
            image: "x".to_owned(),
            isolation: Isolation::Container,
            memory_mb: 1,
            vcpus: Vcpus::ONE,
            open_files: 1024,
            disk_mb: None,
            pids_limit: 1,
            read_only_rootfs: false,
            network: NetworkMode::None,
            user: None,
            workdir: None,
            env: [("A".to_owned(), "spawn".to_owned())].into(),
        }
    }

    #[test]
    fn the_image_fills_in_what_the_spawn_leaves_open() {
        let env = ["A=image", "B=x=y", "=no", "none", "C=\0"].map(str::to_owned);
        let image = ImageDefaults {
            env: &env,
            working_dir: Some("/app"),
        };
        let made = image.under(&spec(), Some("33:34".to_owned()));
        let made_env: Vec<(&str, &str)> = made
            .env
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(made_env, [("A", "spawn"), ("B", "x=y")]);
        assert_eq!(made.user.as_deref(), Some("33:34"));
        assert_eq!(made.workdir.as_deref(), Some("/app"));

        let mut spec = spec();
        spec.workdir = Some("/tmp".to_owned());
        assert_eq!(image.under(&spec, None).workdir.as_deref(), Some("/tmp"));
    }

    #[test]
    fn an_image_that_wants_nothing_changes_nothing() {
        let made = ImageDefaults::default().under(&spec(), None);
        assert_eq!((made.user, made.workdir, made.env.len()), (None, None, 1));
        let odd = ImageDefaults {
            working_dir: Some("relative"),
            ..ImageDefaults::default()
        };
        assert_eq!(odd.under(&spec(), None).workdir, None);
    }
}
