//! The token in an address: found, and removed without changing the rest of the address.

use http::Uri;

/// The query parameter in which a link carries its token.
pub const TOKEN: &str = "stacyvm_token";

/// An address that carried a token.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TokenQuery {
    /// The token; none when the address had the parameter more than once, which no link has.
    pub token: Option<String>,
    /// Path and query without the token.
    pub rest: String,
}

/// Takes the token out of an address; none when there is none in it.
pub(super) fn take(uri: &Uri) -> Option<TokenQuery> {
    let query = uri.query()?;
    let value = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name) == TOKEN).then(|| decoded(value))
    };
    let mut tokens = query.split('&').filter_map(value);
    let first = tokens.next()?;
    let token = tokens.next().is_none().then_some(first);
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
    Some(TokenQuery { token, rest })
}

/// An address with a token in it.
pub(super) fn add(base: &str, token: &str) -> String {
    // No character of a token has a meaning in a query.
    format!("{base}?{TOKEN}={token}")
}

/// Decodes percent escapes, so that a parameter that is written with them is found, too.
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
    fn the_token_leaves_and_the_rest_stays_as_it_was() {
        for (from, token, rest) in [
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
            assert_eq!(taken.token.as_deref(), token, "{from}");
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
