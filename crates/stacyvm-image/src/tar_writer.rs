//! Writing tar entries with names, links and attributes exactly as they are.

use std::io::{self, Read, Write};

use tar::{EntryType, Header};

/// What the header of an entry says beside names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntryHeader {
    pub(crate) kind: EntryType,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970.
    pub(crate) modified: u64,
    pub(crate) size: u64,
}

impl EntryHeader {
    /// A regular file that belongs to root.
    pub(crate) fn file(size: u64) -> Self {
        Self {
            kind: EntryType::Regular,
            mode: 0o644,
            uid: 0,
            gid: 0,
            modified: 0,
            size,
        }
    }
}

/// A tar that is being written.
pub(crate) struct TarWriter<W> {
    to: W,
}

impl<W: Write> TarWriter<W> {
    pub(crate) fn new(to: W) -> Self {
        Self { to }
    }

    /// Writes an entry with all its content.
    pub(crate) fn write_entry(
        &mut self,
        entry: EntryHeader,
        path: &[u8],
        link: Option<&[u8]>,
        xattrs: &[(Vec<u8>, Vec<u8>)],
        content: &mut dyn Read,
    ) -> io::Result<()> {
        self.write_header(entry, path, link, xattrs)?;
        let written = io::copy(&mut content.take(entry.size), &mut self.to)?;
        if written != entry.size {
            return Err(io::Error::other("a file is shorter than it was"));
        }
        self.pad(entry.size)
    }

    /// Writes the header of an entry; its content and `pad` follow.
    pub(crate) fn write_header(
        &mut self,
        entry: EntryHeader,
        path: &[u8],
        link: Option<&[u8]>,
        xattrs: &[(Vec<u8>, Vec<u8>)],
    ) -> io::Result<()> {
        if !xattrs.is_empty() {
            let mut records = Vec::new();
            for (name, value) in xattrs {
                push_record(&mut records, name, value);
            }
            self.write_extension(EntryType::XHeader, b"xattrs", &records)?;
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_uid(entry.uid.into());
        header.set_gid(entry.gid.into());
        header.set_mtime(entry.modified);
        header.set_size(entry.size);
        if !fill(&mut header.as_old_mut().name, path) {
            self.write_long_name(EntryType::GNULongName, path)?;
        }
        if let Some(link) = link
            && !fill(&mut header.as_old_mut().linkname, link)
        {
            self.write_long_name(EntryType::GNULongLink, link)?;
        }
        header.set_cksum();
        self.to.write_all(header.as_bytes())
    }

    /// The stream, for the content of an entry.
    pub(crate) fn content(&mut self) -> &mut W {
        &mut self.to
    }

    /// Fills the last block of an entry's content.
    pub(crate) fn pad(&mut self, size: u64) -> io::Result<()> {
        let over = size % 512;
        if over > 0 {
            self.to.write_all(&vec![0; (512 - over) as usize])?;
        }
        Ok(())
    }

    /// Writes the end mark.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.to.write_all(&[0; 1024])?;
        Ok(self.to)
    }

    fn write_long_name(&mut self, kind: EntryType, name: &[u8]) -> io::Result<()> {
        let mut content = name.to_owned();
        content.push(0);
        self.write_extension(kind, b"././@LongLink", &content)
    }

    fn write_extension(&mut self, kind: EntryType, name: &[u8], content: &[u8]) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        fill(&mut header.as_old_mut().name, name);
        header.set_cksum();
        self.to.write_all(header.as_bytes())?;
        self.to.write_all(content)?;
        self.pad(content.len() as u64)
    }
}

/// Copies as much of a text into a field of a header as fits. Answers whether that was all.
fn fill(field: &mut [u8], text: &[u8]) -> bool {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
    text.len() <= field.len()
}

/// `LENGTH KEY=VALUE` and a line feed, where the length counts its own digits too.
fn push_record(records: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    let key = [b" SCHILY.xattr.", name, b"="].concat();
    let rest = key.len() + value.len() + 1;
    let mut length = rest;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.extend_from_slice(&key);
    records.extend_from_slice(value);
    records.push(b'\n');
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut writer = TarWriter::new(Vec::new());
        let long = "d/".repeat(90) + "file";
        let xattrs = vec![
            (b"user.a".to_vec(), vec![b'v'; 96]),
            (b"user.b".to_vec(), vec![]),
        ];
        let (file, mut link) = (EntryHeader::file(3), EntryHeader::file(0));
        link.kind = EntryType::Symlink;
        writer
            .write_entry(file, long.as_bytes(), None, &xattrs, &mut &b"abc"[..])
            .unwrap();
        let target = format!("./{long}//x");
        writer
            .write_entry(link, b"l", Some(target.as_bytes()), &[], &mut io::empty())
            .unwrap();
        let bytes = writer.finish().unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut entries = archive.entries().unwrap();
        let mut first = entries.next().unwrap().unwrap();
        assert_eq!(&*first.path_bytes(), long.as_bytes());
        let read: Vec<_> = first
            .pax_extensions()
            .unwrap()
            .unwrap()
            .map(|record| record.unwrap())
            .map(|record| (record.key().unwrap().to_owned(), record.value_bytes().len()))
            .collect();
        assert_eq!(
            read,
            [
                ("SCHILY.xattr.user.a".to_owned(), 96),
                ("SCHILY.xattr.user.b".to_owned(), 0)
            ]
        );
        let mut content = String::new();
        first.read_to_string(&mut content).unwrap();
        assert_eq!(content, "abc");
        let second = entries.next().unwrap().unwrap();
        assert_eq!(&*second.link_name_bytes().unwrap(), target.as_bytes());
        assert!(entries.next().is_none());
    }
}
