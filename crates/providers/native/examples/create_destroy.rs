//! Takes the time of create and destroy through the provider, without a server:
//! `create_destroy LAUNCHER [ROUNDS [LAUNCHERS [DISK_MB|network]]]`. Prints milliseconds. With a size of
//! disk also of sandboxes that have such a limit, taken in turns with those that have none; with the
//! word `network` each sandbox has one: run it under `unshare --net`, and the host's stays as it is.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use stacyvm_native::{NativeConfig, NativeProvider, NetworkChoice};
use stacyvm_provider::BoxSpec;
use stacyvm_provider::prelude::*;
use stacyvm_types::SandboxId;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let launcher: PathBuf = arguments
        .next()
        .context("name the launcher program")?
        .into();
    let rounds: u32 = arguments.next().map_or(Ok(300), |text| text.parse())?;
    let launchers: usize = arguments.next().map_or(Ok(0), |text| text.parse())?;
    let last = arguments.next();
    let network = last.as_deref() == Some("network");
    let disk_mb: Option<u64> = last
        .filter(|_| !network)
        .map(|text| text.parse())
        .transpose()?;
    let home = tempfile::tempdir()?;
    let mut config = NativeConfig::new(home.path(), launcher);
    config.instance = format!("measure-{}", std::process::id());
    config.launchers = launchers;
    if network {
        config.network.choice = NetworkChoice::Bridge;
    }
    let provider = std::sync::Arc::new(NativeProvider::start(config).await?);

    let (mut create, mut destroy) = (Vec::new(), Vec::new());
    let (mut limited_create, mut limited_destroy) = (Vec::new(), Vec::new());
    for number in 0..rounds + 20 {
        if disk_mb.is_some() {
            let mut spec = spec(8_000_000 + number, &provider);
            spec.disk_mb = disk_mb;
            let (made, ended) = live(&provider, &spec).await?;
            if number >= 20 {
                limited_create.push(made);
                limited_destroy.push(ended);
            }
        }
        let (made, ended) = live(&provider, &spec(number, &provider)).await?;
        if number >= 20 {
            create.push(made);
            destroy.push(ended);
        }
    }
    report("create", create);
    report("destroy", destroy);
    if disk_mb.is_some() {
        report("create, disk limited", limited_create);
        report("destroy, disk limited", limited_destroy);
    }

    let started = Instant::now();
    let tasks: Vec<_> = (0..100)
        .map(|number| {
            let provider = provider.clone();
            tokio::spawn(async move { provider.create(&spec(1_000_000 + number, &provider)).await })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    println!("100 at once: {:.0} ms", millis(started.elapsed()));
    let started = Instant::now();
    for number in 0..100 {
        provider
            .destroy(&SandboxId::from_u32(1_000_000 + number))
            .await?;
    }
    println!("destroy 100: {:.0} ms", millis(started.elapsed()));

    let started = Instant::now();
    let clients: Vec<_> = (0..2)
        .map(|client| {
            let provider = provider.clone();
            tokio::spawn(async move {
                for number in 0..rounds {
                    let spec = spec(2_000_000 + client * 1_000_000 + number, &provider);
                    provider.create(&spec).await?;
                    provider.destroy(&spec.id).await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for client in clients {
        client.await??;
    }
    let each = f64::from(2 * rounds) / started.elapsed().as_secs_f64();
    println!("create and destroy, 2 clients: {each:.0} a second");
    provider.close().await;
    Ok(())
}

/// Makes a sandbox and destroys it; how long each took.
async fn live(provider: &NativeProvider, spec: &BoxSpec) -> anyhow::Result<(Duration, Duration)> {
    let started = Instant::now();
    provider.create(spec).await?;
    let made = started.elapsed();
    let started = Instant::now();
    provider.destroy(&spec.id).await?;
    Ok((made, started.elapsed()))
}

fn spec(number: u32, provider: &NativeProvider) -> BoxSpec {
    BoxSpec {
        id: SandboxId::from_u32(number),
        image: "host".to_owned(),
        isolation: provider.isolation(),
        memory_mb: 1024,
        vcpus: stacyvm_types::Vcpus::ONE,
        pids_limit: 256,
        open_files: 1024,
        disk_mb: None,
        read_only_rootfs: false,
        network: provider.default_network(),
        user: None,
        workdir: None,
        env: Default::default(),
    }
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: f64| millis(times[((times.len() - 1) as f64 * share) as usize]);
    println!(
        "{what}: min {:.2}  p50 {:.2}  p95 {:.2}  p99 {:.2}  max {:.2}",
        at(0.0),
        at(0.5),
        at(0.95),
        at(0.99),
        at(1.0)
    );
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
