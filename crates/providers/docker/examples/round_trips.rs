//! Measures the latency of a command through the agent, by each way to it, beside the engine's own
//! exec; and of creating a sandbox, with and without warm containers. Prints percentiles of one run,
//! whose measurements are interleaved.
//!
//! Needs `STACYVM_TEST_DOCKER`, `STACYVM_TEST_DOCKER_IMAGE` (with `/bin/true`) and `STACYVM_AGENT_BIN`;
//! arguments: how many rounds (default 50), and names of runtimes (default `runc`).

use std::time::{Duration, Instant};

use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::StreamExt as _;
use stacyvm_docker::{DockerProvider, DockerSettings, EngineAddress, WarmSettings};
use stacyvm_provider::SandboxOps;
use stacyvm_provider::conformance::{Sandbox, eventually, spec};
use stacyvm_provider::ops::{ExecEvent, ExecSpec};
use stacyvm_provider::prelude::*;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut arguments = std::env::args().skip(1);
        let rounds = arguments.next().map_or(Ok(50), |text| text.parse())?;
        let mut runtimes: Vec<String> = arguments.collect();
        if runtimes.is_empty() {
            runtimes.push("runc".to_owned());
        }
        for runtime in runtimes {
            measure(&runtime, rounds).await?;
        }
        Ok(())
    })
}

/// Makes a provider for one way to the agent.
async fn provider(tag: &str, runtime: &str, attach: bool, warm: u32) -> Result<DockerProvider> {
    let engine = std::env::var("STACYVM_TEST_DOCKER")?;
    let tag = format!("trips-{tag}-{}", std::process::id());
    let address = EngineAddress::parse(&engine, None)?;
    let mut settings = DockerSettings::new(address, tag, std::env::var("STACYVM_AGENT_BIN")?);
    settings.default_image = std::env::var("STACYVM_TEST_DOCKER_IMAGE")?;
    settings.runtime = runtime.to_owned();
    settings.attach_only = attach;
    if warm > 0 {
        settings.warm = WarmSettings {
            images: [(settings.default_image.clone(), warm)].into(),
            memory_mb: 512,
            vcpus: stacyvm_types::Vcpus::ONE,
            pids_limit: 256,
            open_files: 1024,
            disk_mb: None,
        };
    }
    let provider = DockerProvider::new(settings)?;
    let health = provider.health().await;
    match health.error {
        Some(error) => Err(error.into()),
        None => Ok(provider),
    }
}

async fn measure(runtime: &str, rounds: usize) -> Result<()> {
    let near = provider("near", runtime, false, 0).await?;
    let far = provider("far", runtime, true, 0).await?;
    let ahead = provider("ahead", runtime, false, 1).await?;
    let docker = engine().await?;
    let shortest = make(&near).await?;
    let attached = make(&far).await?;
    let container = name_of(&docker, &shortest).await?;
    let mut took = [const { Vec::new() }; 3];
    for _ in 0..rounds {
        took[0].push(timed(run(&*shortest.ops)).await?);
        took[1].push(timed(run(&*attached.ops)).await?);
        took[2].push(timed(engine_exec(&docker, &container)).await?);
    }
    for (what, times) in ["shortest way", "attached", "the engine's exec"]
        .iter()
        .zip(took)
    {
        report(runtime, &format!("exec, {what}"), times);
    }
    near.destroy(&shortest.id).await?;
    far.destroy(&attached.id).await?;
    let mut took = [const { Vec::new() }; 2];
    ahead.list().await?;
    for _ in 0..rounds.min(10) {
        took[0].push(create(&near).await?);
        // Claimed when a warm container is ready; making the next one is not measured.
        let count = async || Ok(warm_of(&docker).await == 1);
        eventually("a container waits", count).await?;
        took[1].push(create(&ahead).await?);
    }
    for (what, times) in ["from nothing", "made ahead"].iter().zip(took) {
        report(runtime, &format!("create and first exec, {what}"), times);
    }
    for provider in [near, far, ahead] {
        provider.close().await;
    }
    Ok(())
}

async fn engine() -> Result<Docker> {
    let socket = std::env::var("STACYVM_TEST_DOCKER")?;
    let docker = Docker::connect_with_unix(&socket, 120, API_DEFAULT_VERSION)?;
    Ok(docker.negotiate_version().await?)
}

async fn make(provider: &DockerProvider) -> Result<Sandbox> {
    let wanted = spec(provider);
    let ops = provider.create(&wanted).await?;
    Ok(Sandbox { id: wanted.id, ops })
}

/// The time until a new sandbox has run its first command.
async fn create(provider: &DockerProvider) -> Result<Duration> {
    let begin = Instant::now();
    let sandbox = make(provider).await?;
    run(&*sandbox.ops).await?;
    let took = begin.elapsed();
    provider.destroy(&sandbox.id).await?;
    Ok(took)
}

async fn containers(docker: &Docker) -> Result<Vec<String>> {
    let all = docker.list_containers(None).await?;
    let names = all
        .into_iter()
        .flat_map(|one| one.names.unwrap_or_default());
    Ok(names.collect())
}

async fn name_of(docker: &Docker, sandbox: &Sandbox) -> Result<String> {
    let names = containers(docker).await?;
    let found = names
        .iter()
        .find(|name| name.ends_with(sandbox.id.as_str()));
    let found = found.ok_or("the sandbox has no container")?;
    Ok(found.trim_start_matches('/').to_owned())
}

async fn warm_of(docker: &Docker) -> usize {
    let ours = format!("stacyvm-trips-ahead-{}-warm-", std::process::id());
    let names = containers(docker).await.unwrap_or_default();
    names.iter().filter(|name| name.contains(&ours)).count()
}

async fn timed(what: impl Future<Output = Result<()>>) -> Result<Duration> {
    let begin = Instant::now();
    what.await?;
    Ok(begin.elapsed())
}

async fn run(ops: &dyn SandboxOps) -> Result<()> {
    let mut session = ops
        .exec(ExecSpec {
            argv: vec!["/bin/true".to_owned()],
            ..ExecSpec::default()
        })
        .await?;
    while let Some(event) = session.events.recv().await {
        if let ExecEvent::Exit(exit) = event {
            return if exit.exit_code == 0 {
                Ok(())
            } else {
                Err("true was false".into())
            };
        }
    }
    Err("the command's connection was lost".into())
}

async fn engine_exec(docker: &Docker, container: &str) -> Result<()> {
    let exec = docker
        .create_exec(
            container,
            CreateExecOptions {
                attach_stdout: Some(true),
                cmd: Some(vec!["/bin/true"]),
                ..CreateExecOptions::default()
            },
        )
        .await?;
    let options = None::<StartExecOptions>;
    if let StartExecResults::Attached { mut output, .. } =
        docker.start_exec(&exec.id, options).await?
    {
        while output.next().await.is_some() {}
    }
    let exit = docker.inspect_exec(&exec.id).await?.exit_code;
    (exit == Some(0))
        .then_some(())
        .ok_or_else(|| "true was false".into())
}

fn report(runtime: &str, what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1e3;
    println!(
        "{runtime:8} {what:45} p50 {:8.2} ms   p95 {:8.2} ms",
        at(50),
        at(95)
    );
}
