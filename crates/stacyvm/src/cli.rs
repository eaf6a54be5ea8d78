//! The command line: the commands, the options that all share, and how a command is run.

mod attached;
mod bench;
mod completions;
mod config;
mod copy;
mod doctor;
mod egress;
mod events;
mod exec;
mod image;
mod kill;
mod list;
mod logs;
mod network;
mod output;
mod preview;
mod run;
mod serve;
mod signals;
mod spawn;
mod stats;
mod terminal;
mod values;
mod version;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use stacyvm_client::Client;
use stacyvm_config::{ConfigError, Loaded, Loader};

use crate::failure::{self, WithHint};
use crate::wiring;

/// What `run` and `exec` exit with when the command could not be run at all, so that it is not
/// mistaken for the command's own code.
const NOT_RUN: u8 = 125;

/// Where a server listens that was started without options.
const DEFAULT_SERVER: &str = "http://localhost:7423";

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

/// Options of every command.
#[derive(clap::Args)]
pub(crate) struct Global {
    /// Address of the server [default: http://localhost:7423].
    #[arg(long, global = true, env = "STACYVM_SERVER", value_name = "URL")]
    server: Option<String>,
    /// Key that the server asks for.
    #[arg(
        long,
        global = true,
        env = "STACYVM_API_KEY",
        value_name = "KEY",
        hide_env_values = true
    )]
    api_key: Option<String>,
    /// Owner in whose name to act.
    #[arg(long, global = true, env = "STACYVM_USER_ID", value_name = "ID")]
    user_id: Option<String>,
    /// What the answer looks like.
    #[arg(
        long,
        global = true,
        env = "STACYVM_OUTPUT",
        value_name = "FORM",
        default_value = "table"
    )]
    output: Form,
    /// Configuration file, instead of ./stacyvm.yaml or ~/.stacyvm/config.yaml.
    #[arg(long, global = true, env = "STACYVM_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What an answer looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// For people.
    Table,
    /// For programs.
    Json,
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
    /// Measure.
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
                ExitCode::from(NOT_RUN)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// For the commands that only talk to a server: one thread is enough.
fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(future);
    // A read of standard input cannot be interrupted and must not hold the exit up.
    runtime.shutdown_background();
    result
}

impl Global {
    fn client(&self) -> Result<Client> {
        let server = self.server.as_deref().unwrap_or(DEFAULT_SERVER);
        Client::new(server, self.api_key.as_deref(), self.user_id.as_deref())
            .hint("an address looks like http://localhost:7423")
    }

    /// Where the configuration is looked for, with the providers that this program contains.
    fn loader(&self) -> Loader {
        let loader = Loader::from_environment()
            .built_providers(&wiring::BUILT_PROVIDERS)
            .sends_spans(cfg!(feature = "otlp"));
        match &self.config {
            Some(path) => loader.file(path),
            None => loader,
        }
    }

    /// The configuration; warnings go to standard error.
    fn configuration(&self) -> Result<Loaded> {
        loaded(self.loader())
    }
}

/// Reads the configuration and prints what is suspicious about it.
fn loaded(loader: Loader) -> Result<Loaded> {
    let loaded = refused(loader.load())?;
    output::warnings(&loaded.warnings);
    Ok(loaded)
}

/// A configuration that cannot be used becomes a failure with advice.
fn refused(result: Result<Loaded, ConfigError>) -> Result<Loaded> {
    result.or_else(|error| {
        output::warnings(&error.warnings);
        let hint = error
            .problems
            .iter()
            .find_map(|problem| problem.hint.clone())
            .unwrap_or_else(|| "\"stacyvm config lint\" checks a file".to_owned());
        Err(error).hint(hint)
    })
}

#[cfg(test)]
mod tests;
