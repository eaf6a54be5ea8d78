//! What a view of the host will hold, decided before anything is written.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};

use super::accounts::Accounts;
use super::programs;

/// Changes whenever the same host must give another view.
const VIEW_VERSION: u32 = 2;

/// A larger file under `/etc` is no setting that a program inside needs.
const MAX_FILE_BYTES: u64 = 8 * 1024 * 1024;
/// More than any `/etc` has; a bound against a loop of mounts.
const MAX_ENTRIES: usize = 20_000;

/// Names under `/etc` that are harmless and that programs need; a `*` at the end stands for any
/// rest of that one name. Directories are taken with all that is in them. Never here: anything
/// that may hold a password, key or token (`ssh`, `shadow`, `gitconfig`, `npmrc`, `pip.conf`,
/// `environment`, `profile`, `apt`, `wgetrc`, …) or that names this machine (`hostname`,
/// `machine-id`, `hosts`).
const ALLOWED: &[&str] = &[
    // the dynamic linker
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    // which program a name stands for
    "alternatives",
    // certificates of public authorities
    "ca-certificates.conf",
    "ssl/certs",
    "ssl/openssl.cnf",
    "ssl/cert.pem",
    "pki/ca-trust/extracted",
    "pki/tls/certs",
    "pki/tls/cert.pem",
    "pki/tls/openssl.cnf",
    "pki/java",
    "crypto-policies",
    // time and language
    "localtime",
    "timezone",
    "locale.alias",
    "locale.conf",
    "locale.gen",
    // names of numbers and kinds
    "ethertypes",
    "magic",
    "magic.mime",
    "mime.types",
    "protocols",
    "rpc",
    "services",
    "host.conf",
    "gai.conf",
    // which system this is
    "alpine-release",
    "arch-release",
    "debian_version",
    "fedora-release",
    "lsb-release",
    "os-release",
    "redhat-release",
    "SuSE-release",
    "system-release",
    // settings that language runtimes do not start without
    "fonts",
    "inputrc",
    "ImageMagick-*",
    "java-*",
    "java",
    "maven/logging",
    "maven/m2.conf",
    "perl",
    "python*",
    "R",
    "shells",
    "terminfo",
    "vim",
];

/// Parts of a name that mark a file as something to keep out, in any directory.
const SUSPICIOUS: &[&str] = &[
    "passw",
    "secret",
    "credential",
    "token",
    "shadow",
    "private",
    ".key",
    "htpasswd",
    "netrc",
];

/// Directories and links at the root that make up a system's programs.
const PROGRAM_ROOTS: &[&str] = &[
    "bin", "sbin", "lib", "lib32", "lib64", "libx32", "libo32", "usr",
];

/// One entry of the view, by its path from the view's root.
#[derive(Debug)]
pub(super) enum Entry {
    /// A directory with these permissions; `owned` by the sandbox's user or by its root.
    Directory { mode: u32, owned: bool },
    /// A copy of a file of the host.
    Copy { source: PathBuf, mode: u32 },
    /// A file with this content.
    Text(String),
    /// A link.
    Link(PathBuf),
    /// What the host has at this place below one of its directories is not shown.
    Hidden,
}

/// The whole of a view.
#[derive(Debug)]
pub(super) struct Plan {
    /// Parents sort before what is in them.
    pub(super) entries: BTreeMap<PathBuf, Entry>,
    /// Host directories that are laid over it: where inside, and which.
    pub(super) mounts: Vec<(PathBuf, PathBuf)>,
    hash: Sha256,
}

impl Plan {
    /// Looks at the host whose root is `host` (`/`, but for tests).
    pub(super) fn read(host: &Path) -> io::Result<Self> {
        let mut plan = Self {
            entries: BTreeMap::new(),
            mounts: Vec::new(),
            hash: Sha256::new(),
        };
        plan.hash.update(VIEW_VERSION.to_le_bytes());
        plan.standard_directories();
        plan.program_roots(host)?;
        plan.accounts(host);
        plan.allowed_settings(&host.join("etc"))?;
        Ok(plan)
    }

    /// Names everything that the view is made from, contents by size and time of change.
    pub(super) fn digest(&self) -> String {
        let mut hash = self.hash.clone();
        for (path, entry) in &self.entries {
            hash.update(format!("{path:?} {entry:?}\n"));
        }
        hash.update(format!("{:?}", self.mounts));
        let mut text = String::with_capacity(32);
        for byte in hash.finalize().iter().take(16) {
            text.push_str(&format!("{byte:02x}"));
        }
        text
    }

    fn standard_directories(&mut self) {
        for path in [
            "dev",
            "etc",
            "etc/opt",
            "home",
            "media",
            "mnt",
            "opt",
            "proc",
            "run",
            "run/lock",
            "srv",
            "sys",
            "usr",
            "var",
            "var/cache",
            "var/lib",
            "var/local",
            "var/log",
            "var/mail",
            "var/opt",
            "var/spool",
        ] {
            self.directory(path, 0o755, false);
        }
        self.directory("root", 0o700, false);
        self.directory("home/user", 0o755, true);
        self.directory("workspace", 0o755, true);
        for path in ["tmp", "var/tmp"] {
            self.directory(path, 0o1777, false);
        }
        self.link("var/run", "/run");
        self.link("var/lock", "/run/lock");
    }

    fn program_roots(&mut self, host: &Path) -> io::Result<()> {
        for name in PROGRAM_ROOTS {
            let path = host.join(name);
            let Ok(metadata) = path.symlink_metadata() else {
                continue;
            };
            if metadata.is_symlink() {
                let target = std::fs::read_link(&path)?;
                self.link(name, &target);
            } else if metadata.is_dir() {
                self.directory(name, 0o755, false);
                self.entries.extend(programs::above(host, name));
                self.mounts.push((Path::new("/").join(name), path));
            }
        }
        // The deeper ones come later, and none lies in another; a fixed order keeps digests equal.
        self.mounts.sort();
        Ok(())
    }

    fn accounts(&mut self, host: &Path) {
        let accounts = Accounts::of_host(host);
        self.text("etc/passwd", accounts.passwd);
        self.text("etc/group", accounts.group);
        for (path, content) in [
            (
                "etc/hosts",
                "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
            ),
            (
                "etc/nsswitch.conf",
                "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\nethers: files\nrpc: files\n",
            ),
            ("etc/resolv.conf", ""),
            ("etc/fstab", ""),
        ] {
            self.text(path, content.to_owned());
        }
        self.link("etc/mtab", "/proc/self/mounts");
    }

    fn allowed_settings(&mut self, etc: &Path) -> io::Result<()> {
        for pattern in ALLOWED {
            if let Some(prefix) = pattern.strip_suffix('*') {
                let Ok(names) = std::fs::read_dir(etc) else {
                    continue;
                };
                for entry in names {
                    let name = entry?.file_name();
                    if name.to_str().is_some_and(|name| name.starts_with(prefix)) {
                        self.setting(etc, Path::new(&name), 0)?;
                    }
                }
            } else if parents_are_directories(etc, Path::new(pattern)) {
                self.setting(etc, Path::new(pattern), 0)?;
            }
        }
        Ok(())
    }

    /// Takes one path under `/etc`, or leaves it out when anything about it is not harmless.
    fn setting(&mut self, etc: &Path, relative: &Path, depth: usize) -> io::Result<()> {
        let source = etc.join(relative);
        let Ok(metadata) = source.symlink_metadata() else {
            return Ok(());
        };
        if suspicious(relative.file_name()) || depth > 16 || self.entries.len() > MAX_ENTRIES {
            return Ok(());
        }
        let inside = Path::new("etc").join(relative);
        if metadata.is_symlink() {
            let target = std::fs::read_link(&source)?;
            if link_stays(&inside, &target) {
                self.parents(&inside);
                self.entries.insert(inside, Entry::Link(target));
            }
        } else if metadata.is_dir() && metadata.mode() & 0o005 == 0o005 {
            self.parents(&inside);
            self.entries.insert(
                inside,
                Entry::Directory {
                    mode: 0o755,
                    owned: false,
                },
            );
            let mut names = std::fs::read_dir(&source)?
                .map(|entry| entry.map(|entry| entry.file_name()))
                .collect::<io::Result<Vec<_>>>()?;
            names.sort();
            for name in names {
                self.setting(etc, &relative.join(name), depth + 1)?;
            }
        } else if metadata.is_file()
            && metadata.mode() & 0o004 != 0
            && metadata.len() <= MAX_FILE_BYTES
        {
            self.changes_with(&metadata);
            self.parents(&inside);
            let mode = metadata.mode() & 0o755;
            self.entries.insert(inside, Entry::Copy { source, mode });
        }
        Ok(())
    }

    fn changes_with(&mut self, metadata: &Metadata) {
        self.hash.update(metadata.len().to_le_bytes());
        self.hash.update(metadata.mtime().to_le_bytes());
        self.hash.update(metadata.mtime_nsec().to_le_bytes());
        self.hash.update(metadata.ino().to_le_bytes());
    }

    fn parents(&mut self, path: &Path) {
        for parent in path.ancestors().skip(1) {
            if parent != Path::new("") && !self.entries.contains_key(parent) {
                self.directory(parent, 0o755, false);
            }
        }
    }

    fn directory(&mut self, path: impl AsRef<Path>, mode: u32, owned: bool) {
        self.entries
            .insert(path.as_ref().to_owned(), Entry::Directory { mode, owned });
    }

    fn link(&mut self, path: impl AsRef<Path>, target: impl AsRef<Path>) {
        self.entries.insert(
            path.as_ref().to_owned(),
            Entry::Link(target.as_ref().to_owned()),
        );
    }

    fn text(&mut self, path: &str, content: String) {
        self.entries.insert(path.into(), Entry::Text(content));
    }
}

/// Whether no part above the last is a link, so that `/etc/ssl -> /somewhere` opens no door.
fn parents_are_directories(etc: &Path, relative: &Path) -> bool {
    relative.ancestors().skip(1).all(|parent| {
        etc.join(parent)
            .symlink_metadata()
            .is_ok_and(|metadata| metadata.is_dir())
    })
}

/// Manual pages are of no use inside and are most of `/etc/alternatives`.
fn suspicious(name: Option<&OsStr>) -> bool {
    let Some(name) = name.and_then(OsStr::to_str) else {
        return true;
    };
    let lower = name.to_ascii_lowercase();
    lower.ends_with(".gz") || SUSPICIOUS.iter().any(|part| lower.contains(part))
}

/// Whether a link at `inside` (a path from the root) leads to `/usr`, to the other program
/// roots, or to `/etc`, going by the words alone: inside a sandbox a link means the sandbox's own
/// files anyhow, so this only keeps out links that would dangle or tell something.
fn link_stays(inside: &Path, target: &Path) -> bool {
    let mut resolved: Vec<&OsStr> = Vec::new();
    let parent = inside.parent().unwrap_or(Path::new(""));
    let start = if target.is_absolute() {
        Path::new("")
    } else {
        parent
    };
    for component in start.components().chain(target.components()) {
        match component {
            Component::Normal(name) => resolved.push(name),
            Component::ParentDir => {
                resolved.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    let Some(first) = resolved.first().and_then(|name| name.to_str()) else {
        return false;
    };
    (first == "etc" || PROGRAM_ROOTS.contains(&first))
        && !resolved.iter().any(|name| suspicious(Some(name)))
}
