//! One place that is asked: the address, whether it speaks TLS, and how we prove who we are.

use std::sync::{Mutex, OnceLock, PoisonError};

use ureq::http::{Request, Response};
use ureq::{Body, http};

use super::Denied;
use super::auth::{self, Challenge, Refusal};
use super::credentials;
use super::http::{Failure, Http, header};
use crate::registries::is_loopback;
use crate::{ImageError, Login, PullOptions, Reference, Registries, Secret};

/// Where Docker Hub's registry really is.
const DOCKER_HUB: &str = "registry-1.docker.io";

/// A registry or a mirror of one.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// What it is called in messages and in the configuration.
    label: String,
    host: String,
    /// Before every repository: empty, or with a slash at its end.
    prefix: String,
    scheme: Scheme,
    /// How it is reached, found out by the first request.
    reached: OnceLock<Reached>,
    /// The header `Authorization` that was accepted last.
    proof: Mutex<Option<Secret>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Tls,
    Plain,
    /// TLS, or without it when there is none.
    Either,
}

#[derive(Clone, Debug)]
struct Reached {
    http: Http,
    scheme: &'static str,
}

/// What a request needs beside the endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wire<'a> {
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
            reached: OnceLock::new(),
            proof: Mutex::new(None),
        }
    }

    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// Asks for `/v2/<prefix><path>`, and proves who asks when that is wanted. Any status but one
    /// about who we are is an answer.
    pub(super) fn get(
        &self,
        wire: &Wire<'_>,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Response<Body>, Denied> {
        let reached = self.reach(wire)?;
        let uri = format!(
            "{}://{}/v2/{}{path}",
            reached.scheme, self.host, self.prefix
        );
        let send = |proof: Option<&Secret>| {
            let mut request = Request::get(&uri);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            if let Some(proof) = proof {
                request = request.header(http::header::AUTHORIZATION, proof.reveal());
            }
            let request = request
                .body(String::new())
                .map_err(|_| self.lasting("its address is none".to_owned()))?;
            reached
                .http
                .send(request)
                .map_err(|failure| self.denied(failure))
        };
        let known = self.proof().clone();
        let response = send(known.as_ref())?;
        if response.status() != 401 {
            return self.judge(wire, response, known.is_some());
        }
        let challenge = header(&response, "www-authenticate").and_then(Challenge::parse);
        let Some(challenge) = challenge else {
            return Err(self.lasting("it wants a login of an unknown kind".to_owned()));
        };
        drop(response);
        let (proof, logged_in) = self.prove(wire, &reached.http, challenge)?;
        let response = send(Some(&proof))?;
        if response.status() != 401 {
            *self.proof() = Some(proof);
        }
        self.judge(wire, response, logged_in)
    }

    /// Turns statuses about who we are into errors.
    fn judge(
        &self,
        wire: &Wire<'_>,
        response: Response<Body>,
        logged_in: bool,
    ) -> Result<Response<Body>, Denied> {
        match response.status().as_u16() {
            401 | 403 => Err(self.refused(wire, logged_in)),
            _ => Ok(response),
        }
    }

    fn refused(&self, wire: &Wire<'_>, logged_in: bool) -> Denied {
        let (image, registry) = (wire.image.to_string(), self.label.clone());
        Denied::Lasting(match logged_in {
            true => ImageError::LoginRefused { image, registry },
            false => ImageError::LoginNeeded { image, registry },
        })
    }

    /// What the challenge asks for, and whether it has credentials in it.
    fn prove(
        &self,
        wire: &Wire<'_>,
        http: &Http,
        challenge: Challenge,
    ) -> Result<(Secret, bool), Denied> {
        let login = credentials::find(&wire.options.registries.credentials, &self.label)
            .map_err(Denied::Lasting)?;
        match challenge {
            Challenge::Basic => match &login {
                Some(Login::Password { user, password }) => Ok((auth::basic(user, password), true)),
                Some(Login::IdentityToken(_)) => Err(self.refused(wire, true)),
                None => Err(self.refused(wire, false)),
            },
            Challenge::Bearer {
                realm,
                service,
                scope,
            } => {
                let repository = format!("{}{}", self.prefix, wire.image.repository());
                let scope = scope.unwrap_or_else(|| format!("repository:{repository}:pull"));
                auth::bearer(http, &realm, service.as_deref(), &scope, login.as_ref())
                    .map(|proof| (proof, login.is_some()))
                    .map_err(|refusal| match refusal {
                        Refusal::Denied => self.refused(wire, login.is_some()),
                        Refusal::TooMany => Denied::Passing(
                            ImageError::TooManyRequests {
                                registry: self.label.clone(),
                            },
                            None,
                        ),
                        Refusal::Failed(failure) => self.denied(failure),
                    })
            }
        }
    }

    /// How the registry is reached. One that may be without TLS is asked with it first.
    fn reach(&self, wire: &Wire<'_>) -> Result<Reached, Denied> {
        if let Some(reached) = self.reached.get() {
            return Ok(reached.clone());
        }
        let options = wire.options;
        let (connect, stall) = (options.connect_timeout, options.stall_timeout);
        // A proxy has another loopback than we have.
        let proxy = !is_loopback(&self.host);
        let tls = || {
            Http::with_tls(&options.registries, connect, stall, proxy)
                .map(|http| Reached {
                    http,
                    scheme: "https",
                })
                .map_err(Denied::Lasting)
        };
        let plain = || Reached {
            http: Http::plain(connect, stall, proxy),
            scheme: "http",
        };
        let found = match self.scheme {
            Scheme::Tls => tls()?,
            Scheme::Plain => plain(),
            Scheme::Either => {
                let tls = tls()?;
                let probe = Request::get(format!("https://{}/v2/", self.host))
                    .body(String::new())
                    .map_err(|_| self.lasting("its address is none".to_owned()))?;
                match tls.http.send(probe) {
                    Err(failure) if failure.not_tls => plain(),
                    Err(failure) => return Err(self.denied(failure)),
                    Ok(_) => tls,
                }
            }
        };
        // Another thread may have been quicker, with the same result.
        Ok(self.reached.get_or_init(|| found).clone())
    }

    fn denied(&self, failure: Failure) -> Denied {
        let error = ImageError::Registry {
            registry: self.label.clone(),
            reason: failure.reason,
        };
        match failure.passing {
            true => Denied::Passing(error, None),
            false => Denied::Lasting(error),
        }
    }

    fn lasting(&self, reason: String) -> Denied {
        Denied::Lasting(ImageError::Registry {
            registry: self.label.clone(),
            reason,
        })
    }

    fn proof(&self) -> std::sync::MutexGuard<'_, Option<Secret>> {
        self.proof.lock().unwrap_or_else(PoisonError::into_inner)
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
