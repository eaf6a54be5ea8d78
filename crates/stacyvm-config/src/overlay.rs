//! Laying values over the defaults, one key at a time, remembering where each came from.
//!
//! A value is tried by reading the whole configuration with it in place: what serde then says is
//! about this key alone, so every problem can be reported with its key, and all of them at once.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::document::{Content, Node};
use crate::problem::{Origin, Problem};
use crate::{Config, suggest};

/// Keys whose value is a mapping of its own.
const MAP_KEYS: [&str; 4] = [
    "images.aliases",
    "images.mirrors",
    "images.token_hosts",
    "providers.docker.warm",
];

/// Variables with our prefix that are no configuration keys.
const OTHER_VARIABLES: [&str; 7] = [
    "STACYVM_SERVER",
    "STACYVM_API_KEY",
    "STACYVM_USER_ID",
    "STACYVM_OUTPUT",
    "STACYVM_CONFIG",
    "STACYVM_AGENT_BIN",
    "STACYVM_LAUNCHER_BIN",
];
/// The same, for every variable that begins with one of these.
const OTHER_VARIABLE_PREFIXES: [&str; 2] = ["STACYVM_EMBED_", "STACYVM_TEST_"];
const PREFIX: &str = "STACYVM_";

/// The configuration while it is put together.
pub(crate) struct Overlay {
    /// Raw values, secrets included: never printed.
    tree: Value,
    keys: BTreeMap<String, Value>,
    sections: Vec<String>,
    pub(crate) config: Config,
    pub(crate) origins: BTreeMap<String, Origin>,
    pub(crate) problems: Vec<Problem>,
    pub(crate) warnings: Vec<Problem>,
}

impl Overlay {
    /// Nothing but the defaults.
    pub(crate) fn new() -> Self {
        let config = Config::default();
        let tree = serde_json::to_value(&config).expect("the configuration is plain data");
        let mut keys = BTreeMap::new();
        let mut sections = Vec::new();
        collect("", &tree, &mut keys, &mut sections);
        Self {
            tree,
            keys,
            sections,
            config,
            origins: BTreeMap::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Every key with the value to show for it; secrets are masked.
    pub(crate) fn shown(config: &Config) -> BTreeMap<String, Value> {
        let tree = serde_json::to_value(config).expect("the configuration is plain data");
        let mut keys = BTreeMap::new();
        collect("", &tree, &mut keys, &mut Vec::new());
        keys
    }

    /// Lays a file over what is there.
    pub(crate) fn file(&mut self, path: &std::path::Path, root: &Node) {
        match &root.content {
            Content::Section(entries) => self.section(path, "", entries),
            Content::Scalar(Value::Null) => {}
            _ => self.problems.push(Problem {
                origin: Origin::File(path.to_owned(), root.line),
                key: String::new(),
                reason: "the file must be a mapping of sections, like \"server:\"".to_owned(),
                hint: None,
            }),
        }
    }

    fn section(&mut self, path: &std::path::Path, prefix: &str, entries: &[(String, Node)]) {
        for (name, node) in entries {
            let key = join(prefix, name);
            let origin = Origin::File(path.to_owned(), node.line);
            if matches!(node.content, Content::Scalar(Value::Null)) && self.knows(&key) {
                // `ttl:` with nothing behind it sets nothing, as in a half commented-out file.
                continue;
            }
            if self.keys.contains_key(&key) {
                self.set(&key, vec![node.to_value()], origin);
            } else if self.sections.contains(&key) {
                match &node.content {
                    Content::Section(inner) => self.section(path, &key, inner),
                    _ => self.problems.push(Problem {
                        origin,
                        key,
                        reason: "this is a section, its keys belong below it, indented".to_owned(),
                        hint: None,
                    }),
                }
            } else {
                let known = self.keys.keys().chain(&self.sections);
                let near = suggest::nearest(&key, known.map(String::as_str)).map(str::to_owned);
                self.unknown(origin, key, "unknown key", near);
            }
        }
    }

    /// Lays environment variables over what is there.
    pub(crate) fn environment(&mut self, variables: &[(String, String)]) {
        let names: BTreeMap<String, String> = self
            .keys
            .keys()
            .map(|key| (variable(key), key.clone()))
            .collect();
        for (name, text) in variables {
            if let Some(key) = names.get(name) {
                self.text(key, text, Origin::Environment(name.clone()));
            } else if name.starts_with(PREFIX)
                && !OTHER_VARIABLES.contains(&name.as_str())
                && !OTHER_VARIABLE_PREFIXES
                    .iter()
                    .any(|prefix| name.starts_with(prefix))
            {
                let near =
                    suggest::nearest(name, names.keys().map(String::as_str)).map(str::to_owned);
                let origin = Origin::Environment(name.clone());
                self.unknown(origin, String::new(), "it sets no known key", near);
            }
        }
    }

    /// Sets a key from a text, as a variable or a flag brings it. Lists are separated by commas,
    /// mappings are `name=value` pairs separated by commas.
    pub(crate) fn text(&mut self, key: &str, text: &str, origin: Origin) {
        let as_text = Value::from(text);
        let candidates = match self.keys.get(key) {
            Some(Value::Bool(_)) => vec![truth(text).map_or(as_text, Value::Bool)],
            Some(Value::Number(_)) => vec![number(text).unwrap_or(as_text)],
            Some(Value::Array(_)) => vec![pieces(text).map(Value::from).collect()],
            Some(Value::Object(_)) => match pairs(text) {
                Some(map) => vec![Value::Object(map)],
                None => {
                    self.problems.push(Problem {
                        origin,
                        key: key.to_owned(),
                        reason: "write it as name=value,name=value".to_owned(),
                        hint: None,
                    });
                    return;
                }
            },
            // No default says what type it has, so each that the text could be is tried.
            Some(Value::Null) => std::iter::once(as_text).chain(number(text)).collect(),
            _ => vec![as_text],
        };
        self.set(key, candidates, origin);
    }

    /// Takes the first candidate that the key accepts, or reports why the first was refused.
    fn set(&mut self, key: &str, candidates: Vec<Value>, origin: Origin) {
        let mut refusal = None;
        for candidate in candidates {
            let mut tree = self.tree.clone();
            let pointer = format!("/{}", key.replace('.', "/"));
            *tree
                .pointer_mut(&pointer)
                .expect("every key was read off this tree") = candidate;
            match serde_json::from_value::<Config>(tree.clone()) {
                Ok(config) => {
                    self.tree = tree;
                    self.config = config;
                    self.origins.insert(key.to_owned(), origin);
                    return;
                }
                Err(error) => refusal = refusal.or(Some(reason(&error.to_string()))),
            }
        }
        self.problems.push(Problem {
            origin,
            key: key.to_owned(),
            reason: refusal.unwrap_or_else(|| "no value".to_owned()),
            hint: None,
        });
    }

    fn knows(&self, key: &str) -> bool {
        self.keys.contains_key(key) || self.sections.iter().any(|section| section == key)
    }

    fn unknown(&mut self, origin: Origin, key: String, reason: &str, near: Option<String>) {
        self.warnings.push(Problem {
            origin,
            key,
            reason: reason.to_owned(),
            hint: near.map(|near| format!("did you mean {near}?")),
        });
    }
}

/// The variable that sets a key.
fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.to_uppercase().replace('.', "_"))
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() {
        name.to_owned()
    } else {
        format!("{prefix}.{name}")
    }
}

fn collect(
    prefix: &str,
    tree: &Value,
    keys: &mut BTreeMap<String, Value>,
    sections: &mut Vec<String>,
) {
    match tree {
        Value::Object(map) if !MAP_KEYS.contains(&prefix) => {
            if !prefix.is_empty() {
                sections.push(prefix.to_owned());
            }
            for (name, value) in map {
                collect(&join(prefix, name), value, keys, sections);
            }
        }
        leaf => {
            keys.insert(prefix.to_owned(), leaf.clone());
        }
    }
}

fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

fn number(text: &str) -> Option<Value> {
    let text = text.trim();
    text.parse::<u64>()
        .map(Value::from)
        .or_else(|_| text.parse::<i64>().map(Value::from))
        .ok()
        .or_else(|| decimal(text))
}

/// `0.5`; not `1e3`, `inf` or `nan`, which no key means.
fn decimal(text: &str) -> Option<Value> {
    let plain = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let (whole, part) = text.split_once('.')?;
    if !plain(whole.strip_prefix('-').unwrap_or(whole)) || !plain(part) {
        return None;
    }
    text.parse::<f64>().ok().map(Value::from)
}

fn pieces(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|piece| !piece.is_empty())
}

fn pairs(text: &str) -> Option<Map<String, Value>> {
    pieces(text)
        .map(|piece| {
            let (name, value) = piece.split_once('=')?;
            Some((name.trim().to_owned(), Value::from(value.trim())))
        })
        .collect()
}

/// Serde's sentence with Rust's type names in words.
fn reason(message: &str) -> String {
    const WORDS: [(&str, &str); 6] = [
        ("expected u16", "expected a whole number from 0 to 65535"),
        (
            "expected u32",
            "expected a whole number from 0 to 4294967295",
        ),
        ("expected u64", "expected a whole number, not negative"),
        ("expected a boolean", "expected true or false"),
        ("expected a string", "expected a text"),
        ("expected a sequence", "expected a list"),
    ];
    let mut text = message.to_owned();
    for (from, to) in WORDS {
        text = text.replace(from, to);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_keys_share_a_variable() {
        let overlay = Overlay::new();
        let mut names: Vec<String> = overlay.keys.keys().map(|key| variable(key)).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        for other in OTHER_VARIABLES {
            assert!(!names.iter().any(|name| name == other), "{other}");
        }
    }
}
