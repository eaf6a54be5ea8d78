//! What all rows of a measurement share: the client, the floor, the sandboxes, and how long a row goes
//! on.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::Result;
use stacyvm_client::Client;
use stacyvm_types::{NetworkRequest, Sandbox, SpawnRequest};

use super::floor::Floor;

/// What every sandbox of a measurement carries, so that none is forgotten.
pub(crate) const LABEL: (&str, &str) = ("made-by", "bench");

/// How many samples are thrown away first.
pub(crate) const WARM_UP: usize = 5;

/// What one run measures.
pub(crate) struct Bench {
    pub(crate) client: Client,
    pub(crate) floor: Option<Floor>,
    pub(crate) iterations: usize,
    pub(crate) concurrency: usize,
    /// No row begins another sample after this long.
    pub(crate) time_limit: Duration,
    pub(crate) image: Option<String>,
    pub(crate) provider: Option<String>,
    /// Whether sandboxes have a network.
    pub(crate) network: bool,
}

/// A row that is going on: how many samples it may still take.
pub(crate) struct Pace {
    left: usize,
    end: Instant,
}

impl Pace {
    /// Whether another sample fits.
    pub(crate) fn another(&mut self) -> bool {
        if self.left == 0 || Instant::now() >= self.end {
            return false;
        }
        self.left -= 1;
        true
    }
}

impl Bench {
    /// Starts a row.
    pub(crate) fn pace(&self, count: usize) -> Pace {
        Pace {
            left: count,
            end: Instant::now() + self.time_limit,
        }
    }

    /// Makes a sandbox through the API.
    pub(crate) async fn spawn(&self) -> Result<Sandbox> {
        Ok(self.client.spawn(&self.request()).await?)
    }

    fn network_word(&self) -> &'static str {
        if self.network { "bridge" } else { "none" }
    }

    /// A row's name, with a word for what its sandboxes have.
    pub(crate) fn named(&self, row: &str) -> String {
        if self.network {
            format!("{row}, with network")
        } else {
            row.to_owned()
        }
    }

    /// What a sandbox of the measurement is.
    pub(crate) fn request(&self) -> SpawnRequest {
        SpawnRequest {
            image: self.image.clone(),
            provider: self.provider.clone(),
            memory_mb: Some(256),
            ttl: Some("10m".to_owned()),
            network: Some(NetworkRequest::Word(self.network_word().to_owned())),
            metadata: Some([(LABEL.0.to_owned(), LABEL.1.to_owned())].into()),
            ..SpawnRequest::default()
        }
    }
}

/// How long something took, beside what came of it.
pub(crate) async fn timed<T>(work: impl Future<Output = T>) -> (Duration, T) {
    let begin = Instant::now();
    let result = work.await;
    (begin.elapsed(), result)
}
