//! Separates requests for previews from those for the API, and removes what a preview must not get.
//!
//! The path form and the header form come under the API's own names, so while no key protects the
//! API they pass the same check of the host: a foreign page must not read previews through a name
//! of its own.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::Request;
use hyper::body::Incoming;
use stacyvm_preview::{ClientInfo, Form, Found, Preview};

use crate::api_key;
use crate::host::HostRule;
use crate::settings::{Secret, ServerSettings};

/// Answers the requests that are for previews.
#[derive(Debug)]
pub(crate) struct Previews {
    preview: Preview,
    hosts: HostRule,
    key: Option<Secret>,
}

impl Previews {
    pub(crate) fn new(preview: Preview, settings: &ServerSettings) -> Self {
        let key = settings.api_key.clone();
        Self {
            preview,
            hosts: HostRule::new(&settings.allowed_hosts, &settings.preview_domain),
            key: key.filter(|key| !key.expose().is_empty()),
        }
    }

    /// What of the previews a request is for.
    pub(crate) fn find(&self, request: &Request<Incoming>) -> Found {
        self.preview.find(request)
    }

    /// Answers a request that is for a preview, or that came where there is nothing else.
    pub(crate) async fn answer(
        &self,
        found: Found,
        mut request: Request<Incoming>,
        client: ClientInfo,
    ) -> Response {
        let shared = match &found {
            Found::Preview(target) => target.form != Form::Host,
            Found::SlashMissing(_) => true,
            Found::Refused(_) | Found::None => false,
        };
        if shared
            && self.key.is_none()
            && let Err(failure) = self.hosts.check(&request)
        {
            return failure.into_response();
        }
        if let Some(key) = &self.key {
            // A client may always send it, and the program in the sandbox must not get it.
            api_key::hide(request.headers_mut(), key);
        }
        let method = request.method().clone();
        let response = self.preview.answer(found.clone(), client, request).await;
        if let Found::Preview(target) = &found {
            tracing::debug!(
                sandbox = target.sandbox.as_str(),
                port = target.port,
                method = method.as_str(),
                status = response.status().as_u16(),
                "preview answered"
            );
        }
        response.map(Body::new)
    }
}
