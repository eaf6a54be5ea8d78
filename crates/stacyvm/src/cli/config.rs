//! `stacyvm config show` and `stacyvm config lint`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use serde_json::{Value, json};
use stacyvm_config::Problem;

use super::global::{Global, OutputFormat};
use super::output;

/// Show or check the configuration.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print every effective value and where it comes from; secrets are masked.
    Show,
    /// Check the file and the environment; exits with 1 when the server would refuse them.
    Lint,
}

pub(crate) fn run(args: Args, global: &Global) -> Result<ExitCode> {
    match args.action {
        Action::Show => show(global),
        Action::Lint => lint(global),
    }
}

fn show(global: &Global) -> Result<ExitCode> {
    let loaded = global.configuration()?;
    let entries = loaded.entries();
    match global.output {
        OutputFormat::Json => output::json(&entries)?,
        OutputFormat::Table => {
            let rows: Vec<Vec<String>> = entries
                .into_iter()
                .map(|entry| vec![entry.key, text(&entry.value), entry.origin])
                .collect();
            output::table(&["KEY", "VALUE", "FROM"], &rows)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "\"\"".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn lint(global: &Global) -> Result<ExitCode> {
    let (file, problems, warnings) = match global.loader().load() {
        Ok(loaded) => (loaded.file, Vec::new(), loaded.warnings),
        Err(error) => (None, error.problems, error.warnings),
    };
    match global.output {
        OutputFormat::Json => output::json(&json!({
            "valid": problems.is_empty(),
            "problems": problems.iter().map(entry).collect::<Vec<_>>(),
            "warnings": warnings.iter().map(entry).collect::<Vec<_>>(),
        }))?,
        OutputFormat::Table => {
            for (word, list) in [("error", &problems), ("warning", &warnings)] {
                for problem in list {
                    output::line(&format!("{word}: {problem}"))?;
                    if let Some(hint) = &problem.hint {
                        output::line(&format!("  hint: {hint}"))?;
                    }
                }
            }
            if problems.is_empty() {
                let what = file.map_or_else(
                    || "no configuration file, defaults and environment".to_owned(),
                    |file| file.display().to_string(),
                );
                output::line(&format!("ok: {what}"))?;
            }
        }
    }
    Ok(if problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn entry(problem: &Problem) -> Value {
    json!({
        "from": problem.origin.to_string(),
        "key": problem.key,
        "reason": problem.reason,
        "hint": problem.hint,
    })
}
