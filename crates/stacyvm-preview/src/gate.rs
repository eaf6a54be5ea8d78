//! Who may open a preview: the seam between the proxy and access.
//!
//! The proxy asks its gate once for every request, after it has found that the sandbox is there
//! and before anything goes inside. Its rule: a gate's own secrets (cookie, header, query) never
//! reach the sandbox, and nothing from inside can set or read them.

use std::fmt;

use async_trait::async_trait;
use http::request::Parts;
use http::{HeaderName, Response, Uri};
use stacyvm_orchestrator::Ports;

use crate::body::PreviewBody;
use crate::{Origin, Target};

/// What a gate sees of a request.
#[derive(Debug)]
pub struct PreviewRequest<'a> {
    /// Which port of which sandbox.
    pub target: &'a Target,
    /// The request as the client sent it, without its body.
    pub head: &'a Parts,
    /// The host it was sent to, as the client wrote it: a name and perhaps a port.
    pub authority: &'a str,
    /// What the connection says about the client.
    pub origin: Origin,
    /// The sandbox, which runs.
    pub ports: &'a Ports,
    /// Whether the client would rather read HTML than JSON.
    pub wants_html: bool,
}

/// How a request that was let in goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// Cookies of the gate's own: taken out of the request, and refused to the sandbox, which may
    /// not set one of these names.
    pub own_cookies: &'static [&'static str],
    /// Headers of the gate's own, taken out of the request.
    pub own_headers: Vec<HeaderName>,
    /// The address without what in it is the gate's own; none when there is nothing of the kind.
    pub uri: Option<Uri>,
}

/// What a gate says.
#[derive(Debug)]
pub enum Verdict {
    /// It may go in.
    Pass(Pass),
    /// It is answered here, and nothing goes in.
    Answer(Box<Response<PreviewBody>>),
}

/// Decides who may open a preview.
#[async_trait]
pub trait Gate: Send + Sync + fmt::Debug {
    /// Judges one request. Must not wait for anything outside this process.
    async fn admit(&self, request: &PreviewRequest<'_>) -> Verdict;
}

/// Lets everybody in.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenGate;

#[async_trait]
impl Gate for OpenGate {
    async fn admit(&self, _: &PreviewRequest<'_>) -> Verdict {
        Verdict::Pass(Pass::default())
    }
}
