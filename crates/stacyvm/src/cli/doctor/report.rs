//! What the doctor says, as people read it and as programs do.
//!
//! The JSON form is described in docs/native.md; its keys stay.

use anyhow::Result;
use serde::Serialize;

use crate::cli::global::OutputFormat;
use crate::cli::output;
use crate::wiring::BUILT_PROVIDERS;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Ok,
    Warning,
    Failure,
}

/// One thing looked at.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    /// The provider that the finding is about; absent when it concerns every provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) provider: Option<&'static str>,
    pub(super) topic: String,
    pub(super) words: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
}

impl Finding {
    pub(super) fn new(level: Level, topic: impl Into<String>, words: impl Into<String>) -> Self {
        Self {
            level,
            provider: None,
            topic: topic.into(),
            words: words.into(),
            remedy: None,
        }
    }

    pub(super) fn of(mut self, provider: &'static str) -> Self {
        self.provider = Some(provider);
        self
    }

    pub(super) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// One provider, in short.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Provider {
    pub(super) name: &'static str,
    /// Whether the configuration has it on.
    pub(super) enabled: bool,
    /// Whether this program contains it at all.
    in_this_version: bool,
    /// Whether it works here; absent when it was not tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) works: Option<bool>,
    /// What its sandboxes are separated by; absent when that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) isolation: Option<&'static str>,
}

impl Provider {
    pub(super) fn new(name: &'static str, enabled: bool) -> Self {
        Self {
            name,
            enabled,
            in_this_version: BUILT_PROVIDERS.contains(&name),
            works: None,
            isolation: None,
        }
    }

    fn in_words(&self) -> String {
        let state = match (self.in_this_version, self.enabled, self.works) {
            (false, ..) => "not in this version",
            (true, false, _) => "switched off",
            (true, true, Some(true)) => "works",
            (true, true, _) => "does not work here",
        };
        match self.isolation {
            Some(isolation) => format!("{}: {state} (isolation: {isolation})", self.name),
            None => format!("{}: {state}", self.name),
        }
    }
}

/// Everything that was found.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    /// Whether all that is enabled works.
    pub(super) able: bool,
    /// The version of this program.
    version: &'static str,
    providers: Vec<Provider>,
    findings: Vec<Finding>,
}

impl Report {
    pub(super) fn new(providers: Vec<Provider>, findings: Vec<Finding>) -> Self {
        let able = findings.iter().all(|found| found.level != Level::Failure);
        Self {
            able,
            version: env!("CARGO_PKG_VERSION"),
            providers,
            findings,
        }
    }

    pub(super) fn print(&self, form: OutputFormat) -> Result<()> {
        if form == OutputFormat::Json {
            return output::json(self);
        }
        self.section(None)?;
        for provider in &self.providers {
            output::line("")?;
            output::line(&provider.in_words())?;
            self.section(Some(provider.name))?;
        }
        output::line("")?;
        output::line(if self.able {
            "This machine can run sandboxes."
        } else {
            "Something that is enabled does not work on this machine as it is."
        })
    }

    fn section(&self, provider: Option<&str>) -> Result<()> {
        let belongs = |found: &&Finding| found.provider == provider;
        for found in self.findings.iter().filter(belongs) {
            let sign = match found.level {
                Level::Ok => "ok     ",
                Level::Warning => "warning",
                Level::Failure => "FAILURE",
            };
            output::line(&format!("{sign}  {}: {}", found.topic, found.words))?;
            if let Some(remedy) = &found.remedy {
                output::line(&format!("         hint: {remedy}"))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_the_documented_ones() {
        let finding = Finding::new(Level::Warning, "kernel", "old")
            .of("native")
            .remedy("newer");
        let mut native = Provider::new("native", true);
        native.works = Some(true);
        native.isolation = Some("container");
        let report = Report::new(vec![native, Provider::new("proot", false)], vec![finding]);
        assert!(report.able, "a warning is no failure");
        let json = serde_json::to_value(&report).unwrap();
        let expected = serde_json::json!({
            "able": true,
            "version": env!("CARGO_PKG_VERSION"),
            "providers": [
                {"name": "native", "enabled": true, "in_this_version": true, "works": true,
                 "isolation": "container"},
                {"name": "proot", "enabled": false, "in_this_version": false},
            ],
            "findings": [
                {"level": "warning", "provider": "native", "topic": "kernel", "words": "old",
                 "remedy": "newer"},
            ],
        });
        assert_eq!(json, expected);
        let failed = Finding::new(Level::Failure, "a", "b");
        assert!(!Report::new(Vec::new(), vec![failed]).able);
    }

    #[test]
    fn a_provider_says_in_words_how_it_stands() {
        let mut native = Provider::new("native", true);
        assert_eq!(native.in_words(), "native: does not work here");
        native.works = Some(true);
        native.isolation = Some("container");
        assert_eq!(native.in_words(), "native: works (isolation: container)");
        native.enabled = false;
        assert!(native.in_words().contains("switched off"));
        let proot = Provider::new("proot", false).in_words();
        assert_eq!(proot, "proot: not in this version");
    }
}
