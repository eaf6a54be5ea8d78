//! Measuring: what each thing costs through the HTTP API, and what it costs without a server.
//!
//! Owns the rows of the project's table of goals. Each API sample alternates with one of the
//! floor, the same work done on the provider directly, so that both meet the same moods of the
//! machine; the ratio is the figure to believe. Every row is bounded in count and in time, talks
//! to loopback only, and removes what it made.

pub(crate) mod floor;
pub(crate) mod life;
pub(crate) mod machine;
pub(crate) mod preview;
pub(crate) mod samples;
pub(crate) mod target;
pub(crate) mod work;

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::Result;
use stacyvm_client::Client;
use stacyvm_types::{NetworkRequest, Sandbox, SpawnRequest};

use floor::Floor;
use samples::Samples;
use target::Target;

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
    /// Whether sandboxes have one.
    pub(crate) network: bool,
}

/// A row or a group of rows taken together, as `--rows` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Row {
    /// Create until 201, and destroy.
    Create,
    /// Create until the first result of `sh -c true`, in each `--mode`.
    First,
    /// Commands in a live sandbox.
    Exec,
    /// Files in a live sandbox.
    Files,
    /// Streamed output.
    Stream,
    /// 100 creates at once.
    Burst,
    /// Create and destroy without a pause, 2 clients.
    Sustained,
    /// GET of one sandbox.
    Get,
    /// Requests through a preview, beside the same program directly.
    Preview,
    /// What an idle sandbox and an idle server cost.
    Idle,
    /// Start of the server to its first answer; only without --server.
    Start,
}

/// How sandboxes are asked for in the row `first`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// One after the other.
    Sequential,
    /// A new one every 200 ms, whether the last is ready or not.
    Staggered,
    /// As many at a time as --concurrency says.
    Burst,
}

/// What every sandbox of a measurement carries, so that none is forgotten.
pub(crate) const LABEL: (&str, &str) = ("made-by", "bench");

/// How many samples are thrown away first.
pub(crate) const WARM_UP: usize = 5;

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

    /// Takes the rows that were asked for, one after the other.
    pub(crate) async fn take(
        &self,
        rows: &[Row],
        modes: &[Mode],
        target: &Target,
    ) -> Result<Vec<Samples>> {
        let mut taken = Vec::new();
        for row in rows {
            eprintln!("bench: {}", name(*row));
            taken.extend(match row {
                Row::Create => life::create(self).await?,
                Row::First => life::first(self, modes).await?,
                Row::Exec => work::exec(self).await?,
                Row::Files => work::files(self).await?,
                Row::Stream => work::stream(self).await?,
                Row::Burst => life::burst(self).await?,
                Row::Sustained => life::sustained(self, target).await?,
                Row::Get => work::get(self).await?,
                Row::Preview => preview::preview(self, target).await?,
                Row::Idle => machine::idle(self, target).await?,
                Row::Start => machine::start(self, target).await?,
            });
        }
        Ok(taken)
    }
}

/// The word of `--rows`.
pub(crate) fn name(row: Row) -> String {
    clap::ValueEnum::to_possible_value(&row)
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}

/// How long something took, beside what came of it.
pub(crate) async fn timed<T>(work: impl Future<Output = T>) -> (Duration, T) {
    let begin = Instant::now();
    let result = work.await;
    (begin.elapsed(), result)
}
