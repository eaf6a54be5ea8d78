//! Rows about the life of sandboxes: create, first result, destroy, many at once, many in a row.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use stacyvm_types::ExecRequest;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::floor::{self, Floor};
use super::machine;
use super::measurement::{Bench, WARM_UP, timed};
use super::samples::{Samples, Unit, milliseconds};
use super::target::Target;

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

/// How many are created at once in the row `burst`.
const BURST: usize = 100;
/// How often a staggered start happens.
const STAGGER_INTERVAL: Duration = Duration::from_millis(200);
/// How long the sustained row goes on.
const SUSTAINED_DURATION: Duration = Duration::from_secs(10);
/// How many clients the sustained row has.
const SUSTAINED_CLIENTS: usize = 2;

/// Create until 201, and destroy, each alternating with the floor.
pub(crate) async fn create(bench: &Bench) -> Result<Vec<Samples>> {
    let goal = if bench.network {
        "p50 <= 5.5, p99 <= 14"
    } else {
        "p50 <= 4, p99 <= 10"
    };
    let mut create = Samples::new(bench.named("create -> 201"), Unit::Milliseconds).goal(goal);
    let mut destroy = Samples::new(bench.named("destroy"), Unit::Milliseconds).goal("p50 <= 5");
    let mut warm_up = WARM_UP;
    let mut pace = bench.pace(bench.iterations + WARM_UP);
    while pace.another() {
        let (taken, made) = timed(bench.spawn()).await;
        let counts = warm_up == 0;
        warm_up = warm_up.saturating_sub(1);
        if counts {
            create.time(taken, &made);
        }
        if let Ok(sandbox) = made {
            let (taken, gone) = timed(bench.client.destroy(sandbox.id.as_str())).await;
            if counts {
                destroy.time(taken, &gone);
            }
        }
        if let Some(floor) = &bench.floor {
            let (taken, made) = timed(floor.create()).await;
            let (id, operations) = made.context("the floor cannot create")?;
            drop(operations);
            let (gone_after, gone) = timed(floor.destroy(&id)).await;
            gone.context("the floor cannot destroy")?;
            if counts {
                create.floor.push(milliseconds(taken));
                destroy.floor.push(milliseconds(gone_after));
            }
        }
    }
    Ok(vec![create, destroy])
}

/// Create until the first result of `sh -c true`, in each mode.
pub(crate) async fn first(bench: &Bench, modes: &[Mode]) -> Result<Vec<Samples>> {
    let mut rows = Vec::new();
    for mode in modes {
        rows.push(match mode {
            Mode::Sequential => first_sequential(bench).await?,
            Mode::Staggered => {
                let name = "create -> sh -c true, staggered";
                first_together(bench, name, STAGGER_INTERVAL, bench.iterations.min(50)).await?
            }
            Mode::Burst => {
                let name = format!(
                    "create -> sh -c true, burst, {} at a time",
                    bench.concurrency
                );
                first_together(bench, &name, Duration::ZERO, bench.iterations).await?
            }
        });
    }
    Ok(rows)
}

async fn first_sequential(bench: &Bench) -> Result<Samples> {
    let mut row =
        Samples::new("create -> sh -c true, sequential", Unit::Milliseconds).goal("p50 <= 7");
    let mut warm_up = WARM_UP;
    let mut pace = bench.pace(bench.iterations + WARM_UP);
    while pace.another() {
        let counts = warm_up == 0;
        warm_up = warm_up.saturating_sub(1);
        let (taken, result) = timed(first_result(bench)).await;
        if counts {
            row.time(taken, &result);
        }
        if let Ok(id) = result {
            bench.client.destroy(&id).await?;
        }
        if let Some(floor) = &bench.floor {
            let begin = Instant::now();
            let (id, operations) = floor.create().await?;
            floor::execute(operations.as_ref(), &["sh", "-c", "true"]).await?;
            if counts {
                row.floor.push(milliseconds(begin.elapsed()));
            }
            drop(operations);
            floor.destroy(&id).await?;
        }
    }
    Ok(row)
}

/// Many at a time: a new one every `stagger`, or as fast as the permitted number allows.
async fn first_together(
    bench: &Bench,
    name: &str,
    stagger: Duration,
    count: usize,
) -> Result<Samples> {
    let mut row = Samples::new(name, Unit::Milliseconds);
    let permits = Arc::new(Semaphore::new(bench.concurrency));
    let mut tasks = JoinSet::new();
    let mut pace = bench.pace(count);
    while pace.another() {
        let (client, request, permits) = (bench.client.clone(), bench.request(), permits.clone());
        tasks.spawn(async move {
            let _permit = permits.acquire().await;
            let begin = Instant::now();
            let sandbox = client.spawn(&request).await?;
            let id = sandbox.id.to_string();
            let result = client.exec(&id, &shell_true()).await;
            let taken = begin.elapsed();
            client.destroy(&id).await?;
            result?;
            anyhow::Ok(taken)
        });
        if !stagger.is_zero() {
            tokio::time::sleep(stagger).await;
        }
    }
    while let Some(done) = tasks.join_next().await {
        let result = done.context("a task of the measurement failed")?;
        row.time(result.as_ref().copied().unwrap_or_default(), &result);
    }
    Ok(row)
}

async fn first_result(bench: &Bench) -> Result<String> {
    let id = bench.spawn().await?.id.to_string();
    bench.client.exec(&id, &shell_true()).await?;
    Ok(id)
}

/// The smallest command that needs a shell.
pub(crate) fn shell_true() -> ExecRequest {
    ExecRequest {
        command: "true".to_owned(),
        ..ExecRequest::default()
    }
}

/// 100 creates at once: how many succeed, and when the last is running.
pub(crate) async fn burst(bench: &Bench) -> Result<Vec<Samples>> {
    let named = |row| bench.named(row);
    let mut wall =
        Samples::new(named("100 creates at once, wall"), Unit::Milliseconds).goal("<= 1000");
    let mut success =
        Samples::new(named("100 creates at once, successes"), Unit::Count).goal("100");
    let mut pace = bench.pace(5);
    while pace.another() {
        let begin = Instant::now();
        let mut tasks = JoinSet::new();
        for _ in 0..BURST {
            let (client, request) = (bench.client.clone(), bench.request());
            tasks.spawn(async move { client.spawn(&request).await });
        }
        let mut made = Vec::new();
        while let Some(done) = tasks.join_next().await {
            if let Ok(sandbox) = done.context("a task of the measurement failed")? {
                made.push(sandbox.id.to_string());
            }
        }
        wall.values.push(milliseconds(begin.elapsed()));
        success.values.push(f64::from(u32::try_from(made.len())?));
        let mut tasks = JoinSet::new();
        for id in made {
            let client = bench.client.clone();
            tasks.spawn(async move { client.destroy(&id).await });
        }
        while let Some(done) = tasks.join_next().await {
            done.context("a task of the measurement failed")??;
        }
        if let Some(floor) = &bench.floor {
            wall.floor.push(milliseconds(burst_floor(floor).await?));
        }
    }
    Ok(vec![wall, success])
}

async fn burst_floor(floor: &Floor) -> Result<Duration> {
    let begin = Instant::now();
    let made = futures_util::future::join_all((0..BURST).map(|_| floor.create())).await;
    let taken = begin.elapsed();
    let made: Vec<_> = made.into_iter().collect::<Result<_>>()?;
    let gone = made.into_iter().map(|(id, operations)| async move {
        drop(operations);
        floor.destroy(&id).await
    });
    for result in futures_util::future::join_all(gone).await {
        result?;
    }
    Ok(taken)
}

/// Create and destroy without a pause.
pub(crate) async fn sustained(bench: &Bench, target: &Target) -> Result<Vec<Samples>> {
    let name = format!(
        "create + destroy, {SUSTAINED_CLIENTS} clients, {}s",
        SUSTAINED_DURATION.as_secs()
    );
    let mut row = Samples::new(bench.named(&name), Unit::PerSecond).goal(">= 150");
    let before = target.own.as_ref().map(|own| machine::resident(own.pid()));
    let limit = SUSTAINED_DURATION.min(bench.time_limit);
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..SUSTAINED_CLIENTS {
        let (client, request) = (bench.client.clone(), bench.request());
        tasks.spawn(async move {
            let mut ends = Vec::new();
            while begin.elapsed() < limit {
                let sandbox = client.spawn(&request).await?;
                client.destroy(sandbox.id.as_str()).await?;
                ends.push(begin.elapsed());
            }
            anyhow::Ok(ends)
        });
    }
    let mut ends = Vec::new();
    while let Some(done) = tasks.join_next().await {
        ends.extend(done.context("a task of the measurement failed")??);
    }
    row.values = per_second(&ends, limit);
    if let (Some(before), Some(own)) = (before, target.own.as_ref()) {
        row.note = Some(format!(
            "{} cycles; server {:.1} MiB before, {:.1} MiB after",
            ends.len(),
            before,
            machine::resident(own.pid())
        ));
    }
    if let Some(floor) = &bench.floor {
        let limit = limit / 2;
        let begin = Instant::now();
        let client = || async {
            let mut ends = Vec::new();
            while begin.elapsed() < limit {
                let (id, operations) = floor.create().await?;
                drop(operations);
                floor.destroy(&id).await?;
                ends.push(begin.elapsed());
            }
            anyhow::Ok(ends)
        };
        let (one, two) = tokio::join!(client(), client());
        let ends: Vec<Duration> = one?.into_iter().chain(two?).collect();
        row.floor = per_second(&ends, limit);
    }
    Ok(vec![row])
}

/// How many ended in each whole second.
fn per_second(ends: &[Duration], limit: Duration) -> Vec<f64> {
    (0..limit.as_secs().max(1))
        .map(|second| {
            let count = ends.iter().filter(|end| end.as_secs() == second).count();
            f64::from(u32::try_from(count).unwrap_or(u32::MAX))
        })
        .collect()
}
