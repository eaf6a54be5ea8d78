//! Pulls under way: one for all callers that wait for the same image.
//!
//! Each caller holds a [`PullWaiter`]. When the last one is dropped, the pull is cancelled and
//! removed from the table in one step, so that no caller joins a pull that is about to end.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use stacyvm_image::{
    Cancel, ImageError, ImageStore, LayerStage, PullOptions, PullPolicy, PullProgress, Pulled,
    Reference,
};
use stacyvm_provider::ProviderError;
use stacyvm_types::{PullLine, PullStage};
use tokio::sync::{Semaphore, broadcast, mpsc, watch};
use tracing::Instrument;

use crate::image_errors::pull_failed;

/// Images that are pulled at the same time; each fetches several layers at once.
const MAX_CONCURRENT_PULLS: usize = 8;
/// How many lines of progress of one pull wait for a slow reader.
const MAX_WAITING_LINES: usize = 256;
/// The least time between two lines about the same stage of one layer.
const MIN_LINE_INTERVAL: Duration = Duration::from_millis(100);

/// The result of a pull, for all callers that waited.
type Outcome = Result<Arc<Pulled>, Arc<ImageError>>;

/// The full name of an image, and whether its registry is asked in any case.
type Key = (String, bool);

/// All pulls of one provider.
#[derive(Debug)]
pub(crate) struct Pulls {
    store: Arc<ImageStore>,
    options: PullOptions,
    permits: Semaphore,
    active: Mutex<ActivePulls>,
}

/// The pulls that are under way.
#[derive(Debug, Default)]
struct ActivePulls {
    closed: bool,
    /// The number of the newest.
    last_number: u64,
    by_key: HashMap<Key, ActivePull>,
}

/// One pull.
#[derive(Debug)]
struct ActivePull {
    number: u64,
    waiters: usize,
    cancel: Cancel,
    progress: broadcast::Sender<PullLine>,
    outcome: watch::Receiver<Option<Outcome>>,
}

/// One caller that waits for a pull.
struct PullWaiter {
    pulls: Arc<Pulls>,
    key: Key,
    number: u64,
    progress: broadcast::Receiver<PullLine>,
    outcome: watch::Receiver<Option<Outcome>>,
}

impl Pulls {
    pub(crate) fn new(store: Arc<ImageStore>, options: PullOptions) -> Self {
        Self {
            store,
            options,
            permits: Semaphore::new(MAX_CONCURRENT_PULLS),
            active: Mutex::default(),
        }
    }

    /// Pulls an image, or waits for the pull of it that is under way.
    pub(crate) async fn pull(
        self: &Arc<Self>,
        reference: Reference,
        always: bool,
        progress: Option<mpsc::Sender<PullLine>>,
    ) -> Result<Arc<Pulled>, ProviderError> {
        let mut waiter = self.join(reference, always)?;
        let mut reporting = progress.is_some();
        loop {
            tokio::select! {
                biased;
                line = waiter.progress.recv(), if reporting => match (line, &progress) {
                    (Ok(line), Some(progress)) => {
                        // A slow reader misses some lines, but never the result.
                        let _ = progress.try_send(line);
                    }
                    (Err(broadcast::error::RecvError::Lagged(_)), _) => {}
                    _ => reporting = false,
                },
                changed = waiter.outcome.changed() => {
                    let outcome = waiter.outcome.borrow_and_update().clone();
                    match (outcome, changed) {
                        (Some(outcome), _) => return outcome.map_err(|error| pull_failed(&error)),
                        (None, Ok(())) => {}
                        (None, Err(error)) => {
                            return Err(ProviderError::backend(
                                "pull the image",
                                "the server's task ended",
                                error,
                            ));
                        }
                    }
                }
            }
        }
    }

    /// Ends every pull and takes no more.
    pub(crate) fn close(&self) {
        let mut active = self.active.lock();
        active.closed = true;
        for pull in active.by_key.values() {
            pull.cancel.cancel();
        }
    }

    fn join(
        self: &Arc<Self>,
        reference: Reference,
        always: bool,
    ) -> Result<PullWaiter, ProviderError> {
        let key = (reference.canonical(), always);
        let mut active = self.active.lock();
        if active.closed {
            return Err(ProviderError::Unavailable(
                "provider native is shutting down".to_owned(),
            ));
        }
        let ActivePulls {
            last_number,
            by_key,
            ..
        } = &mut *active;
        let pull = by_key.entry(key.clone()).or_insert_with(|| {
            let (outcome, receiver) = watch::channel(None);
            *last_number += 1;
            let pull = ActivePull {
                number: *last_number,
                waiters: 0,
                cancel: Cancel::default(),
                progress: broadcast::Sender::new(MAX_WAITING_LINES),
                outcome: receiver,
            };
            let work = Arc::clone(self).run(
                (key.clone(), pull.number),
                reference,
                pull.cancel.clone(),
                pull.progress.clone(),
                outcome,
            );
            tokio::spawn(work.in_current_span());
            pull
        });
        pull.waiters += 1;
        Ok(PullWaiter {
            pulls: Arc::clone(self),
            key,
            number: pull.number,
            progress: pull.progress.subscribe(),
            outcome: pull.outcome.clone(),
        })
    }

    /// Does the pull and sends its result.
    async fn run(
        self: Arc<Self>,
        (key, number): (Key, u64),
        reference: Reference,
        cancel: Cancel,
        lines: broadcast::Sender<PullLine>,
        outcome: watch::Sender<Option<Outcome>>,
    ) {
        let began = Instant::now();
        let image = reference.familiar();
        tracing::info!(image, "image is pulled");
        // The semaphore is never closed; should it be, the pull goes on without a permit.
        let permit = self.permits.acquire().await;
        let mut options = self.options.clone();
        options.cancel = cancel;
        if key.1 {
            options.policy = PullPolicy::Always;
        }
        let work = {
            let store = Arc::clone(&self.store);
            let span = tracing::Span::current();
            move || {
                let _entered = span.enter();
                let throttle = ProgressThrottle::default();
                store.pull(&reference, &options, &|progress| {
                    if let Some(line) = throttle.line(progress) {
                        // Often no caller reads them.
                        let _ = lines.send(line);
                    }
                })
            }
        };
        let result = tokio::task::spawn_blocking(work).await;
        drop(permit);
        self.forget(&key, number);
        let seconds = began.elapsed().as_secs_f64();
        match &result {
            Ok(Ok(pulled)) => {
                let bytes = pulled.downloaded;
                tracing::info!(image, bytes, seconds, "image is here");
            }
            Ok(Err(error)) => {
                tracing::warn!(image, seconds, error = %Chain(error), "image could not be pulled");
            }
            Err(error) => tracing::error!(image, %error, "pull ended without an answer"),
        }
        if let Ok(result) = result {
            let _ = outcome.send(Some(result.map(Arc::new).map_err(Arc::new)));
        }
    }

    /// Removes a pull from the table, unless another one of the same image has taken its entry.
    fn forget(&self, key: &Key, number: u64) {
        let mut active = self.active.lock();
        if active
            .by_key
            .get(key)
            .is_some_and(|pull| pull.number == number)
        {
            active.by_key.remove(key);
        }
    }
}

impl Drop for PullWaiter {
    fn drop(&mut self) {
        let mut active = self.pulls.active.lock();
        let Some(pull) = active.by_key.get_mut(&self.key) else {
            return;
        };
        if pull.number != self.number {
            return;
        }
        pull.waiters -= 1;
        if pull.waiters == 0 && pull.outcome.borrow().is_none() {
            tracing::info!(
                image = self.key.0,
                "nobody waits for an image, its pull is given up"
            );
            pull.cancel.cancel();
            active.by_key.remove(&self.key);
        }
    }
}

/// Turns the progress of a pull into lines of the API, and leaves out those that come too often.
#[derive(Debug, Default)]
pub struct ProgressThrottle {
    sent: Mutex<HashMap<String, (PullStage, Instant)>>,
}

impl ProgressThrottle {
    /// The line, unless one about the same stage of the layer was made a moment ago.
    pub fn line(&self, progress: PullProgress) -> Option<PullLine> {
        let (digest, size, stage) = match progress {
            PullProgress::Resolved {
                digest,
                layers,
                bytes,
            } => {
                return Some(PullLine::Resolved {
                    digest,
                    layers: layers as u64,
                    bytes,
                });
            }
            PullProgress::Layer {
                digest,
                size,
                stage,
            } => (digest, size, stage),
        };
        let (stage, done) = match stage {
            LayerStage::Cached => (PullStage::Cached, size),
            LayerStage::Waiting => (PullStage::Waiting, 0),
            LayerStage::Downloading { done } => (PullStage::Downloading, done),
            LayerStage::Retrying { .. } => (PullStage::Retrying, 0),
            LayerStage::Unpacking { done } => (PullStage::Unpacking, done),
            LayerStage::Done => (PullStage::Done, size),
        };
        let now = Instant::now();
        let mut sent = self.sent.lock();
        let last = sent.insert(digest.clone(), (stage, now));
        if let Some((stage_then, then)) = last
            && stage_then == stage
            && now.duration_since(then) < MIN_LINE_INTERVAL
        {
            sent.insert(digest, (stage_then, then));
            return None;
        }
        Some(PullLine::Layer {
            digest,
            size,
            stage,
            done,
        })
    }
}

/// An error with its causes, for the log.
struct Chain<'a>(&'a ImageError);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = std::error::Error::source(self.0);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
