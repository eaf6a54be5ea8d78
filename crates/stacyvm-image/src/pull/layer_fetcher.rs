//! Fetching the layers of one image on several threads.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use parking_lot::Mutex;

use super::download::Download;
use super::options::PullOptions;
use super::progress::{LayerStage, PullProgress};
use crate::manifest::Descriptor;
use crate::registry::RegistryClient;
use crate::store::{ContentStore, Layer, layer};
use crate::unpack::ArchiveKind;
use crate::{Digest, ImageError};

/// How many layers are fetched at once at most, whatever the options say.
const MAX_THREADS: usize = 16;

/// Called with the progress of a pull, from several threads.
pub(crate) type ProgressListener<'a> = &'a (dyn Fn(PullProgress) + Sync);

/// A layer to be fetched.
#[derive(Clone, Debug)]
pub(super) struct LayerTask {
    pub(super) blob: Descriptor,
    /// The digest that the layer has when it is uncompressed.
    pub(super) diff_id: Digest,
}

/// The layers of one image that are still to be fetched, and those that are there.
pub(super) struct LayerFetcher<'a> {
    store: &'a ContentStore,
    options: &'a PullOptions,
    client: &'a RegistryClient<'a>,
    endpoint: usize,
    progress: ProgressListener<'a>,
    tasks: Mutex<VecDeque<LayerTask>>,
    layers: Mutex<Vec<Layer>>,
    failure: Mutex<Option<ImageError>>,
    /// Set when one thread has failed: the others need not go on.
    stopped: AtomicBool,
    downloaded: AtomicU64,
}

impl<'a> LayerFetcher<'a> {
    pub(super) fn new(
        store: &'a ContentStore,
        options: &'a PullOptions,
        client: &'a RegistryClient<'a>,
        endpoint: usize,
        progress: ProgressListener<'a>,
        tasks: VecDeque<LayerTask>,
    ) -> Self {
        Self {
            store,
            options,
            client,
            endpoint,
            progress,
            tasks: Mutex::new(tasks),
            layers: Mutex::new(Vec::new()),
            failure: Mutex::new(None),
            stopped: AtomicBool::new(false),
            downloaded: AtomicU64::new(0),
        }
    }

    /// Fetches all layers. Answers them, and how many bytes came over the network.
    pub(super) fn fetch_all(self) -> Result<(Vec<Layer>, u64), ImageError> {
        let threads = self.options.parallel.clamp(1, MAX_THREADS);
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| self.fetch_next_layers());
            }
        });
        match self.failure.into_inner() {
            Some(error) => Err(error),
            None => Ok((self.layers.into_inner(), self.downloaded.into_inner())),
        }
    }

    /// Fetches one layer after another until none is left or a thread fails.
    fn fetch_next_layers(&self) {
        while !self.stopped.load(Ordering::Relaxed) {
            let next = self.tasks.lock().pop_front();
            let Some(task) = next else {
                return;
            };
            match self.fetch(&task) {
                Ok(layer) => self.layers.lock().push(layer),
                Err(error) => {
                    // The first one is the cause of the others.
                    self.failure.lock().get_or_insert(error);
                    self.stopped.store(true, Ordering::Relaxed);
                }
            }
        }
    }

    /// An error when the pull is cancelled or another thread failed.
    fn check(&self) -> Result<(), ImageError> {
        self.options.cancel.check()?;
        match self.stopped.load(Ordering::Relaxed) {
            true => Err(ImageError::Cancelled),
            false => Ok(()),
        }
    }

    fn report(&self, task: &LayerTask, stage: LayerStage) {
        (self.progress)(PullProgress::Layer {
            digest: task.blob.digest.to_string(),
            size: task.blob.size,
            stage,
        });
    }

    fn fetch(&self, task: &LayerTask) -> Result<Layer, ImageError> {
        let layout = self.store.layout();
        let check = || self.check();
        let waiting = &mut || self.report(task, LayerStage::Waiting);
        let _lock = layout.lock_layer(task.diff_id, waiting, &check)?;
        if let Some(layer) = layer::find(layout, task.diff_id)? {
            self.report(task, LayerStage::Cached);
            return Ok(layer);
        }
        let download = Download {
            client: self.client,
            options: self.options,
            blob: &task.blob,
            path: layout.partial(task.blob.digest),
            check: &check,
            report: &|stage| self.report(task, stage),
        };
        let (file, downloaded) = download.run(self.endpoint)?;
        self.downloaded.fetch_add(downloaded, Ordering::Relaxed);
        let made = layer::unpack_layer(
            layout,
            file,
            Some(task.diff_id),
            self.store.unpack_options(ArchiveKind::Layer),
            &mut |progress| {
                let done = progress.read;
                self.report(task, LayerStage::Unpacking { done });
                self.check()
            },
        );
        match &made {
            // All of it is there; the next attempt need not fetch it again.
            Err(ImageError::Cancelled) => {}
            _ => download.forget(),
        }
        let layer = made?;
        self.report(task, LayerStage::Done);
        Ok(layer)
    }
}
