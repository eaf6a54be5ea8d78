//! File operations.

use bytes::Bytes;
use stacyvm_proto::DATA;
use stacyvm_proto::message::{self, Answer, Request};
use stacyvm_proto::mux::{Event, Stream};
use stacyvm_types::{FileInfo, FileMode};
use tokio::sync::mpsc;

use crate::convert::{failure, file_info, lost, mux_error};
use crate::unary::{self, unexpected};
use crate::{Agent, ByteReceiver, FileRead, OpError, ReadRange, WriteOptions};

/// How many chunks of data wait for a consumer, beside the stream's own window.
pub(crate) const CHUNK_QUEUE: usize = 4;
/// The largest chunk that a consumer gets, bytes.
pub(crate) const CHUNK_SIZE: usize = 64 * 1024;

impl Agent {
    /// Describes one file. A symbolic link is not followed.
    ///
    /// # Errors
    /// `NotFound` and the other errors of the file system; `Gone` when the connection is lost.
    pub async fn stat(&self, path: &str) -> Result<FileInfo, OpError> {
        let stream = self.open(Request::Stat(message::Stat { path: path.into() }))?;
        match unary::first(stream).await? {
            Answer::Entries(some) => some
                .entries
                .into_iter()
                .next()
                .map(file_info)
                .ok_or_else(unexpected),
            _ => Err(unexpected()),
        }
    }

    /// Lists a directory, sorted by path, down to `depth` levels.
    ///
    /// # Errors
    /// As for `stat`; `Invalid` when it is no directory.
    pub async fn list(&self, path: &str, depth: u32) -> Result<Vec<FileInfo>, OpError> {
        let path = path.into();
        let stream = self.open(Request::List(message::List { path, depth }))?;
        let entries = unary::entries(stream).await?;
        Ok(entries.into_iter().map(file_info).collect())
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// As for `stat`; `Invalid` for a directory.
    pub async fn read(&self, path: &str, range: ReadRange) -> Result<FileRead, OpError> {
        let mut stream = self.open(Request::Read(message::Read {
            path: path.into(),
            offset: range.offset,
            length: range.length,
        }))?;
        let Answer::Opened(opened) = unary::next(&mut stream.receiver).await? else {
            return Err(unexpected());
        };
        Ok(FileRead {
            info: opened.entry.map(file_info).ok_or_else(unexpected)?,
            data: receive_data(stream),
        })
    }

    /// Replaces a file atomically by the content of `data`.
    ///
    /// # Errors
    /// As for `stat`; also an error item of `data`, and nothing is written then.
    pub async fn write(
        &self,
        path: &str,
        options: WriteOptions,
        data: ByteReceiver,
    ) -> Result<(), OpError> {
        let stream = self.open(Request::Write(message::Write {
            path: path.into(),
            mode: options.mode.bits(),
            parents: options.parents,
        }))?;
        send_data(stream, data).await
    }

    /// Makes a directory and its parents.
    ///
    /// # Errors
    /// As for `stat`.
    pub async fn mkdir(&self, path: &str, mode: FileMode) -> Result<(), OpError> {
        unary::done(self.open(Request::Mkdir(message::Mkdir {
            path: path.into(),
            mode: mode.bits(),
        }))?)
        .await
    }

    /// Moves a file or directory, creating the destination's parents.
    ///
    /// # Errors
    /// As for `stat`.
    pub async fn rename(&self, from: &str, to: &str) -> Result<(), OpError> {
        unary::done(self.open(Request::Rename(message::Rename {
            from: from.into(),
            to: to.into(),
        }))?)
        .await
    }

    /// Removes a file, or with `recursive` a whole directory.
    ///
    /// # Errors
    /// As for `stat`; `Invalid` for a directory without `recursive`.
    pub async fn remove(&self, path: &str, recursive: bool) -> Result<(), OpError> {
        let path = path.into();
        unary::done(self.open(Request::Remove(message::Remove { path, recursive }))?).await
    }

    /// Changes permission bits.
    ///
    /// # Errors
    /// As for `stat`.
    pub async fn chmod(&self, path: &str, mode: FileMode) -> Result<(), OpError> {
        unary::done(self.open(Request::Chmod(message::Chmod {
            path: path.into(),
            mode: mode.bits(),
        }))?)
        .await
    }

    /// Finds the absolute paths that match, sorted.
    ///
    /// # Errors
    /// `Invalid` for a malformed pattern; `Gone` when the connection is lost.
    pub async fn glob(&self, pattern: &str) -> Result<Vec<String>, OpError> {
        let pattern = pattern.into();
        unary::paths(self.open(Request::Glob(message::Glob { pattern }))?).await
    }

    /// A directory's or file's content as a tar stream.
    ///
    /// # Errors
    /// As for `stat`.
    pub async fn archive_out(&self, path: &str) -> Result<ByteReceiver, OpError> {
        let mut stream = self.open(Request::ArchiveOut(message::ArchiveOut {
            path: path.into(),
        }))?;
        match unary::next(&mut stream.receiver).await? {
            Answer::Opened(_) => Ok(receive_data(stream)),
            _ => Err(unexpected()),
        }
    }

    /// Unpacks a tar stream into a directory, which is created.
    ///
    /// # Errors
    /// As for `stat`; `Invalid` when an entry would leave the directory; also an error
    /// item of `data`.
    pub async fn archive_in(&self, path: &str, data: ByteReceiver) -> Result<(), OpError> {
        let stream = self.open(Request::ArchiveIn(message::ArchiveIn { path: path.into() }))?;
        send_data(stream, data).await
    }
}

/// Sends all of `data` and its end, and waits for the agent's answer. A failure inside
/// stops the sending at once; an error in `data` drops the stream, which aborts inside.
async fn send_data(mut stream: Stream, mut data: ByteReceiver) -> Result<(), OpError> {
    let sender = stream.sender.clone();
    let sending = async {
        while let Some(chunk) = data.recv().await {
            sender.send(DATA, chunk?).await.map_err(mux_error)?;
        }
        sender.finish(DATA).map_err(mux_error)
    };
    let answer = unary::next(&mut stream.receiver);
    tokio::pin!(sending, answer);
    let mut sent = false;
    loop {
        tokio::select! {
            biased;
            answer = &mut answer => {
                return match answer? {
                    Answer::Done(_) if sent => Ok(()),
                    _ => Err(unexpected()),
                };
            }
            result = &mut sending, if !sent => match result {
                Ok(()) => sent = true,
                // The agent ended the stream; its answer, which is in flight, says why.
                Err(OpError::Gone(_)) => {
                    return match answer.await {
                        Err(error) => Err(error),
                        Ok(_) => Err(unexpected()),
                    };
                }
                Err(error) => return Err(error),
            },
        }
    }
}

/// Hands a stream's data to a bounded queue. When the consumer goes away, so does the stream.
fn receive_data(mut stream: Stream) -> ByteReceiver {
    let (queue, data) = mpsc::channel(CHUNK_QUEUE);
    tokio::spawn(async move {
        loop {
            let event = tokio::select! {
                event = stream.receiver.receive() => event,
                () = queue.closed() => return,
            };
            let item = match event {
                Event::Data(channel, bytes) => {
                    let length = bytes.len();
                    if send_chunks(&queue, bytes).await.is_err() {
                        return;
                    }
                    stream.receiver.release(channel, length);
                    continue;
                }
                Event::Message(message) => match decode(message) {
                    Some(Answer::Done(_)) => return,
                    Some(Answer::Failure(failed)) => Err(failure(failed)),
                    _ => continue,
                },
                Event::Finished(_) => continue,
                Event::Closed(_) => Err(lost()),
            };
            // The consumer may be gone.
            let _ = queue.send(item).await;
            return;
        }
    });
    data
}

pub(crate) async fn send_chunks(
    queue: &mpsc::Sender<Result<Bytes, OpError>>,
    mut bytes: Bytes,
) -> Result<(), ()> {
    while !bytes.is_empty() {
        let chunk = bytes.split_to(bytes.len().min(CHUNK_SIZE));
        queue.send(Ok(chunk)).await.map_err(|_| ())?;
    }
    Ok(())
}

pub(crate) fn decode(message: Bytes) -> Option<Answer> {
    let reply: message::Reply = prost::Message::decode(message).ok()?;
    reply.answer
}
