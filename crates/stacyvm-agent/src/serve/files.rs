//! File requests: short operations run at once, long ones on a thread of their own.

use std::io::{self, Read as _, Write};
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use stacyvm_proto::message::{
    Answer, ArchiveIn, ArchiveOut, Code, Entries, Entry, Failure, Opened, Read, Request,
    Write as WriteRequest,
};
use stacyvm_proto::mux::{Event, MuxError, Receiver, Sender, Stream};
use stacyvm_proto::{DATA, MAX_CHUNK};
use stacyvm_types::{FileInfo, FileMode};
use tokio::sync::mpsc;

use crate::agent::Agent;
use crate::replies::{NAMES_PER_MESSAGE, done, failure, reply, send_all_names};

/// How many chunks of an archive wait between its thread and the stream.
const QUEUE_LEN: usize = 2;

pub(super) async fn serve(
    agent: &Arc<Agent>,
    request: Request,
    stream: Stream,
) -> Result<(), MuxError> {
    let Stream {
        sender,
        mut receiver,
    } = stream;
    let files = &agent.files;
    let worker = agent.clone();
    let result = match request {
        Request::Stat(request) => match files.stat(&request.path) {
            Ok(info) => return sender.last_message(&entries(vec![entry(info)])).await,
            Err(error) => Err(error.into()),
        },
        Request::List(request) => {
            let work = move || Ok(worker.files.list(&request.path, request.depth)?);
            match agent.blocking.run(work).await {
                Ok(infos) => return list(&sender, infos).await,
                Err(error) => Err(error),
            }
        }
        Request::Glob(request) => {
            let work = move || Ok(worker.files.glob(&request.pattern)?);
            match agent.blocking.run(work).await {
                Ok(paths) => return send_all_names(&sender, paths).await,
                Err(error) => Err(error),
            }
        }
        Request::Read(request) => return read(agent, request, &sender).await,
        Request::Write(request) => write(agent, request, &mut receiver).await,
        Request::Mkdir(request) => files
            .mkdir(&request.path, FileMode::from_bits(request.mode))
            .map_err(Failure::from),
        Request::Rename(request) => {
            let work = move || Ok(worker.files.rename(&request.from, &request.to)?);
            agent.blocking.run(work).await
        }
        Request::Remove(request) if !request.recursive => {
            files.remove(&request.path, false).map_err(Failure::from)
        }
        Request::Remove(request) => {
            let work = move || Ok(worker.files.remove(&request.path, true)?);
            agent.blocking.run(work).await
        }
        Request::Chmod(request) => files
            .chmod(&request.path, FileMode::from_bits(request.mode))
            .map_err(Failure::from),
        Request::ArchiveOut(request) => return archive_out(agent, request, &sender).await,
        Request::ArchiveIn(request) => archive_in(agent, request, &mut receiver).await,
        Request::Exec(_)
        | Request::Forward(_)
        | Request::Logs(_)
        | Request::Usage(_)
        | Request::Execs(_)
        | Request::Attach(_)
        | Request::Tell(_)
        | Request::Shutdown(_) => Err(failure(Code::Unsupported, "this is no file request")),
    };
    finish(&sender, result).await
}

async fn finish(sender: &Sender, result: Result<(), Failure>) -> Result<(), MuxError> {
    match result {
        Ok(()) => sender.last_message(&done()).await,
        Err(failed) => sender.last_message(&reply(Answer::Failure(failed))).await,
    }
}

fn entry(info: FileInfo) -> Entry {
    Entry {
        path: info.path,
        size: info.size,
        mode: info.mode.bits(),
        is_dir: info.is_dir,
        is_symlink: info.is_symlink,
        symlink_target: info.symlink_target,
        owner: info.owner,
        group: info.group,
        modified_micros: info.mod_time.unix_micros(),
    }
}

fn entries(entries: Vec<Entry>) -> stacyvm_proto::message::Reply {
    reply(Answer::Entries(Entries { entries }))
}

async fn list(sender: &Sender, infos: Vec<FileInfo>) -> Result<(), MuxError> {
    let mut part = Vec::new();
    let mut bytes = 0;
    for info in infos {
        let target = info.symlink_target.as_ref().map_or(0, String::len);
        bytes += info.path.len() + target + info.owner.len() + info.group.len() + 48;
        part.push(entry(info));
        if bytes > NAMES_PER_MESSAGE {
            sender.message(&entries(std::mem::take(&mut part))).await?;
            bytes = 0;
        }
    }
    if !part.is_empty() {
        sender.message(&entries(part)).await?;
    }
    sender.last_message(&done()).await
}

/// Reads a file in this task: most pages come from memory, so that a thread would cost more.
async fn read(agent: &Agent, request: Read, sender: &Sender) -> Result<(), MuxError> {
    let opened = agent
        .files
        .open_read(&request.path, request.offset, request.length);
    let mut opened = match opened {
        Ok(opened) => opened,
        Err(error) => return finish(sender, Err(error.into())).await,
    };
    let described = Opened {
        entry: Some(entry(opened.info)),
    };
    sender.message(&reply(Answer::Opened(described))).await?;
    let mut left = opened.length;
    while left > 0 {
        let room = sender.reserve(DATA).await?;
        let chunk = {
            let mut buffer = agent.read_buffer.lock();
            let most = room
                .min(buffer.len())
                .min(usize::try_from(left).unwrap_or(MAX_CHUNK));
            let read = opened.file.read(&mut buffer[..most]);
            if let Ok(count) = read {
                sender.send_reserved(DATA, &buffer[..count])?;
            }
            read
        };
        match chunk {
            // The file became shorter while it was read.
            Ok(0) => break,
            Ok(count) => left -= count as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                let failed = failure(Code::Failed, format!("read the file: {}", error.kind()));
                return finish(sender, Err(failed)).await;
            }
        }
        // Other tasks run in between, even if reading never waits.
        tokio::task::consume_budget().await;
    }
    finish(sender, Ok(())).await
}

async fn write(
    agent: &Agent,
    request: WriteRequest,
    receiver: &mut Receiver,
) -> Result<(), Failure> {
    let mode = FileMode::from_bits(request.mode);
    let mut file = agent
        .files
        .begin_write(&request.path, mode, request.parents)?;
    while let Some(bytes) = next_data(receiver).await? {
        file.write(&bytes)?;
        receiver.release(DATA, bytes.len());
    }
    Ok(file.commit()?)
}

/// The next chunk; none at the end of the data.
async fn next_data(receiver: &mut Receiver) -> Result<Option<Bytes>, Failure> {
    loop {
        match receiver.receive().await {
            Event::Data(DATA, bytes) => return Ok(Some(bytes)),
            Event::Finished(DATA) => return Ok(None),
            Event::Data(channel, bytes) => receiver.release(channel, bytes.len()),
            Event::Finished(_) | Event::Message(_) => {}
            Event::Closed(_) => return Err(failure(Code::Gone, "the peer gave it up")),
        }
    }
}

/// A writer for a thread, whose bytes go to a stream.
struct StreamWriter(mpsc::Sender<Bytes>);

impl Write for StreamWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(MAX_CHUNK)];
        self.0
            .blocking_send(Bytes::copy_from_slice(bytes))
            .map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn archive_out(
    agent: &Arc<Agent>,
    request: ArchiveOut,
    sender: &Sender,
) -> Result<(), MuxError> {
    if let Err(error) = agent.files.check_archive_out(&request.path) {
        return finish(sender, Err(error.into())).await;
    }
    sender
        .message(&reply(Answer::Opened(Opened::default())))
        .await?;
    let (queue, mut chunks) = mpsc::channel(QUEUE_LEN);
    let worker = agent.clone();
    let packing = agent.blocking.run(move || {
        let mut output = io::BufWriter::with_capacity(MAX_CHUNK, StreamWriter(queue));
        worker.files.archive_out(&request.path, &mut output)?;
        // An error means that the peer is gone and needs no answer.
        let _ = output.flush();
        Ok(())
    });
    // The queue ends with the thread, or when the thread was never started. When the peer is gone,
    // dropping the queue early ends the thread.
    let sending = async move {
        while let Some(chunk) = chunks.recv().await {
            sender.send(DATA, chunk).await?;
        }
        Ok::<(), MuxError>(())
    };
    let (sent, packed) = tokio::join!(sending, packing);
    sent?;
    finish(sender, packed).await
}

/// A reader for a thread, whose bytes come from a stream.
struct StreamReader {
    chunks: mpsc::Receiver<Result<Bytes, ()>>,
    chunk: Bytes,
}

impl io::Read for StreamReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.chunks.blocking_recv() {
                Some(Ok(chunk)) => self.chunk = chunk,
                Some(Err(())) => return Err(io::ErrorKind::ConnectionAborted.into()),
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.chunk.len());
        buffer[..count].copy_from_slice(&self.chunk[..count]);
        self.chunk.advance(count);
        Ok(count)
    }
}

async fn archive_in(
    agent: &Arc<Agent>,
    request: ArchiveIn,
    receiver: &mut Receiver,
) -> Result<(), Failure> {
    let (queue, chunks) = mpsc::channel(QUEUE_LEN);
    let worker = agent.clone();
    let unpacking = agent.blocking.run(move || {
        let mut input = StreamReader {
            chunks,
            chunk: Bytes::new(),
        };
        worker.files.archive_in(&request.path, &mut input)?;
        // Padding after the archive's end is read and dropped, so that the sender sees its bytes
        // accepted.
        io::copy(&mut input, &mut io::sink())
            .map_err(|_| failure(Code::Gone, "the peer gave it up"))?;
        Ok(())
    });
    let feeding = async {
        loop {
            match next_data(receiver).await {
                Ok(Some(bytes)) => {
                    let length = bytes.len();
                    if queue.send(Ok(bytes)).await.is_err() {
                        break;
                    }
                    receiver.release(DATA, length);
                }
                Ok(None) => break,
                Err(_) => {
                    let _ = queue.send(Err(())).await;
                    break;
                }
            }
        }
        drop(queue);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        unpacked = unpacking => unpacked,
        () = feeding => Ok(()),
    }
}
