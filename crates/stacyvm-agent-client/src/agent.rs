//! One connection to one agent: the hello, the check that it is alive, and the operations without data.

use std::sync::Arc;
use std::time::Duration;

use stacyvm_proto::message::{
    self, Answer, Hello, HelloReply, Open, Request, Shutdown as ShutdownRequest,
};
use stacyvm_proto::mux::{self, Ended, Mux, Side, Stream};
use stacyvm_proto::{HelloError, say_hello};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::convert::{gone, lost, mux_error};
use crate::unary;
use crate::{Configure, OpError, UsageStats};

/// How long an agent has to answer the hello, and a ping.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a connection with open streams is checked for an agent that has died silently.
const WATCH_INTERVAL: Duration = Duration::from_secs(10);

/// A live connection to an agent. Clones share it; it closes when the last clone and the last
/// operation are gone.
#[derive(Clone, Debug)]
pub struct Agent {
    mux: Mux,
    reply: Arc<HelloReply>,
}

impl Agent {
    /// Says hello over a byte stream and, with `configure`, sets the sandbox's defaults.
    ///
    /// # Errors
    /// `Gone` when the agent does not answer in time, `Unsupported` when the agent speaks another generation.
    pub async fn connect<S>(stream: S, configure: Option<Configure>) -> Result<Self, OpError>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (read, write) = tokio::io::split(stream);
        Self::connect_split(read, write, configure).await
    }

    /// Like `connect`, over two halves; cheaper for a socket that can be split.
    ///
    /// # Errors
    /// As for `connect`.
    pub async fn connect_split<R, W>(
        mut read: R,
        mut write: W,
        configure: Option<Configure>,
    ) -> Result<Self, OpError>
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let hello = Hello {
            program: concat!("stacyvm ", env!("CARGO_PKG_VERSION")).into(),
            configure: configure.map(|configure| message::Configure {
                env: configure.env,
                user: configure.user,
                workdir: configure.workdir,
            }),
            ..Hello::default()
        };
        let said = tokio::time::timeout(ANSWER_TIMEOUT, say_hello(&mut read, &mut write, hello));
        let reply = match said.await {
            Ok(Ok(reply)) => reply,
            Ok(Err(HelloError::Refused(why))) => {
                return Err(OpError::Unsupported(format!("the agent refused: {why}")));
            }
            Ok(Err(HelloError::Frame(stacyvm_proto::FrameError::TooLong(_)))) => {
                return Err(OpError::Invalid("the variables are too large".into()));
            }
            Ok(Err(error)) => return Err(gone(error)),
            Err(_) => return Err(gone("it did not answer the hello in time")),
        };
        let (mux, _, driver) = mux::start(read, write, Side::Connecting);
        tokio::spawn(async move {
            match driver.run().await {
                Ended::Io(_) => tracing::debug!("agent connection ended"),
                Ended::Frame(error) => {
                    tracing::warn!(%error, "agent broke the protocol, connection closed");
                }
            }
        });
        tokio::spawn(watch(mux.downgrade()));
        Ok(Self {
            mux,
            reply: Arc::new(reply),
        })
    }

    /// The capabilities that the agent has announced.
    pub fn capabilities(&self) -> &[String] {
        &self.reply.capabilities
    }

    /// Name and version of the agent's program.
    pub fn program(&self) -> &str {
        &self.reply.program
    }

    /// Whether the connection is lost.
    pub fn is_closed(&self) -> bool {
        self.mux.is_closed()
    }

    /// Resolves when the connection is lost.
    pub async fn closed(&self) {
        self.mux.closed().await;
    }

    /// Checks that the agent answers.
    ///
    /// # Errors
    /// `Gone` when it does not.
    pub async fn ping(&self) -> Result<(), OpError> {
        match tokio::time::timeout(ANSWER_TIMEOUT, self.mux.ping()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(lost()),
            Err(_) => Err(gone("it did not answer in time")),
        }
    }

    pub(crate) fn open(&self, request: Request) -> Result<Stream, OpError> {
        let open = Open {
            request: Some(request),
        };
        self.mux.open(&open).map_err(mux_error)
    }

    /// The last lines of what commands printed, newest last.
    ///
    /// # Errors
    /// `Gone` when the connection is lost.
    pub async fn logs(&self, lines: usize) -> Result<Vec<String>, OpError> {
        let lines = u32::try_from(lines).unwrap_or(u32::MAX);
        let follow = false;
        let stream = self.open(Request::Logs(message::Logs { lines, follow }))?;
        unary::paths(stream).await
    }

    /// Counts the sandbox's processes, memory and CPU time from inside.
    ///
    /// # Errors
    /// `Gone` when the connection is lost.
    pub async fn usage(&self) -> Result<UsageStats, OpError> {
        let stream = self.open(Request::Usage(message::Usage {}))?;
        match unary::first(stream).await? {
            Answer::Counts(counts) => Ok(UsageStats {
                pids: counts.pids,
                mem_bytes: counts.mem_bytes,
                cpu_nanos: counts.cpu_nanos,
            }),
            _ => Err(unary::unexpected()),
        }
    }

    /// Ends every process of the sandbox, then the agent: SIGTERM first, SIGKILL after `grace`. Returns
    /// when all processes but the agent itself are gone.
    ///
    /// # Errors
    /// `Gone` when the connection was lost before the answer came.
    pub async fn shutdown(&self, grace: Duration) -> Result<(), OpError> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let stream = self.open(Request::Shutdown(ShutdownRequest { grace_ms }))?;
        unary::done(stream).await
    }
}

/// Closes a connection with open streams whose agent does not answer a ping: a living agent answers
/// at once, whatever else it does.
async fn watch(connection: mux::WeakMux) {
    let mut seen = 0;
    loop {
        tokio::time::sleep(WATCH_INTERVAL).await;
        let Some(mux) = connection.upgrade() else {
            return;
        };
        if mux.is_closed() {
            return;
        }
        let now = mux.frames_received();
        let quiet = std::mem::replace(&mut seen, now) == now;
        if quiet
            && mux.open_streams() > 0
            && tokio::time::timeout(ANSWER_TIMEOUT, mux.ping())
                .await
                .is_err()
        {
            tracing::warn!("agent went silent, connection closed");
            mux.close();
            return;
        }
    }
}
