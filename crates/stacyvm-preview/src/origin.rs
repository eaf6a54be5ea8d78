//! Keeps answers of a sandbox from acting on the API's own origin.
//!
//! The path form and the header form share their origin with the API, which without a key obeys
//! every page of that origin. So their answers get an opaque origin (`sandbox` without
//! `allow-same-origin`), carry no cookies either way, and lose every header that applies to the
//! whole origin. Such a page's own `fetch` then comes from the origin `null`, which may read
//! previews and nothing else.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ALT_SVC, CONTENT_LOCATION, CONTENT_SECURITY_POLICY, COOKIE,
    LOCATION, ORIGIN, REFRESH, SET_COOKIE, STRICT_TRANSPORT_SECURITY, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};

use crate::location::{Origin, below_prefix};
use crate::response_body::PreviewBody;
use crate::{Form, Target};

/// Permits scripts, forms and downloads, in an opaque origin.
const SANDBOX: HeaderValue = HeaderValue::from_static(
    "sandbox allow-scripts allow-forms allow-downloads allow-modals allow-popups \
     allow-pointer-lock allow-orientation-lock allow-presentation",
);

/// Headers that apply to a whole origin.
const ORIGIN_WIDE: [HeaderName; 13] = [
    SET_COOKIE,
    ALT_SVC,
    STRICT_TRANSPORT_SECURITY,
    HeaderName::from_static("clear-site-data"),
    HeaderName::from_static("service-worker-allowed"),
    HeaderName::from_static("accept-ch"),
    HeaderName::from_static("critical-ch"),
    HeaderName::from_static("origin-agent-cluster"),
    HeaderName::from_static("nel"),
    HeaderName::from_static("report-to"),
    HeaderName::from_static("reporting-endpoints"),
    HeaderName::from_static("public-key-pins"),
    HeaderName::from_static("set-login"),
];

/// Whether a form shares the API's origin.
pub(crate) const fn is_shared(form: Form) -> bool {
    matches!(form, Form::Path | Form::Header)
}

/// Answers the preflight request of a page of the path form that wants to `fetch` from its own
/// preview: the sandbox does not know that its pages were given another origin.
pub(crate) fn preflight<B>(target: &Target, request: &Request<B>) -> Option<Response<PreviewBody>> {
    let headers = request.headers();
    let asks = target.form == Form::Path
        && *request.method() == Method::OPTIONS
        && is_opaque(headers)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    if !asks {
        return None;
    }
    let mut response = Response::new(PreviewBody::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let answer = response.headers_mut();
    for (from, to) in [
        (ACCESS_CONTROL_REQUEST_METHOD, ACCESS_CONTROL_ALLOW_METHODS),
        (ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_ALLOW_HEADERS),
    ] {
        if let Some(value) = headers.get(from) {
            answer.insert(to, value.clone());
        }
    }
    answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    allow_opaque(answer);
    Some(response)
}

/// Whether the request comes from a page with an opaque origin.
pub(crate) fn is_opaque(headers: &HeaderMap) -> bool {
    headers.get(ORIGIN).is_some_and(|origin| origin == "null")
}

/// Removes the cookies of the API's origin from a request.
pub(crate) fn remove_cookies(headers: &mut HeaderMap) {
    headers.remove(COOKIE);
}

/// Confines an answer of a sandbox. `opaque` says that a page of the path form asked for it.
pub(crate) fn confine(headers: &mut HeaderMap, target: &Target, opaque: bool) {
    for name in ORIGIN_WIDE {
        headers.remove(name);
    }
    // Added to the page's own policies: all of them apply.
    headers.append(CONTENT_SECURITY_POLICY, SANDBOX);
    if target.form == Form::Path && opaque {
        allow_opaque(headers);
    }
}

/// Puts the places that an answer names below the preview's prefix, and removes those that lead
/// elsewhere. Whether the answer's location stayed, if it has one.
pub(crate) fn keep_below_prefix(headers: &mut HeaderMap, origin: Origin<'_>) -> bool {
    let mut stays = true;
    for name in [LOCATION, CONTENT_LOCATION] {
        let Some(place) = headers.remove(&name) else {
            continue;
        };
        let moved = below_prefix(place.as_bytes(), origin);
        match moved.and_then(|place| HeaderValue::try_from(place).ok()) {
            Some(place) => {
                headers.insert(name, place);
            }
            None => stays &= name != LOCATION,
        }
    }
    // One that only loads the same page again has no place in it.
    let is_redirect = |value: &HeaderValue| value.as_bytes().iter().any(|b| b";,=".contains(b));
    if headers.get_all(REFRESH).iter().any(is_redirect) {
        headers.remove(REFRESH);
    }
    stays
}

fn allow_opaque(headers: &mut HeaderMap) {
    headers.remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
    headers.insert(
        ACCESS_CONTROL_ALLOW_ORIGIN,
        HeaderValue::from_static("null"),
    );
    headers.append(VARY, HeaderValue::from_static("Origin"));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn target(form: Form) -> Target {
        Target {
            sandbox: "sb-0123abcd".parse().unwrap(),
            port: 3000.try_into().unwrap(),
            form,
        }
    }

    #[test]
    fn nothing_from_inside_speaks_for_the_origin() {
        for form in [Form::Path, Form::Header] {
            let mut headers = HeaderMap::new();
            for name in ORIGIN_WIDE {
                headers.insert(name, HeaderValue::from_static("x"));
            }
            headers.insert(
                CONTENT_SECURITY_POLICY,
                HeaderValue::from_static("img-src *"),
            );
            confine(&mut headers, &target(form), true);
            let policies: Vec<_> = headers.get_all(CONTENT_SECURITY_POLICY).iter().collect();
            assert_eq!(policies.len(), 2, "{form:?}");
            let sandbox = policies[1].to_str().unwrap();
            assert!(sandbox.starts_with("sandbox ") && !sandbox.contains("same-origin"));
            let reads = headers.get(ACCESS_CONTROL_ALLOW_ORIGIN);
            assert_eq!(reads.is_some(), form == Form::Path, "{form:?}");
            assert!(ORIGIN_WIDE.iter().all(|name| !headers.contains_key(name)));
        }
    }
}
