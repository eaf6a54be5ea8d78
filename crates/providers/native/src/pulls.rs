//! Pulls under way: one for all who wait for the same image.
//!
//! Whoever waits holds a [`Waiting`]. With the last of them gone the pull is cancelled and
//! forgotten in one step, so that nobody joins a pull that is about to end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

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
const AT_ONCE: usize = 8;
/// Words about one pull that wait for a slow reader.
const WORDS: usize = 256;
/// How often one layer's bytes are told.
const PACE: Duration = Duration::from_millis(100);

/// What a pull came to, for everybody who waited.
type Outcome = Result<Arc<Pulled>, Arc<ImageError>>;

/// An image in full, and whether its registry is asked in any case.
type Key = (String, bool);

/// All pulls of one provider.
#[derive(Debug)]
pub(crate) struct Pulls {
    store: Arc<ImageStore>,
    options: PullOptions,
    turns: Semaphore,
    under_way: Mutex<UnderWay>,
}

#[derive(Debug, Default)]
struct UnderWay {
    closed: bool,
    /// How many were begun; the number of the newest.
    begun: u64,
    flights: HashMap<Key, Flight>,
}

/// One pull.
#[derive(Debug)]
struct Flight {
    number: u64,
    waiting: usize,
    cancel: Cancel,
    words: broadcast::Sender<PullLine>,
    outcome: watch::Receiver<Option<Outcome>>,
}

/// One who waits for a pull.
struct Waiting {
    pulls: Arc<Pulls>,
    key: Key,
    flight: u64,
    words: broadcast::Receiver<PullLine>,
    outcome: watch::Receiver<Option<Outcome>>,
}

impl Pulls {
    pub(crate) fn new(store: Arc<ImageStore>, options: PullOptions) -> Self {
        Self {
            store,
            options,
            turns: Semaphore::new(AT_ONCE),
            under_way: Mutex::default(),
        }
    }

    /// Pulls an image, or waits for who does already.
    pub(crate) async fn pull(
        self: &Arc<Self>,
        reference: Reference,
        always: bool,
        progress: Option<mpsc::Sender<PullLine>>,
    ) -> Result<Arc<Pulled>, ProviderError> {
        let mut waiting = self.join(reference, always)?;
        let mut told = progress.is_some();
        loop {
            tokio::select! {
                biased;
                word = waiting.words.recv(), if told => match (word, &progress) {
                    (Ok(line), Some(progress)) => {
                        // Who reads too slowly misses some; the last word is not among them.
                        let _ = progress.try_send(line);
                    }
                    (Err(broadcast::error::RecvError::Lagged(_)), _) => {}
                    _ => told = false,
                },
                changed = waiting.outcome.changed() => {
                    let outcome = waiting.outcome.borrow_and_update().clone();
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
        let mut under_way = self.under_way();
        under_way.closed = true;
        for flight in under_way.flights.values() {
            flight.cancel.cancel();
        }
    }

    fn join(
        self: &Arc<Self>,
        reference: Reference,
        always: bool,
    ) -> Result<Waiting, ProviderError> {
        let key = (reference.canonical(), always);
        let mut under_way = self.under_way();
        if under_way.closed {
            return Err(ProviderError::Unavailable(
                "provider native is shutting down".to_owned(),
            ));
        }
        let UnderWay { begun, flights, .. } = &mut *under_way;
        let flight = flights.entry(key.clone()).or_insert_with(|| {
            let (outcome, receiver) = watch::channel(None);
            *begun += 1;
            let flight = Flight {
                number: *begun,
                waiting: 0,
                cancel: Cancel::default(),
                words: broadcast::Sender::new(WORDS),
                outcome: receiver,
            };
            let work = Arc::clone(self).run(
                (key.clone(), flight.number),
                reference,
                flight.cancel.clone(),
                flight.words.clone(),
                outcome,
            );
            tokio::spawn(work.in_current_span());
            flight
        });
        flight.waiting += 1;
        Ok(Waiting {
            pulls: Arc::clone(self),
            key,
            flight: flight.number,
            words: flight.words.subscribe(),
            outcome: flight.outcome.clone(),
        })
    }

    /// Does the pull and tells its end.
    async fn run(
        self: Arc<Self>,
        (key, number): (Key, u64),
        reference: Reference,
        cancel: Cancel,
        words: broadcast::Sender<PullLine>,
        tell: watch::Sender<Option<Outcome>>,
    ) {
        let began = Instant::now();
        let image = reference.familiar();
        tracing::info!(image, "image is pulled");
        // It is never closed; should it be, the pull goes on without its turn.
        let turn = self.turns.acquire().await;
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
                let pace = PullPace::default();
                store.pull(&reference, &options, &|progress| {
                    if let Some(line) = pace.line(progress) {
                        // Mostly nobody listens.
                        let _ = words.send(line);
                    }
                })
            }
        };
        let result = tokio::task::spawn_blocking(work).await;
        drop(turn);
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
            let _ = tell.send(Some(result.map(Arc::new).map_err(Arc::new)));
        }
    }

    /// Takes a flight off the table, unless another one has its place.
    fn forget(&self, key: &Key, number: u64) {
        let mut under_way = self.under_way();
        if under_way
            .flights
            .get(key)
            .is_some_and(|flight| flight.number == number)
        {
            under_way.flights.remove(key);
        }
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way
            .lock()
            .expect("no holder of this lock panics")
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut under_way = self.pulls.under_way();
        let Some(flight) = under_way.flights.get_mut(&self.key) else {
            return;
        };
        if flight.number != self.flight {
            return;
        }
        flight.waiting -= 1;
        if flight.waiting == 0 && flight.outcome.borrow().is_none() {
            tracing::info!(
                image = self.key.0,
                "nobody waits for an image, its pull is given up"
            );
            flight.cancel.cancel();
            under_way.flights.remove(&self.key);
        }
    }
}

/// What a pull says in the words of the API, the bytes of each layer only now and then.
#[derive(Debug, Default)]
pub struct PullPace {
    told: Mutex<HashMap<String, (PullStage, Instant)>>,
}

impl PullPace {
    /// The words, unless the same was said a moment ago.
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
        let mut told = self.told.lock().expect("no holder of this lock panics");
        let last = told.insert(digest.clone(), (stage, now));
        if let Some((stage_then, then)) = last
            && stage_then == stage
            && now.duration_since(then) < PACE
        {
            told.insert(digest, (stage_then, then));
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
