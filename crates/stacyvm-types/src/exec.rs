//! Commands: the request that runs one, and the answers.

pub(crate) mod requests;
pub(crate) mod socket;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// How `command` and `args` become a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExecMode {
    /// `sh -c` with the command; every argument is appended, quoted so that it arrives literally.
    #[default]
    Shell,
    /// The command is the program and the arguments are its arguments; no shell.
    Argv,
}

/// The body of POST `/sandboxes/{id}/exec`, as it came in; validated by the orchestrator.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExecRequest {
    /// The program or the shell text.
    #[serde(default)]
    pub command: String,
    /// Arguments; absent and `null` mean none.
    #[serde(default)]
    pub args: Option<Vec<String>>,
    /// `""` or `shell`, or `argv`.
    #[serde(default)]
    pub mode: Option<String>,
    /// Variables beside the sandbox's own.
    #[serde(default)]
    pub env: Option<BTreeMap<String, String>>,
    /// Where to run; relative to `/workspace`; default `/workspace`.
    #[serde(default)]
    pub workdir: Option<String>,
    /// Go duration.
    #[serde(default)]
    pub timeout: Option<String>,
    /// Whether to answer with NDJSON while it runs.
    #[serde(default)]
    pub stream: Option<bool>,
    /// A user of the sandbox, by name or number.
    #[serde(default)]
    pub user: Option<String>,
    /// What the command reads from its standard input; absent means an empty input.
    #[serde(default)]
    pub stdin: Option<String>,
    /// Whether the command outlives this request: the answer names the exec, which is then found
    /// below `/execs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detach: Option<bool>,
}

/// Why a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ExitReason {
    /// It exited by itself.
    Exit,
    /// A signal ended it.
    Signal,
    /// Its deadline passed and the whole process tree was killed.
    Timeout,
    /// The sandbox's memory limit was hit.
    Oom,
    /// The sandbox was destroyed under it.
    SandboxDestroyed,
}

/// The answer of a synchronous exec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExecResponse {
    /// 0–255; 128+N after death by signal N.
    pub exit_code: i32,
    /// What it wrote to standard output; invalid UTF-8 became U+FFFD.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
    /// Go style.
    pub duration: String,
    /// Whether output beyond the cap was dropped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// Present when something other than an exit ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<ExitReason>,
}

/// The stream that output came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum OutputStream {
    /// Standard output; everything when the command has a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line of a streamed exec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StreamLine {
    /// `stdout`, `stderr` or, last, `exit`.
    pub stream: String,
    /// The text; empty on the last line.
    pub data: String,
    /// On the last line only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// On the last line only; Go style.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
    /// On the last line, when the command was killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<ExitReason>,
}

/// Names one exec within its sandbox: `ex-` and a decimal number that grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExecId(pub u64);

/// The text is not an exec id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an exec id is \"ex-\" followed by a number")]
pub struct ParseExecIdError;

impl fmt::Display for ExecId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ex-{}", self.0)
    }
}

impl FromStr for ExecId {
    type Err = ParseExecIdError;

    fn from_str(text: &str) -> Result<Self, ParseExecIdError> {
        let digits = text.strip_prefix("ex-").ok_or(ParseExecIdError)?;
        let number = digits.parse().map_err(|_| ParseExecIdError)?;
        // One spelling only: "ex-+1" and "ex-01" name nothing.
        let id = Self(number);
        (id.to_string() == text)
            .then_some(id)
            .ok_or(ParseExecIdError)
    }
}

impl TryFrom<String> for ExecId {
    type Error = ParseExecIdError;

    fn try_from(text: String) -> Result<Self, ParseExecIdError> {
        text.parse()
    }
}

impl From<ExecId> for String {
    fn from(id: ExecId) -> Self {
        id.to_string()
    }
}

/// Whether an exec runs or has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum ExecState {
    /// It runs.
    Running,
    /// It has ended.
    Exited,
}

/// One exec, as listed below `/sandboxes/{id}/execs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExecInfo {
    /// Its id.
    pub exec_id: ExecId,
    /// Whether it runs or has ended.
    pub state: ExecState,
    /// Program and arguments, cut after 4 KiB.
    pub argv: Vec<String>,
    /// Its process id inside the sandbox; 0 when the program could not be started.
    pub pid: u32,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether it outlives its request and keeps its output.
    pub detached: bool,
    /// When it started.
    pub started_at: Timestamp,
    /// 0–255; once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<ExitReason>,
    /// How long it ran, Go style.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
    /// The first byte of output that is still kept, counted over both streams from the start.
    pub log_start: u64,
    /// The byte after the last one.
    pub log_end: u64,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn exec_ids_have_one_spelling() {
        let id = ExecId(12);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"ex-12\"");
        for wrong in [
            "",
            "12",
            "ex-",
            "ex-01",
            "ex-+1",
            "ex--1",
            "ex-1 ",
            "EX-1",
            "ex-99999999999999999999",
        ] {
            assert_eq!(wrong.parse::<ExecId>(), Err(ParseExecIdError), "{wrong}");
        }
    }
}
