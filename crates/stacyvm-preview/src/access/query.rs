//! The word in an address: found, and taken out without touching anything else of the address.

use http::Uri;

/// The parameter of a link.
pub const TOKEN: &str = "stacyvm_token";

/// An address that carried a word.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// The word; none when the parameter stood there more than once, which no link of ours does.
    pub word: Option<String>,
    /// Path and query without it.
    pub rest: String,
}

/// Takes the word out of an address; none when there is none in it.
pub(super) fn take(uri: &Uri) -> Option<Taken> {
    let query = uri.query()?;
    let value = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name) == TOKEN).then(|| decoded(value))
    };
    let mut words = query.split('&').filter_map(value);
    let first = words.next()?;
    let word = words.next().is_none().then_some(first);
    let kept: Vec<&str> = query
        .split('&')
        .filter(|pair| value(pair).is_none())
        .collect();
    let path = match uri.path() {
        "" => "/",
        path => path,
    };
    let rest = match kept.is_empty() {
        true => path.to_owned(),
        false => format!("{path}?{}", kept.join("&")),
    };
    Some(Taken { word, rest })
}

/// An address with a word in it.
pub(super) fn add(base: &str, word: &str) -> String {
    // A word has no character that means anything in a query.
    format!("{base}?{TOKEN}={word}")
}

/// Percent escapes undone, so that a parameter that is written differently is found too.
fn decoded(text: &str) -> String {
    let hex = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let pair = (bytes.get(index + 1), bytes.get(index + 2));
        match (bytes[index], pair) {
            (b'%', (Some(high), Some(low))) if hex(*high).is_some() && hex(*low).is_some() => {
                let digits = hex(*high).zip(hex(*low)).unwrap_or_default();
                out.push(digits.0 * 16 + digits.1);
                index += 3;
            }
            (byte, _) => {
                out.push(byte);
                index += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_word_leaves_and_the_rest_stays_as_it_was() {
        for (from, word, rest) in [
            ("/?stacyvm_token=v1.a", Some("v1.a"), "/"),
            (
                "/a%20b?stacyvm_token=w&x=%26&y",
                Some("w"),
                "/a%20b?x=%26&y",
            ),
            ("/?x=1&stacyvm_token=w", Some("w"), "/?x=1"),
            ("/?x=1&stacyvm%5Ftoken=%77&&y=", Some("w"), "/?x=1&&y="),
            (
                "//evil.example/?stacyvm_token=w",
                Some("w"),
                "//evil.example/",
            ),
            ("http://h.localhost?stacyvm_token=w", Some("w"), "/"),
            ("/?stacyvm_token", Some(""), "/"),
            ("/?stacyvm_token=w&stacyvm_token=w", None, "/"),
        ] {
            let taken = take(&from.parse().unwrap()).unwrap();
            assert_eq!(taken.word.as_deref(), word, "{from}");
            assert_eq!(taken.rest, rest, "{from}");
        }
        for none in [
            "/",
            "/?",
            "/?x=stacyvm_token=1",
            "/?xstacyvm_token=1",
            "/?%",
        ] {
            assert_eq!(take(&none.parse().unwrap()), None, "{none}");
        }
    }
}
