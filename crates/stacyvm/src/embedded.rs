//! The two programs that travel inside this one: the agent and the launcher.
//!
//! Looked for in this order: the path in `STACYVM_AGENT_BIN` or `STACYVM_LAUNCHER_BIN`; the copy
//! built in, unpacked to `<data>/bin`; a file of that name beside this program, or in the
//! directory where `cargo xtask agent` leaves it. An unpacked file is compared byte by byte with
//! the built-in copy before each use, because it is run with our rights.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::failure::{WithHint, hinted};

/// One of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Agent,
    Launcher,
}

impl Program {
    const fn file_name(self) -> &'static str {
        match self {
            Self::Agent => "stacyvm-agent",
            Self::Launcher => "stacyvm-launcher",
        }
    }

    const fn variable(self) -> &'static str {
        match self {
            Self::Agent => "STACYVM_AGENT_BIN",
            Self::Launcher => "STACYVM_LAUNCHER_BIN",
        }
    }

    /// The built-in copy; empty when this program was built without.
    const fn content(self) -> &'static [u8] {
        match self {
            Self::Agent => include_bytes!(concat!(env!("OUT_DIR"), "/agent")),
            Self::Launcher => include_bytes!(concat!(env!("OUT_DIR"), "/launcher")),
        }
    }

    const fn digest(self) -> &'static str {
        match self {
            Self::Agent => include_str!(concat!(env!("OUT_DIR"), "/agent.digest")),
            Self::Launcher => include_str!(concat!(env!("OUT_DIR"), "/launcher.digest")),
        }
    }

    /// What `version` says about it.
    pub(crate) fn describe(self) -> String {
        if self.content().is_empty() {
            "not built in".to_owned()
        } else {
            format!("{}, {} KiB", self.digest(), self.content().len() / 1024)
        }
    }

    /// Where it is, without unpacking anything.
    pub(crate) fn whereabouts(self) -> Result<String> {
        let overridden = std::env::var_os(self.variable()).is_some_and(|path| !path.is_empty());
        if !overridden && !self.content().is_empty() {
            return Ok(format!("built in ({})", self.describe()));
        }
        Ok(self.locate(Path::new(""))?.display().to_string())
    }

    /// A path from which the program can be run.
    pub(crate) fn locate(self, data_dir: &Path) -> Result<PathBuf> {
        if let Some(path) = std::env::var_os(self.variable()).filter(|path| !path.is_empty()) {
            let path = PathBuf::from(path);
            return path.canonicalize().with_context(|| {
                format!(
                    "{} names {}, which is not there",
                    self.variable(),
                    path.display()
                )
            });
        }
        if !self.content().is_empty() {
            return unpack(self, &data_dir.join("bin"));
        }
        beside(self).ok_or_else(|| {
            hinted(
                format!("the program {} is missing", self.file_name()),
                format!(
                    "run \"cargo xtask agent\", or set {} to its path",
                    self.variable()
                ),
            )
        })
    }
}

fn beside(program: Program) -> Option<PathBuf> {
    let directory = std::env::current_exe().ok()?.parent()?.to_owned();
    [".", "../agent", "../../agent"]
        .iter()
        .map(|relative| directory.join(relative).join(program.file_name()))
        .find(|path| path.is_file())
        .and_then(|path| path.canonicalize().ok())
}

/// Writes the built-in copy to `directory`, unless it is there already, and returns its path.
fn unpack(program: Program, directory: &Path) -> Result<PathBuf> {
    let path = directory.join(format!("{}-{}", program.file_name(), program.digest()));
    if std::fs::read(&path).is_ok_and(|found| found == program.content()) {
        return Ok(path);
    }
    write(program, directory, &path)
        .with_context(|| {
            format!(
                "cannot unpack {} into {}",
                program.file_name(),
                directory.display()
            )
        })
        .hint("make the data directory writable, or set server.data_dir")?;
    Ok(path)
}

/// Under a name of this process first, so that no other process ever sees half a program.
fn write(program: Program, directory: &Path, path: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let partial = directory.join(format!(
        ".{}-{}.{}",
        program.file_name(),
        program.digest(),
        std::process::id()
    ));
    let result = (|| {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o755)
            .open(&partial)?;
        file.write_all(program.content())?;
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        drop(file);
        std::fs::rename(&partial, path)
    })();
    if result.is_err() {
        // What is left of the attempt is of no use; that it may already be gone is fine.
        let _ = std::fs::remove_file(&partial);
    }
    result
}
