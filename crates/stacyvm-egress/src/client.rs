//! The provider's end: starts the process, sets what each sandbox may reach, and receives what was
//! refused.
//!
//! Its one rule: a policy is in force once [`EgressHandle::set`] has returned. When the process
//! dies, its policies are gone with it: the provider learns of it from [`EgressHandle::ended`],
//! starts another process and sets every policy again.

mod process;

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use stacyvm_types::SandboxId;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::control::{MAX_LINE, Notice, Order, Policy, Ready, Report, Settings, line};

/// How long the process may take to be ready, and to execute an order.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// Notices that wait for the provider; more are left out.
const NOTICE_QUEUE: usize = 1024;
/// Orders that wait to be written.
const ORDER_QUEUE: usize = 64;

/// What went wrong with the process.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// The program could not be started.
    #[error("cannot start {}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The process reported why it does not serve.
    #[error("the egress process does not serve: {0}")]
    Failed(String),
    /// The process did not answer in time.
    #[error("the egress process does not answer")]
    Silent,
    /// The process has ended.
    #[error("the egress process has ended")]
    Ended,
    /// A policy has too many domains.
    #[error(
        "a sandbox's list of domains is longer than a mebibyte: use \"*.\" for names below one"
    )]
    TooLong,
}

/// The program to start as the egress process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The path of the program.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

/// A running egress process. Dropping it ends the process.
#[derive(Debug)]
pub struct EgressHandle {
    ready: Ready,
    pid: u32,
    orders: mpsc::Sender<Vec<u8>>,
    pending: Arc<PendingOrders>,
    seq: AtomicU64,
    ended: watch::Receiver<bool>,
}

/// Receives what the process refuses, as it happens.
#[derive(Debug)]
pub struct Notices(mpsc::Receiver<Notice>);

/// The orders that are being executed, by number; none once the process has ended.
type PendingOrders = Mutex<Option<HashMap<u64, oneshot::Sender<()>>>>;

impl Notices {
    /// The next notice; none once the process has ended.
    pub async fn next(&mut self) -> Option<Notice> {
        self.0.recv().await
    }
}

impl EgressHandle {
    /// Starts the process and waits until it serves.
    ///
    /// # Errors
    /// When the process cannot be started, or reports why it does not serve.
    pub async fn start(
        program: &Program,
        settings: &Settings,
    ) -> Result<(Self, Notices), EgressError> {
        let failed = |source| EgressError::Start {
            program: program.path.clone(),
            source,
        };
        let settings = line(settings);
        if settings.len() > MAX_LINE {
            return Err(EgressError::TooLong);
        }
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let child = process::spawn(program, theirs).map_err(failed)?;
        let pid = child.id().unwrap_or_default();
        let (reader, mut writer) = ours.into_split();
        let mut reports = Reports(BufReader::new(reader));
        let first = async {
            // When it fails, the report that came before says why.
            let _ = writer.write_all(&settings).await;
            reports.next().await
        };
        let ready = match timeout(REPLY_TIMEOUT, first).await {
            Ok(Some(Report::Ready(ready))) => ready,
            Ok(Some(Report::Failed(text))) => return Err(EgressError::Failed(text)),
            Ok(Some(Report::Done { .. } | Report::Notice(_)) | None) => {
                return Err(EgressError::Ended);
            }
            Err(_) => return Err(EgressError::Silent),
        };
        let pending = Arc::new(Mutex::new(Some(HashMap::new())));
        let (orders, outgoing) = mpsc::channel(ORDER_QUEUE);
        let (notices, incoming) = mpsc::channel(NOTICE_QUEUE);
        let writing = tokio::spawn(write_orders(writer, outgoing));
        let reading = read_reports(reports, pending.clone(), notices);
        let handle = Self {
            ready,
            pid,
            orders,
            pending: pending.clone(),
            seq: AtomicU64::new(1),
            ended: process::supervise(child, reading, writing, pending),
        };
        Ok((handle, Notices(incoming)))
    }

    /// What the process reported when it began to serve.
    #[must_use]
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// The process's id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Gives a sandbox exactly these addresses and this policy; in force when this returns. Open
    /// connections that the policy does not allow are ending by then. Setting the same again changes
    /// nothing.
    ///
    /// # Errors
    /// When the process has ended or does not answer.
    pub async fn set(
        &self,
        sandbox: &SandboxId,
        addresses: &[IpAddr],
        policy: &Policy,
    ) -> Result<(), EgressError> {
        self.order(|seq| Order::Set {
            seq,
            sandbox: sandbox.clone(),
            addresses: addresses.to_vec(),
            policy: policy.clone(),
        })
        .await
    }

    /// Forgets addresses: they belong to no sandbox any more, and their connections end.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub async fn remove(&self, addresses: &[IpAddr]) -> Result<(), EgressError> {
        self.order(|seq| Order::Remove {
            seq,
            addresses: addresses.to_vec(),
        })
        .await
    }

    /// Resolves when the process has ended, for any reason.
    pub async fn ended(&self) {
        // The sender is gone only when the runtime ends.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    /// Ends the process and waits for it.
    pub async fn close(self) {
        let Self { orders, ended, .. } = self;
        // Closes the socket once everything is written.
        drop(orders);
        let mut ended = ended;
        let _ = ended.wait_for(|ended| *ended).await;
    }

    async fn order(&self, order: impl FnOnce(u64) -> Order) -> Result<(), EgressError> {
        let seq = self.seq.fetch_add(1, Ordering::Relaxed);
        let text = line(&order(seq));
        if text.len() > MAX_LINE {
            return Err(EgressError::TooLong);
        }
        let (sender, done) = oneshot::channel();
        match self.pending.lock().as_mut() {
            Some(pending) => pending.insert(seq, sender),
            None => return Err(EgressError::Ended),
        };
        let executed = async {
            // A whole line or none, because this future may be dropped at any time.
            self.orders
                .send(text)
                .await
                .map_err(|_| EgressError::Ended)?;
            done.await.map_err(|_| EgressError::Ended)
        };
        let result = timeout(REPLY_TIMEOUT, executed).await;
        if let Some(pending) = self.pending.lock().as_mut() {
            pending.remove(&seq);
        }
        result.map_err(|_| EgressError::Silent)?
    }
}

/// Reports from the process, one a line.
#[derive(Debug)]
struct Reports(BufReader<OwnedReadHalf>);

impl Reports {
    /// The next report; none when the process is gone or sends something else.
    async fn next(&mut self) -> Option<Report> {
        let mut text = Vec::new();
        let mut limited = (&mut self.0).take(MAX_LINE as u64);
        limited.read_until(b'\n', &mut text).await.ok()?;
        serde_json::from_slice(&text).ok()
    }
}

async fn write_orders(mut writer: OwnedWriteHalf, mut orders: mpsc::Receiver<Vec<u8>>) {
    while let Some(text) = orders.recv().await {
        if writer.write_all(&text).await.is_err() {
            return;
        }
    }
}

async fn read_reports(
    mut reports: Reports,
    pending: Arc<PendingOrders>,
    notices: mpsc::Sender<Notice>,
) {
    let mut left_out = HashMap::new();
    while let Some(report) = reports.next().await {
        match report {
            Report::Done { seq } => {
                let done = pending.lock().as_mut().and_then(|all| all.remove(&seq));
                if let Some(done) = done {
                    let _ = done.send(());
                }
            }
            Report::Notice(notice) => forward(notice, &notices, &mut left_out),
            Report::Ready(_) | Report::Failed(_) => return,
        }
    }
}

/// Hands a notice to the provider, or counts it until there is room for the count.
fn forward(notice: Notice, notices: &mpsc::Sender<Notice>, left_out: &mut HashMap<SandboxId, u64>) {
    let (sandbox, count) = match &notice {
        Notice::Refused { sandbox, .. } => (sandbox.clone(), 1),
        Notice::LeftOut { sandbox, count } => (sandbox.clone(), *count),
    };
    if let Some(before) = left_out.get(&sandbox).copied() {
        let before = Notice::LeftOut {
            sandbox: sandbox.clone(),
            count: before,
        };
        if notices.try_send(before).is_ok() {
            left_out.remove(&sandbox);
        }
    }
    if notices.try_send(notice).is_err() {
        *left_out.entry(sandbox).or_insert(0) += count;
    }
}
