//! The cookie in which one browser keeps a token, for one host.

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

/// The scheme by which a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// The scheme of an address.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// Browsers take `__Host-` only over TLS, and only for the one host that sets it. In the clear the
/// name is a plain one, and what keeps it apart is that its value fits one host alone.
const SECURE: &str = "__Host-stacyvm-preview";
const PLAIN: &str = "stacyvm-preview";

/// Both names. A sandbox may neither see nor set these cookies.
pub(super) const NAMES: &[&str] = &[SECURE, PLAIN];

/// Cookies of this name that are tried. Another host of the same domain can set some.
const MAX_TRIED: usize = 8;

const fn name(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Http => PLAIN,
        Scheme::Https => SECURE,
    }
}

/// The `Set-Cookie` header that makes a browser keep `token` for `seconds`.
pub(super) fn set(scheme: Scheme, token: &str, seconds: u64) -> HeaderValue {
    let name = name(scheme);
    let secure = match scheme {
        Scheme::Http => "",
        Scheme::Https => "; Secure",
    };
    let text = format!("{name}={token}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}");
    HeaderValue::try_from(text).expect("a token is visible ASCII")
}

/// The first few tokens that a browser has kept.
pub(super) fn tokens(headers: &HeaderMap, scheme: Scheme) -> impl Iterator<Item = &str> {
    let wanted = name(scheme);
    pairs(headers)
        .filter_map(move |pair| {
            let (name, value) = pair.split_once('=')?;
            (name == wanted).then_some(value)
        })
        .take(MAX_TRIED)
}

fn pairs(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .map(str::trim)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn headers(name: http::HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(&name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_word_is_kept_for_one_host() {
        assert_eq!(
            set(Scheme::Https, "w", 60),
            "__Host-stacyvm-preview=w; Path=/; Max-Age=60; HttpOnly; SameSite=Lax; Secure"
        );
        assert_eq!(
            set(Scheme::Http, "w", 60),
            "stacyvm-preview=w; Path=/; Max-Age=60; HttpOnly; SameSite=Lax"
        );
    }

    #[test]
    fn our_cookie_is_read() {
        let request = headers(
            COOKIE,
            &["a=1; stacyvm-preview=x;b=\"2\"", "stacyvm-preview=y", "c=3"],
        );
        assert_eq!(
            tokens(&request, Scheme::Http).collect::<Vec<_>>(),
            ["x", "y"]
        );
        // What was set in the clear counts for nothing over TLS.
        assert_eq!(tokens(&request, Scheme::Https).count(), 0);
        let flood = "stacyvm-preview=x;".repeat(1000);
        let flood = headers(COOKIE, &[&flood]);
        assert_eq!(tokens(&flood, Scheme::Http).count(), MAX_TRIED);
    }
}
