//! The Docker Engine that `cargo xtask test` started for all tests, or one of a test's own; and
//! servers that use it.
//!
//! What an engine holds is asked of the engine itself, through its own command line, never of the
//! program under test.

use std::collections::BTreeSet;
use std::process::Command;

use stacyvm_testing::{Entered, NetworkNamespace};

use super::server::{Finished, Options, Server, finish};
use super::skip;

/// An engine.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    address: String,
    image: String,
    small_image: String,
    /// The file of its network namespace.
    network: String,
}

impl Engine {
    /// The one for all tests; none, and the test is skipped, where there is none or it may not be used.
    pub(crate) fn find() -> Option<Self> {
        let variable = |name: &str| std::env::var(format!("STACYVM_TEST_DOCKER{name}"));
        let Ok(address) = variable("") else {
            skip("needs a Docker Engine: see `cargo xtask engine`");
            return None;
        };
        if !stacyvm_testing::root_or_skip() {
            return None;
        }
        let named = |name: &str| {
            variable(name).unwrap_or_else(|_| panic!("STACYVM_TEST_DOCKER{name} is not set"))
        };
        Some(Self {
            address,
            image: named("_IMAGE"),
            small_image: named("_SMALL_IMAGE"),
            network: named("_NETWORK"),
        })
    }

    /// One that a test started itself, with the images of the one for all.
    pub(crate) fn own(&self, address: String, network: String) -> Self {
        Self {
            address,
            network,
            ..self.clone()
        }
    }

    /// `unix://` and its socket.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Debian with Python.
    pub(crate) fn image(&self) -> &str {
        &self.image
    }

    /// A static busybox.
    pub(crate) fn small_image(&self) -> &str {
        &self.small_image
    }

    /// The runtimes that every test of isolation runs with.
    pub(crate) fn runtimes(&self) -> Vec<&'static str> {
        let known = self
            .docker(&["info", "--format", "{{json .Runtimes}}"])
            .ok();
        let mut runtimes = vec!["runc"];
        if known.contains("\"runsc\"") {
            runtimes.push("runsc");
        } else {
            skip("gVisor is missing: run scripts/test-setup");
        }
        runtimes
    }

    /// Whether gVisor is there; says so when not.
    pub(crate) fn has_gvisor(&self) -> bool {
        self.runtimes().contains(&"runsc")
    }

    /// A command of Docker's own command line.
    pub(crate) fn docker(&self, arguments: &[&str]) -> Finished {
        finish(
            Command::new("docker")
                .args(["--host", &self.address])
                .args(arguments)
                .env("DOCKER_CONFIG", "/nonexistent")
                // The newer builder is not in Debian.
                .env("DOCKER_BUILDKIT", "0")
                .env_remove("DOCKER_CONTEXT")
                .env_remove("DOCKER_HOST"),
        )
    }

    /// A field of a sandbox's container, in the template language of `docker inspect`.
    #[track_caller]
    pub(crate) fn inspect(&self, id: &str, field: &str) -> String {
        let name = self.container(id);
        let text = self
            .docker(&["inspect", "--type", "container", "--format", field, &name])
            .ok();
        text.trim().to_owned()
    }

    /// The name of a sandbox's container.
    #[track_caller]
    pub(crate) fn container(&self, id: &str) -> String {
        let mut names = self.names(&["ps", "--all", "--format", "{{.Names}}"], id);
        assert_eq!(names.len(), 1, "containers of {id}: {names:?}");
        names.pop_first().expect("it has one")
    }

    /// Every container, volume and network that has `text` in its name.
    pub(crate) fn things(&self, text: &str) -> BTreeSet<String> {
        let mut things = self.names(&["ps", "--all", "--format", "container {{.Names}}"], text);
        things.extend(self.names(&["volume", "ls", "--format", "volume {{.Name}}"], text));
        things.extend(self.names(&["network", "ls", "--format", "network {{.Name}}"], text));
        things
    }

    fn names(&self, command: &[&str], text: &str) -> BTreeSet<String> {
        let listed = self.docker(command).ok();
        let lines = listed.lines().filter(|line| line.contains(text));
        lines.map(str::to_owned).collect()
    }

    /// An image with a name of its own, which is the small one with `changes`, as the instructions
    /// of a Dockerfile.
    pub(crate) fn derive(&self, changes: &[&str]) -> DerivedImage {
        let made = self.docker(&["create", &self.small_image, "sh"]).ok();
        let name = unique("derived");
        let mut command = vec!["commit"];
        for change in changes {
            command.extend(["--change", change]);
        }
        command.extend([made.trim(), &name]);
        self.docker(&command).ok();
        self.docker(&["rm", made.trim()]).ok();
        DerivedImage {
            engine: self.clone(),
            name,
        }
    }

    /// An image made of a tar of a root file system.
    pub(crate) fn import(&self, archive: &std::path::Path) -> DerivedImage {
        let name = unique("imported");
        self.docker(&["import", archive.to_str().unwrap(), &name])
            .ok();
        DerivedImage {
            engine: self.clone(),
            name,
        }
    }

    /// Options of a server that uses it, with keys of `providers.docker`, `key: value` each. Its
    /// sandboxes have no network unless a key says otherwise.
    pub(crate) fn options(&self, keys: &[&str]) -> Options {
        let mut docker = vec![
            "enabled: true".to_owned(),
            format!("socket: {}", self.address),
        ];
        if !keys.iter().any(|key| key.starts_with("network_mode:")) {
            docker.push("network_mode: none".to_owned());
        }
        docker.extend(keys.iter().map(|key| (*key).to_owned()));
        Options {
            provider: "docker",
            docker,
            more: format!("defaults:\n  image: {}\n", self.small_image),
            ..Options::default()
        }
    }

    /// A server that uses it.
    pub(crate) fn server(&self, keys: &[&str]) -> Server {
        Server::with(self.options(keys))
    }

    /// Moves the calling thread, and what it starts, into the engine's network.
    pub(crate) fn enter(&self) -> Entered {
        NetworkNamespace::open(&self.network).unwrap().enter()
    }
}

/// An image that goes with this.
#[derive(Debug)]
pub(crate) struct DerivedImage {
    engine: Engine,
    name: String,
}

impl DerivedImage {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for DerivedImage {
    fn drop(&mut self) {
        let _ = self.engine.docker(&["rmi", "--force", &self.name]);
    }
}

/// A name that no other test has.
fn unique(what: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("e2e/{what}-{}-{next}:1", std::process::id())
}

/// The engine for all tests. Leaves the test, which is skipped, where there is none.
macro_rules! need_docker {
    () => {
        match crate::harness::docker::Engine::find() {
            Some(engine) => engine,
            None => return,
        }
    };
}
pub(crate) use need_docker;
