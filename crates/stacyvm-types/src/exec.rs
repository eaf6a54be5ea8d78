//! Running commands: what a client asks for and what it hears.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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
    /// Answer with NDJSON while it runs.
    #[serde(default)]
    pub stream: Option<bool>,
    /// A user of the sandbox, by name or number.
    #[serde(default)]
    pub user: Option<String>,
    /// What the command reads from its standard input; absent means an empty input.
    #[serde(default)]
    pub stdin: Option<String>,
}

/// Why a command ended, when it did not simply exit.
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

/// Where a piece of output came from.
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
