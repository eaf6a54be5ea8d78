//! The agent over its container's own standard input and output, as the engine attaches to them.
//!
//! The way that always works: it needs nothing but the engine's API, whatever runtime, machine or
//! user is on the other side. Owns the taking apart of what the engine sends; the sessions on it
//! are `stacyvm_proto::link`'s. Its rule: an attachment is used once, and never repaired.

use std::future::ready;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bollard::container::{AttachContainerResults, LogOutput};
use bollard::query_parameters::AttachContainerOptions;
use futures_util::StreamExt as _;
use stacyvm_provider::ops::{self, OpError};
use stacyvm_provider::{AgentConnector, ByteStream};
use tokio_util::io::StreamReader;

use crate::engine::{Engine, QUICK};

/// Words of the agent's that one attachment passes on to the log.
const MOST_WORDS: usize = 100;
/// How much of each, bytes.
const LONGEST_WORDS: usize = 512;

/// Makes connections to the agent of one container.
#[derive(Debug)]
pub(crate) struct AttachConnector {
    engine: Arc<Engine>,
    container: String,
}

impl AttachConnector {
    /// For the container with this name or id, whose input is open and whose agent serves it.
    pub(crate) fn new(engine: Arc<Engine>, container: impl Into<String>) -> Self {
        Self {
            engine,
            container: container.into(),
        }
    }

    async fn attach(&self) -> Result<AttachContainerResults, OpError> {
        let options = AttachContainerOptions {
            stdin: true,
            stdout: true,
            stderr: true,
            stream: true,
            ..AttachContainerOptions::default()
        };
        let container = &self.container;
        let attached = self
            .engine
            .ask("attach to the container", QUICK, |docker| async move {
                docker.attach_container(container, Some(options)).await
            });
        attached
            .await
            .map_err(|error| OpError::Gone(error.to_string()))
    }
}

#[async_trait]
impl AgentConnector for AttachConnector {
    async fn connect(&self) -> Result<ByteStream, OpError> {
        let AttachContainerResults { output, input } = self.attach().await?;
        let mut words = Words::default();
        let said = output.filter_map(move |part| {
            ready(match part {
                Ok(LogOutput::StdOut { message }) => Some(Ok(message)),
                Ok(LogOutput::StdErr { message }) => {
                    words.pass_on(&message);
                    None
                }
                Ok(LogOutput::StdIn { .. } | LogOutput::Console { .. }) => None,
                Err(error) => Some(Err(io::Error::other(error))),
            })
        });
        let (read, write) = ops::link(StreamReader::new(said), input).await?;
        Ok(ByteStream {
            read: Box::new(read),
            write: Box::new(write),
        })
    }
}

/// What the agent prints to standard error, which is for developers, and bounded: whatever got hold
/// of that stream inside must not fill our log.
#[derive(Debug, Default)]
struct Words {
    count: usize,
}

impl Words {
    fn pass_on(&mut self, message: &[u8]) {
        if self.count < MOST_WORDS {
            self.count += 1;
            let text = String::from_utf8_lossy(&message[..message.len().min(LONGEST_WORDS)]);
            tracing::debug!(words = %text.trim_end(), "an agent printed words");
        }
    }
}
