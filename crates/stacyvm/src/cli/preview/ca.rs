//! `stacyvm preview ca`: makes the development authority, shows it, and lets this machine trust it.
//!
//! Its rule: it changes the system's store only when asked to install, only where that is one file
//! and one command of the system's own, and says everything else as commands to be run.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use serde_json::json;
use stacyvm_preview::tls::{Authority, AuthorityError, authority_dir};

use crate::cli::global::{Global, OutputFormat};
use crate::cli::output;
use crate::failure::{WithHint, hinted};
use crate::wiring::directories::Directories;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Action {
    /// Show where the authority is and how to trust it.
    Show,
    /// Make the authority when there is none, and let this machine's programs trust it.
    Install,
}

/// A store of trusted authorities of one family of systems.
struct Store {
    /// Where it looks for more of them.
    directory: &'static str,
    /// What makes it look.
    command: &'static [&'static str],
}

const STORES: [Store; 2] = [
    // Debian, Ubuntu, Alpine.
    Store {
        directory: "/usr/local/share/ca-certificates",
        command: &["update-ca-certificates"],
    },
    // Fedora, Red Hat, Arch.
    Store {
        directory: "/etc/pki/ca-trust/source/anchors",
        command: &["update-ca-trust", "extract"],
    },
];

pub(crate) fn run(action: Action, global: &Global) -> Result<ExitCode> {
    let loaded = global.configuration()?;
    let directories = Directories::of(&loaded);
    let directory = authority_dir(&directories.data);
    let domain = &loaded.config.server.preview_domain;
    match action {
        Action::Show => {
            let opened = Authority::open(&directory, domain);
            let missing = matches!(&opened, Err(AuthorityError::Missing { .. }));
            let opened = opened.map_err(anyhow::Error::new);
            let authority = match missing {
                true => opened.hint("make it with \"stacyvm preview ca install\"")?,
                false => opened?,
            };
            show(&authority, global)?;
        }
        Action::Install => {
            directories.prepare()?;
            let authority = Authority::open_or_make(&directory, domain)
                .context("cannot make the development authority")
                .hint(
                    "set server.preview_domain to a host name, and run it as the server's user",
                )?;
            install(&authority)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(authority: &Authority, global: &Global) -> Result<()> {
    let path = authority.path().display();
    if global.output == OutputFormat::Json {
        return output::json(&json!({
            "domain": authority.domain(),
            "path": authority.path(),
            "certificate": authority.certificate(),
        }));
    }
    output::line(&format!(
        "Authority for {} and every name below, and for nothing else: {path}\n\n{}\n{}",
        authority.domain(),
        authority.certificate().trim_end(),
        by_hand(authority.path())
    ))
}

fn install(authority: &Authority) -> Result<()> {
    let Some(store) = STORES
        .iter()
        .find(|store| Path::new(store.directory).is_dir())
    else {
        output::line(&by_hand(authority.path()))?;
        return Err(hinted(
            "this system's store of authorities is not one that is known here",
            "run the command of the list above that fits",
        ));
    };
    let name = format!("stacyvm-{}.crt", authority.domain());
    let target = PathBuf::from(store.directory).join(name);
    let command = store.command.join(" ");
    std::fs::write(&target, authority.certificate())
        .with_context(|| format!("cannot write {}", target.display()))
        .hint(format!(
            "run it as root: sudo cp {} {} && sudo {command}",
            authority.path().display(),
            target.display()
        ))?;
    let ended = Command::new(store.command[0])
        .args(&store.command[1..])
        .output()
        .with_context(|| format!("cannot start {}", store.command[0]))
        .hint("install the package ca-certificates")?;
    if !ended.status.success() {
        return Err(hinted(
            format!("\"{command}\" failed: {}", ended.status),
            format!("run it by itself to see why: sudo {command}"),
        ));
    }
    output::line(&format!(
        "Programs of this machine trust {} for {} and every name below.\n\
         Set preview.tls.development to true and start the server again.\n\
         Browsers with a store of their own need this once:\n{}",
        target.display(),
        authority.domain(),
        browsers(authority.path())
    ))
}

/// What a person does where no command of ours does it.
fn by_hand(path: &Path) -> String {
    let shown = path.display();
    let mut text = String::from("To trust it:\n");
    for store in &STORES {
        text.push_str(&format!(
            "  sudo cp {shown} {}/stacyvm.crt && sudo {}\n",
            store.directory,
            store.command.join(" ")
        ));
    }
    text.push_str(&format!(
        "  macOS: sudo security add-trusted-cert -d -r trustRoot \
         -k /Library/Keychains/System.keychain {shown}\n{}",
        browsers(path)
    ));
    text
}

fn browsers(path: &Path) -> String {
    format!(
        "  Chromium on Linux: certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n stacyvm -i {}\n  \
         Firefox: Settings, Certificates, Authorities, Import",
        path.display()
    )
}
