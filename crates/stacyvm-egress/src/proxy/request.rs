//! The host that a request of HTTP/1 is for, and the headers of it that are handed on.
//!
//! The proxy and the server must understand a request in the same way. So information that is given
//! twice must agree, and forms in which a second request could hide are refused.

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{Method, StatusCode, Version};
use stacyvm_types::HostName;

use crate::control::Reason;

/// Why a request is not handed on, and how it is answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) reason: Reason,
    /// The host that it was for, as far as that is known.
    pub(super) target: String,
    pub(super) text: String,
}

impl Problem {
    fn malformed(target: &str, text: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            reason: Reason::Malformed,
            target: target.to_owned(),
            text: text.into(),
        }
    }

    /// The host is not on the list.
    pub(super) fn not_allowed(host: &HostName) -> Self {
        Self {
            status: StatusCode::FORBIDDEN,
            reason: Reason::NotAllowed,
            target: host.to_string(),
            text: format!(
                "this sandbox may not reach {host}: add \"{host}\" to its list of allowed domains"
            ),
        }
    }
}

/// The one host that the request names.
pub(super) fn host(parts: &Parts) -> Result<HostName, Problem> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let (header, other) = (hosts.next(), hosts.next());
    let text = header.map_or("", |value| value.to_str().unwrap_or("?"));
    if parts.method == Method::CONNECT {
        return Err(Problem {
            status: StatusCode::METHOD_NOT_ALLOWED,
            reason: Reason::NoName,
            target: parts.uri.to_string(),
            text: "CONNECT is not served: no proxy has to be set here, connect to the host itself"
                .to_owned(),
        });
    }
    if header.is_none() || other.is_some() {
        return Err(Problem::malformed(
            text,
            "a request must have one Host header, so that it is clear where it goes",
        ));
    }
    let (host, port) = host_and_port(text).ok_or_else(|| {
        Problem::malformed(text, "the Host header is not a host name or an address")
    })?;
    if let Some(authority) = parts.uri.authority() {
        let same = host_and_port(authority.as_str())
            .is_some_and(|(named, at)| named == host && at.unwrap_or(80) == port.unwrap_or(80));
        if !same || parts.uri.scheme_str() != Some("http") {
            return Err(Problem::malformed(
                text,
                "the address in the request line and the Host header do not agree",
            ));
        }
    }
    check_length(&parts.headers, parts.version)
        .map_err(|text| Problem::malformed(&host.to_string(), text))?;
    Ok(host)
}

/// `NAME`, `NAME:PORT`, `[ADDRESS]` or `[ADDRESS]:PORT`.
fn host_and_port(text: &str) -> Option<(HostName, Option<u16>)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
            (host, Some(digits.then(|| port.parse().ok())??))
        }
        _ => (text, None),
    };
    // An address of version 6 has colons of its own and stands in brackets.
    if host.contains(':') && !host.starts_with('[') {
        return None;
    }
    Some((host.parse().ok()?, port))
}

/// Refuses a request that gives the length of its body more than once or in more than one way.
fn check_length(headers: &HeaderMap, version: Version) -> Result<(), &'static str> {
    let lengths = headers.get_all(CONTENT_LENGTH).iter().count();
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    let (encoding, other) = (encodings.next(), encodings.next());
    if lengths > 1 || (lengths > 0 && encoding.is_some()) {
        return Err("the length of the body is given more than once");
    }
    match encoding {
        None => Ok(()),
        Some(encoding) => {
            let is_chunked = encoding.as_bytes().eq_ignore_ascii_case(b"chunked");
            if other.is_some() || !is_chunked || version != Version::HTTP_11 {
                return Err("the only transfer encoding of a request is one \"chunked\"");
            }
            Ok(())
        }
    }
}

/// Whether the request asks to go on as a WebSocket. No other protocol may follow: it could name
/// other hosts where the proxy does not see them.
pub(super) fn asks_for_websocket(headers: &HeaderMap) -> bool {
    let mut upgrades = headers.get_all(UPGRADE).iter();
    let is_websocket =
        |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"websocket");
    upgrades.next().is_some_and(is_websocket)
        && upgrades.next().is_none()
        && listed(headers).any(|name| name.eq_ignore_ascii_case("upgrade"))
}

/// The names that the Connection header lists.
fn listed(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// Removes the headers that are meant for the next hop alone (RFC 9110, 7.6.1). A WebSocket's
/// handshake keeps its own.
pub(super) fn strip_hop(headers: &mut HeaderMap, websocket: bool) {
    let names: Vec<HeaderName> = listed(headers)
        .filter_map(|name| name.parse().ok())
        // The host and the length of a request are never for the next hop alone.
        .filter(|name| *name != HOST && *name != CONTENT_LENGTH)
        .filter(|name| !(websocket && *name == UPGRADE))
        .collect();
    for name in names {
        headers.remove(name);
    }
    for name in [TE, TRAILER, TRANSFER_ENCODING, EXPECT] {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection"] {
        headers.remove(name);
    }
    if websocket {
        headers.insert(CONNECTION, http::HeaderValue::from_static("Upgrade"));
    } else {
        headers.remove(CONNECTION);
        headers.remove(UPGRADE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut builder = http::Request::builder().uri(uri);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn named(uri: &str, headers: &[(&str, &str)]) -> Result<String, StatusCode> {
        host(&parts(uri, headers))
            .map(|host| host.to_string())
            .map_err(|problem| problem.status)
    }

    #[test]
    fn the_host_is_read_in_every_form_it_has() {
        for (written, read) in [
            ("Example.com", "example.com"),
            ("example.com.", "example.com"),
            ("example.com:8080", "example.com"),
            ("192.0.2.1:80", "192.0.2.1"),
            ("[2001:db8::1]:80", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
        ] {
            assert_eq!(
                named("/", &[("host", written)]).as_deref(),
                Ok(read),
                "{written}"
            );
        }
        let absolute = named("http://example.com/x", &[("host", "EXAMPLE.com:80")]);
        assert_eq!(absolute.as_deref(), Ok("example.com"));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let host = ("host", "a.example");
        let cases: &[(&str, &[(&str, &str)])] = &[
            ("/", &[]),
            ("/", &[("host", "")]),
            ("/", &[host, ("host", "b.example")]),
            ("/", &[host, host]),
            ("/", &[("host", "a.example, b.example")]),
            ("/", &[("host", "user@a.example")]),
            ("/", &[("host", "a.example:")]),
            ("/", &[("host", "a.example:80:80")]),
            ("/", &[("host", "a.example:+80")]),
            ("/", &[("host", "a.example:99999")]),
            ("/", &[("host", "2001:db8::1")]),
            ("/", &[("host", "a.example/")]),
            ("/", &[("host", "127.1")]),
            ("http://b.example/", &[host]),
            ("http://a.example:81/", &[host]),
            ("http://b.example@a.example/", &[host]),
            ("https://a.example/", &[host]),
            (
                "/",
                &[
                    host,
                    ("content-length", "1"),
                    ("transfer-encoding", "chunked"),
                ],
            ),
            (
                "/",
                &[host, ("content-length", "1"), ("content-length", "2")],
            ),
            ("/", &[host, ("transfer-encoding", "gzip, chunked")]),
            ("/", &[host, ("transfer-encoding", "xchunked")]),
            (
                "/",
                &[
                    host,
                    ("transfer-encoding", "chunked"),
                    ("transfer-encoding", "identity"),
                ],
            ),
        ];
        for (uri, headers) in cases {
            let refused = named(uri, headers);
            assert_eq!(refused, Err(StatusCode::BAD_REQUEST), "{uri} {headers:?}");
        }
    }

    #[test]
    fn nothing_of_the_last_hop_reaches_the_next() {
        let mut headers = parts(
            "/",
            &[
                ("host", "a.example"),
                ("connection", "keep-alive, X-Secret, host"),
                ("x-secret", "1"),
                ("upgrade", "h2c"),
                ("te", "trailers"),
                ("accept", "*/*"),
            ],
        )
        .headers;
        assert!(!asks_for_websocket(&headers));
        strip_hop(&mut headers, false);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "host"]);
    }

    #[test]
    fn a_websocket_keeps_its_handshake() {
        let shake = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
        ];
        let mut headers = parts("/", &shake).headers;
        assert!(asks_for_websocket(&headers));
        strip_hop(&mut headers, true);
        assert_eq!(headers[CONNECTION], "Upgrade");
        assert_eq!(headers[UPGRADE], "WebSocket");
        for wrong in [
            [("connection", "Upgrade"), ("upgrade", "h2c")],
            [("connection", "close"), ("upgrade", "websocket")],
            [("connection", "Upgrade"), ("upgrade", "websocket, h2c")],
        ] {
            assert!(
                !asks_for_websocket(&parts("/", &wrong).headers),
                "{wrong:?}"
            );
        }
    }
}
