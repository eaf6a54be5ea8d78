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
mod licences;
mod openapi;
mod server;
mod test;
mod tools;
mod workspace;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

const USAGE: &str = "usage: cargo xtask TASK

  build [--profile ci|release]   the programs for inside, then the server: target/stacyvm
  test [--rust|--python]         installs what the tests need and runs them all
  check                          format, layers, licences, agent size and symbols, clippy, openapi
  ci                             check, then test
  engine [--stop]                a Docker Engine for tests run by hand, and its variables
  fuzz [--seconds N]             every fuzz target for N seconds (60)
  agent [--check]                static stacyvm-agent and stacyvm-launcher in target/agent
  layers                         the rules of ARCHITECTURE.md
  openapi [--check]              openapi/stacyvm.json from the code, or whether it is current
  licences                       the licences of everything that is linked in
  dist                           a release build, with its size
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
        ("licences", []) => licences::check(&workspace),
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
            check::everything_but_tests(&workspace)?;
            test::run(&workspace, test::Suites::ALL)
        }
        _ => bail!("unknown task or option: {}\n\n{USAGE}", arguments.join(" ")),
    }
}
