//! `stacyvm exec` as a terminal: driven under tmux, as a person at a keyboard would.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::harness::{SOON, Server, eventually, host, skip};

/// A terminal of its own with a shell in it, whose command line talks to one server.
struct Terminal {
    socket: PathBuf,
}

/// Leaves the test, which is skipped, without tmux.
macro_rules! need_tmux {
    () => {
        if !stacyvm_testing::programs_or_skip(&["tmux"]) {
            return;
        }
    };
}

impl Terminal {
    fn open(server: &Server) -> Self {
        let terminal = Self {
            socket: server.scratch("tmux"),
        };
        let config = server.scratch("tmux.conf");
        std::fs::write(&config, "set -g status off\nset -g escape-time 0\n").unwrap();
        let like = server.command(&[]);
        let mut command = terminal.tmux();
        command
            .arg("-f")
            .arg(config)
            .args(["new-session", "-d", "-x", "100", "-y", "30", "sh"]);
        for (name, value) in like.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
            .env("TERM", "xterm-256color")
            .env("STACYVM", like.get_program())
            .env_remove("ENV")
            .env_remove("TMUX")
            .current_dir(server.scratch(""));
        assert!(command.status().unwrap().success(), "tmux does not start");
        terminal.line("PS1='rea''dy$ '");
        terminal.prompts("ready$");
        // What a later comparison shows to have been restored.
        terminal.line("before=$(stty -g)");
        terminal.prompts("ready$");
        terminal
    }

    fn tmux(&self) -> Command {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(&self.socket);
        command
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = self.tmux().args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Types text as it is.
    fn types(&self, text: &str) {
        self.run(&["send-keys", "-l", text]);
    }

    /// Presses a key by its name.
    fn press(&self, key: &str) {
        self.run(&["send-keys", key]);
    }

    fn line(&self, text: &str) {
        self.types(text);
        self.press("Enter");
    }

    fn resize(&self, cols: u16, rows: u16) {
        let (cols, rows) = (cols.to_string(), rows.to_string());
        self.run(&["resize-window", "-x", &cols, "-y", &rows]);
    }

    fn screen(&self) -> String {
        self.run(&["capture-pane", "-p", "-S", "-500"])
    }

    /// Waits until the screen shows this.
    #[track_caller]
    fn see(&self, text: &str) {
        let start = std::time::Instant::now();
        let mut screen = self.screen();
        while !screen.contains(text) {
            assert!(start.elapsed() < SOON, "never {text:?}:\n{screen}");
            std::thread::sleep(std::time::Duration::from_millis(20));
            screen = self.screen();
        }
    }

    /// Waits until a shell asks for a line: what is typed before goes to what ran in it.
    #[track_caller]
    fn prompts(&self, prompt: &str) {
        eventually("the shell asks for a line", SOON, || {
            let screen = self.screen();
            // What was typed before the shell came up may have made it ask twice on one line.
            screen.trim_end().ends_with(prompt)
        });
    }

    /// Checks that the shell has its terminal back as it was, and the exit code of what ran.
    #[track_caller]
    fn is_back_with(&self, code: i32) {
        self.prompts("ready$");
        // Typed in two parts, so that the echo of the line is not taken for its output.
        self.line("code=$?; test \"$(stty -g)\" = \"$before\" && echo rest'ored' after $code");
        self.see(&format!("restored after {code}\n"));
        self.prompts("ready$");
    }

    /// Starts the command line and says what its process is.
    fn exec(&self, server: &Server, arguments: &str) -> Pid {
        let file = server.scratch("pid");
        let _ = std::fs::remove_file(&file);
        self.line(&format!(
            "sh -c 'echo $$ > pid; exec \"$STACYVM\" exec {arguments}'"
        ));
        let mut pid = None;
        eventually("it has started", SOON, || {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            pid = text.trim().parse().ok().and_then(Pid::from_raw);
            pid.is_some()
        });
        pid.unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux().arg("kill-server").output();
    }
}

#[test]
fn an_interactive_python_is_resized_interrupted_and_ends_with_its_code() {
    need_tmux!();
    if !Path::new("/usr/bin/python3").exists() {
        skip("needs /usr/bin/python3");
        return;
    }
    let server = Server::start();
    let id = server.spawn(json!({}));
    let terminal = Terminal::open(&server);
    terminal.line(&format!(
        "\"$STACYVM\" exec -it {id} -- /usr/bin/python3 -q"
    ));
    terminal.see(">>>");
    terminal.line("import os, sys, time; print('si'+'ze', *os.get_terminal_size())");
    terminal.see("size 100 30\n");
    terminal.resize(120, 40);
    terminal.line("while tuple(os.get_terminal_size()) != (120, 40): time.sleep(0.01)");
    terminal.line("");
    terminal.line("print('re'+'sized', sys.stdin.isatty(), sys.stdout.isatty())");
    terminal.see("resized True True\n");
    terminal.line("print('sl'+'eeping'); time.sleep(1000)");
    terminal.see("sleeping\n");
    terminal.press("C-c");
    terminal.see("KeyboardInterrupt");
    terminal.prompts(">>>");
    terminal.line("print('al'+'ive €')");
    terminal.see("alive €\n");
    terminal.prompts(">>>");
    terminal.line("sys.exit(7)");
    terminal.is_back_with(7);
}

#[test]
fn a_shell_in_it_has_job_control() {
    need_tmux!();
    let server = Server::start();
    let id = server.spawn(json!({}));
    let terminal = Terminal::open(&server);
    // Without options: a terminal on both ends is enough.
    terminal.line(&format!("\"$STACYVM\" exec {id} -- sh"));
    terminal.line("PS1='ins''ide% '");
    terminal.prompts("inside%");
    terminal.line("cat");
    terminal.line("fir'st");
    terminal.see("fir'st\nfir'st\n");
    terminal.press("C-z");
    terminal.see("Stopped");
    terminal.prompts("inside%");
    terminal.line("echo out'side'; fg");
    terminal.see("outside\n");
    terminal.line("sec'ond");
    terminal.see("sec'ond\nsec'ond\n");
    terminal.press("C-c");
    // The key throws away what was typed and not read.
    terminal.prompts("inside%");
    terminal.line("echo co'de' in $?");
    terminal.see("code in 130\n");
    terminal.press("C-d");
    terminal.is_back_with(0);
}

#[test]
fn the_terminal_is_restored_when_the_server_or_the_client_is_killed() {
    need_tmux!();
    let mut server = Server::start();
    let id = server.spawn(json!({}));
    let terminal = Terminal::open(&server);
    // An argument that no other process on the machine has.
    let mark = format!("86420.{}", std::process::id());
    let command = |word| format!("{id} -- sh -c \"echo the\\re {word}; exec sleep {mark}\"");
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129)] {
        let pid = terminal.exec(&server, &command(code));
        terminal.see(&format!("there {code}\n"));
        eventually("its shell has become the command", SOON, || {
            host::with_argument(&mark).len() == 1
        });
        kill_process(pid, signal).unwrap();
        terminal.is_back_with(code);
        eventually("its command is gone", SOON, || {
            host::with_argument(&mark).is_empty()
        });
    }
    terminal.exec(&server, &command(125));
    terminal.see("there 125\n");
    server.kill();
    terminal.is_back_with(125);
    terminal.see("error:");
    server.resume();
}

/// The command line with this input.
fn with_input(server: &Server, arguments: &[&str], input: &[u8]) -> std::process::Output {
    let mut child = server
        .command(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeding = std::thread::spawn(move || {
        // A command may end before it has read everything.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    feeding.join().unwrap();
    output
}

#[test]
fn piped_input_of_any_length_arrives_byte_by_byte() {
    let server = Server::start();
    let id = server.spawn(json!({}));
    let mut state = 1_u32;
    let input: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(8_000_000)
    .collect();
    let output = with_input(&server, &["exec", "-i", &id, "--", "cat"], &input);
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout == input, "{} bytes came", output.stdout.len());
    let output = with_input(&server, &["exec", &id, "--", "head", "-c", "5"], &input);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, &input[..5]);
}

#[test]
fn a_signal_reaches_a_command_that_does_not_read_its_input() {
    let server = Server::start();
    let id = server.spawn(json!({}));
    let script = "trap 'exit 9' INT; echo ready; while :; do sleep 0.05; done";
    let mut child = server
        .command(&["exec", &id, "--", "sh", "-c", script])
        .stdin(std::fs::File::open("/dev/zero").unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(&mut stdout, &mut ready).unwrap();
    // Until everything that can be full is: what it reads no longer grows.
    let read = || {
        let path = format!("/proc/{}/io", child.id());
        let text = std::fs::read_to_string(path).unwrap();
        let line = text.lines().find(|line| line.starts_with("rchar")).unwrap();
        line.to_owned()
    };
    let mut before = String::new();
    eventually("the input is full", SOON, || {
        std::thread::sleep(std::time::Duration::from_millis(200));
        let now = read();
        std::mem::replace(&mut before, now.clone()) == now
    });
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::INT).unwrap();
    let mut status = None;
    eventually("it has ended", SOON, || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(9));
}

#[test]
fn a_reader_of_a_socket_that_stops_reading_leaves_the_servers_memory_flat() {
    let server = Server::start();
    let id = server.spawn(json!({}));
    server.exec(&id, "true");
    let before = host::memory_kib(server.pid(), "VmHWM");
    let print = "head -c 150000000 /dev/zero | tr '\\0' x";
    let mut child = server
        .command(&["exec", "-n", &id, "--", "sh", "-c", print])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut first = [0; 1];
    std::io::Read::read_exact(&mut stdout, &mut first).unwrap();
    for _ in 0..50 {
        assert_eq!(server.exec(&id, "true")["exit_code"], 0);
    }
    let grown = host::memory_kib(server.pid(), "VmHWM") - before;
    assert!(grown < 64 * 1024, "the server grew by {grown} KiB");
    let rest = std::io::copy(&mut stdout, &mut std::io::sink()).unwrap();
    assert_eq!(rest, 149_999_999);
    assert!(child.wait().unwrap().success());
    let grown = host::memory_kib(server.pid(), "VmHWM") - before;
    assert!(grown < 64 * 1024, "the server grew by {grown} KiB");
}
