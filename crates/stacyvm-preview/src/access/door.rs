//! The decision about one request.
//!
//! A browser sends its cookie with whatever a page makes it send, and previews of one domain are
//! one site to it. So a cookie counts only for requests that the preview's own pages make, and for
//! a person's going there; a word in the address or in a header is proof enough by itself, because
//! no page sends one without knowing it.

use async_trait::async_trait;
use http::header::{CACHE_CONTROL, LOCATION, ORIGIN, REFERRER_POLICY, SET_COOKIE, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri};
use stacyvm_types::{PreviewAccess, SandboxId, Timestamp};

use super::cookie::{self, Scheme};
use super::token::{self, Place, Purpose};
use super::{Access, query};
use crate::gate::{Gate, Pass, PreviewRequest, Verdict};
use crate::{Failure, Form, PreviewBody, pages};

/// Where programs put the word of a link.
pub const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-stacyvm-preview-token");

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// What is asked for.
#[derive(Clone, Copy, Debug)]
struct Asked<'a> {
    id: &'a SandboxId,
    port: u16,
    /// What the sandbox's spawn said.
    said: Option<PreviewAccess>,
    scheme: Scheme,
    form: Form,
    /// The host as the request has it, with its port.
    host: &'a str,
}

/// What becomes of a request.
#[derive(Debug)]
enum Decision {
    /// It goes in.
    Pass(Pass),
    /// A browser is sent to the same address without the word, and keeps a cookie.
    Redirect(StatusCode, HeaderMap),
    /// It does not; the sentence says why, and may be shown.
    Refuse(&'static str),
}

#[async_trait]
impl Gate for Access {
    async fn admit(&self, request: &PreviewRequest<'_>) -> Verdict {
        let asked = Asked {
            id: &request.target.sandbox,
            port: request.target.port.get(),
            said: request.ports.preview(),
            scheme: match request.origin.secure {
                true => Scheme::Https,
                false => Scheme::Http,
            },
            form: request.target.form,
            host: request.authority,
        };
        match self.decide(&asked, request.head, Timestamp::now()) {
            Decision::Pass(pass) => Verdict::Pass(pass),
            Decision::Redirect(status, headers) => {
                let mut response = Response::new(PreviewBody::empty());
                *response.status_mut() = status;
                *response.headers_mut() = headers;
                Verdict::Answer(Box::new(response))
            }
            Decision::Refuse(why) => {
                let failure = Failure::forbidden(why);
                Verdict::Answer(Box::new(pages::failed(&failure, request.wants_html)))
            }
        }
    }
}

impl Access {
    /// Decides about a request. Whatever it says, the words of ours are on the list of what does
    /// not go in.
    fn decide(&self, asked: &Asked<'_>, request: &Parts, now: Timestamp) -> Decision {
        let by_host = asked.form == Form::Host;
        if self.settings.secure && asked.scheme == Scheme::Http && by_host {
            let usual = asked.host.strip_suffix(":80").unwrap_or(asked.host);
            if !usual.contains(':') {
                let headers = to(Scheme::Https, usual, &request.uri);
                return Decision::Redirect(StatusCode::PERMANENT_REDIRECT, headers);
            }
        }
        let sent = Sent::of(asked.scheme, request);
        let pass = || {
            Decision::Pass(Pass {
                own_cookies: cookie::NAMES,
                own_headers: vec![TOKEN_HEADER],
                uri: sent.rest.clone(),
            })
        };
        if self.of(asked.said) == PreviewAccess::Public {
            return pass();
        }
        let place = Place {
            id: asked.id,
            port: asked.port,
        };
        let check = |purpose, word: &str| token::check(&self.key, purpose, place, word, now);
        if let Some(word) = &sent.header {
            return match check(Purpose::Link, word) {
                Ok(_) => pass(),
                Err(why) => Decision::Refuse(why.in_words()),
            };
        }
        if let (Some(word), Some(rest)) = (&sent.query, &sent.rest) {
            let end = match check(Purpose::Link, word) {
                Ok(end) => end,
                Err(why) => return Decision::Refuse(why.in_words()),
            };
            if !(by_host && is_read_by_a_person(request)) {
                return pass();
            }
            let word = token::issue(&self.key, Purpose::Cookie, place, end);
            let life = end.saturating_since(now).as_secs().max(1);
            let mut headers = to(asked.scheme, asked.host, rest);
            headers.insert(SET_COOKIE, cookie::set(asked.scheme, &word, life));
            return Decision::Redirect(StatusCode::SEE_OTHER, headers);
        }
        if !by_host {
            return Decision::Refuse(
                "this preview is private: by this address it opens only with the header \
                 X-StacyVM-Preview-Token, in a browser only by its own host name",
            );
        }
        let mut why = "this preview is private: ask for a link with \
                       POST /api/v1/sandboxes/{id}/preview, or with \"stacyvm preview url\"";
        for word in &sent.cookies {
            match check(Purpose::Cookie, word) {
                Ok(_) if is_own(asked.scheme, asked.host, request) => return pass(),
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
    /// The address without its word, when it has one.
    rest: Option<Uri>,
    cookies: Vec<String>,
}

impl Sent {
    fn of(scheme: Scheme, request: &Parts) -> Self {
        let headers = &request.headers;
        // Of two, neither is the one that was meant: an empty word opens nothing.
        let mut values = headers.get_all(&TOKEN_HEADER).iter();
        let header = values.next().map(|first| match values.next() {
            None => first.to_str().unwrap_or_default().to_owned(),
            Some(_) => String::new(),
        });
        let taken = query::take(&request.uri);
        let rest = taken.as_ref().map(|taken| {
            let mut parts = request.uri.clone().into_parts();
            parts.path_and_query = taken.rest.parse().ok();
            // It was an address before a parameter was taken out of it; whatever happens, the
            // word does not go in.
            Uri::from_parts(parts).unwrap_or_else(|_| Uri::from_static("/"))
        });
        Self {
            header,
            query: taken.map(|taken| taken.word.unwrap_or_default()),
            rest,
            cookies: cookie::words(headers, scheme).map(str::to_owned).collect(),
        }
    }
}

/// Whether somebody looks at the answer in a browser: then the word must leave the address bar.
fn is_read_by_a_person(request: &Parts) -> bool {
    let reads = matches!(request.method, Method::GET | Method::HEAD);
    let page = pages::wants_html(&request.headers);
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

/// Sends a browser on. The absolute form: a path may begin with two slashes, which alone would
/// name another host.
fn to(scheme: Scheme, host: &str, uri: &Uri) -> HeaderMap {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let target = format!("{}://{host}{path}", scheme.as_str());
    let mut headers = HeaderMap::new();
    if let Ok(target) = HeaderValue::try_from(target) {
        headers.insert(LOCATION, target);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers
}

#[cfg(test)]
mod tests;
