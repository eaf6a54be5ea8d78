//! The web pages that may call: the server's own, and those that the configuration names.
//!
//! A page of another origin can send some requests without asking first (`fetch` with a text
//! body), and request content types are not checked here. So while no key protects the server, a
//! request that changes something and comes from a foreign page is refused, not only hidden from it.

use axum::response::{IntoResponse, Response};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HOST,
    ORIGIN, UPGRADE, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};

use crate::error::Failure;

const ALLOWED_METHODS: HeaderValue =
    HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, OPTIONS");
const ALLOWED_HEADERS: HeaderValue = HeaderValue::from_static(
    "Content-Type, Authorization, X-API-Key, X-User-ID, X-Request-ID, Idempotency-Key, Range, Last-Event-ID",
);
const EXPOSED_HEADERS: HeaderValue = HeaderValue::from_static(
    "X-Request-ID, Retry-After, Content-Range, Accept-Ranges, Content-Length",
);

/// The origins that are allowed beside the server's own.
#[derive(Debug)]
pub(crate) struct OriginRule {
    any: bool,
    allowed: Vec<String>,
}

/// What a request's `Origin` may do.
#[derive(Debug)]
pub(crate) enum Origin {
    /// No web page, or the browser did not say so.
    Absent,
    /// Allowed; the value of `Access-Control-Allow-Origin`.
    Allowed(HeaderValue),
    /// A page that is not allowed.
    Foreign,
}

impl OriginRule {
    pub(crate) fn new(allowed: &[String]) -> Self {
        Self {
            any: allowed.iter().any(|origin| origin.trim() == "*"),
            allowed: allowed
                .iter()
                .map(|origin| origin.trim().trim_end_matches('/').to_ascii_lowercase())
                .collect(),
        }
    }

    pub(crate) fn judge<B>(&self, request: &Request<B>) -> Origin {
        let Some(origin) = request.headers().get(ORIGIN) else {
            return Origin::Absent;
        };
        if self.any {
            return Origin::Allowed(HeaderValue::from_static("*"));
        }
        let Ok(text) = origin.to_str() else {
            return Origin::Foreign;
        };
        let authority = request.uri().authority().map(http::uri::Authority::as_str);
        let host = authority.or_else(|| request.headers().get(HOST)?.to_str().ok());
        let own = text
            .strip_prefix("http://")
            .or_else(|| text.strip_prefix("https://"))
            .is_some_and(|origin| host.is_some_and(|host| origin.eq_ignore_ascii_case(host)));
        if own || self.allowed.contains(&text.to_ascii_lowercase()) {
            Origin::Allowed(origin.clone())
        } else {
            Origin::Foreign
        }
    }
}

/// Whether a request is a preflight of a browser.
pub(crate) fn is_preflight<B>(request: &Request<B>) -> bool {
    request.method() == Method::OPTIONS
        && request.headers().contains_key(ORIGIN)
        && request
            .headers()
            .contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to a preflight.
pub(crate) fn preflight(origin: &Origin) -> Response {
    match origin {
        Origin::Allowed(_) => (
            StatusCode::NO_CONTENT,
            [
                (ACCESS_CONTROL_ALLOW_METHODS, ALLOWED_METHODS),
                (ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS),
                (ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600")),
            ],
        )
            .into_response(),
        Origin::Absent | Origin::Foreign => foreign().into_response(),
    }
}

/// Refuses a change that a foreign page asks for. An upgrade is one: browsers let any page open a
/// WebSocket anywhere, and commands run over it.
pub(crate) fn check_change<B>(request: &Request<B>, origin: &Origin) -> Result<(), Failure> {
    let reads = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    ) && !request.headers().contains_key(UPGRADE);
    match origin {
        Origin::Foreign if !reads => Err(foreign()),
        _ => Ok(()),
    }
}

fn foreign() -> Failure {
    Failure::forbidden(
        "pages of this origin are refused, add it to server.cors_allowed_origins to let them in",
    )
}

/// Marks an answer so that the page may read it.
pub(crate) fn stamp(origin: Origin, headers: &mut HeaderMap) {
    match origin {
        Origin::Absent => return,
        Origin::Allowed(value) => {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, value);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS);
        }
        Origin::Foreign => {}
    }
    headers.append(VARY, HeaderValue::from_static("Origin"));
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn judge(rule: &OriginRule, origin: &str) -> Origin {
        let request = Request::builder()
            .header(HOST, "localhost:7423")
            .header(ORIGIN, origin)
            .body(())
            .unwrap();
        rule.judge(&request)
    }

    #[test]
    fn the_own_origin_and_the_named_ones_are_allowed() {
        let rule = OriginRule::new(&["https://app.example.org/".to_owned()]);
        for origin in [
            "http://localhost:7423",
            "https://localhost:7423",
            "https://app.example.org",
        ] {
            assert!(
                matches!(judge(&rule, origin), Origin::Allowed(value) if value == origin),
                "{origin}"
            );
        }
        for origin in [
            "http://localhost",
            "http://evil.example",
            "null",
            "http://localhost:7423.evil.example",
            "http://app.example.org",
        ] {
            assert!(matches!(judge(&rule, origin), Origin::Foreign), "{origin}");
        }
    }

    #[test]
    fn a_star_allows_all_without_naming_them() {
        let rule = OriginRule::new(&["*".to_owned()]);
        assert!(
            matches!(judge(&rule, "http://evil.example"), Origin::Allowed(value) if value == "*")
        );
    }
}
