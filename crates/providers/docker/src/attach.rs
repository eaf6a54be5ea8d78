//! Connections to the agent over its container's standard input and output, as the engine attaches
//! to them.
//!
//! This always works: it needs nothing but the engine's API, whatever runtime, machine or user is on
//! the other side. This module demultiplexes what the engine sends; the sessions on it are
//! `stacyvm_proto::link`'s. The one rule: an attachment is used once, and never repaired.

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

use crate::engine::{Engine, QUERY_TIMEOUT};

/// How many messages of the agent's standard error one attachment passes on to the log.
const MAX_MESSAGES: usize = 100;
/// How much of each message, bytes.
const MAX_MESSAGE_BYTES: usize = 512;

/// Makes connections to the agent of one container.
#[derive(Debug)]
pub(crate) struct AttachConnector {
    engine: Arc<Engine>,
    container: String,
}

impl AttachConnector {
    /// `container` is the name or id of one whose standard input is open and served by its agent.
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
        let attached = self.engine.request(
            "attach to the container",
            QUERY_TIMEOUT,
            |docker| async move { docker.attach_container(container, Some(options)).await },
        );
        attached
            .await
            .map_err(|error| OpError::Gone(error.to_string()))
    }
}

#[async_trait]
impl AgentConnector for AttachConnector {
    async fn connect(&self) -> Result<ByteStream, OpError> {
        let AttachContainerResults { output, input } = self.attach().await?;
        let mut stderr = AgentStderr::default();
        let stdout = output.filter_map(move |part| {
            ready(match part {
                Ok(LogOutput::StdOut { message }) => Some(Ok(message)),
                Ok(LogOutput::StdErr { message }) => {
                    stderr.log(&message);
                    None
                }
                Ok(LogOutput::StdIn { .. } | LogOutput::Console { .. }) => None,
                Err(error) => Some(Err(io::Error::other(error))),
            })
        });
        let (read, write) = ops::link(StreamReader::new(stdout), input).await?;
        Ok(ByteStream {
            read: Box::new(read),
            write: Box::new(write),
        })
    }
}

/// The agent's standard error, which is for developers. Only a bounded part of it is logged, because
/// a program in the sandbox may have got hold of that stream.
#[derive(Debug, Default)]
struct AgentStderr {
    count: usize,
}

impl AgentStderr {
    fn log(&mut self, message: &[u8]) {
        if self.count < MAX_MESSAGES {
            self.count += 1;
            let text = String::from_utf8_lossy(&message[..message.len().min(MAX_MESSAGE_BYTES)]);
            tracing::debug!(message = %text.trim_end(), "An agent wrote to its standard error");
        }
    }
}
