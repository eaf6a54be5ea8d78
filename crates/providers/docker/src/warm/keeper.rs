//! The one task that makes warm containers, in the background and one at a time.
//!
//! What stands in its way is tried again, ever more rarely: an engine that is away, an image that is
//! not here yet.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::{ContainerSummary, ContainerSummaryStateEnum as State};
use bollard::query_parameters::ListContainersOptions;
use rustix::rand::{GetRandomFlags, getrandom};
use stacyvm_provider::{BoxSpec, ProviderError};
use stacyvm_types::{Isolation, SandboxId};

use super::Ready;
use super::shape::{Adjustable, SHAPE_LABEL, Shape};
use crate::create;
use crate::engine::{EngineError, QUICK};
use crate::inner::{Inner, locked};
use crate::removal;

/// How often it is looked whether they still live.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// The pauses after a failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(120);

/// Works until it is dropped.
pub(super) async fn keep(inner: Arc<Inner>) {
    let mut pause = FIRST_PAUSE;
    let mut inherited = false;
    loop {
        match tend(&inner, &mut inherited).await {
            Ok(()) if inner.settings.warm.images.is_empty() => return,
            Ok(()) => {
                pause = FIRST_PAUSE;
                let _ = tokio::time::timeout(LOOK_EVERY, inner.warm.taken.notified()).await;
            }
            Err(error) => {
                tracing::debug!(%error, "Warm containers cannot be made now");
                tokio::time::sleep(pause + pause.mul_f64(jitter())).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Between 0 and 1.
fn jitter() -> f64 {
    f64::from(u16::from_ne_bytes(random())) / f64::from(u16::MAX)
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Without random numbers a name may be taken, and then another try is made.
    let _ = getrandom(&mut bytes, GetRandomFlags::empty());
    bytes
}

/// Looks once at what there is, and makes what is missing.
async fn tend(inner: &Inner, inherited: &mut bool) -> Result<(), ProviderError> {
    let found = list(inner).await?;
    let wanted = wanted(inner).await;
    if *inherited {
        forget_the_dead(inner, &found, &wanted).await;
    } else {
        inherit(inner, found, &wanted).await;
        *inherited = true;
    }
    let mut failed = None;
    for (body, image, count) in &wanted {
        let body = match body {
            Ok(body) => body,
            Err(error) => {
                failed = Some(format!("image {image:?}: {error}"));
                continue;
            }
        };
        while have(inner, &body.shape) < *count {
            if let Err(error) = make(inner, image, body).await {
                failed = Some(format!("image {image:?}: {error}"));
                break;
            }
        }
    }
    failed.map_or(Ok(()), |message| {
        Err(ProviderError::Backend {
            step: "make a warm container",
            message,
            source: None,
        })
    })
}

fn have(inner: &Inner, shape: &Shape) -> usize {
    let ready = locked(&inner.warm.ready);
    ready.iter().filter(|one| one.shape == *shape).count()
}

struct Wanted {
    shape: Shape,
    has: Adjustable,
    making: create::Making,
}

type Row = (Result<Wanted, ProviderError>, String, usize);

/// What each image's containers look like now: an image of the same name may be another one.
async fn wanted(inner: &Inner) -> Vec<Row> {
    let mut rows = Vec::new();
    for (image, count) in &inner.settings.warm.images {
        let making = create::plan(inner, &spec(inner, image)).await;
        let wanted = making.map(|making| Wanted {
            shape: Shape::of(&making.body),
            has: Adjustable::of(&making.body),
            making,
        });
        let count = usize::try_from(*count).unwrap_or(usize::MAX);
        rows.push((wanted, image.clone(), count));
    }
    rows
}

/// What a spawn that says nothing but an image asks for.
fn spec(inner: &Inner, image: &str) -> BoxSpec {
    let warm = &inner.settings.warm;
    BoxSpec {
        id: SandboxId::from_u32(0),
        image: image.to_owned(),
        // The weakest that a container can be: any runtime will do, and that is the usual one.
        isolation: Isolation::Container,
        memory_mb: warm.memory_mb,
        vcpus: warm.vcpus,
        pids_limit: warm.pids_limit,
        open_files: warm.open_files,
        disk_mb: warm.disk_mb,
        read_only_rootfs: false,
        network: inner.default_network(),
        user: None,
        workdir: None,
        env: Default::default(),
    }
}

async fn make(inner: &Inner, image: &str, wanted: &Wanted) -> Result<(), ProviderError> {
    let name = inner.house.names.warm(u64::from_ne_bytes(random()));
    let mut making = wanted.making.clone();
    making.name = name.clone();
    making.body.hostname = Some("sandbox".to_owned());
    let mut labels: HashMap<_, _> = inner.house.names.labels(None);
    labels.insert(SHAPE_LABEL.to_owned(), wanted.shape.label());
    making.body.labels = Some(labels);
    // Its connection ends here; who claims it makes another one.
    create::start(inner, &making).await?;
    tracing::debug!(container = name, image, "A warm container waits");
    locked(&inner.warm.ready).push(Ready {
        name,
        shape: wanted.shape.clone(),
        has: wanted.has,
    });
    Ok(())
}

/// Takes over what an earlier server left, where it is what is wanted now, and removes the rest.
async fn inherit(inner: &Inner, found: Vec<Found>, wanted: &[Row]) {
    for one in found {
        let row = wanted.iter().find_map(|(row, _, count)| {
            let row = row.as_ref().ok()?;
            (one.running && one.shape.as_ref() == Some(&row.shape)).then_some((row, *count))
        });
        match row {
            Some((row, count)) if have(inner, &row.shape) < count => {
                // Its limits are not known, so they are set anew before it is used.
                locked(&inner.warm.ready).push(Ready {
                    name: one.name,
                    shape: row.shape.clone(),
                    has: Adjustable::default(),
                });
            }
            _ => remove(inner, &one.name).await,
        }
    }
}

/// Those that ended, and those of an image that is another one now.
async fn forget_the_dead(inner: &Inner, found: &[Found], wanted: &[Row]) {
    let mut gone = Vec::new();
    locked(&inner.warm.ready).retain(|one| {
        let lives = found
            .iter()
            .any(|found| found.running && found.name == one.name);
        // What cannot be told now may be told later.
        let is_wanted = wanted
            .iter()
            .any(|(row, _, _)| row.as_ref().map_or(true, |row| row.shape == one.shape));
        let keeps = lives && is_wanted;
        if !keeps {
            gone.push(one.name.clone());
        }
        keeps
    });
    for name in gone {
        remove(inner, &name).await;
    }
}

async fn remove(inner: &Inner, name: &str) {
    if let Err(error) = removal::container(inner, name).await {
        tracing::warn!(container = name, %error, "A warm container cannot be removed");
    }
}

/// Removes all of this server's, whoever made them.
pub(super) async fn remove_all(inner: &Inner) -> Result<(), ProviderError> {
    for found in list(inner).await? {
        removal::container(inner, &found.name).await?;
    }
    Ok(())
}

/// A warm container in the engine.
struct Found {
    name: String,
    running: bool,
    shape: Option<Shape>,
}

async fn list(inner: &Inner) -> Result<Vec<Found>, EngineError> {
    let options = ListContainersOptions {
        all: true,
        filters: Some(inner.house.names.filter()),
        ..ListContainersOptions::default()
    };
    let listing = inner
        .engine
        .ask("list the containers", QUICK, |docker| async move {
            docker.list_containers(Some(options)).await
        });
    let names = &inner.house.names;
    let warm = |found: ContainerSummary| {
        let all = found.names.unwrap_or_default();
        let name = all.iter().find(|name| names.is_warm(name))?;
        let labels = found.labels.unwrap_or_default();
        Some(Found {
            name: name.trim_start_matches('/').to_owned(),
            running: found.state == Some(State::RUNNING),
            shape: labels.get(SHAPE_LABEL).map(|text| Shape::from_label(text)),
        })
    };
    Ok(listing.await?.into_iter().filter_map(warm).collect())
}
