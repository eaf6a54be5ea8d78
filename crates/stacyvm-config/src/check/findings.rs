//! The problems that the checks have found so far.

use std::collections::BTreeMap;

use crate::problem::{Origin, Problem};

/// Problems, each with the place where its value was set.
pub(super) struct Findings<'a> {
    origins: &'a BTreeMap<String, Origin>,
    problems: Vec<Problem>,
}

impl<'a> Findings<'a> {
    pub(super) fn new(origins: &'a BTreeMap<String, Origin>) -> Self {
        Self {
            origins,
            problems: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, key: &str, reason: impl Into<String>, hint: Option<String>) {
        self.problems.push(Problem {
            origin: self.origins.get(key).cloned().unwrap_or(Origin::Default),
            key: key.to_owned(),
            reason: reason.into(),
            hint,
        });
    }

    /// Whether a file, a variable or a flag sets the key.
    pub(super) fn is_set(&self, key: &str) -> bool {
        self.origins.contains_key(key)
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }
}
