//! A layer of the store as a tar, always with the same bytes.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, OFlags, Stat};
use rustix::io::Errno;
use stacyvm_sys::resolve::open_beneath;
use tar::EntryType;

use crate::overlay::{OverlayAttributes, is_whiteout};
use crate::store::{ContentStore, layer};
use crate::tar_writer::{EntryHeader, TarWriter};
use crate::{Digest, ImageError};

/// An unpacked layer that is to be written as a tar.
pub(super) struct LayerTar {
    root: OwnedFd,
    overlay: OverlayAttributes,
    opaque: bool,
    implied: BTreeSet<PathBuf>,
}

impl LayerTar {
    pub(super) fn open(store: &ContentStore, diff_id: Digest) -> Result<Self, ImageError> {
        let step = "open a layer";
        let record = layer::record(store.layout(), diff_id)?
            .ok_or_else(|| ImageError::io(step)(io::Error::from(io::ErrorKind::NotFound)))?;
        let path = store.layout().layer(diff_id).join("tree");
        Ok(Self {
            root: File::open(path).map_err(ImageError::io(step))?.into(),
            overlay: store.layout().overlay(),
            opaque: record.opaque,
            implied: record.implied,
        })
    }

    /// Writes the tar: names in order, so that its bytes are always the same.
    pub(super) fn write<W: Write>(&self, to: W) -> io::Result<W> {
        let mut writer = LayerTarWriter {
            layer: self,
            tar: TarWriter::new(to),
            links: HashMap::new(),
        };
        if self.opaque {
            writer.write_marker(Path::new(".wh..wh..opq"))?;
        }
        writer.write_directory(&self.root, Path::new(""))?;
        writer.tar.finish()
    }
}

struct LayerTarWriter<'a, W> {
    layer: &'a LayerTar,
    tar: TarWriter<W>,
    /// Where a file with several names was written.
    links: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> LayerTarWriter<'_, W> {
    fn write_directory(&mut self, directory: &OwnedFd, path: &Path) -> io::Result<()> {
        let mut names: Vec<OsString> = Vec::new();
        for entry in Dir::read_from(directory)? {
            let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort();
        for name in names {
            self.write_file(directory, &name, &path.join(&name))?;
        }
        Ok(())
    }

    fn write_file(&mut self, parent: &OwnedFd, name: &OsStr, path: &Path) -> io::Result<()> {
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if is_whiteout(&stat) {
            let mut hidden = OsString::from(".wh.");
            hidden.push(name);
            return self.write_marker(&path.with_file_name(hidden));
        }
        let bytes = path.as_os_str().as_bytes();
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let inner = open_beneath(parent, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
                if !self.layer.implied.contains(path) {
                    let header = entry_header(&stat, EntryType::Directory, 0);
                    let shown = [bytes, b"/"].concat();
                    let xattrs = user_attributes(&inner)?;
                    self.tar
                        .write_entry(header, &shown, None, &xattrs, &mut io::empty())?;
                }
                if self.layer.overlay.is_opaque(&inner) {
                    self.write_marker(&path.join(".wh..wh..opq"))?;
                }
                self.write_directory(&inner, path)
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(parent, name, Vec::new())?;
                let header = entry_header(&stat, EntryType::Symlink, 0);
                let target = Some(target.as_bytes());
                self.tar
                    .write_entry(header, bytes, target, &[], &mut io::empty())
            }
            FileType::RegularFile => {
                if stat.st_nlink > 1 {
                    let key = (stat.st_dev, stat.st_ino);
                    if let Some(first) = self.links.get(&key) {
                        let header = entry_header(&stat, EntryType::Link, 0);
                        let target = Some(first.as_os_str().as_bytes());
                        return self
                            .tar
                            .write_entry(header, bytes, target, &[], &mut io::empty());
                    }
                    self.links.insert(key, path.to_owned());
                }
                let mut file = File::from(open_beneath(parent, name, OFlags::RDONLY)?);
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                let header = entry_header(&stat, EntryType::Regular, size);
                let xattrs = user_attributes(&file)?;
                self.tar
                    .write_entry(header, bytes, None, &xattrs, &mut file)
            }
            _ => Err(io::Error::other("a layer has something that is no file")),
        }
    }

    /// Writes an entry that means something by its name alone.
    fn write_marker(&mut self, path: &Path) -> io::Result<()> {
        let path = path.as_os_str().as_bytes();
        let header = EntryHeader::file(0);
        self.tar
            .write_entry(header, path, None, &[], &mut io::empty())
    }
}

fn entry_header(stat: &Stat, kind: EntryType, size: u64) -> EntryHeader {
    EntryHeader {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified: u64::try_from(stat.st_mtime).unwrap_or(0),
        size,
    }
}

/// The attributes that a layer can have: those of its files, not those that mark whiteouts.
fn user_attributes(file: impl AsFd) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
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
        // A reader would take a line feed for the end of the record.
        if !value.contains(&b'\n') {
            found.push((name.to_owned(), value));
        }
    }
    found.sort();
    Ok(found)
}
