//! The form is that of Keep a Changelog 1.1: the section of what is not released yet becomes that of a release.

use anyhow::{Context, Result, ensure};

const UNRELEASED: &str = "## [Unreleased]";

/// The changelog with the unreleased section under `version` and an empty one above it.
pub(super) fn cut(text: &str, version: &str, date: &str) -> Result<String> {
    let (before, after) = text
        .split_once(&format!("{UNRELEASED}\n"))
        .with_context(|| format!("the changelog has no section {UNRELEASED:?}"))?;
    let section = after.split("\n## ").next().unwrap_or_default();
    ensure!(
        !section.trim().is_empty(),
        "the changelog's section {UNRELEASED:?} is empty: there is nothing to release"
    );
    ensure!(
        !has(text, version),
        "the changelog has a section for {version} already"
    );
    Ok(format!(
        "{before}{UNRELEASED}\n\n## [{version}] - {date}\n{after}"
    ))
}

/// Whether the changelog has a section for `version`.
pub(super) fn has(text: &str, version: &str) -> bool {
    text.contains(&format!("\n## [{version}]"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_unreleased_gets_the_version_and_the_rest_stays() {
        let text =
            "# Changelog\n\n## [Unreleased]\n\n- One.\n\n## [0.1.0] - 2026-01-01\n\n- Zero.\n";
        let cut = cut(text, "0.2.0", "2026-12-01").unwrap();
        assert_eq!(
            cut,
            "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-12-01\n\n- One.\n\n## [0.1.0] - 2026-01-01\n\n- Zero.\n"
        );
    }

    #[test]
    fn an_empty_section_and_a_second_cut_are_refused() {
        cut(
            "# Changelog\n\n## [Unreleased]\n\n## [0.1.0] - 2026-01-01\n\n- Zero.\n",
            "0.2.0",
            "d",
        )
        .unwrap_err();
        cut(
            "## [Unreleased]\n\n- One.\n\n## [0.2.0] - 2026-01-01\n",
            "0.2.0",
            "d",
        )
        .unwrap_err();
        cut("# Changelog\n", "0.2.0", "d").unwrap_err();
    }
}
