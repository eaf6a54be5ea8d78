//! The commands that the agent knows, by number: all that run, and detached ones that have ended.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use parking_lot::Mutex;
use stacyvm_proto::message::{Code, Exec, ExecInfo, Failure, control};
use tokio::sync::mpsc;

use super::record::Record;
use crate::replies::failure;

/// How many ended detached commands are remembered.
const MAX_ENDED: usize = 64;
/// How much memory their records may take together, bytes.
const MAX_ENDED_COST: usize = 8 * 1024 * 1024;
/// How much of the arguments of one command a listing shows, bytes.
const MAX_SHOWN: usize = 4 * 1024;
/// What an argument costs beside its text, bytes, so that a flood of empty ones is bounded too.
const ARGUMENT_OVERHEAD: usize = 8;
/// How many controls may wait for a command.
const CONTROL_QUEUE: usize = 8;

/// Input from a stream that did not start the command.
#[derive(Debug)]
pub(super) enum InputChunk {
    /// Bytes.
    Bytes(Bytes),
    /// The end of the input.
    End,
}

/// The receiving ends of a command's queues, whose sending ends are in its [`ExecEntry`].
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) controls: mpsc::Receiver<control::Control>,
    /// Read only while no earlier input waits for the command, and closed with its input.
    pub(super) input: mpsc::Receiver<InputChunk>,
}

/// One command in the table.
#[derive(Debug)]
pub(crate) struct ExecEntry {
    exec_id: u64,
    argv: Vec<String>,
    pid: u32,
    tty: bool,
    /// Whether it may outlive its stream, so that its output is recorded.
    pub(super) detached: bool,
    started_micros: i64,
    pub(super) record: Record,
    pub(super) controls: mpsc::Sender<control::Control>,
    pub(super) input: mpsc::Sender<InputChunk>,
}

impl ExecEntry {
    /// The number of its process; 0 when there is none.
    pub(super) fn pid(&self) -> i32 {
        i32::try_from(self.pid).unwrap_or(0)
    }

    pub(super) fn info(&self) -> ExecInfo {
        let (log_start, log_end) = self.record.bounds();
        ExecInfo {
            exec_id: self.exec_id,
            argv: self.argv.clone(),
            pid: self.pid,
            tty: self.tty,
            detached: self.detached,
            started_micros: self.started_micros,
            exit: self.record.exit(),
            log_start,
            log_end,
        }
    }
}

/// All commands that the agent knows.
#[derive(Debug, Default)]
pub(crate) struct ExecTable {
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    by_number: BTreeMap<u64, Arc<ExecEntry>>,
    /// Numbers of detached commands, in the order in which they ended.
    ended: VecDeque<u64>,
}

impl ExecTable {
    /// Adds a command that has just been started; `pid` is 0 when it could not be.
    pub(super) fn add(&self, exec_id: u64, exec: &Exec, pid: i32) -> (Arc<ExecEntry>, Inbox) {
        let (controls, control_receiver) = mpsc::channel(CONTROL_QUEUE);
        let (input, input_receiver) = mpsc::channel(1);
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let micros = since.map_or(0, |since| since.as_micros());
        let entry = Arc::new(ExecEntry {
            exec_id,
            argv: shown(&exec.argv),
            pid: pid.unsigned_abs(),
            tty: exec.tty.is_some(),
            detached: exec.detached,
            started_micros: i64::try_from(micros).unwrap_or(i64::MAX),
            record: Record::default(),
            controls,
            input,
        });
        let mut entries = self.entries.lock();
        entries.by_number.insert(exec_id, entry.clone());
        let inbox = Inbox {
            controls: control_receiver,
            input: input_receiver,
        };
        (entry, inbox)
    }

    /// Records that a command has ended. A command that is not detached is removed; the oldest
    /// detached ones are removed when there are too many.
    pub(super) fn ended(&self, exec: &ExecEntry) {
        let mut entries = self.entries.lock();
        if !exec.detached {
            entries.by_number.remove(&exec.exec_id);
            return;
        }
        entries.ended.push_back(exec.exec_id);
        // The command that has just ended always stays: its record has a bound of its own.
        while entries.ended.len() > 1 && entries.is_over() {
            if let Some(oldest) = entries.ended.pop_front() {
                entries.by_number.remove(&oldest);
            }
        }
    }

    /// Finds one command.
    pub(crate) fn find(&self, exec_id: u64) -> Result<Arc<ExecEntry>, Failure> {
        let entry = self.entries.lock().by_number.get(&exec_id).cloned();
        entry.ok_or_else(|| {
            failure(
                Code::NotFound,
                format!("no command with number {exec_id} is running or remembered"),
            )
        })
    }

    /// All commands, oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<ExecEntry>> {
        self.entries.lock().by_number.values().cloned().collect()
    }
}

impl Entries {
    /// Whether the ended commands are too many, or take too much memory.
    fn is_over(&self) -> bool {
        let cost = |number: &u64| {
            let entry = self.by_number.get(number);
            entry.map_or(0, |entry| entry.record.cost())
        };
        let costs: usize = self.ended.iter().map(cost).sum();
        self.ended.len() > MAX_ENDED || costs > MAX_ENDED_COST
    }
}

/// The arguments, cut to what a listing shows.
fn shown(argv: &[String]) -> Vec<String> {
    let mut left = MAX_SHOWN;
    let mut all = Vec::new();
    for argument in argv {
        if left == 0 {
            break;
        }
        let length = argument.floor_char_boundary(left.min(argument.len()));
        all.push(argument[..length].to_owned());
        left = left.saturating_sub(argument.len() + ARGUMENT_OVERHEAD);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use stacyvm_proto::message::Exit;

    fn exec(detached: bool) -> Exec {
        Exec {
            argv: vec!["é".repeat(MAX_SHOWN), "rest".into()],
            detached,
            ..Exec::default()
        }
    }

    #[test]
    fn a_flood_of_empty_arguments_is_cut() {
        let argv = vec![String::new(); 100_000];
        let table = ExecTable::default();
        let exec = Exec {
            argv,
            ..Exec::default()
        };
        let (entry, _inbox) = table.add(1, &exec, 7);
        let info = entry.info();
        assert!(
            prost::Message::encoded_len(&info) < 2 * MAX_SHOWN,
            "{}",
            info.argv.len()
        );
    }

    #[test]
    fn detached_commands_are_remembered_within_bounds() {
        let table = ExecTable::default();
        let (running, _inbox) = table.add(1, &exec(true), 7);
        for number in 2..200 {
            let (entry, _inbox) = table.add(number, &exec(true), 7);
            entry.record.append(1, &[0; 64 * 1024]);
            entry.record.finish(Exit::default());
            table.ended(&entry);
        }
        let (forgotten, _inbox) = table.add(200, &exec(false), 7);
        table.ended(&forgotten);
        let numbers: Vec<u64> = table.all().iter().map(|entry| entry.exec_id).collect();
        assert_eq!(numbers.len(), MAX_ENDED + 1);
        assert_eq!((numbers[0], numbers[MAX_ENDED]), (1, 199));
        assert!(running.info().argv[0].len() <= MAX_SHOWN && running.info().argv.len() == 1);

        let (large, _inbox) = table.add(201, &exec(true), 7);
        for _ in 0..128 {
            large.record.append(1, &[0; 64 * 1024]);
        }
        large.record.finish(Exit::default());
        table.ended(&large);
        for number in 300..320 {
            let (entry, _inbox) = table.add(number, &exec(true), 7);
            for _ in 0..128 {
                entry.record.append(1, &[0; 64 * 1024]);
            }
            entry.record.finish(Exit::default());
            table.ended(&entry);
        }
        // The first one ends last, and is the last to be forgotten.
        running.record.finish(Exit::default());
        table.ended(&running);
        assert!(table.find(1).is_ok());
        let cost: usize = table.all().iter().map(|entry| entry.record.cost()).sum();
        assert!(cost <= MAX_ENDED_COST, "{cost}");
    }
}
