//! The project's own tasks, `cargo xtask TASK`. Owns the order in which things are built and
//! checked; owns no check of behaviour, those are tests.
//!
//! One rule that is easy to miss: the programs that go into a sandbox are built before the server
//! and handed to its build through environment variables, never by its build script.
#![forbid(unsafe_code)]

mod agent;
mod check;
mod elf;
mod engine;
mod fuzz;
mod layers;
mod openapi;
mod quick;
mod release;
mod server;
mod setup;
mod test;
mod tools;
mod workspace;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

const USAGE: &str = "usage: cargo xtask TASK

  build [--profile ci|release]   the programs for inside, then the server: target/stacyvm
  test [--rust|--python]         installs what the tests need and runs them all
  quick [--base REV]             what a change may have broken: its crates and what depends on them
  check                          format, layers, licences, scripts, agent size and symbols, clippy,
                                 documentation, openapi
  ci                             setup, check, test
  setup                          installs what check and test need
  engine [--stop]                a Docker Engine for tests run by hand, and its variables
  fuzz [--seconds N]             every fuzz target for N seconds (60)
  agent [--check]                static stacyvm-agent and stacyvm-launcher in target/agent
  layers                         the rules of ARCHITECTURE.md
  openapi [--check]              openapi/stacyvm.json from the code, or whether it is current
  dist                           a release build, with its size
  release VERSION [--profile P]  version, changelog, tarball, checksums, bill of materials
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<()> {
    let Some((&task, options)) = arguments.split_first() else {
        bail!("no task given\n\n{USAGE}");
    };
    if matches!(task, "help" | "--help" | "-h") {
        print!("{USAGE}");
        return Ok(());
    }
    let workspace = Workspace::load()?;
    match (task, options) {
        ("agent", []) => agent::build(&workspace).map(|_| ()),
        ("agent", ["--check"]) => agent::check(&workspace),
        ("build", []) => server::build(&workspace, "ci").map(|_| ()),
        ("build", ["--profile", profile @ ("ci" | "release")]) => {
            server::build(&workspace, profile).map(|_| ())
        }
        ("dist", []) => server::dist(&workspace),
        ("layers", []) => layers::check(&workspace),
        ("openapi", []) => openapi::run(&workspace, openapi::Stale::Update),
        ("openapi", ["--check"]) => openapi::run(&workspace, openapi::Stale::Fail),
        ("release", [version]) => release::run_all(&workspace, version, "release"),
        ("release", [version, "--profile", profile @ ("ci" | "release")]) => {
            release::run_all(&workspace, version, profile)
        }
        ("setup", []) => setup::run_all(&workspace),
        ("quick", []) => quick::run_changed(&workspace, None),
        ("quick", ["--base", base]) => quick::run_changed(&workspace, Some(base)),
        ("check", []) => check::everything_but_tests(&workspace),
        ("test", []) => test::run(&workspace, test::Suites::ALL),
        ("test", ["--rust"]) => test::run(&workspace, test::Suites::RUST),
        ("test", ["--python"]) => test::run(&workspace, test::Suites::PYTHON),
        ("engine", []) => engine::by_hand(&workspace),
        ("engine", ["--stop"]) => engine::stop(&workspace),
        ("fuzz", []) => fuzz::run_all(&workspace, 60),
        ("fuzz", ["--seconds", seconds]) => fuzz::run_all(
            &workspace,
            seconds.parse().context("--seconds wants a number")?,
        ),
        ("ci", []) => {
            setup::run_all(&workspace)?;
            check::everything_but_tests(&workspace)?;
            test::run(&workspace, test::Suites::ALL)
        }
        _ => bail!("unknown task or option: {}\n\n{USAGE}", arguments.join(" ")),
    }
}
