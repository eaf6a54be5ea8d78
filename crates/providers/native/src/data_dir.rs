//! Opening a data directory: its lock, its boxes, its images, its trash.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use stacyvm_image::ImageStore;
use stacyvm_provider::{Notices, ProviderError};

use crate::boxes::BoxTable;
use crate::config::NativeConfig;
use crate::disk::Disks;
use crate::host_view::Progress;
use crate::images::ImageResolver;
use crate::layout::Layout;
use crate::network::{NetworkError, NetworkSupport};
use crate::trash::Trash;

const IMAGES: &str = "images";

/// What a provider has on disk and in the kernel, opened or taken over.
pub(crate) struct DataDirectory {
    pub(crate) lock: File,
    pub(crate) boxes: BoxTable,
    pub(crate) disks: Disks,
    pub(crate) images: ImageResolver,
    pub(crate) store: Arc<ImageStore>,
    /// The directory of archives that are being loaded as images.
    pub(crate) incoming: PathBuf,
    pub(crate) trash: Trash,
    pub(crate) network: NetworkSupport,
}

impl DataDirectory {
    /// Opens everything. Blocks; must run inside the async runtime.
    pub(crate) fn open(
        config: &NativeConfig,
        progress: Progress<'_>,
        notices: &Arc<Notices>,
    ) -> Result<Self, ProviderError> {
        let failed = |error: std::io::Error| {
            ProviderError::backend("open the data directory", error.kind().to_string(), error)
        };
        let layout =
            Layout::prepare(&config.data_dir, config.host_view_dir.as_deref()).map_err(failed)?;
        let lock = lock(&layout.root)?;
        let trash = Trash::start(layout.trash.clone()).map_err(failed)?;
        let store = open_store(&layout.root)?;
        // Archives of an earlier server that were not loaded.
        empty(&layout.incoming).map_err(failed)?;
        let incoming = layout.incoming.clone();
        let mut hidden = config.hidden.clone();
        hidden.push(config.data_dir.clone());
        let disks = Disks::open(&layout.boxes).map_err(failed)?;
        let host_views = layout.host_views.clone();
        let boxes = BoxTable::adopt(layout).map_err(failed)?;
        let leases = boxes.leases();
        let runtime = tokio::runtime::Handle::current();
        // Both take some time and are independent.
        let (images, network) = std::thread::scope(|scope| {
            let network = scope.spawn(|| {
                let _runtime = runtime.enter();
                NetworkSupport::open(&config.instance, &config.network, &leases, notices)
            });
            let images = ImageResolver::open(
                Arc::clone(&store),
                config.pull_missing,
                host_views,
                &config.rootfs_dirs,
                &hidden,
                progress,
            );
            (images, network.join().unwrap_or(Err(NetworkError::Closed)))
        });
        let network = network?;
        let images = images.inspect_err(|_| network.close(!leases.is_empty()))?;
        Ok(Self {
            lock,
            boxes,
            disks,
            images,
            store,
            incoming,
            trash,
            network,
        })
    }
}

/// Opens the image store. Its directory may be a link to one that several servers share: sandboxes
/// record the real path.
fn open_store(root: &Path) -> Result<Arc<ImageStore>, ProviderError> {
    let place = root.join(IMAGES);
    let place = place.canonicalize().unwrap_or(place);
    ImageStore::open(place)
        .map(Arc::new)
        .map_err(|error| ProviderError::backend("open the image store", error.to_string(), error))
}

fn empty(directory: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        std::fs::remove_file(entry?.path())?;
    }
    Ok(())
}

/// The directory of the native provider's images, below a data directory.
pub fn images_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("native").join(IMAGES)
}

fn lock(root: &Path) -> Result<File, ProviderError> {
    let failed = |error: std::io::Error| {
        ProviderError::backend("lock the data directory", error.kind().to_string(), error)
    };
    let file = File::create(root.join("lock")).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(ProviderError::Unavailable(
            "another server uses this data directory; hint: stop it, or give this one a data directory of its own".to_owned(),
        )),
        Err(error) => Err(failed(error.into())),
    }
}
