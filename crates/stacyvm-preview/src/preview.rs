//! The front of previews: a request in, an answer out.
//!
//! Owns the order of things: names, sandbox, gate, limit, and only then the way inside.

use std::sync::Arc;

use http::header::{ALLOW, CACHE_CONTROL, LOCATION};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use stacyvm_orchestrator::Orchestrator;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::PreviewBody;
use crate::failure::{Failure, Kind};
use crate::gate::{PreviewRequest, Verdict};
use crate::name::Domain;
use crate::pool::Pool;
use crate::proxy::Passage;
use crate::target::{self, Found, Origin, Refusal, Target};
use crate::{PreviewSettings, origin, pages};

/// How what is begun for previews ends with the server.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    /// Who waits for the end.
    pub tracker: TaskTracker,
    /// Nothing new is begun; what would never end by itself ends.
    pub shutdown: CancellationToken,
    /// What is left ends where it stands.
    pub cut: CancellationToken,
}

/// Previews of all sandboxes. Clones are handles to the same thing.
#[derive(Clone, Debug)]
pub struct Preview {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) orchestrator: Orchestrator,
    pub(crate) settings: PreviewSettings,
    pub(crate) domain: Domain,
    pub(crate) pool: Pool,
    pub(crate) tasks: Tasks,
}

impl Preview {
    /// Previews of the orchestrator's sandboxes.
    pub fn new(orchestrator: Orchestrator, settings: PreviewSettings, tasks: Tasks) -> Self {
        let shared = Shared {
            orchestrator,
            domain: Domain::new(&settings.domain),
            pool: Pool::new(settings.max_connections, tasks.clone()),
            settings,
            tasks,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Whether a request is for a preview.
    pub fn find<B>(&self, request: &Request<B>) -> Found {
        target::find(&self.shared.domain, request)
    }

    /// Answers a request that is for a preview, with a page where it cannot be.
    pub async fn answer(
        &self,
        found: Found,
        came: Origin,
        request: Request<Incoming>,
    ) -> Response<PreviewBody> {
        let html = pages::wants_html(request.headers());
        let answer = match found {
            Found::Preview(target) => self.enter(&target, came, request, html).await,
            Found::SlashMissing(target) => Ok(with_slash(&target, request.uri().query())),
            Found::Refused(refusal) => Err(refused(refusal)),
            Found::None => Err(Failure::refused(format!(
                "this address serves previews only: call {{port}}-{{sandbox}}.{}",
                self.shared.domain.as_str()
            ))),
        };
        answer.unwrap_or_else(|failure| pages::failed(&failure, html))
    }

    async fn enter(
        &self,
        target: &Target,
        came: Origin,
        request: Request<Incoming>,
        wants_html: bool,
    ) -> Result<Response<PreviewBody>, Failure> {
        if let Some(answer) = origin::preflight(target, &request) {
            return Ok(answer);
        }
        if *request.method() == Method::CONNECT {
            return Ok(no_connect());
        }
        let authority = target::authority(&request).unwrap_or_default();
        if !is_plain_authority(&authority) {
            return Err(Failure::malformed("the request's host is no host name"));
        }
        let shared = &self.shared;
        let ports = shared.orchestrator.ports(&target.sandbox)?;
        let (head, body) = request.into_parts();
        let asked = PreviewRequest {
            target,
            head: &head,
            authority: &authority,
            origin: came,
            ports: &ports,
            wants_html,
        };
        let pass = match shared.settings.gate.admit(&asked).await {
            Verdict::Pass(pass) => pass,
            Verdict::Answer(answer) => return Ok(*answer),
        };
        if shared.tasks.shutdown.is_cancelled() {
            return Err(Failure::stopping());
        }
        let room = shared.pool.room(&target.sandbox, &ports);
        let permit = room.enter().ok_or_else(|| {
            Failure::new(
                Kind::Busy,
                format!(
                    "too many connections: one sandbox has at most {} \
                     (preview.max_connections_per_sandbox)",
                    shared.settings.max_connections
                ),
            )
        })?;
        let passage = Passage {
            shared,
            target,
            room,
            pass,
            authority,
            came,
        };
        passage.carry(permit, head, body).await
    }
}

fn refused(refusal: Refusal) -> Failure {
    if refusal.is_malformed() {
        Failure::malformed(refusal.to_string())
    } else {
        Failure::refused(refusal.to_string())
    }
}

/// Whether a `Host` can stand in headers of ours as it is.
fn is_plain_authority(authority: &str) -> bool {
    authority.is_empty()
        || (!authority.contains('@') && authority.parse::<http::uri::Authority>().is_ok())
}

/// Relative links need it.
fn with_slash(target: &Target, query: Option<&str>) -> Response<PreviewBody> {
    let query = query.map_or(String::new(), |query| format!("?{query}"));
    let location = format!("{}/{query}", target.prefix());
    let mut response = Response::new(PreviewBody::empty());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    let headers = response.headers_mut();
    let location = HeaderValue::try_from(location).expect("a path and a query of a request's own");
    headers.insert(LOCATION, location);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn no_connect() -> Response<PreviewBody> {
    let failure = Failure::malformed("a preview is no proxy: CONNECT is refused");
    let mut response = pages::failed(&failure, false);
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    let methods = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    response.headers_mut().insert(ALLOW, methods);
    response
}
