//! The gate that the proxy asks whether a request may open a preview.
//!
//! The proxy asks its gate once for every request, whether the sandbox exists or not, so that a gate
//! gives one answer for a sandbox that is not there and one that it does not show. Its rules: what it
//! says and the work that it does are the same for both; a gate's own secrets (cookie, header, query)
//! never reach the sandbox, and the sandbox can neither set nor read them.

use std::fmt;

use async_trait::async_trait;
use http::request::Parts;
use http::{HeaderName, Response, Uri};
use stacyvm_types::PreviewAccess;

use crate::response_body::PreviewBody;
use crate::{ClientInfo, Target};

/// A request as a gate sees it.
#[derive(Debug)]
pub struct PreviewRequest<'a> {
    /// The port of a sandbox that the request is for.
    pub target: &'a Target,
    /// The request as the client sent it, without its body.
    pub head: &'a Parts,
    /// The host it was sent to, as the client wrote it: a name and perhaps a port.
    pub authority: &'a str,
    /// The client, as its connection shows it.
    pub client: ClientInfo,
    /// Who may open the sandbox's previews as its spawn said; private for a sandbox that does not
    /// exist, and none when the spawn said nothing.
    pub requested: Option<PreviewAccess>,
    /// Whether the client would rather read HTML than JSON.
    pub wants_html: bool,
}

/// What must be removed from a request that was admitted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// The gate's own cookies: removed from the request, and from answers, because the sandbox may
    /// not set one of these names.
    pub own_cookies: &'static [&'static str],
    /// The gate's own headers, removed from the request.
    pub own_headers: Vec<HeaderName>,
    /// The address without the gate's own parameters; none when there are none in it.
    pub uri: Option<Uri>,
    /// Whether the request proved that it may open this very preview.
    pub is_proved: bool,
}

/// The decision of a gate.
#[derive(Debug)]
pub enum Verdict {
    /// The request is sent to the sandbox.
    Admit(Grant),
    /// The request is answered with this, and nothing is sent to the sandbox.
    Answer(Box<Response<PreviewBody>>),
    /// The same for a request that may not open the preview.
    Refuse(Box<Response<PreviewBody>>),
}

/// Decides who may open a preview.
#[async_trait]
pub trait Gate: Send + Sync + fmt::Debug {
    /// Decides about one request. Must not wait for anything outside this process.
    async fn admit(&self, request: &PreviewRequest<'_>) -> Verdict;
}

/// Admits every request.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenGate;

#[async_trait]
impl Gate for OpenGate {
    async fn admit(&self, _: &PreviewRequest<'_>) -> Verdict {
        Verdict::Admit(Grant::default())
    }
}
