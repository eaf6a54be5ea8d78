//! Finding the file, and putting defaults, file, environment and flags together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::directories::{default_data_dir, home_dir};
use crate::overlay::Overlay;
use crate::problem::{ConfigError, Origin, Problem};
use crate::{Config, check, document};

/// Where configuration is looked for.
#[derive(Clone, Debug, Default)]
pub struct Loader {
    file: Option<PathBuf>,
    candidates: Vec<PathBuf>,
    variables: Vec<(String, String)>,
    flags: Vec<(&'static str, &'static str, String)>,
    built: Vec<&'static str>,
    sends_spans: Option<bool>,
}

impl Loader {
    /// The places of contract section 9: `./stacyvm.yaml`, else `~/.stacyvm/config.yaml`; then the
    /// environment.
    pub fn from_environment() -> Self {
        let mut candidates = vec![PathBuf::from("stacyvm.yaml")];
        candidates.extend(home_dir().map(|home| home.join(".stacyvm/config.yaml")));
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self {
            candidates,
            variables,
            ..Self::default()
        }
    }

    /// Nothing but what is added.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Reads this file and no other; it must exist.
    #[must_use]
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// Reads these variables instead of the environment's.
    #[must_use]
    pub fn variables(mut self, variables: Vec<(String, String)>) -> Self {
        self.variables = variables;
        self
    }

    /// A value from the command line: the key, the flag's name, the text.
    #[must_use]
    pub fn flag(mut self, key: &'static str, name: &'static str, text: String) -> Self {
        self.flags.push((key, name, text));
        self
    }

    /// The providers that this program contains; naming another is a problem.
    #[must_use]
    pub fn built_providers(mut self, names: &[&'static str]) -> Self {
        self.built = names.to_vec();
        self
    }

    /// Whether this program can send spans to a collector; naming one is a problem when not.
    #[must_use]
    pub fn sends_spans(mut self, can: bool) -> Self {
        self.sends_spans = Some(can);
        self
    }

    /// Puts everything together.
    ///
    /// # Errors
    /// Every problem found, each with where it stands, its key and the reason.
    pub fn load(self) -> Result<Loaded, ConfigError> {
        let mut overlay = Overlay::new();
        let mut used = None;
        let explicit = self.file.is_some();
        for path in self.file.into_iter().chain(if explicit {
            Vec::new()
        } else {
            self.candidates
        }) {
            match read(&path, explicit) {
                Ok(None) => continue,
                Ok(Some(tree)) => overlay.file(&path, &tree),
                Err(problem) => overlay.problems.push(problem),
            }
            used = Some(path);
            break;
        }
        overlay.environment(&self.variables);
        for (key, name, text) in &self.flags {
            overlay.text(key, text, Origin::Flag((*name).to_owned()));
        }
        let mut problems = std::mem::take(&mut overlay.problems);
        problems.extend(check::check(
            &overlay.config,
            &overlay.origins,
            &self.built,
            self.sends_spans,
        ));
        if problems.is_empty() {
            Ok(Loaded {
                config: overlay.config,
                file: used,
                warnings: overlay.warnings,
                origins: overlay.origins,
            })
        } else {
            Err(ConfigError {
                problems,
                warnings: overlay.warnings,
            })
        }
    }
}

/// The file's tree; none when it does not exist and need not.
fn read(path: &Path, must_exist: bool) -> Result<Option<document::Node>, Problem> {
    let problem = |line, reason: String| Problem {
        origin: Origin::File(path.to_owned(), line),
        key: String::new(),
        reason,
        hint: None,
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => {
            return Ok(None);
        }
        Err(error) => return Err(problem(0, format!("cannot read the file: {error}"))),
    };
    document::parse(&text)
        .map(Some)
        .map_err(|error| problem(error.line, format!("not valid YAML: {}", error.reason)))
}

/// A configuration that can be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// What is suspicious but no reason to stop: unknown keys and variables.
    pub warnings: Vec<Problem>,
    origins: BTreeMap<String, Origin>,
}

/// One key as `config show` prints it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// In dotted form.
    pub key: String,
    /// The effective value; a secret is masked.
    pub value: Value,
    /// Where it comes from.
    pub origin: String,
}

impl Loaded {
    /// Every key, sorted, with its value and where that comes from.
    pub fn entries(&self) -> Vec<Entry> {
        Overlay::shown(&self.config)
            .into_iter()
            .map(|(key, value)| Entry {
                origin: self.origin(&key).to_string(),
                key,
                value,
            })
            .collect()
    }

    /// Where a key's value comes from.
    pub fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }

    /// The data directory: as configured, or the usual one of this user.
    pub fn data_dir(&self, root: bool) -> PathBuf {
        self.config
            .server
            .data_dir
            .clone()
            .unwrap_or_else(|| default_data_dir(root))
    }
}
