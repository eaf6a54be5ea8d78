//! How registries are reached: mirrors, certificates, and credentials.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use crate::ImageError;

/// How registries are reached. The default asks every registry over TLS, uses no
/// mirror, and logs in with what `docker login` left in the environment's configuration.
#[derive(Clone, Debug, Default)]
pub struct Registries {
    /// Where else the images of a registry are, by the registry's name: each is asked in order
    /// before the registry itself. `https://HOST[:PORT][/PREFIX]`, `http://…` or without a scheme,
    /// which means TLS.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Registries, `HOST[:PORT]`, that may be asked without TLS. `localhost` and addresses of the
    /// loopback may too, once they are in [`private`](Self::private).
    pub insecure: BTreeSet<String>,
    /// Registries on this machine or in private networks that may be asked, beside mirrors and those
    /// without TLS: `HOST`, `HOST:PORT`, or a range of addresses like `10.1.0.0/16`. All others
    /// must be on the internet.
    pub private: BTreeSet<String>,
    /// Token services on other hosts that get a registry's login, `HOST[:PORT]`, by the registry's
    /// name.
    pub token_hosts: BTreeMap<String, Vec<String>>,
    /// Files with certificates, in PEM, of authorities to be trusted beside the system's.
    pub certificates: Vec<PathBuf>,
    /// How to log in.
    pub credentials: Credentials,
}

/// Where names and passwords come from.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Logins by registry; they win over the configuration of Docker.
    pub logins: BTreeMap<String, Login>,
    /// Docker's `config.json`; absent: nothing is looked up. A file that is not there is an empty one.
    pub docker_config: Option<PathBuf>,
}

impl Credentials {
    /// No credentials at all.
    pub fn anonymous() -> Self {
        Self {
            logins: BTreeMap::new(),
            docker_config: None,
        }
    }

    /// How to log in to `registry`, when there is a way. Blocks: a helper program may be asked.
    ///
    /// # Errors
    /// When the configuration cannot be read, or a helper fails.
    pub fn find(&self, registry: &str) -> Result<Option<Login>, ImageError> {
        crate::registry::find_login(self, registry)
    }
}

impl Default for Credentials {
    /// `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`.
    fn default() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let directory = variable("DOCKER_CONFIG")
            .map(PathBuf::from)
            .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".docker")));
        Self {
            logins: BTreeMap::new(),
            docker_config: directory.map(|directory| directory.join("config.json")),
        }
    }
}

/// How to log in to one registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// A name and a password.
    Password {
        /// The name.
        user: String,
        /// The password, or an access token in its place.
        password: Secret,
    },
    /// What an earlier login gave, to be changed for a short-lived token.
    IdentityToken(Secret),
}

/// A text that no log, error or debug print shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Whether this registry, `HOST[:PORT]`, is this machine.
pub(crate) fn is_loopback(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        _ => registry,
    };
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn secrets_do_not_show() {
        let login = Login::Password {
            user: "me".to_owned(),
            password: Secret::new("hunter2"),
        };
        let credentials = Credentials {
            logins: BTreeMap::from([("ghcr.io".to_owned(), login)]),
            docker_config: None,
        };
        let registries = Registries {
            credentials,
            ..Registries::default()
        };
        let shown = format!("{registries:?}");
        assert!(
            shown.contains("me") && !shown.contains("hunter2"),
            "{shown}"
        );
    }

    #[test]
    fn only_this_machine_is_the_loopback() {
        for (registry, loopback) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.8.0.1", true),
            ("[::1]:5000", true),
            ("docker.io", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example:80", false),
            ("10.0.0.1:5000", false),
        ] {
            assert_eq!(is_loopback(registry), loopback, "{registry}");
        }
    }
}
