//! One pull from start to end: what the image is, its layers on several threads, the image.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::download::Download;
use crate::image_config::{ConfigFile, MAX_CONFIG};
use crate::manifest::{Descriptor, Document, Manifest};
use crate::registry::Remote;
use crate::store::{Layer, layer};
use crate::unpack::ArchiveKind;
use crate::{
    Digest, Image, ImageError, ImageStore, LayerStage, PullOptions, PullPolicy, PullProgress,
    Pulled, Reference,
};

/// Who is told how far a pull is.
pub(crate) type Listener<'a> = &'a (dyn Fn(PullProgress) + Sync);

pub(crate) fn pull(
    store: &ImageStore,
    reference: &Reference,
    options: &PullOptions,
    progress: Listener<'_>,
) -> Result<Pulled, ImageError> {
    options.cancel.check()?;
    let local = store
        .get(&reference.to_string())?
        .filter(|image| options.platform.accepts(&image.platform));
    if options.policy == PullPolicy::Missing
        && let Some(image) = local
    {
        return Ok(cached(image));
    }
    // Keeps what crashes left from being swept while this goes on.
    let _busy = store.layout().busy()?;
    let remote = Remote::new(reference, options)?;
    let wanted = Wanted::resolve(&remote, reference, options)?;
    if let Some(image) = local
        && image.digest == wanted.digest.to_string()
    {
        return Ok(cached(image));
    }
    progress(PullProgress::Resolved {
        digest: wanted.digest.to_string(),
        layers: wanted.manifest.layers.len(),
        bytes: wanted.manifest.layers.iter().map(|layer| layer.size).sum(),
    });
    let config = remote.small_blob(
        wanted.endpoint,
        &wanted.manifest.config,
        MAX_CONFIG,
        "the configuration",
    )?;
    let digest = wanted.digest.to_string();
    let parsed = ConfigFile::parse(&config)?;
    let platform = parsed.platform();
    if !options.platform.accepts(&platform) {
        return Err(ImageError::Platform {
            image: reference.to_string(),
            wanted: options.platform.to_string(),
            available: platform.to_string(),
        });
    }
    // Under another name, or from another registry, it may be there.
    if let Some(image) = store.rename(Digest::of(&config), &digest, reference)? {
        return Ok(cached(image));
    }
    let tasks = wanted.tasks(&parsed, store)?;
    let crew = Crew {
        store,
        options,
        remote: &remote,
        endpoint: wanted.endpoint,
        progress,
        tasks: Mutex::new(tasks),
        layers: Mutex::new(Vec::new()),
        failure: Mutex::new(None),
        stopped: AtomicBool::new(false),
        downloaded: AtomicU64::new(0),
    };
    let layers = crew.work()?;
    let image = store.publish(&config, &digest, &layers, Some((reference, true)))?;
    Ok(Pulled {
        image,
        cached: false,
        downloaded: crew.downloaded.into_inner(),
    })
}

fn cached(image: Image) -> Pulled {
    Pulled {
        image,
        cached: true,
        downloaded: 0,
    }
}

/// What the registry says the image is.
struct Wanted {
    manifest: Manifest,
    digest: Digest,
    endpoint: usize,
}

impl Wanted {
    fn resolve(
        remote: &Remote<'_>,
        reference: &Reference,
        options: &PullOptions,
    ) -> Result<Self, ImageError> {
        let (bytes, digest, endpoint) = remote.named()?;
        match Document::parse(&bytes)? {
            Document::Manifest(manifest) => Ok(Self {
                manifest,
                digest,
                endpoint,
            }),
            Document::Index(index) => {
                let image = reference.to_string();
                let chosen = index.choose(&image, &options.platform)?;
                let bytes = remote.manifest_of(endpoint, chosen)?;
                match Document::parse(&bytes)? {
                    Document::Manifest(manifest) => Ok(Self {
                        manifest,
                        digest: chosen.digest,
                        endpoint,
                    }),
                    Document::Index(_) => Err(ImageError::Archive(
                        "the index names another index for this platform".to_owned(),
                    )),
                }
            }
        }
    }

    /// Each layer once, with the digest that it has when it is uncompressed.
    fn tasks(&self, config: &ConfigFile, store: &ImageStore) -> Result<VecDeque<Task>, ImageError> {
        let layers = &self.manifest.layers;
        if layers.len() != config.rootfs.diff_ids.len() {
            return Err(ImageError::Archive(format!(
                "the manifest has {} layers, the configuration {}",
                layers.len(),
                config.rootfs.diff_ids.len()
            )));
        }
        let limit = store.limits().bytes;
        let total = layers
            .iter()
            .try_fold(0_u64, |sum, layer| sum.checked_add(layer.size));
        if total.is_none_or(|total| total > limit) {
            return Err(ImageError::Limit(format!(
                "its compressed layers have more than {limit} bytes"
            )));
        }
        let mut seen = HashSet::new();
        Ok(layers
            .iter()
            .zip(&config.rootfs.diff_ids)
            .filter(|(_, diff_id)| seen.insert(**diff_id))
            .map(|(blob, diff_id)| Task {
                blob: blob.clone(),
                diff_id: *diff_id,
            })
            .collect())
    }
}

/// A layer to be fetched.
#[derive(Clone, Debug)]
struct Task {
    blob: Descriptor,
    diff_id: Digest,
}

/// Threads that fetch the layers of one image.
struct Crew<'a> {
    store: &'a ImageStore,
    options: &'a PullOptions,
    remote: &'a Remote<'a>,
    endpoint: usize,
    progress: Listener<'a>,
    tasks: Mutex<VecDeque<Task>>,
    layers: Mutex<Vec<Layer>>,
    failure: Mutex<Option<ImageError>>,
    /// Set when one thread has failed: the others need not go on.
    stopped: AtomicBool,
    downloaded: AtomicU64,
}

impl Crew<'_> {
    fn work(&self) -> Result<Vec<Layer>, ImageError> {
        let threads = self.options.parallel.clamp(1, 16);
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| self.run());
            }
        });
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = { failure }.take() {
            return Err(error);
        }
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut *layers))
    }

    fn run(&self) {
        while !self.stopped.load(Ordering::Relaxed) {
            let next = self
                .tasks
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front();
            let Some(task) = next else {
                return;
            };
            match self.fetch(&task) {
                Ok(layer) => self
                    .layers
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(layer),
                Err(error) => {
                    let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
                    // The first one is the cause of the others.
                    failure.get_or_insert(error);
                    self.stopped.store(true, Ordering::Relaxed);
                }
            }
        }
    }

    fn check(&self) -> Result<(), ImageError> {
        self.options.cancel.check()?;
        match self.stopped.load(Ordering::Relaxed) {
            true => Err(ImageError::Cancelled),
            false => Ok(()),
        }
    }

    fn tell(&self, task: &Task, stage: LayerStage) {
        (self.progress)(PullProgress::Layer {
            digest: task.blob.digest.to_string(),
            size: task.blob.size,
            stage,
        });
    }

    fn fetch(&self, task: &Task) -> Result<Layer, ImageError> {
        let layout = self.store.layout();
        let check = || self.check();
        let waiting = &mut || self.tell(task, LayerStage::Waiting);
        let _claim = layout.claim(task.diff_id, waiting, &check)?;
        if let Some(layer) = layer::find(layout, task.diff_id)? {
            self.tell(task, LayerStage::Cached);
            return Ok(layer);
        }
        let download = Download {
            remote: self.remote,
            options: self.options,
            blob: &task.blob,
            place: layout.partial(task.blob.digest),
            check: &check,
            tell: &|stage| self.tell(task, stage),
        };
        let (file, came) = download.run(self.endpoint)?;
        self.downloaded.fetch_add(came, Ordering::Relaxed);
        let made = layer::make(
            layout,
            file,
            Some(task.diff_id),
            self.store.unpack_options(ArchiveKind::Layer),
            &mut |progress| {
                let done = progress.read;
                self.tell(task, LayerStage::Unpacking { done });
                self.check()
            },
        );
        match &made {
            // All of it is there; the next attempt need not fetch it again.
            Err(ImageError::Cancelled) => {}
            _ => download.forget(),
        }
        let layer = made?;
        self.tell(task, LayerStage::Done);
        Ok(layer)
    }
}
