//! The images that the tests' engine has: made on this machine of Debian's packages, from no
//! registry of images.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, ensure};

use super::{BUSYBOX, DEBIAN, EngineFiles};
use crate::tools;
use crate::workspace::Workspace;

/// What Debian's image has beside its smallest set.
const PACKAGES: &str = "python3";

/// Debian's image, being made: that takes a minute or two, so it begins before the build and ends
/// beside it. It is kept in the target directory from run to run.
#[derive(Debug)]
pub(crate) struct DebianImage(JoinHandle<Result<PathBuf>>);

impl DebianImage {
    /// Begins to make it, where it is not there yet.
    pub(crate) fn begin(workspace: &Workspace) -> Self {
        let files = workspace.target.join("engine");
        Self(std::thread::spawn(move || archive(&files)))
    }

    /// Waits for it and gives it to an engine.
    pub(super) fn import(self, files: &EngineFiles) -> Result<()> {
        let archive = self
            .0
            .join()
            .map_err(|_| anyhow!("the thread that makes Debian's image panicked"))??;
        import(files, &archive, DEBIAN)
    }
}

/// Makes the archive, or finds it.
fn archive(files: &Path) -> Result<PathBuf> {
    let done = files.join("debian.tar");
    if done.is_file() {
        return Ok(done);
    }
    fs::create_dir_all(files).context("make the engine's directory")?;
    let root = files.join("debian");
    // Mirrors have their hiccups.
    bootstrap(files, &root).or_else(|error| {
        eprintln!("    making Debian's image once more: {error:#}");
        bootstrap(files, &root)
    })?;
    // Downloads and lists are of no use inside.
    for waste in ["var/cache/apt/archives", "var/lib/apt/lists"] {
        remove_directory(&root.join(waste))?;
    }
    let half = files.join("debian.tar.half");
    pack(&root, &half)?;
    fs::rename(&half, &done).context("keep the archive")?;
    remove_directory(&root)?;
    Ok(done)
}

/// Unpacks and configures Debian's smallest set below `root`.
fn bootstrap(files: &Path, root: &Path) -> Result<()> {
    // What a run left that was ended in the middle.
    remove_directory(root)?;
    let log = files.join("debootstrap.log");
    let (suite, mirror) = release()?;
    let output = fs::File::create(&log).context("make the log of debootstrap")?;
    let status = Command::new("debootstrap")
        .args(["--variant=minbase", &format!("--include={PACKAGES}")])
        .arg(&suite)
        .arg(root)
        .args(mirror)
        .stdin(Stdio::null())
        .stdout(output.try_clone().context("share the log")?)
        .stderr(output)
        .status()
        .context("start debootstrap")?;
    ensure!(
        status.success(),
        "debootstrap ended with {status}: see {}",
        log.display()
    );
    Ok(())
}

/// The Debian release to install and its mirror: those of this machine if it runs Debian, else
/// `stable` and no mirror.
fn release() -> Result<(String, Option<String>)> {
    let text = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let value = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .map(|value| value.trim_matches('"').to_owned())
    };
    let codename = value("VERSION_CODENAME");
    let (Some("debian"), Some(codename)) = (value("ID").as_deref(), codename) else {
        return Ok(("stable".to_owned(), None));
    };
    let sites = tools::output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(SITE) $(RELEASE)",
        "Created-By: Packages",
    ]))?;
    Ok((codename.clone(), mirror_of(&codename, &sites)))
}

/// The site of a release among lines of `SITE RELEASE`.
fn mirror_of(codename: &str, sites: &str) -> Option<String> {
    sites
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(site, release)| *release == codename && site.starts_with("http"))
        .map(|(site, _)| site.to_owned())
}

/// Makes the small image of this machine's busybox.
pub(super) fn import_busybox(files: &EngineFiles) -> Result<()> {
    let program = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).is_file())
        .context("busybox is missing: run scripts/test-setup")?;
    let root = files.run.join("busybox");
    for directory in ["bin", "tmp", "etc", "root"] {
        fs::create_dir_all(root.join(directory)).context("make the root of busybox")?;
    }
    // Everybody's, as in every image.
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))
        .context("open the temporary directory")?;
    fs::copy(program, root.join("bin/busybox")).context("copy busybox")?;
    for name in tools::output(Command::new(program).arg("--list"))?.lines() {
        if name != "busybox" {
            symlink("busybox", root.join("bin").join(name))
                .with_context(|| format!("link {name}"))?;
        }
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").context("write users")?;
    fs::write(root.join("etc/group"), "root:x:0:\n").context("write groups")?;
    let archive = files.run.join("busybox.tar");
    pack(&root, &archive)?;
    remove_directory(&root)?;
    import(files, &archive, BUSYBOX)
}

fn pack(root: &Path, archive: &Path) -> Result<()> {
    tools::run(
        Command::new("tar")
            .args(["--numeric-owner", "--one-file-system", "-C"])
            .arg(root)
            .arg("-cf")
            .arg(archive)
            .arg("."),
    )
}

fn import(files: &EngineFiles, archive: &Path, name: &str) -> Result<()> {
    tools::output(
        files
            .docker(&["import", "--change", "CMD [\"sh\"]"])
            .arg(archive)
            .arg(name),
    )
    .map(|_| ())
    .with_context(|| format!("make the image {name}"))
}

/// Removes it if it is there. What debootstrap mounts below it while it works ends with it, also when
/// it is killed: it unmounts on its way out; a mount that is left makes this fail instead of emptying
/// what is mounted.
fn remove_directory(directory: &Path) -> Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    tools::run(
        Command::new("rm")
            .args(["-rf", "--one-file-system", "--"])
            .arg(directory),
    )
}

#[cfg(test)]
mod tests {
    use super::mirror_of;

    #[test]
    fn the_mirror_is_that_of_the_release_itself() {
        let sites = "https://example.org/tools nodistro\n\
                     http://security.example.org/debian bookworm-security\n\
                     http://mirror.example.org/debian bookworm-updates\n\
                     http://mirror.example.org/debian bookworm\n";
        assert_eq!(
            mirror_of("bookworm", sites).as_deref(),
            Some("http://mirror.example.org/debian")
        );
        assert_eq!(mirror_of("trixie", sites), None);
    }
}
