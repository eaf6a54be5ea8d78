//! From an exec request as it came in to what the sandbox is told to run, or a refusal.

use std::time::Duration;

use bytes::Bytes;
use stacyvm_provider::ops::{Credentials, ExecSpec, OnDisconnect};
use stacyvm_types::{ExecMode, ExecRequest, GoDuration};

use crate::limits::{self, bad, shown};
use crate::{Error, Settings};

/// A command that makes sense.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) spec: ExecSpec,
    pub(crate) stdin: Option<Bytes>,
    /// Whether a shell runs it.
    pub(crate) shell: bool,
    /// Whether more input follows `stdin`.
    pub(crate) keep_stdin_open: bool,
}

impl Plan {
    pub(crate) fn new(settings: &Settings, request: ExecRequest) -> Result<Self, Error> {
        let mode = match request.mode.as_deref() {
            None | Some("" | "shell") => ExecMode::Shell,
            Some("argv") => ExecMode::Argv,
            Some(other) => {
                let other = shown(other);
                return bad(format!(
                    "unknown mode {other:?}: the modes are shell and argv"
                ));
            }
        };
        if request.command.trim().is_empty() {
            return bad("command is blank");
        }
        let args = request.args.unwrap_or_default();
        let argv = match mode {
            ExecMode::Argv => [request.command].into_iter().chain(args).collect(),
            // By its path: a sandbox or an exec with a PATH of its own keeps its shell.
            ExecMode::Shell => vec![
                "/bin/sh".to_owned(),
                "-c".to_owned(),
                shell_text(request.command, &args),
            ],
        };
        for argument in &argv {
            limits::argument(argument)?;
        }
        let env = request.env.unwrap_or_default();
        limits::env(&env)?;
        let workdir = request.workdir.filter(|path| !path.is_empty());
        workdir.as_deref().map_or(Ok(()), limits::workdir)?;
        let user = request.user.filter(|user| !user.is_empty());
        user.as_deref().map_or(Ok(()), limits::user)?;
        let timeout = timeout(settings, request.timeout.as_deref())?;
        let stdin = request.stdin.map(Bytes::from);
        let spec = ExecSpec {
            argv,
            env,
            workdir,
            user: user.map_or(Credentials::Default, Credentials::User),
            stdin: stdin.is_some(),
            tty: None,
            timeout,
            on_disconnect: OnDisconnect::Kill,
            kill_orphans: false,
        };
        Ok(Self {
            spec,
            stdin,
            shell: mode == ExecMode::Shell,
            keep_stdin_open: false,
        })
    }
}

/// The deadline: what was asked, else the default, never above the maximum; none means none.
fn timeout(settings: &Settings, asked: Option<&str>) -> Result<Option<Duration>, Error> {
    let limit = |duration: Option<Duration>| duration.filter(|duration| !duration.is_zero());
    let max = limit(settings.max_exec_timeout);
    let Some(text) = asked else {
        let default = limit(settings.default_exec_timeout);
        return Ok(match (default, max) {
            (Some(default), Some(max)) => Some(default.min(max)),
            (default, max) => default.or(max),
        });
    };
    let asked: GoDuration = text
        .parse()
        .map_err(|error| Error::BadRequest(format!("timeout: {error}")))?;
    if asked < GoDuration::ZERO {
        return bad(format!("timeout must not be negative, not {asked}"));
    }
    let asked = limit(Some(asked.to_std()));
    match (asked, max) {
        (Some(asked), Some(max)) if asked > max => {
            let (asked, max) = (GoDuration::from(asked), GoDuration::from(max));
            Err(Error::ResourceLimit(format!(
                "timeout {asked} is longer than the longest allowed, {max}"
            )))
        }
        (asked, max) => Ok(asked.or(max)),
    }
}

/// The command as it is, then every argument quoted so that the shell passes it on literally.
fn shell_text(command: String, args: &[String]) -> String {
    let mut text = command;
    for argument in args {
        text.push_str(" '");
        // Inside single quotes only the quote itself is special.
        text.push_str(&argument.replace('\'', r"'\''"));
        text.push('\'');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn plan(settings: &Settings, json: &str) -> Result<Plan, Error> {
        Plan::new(settings, serde_json::from_str(json).unwrap())
    }

    #[test]
    fn arguments_reach_a_real_shell_literally() {
        let args: Vec<String> = [
            "",
            " ",
            "a b",
            "'",
            "''",
            "\"",
            "$HOME",
            "`id`",
            "$(id)",
            "\\",
            "\\n",
            "*",
            "~",
            "-n",
            "new\nline",
            "!x",
            "#",
            ";",
            "&",
            "é",
        ]
        .map(str::to_owned)
        .to_vec();
        let text = shell_text("printf '%s\\0'".to_owned(), &args);
        let output = Command::new("sh").arg("-c").arg(text).output().unwrap();
        let heard: Vec<String> = String::from_utf8(output.stdout)
            .unwrap()
            .split_terminator('\0')
            .map(str::to_owned)
            .collect();
        assert_eq!(heard, args);
    }

    #[test]
    fn the_two_modes_and_no_other() {
        let settings = Settings::default();
        let argv = |json| plan(&settings, json).unwrap().spec.argv;
        assert_eq!(
            argv(r#"{"command":"echo","args":["a b"]}"#),
            ["/bin/sh", "-c", "echo 'a b'"]
        );
        assert_eq!(
            argv(r#"{"command":"echo","args":["a b"],"mode":"argv"}"#),
            ["echo", "a b"]
        );
        assert_eq!(
            argv(r#"{"command":"x","mode":"","args":null}"#),
            ["/bin/sh", "-c", "x"]
        );
        for wrong in [
            r#"{"command":"x","mode":"SHELL"}"#,
            r#"{"command":""}"#,
            r#"{"command":" \n"}"#,
            r#"{"mode":"argv","command":" "}"#,
            r#"{"command":"a\u0000b"}"#,
            r#"{"command":"x","user":"a b"}"#,
            r#"{"command":"x","env":{"A=B":"c"}}"#,
        ] {
            let refused = plan(&settings, wrong);
            assert!(matches!(refused, Err(Error::BadRequest(_))), "{wrong}");
        }
    }

    #[test]
    fn deadlines_follow_the_contract() {
        let seconds = |n| Some(Duration::from_secs(n));
        let with = |default, max| Settings {
            default_exec_timeout: default,
            max_exec_timeout: max,
            ..Settings::default()
        };
        let zero = Some(Duration::ZERO);
        for (settings, asked, expected) in [
            (with(None, None), None, None),
            (with(zero, zero), None, None),
            (with(seconds(5), None), None, seconds(5)),
            (with(seconds(5), seconds(3)), None, seconds(3)),
            (with(zero, seconds(3)), None, seconds(3)),
            (with(seconds(5), seconds(9)), Some("7s"), seconds(7)),
            (with(seconds(5), None), Some("0s"), None),
            (with(seconds(5), seconds(9)), Some("0s"), seconds(9)),
        ] {
            assert_eq!(timeout(&settings, asked).unwrap(), expected, "{asked:?}");
        }
        let settings = with(None, seconds(9));
        for wrong in ["-1s", "", "10", "1d"] {
            let refused = timeout(&settings, Some(wrong));
            assert!(matches!(refused, Err(Error::BadRequest(_))), "{wrong}");
        }
        let refused = timeout(&settings, Some("10s"));
        assert!(matches!(refused, Err(Error::ResourceLimit(_))));
    }
}
