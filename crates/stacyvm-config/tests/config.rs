//! Files, variables and flags as an operator writes them, and what comes of them.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use stacyvm_config::{ConfigError, Loaded, Loader, LogFormat, Origin, ProviderChoice, PullPolicy};

const BUILT: [&str; 2] = ["native", "mock"];

fn with_file(text: &str) -> (tempfile::TempDir, PathBuf, Loader) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stacyvm.yaml");
    std::fs::write(&path, text).unwrap();
    let loader = Loader::empty().file(&path).built_providers(&BUILT);
    (directory, path, loader)
}

fn load(text: &str) -> Result<Loaded, ConfigError> {
    with_file(text).2.load()
}

fn variables(pairs: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    Loader::empty()
        .built_providers(&BUILT)
        .variables(
            pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        )
        .load()
}

#[test]
fn nothing_set_is_a_working_configuration() {
    let loaded = Loader::empty().built_providers(&BUILT).load().unwrap();
    assert_eq!(loaded.config.server.port, 7423);
    assert_eq!(loaded.config.providers.default, ProviderChoice::Auto);
    assert_eq!(loaded.config.defaults.ttl.to_string(), "30m0s");
    assert!(!loaded.config.providers.mock.enabled);
    assert!(loaded.warnings.is_empty());
    assert_eq!(loaded.origin("server.port"), Origin::Default);
}

/// Every key of the documented sample, with the later providers off.
#[test]
fn the_documented_keys_are_all_known() {
    let loaded = load(
        r#"
server: {host: "0.0.0.0", port: 7423, preview_domain: "localhost"}
providers:
  default: "auto"
  docker:
    enabled: false
    socket: "unix:///var/run/docker.sock"
    runtime: "runc"
    network_mode: "none"
    read_only_rootfs: false
    seccomp_profile: "default"
    dropped_caps: ["ALL"]
    added_caps: []
    pids_limit: 256
    pool_security: {per_user_uid: false, pid_namespace: false, workspace_permissions: true, hidepid: false}
  firecracker:
    enabled: false
    firecracker_path: "/usr/local/bin/firecracker"
    kernel_path: "/var/lib/stacyvm/vmlinux.bin"
    agent_path: "./bin/stacyvm-agent"
    data_dir: "/var/lib/stacyvm"
  e2b: {enabled: false, api_key: "", base_url: "https://api.e2b.dev"}
  custom: {enabled: false, base_url: "", api_key: ""}
  proot: {enabled: false, rootfs_path: "/var/lib/stacyvm/rootfs"}
defaults: {ttl: "30m", image: "alpine:latest", memory_mb: 1024, vcpus: 1}
auth: {enabled: false, api_key: ""}
database: {path: "stacyvm.db"}
logging: {level: "info", format: "json"}
pool: {enabled: false, max_vms: 10, max_users_per_vm: 5, image: "alpine:latest", memory_mb: 2048, vcpus: 2, overflow: "queue"}
"#,
    )
    .unwrap();
    assert_eq!(loaded.warnings, []);
    assert_eq!(
        loaded.config.defaults.image.as_deref(),
        Some("alpine:latest")
    );
}

/// Each wrong file names the file, the line, the key and the reason.
#[test]
fn a_wrong_value_names_file_line_key_and_reason() {
    let cases = [
        ("server:\n  port: many\n", 2, "server.port", "many"),
        ("server:\n  port: 99999\n", 2, "server.port", "0 to 65535"),
        ("server:\n  port: -1\n", 2, "server.port", "0 to 65535"),
        ("server: 7423\n", 1, "server", "section"),
        ("\nlogging:\n  level: loud\n", 3, "logging.level", "`debug`"),
        ("logging:\n  format: xml\n", 2, "logging.format", "`pretty`"),
        ("defaults:\n  ttl: 1d\n", 2, "defaults.ttl", "1h30m"),
        (
            "defaults:\n  ttl: 0s\n",
            2,
            "defaults.ttl",
            "longer than 0s",
        ),
        (
            "defaults:\n  max_ttl: -5s\n",
            2,
            "defaults.max_ttl",
            "negative",
        ),
        (
            "defaults:\n  ttl: 2h\n  max_ttl: 1h\n",
            2,
            "defaults.ttl",
            "over defaults.max_ttl",
        ),
        (
            "defaults:\n  memory_mb: 0\n",
            2,
            "defaults.memory_mb",
            "at least 1",
        ),
        (
            "auth:\n  enabled: maybe\n",
            2,
            "auth.enabled",
            "true or false",
        ),
        ("auth:\n  enabled: true\n", 2, "auth.enabled", "no key"),
        (
            "auth:\n  api_key: 'a b'\n",
            2,
            "auth.api_key",
            "white space",
        ),
        (
            "providers:\n  default: docker\n",
            2,
            "providers.default",
            "no provider \"docker\"",
        ),
        (
            "providers:\n  docker:\n    warm: {a: 9, b: 8}\n",
            3,
            "providers.docker.warm",
            "asks for 17 containers",
        ),
        (
            "providers:\n  docker:\n    read_only_rootfs: true\n    warm: {a: 1}\n",
            4,
            "providers.docker.warm",
            "read-only root",
        ),
        (
            "providers:\n  default: dokcer\n",
            2,
            "providers.default",
            "unknown variant",
        ),
        (
            "providers:\n  docker:\n    enabled: true\n",
            3,
            "providers.docker.enabled",
            "no provider",
        ),
        (
            "providers:\n  default: native\n  native:\n    enabled: false\n",
            2,
            "providers.default",
            "is false",
        ),
        (
            "providers:\n  native:\n    rootfs_dirs: /srv\n",
            3,
            "providers.native.rootfs_dirs",
            "a list",
        ),
        (
            "pool:\n  enabled: true\n",
            2,
            "pool.enabled",
            "not in this version",
        ),
        (
            "images:\n  aliases:\n    python: 3\n",
            3,
            "images.aliases",
            "a text",
        ),
    ];
    for (text, line, key, reason) in cases {
        let (_directory, path, loader) = with_file(text);
        let error = loader.load().expect_err(text);
        assert_eq!(error.problems.len(), 1, "{text:?}: {error}");
        let problem = &error.problems[0];
        assert_eq!(problem.origin, Origin::File(path.clone(), line), "{text:?}");
        assert_eq!(problem.key, key, "{text:?}");
        let shown = error.to_string();
        assert!(
            shown.contains(&path.display().to_string()) && shown.contains(key),
            "{shown}"
        );
        assert!(problem.reason.contains(reason), "{text:?}: {shown}");
    }
}

#[test]
fn every_problem_is_reported_at_once() {
    let error = load("server:\n  port: x\nlogging:\n  level: y\n").unwrap_err();
    assert_eq!(error.problems.len(), 2);
}

#[test]
fn what_is_no_yaml_or_no_mapping_is_refused_with_its_file() {
    for text in ["server: [", "- a\n- b\n", "just words", "a: 1\na: 2\n"] {
        let (_directory, path, loader) = with_file(text);
        let shown = loader.load().expect_err(text).to_string();
        assert!(shown.contains(&path.display().to_string()), "{shown}");
    }
}

#[test]
fn a_named_file_must_exist() {
    let error = Loader::empty()
        .file("/nonexistent/x.yaml")
        .load()
        .unwrap_err();
    assert!(error.to_string().contains("/nonexistent/x.yaml"));
}

#[test]
fn an_unknown_key_is_a_warning_with_the_nearest_known_one() {
    let loaded = load("server:\n  prot: 80\n  host: 127.0.0.1\nloging: {level: debug}\n").unwrap();
    let shown: Vec<_> = loaded
        .warnings
        .iter()
        .map(|warning| (warning.key.as_str(), warning.hint.as_deref()))
        .collect();
    assert_eq!(
        shown,
        [
            ("server.prot", Some("did you mean server.port?")),
            ("loging", Some("did you mean logging?")),
        ]
    );
    assert!(matches!(&loaded.warnings[0].origin, Origin::File(_, 2)));
    assert_eq!(loaded.config.server.host, "127.0.0.1");
}

#[test]
fn the_environment_sets_every_type_of_key() {
    let loaded = variables(&[
        ("STACYVM_SERVER_PORT", "8080"),
        ("STACYVM_SERVER_PREVIEW_DOMAIN", "example.org"),
        ("STACYVM_SERVER_CORS_ALLOWED_ORIGINS", "http://a, http://b"),
        ("STACYVM_SERVER_DATA_DIR", "/srv/7"),
        ("STACYVM_AUTH_ENABLED", "yes"),
        ("STACYVM_AUTH_API_KEY", "12345"),
        ("STACYVM_IMAGES_ALIASES", "alpine:latest=host,py=python-3"),
        ("STACYVM_IMAGES_MIRRORS", "docker.io=https://mirror.example"),
        ("STACYVM_IMAGES_PULL", "never"),
        ("STACYVM_DEFAULTS_TTL", "1h"),
        ("STACYVM_DEFAULTS_IMAGE", "17"),
        ("STACYVM_LOGGING_FORMAT", "pretty"),
        ("STACYVM_SERVER", "http://elsewhere"),
        ("STACYVM_API_KEY", "not ours"),
        ("HOME", "/root"),
    ])
    .unwrap();
    let config = &loaded.config;
    assert_eq!(config.server.port, 8080);
    assert_eq!(config.server.preview_domain, "example.org");
    assert_eq!(config.server.cors_allowed_origins, ["http://a", "http://b"]);
    assert_eq!(config.server.data_dir, Some(PathBuf::from("/srv/7")));
    assert_eq!(config.auth.api_key.expose(), "12345");
    assert_eq!(config.images.aliases["alpine:latest"], "host");
    assert_eq!(config.images.aliases["py"], "python-3");
    let mirrors = config.images.mirrors["docker.io"].all();
    assert_eq!(mirrors, ["https://mirror.example"]);
    assert_eq!(config.images.pull, PullPolicy::Never);
    assert_eq!(config.defaults.ttl.to_string(), "1h0m0s");
    assert_eq!(config.defaults.image.as_deref(), Some("17"));
    assert_eq!(config.logging.format, LogFormat::Pretty);
    assert_eq!(loaded.warnings, []);
}

#[test]
fn a_wrong_variable_names_itself_and_an_unknown_one_is_a_warning() {
    for (name, value, key, reason) in [
        ("STACYVM_SERVER_PORT", "http", "server.port", "0 to 65535"),
        ("STACYVM_SERVER_PORT", "", "server.port", "0 to 65535"),
        (
            "STACYVM_AUTH_ENABLED",
            "perhaps",
            "auth.enabled",
            "true or false",
        ),
        (
            "STACYVM_IMAGES_ALIASES",
            "x",
            "images.aliases",
            "name=value",
        ),
        ("STACYVM_LOGGING_LEVEL", "loud", "logging.level", "`warn`"),
    ] {
        let error = variables(&[(name, value)]).expect_err(name);
        assert_eq!(error.problems[0].origin, Origin::Environment(name.into()));
        assert_eq!(error.problems[0].key, key);
        assert!(error.problems[0].reason.contains(reason), "{error}");
    }
    let loaded = variables(&[("STACYVM_SERVER_PROT", "1"), ("STACYVM_EMBED_AGENT", "x")]).unwrap();
    assert_eq!(loaded.warnings.len(), 1);
    assert_eq!(
        loaded.warnings[0].hint.as_deref(),
        Some("did you mean STACYVM_SERVER_PORT?")
    );
}

#[test]
fn later_places_win_and_the_origin_is_known() {
    let (_directory, path, loader) =
        with_file("server:\n  port: 1\n  host: 127.0.0.1\nlogging:\n  level: warn\n");
    let loaded = loader
        .variables(vec![
            ("STACYVM_SERVER_PORT".into(), "2".into()),
            ("STACYVM_LOGGING_LEVEL".into(), "error".into()),
        ])
        .flag("server.port", "--port", "3".into())
        .load()
        .unwrap();
    assert_eq!(loaded.config.server.port, 3);
    let origins: Vec<_> = [
        "server.port",
        "logging.level",
        "server.host",
        "auth.enabled",
    ]
    .map(|key| loaded.origin(key).to_string())
    .into();
    assert_eq!(
        origins,
        [
            "flag --port".to_owned(),
            "environment variable STACYVM_LOGGING_LEVEL".to_owned(),
            format!("{}:3", path.display()),
            "default".to_owned(),
        ]
    );
}

#[test]
fn secrets_are_shown_nowhere() {
    let loaded =
        load("auth: {api_key: sk-hidden-1}\nproviders: {e2b: {api_key: sk-hidden-2}}\n").unwrap();
    let shown = format!(
        "{:?}{}{}",
        loaded.config,
        serde_json::to_string(&loaded.config).unwrap(),
        serde_json::to_string(&loaded.entries()).unwrap()
    );
    assert!(!shown.contains("sk-hidden"), "{shown}");
    assert!(shown.contains("********"));
    let wrong = load("auth: {api_key: 987654321}\nserver: {port: x}\n")
        .unwrap_err()
        .to_string();
    assert!(!wrong.contains("987654321"), "{wrong}");
    assert!(wrong.contains("in quotes"), "{wrong}");
}

#[test]
fn a_half_commented_out_file_sets_nothing() {
    let loaded = load("server:\nproviders:\n  docker:\ndefaults:\n  ttl:\n").unwrap();
    assert_eq!(loaded.warnings, []);
    assert_eq!(loaded.config.defaults.ttl.to_string(), "30m0s");
}

#[test]
fn limits_are_read_from_everywhere_and_must_fit_together() {
    let loaded = load("auth: {ticket_ttl: 5s}\ndefaults: {max_sandboxes: 9}\nlimits: {requests_per_second: 7, burst: 20, spawn_queue: 3, spawn_queue_timeout: 1m}\n").unwrap();
    assert_eq!(loaded.warnings, []);
    let limits = &loaded.config.limits;
    assert_eq!((limits.requests_per_second, limits.burst), (7, 20));
    assert_eq!(limits.spawn_queue_timeout.to_string(), "1m0s");
    assert_eq!(loaded.config.auth.ticket_ttl.to_string(), "5s");
    let loaded = variables(&[("STACYVM_LIMITS_SPAWNS_PER_MINUTE", "12")]).unwrap();
    assert_eq!(loaded.config.limits.spawns_per_minute, 12);
    for (text, names) in [
        ("limits: {spawn_queue: 5001}", "limits.spawn_queue"),
        (
            "limits: {spawn_queue_timeout: 0s}",
            "limits.spawn_queue_timeout",
        ),
        (
            "limits: {requests_per_second: -1}",
            "limits.requests_per_second",
        ),
        ("auth: {ticket_ttl: 0s}", "auth.ticket_ttl"),
        ("auth: {ticket_ttl: 2h}", "auth.ticket_ttl"),
    ] {
        let error = load(text).unwrap_err().to_string();
        assert!(error.contains(names), "{text}: {error}");
    }
}

#[test]
fn proxies_are_named_by_address_or_range_and_are_never_everybody() {
    let loaded = load("server: {trusted_proxies: [10.0.0.7, 'fd00::/8']}\n").unwrap();
    assert_eq!(loaded.warnings, []);
    let named = |loaded: &Loaded| {
        let proxies = &loaded.config.server.trusted_proxies;
        proxies.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(named(&loaded), ["10.0.0.7/32", "fd00::/8"]);
    let set = [("STACYVM_SERVER_TRUSTED_PROXIES", "127.0.0.1,10.0.0.0/8")];
    assert_eq!(named(&variables(&set).unwrap()).len(), 2);
    for range in ["0.0.0.0/0", "::/0", "proxy.example.org", "10.0.0.1/8"] {
        let error = load(&format!("server: {{trusted_proxies: ['{range}']}}")).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("server.trusted_proxies"), "{range}: {error}");
    }
    let loaded = load("limits: {connections_per_address: 7}").unwrap();
    assert_eq!(loaded.config.limits.connections_per_address, 7);
    let default = load("").unwrap().config.limits.connections_per_address;
    assert_eq!(default, 4096);
}

#[test]
fn previews_have_one_source_of_certificates_and_links_an_end() {
    let loaded =
        load("preview: {access: private, link_ttl: 5m, tls: {development: true}}").unwrap();
    assert_eq!(loaded.warnings, []);
    let preview = &loaded.config.preview;
    assert_eq!(preview.access, Some(stacyvm_types::PreviewAccess::Private));
    assert!(preview.tls.development);
    assert_eq!(load("").unwrap().config.preview.access, None);
    let hook = [("STACYVM_PREVIEW_TLS_ACME_HOOK", "/bin/hook")];
    let error = variables(&hook).unwrap_err().to_string();
    assert!(error.contains("nobody issues a certificate"), "{error}");
    let domain = ("STACYVM_SERVER_PREVIEW_DOMAIN", "box.example.org");
    let loaded = variables(&[hook[0], domain]).unwrap();
    assert!(loaded.config.preview.tls.acme.hook.is_some());
    for (text, names) in [
        ("access: open", "preview.access"),
        ("link_ttl: 0s", "preview.link_ttl"),
        ("link_ttl: 169h", "preview.link_ttl"),
        ("max_link_ttl: 9000h", "preview.max_link_ttl"),
        ("tls: {cert: /a}", "preview.tls.cert"),
        ("tls: {key: /a}", "preview.tls.key"),
        (
            "tls: {cert: /a, key: /b, development: true}",
            "preview.tls.development",
        ),
        (
            "tls: {acme: {hook: /a, directory: \"http://x\", domains: [x.org]}}",
            "acme.directory",
        ),
        (
            "tls: {acme: {hook: /a, hook_timeout: 0s, domains: [x.org]}}",
            "acme.hook_timeout",
        ),
    ] {
        let error = load(&format!("preview: {{{text}}}"))
            .unwrap_err()
            .to_string();
        assert!(error.contains(names), "{text}: {error}");
    }
}

#[test]
fn images_and_their_registries_are_checked_before_anybody_needs_them() {
    let good = load(
        "images:\n  aliases: {py: python, python: python-3, alpine: host}\n  pull: never\n  mirrors:\n    docker.io: [https://mirror.example/docker, \"localhost:5000\"]\n    ghcr.io: http://10.0.0.1:80\n  insecure_registries: [\"registry.lan:5000\", \"[::1]:5000\"]\n  private_registries: [\"localhost:5000\", registry.lan, 10.1.0.0/16, \"fd00::/8\"]\n  token_hosts: {registry.lan: [auth.lan], other.lan: \"auth.lan:444\"}\n  certificates: [/etc/ssl/ours.pem]\n  platform: linux/arm/v7\n  max_parallel: 8\n",
    )
    .unwrap();
    let images = &good.config.images;
    assert_eq!(images.mirrors["docker.io"].all().len(), 2);
    assert_eq!(images.mirrors["ghcr.io"].all(), ["http://10.0.0.1:80"]);
    assert_eq!(images.private_registries.len(), 4);
    assert_eq!(images.token_hosts["other.lan"].all(), ["auth.lan:444"]);
    assert_eq!(images.certificates, [PathBuf::from("/etc/ssl/ours.pem")]);

    for (text, key, reason) in [
        (
            "aliases: {a: b, b: c, c: a}",
            "aliases",
            "stands for itself",
        ),
        ("aliases: {a: a}", "aliases", "stands for itself"),
        ("aliases: {a: \"\"}", "aliases", "empty"),
        ("pull: always", "pull", "never"),
        ("mirrors: {docker.io: ftp://x}", "mirrors", "https://"),
        (
            "mirrors: {docker.io: \"https://me:secret@x\"}",
            "mirrors",
            "config.json",
        ),
        (
            "mirrors: {\"https://docker.io\": x}",
            "mirrors",
            "no registry",
        ),
        ("mirrors: {docker.io: 7}", "mirrors", "list of addresses"),
        (
            "insecure_registries: [\"http://x\"]",
            "insecure_registries",
            "no registry",
        ),
        (
            "private_registries: [10.1.0.0/4]",
            "private_registries",
            "no range",
        ),
        (
            "private_registries: [\"https://x\"]",
            "private_registries",
            "like 10.1.0.0/16",
        ),
        (
            "token_hosts: {x.lan: \"https://auth.lan\"}",
            "token_hosts",
            "no host",
        ),
        ("platform: arm", "platform", "no platform"),
        ("max_parallel: 0", "max_parallel", "1 to 16"),
    ] {
        let error = load(&format!("images: {{{text}}}\n")).unwrap_err();
        let problem = &error.problems[0];
        assert_eq!(problem.key, format!("images.{key}"), "{text}");
        let said = format!("{problem} {:?}", problem.hint);
        assert!(said.contains(reason), "{text}: {said}");
        assert!(!said.contains("secret"), "{said}");
    }
}
