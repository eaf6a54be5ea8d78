//! A launcher whose sandboxes run the script `/workspace/run.sh` as the sandbox's user instead of
//! the agent: tests look at a sandbox with it, and it measures a launch without the agent's start.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use stacyvm_launcher::{ByPath, Handover, Options, serve};

fn main() -> ExitCode {
    let given = |name: &str| std::env::args().any(|argument| argument == name);
    let by_path = match (given("--overlay-by-path"), given("--overlay-at-once")) {
        (_, true) => ByPath::AtOnce,
        (true, false) => ByPath::Always,
        (false, false) => ByPath::WhereNeeded,
    };
    let control = match stacyvm_sys::spawn::inherited(0) {
        Ok(control) => control,
        Err(error) => {
            eprintln!("no control socket at standard input: {error}");
            return ExitCode::FAILURE;
        }
    };
    let options = Options {
        entrypoint: run_script,
        overlay_by_path: by_path,
    };
    match serve(&control, options) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn run_script(handover: Handover) -> ExitCode {
    let mut command = Command::new("/bin/sh");
    command
        .arg("/workspace/run.sh")
        .current_dir("/workspace")
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin");
    // With one id there is no other user to become.
    if rustix::process::geteuid().as_raw() != handover.uid {
        command.uid(handover.uid).gid(handover.gid);
    }
    let _ = command.exec();
    ExitCode::FAILURE
}
