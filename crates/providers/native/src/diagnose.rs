//! Finding out what this machine has for native sandboxes, for a person who wants to know why.
//!
//! Whatever can be tried is tried: a sandbox is really made and removed, on the file system of the
//! data directory, beside any server that runs. Nothing of it is left.

mod machine;

use std::path::{Path, PathBuf};

use stacyvm_provider::NetworkMode;
use stacyvm_provider::prelude::*;
use stacyvm_sys::{landlock, namespaces, seccomp};

use crate::{NativeConfig, NativeProvider, NetworkChoice};

/// The free space of a data directory below which a warning is given, bytes.
const MIN_FREE_SPACE: u64 = 1 << 30;

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Sandboxes work with everything.
    Ok,
    /// Sandboxes work, but lack something.
    Warn,
    /// Sandboxes do not work.
    Fail,
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was checked.
    pub name: &'static str,
    /// Its severity.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What a person can do about it.
    pub remedy: Option<String>,
}

fn finding(name: &'static str, level: Level, found: impl Into<String>) -> Finding {
    Finding {
        name,
        level,
        found: found.into(),
        remedy: None,
    }
}

impl Finding {
    fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// Looks at everything that native sandboxes need. Takes some tens of milliseconds.
pub async fn diagnose(config: &NativeConfig) -> Vec<Finding> {
    let data_dir = config.data_dir.clone();
    let checked = tokio::task::spawn_blocking(move || {
        let mut findings = vec![
            finding(
                "isolation",
                Level::Ok,
                "container: namespaces and a system call filter; a sandbox shares the host's kernel",
            ),
            machine::kernel(),
            privileges(),
            user_namespaces(),
            overlay(),
            seccomp_filter(),
            landlock_domain(),
        ];
        findings.extend(machine::control_groups());
        findings.push(disk_space(&data_dir));
        findings
    });
    let mut findings = checked.await.unwrap_or_default();
    findings.extend(launch(config).await);
    findings
}

fn privileges() -> Finding {
    let name = "privileges";
    if !rustix::process::geteuid().is_root() {
        return finding(
            name,
            Level::Warn,
            "not root: a sandbox has one user id only, and limits need a delegated cgroup",
        )
        .remedy("run the server as root to give every sandbox a range of user ids");
    }
    if !namespaces::has_every_id() {
        return finding(
            name,
            Level::Warn,
            "root of a user namespace: it may not have the ids that sandboxes get",
        )
        .remedy("run the server outside of a container, or give the container every id");
    }
    finding(
        name,
        Level::Ok,
        "root: every sandbox has a range of user ids",
    )
}

fn user_namespaces() -> Finding {
    let name = "user namespaces";
    let setting = |path: &str| {
        let text = std::fs::read_to_string(path).ok()?;
        text.trim().parse::<u64>().ok()
    };
    match setting("/proc/sys/user/max_user_namespaces") {
        None => {
            return finding(name, Level::Fail, "this kernel has none")
                .remedy("use a kernel built with CONFIG_USER_NS");
        }
        Some(0) => {
            return finding(name, Level::Fail, "switched off")
                .remedy("sysctl -w user.max_user_namespaces=15000");
        }
        Some(_) => {}
    }
    if !rustix::process::geteuid().is_root() {
        for (path, closed, remedy) in [
            (
                "/proc/sys/kernel/unprivileged_userns_clone",
                0,
                "sysctl -w kernel.unprivileged_userns_clone=1, or run as root",
            ),
            (
                "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
                1,
                "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or run as root",
            ),
        ] {
            if setting(path) == Some(closed) {
                return finding(name, Level::Fail, "closed to users other than root")
                    .remedy(remedy);
            }
        }
    }
    finding(name, Level::Ok, "available")
}

fn overlay() -> Finding {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known
        .lines()
        .any(|line| line.split_whitespace().last() == Some("overlay"))
    {
        finding("overlay file system", Level::Ok, "available")
    } else {
        finding(
            "overlay file system",
            Level::Warn,
            "not loaded; the kernel loads it at the first launch if it can",
        )
        .remedy("modprobe overlay")
    }
}

fn seccomp_filter() -> Finding {
    if seccomp::available() {
        finding("seccomp", Level::Ok, "available")
    } else {
        finding(
            "seccomp",
            Level::Fail,
            "this kernel takes no system call filters",
        )
        .remedy("use a kernel built with CONFIG_SECCOMP_FILTER")
    }
}

fn landlock_domain() -> Finding {
    match landlock::version() {
        0 => finding(
            "landlock",
            Level::Warn,
            "not available: one layer of defence less",
        )
        .remedy("use Linux 5.19 or later with landlock in the lsm= boot parameter"),
        version => finding("landlock", Level::Ok, format!("version {version}")),
    }
}

fn disk_space(data_dir: &Path) -> Finding {
    let name = "disk space";
    let nearest = data_dir.ancestors().find(|path| path.exists());
    let Some(Ok(space)) = nearest.map(rustix::fs::statvfs) else {
        return finding(name, Level::Warn, "unknown");
    };
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let text = format!("{} MiB free for sandboxes", free >> 20);
    if free < MIN_FREE_SPACE {
        finding(name, Level::Warn, text).remedy("free some, or set server.data_dir elsewhere")
    } else {
        finding(name, Level::Ok, text)
    }
}

/// Makes and removes one sandbox, in a data directory and cgroups of its own.
async fn launch(config: &NativeConfig) -> Vec<Finding> {
    let name = "a sandbox";
    let unique = format!("doctor-{}", std::process::id());
    let trial = Trial(config.data_dir.join(&unique));
    let network = config.network.choice;
    let config = NativeConfig {
        data_dir: trial.0.clone(),
        launchers: 1,
        instance: unique,
        ..config.clone()
    };
    let provider = match NativeProvider::start(config).await {
        Ok(provider) => provider,
        Err(error) => return vec![finding(name, Level::Fail, error.to_string())],
    };
    let health = provider.health().await;
    let boxes = trial.0.join("native/boxes");
    let quota = tokio::task::spawn_blocking(move || machine::disk_quota(&boxes)).await;
    let network = match (network, provider.default_network()) {
        (NetworkChoice::None, _) => Some("none, as configured"),
        (_, NetworkMode::Bridge(_)) => Some("bridge: set up, and removed again"),
        // The degradations say why.
        (_, NetworkMode::None) => None,
    };
    let degraded = provider.degradations();
    provider.close().await;
    let mut findings = vec![match health.error {
        None => finding(
            name,
            Level::Ok,
            format!("made and removed in {} ms", health.latency.as_millis()),
        ),
        Some(error) => finding(name, Level::Fail, error),
    }];
    findings.extend(quota);
    findings.extend(network.map(|found| finding("network", Level::Ok, found)));
    findings.extend(
        degraded
            .into_iter()
            // The quota's own finding says it, with what was tried.
            .filter(|sentence| !sentence.starts_with("disk use "))
            .map(|sentence| finding(name, Level::Warn, sentence)),
    );
    findings
}

/// The trial's data directory, removed when the trial is over, however it ends.
struct Trial(PathBuf);

impl Drop for Trial {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
