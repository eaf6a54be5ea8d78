//! Whether everything that is linked in may be: a small check of the licence expressions in
//! `cargo metadata`, for machines without `cargo deny` (whose list in `deny.toml` is the same).

use anyhow::{Result, bail};

use crate::workspace::Workspace;

/// Licences that ask for no more than to be named.
const ALLOWED: [&str; 12] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Fails with the name of every package whose licence is not on the list.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let metadata = workspace.full_metadata()?;
    let packages = metadata["packages"].as_array().cloned().unwrap_or_default();
    let mut refused = Vec::new();
    for package in &packages {
        let licence = package["license"].as_str().unwrap_or_default();
        if !accepts(licence) {
            refused.push(format!("{} ({licence:?})", package["name"]));
        }
    }
    if !refused.is_empty() {
        bail!("licence not on the list: {}", refused.join(", "));
    }
    eprintln!("    {} packages, all on the list", packages.len());
    Ok(())
}

/// Whether an SPDX expression can be met by licences on the list. A slash is an old spelling of `OR`.
fn accepts(expression: &str) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    any_of(&mut rest) == Some(true) && rest.is_empty()
}

fn any_of(words: &mut &[&str]) -> Option<bool> {
    let mut met = all_of(words)?;
    while let Some(rest) = words.strip_prefix(&["OR"]) {
        *words = rest;
        met |= all_of(words)?;
    }
    Some(met)
}

fn all_of(words: &mut &[&str]) -> Option<bool> {
    let mut met = one(words)?;
    while let Some(rest) = words.strip_prefix(&["AND"]) {
        *words = rest;
        met &= one(words)?;
    }
    Some(met)
}

fn one(words: &mut &[&str]) -> Option<bool> {
    let (first, rest) = words.split_first()?;
    *words = rest;
    if *first == "(" {
        let met = any_of(words)?;
        *words = words.strip_prefix(&[")"])?;
        return Some(met);
    }
    let mut name = (*first).to_owned();
    if let ["WITH", exception, rest @ ..] = *words {
        name = format!("{name} WITH {exception}");
        *words = rest;
    }
    Some(ALLOWED.contains(&name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_needs_one_and_a_sum_needs_all() {
        assert!(accepts("MIT"));
        assert!(accepts("MIT OR GPL-3.0"));
        assert!(accepts("MIT/Apache-2.0"));
        assert!(accepts("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(accepts("Apache-2.0 WITH LLVM-exception OR GPL-2.0"));
        assert!(!accepts("GPL-3.0"));
        assert!(!accepts("MIT AND GPL-3.0"));
        assert!(!accepts("(MIT"));
        assert!(!accepts(""));
    }
}
