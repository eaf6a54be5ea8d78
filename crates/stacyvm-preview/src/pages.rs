//! The answer in place of a preview that failed: a page for a browser, JSON for a program.
//!
//! Pages are one file without scripts. Their rule: what a client sent appears in them only escaped,
//! and no cache keeps them.

use std::fmt::Write as _;

use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, RETRY_AFTER,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use stacyvm_types::ApiError;

use crate::failure::{Failure, FailureKind};
use crate::response_body::PreviewBody;

/// Marks an answer as the server's and not the sandbox's; its value is the kind of failure.
const ERROR: HeaderName = HeaderName::from_static("x-stacyvm-preview-error");
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'self'",
);
const STYLE: &str = include_str!("pages/page.css");

/// Whether the client prefers HTML to JSON: browsers do, programs mostly do not.
pub(crate) fn wants_html(headers: &HeaderMap) -> bool {
    let mut best = (0.0_f32, false);
    for value in headers.get_all(ACCEPT) {
        for range in value.to_str().unwrap_or("").split(',') {
            let mut pieces = range.split(';').map(str::trim);
            let html = match pieces.next().unwrap_or("").to_ascii_lowercase().as_str() {
                "text/html" | "application/xhtml+xml" => true,
                "application/json" | "application/*" => false,
                _ => continue,
            };
            let weight = pieces.find_map(|piece| piece.strip_prefix("q="));
            let weight = weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
            if weight > best.0 {
                best = (weight, html);
            }
        }
    }
    best.1
}

/// A failure as the client wants to read it.
pub fn failed(failure: &Failure, html: bool) -> Response<PreviewBody> {
    let kind = failure.kind;
    let (content_type, body) = if html {
        ("text/html; charset=utf-8", page(failure))
    } else {
        let error = ApiError::new(kind.code(), failure.message.clone());
        let body = serde_json::to_string(&error).expect("two texts are always JSON");
        ("application/json", body)
    };
    let mut response = Response::new(PreviewBody::whole(body));
    *response.status_mut() = kind.status();
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (ERROR, HeaderValue::from_static(kind.as_str())),
    ] {
        headers.insert(name, value);
    }
    if let Some(wait) = kind.retry_after() {
        headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs()));
    }
    response
}

fn page(failure: &Failure) -> String {
    let kind = failure.kind;
    let (title, words, mark) = match kind {
        FailureKind::NotStarted => (
            "Not started yet",
            "Nothing listens on this port yet. This page looks again by itself.",
            "wait",
        ),
        FailureKind::Closed => (
            "Stopped listening",
            "What listened on this port has stopped. This page looks again by itself.",
            "wait",
        ),
        FailureKind::Gone => (
            "Sandbox gone",
            "There is no such sandbox: it was destroyed, it has expired, or it never was.",
            "end",
        ),
        FailureKind::Hidden => (
            "Nothing to see here",
            "There is no such sandbox, or its preview is private and needs a link.",
            "end",
        ),
        FailureKind::Throttled => (
            "Too many tries",
            "This address asked for too many previews that are not there.",
            "end",
        ),
        FailureKind::NotRunning => (
            "Sandbox not running",
            "The sandbox is there, but it does not run now.",
            "end",
        ),
        FailureKind::Busy => (
            "Too many connections",
            "This sandbox has as many connections as it may have. This page tries again by itself.",
            "wait",
        ),
        FailureKind::Refused => (
            "No such preview",
            "This address is none of a preview.",
            "end",
        ),
        FailureKind::Malformed => ("Bad request", "This request cannot be understood.", "end"),
        FailureKind::Forbidden => (
            "Not for everybody",
            "What this request brings along opens no preview here.",
            "end",
        ),
        FailureKind::Broken => (
            "Bad answer",
            "What listens on this port did not answer as a web server does.",
            "end",
        ),
        FailureKind::Stopping => (
            "Back in a moment",
            "The server is being restarted. This page looks again by itself.",
            "wait",
        ),
    };
    let refresh = match kind.retry_after() {
        Some(wait) => format!(
            "<meta http-equiv=\"refresh\" content=\"{}\">",
            wait.as_secs()
        ),
        None => String::new(),
    };
    let detail = escaped(&failure.message);
    let status = kind.status();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"robots\" content=\"noindex\">{refresh}<title>{title}</title>\
         <style>{STYLE}</style></head>\n<body class=\"{mark}\"><main>\
         <p class=\"mark\" aria-hidden=\"true\"></p><h1>{title}</h1><p>{words}</p>\
         <p class=\"detail\">{detail}</p><footer>{} · StacyVM preview</footer></main></body></html>\n",
        status.as_u16()
    )
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' | '>' | '&' | '"' | '\'' => {
                // Writing to a text cannot fail.
                let _ = write!(safe, "&#{};", u32::from(character));
            }
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn browsers_get_pages_and_programs_get_json() {
        for (accept, html) in [
            (
                "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
                true,
            ),
            ("application/json, text/html;q=0.5", false),
            ("text/html;q=0.9, application/json;q=0.1", true),
            ("*/*", false),
            ("image/avif,image/webp,*/*;q=0.8", false),
            ("text/html;q=0", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(wants_html(&headers), html, "{accept}");
        }
        assert!(!wants_html(&HeaderMap::new()));
    }

    #[test]
    fn nothing_sent_is_markup() {
        let failure = Failure::refused("<script>alert('x')&\"");
        let page = page(&failure);
        assert!(!page.contains("<script"));
        assert!(
            page.contains("&#60;script&#62;alert(&#39;x&#39;)&#38;&#34;"),
            "{page}"
        );
    }

    #[test]
    fn pages_that_may_change_look_again_and_others_do_not() {
        for kind in [
            FailureKind::NotStarted,
            FailureKind::Closed,
            FailureKind::Busy,
            FailureKind::Throttled,
            FailureKind::Stopping,
        ] {
            let failure = Failure::new(kind, "x");
            assert!(
                page(&failure).contains("http-equiv=\"refresh\""),
                "{kind:?}"
            );
            assert!(failed(&failure, true).headers().contains_key(RETRY_AFTER));
        }
        for kind in [
            FailureKind::Gone,
            FailureKind::Forbidden,
            FailureKind::Broken,
            FailureKind::Refused,
        ] {
            assert!(
                !page(&Failure::new(kind, "x")).contains("refresh"),
                "{kind:?}"
            );
        }
    }
}
