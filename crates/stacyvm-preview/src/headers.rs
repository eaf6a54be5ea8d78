//! Headers that are not forwarded, and those that say which client a request came from.
//!
//! Follows RFC 9110 section 7.6 (headers of one connection), RFC 7239 (`Forwarded`) and RFC 9113
//! section 8.2.3 (`Cookie` in several headers). Its rule: a client's own claims about where it came
//! from are replaced and never believed.

use std::net::IpAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, SET_COOKIE, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::ClientInfo;
use crate::target::HEADER;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// Headers with which a client could claim another address.
const CLAIMS: [HeaderName; 10] = [
    FORWARDED,
    FORWARDED_FOR,
    FORWARDED_PROTO,
    FORWARDED_HOST,
    FORWARDED_PREFIX,
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-server"),
    HeaderName::from_static("x-forwarded-scheme"),
    HeaderName::from_static("x-forwarded-ssl"),
    HeaderName::from_static("x-real-ip"),
];

/// What a request of the path form may say to the sandbox, beside what begins with [`BROWSER`]. By that
/// form a request comes to the API's own host, with whatever its client sends there.
const ALLOWED: [HeaderName; 29] = [
    http::header::ACCEPT,
    http::header::ACCEPT_CHARSET,
    http::header::ACCEPT_ENCODING,
    http::header::ACCEPT_LANGUAGE,
    http::header::ACCESS_CONTROL_REQUEST_HEADERS,
    http::header::ACCESS_CONTROL_REQUEST_METHOD,
    http::header::CACHE_CONTROL,
    http::header::CONTENT_DISPOSITION,
    http::header::CONTENT_ENCODING,
    http::header::CONTENT_LANGUAGE,
    CONTENT_LENGTH,
    http::header::CONTENT_TYPE,
    http::header::DATE,
    http::header::DNT,
    http::header::IF_MATCH,
    http::header::IF_MODIFIED_SINCE,
    http::header::IF_NONE_MATCH,
    http::header::IF_RANGE,
    http::header::IF_UNMODIFIED_SINCE,
    HeaderName::from_static("last-event-id"),
    http::header::ORIGIN,
    http::header::PRAGMA,
    HeaderName::from_static("priority"),
    http::header::RANGE,
    HeaderName::from_static("save-data"),
    http::header::TRAILER,
    http::header::UPGRADE_INSECURE_REQUESTS,
    http::header::USER_AGENT,
    HeaderName::from_static("x-requested-with"),
];
/// What no script can set: `Sec-Fetch-…`, `Sec-WebSocket-…`, client hints.
const BROWSER: &str = "sec-";

/// Removes all headers that a request of the path form may not bring into the sandbox.
pub(crate) fn keep_allowed(headers: &mut HeaderMap) {
    let closed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| !ALLOWED.contains(name) && !name.as_str().starts_with(BROWSER))
        .cloned()
        .collect();
    for name in closed {
        headers.remove(name);
    }
}

/// Removes the headers of one connection, also those that `Connection` names. Returns the protocol
/// that the sender wants to change to.
pub(crate) fn strip_connection(headers: &mut HeaderMap) -> Option<HeaderValue> {
    let mut wants_upgrade = false;
    let mut named = Vec::new();
    for value in headers.get_all(CONNECTION) {
        for token in tokens(value) {
            wants_upgrade |= token.eq_ignore_ascii_case("upgrade");
            // A length and a host belong to the message, whatever the header says.
            match HeaderName::from_bytes(token.as_bytes()) {
                Ok(name) if name != CONTENT_LENGTH && name != HOST => named.push(name),
                _ => {}
            }
        }
    }
    let upgrade = headers.get(UPGRADE).cloned();
    for name in named {
        headers.remove(name);
    }
    for name in [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRANSFER_ENCODING,
        UPGRADE,
        HTTP2_SETTINGS,
    ] {
        headers.remove(name);
    }
    // Plain HTTP/2 in a tunnel would carry requests past everything that is checked here.
    upgrade.filter(|protocol| wants_upgrade && !tokens(protocol).any(is_http2))
}

fn is_http2(protocol: &str) -> bool {
    protocol.to_ascii_lowercase().starts_with("h2")
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    let text = value.to_str().unwrap_or("");
    text.split(',')
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

/// Whether the client accepts trailers.
pub(crate) fn accepts_trailers(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(TE).iter().flat_map(tokens);
    values.any(|token| token.eq_ignore_ascii_case("trailers"))
}

/// Makes a request's headers those that are sent to the sandbox, except those of an upgrade.
pub(crate) fn prepare(
    headers: &mut HeaderMap,
    client: ClientInfo,
    authority: &str,
    prefix: Option<&str>,
) {
    // The server itself answers it, when the body is first read.
    headers.remove(EXPECT);
    headers.remove(HEADER);
    for name in CLAIMS {
        headers.remove(name);
    }
    join_cookies(headers);
    let scheme = if client.secure { "https" } else { "http" };
    let text = |text: String| HeaderValue::try_from(text).ok();
    let node = match client.address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => address.to_string(),
            None => format!("\"[{address}]\""),
        },
    };
    let peer = node.trim_matches(['"', '[', ']']).to_owned();
    let forwarded = format!("for={node};host=\"{authority}\";proto={scheme}");
    for (name, value) in [
        (FORWARDED, text(forwarded)),
        (FORWARDED_FOR, text(peer)),
        (FORWARDED_PROTO, Some(HeaderValue::from_static(scheme))),
        (FORWARDED_HOST, text(authority.to_owned())),
        (
            FORWARDED_PREFIX,
            prefix.and_then(|prefix| text(prefix.to_owned())),
        ),
        (HOST, text(authority.to_owned())),
    ] {
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
}

/// Joins the cookies of HTTP/2, which may have several headers, into the one of HTTP/1.
fn join_cookies(headers: &mut HeaderMap) {
    let pieces: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if pieces.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&pieces.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
}

/// Removes one cookie from a request.
pub(crate) fn remove_cookie(headers: &mut HeaderMap, name: &str) {
    let Some(value) = headers.get(COOKIE) else {
        return;
    };
    let kept: Vec<&[u8]> = value
        .as_bytes()
        .split(|byte| *byte == b';')
        .map(<[u8]>::trim_ascii)
        .filter(|pair| !pair.is_empty() && cookie_name(pair) != name.as_bytes())
        .collect();
    match HeaderValue::from_bytes(&kept.join(&b"; "[..])) {
        Ok(value) if !kept.is_empty() => headers.insert(COOKIE, value),
        _ => headers.remove(COOKIE),
    };
}

/// Binds an answer's cookies to the host that they came from, and drops those named in `reserved`.
///
/// With a `Domain` they would be sent to other previews, which belong to other sandboxes.
pub(crate) fn bind_cookies(headers: &mut HeaderMap, reserved: &[&str]) {
    if !headers.contains_key(SET_COOKIE) {
        return;
    }
    let set: Vec<HeaderValue> = headers.get_all(SET_COOKIE).iter().cloned().collect();
    headers.remove(SET_COOKIE);
    for value in set {
        let mut pieces = value.as_bytes().split(|byte| *byte == b';');
        let pair = pieces.next().unwrap_or_default().trim_ascii();
        let name = cookie_name(pair);
        if reserved.iter().any(|reserved| name == reserved.as_bytes()) {
            continue;
        }
        let attributes = pieces.map(<[u8]>::trim_ascii);
        let kept = attributes.filter(|piece| !cookie_name(piece).eq_ignore_ascii_case(b"domain"));
        let pieces: Vec<&[u8]> = std::iter::once(pair).chain(kept).collect();
        if let Ok(value) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
            headers.append(SET_COOKIE, value);
        }
    }
}

fn cookie_name(pair: &[u8]) -> &[u8] {
    let name = pair.split(|byte| *byte == b'=').next().unwrap_or(pair);
    name.trim_ascii()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn what_concerns_one_connection_stops_here() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Secret"),
            ("connection", "close, Content-Length, host"),
            ("keep-alive", "timeout=5"),
            ("x-secret", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("content-length", "3"),
            ("host", "h"),
            ("trailer", "x-sum"),
            ("accept", "*/*"),
        ]);
        assert_eq!(strip_connection(&mut headers), None);
        assert_eq!(
            names(&headers),
            ["accept", "content-length", "host", "trailer"]
        );
    }

    #[test]
    fn an_upgrade_is_one_only_when_the_connection_says_so() {
        let mut headers = map(&[("connection", "Upgrade"), ("upgrade", "websocket")]);
        assert_eq!(strip_connection(&mut headers).unwrap(), "websocket");
        let mut headers = map(&[("upgrade", "websocket")]);
        assert_eq!(strip_connection(&mut headers), None);
        let mut headers = map(&[
            ("connection", "Upgrade, HTTP2-Settings"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAAQAAP__"),
        ]);
        assert_eq!(strip_connection(&mut headers), None);
        assert!(headers.is_empty());
    }

    #[test]
    fn where_a_request_came_from_is_said_anew() {
        let mut headers = map(&[
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-for", "7.7.7.7"),
            ("forwarded", "for=6.6.6.6"),
            ("x-real-ip", "6.6.6.6"),
            ("x-forwarded-prefix", "/evil"),
            ("expect", "100-continue"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
        ]);
        let client = ClientInfo {
            address: "2001:db8::1".parse().unwrap(),
            secure: true,
        };
        prepare(&mut headers, client, "h.localhost:7", None);
        assert_eq!(
            names(&headers),
            [
                "cookie",
                "forwarded",
                "host",
                "x-forwarded-for",
                "x-forwarded-host",
                "x-forwarded-proto"
            ]
        );
        assert_eq!(
            headers["forwarded"],
            "for=\"[2001:db8::1]\";host=\"h.localhost:7\";proto=https"
        );
        assert_eq!(headers["x-forwarded-for"], "2001:db8::1");
        assert_eq!(headers["cookie"], "a=1; b=2");
    }

    #[test]
    fn a_cookie_of_ours_goes_neither_in_nor_out() {
        let mut headers = map(&[("cookie", "a=1;ours=secret ; b=2")]);
        remove_cookie(&mut headers, "ours");
        assert_eq!(headers["cookie"], "a=1; b=2");
        let mut headers = map(&[("cookie", "ours=secret")]);
        remove_cookie(&mut headers, "ours");
        assert!(headers.is_empty());
        let mut headers = map(&[
            ("set-cookie", "ours=forged; Path=/"),
            (
                "set-cookie",
                "a=1; domain=localhost; Path=/; DOMAIN = .x; HttpOnly",
            ),
        ]);
        bind_cookies(&mut headers, &["ours"]);
        let set: Vec<_> = headers.get_all("set-cookie").iter().collect();
        assert_eq!(set, ["a=1; Path=/; HttpOnly"]);
    }
}
