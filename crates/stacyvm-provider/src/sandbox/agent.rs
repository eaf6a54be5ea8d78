//! The operations of a box with our agent, over a connection that is made again when it breaks.
//!
//! Owns one `Agent` at a time and the rule that at most one attempt to connect is under way. An
//! operation that was under way when the connection broke fails with `Gone`; it is never repeated
//! by itself, because it may have happened.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use stacyvm_types::{FileInfo, FileMode};
use tokio::io::{AsyncRead, AsyncWrite};

use super::operations::{Execs, Files, Liveness, Logs, Ports};
use super::port::{CHUNK_QUEUE, PortConnection};
use crate::ops::{
    Agent, Attached, ByteReceiver, Configure, ExecControl, ExecExit, ExecRecord, ExecSession,
    ExecSpec, FileRead, LogReceiver, OpError, ReadRange, UsageStats, WriteOptions,
};

/// The two halves of a connection to an agent.
pub struct ByteStream {
    /// Bytes from the agent.
    pub read: Box<dyn AsyncRead + Send + Unpin>,
    /// Bytes to the agent.
    pub write: Box<dyn AsyncWrite + Send + Unpin>,
}

impl fmt::Debug for ByteStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ByteStream")
    }
}

/// Makes connections to one box's agent.
#[async_trait]
pub trait AgentConnector: Send + Sync + fmt::Debug {
    /// A new byte stream to the agent.
    ///
    /// # Errors
    /// `Gone` when nothing takes the connection.
    async fn connect(&self) -> Result<ByteStream, OpError>;

    /// A connection to a TCP port on the box's loopback that passes no agent; none where there is
    /// no such way.
    async fn dial(&self, port: u16) -> Option<Result<PortConnection, OpError>> {
        let _ = port;
        None
    }
}

/// One box's operations, through its agent.
#[derive(Debug)]
pub struct AgentSandbox {
    connector: Box<dyn AgentConnector>,
    configure: Option<Configure>,
    current: Mutex<Option<Agent>>,
    connecting: tokio::sync::Mutex<()>,
}

impl AgentSandbox {
    /// Without a connection yet. `configure` is told to the agent whenever a connection is made;
    /// none leaves the defaults that it has.
    pub fn new(connector: impl AgentConnector + 'static, configure: Option<Configure>) -> Self {
        Self {
            connector: Box::new(connector),
            configure,
            current: Mutex::new(None),
            connecting: tokio::sync::Mutex::new(()),
        }
    }

    /// Connects now, unless a connection stands.
    ///
    /// # Errors
    /// `Gone` when the agent does not answer.
    pub async fn connect(&self) -> Result<(), OpError> {
        self.agent().await.map(drop)
    }

    /// The live connection's agent, after connecting if there is none.
    ///
    /// # Errors
    /// `Gone` when the agent does not answer.
    pub async fn agent(&self) -> Result<Agent, OpError> {
        if let Some(agent) = self.live() {
            return Ok(agent);
        }
        let _only_one = self.connecting.lock().await;
        if let Some(agent) = self.live() {
            return Ok(agent);
        }
        let ByteStream { read, write } = self.connector.connect().await?;
        let agent = Agent::connect_split(read, write, self.configure.clone()).await?;
        *self.slot() = Some(agent.clone());
        Ok(agent)
    }

    /// Gives the connection up; operations under way keep it until they end.
    pub fn disconnect(&self) {
        *self.slot() = None;
    }

    fn live(&self) -> Option<Agent> {
        let mut slot = self.slot();
        if slot.as_ref().is_some_and(Agent::is_closed) {
            *slot = None;
        }
        slot.clone()
    }

    fn slot(&self) -> MutexGuard<'_, Option<Agent>> {
        self.current.lock()
    }
}

#[async_trait]
impl Liveness for AgentSandbox {
    async fn ping(&self) -> Result<(), OpError> {
        self.agent().await?.ping().await
    }

    async fn usage(&self) -> Result<UsageStats, OpError> {
        self.agent().await?.usage().await
    }
}

#[async_trait]
impl Execs for AgentSandbox {
    async fn exec(&self, spec: ExecSpec) -> Result<ExecSession, OpError> {
        self.agent().await?.exec(spec).await
    }

    async fn exec_detached(&self, spec: ExecSpec) -> Result<(u64, u32), OpError> {
        self.agent().await?.exec_detached(spec).await
    }

    async fn execs(&self) -> Result<Vec<ExecRecord>, OpError> {
        self.agent().await?.execs().await
    }

    async fn exec_record(&self, exec_id: u64) -> Result<ExecRecord, OpError> {
        self.agent().await?.exec_record(exec_id).await
    }

    async fn attach(&self, exec_id: u64, offset: u64, follow: bool) -> Result<Attached, OpError> {
        self.agent().await?.attach(exec_id, offset, follow).await
    }

    async fn wait_exec(&self, exec_id: u64) -> Result<ExecExit, OpError> {
        self.agent().await?.wait_exec(exec_id).await
    }

    async fn tell_exec(&self, exec_id: u64, control: ExecControl) -> Result<(), OpError> {
        self.agent().await?.tell_exec(exec_id, control).await
    }
}

#[async_trait]
impl Files for AgentSandbox {
    async fn stat(&self, path: &str) -> Result<FileInfo, OpError> {
        self.agent().await?.stat(path).await
    }

    async fn list(&self, path: &str, depth: u32) -> Result<Vec<FileInfo>, OpError> {
        self.agent().await?.list(path, depth).await
    }

    async fn read(&self, path: &str, range: ReadRange) -> Result<FileRead, OpError> {
        self.agent().await?.read(path, range).await
    }

    async fn write(
        &self,
        path: &str,
        options: WriteOptions,
        data: ByteReceiver,
    ) -> Result<(), OpError> {
        self.agent().await?.write(path, options, data).await
    }

    async fn mkdir(&self, path: &str, mode: FileMode) -> Result<(), OpError> {
        self.agent().await?.mkdir(path, mode).await
    }

    async fn rename(&self, from: &str, to: &str) -> Result<(), OpError> {
        self.agent().await?.rename(from, to).await
    }

    async fn remove(&self, path: &str, recursive: bool) -> Result<(), OpError> {
        self.agent().await?.remove(path, recursive).await
    }

    async fn chmod(&self, path: &str, mode: FileMode) -> Result<(), OpError> {
        self.agent().await?.chmod(path, mode).await
    }

    async fn glob(&self, pattern: &str) -> Result<Vec<String>, OpError> {
        self.agent().await?.glob(pattern).await
    }

    async fn archive_out(&self, path: &str) -> Result<ByteReceiver, OpError> {
        self.agent().await?.archive_out(path).await
    }

    async fn archive_in(&self, path: &str, data: ByteReceiver) -> Result<(), OpError> {
        self.agent().await?.archive_in(path, data).await
    }
}

#[async_trait]
impl Logs for AgentSandbox {
    async fn logs(&self, lines: usize) -> Result<Vec<String>, OpError> {
        self.agent().await?.logs(lines).await
    }

    async fn follow_logs(&self, lines: usize) -> Result<LogReceiver, OpError> {
        self.agent().await?.follow_logs(lines).await
    }
}

#[async_trait]
impl Ports for AgentSandbox {
    async fn forward(
        &self,
        port: u16,
        inbound: tokio::sync::mpsc::Receiver<Bytes>,
    ) -> Result<ByteReceiver, OpError> {
        self.agent().await?.forward(port, inbound).await
    }

    async fn connect_port(&self, port: u16) -> Result<PortConnection, OpError> {
        match self.connector.dial(port).await {
            Some(dialled) => dialled,
            None => {
                let (inbound, taken) = tokio::sync::mpsc::channel(CHUNK_QUEUE);
                let outbound = self.forward(port, taken).await?;
                Ok(PortConnection::carried(inbound, outbound))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use stacyvm_proto::message::HelloReply;
    use stacyvm_proto::{answer_hello, mux};
    use tokio::sync::watch;

    use super::*;

    /// Agents that do nothing but live; each connection is a new one, all end when told.
    #[derive(Debug)]
    struct Fake {
        connections: Arc<AtomicUsize>,
        end: watch::Receiver<usize>,
    }

    #[async_trait]
    impl AgentConnector for Fake {
        async fn connect(&self) -> Result<ByteStream, OpError> {
            self.connections.fetch_add(1, Ordering::SeqCst);
            let (host, agent) = tokio::io::duplex(4096);
            let mut end = self.end.clone();
            end.mark_unchanged();
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(agent);
                answer_hello(&mut read, &mut write, HelloReply::default())
                    .await
                    .unwrap();
                let (_mux, _incoming, driver) = mux::start(read, write, mux::Side::Accepting);
                tokio::select! {
                    _ = driver.run() => {}
                    _ = end.changed() => {}
                }
            });
            let (read, write) = tokio::io::split(host);
            Ok(ByteStream {
                read: Box::new(read),
                write: Box::new(write),
            })
        }
    }

    #[tokio::test]
    async fn one_connection_serves_all_and_is_made_again_when_it_breaks() {
        let connections = Arc::new(AtomicUsize::new(0));
        let (end, ended) = watch::channel(0);
        let fake = Fake {
            connections: connections.clone(),
            end: ended,
        };
        let sandbox = Arc::new(AgentSandbox::new(fake, None));
        assert_eq!(connections.load(Ordering::SeqCst), 0);
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let sandbox = sandbox.clone();
            asking.spawn(async move { sandbox.ping().await });
        }
        while let Some(answer) = asking.join_next().await {
            assert_eq!(answer.unwrap(), Ok(()));
        }
        assert_eq!(connections.load(Ordering::SeqCst), 1);
        let agent = sandbox.agent().await.unwrap();
        end.send_modify(|count| *count += 1);
        agent.closed().await;
        assert!(matches!(agent.ping().await, Err(OpError::Gone(_))));
        assert_eq!(sandbox.ping().await, Ok(()));
        assert_eq!(connections.load(Ordering::SeqCst), 2);
    }

    #[derive(Debug)]
    struct Nobody;

    #[async_trait]
    impl AgentConnector for Nobody {
        async fn connect(&self) -> Result<ByteStream, OpError> {
            let (host, agent) = tokio::io::duplex(16);
            drop(agent);
            let (read, write) = tokio::io::split(host);
            Ok(ByteStream {
                read: Box::new(read),
                write: Box::new(write),
            })
        }
    }

    #[tokio::test]
    async fn an_agent_that_is_not_there_is_gone() {
        let sandbox = AgentSandbox::new(Nobody, None);
        assert!(matches!(sandbox.connect().await, Err(OpError::Gone(_))));
        assert!(matches!(sandbox.stat("/").await, Err(OpError::Gone(_))));
    }
}
