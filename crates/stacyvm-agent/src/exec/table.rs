//! The commands that the agent knows, by number: all that run, and kept ones for a while after.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use stacyvm_proto::message::{Code, Exec, ExecInfo, Failure, control};
use tokio::sync::mpsc;

use super::record::Record;
use crate::agent::lock;
use crate::failure::failure;

/// Kept commands that have ended and are still remembered.
const ENDED: usize = 64;
/// What their records may take together, bytes.
const ENDED_COST: usize = 8 * 1024 * 1024;
/// What a listing shows of the arguments of one command, bytes.
const SHOWN: usize = 4 * 1024;
/// What an argument takes beside its text, so that a flood of empty ones is bounded too.
const ARGUMENT: usize = 8;
/// Controls that wait for a command.
const ORDERS: usize = 8;

/// Input from others than the command's own stream.
#[derive(Debug)]
pub(super) enum Piece {
    /// Bytes.
    Bytes(Bytes),
    /// The end.
    Finish,
}

/// What tells a command what others say; its own side of what stands in the table.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) orders: mpsc::Receiver<control::Control>,
    /// Taken from only while nothing waits for the command, and closed with its input.
    pub(super) input: mpsc::Receiver<Piece>,
}

/// One command.
#[derive(Debug)]
pub(crate) struct Known {
    exec_id: u64,
    argv: Vec<String>,
    pid: u32,
    tty: bool,
    /// Whether its output is kept and it outlives its stream.
    pub(super) kept: bool,
    started_micros: i64,
    pub(super) record: Record,
    pub(super) orders: mpsc::Sender<control::Control>,
    pub(super) input: mpsc::Sender<Piece>,
}

impl Known {
    /// Its process; 0 when there is none.
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
            kept: self.kept,
            started_micros: self.started_micros,
            exit: self.record.exit(),
            log_start,
            log_end,
        }
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Table {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    known: BTreeMap<u64, Arc<Known>>,
    /// Kept ones, in the order in which they ended.
    ended: VecDeque<u64>,
}

impl Table {
    /// Takes note of a command that has just been started; `pid` is 0 when it could not be.
    pub(super) fn add(&self, exec_id: u64, exec: &Exec, pid: i32) -> (Arc<Known>, Told) {
        let (orders, heard) = mpsc::channel(ORDERS);
        let (input, taken) = mpsc::channel(1);
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let micros = since.map_or(0, |since| since.as_micros());
        let known = Arc::new(Known {
            exec_id,
            argv: shown(&exec.argv),
            pid: pid.unsigned_abs(),
            tty: exec.tty.is_some(),
            kept: exec.survive,
            started_micros: i64::try_from(micros).unwrap_or(i64::MAX),
            record: Record::default(),
            orders,
            input,
        });
        lock(&self.inner).known.insert(exec_id, known.clone());
        let told = Told {
            orders: heard,
            input: taken,
        };
        (known, told)
    }

    /// A command has ended: one that is not kept is forgotten, and so are kept ones that ended
    /// long ago when there are too many.
    pub(super) fn ended(&self, exec: &Known) {
        let mut inner = lock(&self.inner);
        if !exec.kept {
            inner.known.remove(&exec.exec_id);
            return;
        }
        inner.ended.push_back(exec.exec_id);
        // What has just ended stays whatever it takes: its record is bounded by itself.
        while inner.ended.len() > 1 && inner.is_over() {
            if let Some(oldest) = inner.ended.pop_front() {
                inner.known.remove(&oldest);
            }
        }
    }

    /// One command.
    pub(crate) fn find(&self, exec_id: u64) -> Result<Arc<Known>, Failure> {
        let known = lock(&self.inner).known.get(&exec_id).cloned();
        known.ok_or_else(|| {
            failure(
                Code::NotFound,
                format!("no command with number {exec_id} is running or remembered"),
            )
        })
    }

    /// All, oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<Known>> {
        lock(&self.inner).known.values().cloned().collect()
    }
}

impl Inner {
    fn is_over(&self) -> bool {
        let cost = |number: &u64| self.known.get(number).map_or(0, |one| one.record.cost());
        self.ended.len() > ENDED || self.ended.iter().map(cost).sum::<usize>() > ENDED_COST
    }
}

/// Arguments cut to what a listing shows.
fn shown(argv: &[String]) -> Vec<String> {
    let mut left = SHOWN;
    let mut all = Vec::new();
    for argument in argv {
        if left == 0 {
            break;
        }
        let length = argument.floor_char_boundary(left.min(argument.len()));
        all.push(argument[..length].to_owned());
        left = left.saturating_sub(argument.len() + ARGUMENT);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use stacyvm_proto::message::Exit;

    fn exec(survive: bool) -> Exec {
        Exec {
            argv: vec!["é".repeat(SHOWN), "rest".into()],
            survive,
            ..Exec::default()
        }
    }

    #[test]
    fn a_flood_of_empty_arguments_is_cut() {
        let argv = vec![String::new(); 100_000];
        let table = Table::default();
        let exec = Exec {
            argv,
            ..Exec::default()
        };
        let (known, _told) = table.add(1, &exec, 7);
        let info = known.info();
        assert!(
            prost::Message::encoded_len(&info) < 2 * SHOWN,
            "{}",
            info.argv.len()
        );
    }

    #[test]
    fn kept_commands_are_remembered_within_bounds() {
        let table = Table::default();
        let (running, _told) = table.add(1, &exec(true), 7);
        for number in 2..200 {
            let (known, _told) = table.add(number, &exec(true), 7);
            known.record.append(1, &[0; 64 * 1024]);
            known.record.finish(Exit::default());
            table.ended(&known);
        }
        let (forgotten, _told) = table.add(200, &exec(false), 7);
        table.ended(&forgotten);
        let numbers: Vec<u64> = table.all().iter().map(|known| known.exec_id).collect();
        assert_eq!(numbers.len(), ENDED + 1);
        assert_eq!((numbers[0], numbers[ENDED]), (1, 199));
        assert!(running.info().argv[0].len() <= SHOWN && running.info().argv.len() == 1);

        let (large, _told) = table.add(201, &exec(true), 7);
        for _ in 0..128 {
            large.record.append(1, &[0; 64 * 1024]);
        }
        large.record.finish(Exit::default());
        table.ended(&large);
        for number in 300..320 {
            let (known, _told) = table.add(number, &exec(true), 7);
            for _ in 0..128 {
                known.record.append(1, &[0; 64 * 1024]);
            }
            known.record.finish(Exit::default());
            table.ended(&known);
        }
        // The first one ends last, and is the last to be forgotten.
        running.record.finish(Exit::default());
        table.ended(&running);
        assert!(table.find(1).is_ok());
        let cost: usize = table.all().iter().map(|known| known.record.cost()).sum();
        assert!(cost <= ENDED_COST, "{cost}");
    }
}
