//! Support for tests: a provider with a tag of its own on the tests' engine.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use stacyvm_docker::{DockerProvider, DockerSettings, EngineAddress};
use stacyvm_provider::prelude::*;
use stacyvm_types::SandboxId;

/// What the machine has for these tests.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    pub(crate) engine: String,
    pub(crate) image: String,
    pub(crate) agent: PathBuf,
}

impl Surroundings {
    /// All of it, or a word about what is missing.
    pub(crate) fn find() -> Option<Self> {
        let variable = |name: &str| {
            let found = std::env::var(name).ok().filter(|value| !value.is_empty());
            if found.is_none() {
                stacyvm_testing::skip(format_args!("{name} is not set"));
            }
            found
        };
        Some(Self {
            engine: variable("STACYVM_TEST_DOCKER")?,
            image: variable("STACYVM_TEST_DOCKER_IMAGE")?,
            agent: variable("STACYVM_AGENT_BIN")?.into(),
        })
    }

    /// Asks the engine with its own client; for what is to be seen from outside.
    pub(crate) fn docker(&self, words: &[&str]) -> String {
        let output = Command::new("docker")
            .args(["--host", &self.engine])
            .args(words)
            .output()
            .unwrap();
        assert!(output.status.success(), "docker {words:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Surroundings {
    /// Whether the engine knows a runtime by this name.
    pub(crate) fn has_runtime(&self, name: &str) -> bool {
        let names = "{{range $name, $_ := .Runtimes}}{{$name}}\n{{end}}";
        let known = self.docker(&["info", "--format", names]);
        known.lines().any(|known| known == name)
    }
}

/// A new tag for every provider, so that their containers are separate.
fn tag() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("test-{}-{number}", std::process::id())
}

/// One provider and everything that it makes in the engine.
pub(crate) struct World {
    pub(crate) surroundings: Surroundings,
    pub(crate) settings: DockerSettings,
    provider: Arc<DockerProvider>,
}

impl World {
    /// A provider with the default settings as `change` has changed them.
    pub(crate) async fn with(
        surroundings: Surroundings,
        change: impl FnOnce(&mut DockerSettings),
    ) -> Self {
        let address = EngineAddress::parse(&surroundings.engine, None).unwrap();
        let mut settings = DockerSettings::new(address, tag(), &surroundings.agent);
        settings.default_image = surroundings.image.clone();
        change(&mut settings);
        let provider = Arc::new(DockerProvider::new(settings.clone()).unwrap());
        let health = provider.health().await;
        assert!(health.healthy, "{health:?}");
        Self {
            surroundings,
            settings,
            provider,
        }
    }

    pub(crate) fn provider(&self) -> &Arc<DockerProvider> {
        &self.provider
    }

    /// Stops the server and starts it again over the same engine.
    pub(crate) async fn restart(&mut self) {
        self.provider.close().await;
        self.provider = Arc::new(DockerProvider::new(self.settings.clone()).unwrap());
    }

    /// Starts another server without closing the first, as after a crash.
    pub(crate) fn kill(&mut self) {
        self.provider = Arc::new(DockerProvider::new(self.settings.clone()).unwrap());
    }

    /// The name of a sandbox's container.
    pub(crate) fn container(&self, id: &SandboxId) -> String {
        format!("stacyvm-{}-{id}", self.settings.tag)
    }

    /// The names of the running warm containers.
    pub(crate) fn warm(&self) -> Vec<String> {
        let name = format!("name=^/?stacyvm-{}-warm-", self.settings.tag);
        let format = "{{.Names}}";
        let words = ["ps", "--filter", &name, "--format", format];
        let said = self.surroundings.docker(&words);
        said.lines().map(str::to_owned).collect()
    }

    /// Lists the sandboxes, as a server does at its start, and waits for so many warm containers.
    pub(crate) async fn until_warm(&self, count: usize) -> Vec<String> {
        self.provider.list().await.unwrap();
        self.wait_for_warm(count).await
    }

    /// Waits for so many warm containers.
    pub(crate) async fn wait_for_warm(&self, count: usize) -> Vec<String> {
        let mut warm = Vec::new();
        stacyvm_provider::conformance::eventually("containers are warm", async || {
            warm = self.warm();
            Ok(warm.len() == count)
        })
        .await
        .unwrap();
        warm
    }

    /// The names of the containers, volumes and networks that the engine has of this provider.
    pub(crate) fn remains(&self) -> Vec<String> {
        let label = format!("label=stacyvm.instance={}", self.settings.tag);
        let names = ["{{.Names}}", "{{.Name}}"];
        let containers = ["ps", "--all", "--filter", &label, "--format", names[0]];
        let volumes = ["volume", "ls", "--filter", &label, "--format", names[1]];
        let networks = ["network", "ls", "--filter", &label, "--format", names[1]];
        let all = [&containers[..], &volumes[..], &networks[..]];
        let said = all.map(|words| self.surroundings.docker(words));
        said.iter()
            .flat_map(|text| text.lines().map(str::to_owned))
            .collect()
    }
}

impl Drop for World {
    /// Removes what a failed test has left.
    fn drop(&mut self) {
        let label = format!("label=stacyvm.instance={}", self.settings.tag);
        let containers = ["ps", "--all", "--quiet", "--filter", &label];
        for container in self.surroundings.docker(&containers).lines() {
            self.surroundings
                .docker(&["rm", "--force", "--volumes", container]);
        }
        let volumes = ["volume", "ls", "--quiet", "--filter", &label];
        for volume in self.surroundings.docker(&volumes).lines() {
            self.surroundings
                .docker(&["volume", "rm", "--force", volume]);
        }
        let networks = ["network", "ls", "--quiet", "--filter", &label];
        for network in self.surroundings.docker(&networks).lines() {
            self.surroundings.docker(&["network", "rm", network]);
        }
    }
}

/// How long a condition may take on a machine under load.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Waits for a future, and fails the test when it takes too long.
pub(crate) async fn soon<T>(what: &str, coming: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(TIMEOUT, coming).await;
    outcome.unwrap_or_else(|_| panic!("never came: {what}"))
}

/// Checks a condition until it is true, and fails the test when that takes too long.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(what, looking).await;
}

/// An image of one test, which is removed with this value.
pub(crate) struct Image {
    surroundings: Surroundings,
    pub(crate) name: String,
}

impl Image {
    /// The default image with `changes`, instructions of a Dockerfile.
    pub(crate) fn derived(surroundings: &Surroundings, changes: &[&str]) -> Self {
        let name = Self::free_name();
        let container = surroundings.docker(&["create", &surroundings.image, "sh"]);
        let mut words = vec!["commit"];
        for change in changes {
            words.extend(["--change", change]);
        }
        words.extend([container.as_str(), &name]);
        surroundings.docker(&words);
        surroundings.docker(&["rm", &container]);
        Self {
            surroundings: surroundings.clone(),
            name,
        }
    }

    /// A name that no other test or run uses.
    pub(crate) fn free_name() -> String {
        format!("stacyvm-{}:1", tag())
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        self.surroundings.docker(&["rmi", "--force", &self.name]);
    }
}
