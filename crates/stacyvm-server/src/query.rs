//! QueryPairs strings, decoded strictly: what cannot be decoded is refused, never guessed.
//!
//! A route names the type of its query, which stands in stacyvm-types, as `Query<T>`.

mod reader;

use std::borrow::Cow;

use axum::extract::FromRequestParts;
use http::request::Parts;
use serde::de::DeserializeOwned;

use crate::error::Failure;

/// More pairs than this are no honest request.
const MAX_PAIRS: usize = 64;

/// The query of a request, typed.
#[derive(Debug)]
pub(crate) struct Query<T>(pub(crate) T);

/// The query of a request, decoded. For routes whose body decides what the query means.
#[derive(Debug, Default)]
pub(crate) struct QueryPairs(Vec<(String, String)>);

impl QueryPairs {
    fn parse(text: &str) -> Result<Self, Failure> {
        let mut pairs = Vec::new();
        for part in text.split('&').filter(|part| !part.is_empty()) {
            if pairs.len() == MAX_PAIRS {
                return Err(Failure::bad_request("the query has too many parts"));
            }
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            pairs.push((decode(key)?.into_owned(), decode(value)?.into_owned()));
        }
        Ok(Self(pairs))
    }

    /// The query as a type.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        reader::read(&self.0).map_err(|error| Failure::bad_request(error.into_sentence()))
    }
}

impl<S: Sync> FromRequestParts<S> for QueryPairs {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        match parts.uri.query() {
            None => Ok(Self::default()),
            Some(text) => Self::parse(text),
        }
    }
}

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let pairs = QueryPairs::from_request_parts(parts, state).await?;
        pairs.read().map(Self)
    }
}

/// Undoes `+` and `%XX`.
fn decode(text: &str) -> Result<Cow<'_, str>, Failure> {
    if !text.bytes().any(|byte| byte == b'+' || byte == b'%') {
        return Ok(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                let value = digit().zip(digit()).map(|(high, low)| high * 16 + low);
                value
                    .and_then(|value| u8::try_from(value).ok())
                    .ok_or_else(|| {
                        Failure::bad_request(
                            "the query has a % that no two hexadecimal digits follow",
                        )
                    })?
            }
            other => other,
        });
    }
    String::from_utf8(bytes)
        .map(Cow::Owned)
        .map_err(|_| Failure::bad_request("the query is not UTF-8"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;
    use std::num::{NonZeroU32, NonZeroUsize};

    use serde::Deserialize;
    use stacyvm_types::SandboxState;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Sample {
        path: String,
        recursive: Option<bool>,
        depth: Option<NonZeroU32>,
        lines: Option<NonZeroUsize>,
        offset: Option<u64>,
        state: Option<SandboxState>,
        name: Vec<String>,
        label: BTreeMap<String, String>,
        absent: Option<bool>,
    }

    fn read(text: &str) -> Result<Sample, Failure> {
        QueryPairs::parse(text)?.read()
    }

    #[test]
    fn decodes_what_clients_send() {
        let query = read(
            "path=%2Fa+b%2Bc/%C3%A9&recursive=true&depth=3&offset=&state=paused&flag&more=1\
             &name=x&name=&name=y&label.a%20b=1&label.c=&label=z&label.a%20b=2",
        )
        .unwrap();
        assert_eq!(query.path, "/a b+c/é");
        assert_eq!(query.recursive, Some(true));
        assert_eq!(query.depth, NonZeroU32::new(3));
        assert_eq!(
            (query.lines, query.offset, query.absent),
            (None, None, None)
        );
        assert_eq!(query.state, Some(SandboxState::Paused));
        assert_eq!(query.name, ["x", "", "y"]);
        let labels = [("a b", "2"), ("c", "")].map(|(key, value)| (key.into(), value.into()));
        assert_eq!(query.label, BTreeMap::from(labels));
    }

    #[test]
    fn refuses_what_cannot_be_decoded() {
        for text in [
            "path=%", "path=%4", "path=%zz", "path=%ff", "%c3=1", "a=%+1",
        ] {
            assert!(QueryPairs::parse(text).is_err(), "{text}");
        }
        assert!(QueryPairs::parse(&"a&".repeat(65)).is_err());
    }

    #[test]
    fn refuses_values_of_the_wrong_kind() {
        for (text, words) in [
            ("", "the query parameter path is missing"),
            ("path", "the query parameter path is missing"),
            ("path=", "the query parameter path is missing"),
            (
                "path=1&path=2",
                "the query parameter path is there more than once",
            ),
            (
                "path=1&lines=0",
                "the query parameter lines must be a whole number of at least 1",
            ),
            (
                "path=1&depth=-1",
                "the query parameter depth must be a whole number of at least 1",
            ),
            (
                "path=1&depth=1.5",
                "the query parameter depth must be a whole number of at least 1",
            ),
            (
                "path=1&depth=5000000000",
                "the query parameter depth must be a whole number of at least 1",
            ),
            (
                "path=1&offset=99999999999999999999",
                "the query parameter offset must be a whole number",
            ),
            (
                "path=1&recursive=yes",
                "the query parameter recursive must be true or false",
            ),
            (
                "path=1&absent=1&absent=1",
                "the query parameter absent is there more than once",
            ),
            (
                "path=1&state=asleep",
                "the states are creating, running, paused, stopped, error and destroyed",
            ),
        ] {
            assert_eq!(read(text).unwrap_err().message(), words, "{text}");
        }
    }
}
