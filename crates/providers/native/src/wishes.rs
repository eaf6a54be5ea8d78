//! What an image wants for the commands that run in it, and what a spawn wants instead.
//!
//! An image's maker is a stranger: what makes no sense in a variable is left out, a user that is
//! not there is an error, and a directory that cannot be is replaced by `/workspace`.

use std::path::Path;

use stacyvm_image::ImageConfig;
use stacyvm_provider::ops::OpError;
use stacyvm_provider::{AgentSandbox, BoxSpec, ProviderError, SandboxOps};
use stacyvm_types::FileMode;

use crate::agent::Configure;
use crate::users::{self, User};

/// More variables than any honest image has; the rest is left out.
const MAX_VARIABLES: usize = 1024;
/// The longest variable, with its name, bytes: what the kernel takes (MAX_ARG_STRLEN).
const MAX_VARIABLE: usize = 128 * 1024 - 1;

/// Who commands run as: the spawn's user, else the image's, else uid 1000. Blocks.
pub(crate) fn user(
    spec: &BoxSpec,
    config: Option<&ImageConfig>,
    rootfs: &Path,
) -> Result<User, ProviderError> {
    if let Some(user) = spec.user.as_deref().filter(|user| !user.is_empty()) {
        return users::resolve(Some(user), rootfs);
    }
    let Some(wanted) = config.and_then(|config| config.user.as_deref()) else {
        return users::resolve(None, rootfs);
    };
    users::of_image(wanted, rootfs).map_err(|error| match error {
        ProviderError::Invalid(reason) => ProviderError::Invalid(format!(
            "the image's own user cannot be used: {reason}; hint: name a user in the request"
        )),
        other => other,
    })
}

/// What the agent gives to commands that say nothing.
pub(crate) fn defaults(spec: &BoxSpec, config: Option<&ImageConfig>, user: User) -> Configure {
    let mut env = spec.env.clone();
    let variables = config.map(|config| config.env.as_slice());
    for (name, value) in variables
        .into_iter()
        .flatten()
        .filter_map(|text| variable(text))
        .take(MAX_VARIABLES)
    {
        env.entry(name.to_owned())
            .or_insert_with(|| value.to_owned());
    }
    let image_user = config.is_some_and(|config| config.user.is_some());
    let user = match &spec.user {
        Some(user) if !user.is_empty() => Some(user.clone()),
        // As numbers: a group that the image names is no name of a user to the agent.
        _ => image_user.then(|| format!("{}:{}", user.uid, user.gid)),
    };
    let workdir = spec.workdir.clone().or_else(|| {
        let wanted = config?.working_dir.as_deref()?;
        is_place(wanted).then(|| wanted.to_owned())
    });
    Configure { env, user, workdir }
}

/// Whether an image's directory is there, after it was made if need be. The sandbox's user makes
/// it, so it comes into being where that user may.
pub(crate) async fn stands(sandbox: &AgentSandbox, place: &str) -> bool {
    match sandbox.stat(place).await {
        // A link is followed by whoever starts a command there.
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
    use super::*;
    use stacyvm_provider::NetworkMode;
    use stacyvm_types::{Isolation, SandboxId};

    const USER: User = User { uid: 33, gid: 34 };

    fn spec() -> BoxSpec {
        BoxSpec {
            id: SandboxId::from_u32(1),
            image: "x".to_owned(),
            isolation: Isolation::Container,
            memory_mb: 1,
            vcpus: stacyvm_types::Vcpus::ONE,
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

    fn config() -> ImageConfig {
        ImageConfig {
            env: ["A=image", "B=x=y", "=no", "none", "C=\0"]
                .map(str::to_owned)
                .into(),
            working_dir: Some("/app".to_owned()),
            user: Some("web".to_owned()),
            ..ImageConfig::default()
        }
    }

    #[test]
    fn the_image_fills_in_what_the_spawn_leaves_open() {
        let made = defaults(&spec(), Some(&config()), USER);
        let env: Vec<(&str, &str)> = made
            .env
            .iter()
            .map(|(a, b)| (a.as_str(), b.as_str()))
            .collect();
        assert_eq!(env, [("A", "spawn"), ("B", "x=y")]);
        assert_eq!(made.user.as_deref(), Some("33:34"));
        assert_eq!(made.workdir.as_deref(), Some("/app"));

        let mut spec = spec();
        spec.user = Some("root".to_owned());
        spec.workdir = Some("/tmp".to_owned());
        let made = defaults(&spec, Some(&config()), USER);
        assert_eq!(made.user.as_deref(), Some("root"));
        assert_eq!(made.workdir.as_deref(), Some("/tmp"));
    }

    #[test]
    fn an_image_that_wants_nothing_changes_nothing() {
        for config in [None, Some(&ImageConfig::default())] {
            let made = defaults(&spec(), config, USER);
            assert_eq!((made.user, made.workdir), (None, None));
            assert_eq!(made.env.len(), 1);
        }
        let mut config = config();
        config.working_dir = Some("relative".to_owned());
        assert_eq!(defaults(&spec(), Some(&config), USER).workdir, None);
    }

    #[test]
    fn the_users_of_image_and_spawn_are_looked_up_in_the_image() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("etc")).unwrap();
        std::fs::write(home.path().join("etc/passwd"), "web:x:33:34::/:/bin/sh\n").unwrap();
        let find = |spec: &BoxSpec, config: Option<&ImageConfig>| {
            user(spec, config, home.path()).map(|user| (user.uid, user.gid))
        };
        assert_eq!(find(&spec(), Some(&config())).unwrap(), (33, 34));
        assert_eq!(find(&spec(), None).unwrap(), (1000, 1000));
        let mut root = spec();
        root.user = Some("root".to_owned());
        assert_eq!(find(&root, Some(&config())).unwrap(), (0, 0));
        let mut unknown = config();
        unknown.user = Some("nobody-knows".to_owned());
        let error = find(&spec(), Some(&unknown)).unwrap_err();
        assert!(error.to_string().contains("name a user"), "{error}");
    }
}
