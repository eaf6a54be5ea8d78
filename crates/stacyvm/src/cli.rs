//! The command line: the commands, and how the chosen one is run.

mod attached;
mod bench;
mod completions;
mod config;
mod copy;
mod doctor;
mod egress;
mod events;
mod exec;
mod global;
mod image;
mod kill;
mod list;
mod logs;
mod network;
mod output;
mod preview;
mod run;
mod runtime;
mod serve;
mod signals;
mod spawn;
mod stats;
mod terminal;
mod values;
mod version;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::failure;
use global::Global;
use runtime::block_on;

/// What `run` and `exec` exit with when the command could not be run at all, so that it is not
/// mistaken for the command's own code.
const NOT_RUN_EXIT_CODE: u8 = 125;

/// StacyVM gives code its own computer: isolated sandboxes behind one API.
// No `Debug` from here down: the options carry a key.
#[derive(Parser)]
#[command(name = "stacyvm", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the server.
    Serve(serve::Args),
    /// Run one command in a fresh sandbox, without a server, and remove the sandbox.
    Run(run::Args),
    /// Make a sandbox.
    Spawn(spawn::Args),
    /// Run a command in a sandbox.
    Exec(exec::Args),
    /// List the sandboxes.
    #[command(visible_alias = "ls")]
    List(list::Args),
    /// Destroy sandboxes.
    Kill(kill::Args),
    /// Show what a sandbox uses, against what it may use.
    Stats(stats::Args),
    /// Show what a sandbox printed.
    Logs(logs::Args),
    Network(network::Args),
    Preview(preview::Args),
    /// Follow what happens on the server.
    Events(events::Args),
    /// Copy files into or out of a sandbox.
    Cp(copy::Args),
    /// Manage the images of this machine.
    Image(image::Args),
    /// Find out what this machine can do, and what stands in the way.
    Doctor(doctor::Args),
    /// Show or check the configuration.
    Config(config::Args),
    /// Measure how fast sandboxes are.
    Bench(bench::Args),
    /// Show the version.
    Version,
    /// Print a completion script for a shell.
    Completions(completions::Args),
    /// Be the way out of sandboxes; started by providers.
    #[command(hide = true)]
    Egress,
}

/// Runs the command and says how it went.
pub(crate) fn main(cli: Cli) -> ExitCode {
    let global = cli.global;
    let not_run = matches!(cli.command, Command::Run(_) | Command::Exec(_));
    let result = match cli.command {
        Command::Serve(args) => serve::run(args, &global),
        Command::Run(args) => run::run(args, &global),
        Command::Spawn(args) => block_on(spawn::run(args, &global)),
        Command::Exec(args) => block_on(exec::run(args, &global)),
        Command::List(args) => block_on(list::run(args, &global)),
        Command::Kill(args) => block_on(kill::run(args, &global)),
        Command::Stats(args) => block_on(stats::run(args, &global)),
        Command::Logs(args) => block_on(logs::run(args, &global)),
        Command::Network(args) => block_on(network::run(args, &global)),
        Command::Preview(args) => preview::run(args, &global),
        Command::Events(args) => block_on(events::run(args, &global)),
        Command::Cp(args) => block_on(copy::run(args, &global)),
        Command::Image(args) => image::run(args, &global),
        Command::Doctor(args) => doctor::run(args, &global),
        Command::Config(args) => config::run(args, &global),
        Command::Bench(args) => bench::run(args, &global),
        Command::Version => version::run(&global),
        Command::Completions(args) => completions::run(args),
        Command::Egress => egress::run(),
    };
    match result {
        Ok(code) => code,
        Err(error) if failure::is_broken_pipe(&error) => failure::exit_code(128 + 13),
        Err(error) => {
            failure::report(&error);
            if not_run {
                ExitCode::from(NOT_RUN_EXIT_CODE)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

#[cfg(test)]
mod tests;
