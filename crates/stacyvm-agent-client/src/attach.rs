//! Commands seen from other connections: listing, following, controlling.

use bytes::Bytes;
use prost::Message as _;
use stacyvm_proto::DATA;
use stacyvm_proto::message::{self, Answer, Request};
use stacyvm_types::Timestamp;
use tokio::sync::mpsc;

use crate::convert::exec_exit;
use crate::exec::{
    CONTROL_QUEUE, EVENT_QUEUE, QueueEnd, control_message, pass_controls, pass_events, run_both,
};
use crate::unary::{self, unexpected};
use crate::{
    Agent, Attached, ExecControl, ExecEvent, ExecExit, ExecRecord, ExecSpec, OnDisconnect, OpError,
};

/// The most bytes of one listing; an agent of this project sends fewer.
const MAX_LISTING: usize = 16 * 1024 * 1024;

impl Agent {
    /// Starts a command that outlives this connection, and answers with its number and process id.
    ///
    /// # Errors
    /// As for `exec`; `Unsupported` when the agent is older than such commands.
    pub async fn exec_detached(&self, spec: ExecSpec) -> Result<(u64, u32), OpError> {
        self.knows_execs()?;
        let spec = ExecSpec {
            on_disconnect: OnDisconnect::Detach,
            ..spec
        };
        let session = self.exec(spec).await?;
        Ok((session.exec_id, session.pid))
    }

    /// The running commands, and the detached ones that have ended and are remembered, oldest first.
    ///
    /// # Errors
    /// `Gone` when the connection is lost, `Unsupported` when the agent is older.
    pub async fn execs(&self) -> Result<Vec<ExecRecord>, OpError> {
        self.ask_execs(None).await
    }

    /// Describes one command.
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
                    // Empty records take memory too.
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

    /// Reads a detached command's output from `offset` on. With `follow`, waits for later output and
    /// the exit.
    ///
    /// # Errors
    /// `NotFound` for an unknown command, `Conflict` for one that is not detached; as for `execs`.
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
        let (event_queue, events) = mpsc::channel(EVENT_QUEUE);
        let (control, controls) = mpsc::channel(CONTROL_QUEUE);
        tokio::spawn(async move {
            let resumed = ExecEvent::Resumed(resumed.offset);
            if event_queue.send(resumed).await.is_err() {
                return;
            }
            let events = pass_events(&mut receiver, event_queue);
            let controls = pass_controls(sender, controls, QueueEnd::LeavesInput);
            run_both(events, controls).await;
        });
        Ok(Attached { events, control })
    }

    /// Waits for a detached command's exit.
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

    /// Sends a control or input to a running command. For input, this returns when the command has
    /// taken it, which can be much later if the command does not read.
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
            other => tell.control = Some(control_message(&other)),
        }
        let with_input = tell.input;
        let mut stream = self.open(Request::Tell(tell))?;
        let feeding = async {
            // If the stream has ended, its answer says why.
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
            () = feeding => unreachable!("the future never completes"),
        }
    }

    fn knows_execs(&self) -> Result<(), OpError> {
        if self
            .capabilities()
            .iter()
            .any(|capability| capability == "execs")
        {
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
        detached: info.detached,
        started_at: Timestamp::from_unix_micros(info.started_micros),
        exit: info.exit.map(exec_exit),
        log_start: info.log_start,
        log_end: info.log_end,
    }
}
