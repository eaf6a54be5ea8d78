//! `stacyvm-launcher`: wiring only.
//!
//! Without arguments it serves the control socket at its standard input. `--control-fd N` names
//! another descriptor, `--overlay-by-path` mounts overlays as kernels before Linux 6.13 need it,
//! `--overlay-at-once` as those before 6.7 do, and `--probe DIRECTORY` launches one sandbox below
//! that directory, ends it and prints a report as JSON.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use stacyvm_agent::{AgentOptions, Capabilities};
use stacyvm_launcher::{ByPath, Handover, Options, probe, serve};

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(message) => {
            eprintln!("stacyvm-launcher: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode, String> {
    let mut control: u32 = 0;
    let mut place = None;
    let mut options = Options {
        entrypoint: become_agent,
        overlay_by_path: ByPath::WhereNeeded,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .ok_or_else(|| format!("{argument} needs a value"))
        };
        match argument.as_str() {
            "--control-fd" => {
                control = value()?
                    .parse()
                    .map_err(|_| "--control-fd needs a number".to_owned())?;
            }
            "--probe" => place = Some(PathBuf::from(value()?)),
            "--overlay-by-path" => options.overlay_by_path = ByPath::Always,
            "--overlay-at-once" => options.overlay_by_path = ByPath::AtOnce,
            other => return Err(format!("unknown argument {other:?}")),
        }
    }
    if let Some(place) = place {
        return print_probe(&place, options);
    }
    let control = stacyvm_sys::spawn::inherited(control)
        .map_err(|error| format!("no control socket at descriptor {control}: {error}"))?;
    serve(&control, options).map_err(|failure| failure.to_string())
}

fn print_probe(place: &Path, options: Options) -> Result<ExitCode, String> {
    let report = probe(place, options);
    let text = serde_json::to_string(&report).map_err(|error| error.to_string())?;
    println!("{text}");
    Ok(if report.failure.is_none() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn become_agent(handover: Handover) -> ExitCode {
    stacyvm_agent::run(AgentOptions {
        listener: Some(handover.listener),
        stdio: None,
        prepare: false,
        root_capabilities: Capabilities::empty(),
        root: PathBuf::from("/"),
        init: true,
        uid: handover.uid,
        gid: handover.gid,
        memory_events: handover.memory_events,
    })
}
