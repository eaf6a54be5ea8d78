//! A provider whose boxes do on demand what a real one does only on a bad day: fail in every
//! way, never stop printing, change while they are read.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use stacyvm_provider::ops::{
    Attached, ByteReceiver, ExecControl, ExecEvent, ExecExit, ExecRecord, ExecSession, ExecSpec,
    FileRead, LogReceiver, OpError, ReadRange, UsageStats, WriteOptions,
};
use stacyvm_provider::{
    BoxInfo, BoxMonitor, BoxSpec, BoxState, Boxes, Capability, Execs, Files, Health, ImageHold,
    ImageOps, ImageSource, Liveness, Logs, NetworkMode, Networks, Notice, PortConnection, Ports,
    Provider, ProviderError, ProviderInfo, SandboxOps,
};
use stacyvm_types::{
    ExitReason, FileInfo, FileMode, Isolation, OutputStream, SandboxId, SandboxStats, Timestamp,
};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};

/// A host path that must never reach a client.
pub(crate) const HOST_PATH: &str = "/var/lib/stacyvm/boxes";

/// The provider `fake`.
#[derive(Debug, Default)]
pub(crate) struct Fake {
    /// Its name, where `fake` is not enough.
    pub(crate) name: Option<&'static str>,
    /// Whether it is down.
    pub(crate) down: AtomicBool,
    /// How often it was asked how it is.
    pub(crate) probes: AtomicU64,
    boxes: Mutex<BTreeMap<SandboxId, FakeBox>>,
}

/// One of its boxes.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeBox(Arc<Seen>);

/// What happened in a box.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Pieces of output that were taken from `flood`.
    pub(crate) flooded: AtomicU64,
    /// Notified when the reader of a command's output is gone.
    pub(crate) abandoned: Notify,
    /// What became of the last upload: its bytes, or that it was broken off.
    pub(crate) upload: Mutex<Option<Result<Vec<u8>, OpError>>>,
    pub(crate) uploaded: Notify,
    /// What listens on its ports.
    pub(crate) ports: Mutex<BTreeMap<u16, SocketAddr>>,
    /// How often a port was connected to, open or not.
    pub(crate) dialled: AtomicU64,
}

impl Fake {
    pub(crate) fn seen(&self, id: &str) -> Arc<Seen> {
        let id = id.parse::<SandboxId>().unwrap();
        self.boxes.lock().unwrap()[&id].0.clone()
    }
}

impl ProviderInfo for Fake {
    fn name(&self) -> &'static str {
        self.name.unwrap_or("fake")
    }

    fn isolation(&self) -> Isolation {
        Isolation::None
    }

    fn isolations(&self) -> Vec<Isolation> {
        vec![self.isolation()]
    }

    fn capabilities(&self) -> Vec<Capability> {
        vec![Capability::Exec, Capability::Files]
    }

    fn default_image(&self) -> &str {
        "nothing"
    }

    fn default_network(&self) -> NetworkMode {
        NetworkMode::None
    }

    fn degradations(&self) -> Vec<String> {
        Vec::new()
    }
}

#[async_trait]
impl Provider for Fake {
    async fn health(&self) -> Health {
        self.probes.fetch_add(1, Ordering::Relaxed);
        let down = self.down.load(Ordering::Relaxed);
        Health {
            healthy: !down,
            error: down.then(|| "it does not answer".to_owned()),
            latency: Duration::from_millis(1),
        }
    }

    fn images(&self) -> Option<Arc<dyn ImageOps>> {
        None
    }

    fn networks(&self) -> Option<&dyn Networks> {
        None
    }

    async fn close(&self) {}
}

#[async_trait]
impl Boxes for Fake {
    async fn create(&self, spec: &BoxSpec) -> Result<Arc<dyn SandboxOps>, ProviderError> {
        match spec.image.as_str() {
            "broken" => {
                let cause = format!("mount {HOST_PATH}: EPERM");
                Err(ProviderError::backend(
                    "mount the overlay",
                    "not permitted",
                    cause,
                ))
            }
            "full" => Err(ProviderError::Limit("the machine is full".to_owned())),
            "sick" => Err(ProviderError::Unavailable("it is not running".to_owned())),
            _ => {
                let made = FakeBox::default();
                let mut boxes = self.boxes.lock().unwrap();
                boxes.insert(spec.id.clone(), made.clone());
                Ok(Arc::new(made))
            }
        }
    }

    async fn open(&self, id: &SandboxId) -> Result<Arc<dyn SandboxOps>, ProviderError> {
        let boxes = self.boxes.lock().unwrap();
        match boxes.get(id) {
            Some(found) => Ok(Arc::new(found.clone())),
            None => Err(ProviderError::NotFound("no such box".to_owned())),
        }
    }

    async fn list(&self) -> Result<Vec<BoxInfo>, ProviderError> {
        let boxes = self.boxes.lock().unwrap();
        let info = |id: &SandboxId| BoxInfo {
            id: id.clone(),
            state: BoxState::Running,
        };
        Ok(boxes.keys().map(info).collect())
    }

    async fn destroy(&self, id: &SandboxId) -> Result<(), ProviderError> {
        self.boxes.lock().unwrap().remove(id);
        Ok(())
    }
}

#[async_trait]
impl BoxMonitor for Fake {
    async fn stats(&self, _: &SandboxId) -> Result<SandboxStats, ProviderError> {
        Ok(SandboxStats::default())
    }

    async fn wait_exit(&self, id: &SandboxId) {
        let exists = self.boxes.lock().unwrap().contains_key(id);
        if exists {
            std::future::pending().await
        }
    }

    async fn cause_of_end(&self, _: &SandboxId) -> Option<&'static str> {
        None
    }

    fn notices(&self) -> Option<mpsc::Receiver<Notice>> {
        None
    }
}

#[async_trait]
impl ImageSource for Fake {
    async fn check_image(&self, image: &str) -> Result<(), ProviderError> {
        match image {
            "missing" => Err(ProviderError::NotFound("no such image".to_owned())),
            _ => Ok(()),
        }
    }

    async fn prepare_image(&self, _: &str) -> Result<ImageHold, ProviderError> {
        Ok(ImageHold::default())
    }
}

/// The failure that a path names.
fn failure(path: &str) -> Result<(), OpError> {
    let text = format!("open {HOST_PATH}/x: words of the agent");
    let inside = "words for the client".to_owned();
    Err(match path {
        "/not-found" => OpError::NotFound(inside),
        "/invalid" => OpError::Invalid(inside),
        "/denied" => OpError::Denied(inside),
        "/conflict" => OpError::Conflict(inside),
        "/limit" => OpError::Limit(inside),
        "/unsupported" => OpError::Unsupported(inside),
        "/gone" => OpError::Gone(text),
        "/failed" => OpError::Failed(text),
        "/panic" => panic!("open {HOST_PATH}: our own mistake"),
        _ => return Ok(()),
    })
}

fn info(path: &str, size: u64) -> FileInfo {
    FileInfo {
        name: path.rsplit('/').next().unwrap_or(path).to_owned(),
        path: path.to_owned(),
        size,
        mode: FileMode::FILE,
        is_dir: false,
        is_symlink: false,
        symlink_target: None,
        owner: "user".to_owned(),
        group: "user".to_owned(),
        mod_time: Timestamp::from_unix_micros(0),
    }
}

/// A session that prints `piece` for ever and counts what was taken.
fn flood(
    this: Arc<Seen>,
    events: mpsc::Sender<ExecEvent>,
    mut control: mpsc::Receiver<ExecControl>,
) {
    tokio::spawn(async move {
        let piece = Bytes::from(vec![b'x'; 64 * 1024]);
        loop {
            let output = ExecEvent::Output(OutputStream::Stdout, piece.clone());
            tokio::select! {
                sent = events.send(output) => match sent {
                    Ok(()) => this.flooded.fetch_add(1, Ordering::Relaxed),
                    Err(_) => break,
                },
                _ = control.recv() => break,
            };
        }
        this.abandoned.notify_one();
    });
}

/// A session that never takes its input, as the agent's end behaves then: two pieces are held, and
/// everything else is heard. It ends with the first signal.
fn deaf(
    this: Arc<Seen>,
    events: mpsc::Sender<ExecEvent>,
    mut control: mpsc::Receiver<ExecControl>,
) {
    tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            let heard = tokio::select! {
                heard = control.recv() => heard,
                () = events.closed() => break,
            };
            match heard {
                Some(ExecControl::Stdin(bytes)) => {
                    assert!(held.len() < 2, "input fills the way of the signals");
                    held.push(bytes);
                }
                Some(ExecControl::Signal(signal)) => {
                    let exit = ExecExit {
                        exit_code: 128 + signal.0,
                        signal: Some(signal.0),
                        reason: ExitReason::Signal,
                        duration: Duration::ZERO,
                    };
                    let _ = events.send(ExecEvent::Exit(exit)).await;
                    break;
                }
                Some(_) => {}
                None => break,
            }
        }
        this.abandoned.notify_one();
    });
}

fn no_detached() -> OpError {
    OpError::Unsupported("this provider lacks the capability detached-exec".to_owned())
}

#[async_trait]
impl Liveness for FakeBox {
    async fn ping(&self) -> Result<(), OpError> {
        Ok(())
    }

    async fn usage(&self) -> Result<UsageStats, OpError> {
        Ok(UsageStats::default())
    }
}

#[async_trait]
impl Execs for FakeBox {
    async fn exec(&self, spec: ExecSpec) -> Result<ExecSession, OpError> {
        let (sender, events) = mpsc::channel(4);
        let (control, commands) = mpsc::channel(4);
        match spec.argv.first().map(String::as_str) {
            Some("flood") => flood(self.0.clone(), sender, commands),
            Some("deaf") => deaf(self.0.clone(), sender, commands),
            Some("refuse") => return Err(OpError::Invalid("no such directory".to_owned())),
            _ => {
                let _ = commands;
                sender
                    .try_send(ExecEvent::Exit(ExecExit {
                        exit_code: 0,
                        signal: None,
                        reason: ExitReason::Exit,
                        duration: Duration::ZERO,
                    }))
                    .unwrap();
            }
        }
        Ok(ExecSession {
            exec_id: 1,
            pid: 2,
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
impl Files for FakeBox {
    async fn stat(&self, path: &str) -> Result<FileInfo, OpError> {
        failure(path)?;
        Ok(info(path, 0))
    }

    async fn list(&self, path: &str, _: u32) -> Result<Vec<FileInfo>, OpError> {
        failure(path)?;
        Ok(Vec::new())
    }

    /// `/shrinks` promises 100,000 bytes and gives fewer, `/grows` promises 3 and gives more,
    /// `/made-up` has no size and content all the same, `/breaks` fails after a piece.
    async fn read(&self, path: &str, _: ReadRange) -> Result<FileRead, OpError> {
        failure(path)?;
        let (sender, data) = mpsc::channel(4);
        let piece = |text: &'static str| sender.try_send(Ok(Bytes::from_static(text.as_bytes())));
        let size = match path {
            "/shrinks" => {
                piece("only this").unwrap();
                100_000
            }
            "/grows" => {
                piece("abc").unwrap();
                piece("more").unwrap();
                3
            }
            "/grows-within-a-piece" => {
                piece("abcmore").unwrap();
                3
            }
            "/made-up" => {
                piece("made by the kernel").unwrap();
                0
            }
            "/breaks" => {
                piece("begin").unwrap();
                let error = OpError::Failed(format!("read {HOST_PATH}: EIO"));
                sender.try_send(Err(error)).unwrap();
                100_000
            }
            _ => 0,
        };
        Ok(FileRead {
            info: info(path, size),
            data,
        })
    }

    async fn write(
        &self,
        path: &str,
        _: WriteOptions,
        mut data: ByteReceiver,
    ) -> Result<(), OpError> {
        failure(path)?;
        let this = self.0.clone();
        // As a real one may: what has begun goes on in a task of its own.
        let task = tokio::spawn(async move {
            let mut all = Vec::new();
            let mut outcome = Ok(());
            while let Some(piece) = data.recv().await {
                match piece {
                    Ok(piece) => all.extend_from_slice(&piece),
                    Err(error) => {
                        outcome = Err(error);
                        break;
                    }
                }
            }
            *this.upload.lock().unwrap() = Some(outcome.clone().map(|()| all));
            this.uploaded.notify_one();
            outcome
        });
        task.await.unwrap()
    }

    async fn mkdir(&self, path: &str, _: FileMode) -> Result<(), OpError> {
        failure(path)
    }

    async fn rename(&self, from: &str, _: &str) -> Result<(), OpError> {
        failure(from)
    }

    async fn remove(&self, path: &str, _: bool) -> Result<(), OpError> {
        failure(path)
    }

    async fn chmod(&self, path: &str, _: FileMode) -> Result<(), OpError> {
        failure(path)
    }

    async fn glob(&self, pattern: &str) -> Result<Vec<String>, OpError> {
        failure(pattern)?;
        Ok(Vec::new())
    }

    async fn archive_out(&self, path: &str) -> Result<ByteReceiver, OpError> {
        let (sender, data) = mpsc::channel(1);
        if let Err(error) = failure(path) {
            // Found out only when the first byte is asked for.
            sender.try_send(Err(error)).unwrap();
        }
        Ok(data)
    }

    async fn archive_in(&self, path: &str, _: ByteReceiver) -> Result<(), OpError> {
        failure(path)
    }
}

#[async_trait]
impl Logs for FakeBox {
    async fn logs(&self, _: usize) -> Result<Vec<String>, OpError> {
        Ok(Vec::new())
    }

    async fn follow_logs(&self, _: usize) -> Result<LogReceiver, OpError> {
        Err(OpError::Unsupported("follow".to_owned()))
    }
}

#[async_trait]
impl Ports for FakeBox {
    async fn forward(&self, _: u16, _: mpsc::Receiver<Bytes>) -> Result<ByteReceiver, OpError> {
        Err(OpError::Unsupported("forward".to_owned()))
    }

    async fn connect_port(&self, port: u16) -> Result<PortConnection, OpError> {
        self.0.dialled.fetch_add(1, Ordering::Relaxed);
        let address = self.0.ports.lock().unwrap().get(&port).copied();
        let address = address.ok_or_else(|| OpError::NotFound("nothing listens".to_owned()))?;
        let stream = TcpStream::connect(address).await;
        stream
            .map(PortConnection::socket)
            .map_err(|error| OpError::Failed(error.to_string()))
    }
}
