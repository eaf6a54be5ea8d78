//! The API key of a request, as `X-API-Key` or as `Authorization: Bearer`.

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};
use stacyvm_types::ErrorCode;
use subtle::ConstantTimeEq;

use crate::error::Failure;
use crate::settings::Secret;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Whether a path needs a key once one is configured. Everything below `/api/` does, known or not,
/// except the probes of load balancers.
pub(crate) fn guards(path: &str) -> bool {
    let exempt = matches!(
        path.strip_suffix('/').unwrap_or(path),
        "/api/v1/live" | "/api/v1/ready"
    );
    path.starts_with("/api/") && !exempt
}

/// Whether a request has a key, right or wrong.
pub(crate) fn is_sent(headers: &HeaderMap) -> bool {
    headers.contains_key(API_KEY)
        || headers
            .get_all(AUTHORIZATION)
            .iter()
            .any(|value| bearer(value.as_bytes()).is_some())
}

/// Checks the key, in a time that does not depend on how much of it is right. Of a client that sends
/// both headers one must be right: the other may be meant for a proxy on the way.
pub(crate) fn check(headers: &HeaderMap, key: &Secret) -> Result<(), Failure> {
    let plain = only(headers, &API_KEY);
    let token = only(headers, &AUTHORIZATION).and_then(bearer);
    if [plain, token]
        .into_iter()
        .flatten()
        .any(|sent| is(sent, key))
    {
        return Ok(());
    }
    let message = if headers.get_all(API_KEY).iter().count() > 1 {
        "there is more than one X-API-Key header"
    } else if is_sent(headers) {
        "the API key is wrong"
    } else {
        "the key is missing: send it as X-API-Key, or as Authorization: Bearer"
    };
    Err(Failure::new(ErrorCode::Unauthorized, message))
}

/// Removes a key of this server from a request. Another key in the same header belongs to
/// another program and stays.
pub(crate) fn hide(headers: &mut HeaderMap, key: &Secret) {
    let any = |name: &HeaderName, found: fn(&[u8]) -> Option<&[u8]>| {
        let mut sent = headers.get_all(name).iter();
        sent.any(|value| found(value.as_bytes()).is_some_and(|sent| is(sent, key)))
    };
    let (plain, token) = (
        any(&API_KEY, |whole| Some(whole)),
        any(&AUTHORIZATION, bearer),
    );
    if plain {
        headers.remove(API_KEY);
    }
    if token {
        headers.remove(AUTHORIZATION);
    }
}

fn is(sent: &[u8], key: &Secret) -> bool {
    sent.ct_eq(key.expose().as_bytes()).into()
}

/// The value of a header that is there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut sent = headers.get_all(name).iter();
    let first = sent.next()?;
    sent.next().is_none().then(|| first.as_bytes())
}

/// The token of `Bearer` credentials (RFC 6750, section 2.1); the scheme's case does not count.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked("bearer ".len())?;
    let token = scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)?;
    Some(token.trim_ascii())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn only_the_probes_are_open() {
        for path in ["/api/v1/live", "/api/v1/ready", "/api/v1/ready/", "/", "/x"] {
            assert!(!guards(path), "{path}");
        }
        for path in [
            "/api/v1/health",
            "/api/v1/sandboxes",
            "/api/v1/nothing",
            "/api/v1/live/x",
            "/api/v1/livex",
            "/api/",
        ] {
            assert!(guards(path), "{path}");
        }
    }

    fn headers(sent: &[(HeaderName, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(name.clone(), HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn one_right_key_opens() {
        let key = Secret::new("k1");
        let with = |sent: &[(HeaderName, &'static str)]| check(&headers(sent), &key);
        let plain = |value| (API_KEY, value);
        let token = |value| (AUTHORIZATION, value);
        for right in [
            &[plain("k1")][..],
            &[token("Bearer k1")],
            &[token("bearer   k1 ")],
            &[token("Basic eDp5"), plain("k1")],
            &[token("Bearer another"), plain("k1")],
            &[token("Bearer k1"), plain("another")],
        ] {
            assert!(with(right).is_ok(), "{right:?}");
        }
        for wrong in [
            &[][..],
            &[plain("")],
            &[plain("k")],
            &[plain("k12")],
            &[plain("K1")],
            &[plain("k1"), plain("k1")],
            &[plain("wrong"), plain("k1")],
            &[plain("Bearer k1")],
            &[token("k1")],
            &[token("Bearer")],
            &[token("Bearer ")],
            &[token("Bearerk1")],
            &[token("Bearer k1 k1")],
            &[token("Basic k1")],
            &[token("Bearer k1"), token("Bearer k1")],
        ] {
            let failure = with(wrong).unwrap_err();
            assert_eq!(failure.code(), ErrorCode::Unauthorized, "{wrong:?}");
        }
    }

    #[test]
    fn a_key_is_hidden_wherever_it_stands_and_others_stay() {
        let key = Secret::new("k1");
        let left = |sent: &[(HeaderName, &'static str)]| {
            let mut headers = headers(sent);
            hide(&mut headers, &key);
            headers.len()
        };
        assert_eq!(left(&[(API_KEY, "k1"), (AUTHORIZATION, "bearer k1")]), 0);
        assert_eq!(left(&[(API_KEY, "x"), (API_KEY, "k1")]), 0);
        assert_eq!(left(&[(API_KEY, "x"), (AUTHORIZATION, "Bearer x")]), 2);
        assert_eq!(left(&[(AUTHORIZATION, "Basic k1")]), 1);
    }
}
