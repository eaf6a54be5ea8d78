//! The defaults of a sandbox's execs, from its image and its spawn.
//!
//! Images are not trusted: a user that the image names and does not have is an error.

use std::path::Path;

use stacyvm_image::ImageConfig;
use stacyvm_provider::ops::Configure;
use stacyvm_provider::{BoxSpec, ImageDefaults, ProviderError};

use crate::users::{self, User};

/// The user that commands run as: the spawn's, else the image's, else uid 1000. Blocks.
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

/// The environment, user and directory of commands that name none.
pub(crate) fn defaults(spec: &BoxSpec, config: Option<&ImageConfig>, user: User) -> Configure {
    let image = config.map_or_else(ImageDefaults::default, |config| ImageDefaults {
        env: &config.env,
        working_dir: config.working_dir.as_deref(),
    });
    let image_user = config.is_some_and(|config| config.user.is_some());
    let user = match &spec.user {
        Some(user) if !user.is_empty() => Some(user.clone()),
        // As numbers: a group that the image names is no name of a user to the agent.
        _ => image_user.then(|| format!("{}:{}", user.uid, user.gid)),
    };
    image.under(spec, user)
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
            env: ["A=image", "B=x=y"].map(str::to_owned).into(),
            working_dir: Some("/app".to_owned()),
            user: Some("web".to_owned()),
            ..ImageConfig::default()
        }
    }

    #[test]
    fn the_image_fills_in_what_the_spawn_leaves_open() {
        let made = defaults(&spec(), Some(&config()), USER);
        assert_eq!(
            (made.env["A"].as_str(), made.env["B"].as_str()),
            ("spawn", "x=y")
        );
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
