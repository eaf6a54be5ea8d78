//! The API key of a request.

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
}

/// Checks the key, in a time that does not depend on how much of it is right.
pub(crate) fn check(headers: &HeaderMap, key: &Secret) -> Result<(), Failure> {
    let mut sent = headers.get_all(API_KEY).iter();
    let refused = |message| Err(Failure::new(ErrorCode::Unauthorized, message));
    let (Some(first), None) = (sent.next(), sent.next()) else {
        return refused("the X-API-Key header is missing, or there is more than one");
    };
    if bool::from(first.as_bytes().ct_eq(key.expose().as_bytes())) {
        Ok(())
    } else {
        refused("the API key is wrong")
    }
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

    #[test]
    fn one_right_key_opens() {
        let key = Secret::new("k1");
        let with = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(API_KEY, HeaderValue::from_static(value));
            }
            check(&headers, &key)
        };
        assert!(with(&["k1"]).is_ok());
        for wrong in [
            &[][..],
            &[""],
            &["k"],
            &["k12"],
            &["K1"],
            &["k1", "k1"],
            &["wrong", "k1"],
        ] {
            let failure = with(wrong).unwrap_err();
            assert_eq!(failure.code(), ErrorCode::Unauthorized, "{wrong:?}");
        }
    }
}
