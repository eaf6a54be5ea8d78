//! Programs that other providers stand on: whether they are there, and whether they are too old.
//!
//! Each is asked for its version and given a few seconds to answer; one that hangs is killed, and
//! said to hang.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;

use super::report::{Finding, Level, Provider};

/// How long a program may take to say which version it is.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);
/// What is read of its answer, bytes.
const MAX_ANSWER_BYTES: u64 = 16 * 1024;

type Version = (u64, u64, u64);

/// One program.
struct Tool {
    provider: &'static str,
    program: &'static str,
    arguments: &'static [&'static str],
    /// The oldest that is not warned about, and why older ones are.
    oldest: Option<(Version, &'static str)>,
    /// How to get it, or a newer one.
    get: &'static str,
}

const PATCHED: &str = "a distribution may have mended it under its old number";

const TOOLS: [Tool; 7] = [
    Tool {
        provider: "docker",
        program: "docker",
        arguments: &["--version"],
        oldest: None,
        get: "apt-get install docker.io",
    },
    Tool {
        provider: "docker",
        program: "runc",
        arguments: &["--version"],
        oldest: Some((
            (1, 1, 12),
            "a container of an older one can reach the host's files (CVE-2024-21626)",
        )),
        get: "apt-get install runc",
    },
    Tool {
        provider: "docker",
        program: "runsc",
        arguments: &["--version"],
        oldest: Some((
            (20_240_101, 0, 0),
            "gVisor mends its newest releases only, and this one is from before 2024",
        )),
        get: "apt-get install runsc",
    },
    Tool {
        provider: "docker",
        program: "kata-runtime",
        arguments: &["--version"],
        oldest: None,
        get: "see https://katacontainers.io; Debian has no package of it",
    },
    Tool {
        provider: "firecracker",
        program: "firecracker",
        arguments: &["--version"],
        oldest: Some((
            (1, 16, 1),
            "snapshots of an older one come back without a way to their agent",
        )),
        get: "take the newest release of https://github.com/firecracker-microvm/firecracker; \
              Debian has no package of it",
    },
    Tool {
        provider: "firecracker",
        program: "qemu-system-x86_64",
        arguments: &["--version"],
        oldest: None,
        get: "apt-get install qemu-system-x86",
    },
    Tool {
        provider: "proot",
        program: "proot",
        arguments: &["--version"],
        oldest: None,
        get: "apt-get install proot",
    },
];

/// The providers that this program does not contain, with what of theirs is on this machine.
pub(super) async fn others() -> Vec<(Provider, Vec<Finding>)> {
    let mut all = Vec::new();
    for name in ["firecracker", "proot", "e2b", "custom"] {
        let mut findings = of(name).await;
        if name == "firecracker" {
            findings.push(virtualisation().of(name));
        }
        all.push((Provider::new(name, false), findings));
    }
    all
}

/// What is on this machine of the programs that one provider stands on.
pub(super) async fn of(provider: &'static str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for tool in TOOLS.iter().filter(|tool| tool.provider == provider) {
        findings.push(tool.look().await.of(provider));
    }
    findings
}

/// Whether this user may make virtual machines.
fn virtualisation() -> Finding {
    let topic = "/dev/kvm";
    let device = Path::new(topic);
    if !device.exists() {
        return Finding::new(Level::Ok, topic, "not there: no hardware virtualisation")
            .remedy("modprobe kvm_intel (or kvm_amd), on a machine or an instance that has it");
    }
    let may = rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK;
    if rustix::fs::access(device, may).is_err() {
        return Finding::new(Level::Ok, topic, "there, but not for this user")
            .remedy("usermod -aG kvm \"$USER\", and log in again");
    }
    Finding::new(Level::Ok, topic, "there")
}

impl Tool {
    /// What no enabled provider needs is never a failure, and what is not there no warning.
    async fn look(&self) -> Finding {
        let said = match ask(self.program, self.arguments).await {
            Ok(said) => said,
            Err(VersionError::Missing) => {
                return Finding::new(Level::Ok, self.program, "not found").remedy(self.get);
            }
            Err(VersionError::Broken(why)) => {
                let words = format!("found, but it does not say its version: {why}");
                return Finding::new(Level::Warning, self.program, words).remedy(self.get);
            }
        };
        self.judge(&said)
    }

    fn judge(&self, said: &str) -> Finding {
        let first: String = said
            .lines()
            .next()
            .unwrap_or_default()
            .chars()
            .take(120)
            .collect();
        let too_old = self
            .oldest
            .filter(|(oldest, _)| version(said).is_some_and(|found| found < *oldest));
        match too_old {
            None => Finding::new(Level::Ok, self.program, first),
            Some((_, why)) => {
                let words = format!("{first}: {why}; {PATCHED}");
                Finding::new(Level::Warning, self.program, words).remedy(self.get)
            }
        }
    }
}

/// Why a program did not say its version.
#[derive(Debug)]
enum VersionError {
    Missing,
    Broken(String),
}

async fn ask(program: &str, arguments: &[&str]) -> Result<String, VersionError> {
    let broken = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => VersionError::Missing,
        _ => VersionError::Broken(error.to_string()),
    };
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .current_dir("/")
        // Dropped when its time is over.
        .kill_on_drop(true)
        .spawn()
        .map_err(broken)?;
    let answer = async {
        let mut said = Vec::new();
        if let Some(output) = child.stdout.take() {
            output.take(MAX_ANSWER_BYTES).read_to_end(&mut said).await?;
        }
        // The rest of its output is not read, and must not keep it from ending.
        let status = child.wait().await?;
        Ok((said, status))
    };
    match tokio::time::timeout(VERSION_TIMEOUT, answer).await {
        Err(_) => Err(VersionError::Broken(format!(
            "it did not answer within {} seconds",
            VERSION_TIMEOUT.as_secs()
        ))),
        Ok(Err(error)) => Err(broken(error)),
        Ok(Ok((_, status))) if !status.success() => {
            Err(VersionError::Broken(format!("it ended with {status}")))
        }
        Ok(Ok((said, _))) => Ok(String::from_utf8_lossy(&said).into_owned()),
    }
}

/// The first version in a text: `1.2.3`, `v1.2`, or a date like `20240101` behind `release-` or
/// `0.0~`, as gVisor counts.
fn version(text: &str) -> Option<Version> {
    let mut runs = Vec::new();
    for word in text.split(|c: char| c.is_whitespace() || c == ',') {
        let word = word.trim_start_matches(|c: char| !c.is_ascii_digit());
        let numbers: Vec<u64> = word
            .split(|c: char| !c.is_ascii_digit())
            .map_while(|digits| digits.parse().ok())
            .collect();
        if !numbers.is_empty() && (numbers.len() > 1 || numbers[0] > 10_000_000) {
            runs = numbers;
            break;
        }
    }
    if let Some(date) = runs
        .iter()
        .find(|number| (20_000_000..30_000_000).contains(*number))
    {
        return Some((*date, 0, 0));
    }
    let number = |place: usize| runs.get(place).copied().unwrap_or(0);
    (!runs.is_empty()).then(|| (number(0), number(1), number(2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (said, expected) in [
            ("runc version 1.1.5+ds1\ncommit: 1.1.5", Some((1, 1, 5))),
            ("runc version 1.2.0-rc.1", Some((1, 2, 0))),
            (
                "Docker version 20.10.24+dfsg1, build 297e128",
                Some((20, 10, 24)),
            ),
            ("Firecracker v1.16.1\n\nSupported", Some((1, 16, 1))),
            (
                "runsc version release-20240115.0\nspec: 1.1.0-rc.1",
                Some((20_240_115, 0, 0)),
            ),
            (
                "runsc version 0.0~20221219.0-2+b3",
                Some((20_221_219, 0, 0)),
            ),
            (
                "QEMU emulator version 7.2.9 (Debian 1:7.2+dfsg-7)",
                Some((7, 2, 9)),
            ),
            ("no number here", None),
            ("", None),
        ] {
            assert_eq!(version(said), expected, "{said}");
        }
    }

    #[test]
    fn only_what_is_too_old_is_warned_about() {
        let runc = &TOOLS[1];
        for (said, level) in [
            ("runc version 1.1.11", Level::Warning),
            ("runc version 1.1.12", Level::Ok),
            ("runc version 1.2.3", Level::Ok),
            ("runc of nobody knows when", Level::Ok),
        ] {
            assert_eq!(runc.judge(said).level, level, "{said}");
        }
        let words = runc.judge("runc version 1.0.0");
        assert!(words.words.contains("CVE-2024-21626"), "{words:?}");
        assert!(words.remedy.is_some());
        assert_eq!(
            TOOLS[2].judge("runsc version release-20230101.0").level,
            Level::Warning
        );
        assert_eq!(TOOLS[4].judge("Firecracker v1.16.0").level, Level::Warning);
    }

    #[tokio::test]
    async fn a_program_that_is_missing_fails_or_hangs_is_told_apart() {
        assert!(matches!(
            ask("/nowhere/program", &[]).await,
            Err(VersionError::Missing)
        ));
        assert!(matches!(
            ask("false", &[]).await,
            Err(VersionError::Broken(_))
        ));
        assert_eq!(ask("echo", &["1.2.3"]).await.unwrap(), "1.2.3\n");
        // More output than is read, and no end.
        let loud = ["-c", "head -c 100000 /dev/zero; exec sleep 600"];
        match ask("sh", &loud).await {
            Err(VersionError::Broken(why)) => assert!(why.contains("within"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
}
