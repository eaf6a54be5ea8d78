//! Rows about work in a live sandbox: commands, files, streams, and looking at it.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use stacyvm_provider::SandboxOps;
use stacyvm_types::{ExecRequest, FileMode, SandboxId};
use tokio::task::JoinSet;

use super::floor;
use super::life::shell_true;
use super::measurement::{Bench, WARM_UP, timed};
use super::samples::{Samples, Unit, milliseconds};

/// How much the stream row prints, bytes.
const STREAMED_BYTES: u64 = 200_000_000;
/// The large file, bytes.
const LARGE_FILE: usize = 10_000_000;
/// How long the row `get` goes on.
const GET_DURATION: Duration = Duration::from_secs(3);

/// A sandbox of the API and, beside it, a box of the floor.
struct SandboxPair {
    id: String,
    floor: Option<(SandboxId, Arc<dyn SandboxOps>)>,
}

impl SandboxPair {
    async fn make(bench: &Bench) -> Result<Self> {
        let floor = match &bench.floor {
            Some(floor) => Some(floor.create().await?),
            None => None,
        };
        let id = bench.spawn().await?.id.to_string();
        Ok(Self { id, floor })
    }

    fn operations(&self) -> Option<&dyn SandboxOps> {
        self.floor
            .as_ref()
            .map(|(_, operations)| operations.as_ref())
    }

    async fn end(self, bench: &Bench) -> Result<()> {
        bench.client.destroy(&self.id).await?;
        if let (Some(floor), Some((id, operations))) = (&bench.floor, self.floor) {
            drop(operations);
            floor.destroy(&id).await?;
        }
        Ok(())
    }
}

/// Commands: one that needs a shell, and a static program.
pub(crate) async fn exec(bench: &Bench) -> Result<Vec<Samples>> {
    let pair = SandboxPair::make(bench).await?;
    let mut rows = Vec::new();
    let goal = "p50 <= 2.5";
    let shell = ["sh", "-c", "true"];
    rows.push(exec_row(bench, &pair, "exec sh -c true", goal, shell_true(), &shell).await?);
    let busybox = "/bin/busybox";
    let words = if is_static(bench, &pair, busybox).await {
        vec![busybox, "true"]
    } else {
        place_static(bench, &pair).await?;
        vec![STATIC_PROGRAM, "--version"]
    };
    let request = ExecRequest {
        command: words[0].to_owned(),
        args: Some(words[1..].iter().map(|word| (*word).to_owned()).collect()),
        mode: Some("argv".to_owned()),
        ..ExecRequest::default()
    };
    let name = format!("exec argv {}", words.join(" "));
    rows.push(exec_row(bench, &pair, &name, "p50 <= 1", request, &words).await?);
    pair.end(bench).await?;
    Ok(rows)
}

async fn exec_row(
    bench: &Bench,
    pair: &SandboxPair,
    name: &str,
    goal: &'static str,
    request: ExecRequest,
    argv: &[&str],
) -> Result<Samples> {
    let mut row = Samples::new(name, Unit::Milliseconds).goal(goal);
    let mut warm_up = WARM_UP;
    let mut pace = bench.pace(bench.iterations + WARM_UP);
    while pace.another() {
        let counts = warm_up == 0;
        warm_up = warm_up.saturating_sub(1);
        let (taken, result) = timed(bench.client.exec(&pair.id, &request)).await;
        if counts {
            row.time(taken, &result);
        }
        let response = result.with_context(|| format!("cannot run {}", argv[0]))?;
        ensure!(
            response.exit_code == 0,
            "{} exited with {}: {}",
            argv[0],
            response.exit_code,
            response.stderr.trim()
        );
        if let Some(operations) = pair.operations() {
            let (taken, result) = timed(floor::execute(operations, argv)).await;
            result?;
            if counts {
                row.floor.push(milliseconds(taken));
            }
        }
    }
    Ok(row)
}

/// Where the static program goes when the image has none.
const STATIC_PROGRAM: &str = "/workspace/static-program";
const EXECUTABLE: FileMode = FileMode::from_bits(0o755);

/// An upload in one piece.
fn whole(content: Bytes) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    futures_util::stream::once(std::future::ready(Ok(content)))
}

async fn read_whole(bench: &Bench, id: &str, path: &str) -> Result<Bytes> {
    Ok(bench.client.read_file(id, path).await?)
}

/// Whether the image has a program there that needs no loader.
async fn is_static(bench: &Bench, pair: &SandboxPair, path: &str) -> bool {
    let Ok(content) = read_whole(bench, &pair.id, path).await else {
        return false;
    };
    // A dynamic program names its loader near its beginning.
    let head = &content[..content.len().min(4096)];
    content.starts_with(b"\x7fELF") && !head.windows(8).any(|piece| piece == b"ld-linux")
}

/// Copies our own static program into both.
async fn place_static(bench: &Bench, pair: &SandboxPair) -> Result<()> {
    let agent = crate::embedded::Program::Agent.locate(&std::env::temp_dir())?;
    let content = Bytes::from(std::fs::read(agent).context("cannot read the agent")?);
    let mode = EXECUTABLE.to_string();
    let data = whole(content.clone());
    bench
        .client
        .write_file_stream(&pair.id, STATIC_PROGRAM, Some(&mode), data)
        .await?;
    if let Some(operations) = pair.operations() {
        floor::write(operations, STATIC_PROGRAM, content).await?;
        operations.chmod(STATIC_PROGRAM, EXECUTABLE).await?;
    }
    Ok(())
}

/// Files: small ones by time, large ones by speed.
pub(crate) async fn files(bench: &Bench) -> Result<Vec<Samples>> {
    let pair = SandboxPair::make(bench).await?;
    let mut rows = Vec::new();
    for (size, unit, count, names, goals) in [
        (
            1024,
            Unit::Milliseconds,
            bench.iterations,
            ["write 1 KB", "read 1 KB"],
            ["p50 <= 1", "p50 <= 0.5"],
        ),
        (
            LARGE_FILE,
            Unit::MegabytesPerSecond,
            bench.iterations.min(50),
            ["write 10 MB", "read 10 MB"],
            [">= 500", ">= 1500"],
        ),
    ] {
        let mut write = Samples::new(names[0], unit).goal(goals[0]);
        let mut read = Samples::new(names[1], unit).goal(goals[1]);
        let content = Bytes::from(vec![b'x'; size]);
        let path = "/workspace/bench-file";
        let figure = |taken: Duration| match unit {
            Unit::MegabytesPerSecond => megabytes_per_second(size as u64, taken),
            _ => milliseconds(taken),
        };
        let mut warm_up = WARM_UP;
        let mut pace = bench.pace(count + WARM_UP);
        while pace.another() {
            let counts = warm_up == 0;
            warm_up = warm_up.saturating_sub(1);
            let data = whole(content.clone());
            let (wrote, result) =
                timed(bench.client.write_file_stream(&pair.id, path, None, data)).await;
            result.context("cannot write the file")?;
            let (got, result) = timed(read_whole(bench, &pair.id, path)).await;
            ensure!(
                result.context("cannot read the file")?.len() == size,
                "the file came back with another size"
            );
            if counts {
                write.values.push(figure(wrote));
                read.values.push(figure(got));
            }
            if let Some(operations) = pair.operations() {
                let (wrote, result) = timed(floor::write(operations, path, content.clone())).await;
                result?;
                let (got, result) = timed(floor::read(operations, path)).await;
                result?;
                if counts {
                    write.floor.push(figure(wrote));
                    read.floor.push(figure(got));
                }
            }
        }
        rows.extend([write, read]);
    }
    pair.end(bench).await?;
    Ok(rows)
}

/// Streamed output: how fast, and how late the first piece is.
pub(crate) async fn stream(bench: &Bench) -> Result<Vec<Samples>> {
    let pair = SandboxPair::make(bench).await?;
    let mut speed = Samples::new("streamed output", Unit::MegabytesPerSecond).goal(">= 300");
    let text = format!(
        "yes {} | head -c {STREAMED_BYTES}",
        "0123456789abcdef".repeat(64)
    );
    let mut pace = bench.pace(5);
    while pace.another() {
        let (taken, count) = timed(streamed(bench, &pair.id, &text)).await;
        let (count, _) = count?;
        ensure!(
            count == STREAMED_BYTES,
            "{count} of {STREAMED_BYTES} bytes arrived"
        );
        speed.values.push(megabytes_per_second(count, taken));
        if let Some(operations) = pair.operations() {
            let (taken, count) = timed(floor::count_output(operations, &["sh", "-c", &text])).await;
            speed.floor.push(megabytes_per_second(count?, taken));
        }
    }
    // The command prints the clock's time; the host's clock is the same one. That includes what
    // `date` needs from looking at the clock to writing, and the way through a pipe.
    let mut late = Samples::new("first chunk after it is printed", Unit::Milliseconds).goal("<= 3");
    let mut pace = bench.pace(bench.iterations.min(50) + WARM_UP);
    let mut warm_up = WARM_UP;
    while pace.another() {
        let (_, first) = streamed(bench, &pair.id, "date +%s.%N; sleep 0.02").await?;
        let Some((arrived, text)) = first else {
            late.failures += 1;
            continue;
        };
        let printed: f64 = text.trim().parse().context("the time is no number")?;
        if warm_up > 0 {
            warm_up -= 1;
        } else {
            late.values.push((arrived - printed) * 1000.0);
        }
    }
    pair.end(bench).await?;
    Ok(vec![speed, late])
}

/// How many bytes of output came, and the first piece with the time of its arrival.
async fn streamed(bench: &Bench, id: &str, command: &str) -> Result<(u64, Option<(f64, String)>)> {
    let request = ExecRequest {
        command: command.to_owned(),
        stream: Some(true),
        ..ExecRequest::default()
    };
    let mut lines = bench.client.exec_stream(id, &request).await?;
    let (mut count, mut first) = (0, None);
    while let Some(line) = lines.next().await {
        let line = line?;
        if line.stream == "exit" {
            ensure!(line.exit_code == Some(0), "{command} failed");
            break;
        }
        count += line.data.len() as u64;
        if first.is_none() {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .context("the clock stands before 1970")?;
            first = Some((now.as_secs_f64(), line.data));
        }
    }
    Ok((count, first))
}

/// How often a second one sandbox can be looked at.
pub(crate) async fn get(bench: &Bench) -> Result<Vec<Samples>> {
    let id = bench.spawn().await?.id.to_string();
    let name = format!("GET /sandboxes/{{id}}, {} connections", bench.concurrency);
    let mut row = Samples::new(name, Unit::PerSecond).goal(">= 20000");
    row.note = Some("client and server share the machine's cores".to_owned());
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..bench.concurrency {
        let (client, id) = (bench.client.clone(), id.clone());
        tasks.spawn(async move {
            let mut counts = vec![0u32; usize::try_from(GET_DURATION.as_secs()).unwrap_or(1)];
            while begin.elapsed() < GET_DURATION {
                client.get(&id).await?;
                let second = usize::try_from(begin.elapsed().as_secs()).unwrap_or(0);
                if let Some(count) = counts.get_mut(second) {
                    *count += 1;
                }
            }
            anyhow::Ok(counts)
        });
    }
    let mut total = vec![0u32; usize::try_from(GET_DURATION.as_secs()).unwrap_or(1)];
    while let Some(done) = tasks.join_next().await {
        let counts = done.context("a task of the measurement failed")??;
        for (sum, count) in total.iter_mut().zip(counts) {
            *sum += count;
        }
    }
    row.values = total.into_iter().map(f64::from).collect();
    bench.client.destroy(&id).await?;
    Ok(vec![row])
}

#[expect(
    clippy::cast_precision_loss,
    reason = "sizes of a measurement are far below 2^52"
)]
fn megabytes_per_second(bytes: u64, taken: Duration) -> f64 {
    bytes as f64 / 1e6 / taken.as_secs_f64()
}
