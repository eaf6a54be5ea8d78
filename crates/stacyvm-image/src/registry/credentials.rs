//! Finding credentials: the caller's, then those that `docker login` left.
//!
//! Docker's `config.json` names helper programs for a registry or for all, or has the password
//! itself. A registry without credentials is no error: most give images without a login.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::{Credentials, ImageError, Login, Secret};

/// The key of Docker Hub in Docker's configuration.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// The largest configuration, and the largest answer of a helper, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;
/// How long a helper may take: some ask the user's key ring.
const HELPER_TIMEOUT: Duration = Duration::from_secs(30);
/// The name that says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct DockerConfig {
    auths: HashMap<String, StoredLogin>,
    creds_store: String,
    cred_helpers: HashMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StoredLogin {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

/// How to log in to `registry`, when there is a way.
pub(crate) fn find(credentials: &Credentials, registry: &str) -> Result<Option<Login>, ImageError> {
    if let Some(login) = credentials.logins.get(registry) {
        return Ok(Some(login.clone()));
    }
    let Some(path) = &credentials.docker_config else {
        return Ok(None);
    };
    find_in(path, registry).map_err(|reason| ImageError::Credentials {
        registry: registry.to_owned(),
        reason,
    })
}

fn find_in(path: &Path, registry: &str) -> Result<Option<Login>, String> {
    let config = read(path)?;
    let key = match registry {
        "docker.io" => DOCKER_HUB_KEY,
        other => other,
    };
    let helper = config
        .cred_helpers
        .iter()
        .find(|(name, _)| host_of(name) == host_of(key))
        .map(|(_, helper)| helper)
        .or(Some(&config.creds_store))
        .filter(|helper| !helper.is_empty());
    if let Some(helper) = helper
        && let Some(login) = ask(helper, key)?
    {
        return Ok(Some(login));
    }
    let found = config.auths.get(key).or_else(|| {
        let mut names: Vec<_> = config.auths.iter().collect();
        // Several spellings of one registry: always the same one is taken.
        names.sort_by_key(|(name, _)| *name);
        let same = names
            .into_iter()
            .find(|(name, _)| host_of(name) == host_of(key));
        same.map(|(_, auth)| auth)
    });
    found.map_or(Ok(None), login_of)
}

fn read(path: &Path) -> Result<DockerConfig, String> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(DockerConfig::default());
        }
        Err(error) => return Err(format!("Docker's config.json: {error}")),
    };
    let mut text = Vec::new();
    file.take(MAX_BYTES)
        .read_to_end(&mut text)
        .map_err(|error| format!("Docker's config.json: {error}"))?;
    serde_json::from_slice(&text).map_err(|error| {
        // Only where: serde shows values, and here they are secrets.
        format!("Docker's config.json is not valid in line {}", error.line())
    })
}

fn login_of(auth: &StoredLogin) -> Result<Option<Login>, String> {
    if !auth.identitytoken.is_empty() {
        return Ok(Some(Login::IdentityToken(Secret::new(
            auth.identitytoken.as_str(),
        ))));
    }
    let (user, password) = match auth.auth.is_empty() {
        true => (auth.username.clone(), auth.password.clone()),
        false => {
            let decoded = STANDARD
                .decode(auth.auth.trim())
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok());
            let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
            let (user, password) = pair
                .ok_or("its \"auth\" in Docker's config.json is not the base64 of NAME:PASSWORD")?;
            // Old versions of Docker padded with zeros.
            (user.to_owned(), password.trim_end_matches('\0').to_owned())
        }
    };
    Ok((!user.is_empty()).then(|| Login::Password {
        user,
        password: Secret::new(password),
    }))
}

/// Host and port of a name in the configuration, which may be an address with a path.
fn host_of(name: &str) -> &str {
    let rest = name
        .strip_prefix("https://")
        .or_else(|| name.strip_prefix("http://"))
        .unwrap_or(name);
    rest.split('/').next().unwrap_or(rest)
}

/// Asks the program `docker-credential-<helper>`.
fn ask(helper: &str, key: &str) -> Result<Option<Login>, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !helper.chars().all(plain) {
        return Err("a credential helper of Docker's config.json has an odd name".to_owned());
    }
    let program = format!("docker-credential-{helper}");
    let failed = |what: &str| format!("{program} {what}");
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed(&format!("cannot be run: {error}")))?;
    if let Some(mut input) = child.stdin.take() {
        // A helper that does not read its input says why by its exit code.
        let _ = input.write_all(key.as_bytes());
    }
    let output = child.stdout.take();
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(output) = output {
            let _ = output.take(MAX_BYTES).read_to_end(&mut text);
        }
        text
    });
    let Some(status) = wait(&mut child) else {
        let _ = child.kill();
        let _ = child.wait();
        return Err(failed("does not answer"));
    };
    // A grandchild may hold the pipe open for ever.
    let until = Instant::now() + Duration::from_secs(5);
    while !reader.is_finished() && Instant::now() < until {
        thread::sleep(Duration::from_millis(5));
    }
    if !reader.is_finished() {
        return Err(failed("does not close its output"));
    }
    let text = reader.join().unwrap_or_default();
    if !status.success() {
        // The helpers' own way to say that they have nothing.
        return match String::from_utf8_lossy(&text).contains("credentials not found") {
            true => Ok(None),
            false => Err(failed("failed")),
        };
    }
    let answer: HelperAnswer =
        serde_json::from_slice(&text).map_err(|_| failed("gave no credentials"))?;
    let secret = Secret::new(answer.secret);
    Ok(Some(match answer.username.as_str() {
        TOKEN_USER => Login::IdentityToken(secret),
        _ => Login::Password {
            user: answer.username,
            password: secret,
        },
    }))
}

fn wait(child: &mut Child) -> Option<std::process::ExitStatus> {
    let until = Instant::now() + HELPER_TIMEOUT;
    while Instant::now() < until {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(5));
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn password(user: &str, password: &str) -> Login {
        Login::Password {
            user: user.to_owned(),
            password: Secret::new(password),
        }
    }

    #[test]
    fn the_configuration_of_docker_is_read() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("config.json");
        let credentials = Credentials {
            docker_config: Some(path.clone()),
            ..Credentials::anonymous()
        };
        assert_eq!(find(&credentials, "ghcr.io").unwrap(), None);
        let text = serde_json::json!({
            "auths": {
                "https://index.docker.io/v1/": {"auth": STANDARD.encode("me:a:b")},
                "https://ghcr.io/v2/": {"auth": STANDARD.encode("you:c\0\0")},
                "localhost:5000": {"username": "u", "password": "p"},
                "quay.io": {"identitytoken": "t", "auth": STANDARD.encode("x:y")},
                "empty.example": {},
                "broken.example": {"auth": "%%%"},
            },
            "credHelpers": {"odd.example": "../../bin/sh", "none.example": "there-is-no-such-one"},
        });
        std::fs::write(&path, text.to_string()).unwrap();
        for (registry, login) in [
            ("docker.io", Some(password("me", "a:b"))),
            ("ghcr.io", Some(password("you", "c"))),
            ("localhost:5000", Some(password("u", "p"))),
            ("quay.io", Some(Login::IdentityToken(Secret::new("t")))),
            ("empty.example", None),
            ("localhost", None),
        ] {
            assert_eq!(find(&credentials, registry).unwrap(), login, "{registry}");
        }
        for wrong in ["broken.example", "odd.example", "none.example"] {
            let error = find(&credentials, wrong).unwrap_err();
            assert!(matches!(error, ImageError::Credentials { .. }), "{error}");
        }
        std::fs::write(&path, r#"{"auths": {"a": {"auth": ["hunter2"]}}}"#).unwrap();
        let error = find(&credentials, "ghcr.io").unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        let mut own = credentials;
        own.logins.insert("ghcr.io".to_owned(), password("a", "b"));
        assert_eq!(find(&own, "ghcr.io").unwrap(), Some(password("a", "b")));
    }
}
