//! The decision about one request.
//!
//! A browser sends its cookie with every request that any page makes, and previews of one domain
//! are one site to it. So a cookie counts only for requests of the preview's own pages, and for a
//! navigation by the user. A token in the address or in a header needs no such check, because a
//! page cannot send one that it does not know.

use async_trait::async_trait;
use http::header::{CACHE_CONTROL, LOCATION, ORIGIN, REFERRER_POLICY, SET_COOKIE, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri};
use stacyvm_types::{PreviewAccess, SandboxId, Timestamp};

use super::cookie::{self, Scheme};
use super::token::{self, Purpose, SandboxPort};
use super::{Access, query};
use crate::gate::{Gate, Grant, PreviewRequest, Verdict};
use crate::{Failure, Form, PreviewBody, pages};

/// The header in which programs send the token of a link.
pub const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-stacyvm-preview-token");

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// The preview that is asked for, and how.
#[derive(Clone, Copy, Debug)]
struct AccessRequest<'a> {
    id: &'a SandboxId,
    port: u16,
    /// The access that the sandbox's spawn requested.
    requested: Option<PreviewAccess>,
    scheme: Scheme,
    form: Form,
    /// The host as the request has it, with its port.
    host: &'a str,
}

impl<'a> AccessRequest<'a> {
    const fn sandbox_port(&self) -> SandboxPort<'a> {
        SandboxPort {
            id: self.id,
            port: self.port,
        }
    }
}

/// How a request is answered.
#[derive(Debug)]
enum Decision {
    /// It is sent to the sandbox.
    Admit(Grant),
    /// A browser is redirected: to the same address without the token, with a cookie, or to TLS.
    Redirect(StatusCode, HeaderMap),
    /// It is refused with this sentence, which the client may see: its token or cookie is not right.
    Refuse(&'static str),
    /// It has none, and is not told whether the sandbox exists.
    Hide,
}

#[async_trait]
impl Gate for Access {
    async fn admit(&self, request: &PreviewRequest<'_>) -> Verdict {
        let asked = AccessRequest {
            id: &request.target.sandbox,
            port: request.target.port.get(),
            requested: request.requested,
            scheme: match request.client.secure {
                true => Scheme::Https,
                false => Scheme::Http,
            },
            form: request.target.form,
            host: request.authority,
        };
        match self.decide(&asked, request.head, Timestamp::now()) {
            Decision::Admit(grant) => Verdict::Admit(grant),
            Decision::Redirect(status, headers) => {
                let mut response = Response::new(PreviewBody::empty());
                *response.status_mut() = status;
                *response.headers_mut() = headers;
                Verdict::Answer(Box::new(response))
            }
            Decision::Refuse(why) => {
                let failure = Failure::forbidden(why);
                Verdict::Refuse(Box::new(pages::failed(&failure, request.wants_html)))
            }
            Decision::Hide => Verdict::Refuse(Box::new(pages::failed(
                &Failure::hidden(),
                request.wants_html,
            ))),
        }
    }
}

impl Access {
    /// Decides about a request. However it is admitted, its tokens are removed from it.
    fn decide(&self, asked: &AccessRequest<'_>, request: &Parts, now: Timestamp) -> Decision {
        if let Some(headers) = self.redirect_to_tls(asked, request) {
            return Decision::Redirect(StatusCode::PERMANENT_REDIRECT, headers);
        }
        let sent = Credentials::of(asked.scheme, request);
        let by_host = asked.form == Form::Host;
        let is_public = self.effective(asked.requested) == PreviewAccess::Public;
        let checked = if is_public {
            Ok(())
        } else if let Some(token) = &sent.header {
            self.check(asked, Purpose::Link, token, now).map(drop)
        } else if let (Some(token), Some(rest)) = (&sent.query, &sent.rest) {
            match self.check(asked, Purpose::Link, token, now) {
                Ok(end) if by_host && is_page_view(request) => {
                    let headers = self.redirect_with_cookie(asked, rest, end, now);
                    return Decision::Redirect(StatusCode::SEE_OTHER, headers);
                }
                checked => checked.map(drop),
            }
        } else if by_host {
            if sent.cookies.is_empty() {
                return Decision::Hide;
            }
            self.check_cookies(asked, request, &sent.cookies, now)
        } else {
            return Decision::Hide;
        };
        match checked {
            Ok(()) => Decision::Admit(Grant {
                own_cookies: cookie::NAMES,
                own_headers: vec![TOKEN_HEADER],
                uri: sent.rest,
                is_proved: !is_public,
            }),
            Err(why) => Decision::Refuse(why),
        }
    }

    /// Redirects a request without TLS to port 80 where previews are served over TLS.
    fn redirect_to_tls(&self, asked: &AccessRequest<'_>, request: &Parts) -> Option<HeaderMap> {
        let is_plain = asked.scheme == Scheme::Http && asked.form == Form::Host;
        if !self.settings.secure || !is_plain {
            return None;
        }
        let host = asked.host.strip_suffix(":80").unwrap_or(asked.host);
        (!host.contains(':')).then(|| redirect(Scheme::Https, host, &request.uri))
    }

    /// Redirects a browser to the same address without its token, which it keeps as a cookie until
    /// `end`.
    fn redirect_with_cookie(
        &self,
        asked: &AccessRequest<'_>,
        rest: &Uri,
        end: Timestamp,
        now: Timestamp,
    ) -> HeaderMap {
        let token = token::issue(&self.key, Purpose::Cookie, asked.sandbox_port(), end);
        let lifetime = end.saturating_since(now).as_secs().max(1);
        let mut headers = redirect(asked.scheme, asked.host, rest);
        headers.insert(SET_COOKIE, cookie::set(asked.scheme, &token, lifetime));
        headers
    }

    /// The time until which a token opens the preview, or why it does not.
    fn check(
        &self,
        asked: &AccessRequest<'_>,
        purpose: Purpose,
        token: &str,
        now: Timestamp,
    ) -> Result<Timestamp, &'static str> {
        token::check(&self.key, purpose, asked.sandbox_port(), token, now)
            .map_err(token::TokenError::message)
    }

    /// Whether one of the cookies opens the preview, and the request is the preview's own.
    fn check_cookies(
        &self,
        asked: &AccessRequest<'_>,
        request: &Parts,
        cookies: &[String],
        now: Timestamp,
    ) -> Result<(), &'static str> {
        let mut refused = Err("this preview needs a cookie, which its link gives");
        for token in cookies {
            match self.check(asked, Purpose::Cookie, token, now) {
                Ok(_) if is_own_request(asked.scheme, asked.host, request) => return Ok(()),
                Ok(_) => {
                    return Err(
                        "another page asks for this private preview: only its own pages may",
                    );
                }
                Err(why) => refused = Err(why),
            }
        }
        refused
    }
}

/// The tokens of a request.
struct Credentials {
    header: Option<String>,
    query: Option<String>,
    /// The address without its token, if it has one.
    rest: Option<Uri>,
    cookies: Vec<String>,
}

impl Credentials {
    fn of(scheme: Scheme, request: &Parts) -> Self {
        let headers = &request.headers;
        // Two headers are as bad as a wrong token: an empty one opens nothing.
        let mut values = headers.get_all(&TOKEN_HEADER).iter();
        let header = values.next().map(|first| match values.next() {
            None => first.to_str().unwrap_or_default().to_owned(),
            Some(_) => String::new(),
        });
        let taken = query::take(&request.uri);
        let rest = taken.as_ref().map(|taken| {
            let mut parts = request.uri.clone().into_parts();
            parts.path_and_query = taken.rest.parse().ok();
            // Removing a parameter leaves a valid address; should it not, the token must still not
            // be sent to the sandbox.
            Uri::from_parts(parts).unwrap_or_else(|_| Uri::from_static("/"))
        });
        Self {
            header,
            query: taken.map(|taken| taken.token.unwrap_or_default()),
            rest,
            cookies: cookie::tokens(headers, scheme).map(str::to_owned).collect(),
        }
    }
}

/// Whether a browser shows the answer as a page: then the token must leave its address bar.
fn is_page_view(request: &Parts) -> bool {
    let reads = matches!(request.method, Method::GET | Method::HEAD);
    let page = pages::wants_html(&request.headers);
    reads && page && !request.headers.contains_key(UPGRADE)
}

/// Whether a request comes from the preview's own pages, or is a navigation by the user.
fn is_own_request(scheme: Scheme, host: &str, request: &Parts) -> bool {
    let headers = &request.headers;
    let has = |name: HeaderName, value: &str| text(headers, &name) == Some(value);
    let reads = matches!(request.method, Method::GET | Method::HEAD);
    let navigates = reads && has(FETCH_MODE, "navigate") && has(FETCH_DEST, "document");
    // Older browsers, and all browsers without TLS, send no `Sec-Fetch-Site`. They do send an origin
    // with requests that change something or read across origins.
    let site = match text(headers, &FETCH_SITE) {
        Some("same-origin" | "none") | None => true,
        Some(_) => navigates,
    };
    let origin = match headers.get(ORIGIN) {
        None => true,
        Some(origin) => {
            let own = format!("{}://{host}", scheme.as_str());
            origin.as_bytes().eq_ignore_ascii_case(own.as_bytes()) || navigates
        }
    };
    site && origin
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The headers of a redirect. Its location is absolute, because a path that begins with two slashes
/// would otherwise name another host.
fn redirect(scheme: Scheme, host: &str, uri: &Uri) -> HeaderMap {
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
