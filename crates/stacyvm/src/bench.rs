//! Measuring: what each thing costs through the HTTP API, and what it costs without a server.
//!
//! Owns the rows of the project's table of goals. Each API sample alternates with one of the
//! floor, the same work done on the provider directly, so that both meet the same moods of the
//! machine; the ratio is the figure to believe. Every row is bounded in count and in time, talks
//! to loopback only, and removes what it made.

pub(crate) mod floor;
pub(crate) mod life;
pub(crate) mod machine;
mod measurement;
pub(crate) mod preview;
pub(crate) mod samples;
pub(crate) mod target;
pub(crate) mod work;

use anyhow::Result;

pub(crate) use life::Mode;
pub(crate) use measurement::{Bench, LABEL};
use samples::Samples;
use target::Target;

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

/// Takes the rows that were asked for, one after the other.
pub(crate) async fn take(
    bench: &Bench,
    rows: &[Row],
    modes: &[Mode],
    target: &Target,
) -> Result<Vec<Samples>> {
    let mut taken = Vec::new();
    for row in rows {
        eprintln!("bench: {}", row_name(*row));
        taken.extend(match row {
            Row::Create => life::create(bench).await?,
            Row::First => life::first(bench, modes).await?,
            Row::Exec => work::exec(bench).await?,
            Row::Files => work::files(bench).await?,
            Row::Stream => work::stream(bench).await?,
            Row::Burst => life::burst(bench).await?,
            Row::Sustained => life::sustained(bench, target).await?,
            Row::Get => work::get(bench).await?,
            Row::Preview => preview::preview(bench, target).await?,
            Row::Idle => machine::idle(bench, target).await?,
            Row::Start => machine::start(bench, target).await?,
        });
    }
    Ok(taken)
}

/// The word of `--rows`.
pub(crate) fn row_name(row: Row) -> String {
    clap::ValueEnum::to_possible_value(&row)
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}
