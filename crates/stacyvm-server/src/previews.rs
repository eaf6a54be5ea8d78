//! Separates requests for previews from those for the API, and removes what a preview must not get.
//!
//! The path form and the header form come under the API's own names, so while no key protects the
//! API they pass the same check of the host: a foreign page must not read previews through a name
//! of its own.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, Request};
use hyper::body::Incoming;
use stacyvm_preview::{ClientInfo, Form, Found, Preview};
use subtle::ConstantTimeEq;

use crate::host::HostRule;
use crate::settings::{Secret, ServerSettings};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

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

    /// Answers a request that is for a preview, and with `only` every request; gives any other
    /// back.
    pub(crate) async fn answer(
        &self,
        mut request: Request<Incoming>,
        client: ClientInfo,
        only: bool,
    ) -> Result<Response, Request<Incoming>> {
        let found = self.preview.find(&request);
        if found == Found::None && !only {
            return Err(request);
        }
        let shared = match &found {
            Found::Preview(target) => target.form != Form::Host,
            Found::SlashMissing(_) => true,
            Found::Refused(_) | Found::None => false,
        };
        if shared
            && self.key.is_none()
            && let Err(failure) = self.hosts.check(&request)
        {
            return Ok(failure.into_response());
        }
        self.hide_key(request.headers_mut());
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
        Ok(response.map(Body::new))
    }

    /// Removes the server's key, which a client may always send, so that the program in the sandbox
    /// does not get it. Another key in the same header is the program's own and stays.
    fn hide_key(&self, headers: &mut HeaderMap) {
        let Some(key) = &self.key else {
            return;
        };
        let mut sent = headers.get_all(API_KEY).iter();
        if sent.any(|sent| bool::from(sent.as_bytes().ct_eq(key.expose().as_bytes()))) {
            headers.remove(API_KEY);
        }
    }
}
