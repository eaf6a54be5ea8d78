//! One registry or mirror: its address, whether it speaks TLS, and the authentication it accepts.

use std::sync::OnceLock;

use parking_lot::Mutex;
use ureq::http::{Request, Response, Uri};
use ureq::{Body, http};

use super::auth::{self, Challenge, TokenError};
use super::credentials;
use super::destinations::server_of;
use super::http::{HttpClient, HttpError, Reach, header};
use super::request_error::RequestError;
use crate::error::HiddenDetail;
use crate::registries::is_loopback;
use crate::{ImageError, Login, PullOptions, Reference, Registries, Secret};

/// The host of Docker Hub's registry.
const DOCKER_HUB: &str = "registry-1.docker.io";
/// Registries whose token service is elsewhere.
const TOKEN_HOSTS: [(&str, &str); 2] = [
    ("docker.io", "auth.docker.io"),
    ("registry.gitlab.com", "gitlab.com"),
];

/// A registry or a mirror of one.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// Its name in messages and in the configuration.
    label: String,
    host: String,
    /// Before every repository: empty, or with a slash at its end.
    prefix: String,
    scheme: Scheme,
    /// How it is reached, found out by the first request.
    connection: OnceLock<Connection>,
    /// The header `Authorization` that was accepted last.
    authorization: Mutex<Option<Secret>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Tls,
    Plain,
    /// TLS, or plain HTTP when the server has none.
    Either,
}

#[derive(Clone, Debug)]
struct Connection {
    http: HttpClient,
    scheme: &'static str,
}

/// The pull that a request belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestContext<'a> {
    pub(super) options: &'a PullOptions,
    pub(super) image: &'a Reference,
}

impl Endpoint {
    /// The registry of this name; `plain` when it may be without TLS.
    pub(super) fn registry(name: &str, plain: bool) -> Self {
        let host = match name {
            "docker.io" => DOCKER_HUB,
            other => other,
        };
        let scheme = if plain { Scheme::Either } else { Scheme::Tls };
        Self::new(name, host, "", scheme)
    }

    /// A mirror as the configuration names it.
    pub(super) fn mirror(text: &str, registries: &Registries) -> Result<Self, ImageError> {
        let (scheme, rest) = match text.split_once("://") {
            Some(("https", rest)) => (Some(Scheme::Tls), rest),
            Some(("http", rest)) => (Some(Scheme::Plain), rest),
            Some(_) => (None, ""),
            None => (Some(Scheme::Tls), text),
        };
        let (host, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let odd = |c: char| !(c.is_ascii_alphanumeric() || ".-_:[]/".contains(c));
        let Some(mut scheme) = scheme.filter(|_| !host.is_empty() && !rest.contains(odd)) else {
            return Err(ImageError::Registry {
                registry: text.chars().take(80).collect(),
                reason: "a mirror is written https://HOST, perhaps with a port and a path"
                    .to_owned(),
            });
        };
        let marked = is_loopback(host) || registries.insecure.contains(host);
        if scheme == Scheme::Tls && marked && !text.starts_with("https://") {
            scheme = Scheme::Either;
        }
        let prefix = match prefix.trim_matches('/') {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        Ok(Self::new(host, host, &prefix, scheme))
    }

    fn new(label: &str, host: &str, prefix: &str, scheme: Scheme) -> Self {
        Self {
            label: label.to_owned(),
            host: host.to_owned(),
            prefix: prefix.to_owned(),
            scheme,
            connection: OnceLock::new(),
            authorization: Mutex::new(None),
        }
    }

    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// Requests `/v2/<prefix><path>`, with authentication when it is demanded. Any status but those of
    /// authentication is an answer.
    pub(super) fn get(
        &self,
        context: &RequestContext<'_>,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Response<Body>, RequestError> {
        let connection = self.connect(context)?;
        let uri = format!(
            "{}://{}/v2/{}{path}",
            connection.scheme, self.host, self.prefix
        );
        let send = |authorization: Option<&Secret>| {
            let mut request = Request::get(&uri);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            if let Some(authorization) = authorization {
                request = request.header(http::header::AUTHORIZATION, authorization.reveal());
            }
            let request = request
                .body(String::new())
                .map_err(|_| self.permanent("its address is none".to_owned()))?;
            connection
                .http
                .send(request)
                .map_err(|failure| self.request_error(failure))
        };
        let known = self.authorization.lock().clone();
        let response = send(known.as_ref())?;
        if response.status() != 401 {
            return self.check_status(context, response, known.is_some());
        }
        let challenge = header(&response, "www-authenticate").and_then(Challenge::parse);
        let Some(challenge) = challenge else {
            return Err(self.permanent("it wants a login of an unknown kind".to_owned()));
        };
        drop(response);
        let (authorization, logged_in) = self.authorize(context, &connection.http, challenge)?;
        let response = send(Some(&authorization))?;
        if response.status() != 401 {
            *self.authorization.lock() = Some(authorization);
        }
        self.check_status(context, response, logged_in)
    }

    /// Turns the statuses of authentication into errors.
    fn check_status(
        &self,
        context: &RequestContext<'_>,
        response: Response<Body>,
        logged_in: bool,
    ) -> Result<Response<Body>, RequestError> {
        match response.status().as_u16() {
            401 | 403 => Err(self.refused(context, logged_in)),
            _ => Ok(response),
        }
    }

    fn refused(&self, context: &RequestContext<'_>, logged_in: bool) -> RequestError {
        let (image, registry) = (context.image.to_string(), self.label.clone());
        RequestError::Permanent(match logged_in {
            true => ImageError::LoginRefused { image, registry },
            false => ImageError::LoginNeeded { image, registry },
        })
    }

    /// The header that answers the challenge, and whether it has credentials in it.
    fn authorize(
        &self,
        context: &RequestContext<'_>,
        http: &HttpClient,
        challenge: Challenge,
    ) -> Result<(Secret, bool), RequestError> {
        let login = credentials::find(&context.options.registries.credentials, &self.label)
            .map_err(RequestError::Permanent)?;
        match challenge {
            Challenge::Basic => match &login {
                Some(Login::Password { user, password }) => Ok((auth::basic(user, password), true)),
                Some(Login::IdentityToken(_)) => Err(self.refused(context, true)),
                None => Err(self.refused(context, false)),
            },
            Challenge::Bearer {
                realm,
                service,
                scope,
            } => {
                let repository = format!("{}{}", self.prefix, context.image.repository());
                let scope = scope.unwrap_or_else(|| format!("repository:{repository}:pull"));
                if login.is_some() {
                    self.check_realm(context, &realm)?;
                }
                auth::bearer(http, &realm, service.as_deref(), &scope, login.as_ref())
                    .map(|authorization| (authorization, login.is_some()))
                    .map_err(|refusal| match refusal {
                        TokenError::Refused => self.refused(context, login.is_some()),
                        TokenError::TooMany => RequestError::Temporary(
                            ImageError::TooManyRequests {
                                registry: self.label.clone(),
                            },
                            None,
                        ),
                        TokenError::Failed(failure) => self.request_error(failure),
                    })
            }
        }
    }

    /// Refuses to hand a login to a token service on another server, unless that is known to be the
    /// registry's: a registry that was taken over could have logins sent to whoever it likes.
    fn check_realm(&self, context: &RequestContext<'_>, realm: &str) -> Result<(), RequestError> {
        let realm: Uri = realm
            .parse()
            .map_err(|_| self.permanent("the address of its token service is none".to_owned()))?;
        let server = server_of(&realm);
        let is = |host: &str| {
            let uri = format!("{}://{host}/", realm.scheme_str().unwrap_or("https"));
            uri.parse().is_ok_and(|uri| server_of(&uri) == server)
        };
        let usual = TOKEN_HOSTS
            .iter()
            .any(|(registry, host)| *registry == self.label && is(host));
        let hosts = &context.options.registries.token_hosts;
        let mut configured = hosts.get(&self.label).into_iter().flatten();
        if is(&self.host) || usual || configured.any(|host| is(host)) {
            return Ok(());
        }
        Err(self.permanent(format!(
            "its token service is on {:?}, which gets no login: if it should, name it in images.token_hosts for {}",
            realm.authority().map_or("", |authority| authority.as_str()),
            self.label
        )))
    }

    /// How the registry is reached. One that may be without TLS is tried with TLS first.
    fn connect(&self, context: &RequestContext<'_>) -> Result<Connection, RequestError> {
        if let Some(connection) = self.connection.get() {
            return Ok(connection.clone());
        }
        let options = context.options;
        let registries = &options.registries;
        let reach = Reach {
            connect: options.connect_timeout,
            stall: options.stall_timeout,
            // The loopback of a proxy is another machine.
            proxy: !is_loopback(&self.host),
        };
        let tls = || {
            HttpClient::with_tls(registries, reach)
                .map(|http| Connection {
                    http,
                    scheme: "https",
                })
                .map_err(RequestError::Permanent)
        };
        let plain = || {
            HttpClient::plain(registries, reach)
                .map(|http| Connection {
                    http,
                    scheme: "http",
                })
                .map_err(RequestError::Permanent)
        };
        let found = match self.scheme {
            Scheme::Tls => tls()?,
            Scheme::Plain => plain()?,
            Scheme::Either => {
                let tls = tls()?;
                let probe = Request::get(format!("https://{}/v2/", self.host))
                    .body(String::new())
                    .map_err(|_| self.permanent("its address is none".to_owned()))?;
                match tls.http.send(probe) {
                    Err(failure) if failure.not_tls => plain()?,
                    Err(failure) => return Err(self.request_error(failure)),
                    Ok(_) => tls,
                }
            }
        };
        // Another thread may have been first, with the same result.
        Ok(self.connection.get_or_init(|| found).clone())
    }

    pub(super) fn request_error(&self, failure: HttpError) -> RequestError {
        let (registry, reason) = (self.label.clone(), failure.reason);
        let error = match failure.detail {
            None => ImageError::Registry { registry, reason },
            Some(detail) => ImageError::Unanswered {
                registry,
                reason,
                detail: HiddenDetail(detail),
            },
        };
        match failure.temporary {
            true => RequestError::Temporary(error, None),
            false => RequestError::Permanent(error),
        }
    }

    fn permanent(&self, reason: String) -> RequestError {
        RequestError::Permanent(ImageError::Registry {
            registry: self.label.clone(),
            reason,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn mirrors_are_read() {
        let registries = Registries {
            insecure: ["cache.lan:80".to_owned()].into(),
            ..Registries::default()
        };
        for (text, host, prefix, scheme) in [
            ("https://mirror.example", "mirror.example", "", Scheme::Tls),
            (
                "mirror.example:444/a/b/",
                "mirror.example:444",
                "a/b/",
                Scheme::Tls,
            ),
            ("http://10.0.0.1:5000", "10.0.0.1:5000", "", Scheme::Plain),
            ("cache.lan:80", "cache.lan:80", "", Scheme::Either),
            ("https://cache.lan:80", "cache.lan:80", "", Scheme::Tls),
            ("localhost:5000", "localhost:5000", "", Scheme::Either),
        ] {
            let mirror = Endpoint::mirror(text, &registries).unwrap();
            let read = (mirror.host.as_str(), mirror.prefix.as_str(), mirror.scheme);
            assert_eq!(read, (host, prefix, scheme), "{text}");
        }
        for wrong in ["", "ftp://x", "https://", "http://a b", "a?b", "u:p@host"] {
            assert!(Endpoint::mirror(wrong, &registries).is_err(), "{wrong:?}");
        }
    }
}
