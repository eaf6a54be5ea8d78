//! Processes that the agent can see, as `/proc` describes them (proc(5)).

use std::fs::File;
use std::io::Read as _;
use std::sync::OnceLock;

/// One process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    pub(crate) session: i32,
    /// `R`, `S`, `D`, `T`, `Z`, …
    pub(crate) state: u8,
    /// CPU time of its own and of the children it has waited for, in clock ticks.
    pub(crate) ticks: u64,
    /// CPU time of the children alone.
    pub(crate) children_ticks: u64,
    /// Resident pages.
    pub(crate) pages: u64,
}

impl Process {
    /// Whether it has not ended.
    pub(crate) fn alive(self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// All visible processes. Processes that end during the scan may be missing.
pub(crate) fn scan() -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers.filter_map(read).collect()
}

/// Reads one process.
pub(crate) fn read(pid: i32) -> Option<Process> {
    let mut buffer = [0; 1024];
    parse(pid, read_start(&format!("/proc/{pid}/stat"), &mut buffer)?)
}

/// The mark of the command that a process belongs to: in its `RLIMIT_LOCKS`, see
/// `stacyvm_sys::spawn`, or in its environment where a kernel (gVisor) shows no limits.
pub(crate) fn mark(pid: i32) -> Option<u64> {
    if !shows_limits() {
        return marked_in_environment(pid);
    }
    let mut buffer = [0; 2048];
    let text = read_start(&format!("/proc/{pid}/limits"), &mut buffer)?;
    let text = std::str::from_utf8(text).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max file locks"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn shows_limits() -> bool {
    static SHOWN: OnceLock<bool> = OnceLock::new();
    *SHOWN.get_or_init(|| File::open("/proc/self/limits").is_ok())
}

/// The name of the variable that marks commands where limits cannot.
const MARK_VARIABLE: &str = "STACYVM_EXEC_MARK=";
/// How many bytes of an environment are searched.
const MAX_ENVIRONMENT: u64 = 256 * 1024;

/// The variable that marks a command's environment; none where limits carry the mark.
pub(crate) fn mark_in_environment(mark: u64) -> Option<String> {
    (!shows_limits()).then(|| format!("{MARK_VARIABLE}{mark}"))
}

fn marked_in_environment(pid: i32) -> Option<u64> {
    let file = File::open(format!("/proc/{pid}/environ")).ok()?;
    let mut environment = Vec::new();
    file.take(MAX_ENVIRONMENT)
        .read_to_end(&mut environment)
        .ok()?;
    find_mark(&environment)
}

fn find_mark(environment: &[u8]) -> Option<u64> {
    let mut variables = environment.split(|byte| *byte == 0);
    let value = variables.find_map(|it| it.strip_prefix(MARK_VARIABLE.as_bytes()))?;
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Reads the start of a file, as much as fits into `buffer`.
fn read_start<'a>(path: &str, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let count = File::open(path).ok()?.read(buffer).ok()?;
    Some(&buffer[..count])
}

fn parse(pid: i32, stat: &[u8]) -> Option<Process> {
    // The name in parentheses may hold anything, parentheses too: the last one ends it.
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let text = std::str::from_utf8(stat.get(end + 2..)?).ok()?;
    // Fields from the third on, see proc_pid_stat(5).
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let children_ticks = number(16)?.saturating_add(number(17)?);
    Some(Process {
        pid,
        state: *fields.first()?.as_bytes().first()?,
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        ticks: number(14)?
            .saturating_add(number(15)?)
            .saturating_add(children_ticks),
        children_ticks,
        pages: number(24)?,
    })
}

/// The processes of `all` that match `seeds`, and their descendants.
pub(crate) fn with_descendants(all: &[Process], seeds: impl Fn(&Process) -> bool) -> Vec<Process> {
    let mut found: Vec<Process> = all.iter().copied().filter(&seeds).collect();
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        next += 1;
        for process in all {
            if process.parent == parent.pid && !found.iter().any(|known| known.pid == process.pid) {
                found.push(*process);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_name_cannot_forge_fields() {
        let stat = b"7 (a) R 1 (b)) S 3 7 5 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 99 1000 55 18446744073709551615 1\n";
        let process = parse(7, stat).unwrap();
        assert_eq!(
            (process.parent, process.session, process.state),
            (3, 5, b'S')
        );
        assert_eq!(
            (process.ticks, process.children_ticks, process.pages),
            (100, 70, 55)
        );
        assert_eq!(parse(7, b"7 (a"), None);
        assert_eq!(parse(7, b"7 (a) S 1"), None);
    }

    #[test]
    fn this_process_is_seen() {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let seen = scan()
            .into_iter()
            .find(|process| process.pid == own)
            .unwrap();
        assert!(seen.alive() && seen.pages > 0);
    }

    #[test]
    fn a_mark_is_found_among_variables() {
        let marked = b"A=1\0STACYVM_EXEC_MARK=4611686018427387909\0B=2\0";
        assert_eq!(find_mark(marked), Some((1 << 62) + 5));
        assert_eq!(find_mark(b"XSTACYVM_EXEC_MARK=1\0"), None);
        assert_eq!(find_mark(b"STACYVM_EXEC_MARK=-1\0"), None);
        assert_eq!(find_mark(b""), None);
    }

    #[test]
    fn descendants_are_followed_to_the_end() {
        let process = |pid, parent| Process {
            pid,
            parent,
            session: 0,
            state: b'S',
            ticks: 0,
            children_ticks: 0,
            pages: 0,
        };
        let all = [
            process(5, 4),
            process(4, 3),
            process(3, 2),
            process(9, 1),
            process(2, 1),
        ];
        let mut found: Vec<_> = with_descendants(&all, |process| process.pid == 3)
            .iter()
            .map(|process| process.pid)
            .collect();
        found.sort_unstable();
        assert_eq!(found, [3, 4, 5]);
    }
}
