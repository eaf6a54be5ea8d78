//! Facts about processes from `/proc`.

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, openat, statx};
use rustix::io::Result;

/// Counts the threads of the calling process.
///
/// This takes one stat call: the kernel counts a process's threads as links of its `task` directory, on top
/// of the two that every directory has.
///
/// # Errors
/// When `/proc` is not there.
pub fn thread_count() -> Result<u32> {
    let status = statx(CWD, "/proc/self/task", AtFlags::empty(), StatxFlags::NLINK)?;
    Ok(status.stx_nlink.saturating_sub(2))
}

/// The start time of a process, in clock ticks since boot (field 22 of `/proc/PID/stat`, see
/// proc(5)). Together with its number it identifies the process for ever. None when there is no such
/// process.
#[must_use]
pub fn start_ticks(pid: i32) -> Option<u64> {
    let path = format!("/proc/{pid}/stat");
    let file = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    // One read returns the whole line, which is always shorter than this.
    let mut line = [0; 2048];
    let length = rustix::io::read(&file, &mut line).ok()?;
    parse_start_ticks(&line[..length])
}

fn parse_start_ticks(stat: &[u8]) -> Option<u64> {
    // The second field is the program's name in parentheses and may hold anything, also `)`.
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    std::str::from_utf8(&stat[after_name..])
        .ok()?
        .split_ascii_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_look_like_fields() {
        let line = b"7 (a) R 1 (b)) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 2\n";
        assert_eq!(parse_start_ticks(line), Some(4711));
        assert_eq!(parse_start_ticks(b"7 (x) S 1"), None);
        assert_eq!(parse_start_ticks(b""), None);
    }

    #[test]
    fn finds_the_own_start_and_no_impossible_one() {
        let own = i32::try_from(std::process::id()).expect("fits");
        assert!(start_ticks(own).is_some_and(|ticks| ticks > 0));
        assert_eq!(start_ticks(i32::MAX), None);
    }

    #[test]
    fn counts_threads() {
        let before = thread_count().expect("proc is mounted");
        assert!(before >= 1, "a test runs in a thread: {before}");
    }
}
