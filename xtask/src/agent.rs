//! The two programs that go into a sandbox: static, small, and without any look-up of names.
//!
//! They are linked with their symbols, looked at, and only then stripped: that a static program
//! calls no name service can be seen from its symbol table and from nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::elf;
use crate::tools::{run, step};
use crate::workspace::{self, Workspace};

const PROGRAMS: [&str; 2] = ["stacyvm-agent", "stacyvm-launcher"];

/// The largest either program may be, in bytes.
const MAX_SIZE: u64 = 2_560 * 1024;

/// Functions of libc that load modules of the name service, which a static program must not do:
/// the modules belong to the libc of the image, not to the one linked in (see nsswitch.conf(5)).
const NAME_SERVICE: [&str; 16] = [
    "getaddrinfo",
    "getnameinfo",
    "gethostbyname",
    "gethostbyname2",
    "gethostbyaddr",
    "gethostent",
    "getpwnam",
    "getpwuid",
    "getpwent",
    "getgrnam",
    "getgrgid",
    "getgrent",
    "getgrouplist",
    "initgroups",
    "getservbyname",
    "getservbyport",
];

/// Builds both programs and puts them, stripped, into `target/agent`.
pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    let unstripped = link(workspace)?;
    for (name, source) in PROGRAMS.iter().zip(&unstripped) {
        install(source, &workspace.agent_program(name))?;
    }
    Ok(())
}

/// Builds both, and fails when one is too large, not static, or asks for names.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    build(workspace)?;
    for (name, unstripped) in PROGRAMS.iter().zip(unstripped_programs(workspace)) {
        let stripped = workspace.agent_program(name);
        let size = fs::metadata(&stripped)?.len();
        ensure!(
            size <= MAX_SIZE,
            "{name} has {size} bytes, more than {MAX_SIZE}"
        );
        let program = elf::read(&fs::read(&stripped)?).with_context(|| format!("read {name}"))?;
        ensure!(
            !program.has_interpreter,
            "{name} is not static: it asks for a dynamic loader"
        );
        let symbols = elf::read(&fs::read(&unstripped)?)
            .with_context(|| format!("read {name} with symbols"))?
            .symbols;
        ensure!(
            symbols.iter().any(|symbol| symbol == "main"),
            "{name} was linked without symbols, so nothing can be said about what it calls"
        );
        let forbidden = name_service_calls(&symbols);
        ensure!(
            forbidden.is_empty(),
            "{name} has functions of the name service linked in: {}",
            forbidden.join(", ")
        );
        eprintln!("    {name}: {size} bytes, static, no name service");
    }
    Ok(())
}

fn link(workspace: &Workspace) -> Result<[PathBuf; 2]> {
    let target = workspace::host_target();
    step("build stacyvm-agent and stacyvm-launcher, static", || {
        let mut command = Command::new(workspace::cargo());
        command
            .current_dir(&workspace.root)
            .args(["build", "--profile", "agent", "--bins"])
            .args(["--target", &target])
            .args(PROGRAMS.iter().flat_map(|name| ["--package", *name]))
            .arg("--target-dir")
            .arg(build_dir(workspace))
            .env("RUSTFLAGS", "-C target-feature=+crt-static")
            .env("CARGO_PROFILE_AGENT_STRIP", "none")
            .env_remove("CARGO_ENCODED_RUSTFLAGS");
        run(&mut command)
    })?;
    Ok(unstripped_programs(workspace))
}

/// A target directory of its own, so that our flags invalidate nobody else's work.
fn build_dir(workspace: &Workspace) -> PathBuf {
    workspace.target.join("agent-build")
}

fn unstripped_programs(workspace: &Workspace) -> [PathBuf; 2] {
    PROGRAMS.map(|name| {
        build_dir(workspace)
            .join(workspace::host_target())
            .join("agent")
            .join(name)
    })
}

/// Strips `source` into `destination`, which changes only when its content does: its time stamp
/// decides whether the server is built again.
fn install(source: &Path, destination: &Path) -> Result<()> {
    let parent = destination.parent().context("no parent directory")?;
    fs::create_dir_all(parent)?;
    let temporary = destination.with_extension("new");
    let stripped = Command::new("strip")
        .arg("--strip-all")
        .arg("-o")
        .args([&temporary, source])
        .status();
    match stripped {
        Ok(status) if status.success() => {}
        Ok(status) => bail!("strip ended with {status}"),
        Err(error) => {
            return Err(error)
                .context("start strip; it comes with the linker, in package binutils");
        }
    }
    if fs::read(&temporary)? == fs::read(destination).unwrap_or_default() {
        fs::remove_file(&temporary)?;
    } else {
        fs::rename(&temporary, destination)?;
    }
    Ok(())
}

fn name_service_calls(symbols: &[String]) -> Vec<&str> {
    let mut found: Vec<&str> = symbols
        .iter()
        .map(String::as_str)
        .filter(|symbol| {
            let name = symbol.trim_start_matches('_');
            let name = name.strip_suffix("_r").unwrap_or(name);
            NAME_SERVICE.contains(&name) || name.starts_with("nss_lookup")
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_service_functions_are_found_under_every_spelling() {
        let symbols = [
            "main",
            "getpwnam_r",
            "__getgrgid_r",
            "getaddrinfo",
            "__nss_lookup_function",
            "my_getaddrinfo_free_code",
            "getpid",
        ]
        .map(str::to_owned);
        assert_eq!(
            name_service_calls(&symbols),
            [
                "__getgrgid_r",
                "__nss_lookup_function",
                "getaddrinfo",
                "getpwnam_r"
            ]
        );
    }
}
