//! The configured providers with what their last check found. Requests read the cached result;
//! only the schedule, an explicit test, and a spawn on an unhealthy provider check anew.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use stacyvm_provider::{Health, Provider};
use stacyvm_types::{EventData, EventType, ProviderInfo, Timestamp};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::events::Events;
use crate::metrics::ProviderMetrics;

/// How long a check may take before the provider counts as unhealthy.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// A result this young answers a second asker too.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// A provider to start with.
#[derive(Clone, Debug)]
pub struct ConfiguredProvider {
    /// The provider.
    pub provider: Arc<dyn Provider>,
    /// What a check that was made before the start has found; it stands for the first one of the
    /// orchestrator's own.
    pub health: Option<Health>,
}

impl From<Arc<dyn Provider>> for ConfiguredProvider {
    fn from(provider: Arc<dyn Provider>) -> Self {
        Self {
            provider,
            health: None,
        }
    }
}

/// One configured provider.
#[derive(Debug)]
pub(crate) struct ProviderSlot {
    pub(crate) provider: Arc<dyn Provider>,
    pub(crate) metrics: ProviderMetrics,
    events: Arc<Events>,
    cached: Mutex<Cached>,
    /// What the first check answers, where that is known from before the start.
    known: Mutex<Option<Health>>,
    /// Held during a check, so that only one runs at a time.
    checking: tokio::sync::Mutex<()>,
    /// Held while the provider's boxes are compared with the store, so that only one comparison runs
    /// at a time.
    pub(crate) comparing: tokio::sync::Mutex<()>,
    /// How often it has recovered.
    recoveries: watch::Sender<u64>,
}

#[derive(Clone, Debug)]
struct Cached {
    health: Health,
    boxes: u64,
    checked_at: Timestamp,
    fresh_since: Option<Instant>,
}

impl ProviderSlot {
    pub(crate) fn new(configured: ConfiguredProvider, now: Timestamp, events: Arc<Events>) -> Self {
        Self {
            provider: configured.provider,
            known: Mutex::new(configured.health),
            events,
            metrics: ProviderMetrics::default(),
            cached: Mutex::new(Cached {
                health: Health {
                    healthy: false,
                    error: Some("not checked yet".to_owned()),
                    latency: Duration::ZERO,
                },
                boxes: 0,
                checked_at: now,
                fresh_since: None,
            }),
            checking: tokio::sync::Mutex::new(()),
            comparing: tokio::sync::Mutex::new(()),
            recoveries: watch::Sender::new(0),
        }
    }

    pub(crate) fn healthy(&self) -> bool {
        self.lock().health.healthy
    }

    pub(crate) fn error(&self) -> Option<String> {
        self.lock().health.error.clone()
    }

    pub(crate) fn info(&self, default: bool) -> ProviderInfo {
        let cached = self.lock().clone();
        let provider = &self.provider;
        let mut capabilities: Vec<String> = provider
            .capabilities()
            .into_iter()
            .map(|capability| capability.as_str().to_owned())
            .collect();
        capabilities.sort();
        ProviderInfo {
            name: provider.name().to_owned(),
            healthy: cached.health.healthy,
            default,
            isolation: provider.isolation(),
            latency_ms: cached.health.latency.as_secs_f64() * 1000.0,
            last_checked: cached.checked_at,
            error: cached.health.error,
            capabilities,
            runtime_count: cached.boxes,
        }
    }

    /// What the reconciler counted on its way.
    pub(crate) fn saw_boxes(&self, boxes: usize) {
        self.lock().boxes = boxes as u64;
    }

    /// Checks now, unless the last check is fresh, and says whether it is healthy.
    pub(crate) async fn check(&self, now: impl Fn() -> Timestamp) -> bool {
        let _one_at_a_time = self.checking.lock().await;
        let checked = self.lock().fresh_since;
        if checked.is_some_and(|since| since.elapsed() < FRESH_FOR) {
            return self.healthy();
        }
        let health = self.ask().await;
        let was = self.healthy();
        let name = self.provider.name();
        let error = health.error.as_deref().unwrap_or_default();
        match (was, health.healthy) {
            (true, false) => tracing::warn!(provider = name, error, "provider is not healthy"),
            (false, true) => tracing::info!(provider = name, "provider is healthy"),
            _ => {}
        }
        // The first check of a healthy provider is no recovery.
        let first = checked.is_none();
        if was != health.healthy && !first || first && !health.healthy {
            self.tell((!health.healthy).then_some(error));
        }
        let healthy = health.healthy;
        let recovered = healthy && !was && !first;
        let boxes = match tokio::time::timeout(CHECK_TIMEOUT, self.provider.list()).await {
            Ok(Ok(boxes)) if healthy => Some(boxes.len() as u64),
            _ => None,
        };
        let mut cached = self.lock();
        cached.health = health;
        cached.boxes = boxes.unwrap_or(cached.boxes);
        cached.checked_at = now();
        cached.fresh_since = Some(Instant::now());
        drop(cached);
        if recovered {
            self.recoveries.send_modify(|count| *count += 1);
        }
        healthy
    }

    /// The provider's health: what was known at the start for the first time, its own answer then.
    async fn ask(&self) -> Health {
        let known = self.known.lock().take();
        if let Some(health) = known {
            return health;
        }
        match tokio::time::timeout(CHECK_TIMEOUT, self.provider.health()).await {
            Ok(health) => health,
            Err(_) => Health {
                healthy: false,
                error: Some(format!("its check did not end within {CHECK_TIMEOUT:?}")),
                latency: CHECK_TIMEOUT,
            },
        }
    }

    /// Tells of each time from now on that it has recovered.
    pub(crate) fn recoveries(&self) -> watch::Receiver<u64> {
        self.recoveries.subscribe()
    }

    /// Publishes that it failed with this error, or has recovered.
    fn tell(&self, error: Option<&str>) {
        let data = EventData::none().with("provider", self.provider.name().to_owned());
        let (kind, data) = match error {
            Some(error) => (
                EventType::ProviderFailed,
                data.with("error", error.to_owned()),
            ),
            None => (EventType::ProviderRecovered, data),
        };
        self.events.publish(kind, None, None, data);
    }

    fn lock(&self) -> MutexGuard<'_, Cached> {
        self.cached.lock()
    }
}
