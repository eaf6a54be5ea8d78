//! All tests of the project: it installs what they need, builds what they drive, runs them, and
//! repeats every skip at the end, so that none goes unseen.

mod flaky;
mod skips;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, anyhow, ensure};

use crate::agent;
use crate::engine::{DebianImage, Engine};
use crate::setup;
use crate::tools::{run as run_program, step, works};
use crate::workspace::Workspace;

/// Which of the suites to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Suites {
    rust: bool,
    python: bool,
}

impl Suites {
    /// What CI runs.
    pub(crate) const ALL: Self = Self {
        rust: true,
        python: true,
    };
    /// Unit, integration and end-to-end tests in Rust.
    pub(crate) const RUST: Self = Self {
        rust: true,
        python: false,
    };
    /// The published Python client against the real server.
    pub(crate) const PYTHON: Self = Self {
        rust: false,
        python: true,
    };
}

/// Sets up, builds and tests.
pub(crate) fn run(workspace: &Workspace, suites: Suites) -> Result<()> {
    setup::packages(workspace)?;
    let virtual_environment = setup::virtual_environment(workspace);
    let debian = Engine::missing()
        .is_none()
        .then(|| DebianImage::begin(workspace));
    agent::build(workspace)?;
    // Binaries and tests in one go: asked for separately, cargo would choose different features
    // for them and compile most of the workspace twice.
    step("build the server and the tests", || {
        run_program(&mut workspace.cargo(&["build", "--locked", "--workspace", "--all-targets"]))
    })?;
    let skips = workspace.target.join("skipped-tests.txt");
    fs::write(&skips, "").context("empty the list of skipped tests")?;
    // One of an earlier run would repeat that run's skips.
    let _ = fs::remove_file(nextest_report(workspace));
    let engine = start_engine(workspace, debian, &skips)?;
    let surroundings = Surroundings::new(workspace, &skips, engine.as_ref());
    let tested = run_suites(workspace, suites, &surroundings, &virtual_environment);
    let ended = engine.map_or(Ok(()), |engine| {
        step("end the Docker Engine", || engine.end())
    });
    // Also after a failure: a test that did not run says nothing about the others.
    print_summary(workspace, &skips);
    tested.and(ended)
}

/// Which tests were skipped, and which needed a second try.
fn print_summary(workspace: &Workspace, skips: &Path) {
    let notes = fs::read_to_string(skips).unwrap_or_default();
    let report = fs::read_to_string(nextest_report(workspace)).unwrap_or_default();
    eprint!("{}", skips::summary(&notes, &report));
    eprint!("{}", flaky::summary(&report));
}

/// Runs the tests that a filter of nextest's chooses, without an engine.
pub(crate) fn run_chosen(workspace: &Workspace, filter: &str) -> Result<()> {
    needs_nextest()?;
    let skips = workspace.target.join("skipped-tests.txt");
    fs::write(&skips, "").context("empty the list of skipped tests")?;
    let _ = fs::remove_file(nextest_report(workspace));
    let tested = step("tests of what changed", || {
        let mut command = nextest(workspace, "ci");
        command.args(["--no-tests", "pass", "--filterset", filter]);
        Surroundings::new(workspace, &skips, None).tell(&mut command);
        run_program(&mut command)
    });
    print_summary(workspace, &skips);
    tested
}

/// The engine for tests with containers; none, said loudly, where this machine cannot have one.
fn start_engine(
    workspace: &Workspace,
    debian: Option<DebianImage>,
    skips: &Path,
) -> Result<Option<Engine>> {
    let started = match debian {
        Some(debian) => step("start a Docker Engine", || Engine::start(workspace, debian)),
        None => Err(anyhow!(Engine::missing().unwrap_or("it could not be had"))),
    };
    match started {
        Ok(engine) => Ok(Some(engine)),
        Err(error) => {
            let line = format!("SKIP tests with a Docker Engine: {error:#}\n");
            eprint!("{line}");
            fs::write(skips, line).context("note what is skipped")?;
            Ok(None)
        }
    }
}

fn run_suites(
    workspace: &Workspace,
    suites: Suites,
    surroundings: &Surroundings,
    virtual_environment: &Path,
) -> Result<()> {
    if suites.rust {
        let slow = SlowTests::start(workspace, surroundings)?;
        let quick = step("tests in Rust", || {
            run_program(&mut rust_tests(workspace, surroundings))
        });
        // Both are heard to their end, whatever became of the other.
        let slow = slow.map_or(Ok(()), SlowTests::finish);
        quick.and(slow)?;
    }
    if suites.python {
        step("tests in Python", || {
            let mut command = Command::new(virtual_environment.join("bin/python"));
            command
                .current_dir(workspace.root.join("tests/e2e/python"))
                // -rsR names every skip and what was tried again; pytest itself fails when it finds
                // no test.
                .args(["-m", "pytest", "-q", "-rsR", "-p", "no:cacheprovider"])
                .env("PYTHONDONTWRITEBYTECODE", "1");
            surroundings.tell(&mut command);
            if second_try() {
                command.args(["--reruns", "1"]);
            }
            run_program(&mut command)
        })?;
    }
    Ok(())
}

/// The tests that wait for minutes, on their way beside the others.
struct SlowTests {
    child: Child,
    log: PathBuf,
}

impl SlowTests {
    /// None without nextest: `cargo test` runs them with all the others.
    fn start(workspace: &Workspace, surroundings: &Surroundings) -> Result<Option<Self>> {
        if !has_nextest() {
            return Ok(None);
        }
        let log = workspace.target.join("slow-tests.log");
        let output = fs::File::create(&log).context("make the log of the slow tests")?;
        let mut command = nextest(workspace, "slow");
        surroundings.tell(&mut command);
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("share the log")?)
            .stderr(output)
            .spawn()
            .context("start the slow tests")?;
        Ok(Some(Self { child, log }))
    }

    fn finish(mut self) -> Result<()> {
        step("slow tests, begun with the others", || {
            let status = self.child.wait().context("wait for the slow tests")?;
            eprint!("{}", fs::read_to_string(&self.log).unwrap_or_default());
            ensure!(status.success(), "the slow tests ended with {status}");
            Ok(())
        })
    }
}

/// Fails where nextest is missing, whose filters choose the tests.
pub(crate) fn needs_nextest() -> Result<()> {
    ensure!(
        has_nextest(),
        "cargo-nextest is not installed: cargo install --locked cargo-nextest"
    );
    Ok(())
}

fn has_nextest() -> bool {
    works("cargo-nextest", &["nextest", "--version"])
}

fn nextest(workspace: &Workspace, profile: &str) -> Command {
    let mut command = workspace.cargo(&["nextest", "run", "--locked", "--workspace"]);
    command.args(["--profile", profile]);
    if second_try() {
        command.args(["--retries", "1"]);
    }
    command
}

/// Whether a failed test is tried once more, as continuous integration asks: a shared machine has
/// its hiccups, and the tests drive real kernels, processes and clocks.
fn second_try() -> bool {
    std::env::var_os("CI").is_some()
}

fn rust_tests(workspace: &Workspace, surroundings: &Surroundings) -> Command {
    let mut command = if has_nextest() {
        nextest(workspace, "ci")
    } else {
        eprintln!("    cargo-nextest is not installed: using cargo test, which is slower");
        workspace.cargo(&["test", "--locked", "--workspace", "--all-targets"])
    };
    surroundings.tell(&mut command);
    command
}

/// What tests find in their environment: where the programs are, which engine there is, and where they
/// say what they skip.
struct Surroundings(Vec<(&'static str, OsString)>);

impl Surroundings {
    fn new(workspace: &Workspace, skips: &Path, engine: Option<&Engine>) -> Self {
        let agent = workspace.agent_program("stacyvm-agent");
        let launcher = workspace.agent_program("stacyvm-launcher");
        let mut variables = vec![
            ("STACYVM_BIN", server_binary(workspace).into()),
            ("STACYVM_AGENT_BIN", agent.into()),
            ("STACYVM_LAUNCHER_BIN", launcher.into()),
            ("STACYVM_SKIPPED_TESTS", skips.into()),
        ];
        for (name, value) in engine.into_iter().flat_map(Engine::variables) {
            variables.push((name, value.into()));
        }
        Self(variables)
    }

    fn tell(&self, command: &mut Command) {
        command.envs(self.0.iter().map(|(name, value)| (name, value)));
    }
}

fn server_binary(workspace: &Workspace) -> PathBuf {
    workspace.target.join("debug").join("stacyvm")
}

/// Nextest puts it there whatever cargo's target directory is.
fn nextest_report(workspace: &Workspace) -> PathBuf {
    workspace.root.join("target/nextest/ci/junit.xml")
}
