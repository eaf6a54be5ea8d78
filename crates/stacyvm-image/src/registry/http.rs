//! The HTTP client: bounded in time, never silently without TLS, with errors in plain words.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use ureq::http::{Request, Response, Uri};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Body};

use super::destinations::{ClosedAddress, Destinations, GuardedResolver};
use super::redirect;
use crate::{ImageError, Registries};

/// How many redirects are followed.
const MAX_REDIRECTS: u32 = 5;

/// Why a request got no answer.
#[derive(Debug)]
pub(crate) struct HttpError {
    /// What went wrong, in words, without what was sent.
    pub(crate) reason: String,
    /// Whether the same request may succeed a moment later.
    pub(crate) temporary: bool,
    /// Whether the server was reached and speaks no TLS, so that plain HTTP may be tried.
    pub(crate) not_tls: bool,
    /// What went wrong in detail, when it would tell a stranger what is behind an address.
    pub(crate) detail: Option<String>,
}

/// How a server is reached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach {
    /// How long a connection may take to be made.
    pub(crate) connect: Duration,
    /// How long nothing may be sent.
    pub(crate) stall: Duration,
    /// Whether the environment's proxy is used.
    pub(crate) proxy: bool,
}

/// An HTTP client with its connections.
#[derive(Clone, Debug)]
pub(crate) struct HttpClient {
    agent: Agent,
    destinations: Arc<Destinations>,
}

impl HttpClient {
    /// A client that uses TLS only, also for redirects.
    pub(crate) fn with_tls(registries: &Registries, reach: Reach) -> Result<Self, ImageError> {
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&authorities(registries)?))
            .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
            .build();
        Self::build(Some(tls), registries, reach)
    }

    /// A client for a registry without TLS.
    pub(crate) fn plain(registries: &Registries, reach: Reach) -> Result<Self, ImageError> {
        Self::build(None, registries, reach)
    }

    fn build(
        tls: Option<TlsConfig>,
        registries: &Registries,
        reach: Reach,
    ) -> Result<Self, ImageError> {
        let Reach {
            connect,
            stall,
            proxy,
        } = reach;
        let destinations = Arc::new(Destinations::new(registries)?);
        let mut config = Agent::config_builder()
            .user_agent(concat!("stacyvm/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .https_only(tls.is_some())
            // Each step is judged here.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_resolve(Some(connect))
            .timeout_connect(Some(connect))
            .timeout_send_request(Some(stall))
            .timeout_recv_response(Some(stall))
            .timeout_per_read(Some(stall))
            .timeout_per_write(Some(stall))
            .max_idle_age(Duration::from_secs(20));
        if let Some(tls) = tls {
            config = config.tls_config(tls);
        }
        if !proxy {
            config = config.proxy(None);
        }
        let resolver = GuardedResolver {
            names: DefaultResolver::default(),
            destinations: Arc::clone(&destinations),
        };
        Ok(Self {
            agent: Agent::with_parts(config.build(), DefaultConnector::default(), resolver),
            destinations,
        })
    }

    /// Sends a request, and again to where it is sent on. An answer of any other status is an answer.
    pub(crate) fn send(&self, request: Request<String>) -> Result<Response<Body>, HttpError> {
        // A body of no bytes would make a GET look odd to some servers.
        if !request.body().is_empty() {
            let uri = request.uri().clone();
            self.check(&uri)?;
            return self
                .agent
                .run(request)
                .map_err(|error| self.failed(&uri, error));
        }
        let mut request = request.map(|_| ());
        for _ in 0..=MAX_REDIRECTS {
            let asked = request.clone();
            self.check(asked.uri())?;
            let answer = self.agent.run(request);
            let answer = answer.map_err(|error| self.failed(asked.uri(), error))?;
            match redirect::follow(&asked, &answer) {
                Ok(Some(next)) => request = next,
                Ok(None) => return Ok(answer),
                Err(()) => {
                    return Err(HttpError::permanent(
                        "it sends us to an address that is none",
                    ));
                }
            }
        }
        Err(HttpError::permanent("it sends us on and on"))
    }

    fn check(&self, uri: &Uri) -> Result<(), HttpError> {
        let checked = self.destinations.check_literal(uri);
        checked.map_err(|closed| HttpError::permanent(closed.to_string()))
    }

    /// The error of a request. Of a server that a stranger named it does not say what is there.
    fn failed(&self, uri: &Uri, error: ureq::Error) -> HttpError {
        let tells = match &error {
            ureq::Error::Other(other) => !other.is::<ClosedAddress>(),
            ureq::Error::RequireHttpsOnly(_) | ureq::Error::BadUri(_) => false,
            _ => !self.destinations.is_named(uri),
        };
        let mut failure = HttpError::from(error);
        if tells {
            let hidden = "no registry answers there as one should".to_owned();
            failure.detail = Some(std::mem::replace(&mut failure.reason, hidden));
        }
        failure
    }
}

impl HttpError {
    /// One that another attempt would not change.
    pub(super) fn permanent(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            temporary: false,
            not_tls: false,
            detail: None,
        }
    }
}

impl From<ureq::Error> for HttpError {
    fn from(error: ureq::Error) -> Self {
        use ureq::Error;
        let permanent = |reason: String| Self::permanent(reason);
        match error {
            Error::Io(error) => error.into(),
            Error::Timeout(what) => Self {
                reason: format!("no answer in time ({what})"),
                temporary: true,
                not_tls: false,
                detail: None,
            },
            Error::HostNotFound => permanent("its name cannot be resolved".to_owned()),
            Error::ConnectionFailed => Self {
                reason: "no connection".to_owned(),
                temporary: true,
                not_tls: false,
                detail: None,
            },
            // The address may have a ticket in its query.
            Error::RequireHttpsOnly(_) => {
                permanent("it sends us to a place without TLS, which is not allowed".to_owned())
            }
            Error::BadUri(_) => permanent("it sends us to an address that is none".to_owned()),
            Error::Rustls(error) => Self {
                not_tls: matches!(error, rustls::Error::InvalidMessage(_)),
                reason: format!("no TLS: {error}"),
                temporary: false,
                detail: None,
            },
            Error::Protocol(_) => Self {
                reason: "its answer is not HTTP".to_owned(),
                temporary: true,
                not_tls: false,
                detail: None,
            },
            Error::Other(error) => permanent(error.to_string()),
            other => permanent(other.to_string()),
        }
    }
}

impl From<std::io::Error> for HttpError {
    fn from(error: std::io::Error) -> Self {
        // A reader may have wrapped the error of TLS.
        let inner = error.get_ref();
        if let Some(tls) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Self {
                not_tls: matches!(tls, rustls::Error::InvalidMessage(_)),
                reason: format!("no TLS: {tls}"),
                temporary: false,
                detail: None,
            };
        }
        use std::io::ErrorKind;
        Self {
            reason: match error.kind() {
                ErrorKind::ConnectionRefused => "connection refused".to_owned(),
                _ => error.to_string(),
            },
            temporary: true,
            detail: None,
            // A server without TLS may close the connection when a client begins with it.
            not_tls: matches!(
                error.kind(),
                ErrorKind::UnexpectedEof
                    | ErrorKind::ConnectionReset
                    | ErrorKind::ConnectionAborted
                    | ErrorKind::BrokenPipe
            ),
        }
    }
}

/// Reads a body of at most `limit` bytes.
pub(crate) fn read_bounded(
    response: &mut Response<Body>,
    limit: u64,
) -> Result<Option<Vec<u8>>, HttpError> {
    let mut bytes = Vec::new();
    response
        .body_mut()
        .with_config()
        .limit(u64::MAX)
        .reader()
        .take(limit + 1)
        .read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

/// The text of a header.
pub(crate) fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// The certificate authorities that are trusted: those of the system and of the configuration.
fn authorities(registries: &Registries) -> Result<Vec<Certificate<'static>>, ImageError> {
    // A file of the system that cannot be read leaves the others.
    let mut trusted: Vec<_> = rustls_native_certs::load_native_certs()
        .certs
        .iter()
        .map(|certificate| Certificate::from_der(certificate).to_owned())
        .collect();
    for path in &registries.certificates {
        let step = "read a file of certificates";
        let text = std::fs::read(path).map_err(ImageError::io(step))?;
        let before = trusted.len();
        for item in parse_pem(&text) {
            match item {
                Ok(PemItem::Certificate(certificate)) => trusted.push(certificate),
                Ok(_) => {}
                Err(error) => return Err(ImageError::io(step)(error.into_io())),
            }
        }
        if trusted.len() == before {
            return Err(ImageError::Archive(format!(
                "{} has no certificate",
                path.display()
            )));
        }
    }
    Ok(trusted)
}
