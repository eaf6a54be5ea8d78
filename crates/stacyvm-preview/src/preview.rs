//! The entry to previews: a request in, an answer out.
//!
//! Owns the order of the checks: names, gate, misses, sandbox, limit. Only then is anything sent to the
//! sandbox. Its rule: up to the gate, a sandbox that does not exist is treated as a private one.

use std::sync::Arc;

use http::header::{ALLOW, CACHE_CONTROL, LOCATION};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use stacyvm_orchestrator::Orchestrator;
use stacyvm_types::PreviewAccess;

use crate::failure::{Failure, FailureKind};
use crate::gate::{PreviewRequest, Verdict};
use crate::misses::Misses;
use crate::name::Domain;
use crate::pool::ConnectionPool;
use crate::proxy::ProxiedRequest;
use crate::response_body::PreviewBody;
use crate::target::{self, ClientInfo, Found, Refusal, Target};
use crate::{PreviewSettings, Tasks, origin, pages};

/// Previews of all sandboxes. Clones are handles to the same thing.
#[derive(Clone, Debug)]
pub struct Preview {
    state: Arc<PreviewState>,
}

#[derive(Debug)]
struct PreviewState {
    orchestrator: Orchestrator,
    settings: PreviewSettings,
    domain: Domain,
    pool: ConnectionPool,
    misses: Misses,
    tasks: Tasks,
}

impl Preview {
    /// Previews of the orchestrator's sandboxes.
    pub fn new(orchestrator: Orchestrator, settings: PreviewSettings, tasks: Tasks) -> Self {
        let state = PreviewState {
            orchestrator,
            domain: Domain::new(&settings.domain),
            pool: ConnectionPool::new(settings.max_connections, tasks.clone()),
            misses: Misses::new(settings.misses_per_minute),
            settings,
            tasks,
        };
        Self {
            state: Arc::new(state),
        }
    }

    /// Whether a request is for a preview.
    pub fn find<B>(&self, request: &Request<B>) -> Found {
        target::find(&self.state.domain, request)
    }

    /// Answers a request that is for a preview. One that fails is answered with a page or JSON.
    pub async fn answer(
        &self,
        found: Found,
        client: ClientInfo,
        request: Request<Incoming>,
    ) -> Response<PreviewBody> {
        let html = pages::wants_html(request.headers());
        let answer = match found {
            Found::Preview(target) => self.forward(&target, client, request, html).await,
            Found::SlashMissing(target) => Ok(redirect_with_slash(&target, request.uri().query())),
            Found::Refused(refusal) => Err(refused(refusal)),
            Found::None => Err(Failure::refused(format!(
                "this address serves previews only: call {{port}}-{{sandbox}}.{}",
                self.state.domain.as_str()
            ))),
        };
        answer.unwrap_or_else(|failure| pages::failed(&failure, html))
    }

    async fn forward(
        &self,
        target: &Target,
        client: ClientInfo,
        request: Request<Incoming>,
        wants_html: bool,
    ) -> Result<Response<PreviewBody>, Failure> {
        if let Some(answer) = origin::preflight(target, &request) {
            return Ok(answer);
        }
        if *request.method() == Method::CONNECT {
            return Ok(connect_refused());
        }
        let authority = target::authority(&request).unwrap_or_default();
        if !is_plain_authority(&authority) {
            return Err(Failure::malformed("the request's host is no host name"));
        }
        let state = &self.state;
        let known = state.orchestrator.preview_access(&target.sandbox);
        let (head, body) = request.into_parts();
        let asked = PreviewRequest {
            target,
            head: &head,
            authority: &authority,
            client,
            requested: known.unwrap_or(Some(PreviewAccess::Private)),
            wants_html,
        };
        let grant = match self.admit(&asked, known.is_some()).await? {
            Verdict::Admit(grant) => grant,
            Verdict::Answer(answer) | Verdict::Refuse(answer) => return Ok(*answer),
        };
        let ports = state.orchestrator.ports(&target.sandbox)?;
        if state.tasks.shutdown.is_cancelled() {
            return Err(Failure::stopping());
        }
        let connections = state.pool.sandbox(&target.sandbox, &ports);
        let permit = connections.acquire().ok_or_else(|| {
            Failure::new(
                FailureKind::Busy,
                format!(
                    "too many connections: one sandbox has at most {} \
                     (preview.max_connections_per_sandbox)",
                    state.settings.max_connections
                ),
            )
        })?;
        let proxied = ProxiedRequest {
            settings: &state.settings,
            tasks: &state.tasks,
            target,
            connections,
            grant,
            authority,
            client,
        };
        proxied.forward(permit, head, body).await
    }

    /// Asks the gate, and counts what is not shown.
    async fn admit(&self, asked: &PreviewRequest<'_>, exists: bool) -> Result<Verdict, Failure> {
        let state = &self.state;
        let verdict = state.settings.gate.admit(asked).await;
        let (peer, sandbox) = (asked.client.address, &asked.target.sandbox);
        match &verdict {
            Verdict::Answer(_) => return Ok(verdict),
            Verdict::Admit(grant) if grant.is_proved => return Ok(verdict),
            // What is public is refused like what is not, else a hit among guesses would show.
            Verdict::Admit(_) | Verdict::Refuse(_) => {}
        }
        if state.misses.check(peer, sandbox).is_err() {
            return Err(Failure::new(
                FailureKind::Throttled,
                "too many previews that are not there were asked for from this address",
            ));
        }
        match &verdict {
            Verdict::Admit(_) if exists => state.misses.opened(peer, sandbox),
            _ => state.misses.count(peer),
        }
        Ok(verdict)
    }
}

fn refused(refusal: Refusal) -> Failure {
    if refusal.is_malformed() {
        Failure::malformed(refusal.to_string())
    } else {
        Failure::refused(refusal.to_string())
    }
}

/// Whether an authority can be copied into other headers as it is.
fn is_plain_authority(authority: &str) -> bool {
    authority.is_empty()
        || (!authority.contains('@') && authority.parse::<http::uri::Authority>().is_ok())
}

/// Redirects to the path with a slash at its end, which relative links need.
fn redirect_with_slash(target: &Target, query: Option<&str>) -> Response<PreviewBody> {
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

fn connect_refused() -> Response<PreviewBody> {
    let failure = Failure::malformed("a preview is no proxy: CONNECT is refused");
    let mut response = pages::failed(&failure, false);
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    let methods = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    response.headers_mut().insert(ALLOW, methods);
    response
}
