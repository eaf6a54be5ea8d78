//! Commands that others started: listing, following, telling.

use bytes::Bytes;
use prost::Message as _;
use stacyvm_proto::message::{self, Answer, Request};
use stacyvm_proto::mux::{Event, Receiver};
use stacyvm_proto::{DATA, STDERR};
use stacyvm_types::{OutputStream, Timestamp};
use tokio::sync::mpsc;

use crate::convert::exec_exit;
use crate::exec::{CONTROLS, EVENTS, QueueEnd, pass_controls, talk, word};
use crate::files::{PIECE, decode};
use crate::unary::{self, unexpected};
use crate::{
    Agent, AttachEvent, Attached, ExecControl, ExecExit, ExecRecord, ExecSpec, OnDisconnect,
    OpError,
};

/// Bytes that one listing may hold: more than any agent of ours sends.
const MAX_LISTING: usize = 16 * 1024 * 1024;

impl Agent {
    /// Starts a command that outlives this connection, and answers with its number and process id.
    ///
    /// # Errors
    /// As for `exec`; `Unsupported` when the agent is older than such commands.
    pub async fn exec_detached(&self, spec: ExecSpec) -> Result<(u64, u32), OpError> {
        self.knows_execs()?;
        let spec = ExecSpec {
            on_disconnect: OnDisconnect::Survive,
            ..spec
        };
        let session = self.exec(spec).await?;
        Ok((session.exec_id, session.pid))
    }

    /// The commands that run and the kept ones that are remembered, oldest first.
    ///
    /// # Errors
    /// `Gone` when the connection is lost, `Unsupported` when the agent is older.
    pub async fn execs(&self) -> Result<Vec<ExecRecord>, OpError> {
        self.ask_execs(None).await
    }

    /// One command.
    ///
    /// # Errors
    /// `NotFound` when it neither runs nor is remembered; as for `execs`.
    pub async fn exec_record(&self, exec_id: u64) -> Result<ExecRecord, OpError> {
        let mut found = self.ask_execs(Some(exec_id)).await?;
        found.pop().ok_or_else(unexpected)
    }

    async fn ask_execs(&self, exec_id: Option<u64>) -> Result<Vec<ExecRecord>, OpError> {
        self.knows_execs()?;
        let mut stream = self.open(Request::Execs(message::Execs { exec_id }))?;
        let (mut all, mut bytes) = (Vec::new(), 0);
        loop {
            match unary::next(&mut stream.receiver).await? {
                Answer::Execs(some) => {
                    // Empty ones take memory too.
                    bytes += some.encoded_len() + some.execs.len() * size_of::<ExecRecord>();
                    all.extend(some.execs.into_iter().map(record));
                }
                Answer::Done(_) => return Ok(all),
                _ => return Err(unexpected()),
            }
            if bytes > MAX_LISTING {
                return Err(unexpected());
            }
        }
    }

    /// Reads a kept command's output from `offset` on and, with `follow`, waits for what comes and
    /// for the exit.
    ///
    /// # Errors
    /// `NotFound` for an unknown command, `Conflict` for one that is not kept; as for `execs`.
    pub async fn attach(
        &self,
        exec_id: u64,
        offset: u64,
        follow: bool,
    ) -> Result<Attached, OpError> {
        self.knows_execs()?;
        let stream = self.open(Request::Attach(message::Attach {
            exec_id,
            offset,
            follow,
            quiet: false,
        }))?;
        let sender = stream.sender;
        let mut receiver = stream.receiver;
        let Answer::Resumed(resumed) = unary::next(&mut receiver).await? else {
            return Err(unexpected());
        };
        let (event_queue, events) = mpsc::channel(EVENTS);
        let (control, controls) = mpsc::channel(CONTROLS);
        tokio::spawn(async move {
            let resumed = AttachEvent::Resumed(resumed.offset);
            if event_queue.send(resumed).await.is_err() {
                return;
            }
            let events = pass_events(&mut receiver, event_queue);
            let controls = pass_controls(sender, controls, QueueEnd::LeavesInput);
            talk(events, controls).await;
        });
        Ok(Attached { events, control })
    }

    /// Waits for a kept command's end.
    ///
    /// # Errors
    /// As for `attach`.
    pub async fn wait_exec(&self, exec_id: u64) -> Result<ExecExit, OpError> {
        self.knows_execs()?;
        let stream = self.open(Request::Attach(message::Attach {
            exec_id,
            offset: 0,
            follow: true,
            quiet: true,
        }))?;
        match unary::first(stream).await? {
            Answer::Exit(exit) => Ok(exec_exit(exit)),
            _ => Err(unexpected()),
        }
    }

    /// Tells a running command something. Input is answered when it has been handed to the
    /// command, which may be long after when that does not read.
    ///
    /// # Errors
    /// `NotFound` for an unknown command, `Conflict` when it has ended or its input is closed; as
    /// for `execs`.
    pub async fn tell_exec(&self, exec_id: u64, control: ExecControl) -> Result<(), OpError> {
        self.knows_execs()?;
        let mut tell = message::Tell {
            exec_id,
            ..message::Tell::default()
        };
        let mut input = Bytes::new();
        match control {
            ExecControl::Stdin(bytes) => {
                tell.input = true;
                input = bytes;
            }
            ExecControl::CloseStdin => tell.close = true,
            other => tell.control = Some(word(&other)),
        }
        let with_input = tell.input;
        let mut stream = self.open(Request::Tell(tell))?;
        let feeding = async {
            // A stream that has ended says why where it is read.
            if with_input && stream.sender.send(DATA, input).await.is_ok() {
                let _ = stream.sender.finish(DATA);
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            answer = unary::next(&mut stream.receiver) => match answer? {
                Answer::Done(_) => Ok(()),
                _ => Err(unexpected()),
            },
            () = feeding => unreachable!("it waits for ever"),
        }
    }

    fn knows_execs(&self) -> Result<(), OpError> {
        if self.capabilities().iter().any(|word| word == "execs") {
            return Ok(());
        }
        Err(OpError::Unsupported(
            "this sandbox's agent is older than detached execs; make a new sandbox".into(),
        ))
    }
}

fn record(info: message::ExecInfo) -> ExecRecord {
    ExecRecord {
        exec_id: info.exec_id,
        argv: info.argv,
        pid: info.pid,
        tty: info.tty,
        kept: info.kept,
        started_at: Timestamp::from_unix_micros(info.started_micros),
        exit: info.exit.map(exec_exit),
        log_start: info.log_start,
        log_end: info.log_end,
    }
}

async fn pass_events(receiver: &mut Receiver, queue: mpsc::Sender<AttachEvent>) {
    loop {
        let event = tokio::select! {
            event = receiver.receive() => event,
            () = queue.closed() => return,
        };
        let (event, last) = match event {
            Event::Data(channel, mut bytes) => {
                let stream = match channel {
                    STDERR => OutputStream::Stderr,
                    _ => OutputStream::Stdout,
                };
                let length = bytes.len();
                while !bytes.is_empty() {
                    let piece = bytes.split_to(bytes.len().min(PIECE));
                    let sent = queue.send(AttachEvent::Output(stream, piece)).await;
                    if sent.is_err() {
                        return;
                    }
                }
                receiver.release(channel, length);
                continue;
            }
            Event::Message(message) => match decode(message) {
                Some(Answer::Resumed(resumed)) => (AttachEvent::Resumed(resumed.offset), false),
                Some(Answer::Done(_)) => (AttachEvent::End, true),
                Some(Answer::Exit(exit)) => (AttachEvent::Exit(exec_exit(exit)), true),
                _ => continue,
            },
            Event::Finished(_) => continue,
            // Without an exit the reader knows that the connection was lost.
            Event::Closed(_) => return,
        };
        if queue.send(event).await.is_err() || last {
            return;
        }
    }
}
