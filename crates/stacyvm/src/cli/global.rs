//! The options that all commands share, and what they lead to: the server and the configuration.

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;
use stacyvm_client::Client;
use stacyvm_config::{ConfigError, Loaded, Loader};

use super::output;
use crate::failure::WithHint;
use crate::wiring;

/// Where a server listens that was started without options.
const DEFAULT_SERVER: &str = "http://localhost:7423";

/// Options of every command.
// No `Debug`: the options carry a key.
#[derive(clap::Args)]
pub(super) struct Global {
    /// Address of the server [default: http://localhost:7423].
    #[arg(long, global = true, env = "STACYVM_SERVER", value_name = "URL")]
    pub(super) server: Option<String>,
    /// Key that the server asks for.
    #[arg(
        long,
        global = true,
        env = "STACYVM_API_KEY",
        value_name = "KEY",
        hide_env_values = true
    )]
    pub(super) api_key: Option<String>,
    /// Owner in whose name to act.
    #[arg(long, global = true, env = "STACYVM_USER_ID", value_name = "ID")]
    pub(super) user_id: Option<String>,
    /// Format of the answer.
    #[arg(
        long,
        global = true,
        env = "STACYVM_OUTPUT",
        value_name = "FORM",
        default_value = "table"
    )]
    pub(super) output: OutputFormat,
    /// Configuration file, instead of ./stacyvm.yaml or ~/.stacyvm/config.yaml.
    #[arg(long, global = true, env = "STACYVM_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
}

/// The format of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum OutputFormat {
    /// For people.
    Table,
    /// For programs.
    Json,
}

impl Global {
    pub(super) fn client(&self) -> Result<Client> {
        let server = self.server.as_deref().unwrap_or(DEFAULT_SERVER);
        Client::new(server, self.api_key.as_deref(), self.user_id.as_deref())
            .hint("an address looks like http://localhost:7423")
    }

    /// Where the configuration is looked for, with the providers that this program contains.
    pub(super) fn loader(&self) -> Loader {
        let loader = Loader::from_environment()
            .built_providers(&wiring::BUILT_PROVIDERS)
            .sends_spans(cfg!(feature = "otlp"));
        match &self.config {
            Some(path) => loader.file(path),
            None => loader,
        }
    }

    /// The configuration; warnings go to standard error.
    pub(super) fn configuration(&self) -> Result<Loaded> {
        load(self.loader())
    }
}

/// Reads the configuration and prints what is suspicious about it.
pub(super) fn load(loader: Loader) -> Result<Loaded> {
    let loaded = check(loader.load())?;
    output::warnings(&loaded.warnings);
    Ok(loaded)
}

/// A configuration that cannot be used becomes a failure with advice.
pub(super) fn check(result: Result<Loaded, ConfigError>) -> Result<Loaded> {
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
