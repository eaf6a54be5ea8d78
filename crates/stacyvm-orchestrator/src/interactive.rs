//! Commands that a client talks to while they run: a terminal, an input that stays open.

use stacyvm_provider::ops::TtySize;

use crate::command::Plan;

/// What a shell does itself, or reads as its own syntax, in any of the shells that stand as
/// `/bin/sh`: dash, bash, busybox. `exec` would look for a program of that name.
const SHELL_WORDS: &[&str] = &[
    ".",
    ":",
    "alias",
    "bg",
    "bind",
    "break",
    "builtin",
    "caller",
    "case",
    "cd",
    "chdir",
    "command",
    "compgen",
    "complete",
    "compopt",
    "continue",
    "coproc",
    "declare",
    "dirs",
    "disown",
    "do",
    "done",
    "echo",
    "elif",
    "else",
    "enable",
    "esac",
    "eval",
    "exec",
    "exit",
    "export",
    "false",
    "fc",
    "fg",
    "fi",
    "for",
    "function",
    "getopts",
    "hash",
    "help",
    "history",
    "if",
    "in",
    "jobs",
    "kill",
    "let",
    "local",
    "logout",
    "mapfile",
    "popd",
    "printf",
    "pushd",
    "pwd",
    "read",
    "readarray",
    "readonly",
    "return",
    "select",
    "set",
    "shift",
    "shopt",
    "source",
    "suspend",
    "test",
    "then",
    "time",
    "times",
    "trap",
    "true",
    "type",
    "typeset",
    "ulimit",
    "umask",
    "unalias",
    "unset",
    "until",
    "wait",
    "while",
];

/// How a command is connected beside what its request says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interactive {
    /// A terminal of this size instead of three pipes.
    pub tty: Option<TtySize>,
    /// Whether input comes while it runs, through `RunningExec::control`. The request's own `stdin`
    /// comes first; only the caller ends the input then.
    pub stdin: bool,
}

impl Plan {
    /// The same command, connected like this.
    ///
    /// On a terminal the shell steps aside for a single program: a key like Ctrl-C reaches every
    /// process in front, and a shell that waited would die of it after a program that lives on,
    /// and hide that program's exit code.
    pub(crate) fn connected(mut self, interactive: Interactive) -> Self {
        if interactive.tty.is_some()
            && self.shell
            && let Some(text) = self.spec.argv.last_mut()
            && is_single_program(text)
        {
            text.insert_str(0, "exec ");
        }
        self.spec.tty = interactive.tty;
        self.spec.stdin |= interactive.stdin;
        self.keep_stdin_open = interactive.stdin;
        self
    }
}

/// Whether shell text is one program with its arguments, for certain.
fn is_single_program(text: &str) -> bool {
    let name = text.split(' ').find(|word| !word.is_empty());
    let Some(name) = name else {
        return false;
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./+-".contains(c);
    if !name.chars().all(plain) || SHELL_WORDS.contains(&name) {
        return false;
    }
    let mut quoted = false;
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\'' => quoted = !quoted,
            _ if quoted => {}
            '\\' => {
                if rest.next().is_none_or(|next| next == '\n') {
                    return false;
                }
            }
            ' ' | ',' | ':' | '=' | '@' | '%' => {}
            c if plain(c) => {}
            _ => return false,
        }
    }
    !quoted
}

#[cfg(test)]
mod tests {
    use super::is_single_program;

    #[test]
    fn only_what_is_one_program_for_certain_replaces_the_shell() {
        for text in [
            "python3",
            "python3 -q",
            "/usr/bin/python3 -c 'print(1); $x'",
            "vim a.txt 'b'\\''c'",
            "env A=b top",
        ] {
            assert!(is_single_program(text), "{text}");
        }
        for text in [
            "",
            " ",
            "cd /tmp",
            "exit 3",
            "echo hi",
            "A=b python3",
            "python3; echo",
            "python3 && echo",
            "python3 | cat",
            "python3 &",
            "python3\necho",
            "(python3)",
            "{ python3 }",
            "! python3",
            "$SHELL",
            "a $(b)",
            "a `b`",
            "a > b",
            "a \"b",
            "a 'b",
            "a \\",
            "while true",
        ] {
            assert!(!is_single_program(text), "{text}");
        }
    }
}
