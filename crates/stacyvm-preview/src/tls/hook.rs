//! The operator's program that puts records into DNS: `HOOK present|cleanup NAME VALUE`.
//!
//! Its rule: the program has a timeout, and errors quote a bounded part of what it prints. It
//! inherits the server's environment, where its credentials may be, without the variables that
//! configure the server.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

/// Bytes of each output that errors quote.
const MAX_QUOTED: u64 = 1024;

/// Why a record could not be added or removed.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// The hook cannot be started.
    #[error("cannot start the hook {}", path.display())]
    Start {
        /// The program.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The hook took too long and was killed.
    #[error("the hook {} took longer than {limit:?} to {verb}", path.display())]
    Slow {
        /// The program.
        path: PathBuf,
        /// What it was called for.
        verb: &'static str,
        /// How long it may take.
        limit: Duration,
    },
    /// The hook exited with a failure.
    #[error("the hook {} failed to {verb} ({status}): {output}", path.display())]
    Failed {
        /// The program.
        path: PathBuf,
        /// What it was called for.
        verb: &'static str,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// The beginning of what it printed.
        output: String,
    },
}

/// Runs the hook to its end.
pub(super) async fn run(
    path: &Path,
    limit: Duration,
    verb: &'static str,
    name: &str,
    value: &str,
) -> Result<(), HookError> {
    let start = |source| HookError::Start {
        path: path.to_owned(),
        source,
    };
    let mut command = Command::new(path);
    command
        .args([verb, name, value])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    for (variable, _) in std::env::vars_os() {
        if variable.as_encoded_bytes().starts_with(b"STACYVM_") {
            command.env_remove(variable);
        }
    }
    let mut child = command.spawn().map_err(start)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let running = async {
        let (out, error, status) = tokio::join!(read(stdout), read(stderr), child.wait());
        (format!("{error} {out}"), status)
    };
    let (output, status) =
        tokio::time::timeout(limit, running)
            .await
            .map_err(|_| HookError::Slow {
                path: path.to_owned(),
                verb,
                limit,
            })?;
    let status = status.map_err(start)?;
    if status.success() {
        return Ok(());
    }
    Err(HookError::Failed {
        path: path.to_owned(),
        verb,
        status,
        output: output.split_whitespace().collect::<Vec<_>>().join(" "),
    })
}

/// The beginning of an output. The rest is read, too, so that the program never blocks on a full
/// pipe.
async fn read(output: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut output) = output else {
        return String::new();
    };
    let mut kept = Vec::new();
    let _ = (&mut output).take(MAX_QUOTED).read_to_end(&mut kept).await;
    let _ = tokio::io::copy(&mut output, &mut tokio::io::sink()).await;
    let text = String::from_utf8_lossy(&kept);
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn hook(directory: &Path, body: &str) -> PathBuf {
        let path = directory.join("hook");
        // Renamed into place: a program that is open for writing cannot be run.
        let aside = directory.join("hook.new");
        std::fs::write(&aside, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&aside, PermissionsExt::from_mode(0o700)).unwrap();
        std::fs::rename(&aside, &path).unwrap();
        path
    }

    #[tokio::test]
    async fn it_is_told_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let told = directory.path().join("told");
        let script = format!("echo \"$@\" > {}", told.display());
        let path = hook(directory.path(), &script);
        let limit = Duration::from_secs(60);
        let name = "_acme-challenge.example.org";
        run(&path, limit, "present", name, "a-b_c").await.unwrap();
        let told = std::fs::read_to_string(told).unwrap();
        assert_eq!(told, "present _acme-challenge.example.org a-b_c\n");
    }

    #[tokio::test]
    async fn what_it_says_is_quoted_and_cut() {
        let directory = tempfile::tempdir().unwrap();
        let path = hook(
            directory.path(),
            "echo 'no such zone' >&2; head -c 1000000 /dev/zero | tr '\\0' x; exit 3",
        );
        let limit = Duration::from_secs(60);
        let error = run(&path, limit, "present", "n", "v").await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status: 3): no such zone xxx"), "{text}");
        assert!(text.len() < 3000, "{}", text.len());
    }

    #[tokio::test]
    async fn it_is_not_waited_for_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let path = hook(directory.path(), "exec sleep 1000");
        let limit = Duration::from_millis(50);
        let error = run(&path, limit, "cleanup", "n", "v").await.unwrap_err();
        assert!(matches!(error, HookError::Slow { .. }), "{error}");
        let missing = directory.path().join("nothing");
        let error = run(&missing, limit, "cleanup", "n", "v").await.unwrap_err();
        assert!(matches!(error, HookError::Start { .. }), "{error}");
    }
}
