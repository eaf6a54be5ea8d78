//! The program: parses the command line and hands over. Everything else is in its room.
#![forbid(unsafe_code)]

mod bench;
mod cli;
mod embedded;
mod failure;
mod logging;
mod progress;
mod telemetry;
mod wiring;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    cli::main(cli::Cli::parse())
}
