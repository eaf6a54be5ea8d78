//! Finding files by pattern, reading only the directories that the pattern needs.

use std::collections::{BTreeSet, HashSet};
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, OFlags};
use rustix::io::Errno;

use super::path::{InnerPath, WORKSPACE, join};
use super::pattern::{Matcher, expand, literal};
use super::root::Root;
use super::walk::{MAX_ENTRIES, sorted_names, too_many};
use super::{FileError, info};

/// How many directories one search may read.
const MAX_DIRECTORIES: usize = 200_000;

/// One part of a pattern.
#[derive(Debug)]
enum Part {
    /// A name.
    Name(String),
    /// A name with wildcards.
    Wild(Matcher),
    /// `**`: any number of directories.
    Deep,
}

pub(super) fn glob(root: &Root, pattern: &str) -> Result<Vec<String>, FileError> {
    if pattern.is_empty() || pattern.contains('\0') {
        return Err(FileError::Invalid(
            "the pattern is empty or has a NUL byte".to_owned(),
        ));
    }
    let mut search = Search {
        root,
        pattern,
        found: BTreeSet::new(),
        seen: HashSet::new(),
        directories: 0,
    };
    for alternative in expand(pattern)? {
        let parts = read_parts(&alternative)?;
        search.seen.clear();
        search.run(&parts)?;
    }
    Ok(search.found.into_iter().collect())
}

/// Cuts an alternative into parts; `.` and `..` are cleaned away as in paths, and a `..` after a
/// wildcard has no meaning.
fn read_parts(alternative: &str) -> Result<Vec<Part>, FileError> {
    let full = if alternative.starts_with('/') {
        alternative.to_owned()
    } else {
        format!("{WORKSPACE}/{alternative}")
    };
    let mut parts = Vec::new();
    for text in full.split('/') {
        match text {
            "" | "." => {}
            ".." => match parts.pop() {
                Some(Part::Name(_)) => {}
                _ => {
                    return Err(FileError::Invalid(format!(
                        "the pattern {alternative:?} has a \"..\" that leads nowhere"
                    )));
                }
            },
            "**" => {
                if !matches!(parts.last(), Some(Part::Deep)) {
                    parts.push(Part::Deep);
                }
            }
            text => parts.push(match literal(text) {
                Some(name) => Part::Name(name),
                None => Part::Wild(Matcher::new(text)?),
            }),
        }
    }
    Ok(parts)
}

struct Search<'a> {
    root: &'a Root,
    pattern: &'a str,
    found: BTreeSet<String>,
    /// Visited pairs of a directory and the number of parts used up: `**` may reach one twice.
    seen: HashSet<(String, usize)>,
    directories: usize,
}

impl Search<'_> {
    fn run(&mut self, parts: &[Part]) -> Result<(), FileError> {
        // Directories (absolute) and how many parts led there.
        let mut waiting = vec![("/".to_owned(), 0_usize)];
        while let Some((directory, used)) = waiting.pop() {
            if !self.seen.insert((directory.clone(), used)) {
                continue;
            }
            match parts.get(used) {
                None => self.add(directory)?,
                Some(Part::Name(name)) => {
                    let path = join(&directory, name);
                    let last = used + 1 == parts.len();
                    if self.is_there(&path, last) {
                        waiting.push((path, used + 1));
                    }
                }
                Some(part) => self.read(&directory, part, used, parts, &mut waiting)?,
            }
        }
        Ok(())
    }

    fn read(
        &mut self,
        directory: &str,
        part: &Part,
        used: usize,
        parts: &[Part],
        waiting: &mut Vec<(String, usize)>,
    ) -> Result<(), FileError> {
        self.directories += 1;
        if self.directories > MAX_DIRECTORIES {
            return Err(FileError::Limit(format!(
                "the pattern {:?} takes reading more than {MAX_DIRECTORIES} directories",
                self.pattern
            )));
        }
        let last = used + 1 == parts.len();
        if matches!(part, Part::Deep) && !last {
            // `**` also matches no directory at all.
            waiting.push((directory.to_owned(), used + 1));
        }
        let relative = directory.trim_start_matches('/');
        let relative = if relative.is_empty() { "." } else { relative };
        // A file that cannot be opened as a directory contains no match.
        let Ok(opened) = self.root.open(relative, OFlags::RDONLY | OFlags::DIRECTORY) else {
            return Ok(());
        };
        let names = match sorted_names(opened.as_fd()) {
            Ok(names) => names,
            Err(Errno::OVERFLOW) => return Err(too_many(directory)),
            Err(_) => return Ok(()),
        };
        for name in names {
            // A name that is not UTF-8 cannot be part of the answer.
            let Ok(name) = name.to_str() else { continue };
            let path = join(directory, name);
            match part {
                Part::Deep => {
                    let below = rustix::fs::statat(&opened, name, AtFlags::SYMLINK_NOFOLLOW)
                        .is_ok_and(|stat| info::file_type(&stat) == FileType::Directory);
                    if last {
                        self.add(path.clone())?;
                    }
                    if below {
                        waiting.push((path, used));
                    }
                }
                Part::Wild(matcher) if matcher.matches(name) => {
                    if last {
                        self.add(path)?;
                    } else {
                        waiting.push((path, used + 1));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether the file exists. The last part may be a dangling link.
    fn is_there(&self, path: &str, last: bool) -> bool {
        let Ok(path) = InnerPath::parse(path) else {
            return false;
        };
        let flags = if last {
            OFlags::PATH | OFlags::NOFOLLOW
        } else {
            OFlags::PATH | OFlags::DIRECTORY
        };
        self.root.open(path.relative(), flags).is_ok()
    }

    fn add(&mut self, path: String) -> Result<(), FileError> {
        if self.found.len() >= MAX_ENTRIES {
            return Err(FileError::Limit(format!(
                "the pattern {:?} matches more than {MAX_ENTRIES} files",
                self.pattern
            )));
        }
        self.found.insert(path);
        Ok(())
    }
}
