//! Resolving the name of an image: the host, a directory of the host, or an image of the store.
//!
//! The rule: no image may contain, or lie in, a directory that sandboxes must never see.

use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use stacyvm_image::{ImageConfig, ImageError, ImageStore, Reference, StoredImage};
use stacyvm_launcher::control::OverlaySpec;
use stacyvm_provider::ProviderError;

use crate::host_view::{self, HostView, Progress};
use crate::image_errors::store_failed;

/// The name of the image that is made of the host's own files.
pub(crate) const HOST: &str = "host";

/// The read-only files below a sandbox's own.
#[derive(Clone, Debug)]
pub(crate) struct BaseImage {
    /// File systems from the root downwards, as a launch request has them.
    pub(crate) overlays: Vec<OverlaySpec>,
    /// The directory that has the image's `/etc`.
    pub(crate) rootfs: PathBuf,
    /// Generation of the host view, for the image `host`.
    pub(crate) host_view: Option<String>,
    /// The image of the store, which is not removed while this lives.
    pub(crate) stored: Option<StoredImage>,
}

impl BaseImage {
    /// The topmost directory of the image of the store, which is its name on disk.
    pub(crate) fn image_root(&self) -> Option<PathBuf> {
        self.stored.as_ref().map(|image| image.top().to_owned())
    }

    /// The image's configuration; a directory and the host have none.
    pub(crate) fn config(&self) -> Option<&ImageConfig> {
        self.stored.as_ref().map(StoredImage::config)
    }
}

/// Resolves the image names of one provider.
#[derive(Debug)]
pub(crate) struct ImageResolver {
    store: Arc<ImageStore>,
    pull_missing: bool,
    views: PathBuf,
    rootfs_dirs: Vec<PathBuf>,
    /// Real paths of what no sandbox may see.
    hidden: Vec<PathBuf>,
    host: Mutex<Arc<HostView>>,
}

impl ImageResolver {
    /// Makes the view of the host ready; refuses a data directory that sandboxes would see. Blocks.
    pub(crate) fn open(
        store: Arc<ImageStore>,
        pull_missing: bool,
        views: PathBuf,
        rootfs_dirs: &[PathBuf],
        hidden: &[PathBuf],
        progress: Progress<'_>,
    ) -> Result<Self, ProviderError> {
        let hidden: Vec<PathBuf> = hidden.iter().map(|path| real_path(path)).collect();
        let view = open_view(&views, progress)?;
        for (_, lower) in &view.mounts {
            if let Some(seen) = hidden
                .iter()
                .find(|path| path.starts_with(real_path(lower)))
            {
                return Err(ProviderError::Invalid(format!(
                    "{} lies under {}, which sandboxes of the image \"host\" can read: move it elsewhere",
                    seen.display(),
                    lower.display()
                )));
            }
        }
        Ok(Self {
            store,
            pull_missing,
            views,
            rootfs_dirs: rootfs_dirs.iter().map(|path| real_path(path)).collect(),
            hidden,
            host: Mutex::new(Arc::new(view)),
        })
    }

    /// The generation that a spawn of `host` gets now.
    pub(crate) fn host_generation(&self) -> String {
        self.host().generation.clone()
    }

    /// Builds a new view when the host has changed since the last one. Blocks.
    pub(crate) fn refresh_host(&self) -> Result<(), ProviderError> {
        let now = HostView::current_generation(Path::new("/"))
            .map_err(|error| view_failed(&error.kind().to_string(), error))?;
        if self.host().generation != now {
            let view = open_view(&self.views, &|_, _| {})?;
            tracing::info!("the host's settings have changed and the image host was built again");
            *self.host.lock() = Arc::new(view);
        }
        Ok(())
    }

    /// Finds an image that needs no look at the disk.
    pub(crate) fn find_now(&self, image: &str) -> Option<BaseImage> {
        (image == HOST).then(|| {
            let view = self.host();
            let mut overlays = vec![root_overlay(vec![view.path.clone()])];
            overlays.extend(view.mounts.iter().map(|(target, host)| OverlaySpec {
                target: target.clone(),
                lowers: vec![view.path.join(target.strip_prefix("/").unwrap_or(target))],
                of_host: Some(host.clone()),
            }));
            BaseImage {
                overlays,
                rootfs: view.path.clone(),
                host_view: Some(view.generation.clone()),
                stored: None,
            }
        })
    }

    /// Finds any image. Blocks.
    pub(crate) fn find(&self, image: &str) -> Result<BaseImage, ProviderError> {
        if let Some(base) = self.find_now(image) {
            return Ok(base);
        }
        if image.starts_with('/') {
            return self.find_directory(image);
        }
        match self.store.find(image) {
            Ok(stored) => Ok(BaseImage {
                overlays: vec![root_overlay(stored.layers().to_vec())],
                rootfs: stored.top().to_owned(),
                host_view: None,
                stored: Some(stored),
            }),
            Err(ImageError::NotFound(_)) => Err(ProviderError::NotFound(format!(
                "image {image:?} not found by provider native; hint: run \"stacyvm image pull {image}\" or \"stacyvm image load FILE\", use \"host\", or map the name under images.aliases"
            ))),
            Err(error) => Err(store_failed(error)),
        }
    }

    /// The reference to pull before `image` can be found; none when it is in the store. Blocks.
    ///
    /// # Errors
    /// When it is not in the store and may not be pulled, or when the name is invalid.
    pub(crate) fn missing(&self, image: &str) -> Result<Option<Reference>, ProviderError> {
        match self.find(image) {
            Ok(_) => Ok(None),
            Err(ProviderError::NotFound(_)) if self.pull_missing && is_pullable(image) => {
                Reference::parse(image).map(Some).map_err(store_failed)
            }
            Err(error) => Err(error),
        }
    }

    fn find_directory(&self, image: &str) -> Result<BaseImage, ProviderError> {
        let path = Path::new(image);
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(ProviderError::Invalid(
                "a root file system is named by an absolute path without \"..\"".to_owned(),
            ));
        }
        // The answer is the same whether a directory is not allowed or not there, so that a
        // client cannot find out what the host has.
        let refused = || {
            ProviderError::NotFound(format!(
                "image {image:?} not found by provider native; hint: a directory must be allowed under providers.native.rootfs_dirs"
            ))
        };
        let real = path.canonicalize().map_err(|_| refused())?;
        let allowed = self.rootfs_dirs.iter().any(|dir| real.starts_with(dir));
        let shows_hidden = self
            .hidden
            .iter()
            .any(|hidden| hidden.starts_with(&real) || real.starts_with(hidden));
        if !allowed || shows_hidden || !real.is_dir() {
            return Err(refused());
        }
        Ok(BaseImage {
            overlays: vec![root_overlay(vec![real.clone()])],
            rootfs: real,
            host_view: None,
            stored: None,
        })
    }

    /// Removes views that no sandbox uses. Blocks.
    pub(crate) fn sweep(
        &self,
        used: &dyn Fn(&str) -> bool,
        trash: &dyn Fn(&Path) -> io::Result<()>,
    ) -> io::Result<()> {
        host_view::sweep(&self.views, used, trash)
    }

    fn host(&self) -> Arc<HostView> {
        self.host.lock().clone()
    }
}

/// Whether the name is one that a registry may know: no directory, and no image by its id.
fn is_pullable(image: &str) -> bool {
    !image.starts_with('/') && !image.starts_with("sha256:")
}

fn root_overlay(lowers: Vec<PathBuf>) -> OverlaySpec {
    OverlaySpec {
        target: "/".into(),
        lowers,
        of_host: None,
    }
}

fn open_view(views: &Path, progress: Progress<'_>) -> Result<HostView, ProviderError> {
    HostView::open(views, Path::new("/"), progress)
        .map_err(|error| view_failed(&error.kind().to_string(), error))
}

fn view_failed(message: &str, error: io::Error) -> ProviderError {
    ProviderError::backend("prepare the view of the host", message, error)
}

/// The path with links resolved, as far as it exists.
fn real_path(path: &Path) -> PathBuf {
    path.ancestors()
        .find_map(|ancestor| {
            let real = ancestor.canonicalize().ok()?;
            let rest = path.strip_prefix(ancestor).ok()?;
            Some(if rest.as_os_str().is_empty() {
                real
            } else {
                real.join(rest)
            })
        })
        .unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        dir: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            for path in ["views", "data/boxes", "roots/alpine/etc", "elsewhere"] {
                std::fs::create_dir_all(dir.path().join(path)).unwrap();
            }
            Self { dir }
        }

        fn path(&self, path: &str) -> PathBuf {
            self.dir.path().join(path)
        }

        fn open(
            &self,
            rootfs_dirs: &[PathBuf],
            hidden: &[PathBuf],
        ) -> Result<ImageResolver, ProviderError> {
            self.open_pulling(false, rootfs_dirs, hidden)
        }

        fn open_pulling(
            &self,
            pull_missing: bool,
            rootfs_dirs: &[PathBuf],
            hidden: &[PathBuf],
        ) -> Result<ImageResolver, ProviderError> {
            let store = Arc::new(ImageStore::open(self.path("data/images")).unwrap());
            let views = self.path("views");
            ImageResolver::open(store, pull_missing, views, rootfs_dirs, hidden, &|_, _| {})
        }
    }

    fn name(path: &Path) -> &str {
        path.to_str().unwrap()
    }

    #[test]
    fn directories_are_images_only_where_the_configuration_says_so() {
        let home = Fixture::new();
        let alpine = home.path("roots/alpine");
        let hidden = [home.path("data")];

        let none = home.open(&[], &hidden).unwrap();
        assert!(matches!(
            none.find(name(&alpine)),
            Err(ProviderError::NotFound(_))
        ));

        let some = home.open(&[home.path("roots")], &hidden).unwrap();
        assert_eq!(some.find(name(&alpine)).unwrap().rootfs, real_path(&alpine));
        let link = home.path("roots/link");
        std::os::unix::fs::symlink(home.path("elsewhere"), &link).unwrap();
        for refused in [home.path("elsewhere"), link, home.path("roots/none")] {
            assert!(
                matches!(some.find(name(&refused)), Err(ProviderError::NotFound(_))),
                "{}",
                refused.display()
            );
        }
        let climbing = home.path("roots/../elsewhere");
        assert!(matches!(
            some.find(name(&climbing)),
            Err(ProviderError::Invalid(_))
        ));
    }

    #[test]
    fn nothing_that_shows_the_data_directory_is_an_image() {
        let home = Fixture::new();
        let images = home
            .open(&[PathBuf::from("/")], &[home.path("data")])
            .unwrap();
        for refused in [
            PathBuf::from("/"),
            home.path(""),
            home.path("data"),
            home.path("data/boxes"),
        ] {
            assert!(
                matches!(images.find(name(&refused)), Err(ProviderError::NotFound(_))),
                "{}",
                refused.display()
            );
        }
        assert!(images.find(name(&home.path("elsewhere"))).is_ok());
    }

    #[test]
    fn a_data_directory_below_usr_is_refused() {
        let home = Fixture::new();
        let error = home
            .open(&[], &[PathBuf::from("/usr/local/stacyvm-data")])
            .unwrap_err();
        assert!(error.to_string().contains("move it elsewhere"), "{error}");
    }

    #[test]
    fn unknown_names_say_what_to_do() {
        let home = Fixture::new();
        let images = home.open(&[], &[]).unwrap();
        let error = images.find("python:3.12").unwrap_err();
        assert!(matches!(error, ProviderError::NotFound(_)));
        assert!(
            error.to_string().contains("image pull python:3.12"),
            "{error}"
        );
        for wrong in ["UPPER", "a b", ""] {
            assert!(
                matches!(images.find(wrong), Err(ProviderError::Invalid(_))),
                "{wrong:?}"
            );
        }
    }

    #[test]
    fn what_is_not_here_is_missing_where_pulls_are_on_and_unknown_elsewhere() {
        let home = Fixture::new();
        let alpine = home.path("roots/alpine");
        let off = home.open(&[], &[]).unwrap();
        assert!(matches!(
            off.missing("python:3.12"),
            Err(ProviderError::NotFound(_))
        ));
        assert_eq!(off.missing(HOST).unwrap(), None);

        let on = home
            .open_pulling(true, &[home.path("roots")], &[home.path("data")])
            .unwrap();
        let wanted = on.missing("python:3.12").unwrap().unwrap();
        assert_eq!(wanted.canonical(), "docker.io/library/python:3.12");
        for here in [HOST, name(&alpine)] {
            assert_eq!(on.missing(here).unwrap(), None, "{here}");
        }
        let id = format!("sha256:{}", "0".repeat(64));
        for unknown in ["/etc", id.as_str()] {
            assert!(
                matches!(on.missing(unknown), Err(ProviderError::NotFound(_))),
                "{unknown}"
            );
        }
        assert!(matches!(
            on.missing("UPPER"),
            Err(ProviderError::Invalid(_))
        ));
    }
}
