//! The state that handlers share.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use stacyvm_orchestrator::Orchestrator;
use stacyvm_preview::access::Access;
use stacyvm_types::GoDuration;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;

use crate::cors::OriginRule;
use crate::host::HostRule;
use crate::http_metrics::HttpMetrics;
use crate::limiter::Limiter;
use crate::paced_body::BodyPace;
use crate::settings::{Secret, ServerSettings};
use crate::tickets::Tickets;

/// The state as handlers extract it.
pub(crate) type SharedState = Arc<ServerState>;

/// What the server needs to answer requests.
#[derive(Debug)]
pub(crate) struct ServerState {
    pub(crate) orchestrator: Orchestrator,
    pub(crate) version: String,
    pub(crate) json_limit: usize,
    pub(crate) file_limit: u64,
    pub(crate) image_limit: u64,
    pub(crate) heartbeat: Duration,
    pub(crate) body_pace: BodyPace,
    /// The tasks that a shutdown waits for.
    pub(crate) tasks: TaskTracker,
    pub(crate) started: Instant,
    pub(crate) key: Option<Secret>,
    pub(crate) tickets: Tickets,
    pub(crate) limiter: Limiter,
    pub(crate) http_metrics: HttpMetrics,
    pub(crate) access: Option<Arc<Access>>,
    pub(crate) hosts: HostRule,
    pub(crate) origins: OriginRule,
    /// The OpenAPI document, made when it is first asked for.
    pub(crate) document: LazyLock<Bytes>,
    cut: CancellationToken,
}

impl ServerState {
    /// State for these settings. `document` makes the OpenAPI document; bodies that are being sent
    /// when `cut` is cancelled break off, and what goes on behind an answer is one of `tasks`.
    pub(crate) fn new(
        orchestrator: Orchestrator,
        settings: ServerSettings,
        document: fn() -> Bytes,
        cut: CancellationToken,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            orchestrator,
            hosts: HostRule::new(&settings.allowed_hosts, &settings.preview_domain),
            origins: OriginRule::new(&settings.cors_allowed_origins),
            version: settings.version,
            json_limit: settings.json_limit,
            file_limit: settings.file_limit,
            image_limit: settings.image_limit,
            heartbeat: settings.event_heartbeat,
            body_pace: settings.body_pace,
            tasks,
            started: Instant::now(),
            http_metrics: HttpMetrics::default(),
            access: settings.access,
            key: settings.api_key.filter(|key| !key.expose().is_empty()),
            tickets: Tickets::new(settings.ticket_life),
            limiter: Limiter::new(&settings.rates),
            document: LazyLock::new(document),
            cut,
        }
    }

    /// Time since the start, to the millisecond.
    pub(crate) fn uptime(&self) -> GoDuration {
        let millis = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX);
        GoDuration::from_nanos(millis.saturating_mul(1_000_000))
    }

    /// Resolves when bodies that are still being sent must end.
    pub(crate) fn cut(&self) -> WaitForCancellationFutureOwned {
        self.cut.clone().cancelled_owned()
    }
}
