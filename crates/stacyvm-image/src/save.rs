//! Writing images into an archive: an OCI layout that `docker load` reads as well.
//!
//! Layers are made anew of their unpacked files, always to the same bytes, because their compressed
//! form is not kept: what was left out when they were unpacked is not in the archive either, and
//! digests differ from those of the registry (docs/adr/0016 says why).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, OFlags, RenameFlags, Stat};
use rustix::io::Errno;
use serde::Serialize;
use serde_json::{Value, json};
use stacyvm_sys::resolve::open_beneath;
use tar::EntryType;

use crate::digest::Hashing;
use crate::manifest::{
    Descriptor, Index, Manifest, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST,
};
use crate::overlay::{OverlayAttributes, is_whiteout};
use crate::store::ImageRecord;
use crate::store::records;
use crate::tar_writer::{Facts, TarWriter};
use crate::{Digest, ImageError, ImageStore, Reference, StoredImage};

const STEP: &str = "write the archive";

/// Writes images into a file that appears when it is whole.
pub(crate) fn save(store: &ImageStore, names: &[&str], archive: &Path) -> Result<(), ImageError> {
    let exists = || ImageError::Exists(archive.display().to_string());
    if archive.symlink_metadata().is_ok() {
        return Err(exists());
    }
    let mut hidden = OsString::from(".");
    hidden.push(archive.file_name().unwrap_or_default());
    hidden.push(format!(".{}", std::process::id()));
    let temporary = Temporary(archive.with_file_name(hidden));
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&temporary.0)
        .map_err(ImageError::io(STEP))?;
    let mut to = BufWriter::with_capacity(256 * 1024, file);
    save_to(store, names, &mut to)?;
    let file = to
        .into_inner()
        .map_err(|error| ImageError::io(STEP)(error.into_error()))?;
    file.sync_all().map_err(ImageError::io(STEP))?;
    match rustix::fs::renameat_with(CWD, &temporary.0, CWD, archive, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => Err(exists()),
        Err(errno) => Err(ImageError::io(STEP)(errno)),
    }
}

/// A file that goes away unless it was renamed.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Writes images into a stream.
pub(crate) fn save_to(
    store: &ImageStore,
    names: &[&str],
    to: &mut dyn Write,
) -> Result<(), ImageError> {
    let images = chosen(store, names)?;
    let mut archive = Archive {
        store,
        tar: TarWriter::new(to),
        written: HashSet::new(),
        layers: HashMap::new(),
    };
    let layout = json!({"imageLayoutVersion": "1.0.0"});
    archive.small("oci-layout", &layout)?;
    let (mut index, mut docker) = (Vec::new(), Vec::new());
    for image in &images {
        let saved = archive.image(image)?;
        docker.push(json!({
            "Config": blob_path(saved.config),
            "RepoTags": image.names.iter().filter_map(repository_tag).collect::<Vec<_>>(),
            "Layers": saved.layers.iter().map(|layer| blob_path(*layer)).collect::<Vec<_>>(),
        }));
        for name in &image.names {
            let mut annotations = BTreeMap::new();
            annotations.insert("io.containerd.image.name".to_owned(), name.canonical());
            if let Some(tag) = name.tag() {
                annotations.insert(
                    "org.opencontainers.image.ref.name".to_owned(),
                    tag.to_owned(),
                );
            }
            index.push(Descriptor {
                annotations: Some(annotations),
                ..saved.manifest.clone()
            });
        }
        if image.names.is_empty() {
            index.push(saved.manifest.clone());
        }
    }
    let index = Index {
        schema_version: 2,
        media_type: OCI_INDEX.to_owned(),
        manifests: index,
    };
    archive.small("index.json", &index)?;
    archive.small("manifest.json", &docker)?;
    archive
        .tar
        .finish()
        .and_then(|to| to.flush())
        .map_err(ImageError::io(STEP))
}

/// An image to be saved, and the names that were asked for.
struct Chosen {
    record: ImageRecord,
    names: Vec<Reference>,
    /// Keeps it in the store.
    _held: StoredImage,
}

fn chosen(store: &ImageStore, names: &[&str]) -> Result<Vec<Chosen>, ImageError> {
    let mut images: Vec<Chosen> = Vec::new();
    for name in names {
        let held = store.find(name)?;
        let record = store.record(held.id())?.ok_or_else(|| {
            ImageError::Archive(format!(
                "the image {name:?} is of a former format: import it again to save it"
            ))
        })?;
        let by_id = name.starts_with("sha256:") && Digest::parse(held.id()).is_some();
        let reference = match Reference::parse(name) {
            Ok(reference) if store.name_record(&reference)?.is_some() => Some(reference),
            Ok(_) | Err(_) if by_id => None,
            Ok(reference) => Some(reference),
            Err(error) => return Err(error),
        };
        match images.iter_mut().find(|known| known.record.id == record.id) {
            Some(known) => {
                let new = reference.filter(|reference| !known.names.contains(reference));
                known.names.extend(new);
            }
            None => images.push(Chosen {
                record,
                names: reference.into_iter().collect(),
                _held: held,
            }),
        }
    }
    Ok(images)
}

/// `NAME:TAG`, as Docker wants it. A digest is no tag.
fn repository_tag(name: &Reference) -> Option<String> {
    match (name.digest(), name.tag()) {
        (None, Some(tag)) => Some(format!("{}:{tag}", name.familiar_name())),
        _ => None,
    }
}

fn blob_path(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

struct Archive<'a> {
    store: &'a ImageStore,
    tar: TarWriter<&'a mut dyn Write>,
    written: HashSet<Digest>,
    /// What a layer of the store became: digest and size of its tar.
    layers: HashMap<Digest, (Digest, u64)>,
}

/// What became of an image.
struct Saved {
    config: Digest,
    manifest: Descriptor,
    layers: Vec<Digest>,
}

impl Archive<'_> {
    fn image(&mut self, image: &Chosen) -> Result<Saved, ImageError> {
        let mut layers = Vec::new();
        for diff_id in &image.record.layers {
            layers.push(self.layer(*diff_id)?);
        }
        let step = "read the image's configuration";
        let place = self.store.layout().image(image.record.id);
        let text = fs::read(place.join("config.json")).map_err(ImageError::io(step))?;
        let mut config: Value = serde_json::from_slice(&text)
            .map_err(|error| ImageError::io(step)(io::Error::from(error)))?;
        let diff_ids: Vec<Digest> = layers.iter().map(|(digest, _)| *digest).collect();
        config["rootfs"] = json!({"type": "layers", "diff_ids": diff_ids});
        let config = self.blob_of(&config, OCI_CONFIG)?;
        let digest = config.digest;
        let manifest = Manifest {
            schema_version: 2,
            media_type: OCI_MANIFEST.to_owned(),
            config,
            layers: layers
                .iter()
                .map(|(digest, size)| descriptor(OCI_LAYER, *digest, *size))
                .collect(),
        };
        let mut manifest = self.blob_of(&manifest, OCI_MANIFEST)?;
        manifest.platform = Some(image.record.platform.clone());
        Ok(Saved {
            config: digest,
            manifest,
            layers: diff_ids,
        })
    }

    /// Writes a layer, once; answers digest and size of its tar.
    fn layer(&mut self, diff_id: Digest) -> Result<(Digest, u64), ImageError> {
        if let Some(known) = self.layers.get(&diff_id) {
            return Ok(*known);
        }
        let tree = Tree::open(self.store, diff_id)?;
        // The header of the archive comes before the content and has its length and its digest.
        let mut measured = Hashing::new(io::sink());
        tree.write(&mut measured).map_err(ImageError::io(STEP))?;
        let (size, digest) = (measured.count(), measured.digest());
        self.layers.insert(diff_id, (digest, size));
        if self.written.insert(digest) {
            let mut write = || {
                let path = blob_path(digest);
                self.tar
                    .header(Facts::file(size), path.as_bytes(), None, &[])?;
                let mut again = Hashing::new(self.tar.content());
                tree.write(&mut again)?;
                if again.digest() != digest {
                    return Err(io::Error::other("a layer changed while it was saved"));
                }
                self.tar.pad(size)
            };
            write().map_err(ImageError::io(STEP))?;
        }
        Ok((digest, size))
    }

    /// Writes a small document as a blob.
    fn blob_of<T: Serialize>(
        &mut self,
        document: &T,
        media_type: &str,
    ) -> Result<Descriptor, ImageError> {
        let text = records::text(document)?;
        let digest = Digest::of(&text);
        if self.written.insert(digest) {
            self.file(&blob_path(digest), &text)?;
        }
        Ok(descriptor(media_type, digest, text.len() as u64))
    }

    fn small<T: Serialize>(&mut self, path: &str, document: &T) -> Result<(), ImageError> {
        self.file(path, &records::text(document)?)
    }

    fn file(&mut self, path: &str, mut content: &[u8]) -> Result<(), ImageError> {
        let facts = Facts::file(content.len() as u64);
        self.tar
            .member(facts, path.as_bytes(), None, &[], &mut content)
            .map_err(ImageError::io(STEP))
    }
}

fn descriptor(media_type: &str, digest: Digest, size: u64) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size,
        platform: None,
        annotations: None,
    }
}

/// A layer of the store that becomes a tar.
struct Tree {
    root: OwnedFd,
    overlay: OverlayAttributes,
    opaque: bool,
    implied: std::collections::BTreeSet<PathBuf>,
}

impl Tree {
    fn open(store: &ImageStore, diff_id: Digest) -> Result<Self, ImageError> {
        let step = "open a layer";
        let record = store
            .layer_record(diff_id)?
            .ok_or_else(|| ImageError::io(step)(io::Error::from(io::ErrorKind::NotFound)))?;
        let path = store.layout().layer(diff_id).join("tree");
        Ok(Self {
            root: File::open(path).map_err(ImageError::io(step))?.into(),
            overlay: store.layout().overlay(),
            opaque: record.opaque,
            implied: record.implied,
        })
    }

    /// Writes the tar: names in order, so that it is always the same.
    fn write<W: Write>(&self, to: W) -> io::Result<W> {
        let mut writer = TreeWriter {
            tree: self,
            tar: TarWriter::new(to),
            links: HashMap::new(),
        };
        if self.opaque {
            writer.empty(Path::new(".wh..wh..opq"))?;
        }
        writer.directory(&self.root, Path::new(""))?;
        writer.tar.finish()
    }
}

struct TreeWriter<'a, W> {
    tree: &'a Tree,
    tar: TarWriter<W>,
    /// Where a file with several names was written.
    links: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> TreeWriter<'_, W> {
    fn directory(&mut self, directory: &OwnedFd, path: &Path) -> io::Result<()> {
        let mut names: Vec<OsString> = Vec::new();
        for entry in Dir::read_from(directory)? {
            let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort();
        for name in names {
            self.entry(directory, &name, &path.join(&name))?;
        }
        Ok(())
    }

    fn entry(&mut self, parent: &OwnedFd, name: &OsStr, path: &Path) -> io::Result<()> {
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if is_whiteout(&stat) {
            let mut hidden = OsString::from(".wh.");
            hidden.push(name);
            return self.empty(&path.with_file_name(hidden));
        }
        let bytes = path.as_os_str().as_bytes();
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let inner = open_beneath(parent, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
                if !self.tree.implied.contains(path) {
                    let facts = facts(&stat, EntryType::Directory, 0);
                    let shown = [bytes, b"/"].concat();
                    let xattrs = attributes(&inner)?;
                    self.tar
                        .member(facts, &shown, None, &xattrs, &mut io::empty())?;
                }
                if self.tree.overlay.is_opaque(&inner) {
                    self.empty(&path.join(".wh..wh..opq"))?;
                }
                self.directory(&inner, path)
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(parent, name, Vec::new())?;
                let facts = facts(&stat, EntryType::Symlink, 0);
                let target = Some(target.as_bytes());
                self.tar.member(facts, bytes, target, &[], &mut io::empty())
            }
            FileType::RegularFile => {
                if stat.st_nlink > 1 {
                    let key = (stat.st_dev, stat.st_ino);
                    if let Some(first) = self.links.get(&key) {
                        let facts = facts(&stat, EntryType::Link, 0);
                        let target = Some(first.as_os_str().as_bytes());
                        return self.tar.member(facts, bytes, target, &[], &mut io::empty());
                    }
                    self.links.insert(key, path.to_owned());
                }
                let mut file = File::from(open_beneath(parent, name, OFlags::RDONLY)?);
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                let facts = facts(&stat, EntryType::Regular, size);
                let xattrs = attributes(&file)?;
                self.tar.member(facts, bytes, None, &xattrs, &mut file)
            }
            _ => Err(io::Error::other("a layer has something that is no file")),
        }
    }

    /// An entry that only means something by its name.
    fn empty(&mut self, path: &Path) -> io::Result<()> {
        let path = path.as_os_str().as_bytes();
        let facts = Facts::file(0);
        self.tar.member(facts, path, None, &[], &mut io::empty())
    }
}

fn facts(stat: &Stat, kind: EntryType, size: u64) -> Facts {
    Facts {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified: u64::try_from(stat.st_mtime).unwrap_or(0),
        size,
    }
}

/// The attributes that a layer can have: those of its files, not those that mark whiteouts.
fn attributes(file: impl std::os::fd::AsFd) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut list = vec![0_u8; 64 * 1024];
    let length = match rustix::fs::flistxattr(&file, &mut list[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(errno) => return Err(errno.into()),
    };
    let mut found = Vec::new();
    for name in list[..length].split(|byte| *byte == 0) {
        if !name.starts_with(b"user.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        let mut value = vec![0_u8; 64 * 1024];
        let length = rustix::fs::fgetxattr(&file, name, &mut value[..])?;
        value.truncate(length);
        // Who reads it would take it for the end of the record.
        if !value.contains(&b'\n') {
            found.push((name.to_owned(), value));
        }
    }
    found.sort();
    Ok(found)
}
