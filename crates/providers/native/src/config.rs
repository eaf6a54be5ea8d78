//! The settings of the native provider.

use std::path::PathBuf;

use crate::network::NetworkSettings;
use stacyvm_image::PullOptions;

/// Settings of one native provider.
#[derive(Clone, Debug)]
pub struct NativeConfig {
    /// The server's data directory; the provider's files are in `native/` inside it. It must not
    /// lie under a directory that sandboxes of the image `host` see.
    pub data_dir: PathBuf,
    /// The launcher program.
    pub launcher_program: PathBuf,
    /// How many launcher processes share the work; 0 chooses by the number of cores.
    pub launchers: usize,
    /// Directories below which a client may name a directory as an image; empty refuses all.
    pub rootfs_dirs: Vec<PathBuf>,
    /// A name that distinguishes this server's sandboxes from those of others on the same machine;
    /// letters, digits, `-` and `_`.
    pub instance: String,
    /// Files and directories that no sandbox may ever see beside the data directory, such as the
    /// configuration file.
    pub hidden: Vec<PathBuf>,
    /// The directory of generated views of the host; none means inside the data directory. Several
    /// servers may share one.
    pub host_view_dir: Option<PathBuf>,
    /// Whether and how sandboxes have a network; by default they have none.
    pub network: NetworkSettings,
    /// How fast each sandbox may read from and write to the device of the data directory.
    pub io: IoRates,
    /// Whether an image that a spawn names and that the store does not have is pulled.
    pub pull_missing: bool,
    /// How images are pulled.
    pub pull: PullOptions,
    /// A directory whose children are data directories of further providers over the same images:
    /// images that their sandboxes use are not removed.
    pub runs_dir: Option<PathBuf>,
}

/// How fast a device may be used; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoRates {
    /// Bytes a second.
    pub read_bps: u64,
    /// Bytes a second.
    pub write_bps: u64,
    /// Operations a second.
    pub read_iops: u64,
    /// Operations a second.
    pub write_iops: u64,
}

impl NativeConfig {
    /// The defaults, with these two paths.
    pub fn new(data_dir: impl Into<PathBuf>, launcher_program: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            launcher_program: launcher_program.into(),
            launchers: 0,
            rootfs_dirs: Vec::new(),
            instance: "default".to_owned(),
            hidden: Vec::new(),
            host_view_dir: None,
            network: NetworkSettings::default(),
            io: IoRates::default(),
            pull_missing: false,
            pull: PullOptions::default(),
            runs_dir: None,
        }
    }
}

/// Whether `instance` can be the name of a cgroup directory.
pub(crate) fn valid_instance(instance: &str) -> bool {
    !instance.is_empty()
        && instance.len() <= 64
        && instance
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// One launcher for every four cores, at most eight: a launcher hardly ever waits.
pub(crate) fn launcher_count(config: &NativeConfig) -> usize {
    if config.launchers > 0 {
        return config.launchers;
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cores / 4).clamp(1, 8)
}
