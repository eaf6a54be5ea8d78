//! The port of a sandbox that a request is for, if it is for one.
//!
//! Three forms: the host name, the path `/preview/{id}/{port}/…`, the header `X-StacyVM-Preview`.
//! Owns their precedence: a host name decides alone, and a request that also names another port is
//! refused.

use std::num::NonZeroU16;

use http::header::HOST;
use http::{HeaderName, Request, Uri};
use stacyvm_types::SandboxId;

use crate::name::{self, Domain, HostName, NameError, PreviewName};

/// The header by which programs name a port.
pub(crate) const HEADER: HeaderName = HeaderName::from_static("x-stacyvm-preview");
/// Where the path form begins.
const PATH: &str = "/preview/";

/// How a request named its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `{port}-{id}.{preview_domain}`: an origin of its own.
    Host,
    /// `/preview/{id}/{port}/…`: on the API's origin.
    Path,
    /// `X-StacyVM-Preview: {port}-{id}`: on the API's origin, for programs.
    Header,
}

/// A port of a sandbox that a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// The TCP port inside.
    pub port: NonZeroU16,
    /// How the request named it.
    pub form: Form,
}

impl Target {
    fn new(name: PreviewName, form: Form) -> Self {
        Self {
            sandbox: name.sandbox,
            port: name.port,
            form,
        }
    }

    /// The prefix that the path form has before the sandbox's own paths, without a slash at its end.
    pub fn prefix(&self) -> String {
        format!("{PATH}{}/{}", self.sandbox, self.port)
    }
}

/// The client of a request, as its connection shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientInfo {
    /// The client's address.
    pub address: std::net::IpAddr,
    /// Whether the connection is encrypted.
    pub secure: bool,
}

/// What a request was found to be for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A port of a sandbox.
    Preview(Target),
    /// A port of a sandbox, in the path form without the slash after the port. Relative links need
    /// the slash.
    SlashMissing(Target),
    /// A preview that cannot exist, or more than one.
    Refused(Refusal),
    /// No preview.
    None,
}

/// Why a request's names are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The name is not that of a port of a sandbox.
    #[error("{0}")]
    Name(#[from] NameError),
    /// The request has names that contradict each other, or more than one of a kind.
    #[error("the request names more than one host or preview")]
    Disagreeing,
}

impl Refusal {
    /// Whether the request itself is malformed. Otherwise only what it names does not exist.
    pub(crate) const fn is_malformed(self) -> bool {
        matches!(self, Self::Disagreeing)
    }
}

/// Finds the preview from all names that a request carries.
pub(crate) fn find<B>(domain: &Domain, request: &Request<B>) -> Found {
    match by_host(domain, request) {
        Found::None => match by_header(request) {
            Found::None => by_path(request.uri()),
            found => found,
        },
        found => found,
    }
}

/// The request's authority as the client wrote it: that of the request's target, or `Host`.
pub(crate) fn authority<B>(request: &Request<B>) -> Option<String> {
    let target = request.uri().authority().map(http::uri::Authority::as_str);
    let header = || request.headers().get(HOST)?.to_str().ok();
    target.or_else(header).map(str::to_owned)
}

fn by_host<B>(domain: &Domain, request: &Request<B>) -> Found {
    let target = request.uri().authority().map(http::uri::Authority::as_str);
    let headers = request.headers().get_all(HOST).iter();
    let headers = headers.map(|value| value.to_str().unwrap_or("[?]"));
    let mut found = HostName::Other;
    let mut first: Option<&str> = None;
    let mut disagree = false;
    for host in target.into_iter().chain(headers) {
        disagree |= first.is_some_and(|first| !first.eq_ignore_ascii_case(host));
        first = first.or(Some(host));
        match domain.parse(host) {
            HostName::Other => {}
            parsed => found = parsed,
        }
    }
    let twice = request.headers().get_all(HOST).iter().count() > 1;
    match found {
        HostName::Other => Found::None,
        _ if disagree || twice => Found::Refused(Refusal::Disagreeing),
        HostName::Refused(error) => Found::Refused(error.into()),
        HostName::Preview(name) => {
            let named = by_header(request);
            let target = Target::new(name, Form::Host);
            let same =
                |other: &Target| other.sandbox == target.sandbox && other.port == target.port;
            match named {
                Found::None => Found::Preview(target),
                Found::Preview(other) if same(&other) => Found::Preview(target),
                _ => Found::Refused(Refusal::Disagreeing),
            }
        }
    }
}

fn by_header<B>(request: &Request<B>) -> Found {
    let mut values = request.headers().get_all(HEADER).iter();
    let Some(value) = values.next() else {
        return Found::None;
    };
    if values.next().is_some() {
        return Found::Refused(Refusal::Disagreeing);
    }
    let text = value.to_str().map_err(|_| NameError::Form);
    match text.and_then(|text| text.trim().parse()) {
        Ok(name) => Found::Preview(Target::new(name, Form::Header)),
        Err(error) => Found::Refused(error.into()),
    }
}

fn by_path(uri: &Uri) -> Found {
    let Some(rest) = uri.path().strip_prefix(PATH) else {
        return Found::None;
    };
    let (sandbox, rest) = rest.split_once('/').unwrap_or((rest, ""));
    let (port, slash) = match rest.split_once('/') {
        Some((port, _)) => (port, true),
        None => (rest, false),
    };
    let Ok(sandbox) = sandbox.parse() else {
        return Found::Refused(NameError::Form.into());
    };
    match name::port(port) {
        Ok(port) => {
            let target = Target {
                sandbox,
                port,
                form: Form::Path,
            };
            if slash {
                Found::Preview(target)
            } else {
                Found::SlashMissing(target)
            }
        }
        Err(error) => Found::Refused(error.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PREVIEW: &str = "3000-sb-0123abcd.localhost";

    fn look(uri: &str, headers: &[(&str, &str)]) -> Found {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        find(&Domain::new("localhost:7423"), &request.body(()).unwrap())
    }

    fn form(found: Found) -> Option<Form> {
        match found {
            Found::Preview(target) => {
                assert_eq!(target.sandbox.as_str(), "sb-0123abcd");
                assert_eq!(target.port.get(), 3000);
                Some(target.form)
            }
            _ => None,
        }
    }

    #[test]
    fn each_form_is_found() {
        let absolute = format!("http://{PREVIEW}/x");
        for (uri, headers, expected) in [
            ("/x", &[("host", PREVIEW)][..], Form::Host),
            (&absolute, &[("host", PREVIEW)], Form::Host),
            (&absolute, &[], Form::Host),
            (
                "/preview/sb-0123abcd/3000/x",
                &[("host", "localhost")],
                Form::Path,
            ),
            ("/preview/sb-0123abcd/3000/", &[], Form::Path),
            (
                "/x",
                &[("x-stacyvm-preview", "3000-sb-0123abcd")],
                Form::Header,
            ),
            // Under a preview's host name every path is the sandbox's.
            ("/preview/sb-ffffffff/1/", &[("host", PREVIEW)], Form::Host),
            ("/api/v1/sandboxes", &[("host", PREVIEW)], Form::Host),
        ] {
            assert_eq!(
                form(look(uri, headers)),
                Some(expected),
                "{uri} {headers:?}"
            );
        }
        assert!(matches!(
            look("/preview/sb-0123abcd/3000", &[]),
            Found::SlashMissing(_)
        ));
        for uri in ["/", "/preview", "/previews/sb-0123abcd/3000/", "*"] {
            assert_eq!(look(uri, &[("host", "localhost")]), Found::None, "{uri}");
        }
    }

    #[test]
    fn names_that_contradict_each_other_are_refused() {
        let absolute = format!("http://{PREVIEW}/");
        for (uri, headers) in [
            ("/", &[("host", PREVIEW), ("host", PREVIEW)][..]),
            ("/", &[("host", PREVIEW), ("host", "localhost")]),
            (&absolute, &[("host", "localhost")]),
            (&absolute, &[("host", "3001-sb-0123abcd.localhost")]),
            ("http://localhost/api/v1/live", &[("host", PREVIEW)]),
            (
                "/",
                &[("host", PREVIEW), ("x-stacyvm-preview", "3001-sb-0123abcd")],
            ),
            (
                "/",
                &[
                    ("x-stacyvm-preview", "3000-sb-0123abcd"),
                    ("x-stacyvm-preview", "3000-sb-0123abcd"),
                ],
            ),
        ] {
            assert_eq!(
                look(uri, headers),
                Found::Refused(Refusal::Disagreeing),
                "{uri} {headers:?}"
            );
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (uri, headers) in [
            ("/preview/sb-0123abcd/0/", &[][..]),
            ("/preview/sb-0123abcd/70000/", &[]),
            ("/preview/sb-0123abcd/+80/", &[]),
            ("/preview/sb-0123abcd/", &[]),
            ("/preview/nobody/80/", &[]),
            ("/preview/", &[]),
            ("/", &[("x-stacyvm-preview", "sb-0123abcd")]),
            ("/", &[("host", "70000-sb-0123abcd.localhost")]),
            ("/", &[("host", "3000-sb-0123abcd.evil.example")]),
        ] {
            assert!(
                matches!(look(uri, headers), Found::Refused(Refusal::Name(_))),
                "{uri} {headers:?}"
            );
        }
    }
}
