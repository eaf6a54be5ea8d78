//! Authentication of both sides: passwords, tokens, helpers, certificates.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use stacyvm_image::{Credentials, ImageError, Login, PullOptions, Reference, Secret};

use crate::builder::Image;
use crate::fixture::{Fixture, have};
use crate::proxy::{Action, Proxy};
use crate::registry::{Registry, Setup, options, reference};

fn with_password(registry: &str, user: &str, password: &str) -> PullOptions {
    let mut options = options();
    let login = Login::Password {
        user: user.to_owned(),
        password: Secret::new(password),
    };
    options
        .registries
        .credentials
        .logins
        .insert(registry.to_owned(), login);
    options
}

fn with_config(path: &Path) -> PullOptions {
    let mut options = options();
    options.registries.credentials = Credentials {
        docker_config: Some(path.to_owned()),
        ..Credentials::anonymous()
    };
    options
}

#[test]
fn a_registry_with_passwords_wants_the_right_one() {
    if !have("htpasswd") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let passwords = place.path().join("htpasswd");
    let made = Command::new("htpasswd")
        .args(["-B", "-b", "-n", "-C", "4", "me", "s3cret-word"])
        .output()
        .unwrap();
    assert!(made.status.success());
    fs::write(&passwords, made.stdout).unwrap();
    let setup = Setup {
        passwords: Some(&passwords),
        login: Some(("me", "s3cret-word")),
        ..Setup::default()
    };
    let Some(registry) = Registry::with(&setup) else {
        return;
    };
    registry.put(&Image::small("x"), "app", "latest");
    let name = registry.name();
    let reference = registry.reference("app");
    let fixture = Fixture::new();
    let pull = |options: &PullOptions| fixture.store.pull(&reference, options, &|_| {});
    let error = pull(&options()).unwrap_err();
    assert!(matches!(error, ImageError::LoginNeeded { .. }), "{error}");
    assert!(
        error.to_string().contains(&format!("docker login {name}")),
        "{error}"
    );
    let error = pull(&with_password(&name, "me", "wrong-word")).unwrap_err();
    assert!(matches!(error, ImageError::LoginRefused { .. }), "{error}");
    assert!(!format!("{error} {error:?}").contains("wrong-word"));

    // As `docker login` leaves it.
    let config = place.path().join("config.json");
    let auth = STANDARD.encode("me:s3cret-word");
    let text = json!({"auths": {format!("http://{name}/v2/"): {"auth": auth}}});
    fs::write(&config, text.to_string()).unwrap();
    pull(&with_config(&config)).unwrap();
    fixture
        .store
        .remove(&reference.to_string(), &|_| false)
        .unwrap();
    pull(&with_password(&name, "me", "s3cret-word")).unwrap();
}

#[test]
fn a_helper_program_is_asked_for_the_password() {
    let place = tempfile::tempdir().unwrap();
    let helper = format!("stacyvm-test-{}", std::process::id());
    let program = place.path().join(format!("docker-credential-{helper}"));
    let log = place.path().join("log");
    let script = format!(
        "#!/bin/sh\nread -r key\necho \"$1 $key\" >>{}\necho '{{\"ServerURL\":\"x\",\"Username\":\"me\",\"Secret\":\"word\"}}'\n",
        log.display()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let config = place.path().join("config.json");
    let wanted = format!("Basic {}", STANDARD.encode("me:word"));
    let unused = "127.0.0.1:9".parse().unwrap();
    let proxy = Proxy::start(unused, move |asked| {
        let known = asked.authorization.as_deref() == Some(wanted.as_str());
        match known {
            true => Action::Answer(404, vec![], String::new()),
            false => Action::Answer(
                401,
                vec!["www-authenticate: Basic realm=\"x\"".to_owned()],
                String::new(),
            ),
        }
    });
    let name = proxy.address.to_string();
    fs::write(&config, json!({"credHelpers": {&name: helper}}).to_string()).unwrap();
    // Helpers are looked for where programs are, so this one runs where the path can be set.
    let output = crate::child::run(
        "helper",
        &[
            ("CONFIG", config.to_str().unwrap()),
            ("REFERENCE", &format!("{name}/app")),
            ("STORE", place.path().join("store").to_str().unwrap()),
        ],
        Some(place.path()),
    );
    // With the right password it is heard that the image is not there.
    assert!(output.contains("not found"), "{output}");
    assert_eq!(fs::read_to_string(&log).unwrap(), format!("get {name}\n"));
}

#[test]
fn a_token_is_fetched_for_the_repository_and_used_for_all() {
    let Some(registry) = Registry::start() else {
        return;
    };
    registry.put(&Image::small("x"), "team/app", "latest");
    let logins = [None, Some(Login::IdentityToken(Secret::new("refresh")))];
    let password = Login::Password {
        user: "me".to_owned(),
        password: Secret::new("word"),
    };
    for login in logins.into_iter().chain([Some(password)]) {
        let address = std::sync::Arc::new(std::sync::OnceLock::<String>::new());
        let realm = std::sync::Arc::clone(&address);
        let proxy = Proxy::start(registry.address, move |asked| {
            if asked.path.starts_with("/token") {
                return Action::Answer(200, vec![], r#"{"token": "t0ken"}"#.to_owned());
            }
            if asked.authorization.as_deref() == Some("Bearer t0ken") || asked.path == "/v2/" {
                return Action::Pass;
            }
            let realm = realm.get().unwrap();
            let challenge = format!(
                "www-authenticate: Bearer realm=\"http://{realm}/token\",service=\"reg\",scope=\"repository:team/app:pull\""
            );
            Action::Answer(401, vec![challenge], String::new())
        });
        let name = proxy.address.to_string();
        address.set(name.clone()).unwrap();
        let mut options = options();
        if let Some(login) = &login {
            let logins = &mut options.registries.credentials.logins;
            logins.insert(name, login.clone());
        }
        let fixture = Fixture::new();
        let reference = reference(proxy.address, "team/app");
        fixture.store.pull(&reference, &options, &|_| {}).unwrap();
        let asked = proxy.asked();
        let tokens: Vec<_> = asked
            .iter()
            .filter(|asked| asked.path.starts_with("/token"))
            .collect();
        assert_eq!(tokens.len(), 1, "{asked:?}");
        let token = tokens[0];
        let basic = format!("Basic {}", STANDARD.encode("me:word"));
        match login {
            None => assert_eq!(token.authorization, None),
            Some(Login::Password { .. }) => assert_eq!(token.authorization, Some(basic)),
            // Sent as a form, not in the address.
            Some(Login::IdentityToken(_)) => assert_eq!(token.path, "/token"),
        }
        if token.path != "/token" {
            assert!(
                token.path.contains("scope=repository%3Ateam%2Fapp%3Apull"),
                "{}",
                token.path
            );
            assert!(token.path.contains("service=reg"), "{}", token.path);
        }
    }
}

#[test]
fn a_certificate_of_a_known_authority_is_needed() {
    if !have("openssl") {
        return;
    }
    let Some(plain) = Registry::start() else {
        return;
    };
    plain.put(&Image::small("x"), "app", "latest");
    let place = tempfile::tempdir().unwrap();
    let (certificate, key) = (place.path().join("cert.pem"), place.path().join("key.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ])
        .args(["-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let setup = Setup {
        tls: Some((&certificate, &key)),
        data: Some(plain.data()),
        ..Setup::default()
    };
    let registry = Registry::with(&setup).unwrap();
    let fixture = Fixture::new();
    // A registry that speaks TLS needs a trusted certificate, on the loopback too.
    for host in ["localhost", "127.0.0.1"] {
        let name = format!("{host}:{}/app", registry.address.port());
        let reference = Reference::parse(&name).unwrap();
        let mut options = options();
        // The error of a registry that the configuration names tells the reason.
        let named = reference.registry().to_owned();
        options.registries.private.insert(named);
        let pull = |options: &_| fixture.store.pull(&reference, options, &|_| {});
        let error = pull(&options).unwrap_err();
        assert!(error.to_string().contains("no TLS"), "{error}");
        options.registries.certificates = vec![certificate.clone()];
        pull(&options).unwrap();
    }
}
