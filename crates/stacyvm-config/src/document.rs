//! A YAML file as a tree whose every node knows its line.

use std::fmt;

use serde::{Deserialize, Deserializer, de};
use serde_json::Value;
use serde_saphyr::Spanned;

/// A node and the line where it begins.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) line: u64,
    pub(crate) content: Content,
}

/// What a node is.
#[derive(Debug)]
pub(crate) enum Content {
    /// A mapping, in the file's order.
    Section(Vec<(String, Node)>),
    /// A list; its elements keep no lines of their own.
    List(Vec<Value>),
    /// A text, number, truth value, or nothing.
    Scalar(Value),
}

/// Why a text is no YAML, with the line where it shows.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    pub(crate) line: u64,
    pub(crate) reason: String,
}

/// Reads the text of a file. An empty file is an empty section.
pub(crate) fn parse(text: &str) -> Result<Node, SyntaxError> {
    // Only `true` and `false` are truth values: `y` and `no` are texts, as in YAML 1.2.
    let options = serde_saphyr::options! { strict_booleans: true };
    let parsed: Result<Option<Spanned<Content>>, _> =
        serde_saphyr::from_str_with_options(text, options);
    match parsed {
        Ok(None) => Ok(Node {
            line: 0,
            content: Content::Section(Vec::new()),
        }),
        Ok(Some(content)) => Ok(node(content)),
        Err(error) => {
            // The snippet that the parser would add quotes the file, and with it its secrets.
            let error = error.without_snippet();
            Err(SyntaxError {
                line: error.location().map_or(0, |location| location.line()),
                reason: error.to_string().replace('\n', " "),
            })
        }
    }
}

impl Node {
    /// The node without its lines.
    pub(crate) fn to_value(&self) -> Value {
        match &self.content {
            Content::Section(entries) => Value::Object(
                entries
                    .iter()
                    .map(|(key, node)| (key.clone(), node.to_value()))
                    .collect(),
            ),
            Content::List(values) => Value::Array(values.clone()),
            Content::Scalar(value) => value.clone(),
        }
    }
}

fn node(spanned: Spanned<Content>) -> Node {
    Node {
        line: spanned.referenced.line(),
        content: spanned.value,
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> de::Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        Content::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Content, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = items.next_element()? {
            values.push(value);
        }
        Ok(Content::List(values))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut entries: A) -> Result<Content, A::Error> {
        let mut section = Vec::new();
        while let Some((key, value)) = entries.next_entry::<String, Spanned<Content>>()? {
            section.push((key, node(value)));
        }
        Ok(Content::Section(section))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_line_of_each_value() {
        let tree = parse("a:\n  b: 1\n\n  c: [x, y]\n").unwrap_or_else(|e| panic!("{e:?}"));
        let Content::Section(top) = &tree.content else {
            panic!("no section")
        };
        let Content::Section(inner) = &top[0].1.content else {
            panic!("no section")
        };
        assert_eq!(inner[0].1.line, 2);
        assert_eq!(inner[1].1.line, 4);
        assert_eq!(inner[1].1.to_value(), serde_json::json!(["x", "y"]));
    }

    #[test]
    fn an_empty_file_sets_nothing() {
        for text in ["", "# only a comment\n", "---\n"] {
            let tree = parse(text).unwrap_or_else(|e| panic!("{text:?}: {e:?}"));
            assert!(
                matches!(&tree.content, Content::Section(entries) if entries.is_empty()),
                "{text:?}: {tree:?}"
            );
        }
    }

    #[test]
    fn a_broken_file_names_the_line_and_quotes_nothing() {
        let error = parse("auth:\n  api_key: sk-hidden\n  - x\n").unwrap_err();
        assert!(error.line >= 2, "{error:?}");
        assert!(!error.reason.contains("sk-hidden"), "{error:?}");
    }
}
