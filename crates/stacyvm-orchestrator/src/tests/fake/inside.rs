//! What can be done inside a box of the fake backend: a few programs, no files.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use stacyvm_provider::ops::{
    Attached, ByteReceiver, ExecControl, ExecEvent, ExecExit, ExecRecord, ExecSession, ExecSpec,
    FileRead, LogReceiver, OpError, ReadRange, UsageStats, WriteOptions,
};
use stacyvm_provider::{Execs, Files, Liveness, Logs, PortConnection, Ports};
use stacyvm_types::{ExitReason, FileInfo, FileMode, OutputStream};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// A box's inside, which understands a few programs in argv mode.
#[derive(Debug)]
pub(super) struct FakeOps {
    pub(super) ended: CancellationToken,
    pub(super) moving: watch::Receiver<bool>,
    pub(super) running: Arc<AtomicUsize>,
}

/// Counts a command for as long as it lives.
struct Running(Arc<AtomicUsize>);

impl Running {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn exit(exit_code: i32, reason: ExitReason) -> ExecEvent {
    ExecEvent::Exit(ExecExit {
        exit_code,
        signal: (exit_code > 128).then(|| exit_code - 128),
        reason,
        duration: Duration::from_millis(1500),
    })
}

impl FakeOps {
    /// A box that was paused answers when it goes on.
    async fn moves(&self) {
        let _ = self.moving.clone().wait_for(|moving| *moving).await;
    }

    async fn program(
        spec: ExecSpec,
        ended: CancellationToken,
        mut moving: watch::Receiver<bool>,
        events: mpsc::Sender<ExecEvent>,
        mut control: mpsc::Receiver<ExecControl>,
    ) {
        let argument = spec.argv.get(1).cloned().unwrap_or_default();
        let out = |bytes: Bytes| ExecEvent::Output(OutputStream::Stdout, bytes);
        let last = match spec.argv[0].as_str() {
            "echo" => {
                let _ = events.send(out(Bytes::from(argument))).await;
                exit(0, ExitReason::Exit)
            }
            "false" => {
                let noise = Bytes::from_static(b"no\xFF");
                let noise = ExecEvent::Output(OutputStream::Stderr, noise);
                let _ = events.send(noise).await;
                exit(1, ExitReason::Exit)
            }
            "bomb" => exit(137, ExitReason::Oom),
            "flood" => {
                let piece = Bytes::from(vec![b'x'; 64 * 1024]);
                for _ in 0..argument.parse::<usize>().unwrap() {
                    if events.send(out(piece.clone())).await.is_err() {
                        return;
                    }
                }
                exit(0, ExitReason::Exit)
            }
            "cat" => {
                let mut count = 0;
                while let Some(ExecControl::Stdin(piece)) = control.recv().await {
                    count += piece.len();
                }
                let _ = events.send(out(Bytes::from(count.to_string()))).await;
                exit(0, ExitReason::Exit)
            }
            "vanish" => return,
            // Says something once its box has stood still and goes on.
            "again" => {
                let _ = moving.wait_for(|moving| !*moving).await;
                let _ = moving.wait_for(|moving| *moving).await;
                let _ = events.send(out(Bytes::from_static(b"again"))).await;
                exit(0, ExitReason::Exit)
            }
            // Keeps its deadline and obeys, as an agent does.
            "sleep" => {
                let limit = spec.timeout.unwrap_or(Duration::from_secs(1_000_000));
                tokio::select! {
                    () = ended.cancelled() => return,
                    () = events.closed() => return,
                    () = tokio::time::sleep(limit) => exit(137, ExitReason::Timeout),
                    _ = control.recv() => exit(137, ExitReason::Signal),
                }
            }
            // Forgets its deadline, but can be killed.
            "late" => loop {
                if let Some(ExecControl::Kill) = control.recv().await {
                    break exit(137, ExitReason::Timeout);
                }
            },
            // Neither keeps its deadline nor obeys.
            "deaf" => {
                events.closed().await;
                return;
            }
            other => panic!("unknown program {other}"),
        };
        let _ = events.send(last).await;
    }
}

fn no_detached() -> OpError {
    OpError::Unsupported("this provider lacks the capability detached-exec".to_owned())
}

#[async_trait]
impl Liveness for FakeOps {
    async fn ping(&self) -> Result<(), OpError> {
        Ok(())
    }

    async fn usage(&self) -> Result<UsageStats, OpError> {
        Ok(UsageStats::default())
    }
}

#[async_trait]
impl Execs for FakeOps {
    async fn exec(&self, spec: ExecSpec) -> Result<ExecSession, OpError> {
        self.moves().await;
        if self.ended.is_cancelled() {
            return Err(OpError::Gone("the box is dead".to_owned()));
        }
        if spec.workdir.as_deref() == Some("/missing") {
            return Err(OpError::Invalid(
                "workdir /missing does not exist".to_owned(),
            ));
        }
        let (sender, events) = mpsc::channel(4);
        let (control, receiver) = mpsc::channel(4);
        let running = Running::new(&self.running);
        let ended = self.ended.clone();
        let moving = self.moving.clone();
        tokio::spawn(async move {
            Self::program(spec, ended, moving, sender, receiver).await;
            drop(running);
        });
        Ok(ExecSession {
            exec_id: 1,
            pid: 42,
            events,
            control,
        })
    }

    async fn exec_detached(&self, _: ExecSpec) -> Result<(u64, u32), OpError> {
        Err(no_detached())
    }

    async fn execs(&self) -> Result<Vec<ExecRecord>, OpError> {
        Err(no_detached())
    }

    async fn exec_record(&self, _: u64) -> Result<ExecRecord, OpError> {
        Err(no_detached())
    }

    async fn attach(&self, _: u64, _: u64, _: bool) -> Result<Attached, OpError> {
        Err(no_detached())
    }

    async fn wait_exec(&self, _: u64) -> Result<ExecExit, OpError> {
        Err(no_detached())
    }

    async fn tell_exec(&self, _: u64, _: ExecControl) -> Result<(), OpError> {
        Err(no_detached())
    }
}

#[async_trait]
impl Files for FakeOps {
    async fn stat(&self, path: &str) -> Result<FileInfo, OpError> {
        self.moves().await;
        if path == "/hang" {
            std::future::pending::<()>().await;
        }
        Err(OpError::NotFound(format!("{path} does not exist")))
    }

    async fn list(&self, _path: &str, _depth: u32) -> Result<Vec<FileInfo>, OpError> {
        Ok(Vec::new())
    }

    async fn read(&self, path: &str, _range: ReadRange) -> Result<FileRead, OpError> {
        Err(OpError::NotFound(format!("{path} does not exist")))
    }

    async fn write(
        &self,
        _path: &str,
        _options: WriteOptions,
        _data: ByteReceiver,
    ) -> Result<(), OpError> {
        Ok(())
    }

    async fn mkdir(&self, _path: &str, _mode: FileMode) -> Result<(), OpError> {
        Ok(())
    }

    async fn rename(&self, _from: &str, _to: &str) -> Result<(), OpError> {
        Ok(())
    }

    async fn remove(&self, _path: &str, _recursive: bool) -> Result<(), OpError> {
        Ok(())
    }

    async fn chmod(&self, _path: &str, _mode: FileMode) -> Result<(), OpError> {
        Ok(())
    }

    async fn glob(&self, _pattern: &str) -> Result<Vec<String>, OpError> {
        Ok(Vec::new())
    }

    async fn archive_out(&self, _path: &str) -> Result<ByteReceiver, OpError> {
        Ok(mpsc::channel(1).1)
    }

    async fn archive_in(&self, _path: &str, _data: ByteReceiver) -> Result<(), OpError> {
        Ok(())
    }
}

#[async_trait]
impl Logs for FakeOps {
    async fn logs(&self, lines: usize) -> Result<Vec<String>, OpError> {
        Ok((0..lines).map(|line| format!("line {line}")).collect())
    }

    async fn follow_logs(&self, _: usize) -> Result<LogReceiver, OpError> {
        Err(OpError::Unsupported("follow".to_owned()))
    }
}

#[async_trait]
impl Ports for FakeOps {
    async fn forward(
        &self,
        _port: u16,
        _inbound: mpsc::Receiver<Bytes>,
    ) -> Result<ByteReceiver, OpError> {
        Ok(mpsc::channel(1).1)
    }

    async fn connect_port(&self, port: u16) -> Result<PortConnection, OpError> {
        let (inbound, taken) = mpsc::channel(4);
        let outbound = self.forward(port, taken).await?;
        Ok(PortConnection::carried(inbound, outbound))
    }
}
