//! The decision about one request.
//!
//! A browser sends its cookie with whatever a page makes it send, and previews of one domain are
//! one site to it. So a cookie counts only for requests that the preview's own pages make, and for
//! a person's going there; a word in the address or in a header is proof enough by itself, because
//! no page sends one without knowing it.

use http::header::{ACCEPT, CACHE_CONTROL, LOCATION, ORIGIN, REFERRER_POLICY, SET_COOKIE, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use stacyvm_types::{PreviewAccess, SandboxId, Timestamp};

use super::cookie::{self, Scheme};
use super::token::{self, Place, Purpose};
use super::{Access, query};

/// Where programs put the word of a link.
pub const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-stacyvm-preview-token");

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// How a request names its sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressed<'a> {
    /// By a host name of its own; as the request has it, with its port.
    ByHost(&'a str),
    /// By a path or a header, under a host name that it shares.
    Otherwise,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The sandbox.
    pub id: &'a SandboxId,
    /// The port inside.
    pub port: u16,
    /// What the sandbox's spawn said.
    pub said: Option<PreviewAccess>,
    /// How the request came in.
    pub scheme: Scheme,
    /// How it names its sandbox.
    pub addressed: Addressed<'a>,
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Decision {
    /// It goes in; the words are out of it.
    Pass,
    /// A browser is sent to the same address without the word, and keeps a cookie.
    Redirect(HeaderMap),
    /// It does not; the sentence says why, and may be shown.
    Refuse(&'static str),
}

impl Decision {
    /// The status of a redirect: whatever the method was, the next request reads.
    pub const REDIRECT: StatusCode = StatusCode::SEE_OTHER;
}

impl Access {
    /// Decides about a request, and takes every word of ours out of it.
    pub fn decide(&self, asked: &Asked<'_>, request: &mut Parts, now: Timestamp) -> Decision {
        let sent = Sent::take_out(asked.scheme, request);
        if self.of(asked.said) == PreviewAccess::Public {
            return Decision::Pass;
        }
        let place = Place {
            id: asked.id,
            port: asked.port,
        };
        let check = |purpose, word: &str| token::check(&self.key, purpose, place, word, now);
        if let Some(word) = &sent.header {
            return match check(Purpose::Link, word) {
                Ok(_) => Decision::Pass,
                Err(why) => Decision::Refuse(why.in_words()),
            };
        }
        if let Some(word) = &sent.query {
            let end = match check(Purpose::Link, word) {
                Ok(end) => end,
                Err(why) => return Decision::Refuse(why.in_words()),
            };
            return match asked.addressed {
                Addressed::ByHost(host) if is_read_by_a_person(request) => {
                    let word = token::issue(&self.key, Purpose::Cookie, place, end);
                    let life = end.saturating_since(now).as_secs().max(1);
                    let cookie = cookie::set(asked.scheme, &word, life);
                    Decision::Redirect(redirect(asked.scheme, host, &request.uri, cookie))
                }
                _ => Decision::Pass,
            };
        }
        let Addressed::ByHost(host) = asked.addressed else {
            return Decision::Refuse(
                "this preview is private: here it opens only with the header \
                 X-StacyVM-Preview-Token, in a browser by its own host name",
            );
        };
        let mut why = "this preview is private: ask for a link with \
                       POST /api/v1/sandboxes/{id}/preview, or \"stacyvm preview url\"";
        for word in &sent.cookies {
            match check(Purpose::Cookie, word) {
                Ok(_) if is_own(asked.scheme, host, request) => return Decision::Pass,
                Ok(_) => {
                    why = "another page asks for this private preview: only its own pages may";
                    break;
                }
                Err(refused) => why = refused.in_words(),
            }
        }
        Decision::Refuse(why)
    }
}

/// The words of a request.
struct Sent {
    header: Option<String>,
    query: Option<String>,
    cookies: Vec<String>,
}

impl Sent {
    fn take_out(scheme: Scheme, request: &mut Parts) -> Self {
        let headers = &mut request.headers;
        let cookies = cookie::words(headers, scheme).map(str::to_owned).collect();
        cookie::take_out(headers);
        // Of two, neither is the one that was meant: an empty word opens nothing.
        let mut values = headers.get_all(&TOKEN_HEADER).iter();
        let header = values.next().map(|first| match values.next() {
            None => first.to_str().unwrap_or_default().to_owned(),
            Some(_) => String::new(),
        });
        headers.remove(&TOKEN_HEADER);
        let query = query::take(&request.uri).map(|taken| {
            let mut parts = request.uri.clone().into_parts();
            parts.path_and_query = taken.rest.parse().ok();
            match Uri::from_parts(parts) {
                Ok(uri) => {
                    request.uri = uri;
                    taken.word.unwrap_or_default()
                }
                // It was an address before a parameter was taken out of it; never let the word in.
                Err(_) => {
                    request.uri = Uri::from_static("/");
                    String::new()
                }
            }
        });
        Self {
            header,
            query,
            cookies,
        }
    }
}

/// Whether somebody looks at the answer in a browser: then the word must leave the address bar.
fn is_read_by_a_person(request: &Parts) -> bool {
    let reads = matches!(request.method, Method::GET | Method::HEAD);
    let page = text(&request.headers, &ACCEPT).is_some_and(|accept| accept.contains("text/html"));
    reads && page && !request.headers.contains_key(UPGRADE)
}

/// Whether a request comes from the preview's own pages, or is a person's going there.
fn is_own(scheme: Scheme, host: &str, request: &Parts) -> bool {
    let headers = &request.headers;
    let says = |name: HeaderName, value: &str| text(headers, &name) == Some(value);
    let reads = matches!(request.method, Method::GET | Method::HEAD);
    let goes = reads && says(FETCH_MODE, "navigate") && says(FETCH_DEST, "document");
    // Older browsers, and others in the clear, say nothing of sites; they do send an origin with
    // whatever changes something or reads across origins.
    let site = match text(headers, &FETCH_SITE) {
        Some("same-origin" | "none") | None => true,
        Some(_) => goes,
    };
    let origin = match headers.get(ORIGIN) {
        None => true,
        Some(origin) => {
            let own = format!("{}://{host}", scheme.as_str());
            origin.as_bytes().eq_ignore_ascii_case(own.as_bytes()) || goes
        }
    };
    site && origin
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The absolute form: a path may begin with two slashes, which alone would name another host.
fn redirect(scheme: Scheme, host: &str, uri: &Uri, cookie: HeaderValue) -> HeaderMap {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let target = format!("{}://{host}{path}", scheme.as_str());
    let mut headers = HeaderMap::new();
    if let Ok(target) = HeaderValue::try_from(target) {
        headers.insert(LOCATION, target);
    }
    headers.insert(SET_COOKIE, cookie);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers
}

#[cfg(test)]
mod tests;
