//! Puts the agent and the launcher where `embedded.rs` includes them.
//!
//! `STACYVM_EMBED_AGENT` and `STACYVM_EMBED_LAUNCHER` name the finished programs; without them an
//! empty placeholder is included and the server looks for files beside itself. This script never
//! builds them: a build script that calls cargo waits for its own lock.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for (name, variable) in [
        ("agent", "STACYVM_EMBED_AGENT"),
        ("launcher", "STACYVM_EMBED_LAUNCHER"),
    ] {
        println!("cargo::rerun-if-env-changed={variable}");
        if let Err(message) = place(name, variable) {
            println!("cargo::error={message}");
        }
    }
}

fn place(name: &str, variable: &str) -> Result<(), String> {
    let out = PathBuf::from(std::env::var("OUT_DIR").map_err(|error| error.to_string())?);
    let program = match std::env::var_os(variable).filter(|value| !value.is_empty()) {
        None => Vec::new(),
        Some(path) => {
            println!("cargo::rerun-if-changed={}", Path::new(&path).display());
            let program = std::fs::read(&path)
                .map_err(|error| format!("{variable}: cannot read {path:?}: {error}"))?;
            if !program.starts_with(b"\x7fELF") {
                return Err(format!("{variable}: {path:?} is no ELF program"));
            }
            program
        }
    };
    let digest: String = Sha256::digest(&program)
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let write = |file: String, content: &[u8]| {
        std::fs::write(out.join(&file), content)
            .map_err(|error| format!("cannot write {file}: {error}"))
    };
    write(name.to_owned(), &program)?;
    write(format!("{name}.digest"), digest.as_bytes())
}
