//! Starting and stopping, in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use stacyvm_store::Store;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::clock::{Clock, SystemClock};
use crate::error::StartError;
use crate::events::Events;
use crate::expiry::Expiry;
use crate::health::{ConfiguredProvider, ProviderSlot};
use crate::keys::Keys;
use crate::lifetime::Lifetime;
use crate::metrics::Totals;
use crate::orchestrator::Orchestrator;
use crate::queue::SpawnQueue;
use crate::quotas::Quotas;
use crate::registry::Registry;
use crate::settings::Settings;
use crate::state::OrchestratorState;
use crate::{provider_events, reconcile, schedules};

/// What is given to tasks to come to their end, at each step of a shutdown.
const SHUTDOWN_STEP_TIMEOUT: Duration = Duration::from_secs(2);

impl Orchestrator {
    /// Loads the store, reconciles it with the providers, and starts the tasks of sandboxes, expiry, health
    /// checks and schedules. A provider that does not answer does not stop the start.
    ///
    /// # Errors
    /// When the store cannot be read or the providers make no sense together.
    pub async fn start(
        settings: Settings,
        store: Store,
        providers: impl IntoIterator<Item = impl Into<ConfiguredProvider>>,
    ) -> Result<Self, StartError> {
        let draw = Box::new(rand::random::<u32>);
        Self::start_with(settings, store, providers, Arc::new(SystemClock), draw).await
    }

    /// The same with a clock and a source of ids of one's own.
    pub(crate) async fn start_with(
        settings: Settings,
        store: Store,
        providers: impl IntoIterator<Item = impl Into<ConfiguredProvider>>,
        clock: Arc<dyn Clock>,
        draw: Box<dyn Fn() -> u32 + Send + Sync>,
    ) -> Result<Self, StartError> {
        let events = Arc::new(Events::new(settings.event_history, Arc::clone(&clock)));
        let providers = by_name(providers, clock.as_ref(), &events)?;
        if !providers.contains_key(&settings.default_provider) {
            let names: Vec<&str> = providers.keys().map(String::as_str).collect();
            return Err(StartError::UnknownDefault {
                name: settings.default_provider,
                configured: names.join(", "),
            });
        }
        let records = store.list_active().await.map_err(StartError::Store)?;
        let total = store.total_sandboxes().await.map_err(StartError::Store)?;
        let quotas = store.list_quotas().await.map_err(StartError::Store)?;
        let queue = SpawnQueue::new(settings.spawn_queue, settings.spawn_queue_timeout);
        let creates = Some(settings.concurrent_creates).filter(|&most| most > 0);
        let state = Arc::new(OrchestratorState {
            settings,
            quotas: Quotas::load(quotas),
            queue,
            creates: creates.map(Semaphore::new),
            store,
            clock,
            providers,
            registry: Registry::default(),
            expiry: Expiry::default(),
            keys: Arc::new(Keys::default()),
            totals: Totals::default(),
            events,
            draw,
            started: Instant::now(),
            lifetime: Lifetime::default(),
        });
        state.totals.sandboxes.store(total, Ordering::Relaxed);
        tokio::join!(
            reconcile::recover(&state, records),
            schedules::check_all_providers(&state)
        );
        for slot in state.providers.values() {
            if let Some(notices) = slot.provider.notices() {
                let telling = provider_events::follow(Arc::clone(&state), notices);
                state.lifetime.tasks.spawn(telling);
            }
        }
        state
            .lifetime
            .tasks
            .spawn(schedules::expire_sandboxes(Arc::clone(&state)));
        state
            .lifetime
            .tasks
            .spawn(reconcile::run(Arc::clone(&state)));
        for slot in state.providers.values() {
            let checking = schedules::check_provider(Arc::clone(&state), Arc::clone(slot));
            state.lifetime.tasks.spawn(checking);
            let catching_up = reconcile::after_recoveries(Arc::clone(&state), Arc::clone(slot));
            state.lifetime.tasks.spawn(catching_up);
        }
        Ok(Self { state })
    }

    /// Takes nothing new, lets what is in flight end until `deadline`, cuts off what is left,
    /// closes providers and store. Sandboxes live on.
    pub async fn shutdown(&self, deadline: Duration) {
        let state = &self.state;
        state.lifetime.closed.store(true, Ordering::SeqCst);
        state.lifetime.closing.cancel();
        state.lifetime.work.close();
        state.queue.close();
        if timeout(deadline, state.lifetime.work.wait()).await.is_err() {
            let left = state.lifetime.work.len();
            tracing::warn!(left, "requests in flight are cut off");
        }
        state.lifetime.tasks.close();
        state.lifetime.stop.cancel();
        if timeout(SHUTDOWN_STEP_TIMEOUT, state.lifetime.tasks.wait())
            .await
            .is_err()
        {
            // What is half done is finished after the next start: its intent is written.
            state.lifetime.abort.cancel();
            if timeout(SHUTDOWN_STEP_TIMEOUT, state.lifetime.tasks.wait())
                .await
                .is_err()
            {
                tracing::warn!(left = state.lifetime.tasks.len(), "tasks did not end");
            }
        }
        state.lifetime.abort.cancel();
        let slots = state.providers.values();
        let closing = join_all(slots.map(|slot| slot.provider.close()));
        if timeout(SHUTDOWN_STEP_TIMEOUT, closing).await.is_err() {
            tracing::warn!("providers did not close in time");
        }
        if timeout(SHUTDOWN_STEP_TIMEOUT, state.store.close())
            .await
            .is_err()
        {
            tracing::warn!("store did not close in time");
        }
    }
}

fn by_name(
    providers: impl IntoIterator<Item = impl Into<ConfiguredProvider>>,
    clock: &dyn Clock,
    events: &Arc<Events>,
) -> Result<BTreeMap<String, Arc<ProviderSlot>>, StartError> {
    let mut slots = BTreeMap::new();
    for configured in providers {
        let configured = configured.into();
        let name = configured.provider.name().to_owned();
        let slot = Arc::new(ProviderSlot::new(
            configured,
            clock.now(),
            Arc::clone(events),
        ));
        if slots.insert(name.clone(), slot).is_some() {
            return Err(StartError::DuplicateProvider(name));
        }
    }
    if slots.is_empty() {
        return Err(StartError::NoProvider);
    }
    Ok(slots)
}
