//! What the rules found, collected so that one run names everything.

/// Broken rules and things to look at.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Things to look at; they fail nothing.
    pub(super) warnings: Vec<String>,
    /// Broken rules.
    pub(super) errors: Vec<String>,
}

impl Findings {
    pub(super) fn warn(&mut self, text: String) {
        self.warnings.push(text);
    }

    pub(super) fn error(&mut self, text: String) {
        self.errors.push(text);
    }
}
