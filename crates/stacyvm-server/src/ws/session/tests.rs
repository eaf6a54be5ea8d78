#![allow(clippy::unwrap_used)]

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::{Sink, Stream};
use stacyvm_orchestrator::ExecExit;
use stacyvm_types::{ExitReason, OutputStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::reader::IDLE_TIMEOUT;
use super::*;

/// One end of a socket without a network: what the client says, and what it was told.
struct Pipe {
    said: mpsc::Receiver<Result<Message, axum::Error>>,
    told: tokio_util::sync::PollSender<Message>,
}

impl Stream for Pipe {
    type Item = Result<Message, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.said.poll_recv(context)
    }
}

fn broken<E>(_: E) -> axum::Error {
    axum::Error::new(std::io::Error::from(std::io::ErrorKind::BrokenPipe))
}

impl Sink<Message> for Pipe {
    type Error = axum::Error;

    fn poll_ready(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), axum::Error>> {
        self.told.poll_reserve(context).map_err(broken)
    }

    fn start_send(mut self: Pin<&mut Self>, item: Message) -> Result<(), axum::Error> {
        self.told.send_item(item).map_err(broken)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), axum::Error>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), axum::Error>> {
        Poll::Ready(Ok(()))
    }
}

/// A session under way, seen from both ends.
struct Scene {
    say: mpsc::Sender<Result<Message, axum::Error>>,
    hear: mpsc::Receiver<Message>,
    events: mpsc::Sender<ExecEvent>,
    control: mpsc::Receiver<ExecControl>,
    cut: CancellationToken,
    talking: tokio::task::JoinHandle<()>,
}

fn scene() -> Scene {
    let (say, said) = mpsc::channel(8);
    let (told, hear) = mpsc::channel(2);
    let (events, receiver) = mpsc::channel(8);
    let (sender, control) = mpsc::channel(8);
    let cut = CancellationToken::new();
    let talk = Session {
        exec: RunningExec {
            exec_id: 1,
            pid: 2,
            events: receiver,
            control: sender,
            timeout: None,
        }
        .into(),
        encoder: FrameEncoder::new(Dialect::Typed { base64: false }),
        stdin: Bytes::from_static(b"first"),
        acknowledge: true,
    };
    let pipe = Pipe {
        said,
        told: tokio_util::sync::PollSender::new(told),
    };
    let talking = tokio::spawn(run_session(pipe, talk, cut.clone().cancelled_owned()));
    Scene {
        say,
        hear,
        events,
        control,
        cut,
        talking,
    }
}

impl Scene {
    async fn says(&self, text: &str) {
        self.say.send(Ok(Message::text(text))).await.unwrap();
    }

    async fn told(&mut self) -> String {
        loop {
            match self.hear.recv().await.unwrap() {
                Message::Text(text) => return text.as_str().to_owned(),
                Message::Close(frame) => return format!("close {}", frame.unwrap().code),
                _ => {}
            }
        }
    }
}

fn exit() -> ExecEvent {
    ExecEvent::Exit(ExecExit {
        exit_code: 3,
        signal: None,
        reason: ExitReason::Exit,
        duration: Duration::ZERO,
    })
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_pings_stays_and_a_silent_one_is_gone() {
    let mut scene = scene();
    let begin = Instant::now();
    let mut pings = 0;
    // Ten minutes of nothing but pings and pongs.
    while begin.elapsed() < Duration::from_secs(600) {
        if let Message::Ping(payload) = scene.hear.recv().await.unwrap() {
            pings += 1;
            scene.say.send(Ok(Message::Pong(payload))).await.unwrap();
        }
    }
    assert!(pings >= 29, "{pings}");
    let last = Instant::now();
    while scene.hear.recv().await.is_some() {}
    scene.talking.await.unwrap();
    let silence = last.elapsed();
    assert!(
        silence >= IDLE_TIMEOUT && silence <= IDLE_TIMEOUT + SHUTDOWN_CLOSE_TIMEOUT,
        "{silence:?}"
    );
    // No receiver of the command's events is left, which kills it.
    assert!(scene.events.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_and_says_nothing_is_gone_too() {
    let scene = scene();
    let output = || ExecEvent::Output(OutputStream::Stdout, Bytes::from_static(b"x"));
    while scene.events.send(output()).await.is_ok() {}
    scene.talking.await.unwrap();
}

#[tokio::test]
async fn input_comes_in_order_and_is_acknowledged() {
    let mut scene = scene();
    assert!(scene.told().await.contains("started"));
    scene.says(r#"{"type":"stdin","data":"then"}"#).await;
    let stdin = |bytes: &'static [u8]| ExecControl::Stdin(Bytes::from_static(bytes));
    assert_eq!(scene.control.recv().await.unwrap(), stdin(b"first"));
    assert_eq!(scene.control.recv().await.unwrap(), stdin(b"then"));
    assert_eq!(scene.told().await, r#"{"type":"stdin_ack","bytes":4}"#);
    scene.says(r#"{"type":"stdin_close"}"#).await;
    assert_eq!(scene.control.recv().await.unwrap(), ExecControl::CloseStdin);
    scene.events.send(exit()).await.unwrap();
    assert!(scene.told().await.contains("\"exit_code\":3"));
    assert_eq!(scene.told().await, "close 1000");
    drop(scene.say);
    scene.talking.await.unwrap();
}

#[tokio::test]
async fn a_bad_frame_is_answered_and_the_command_runs_on() {
    let mut scene = scene();
    assert!(scene.told().await.contains("started"));
    scene.says("hunter2").await;
    let words = scene.told().await;
    assert!(words.starts_with(r#"{"type":"error","code":"BAD_REQUEST""#));
    assert!(!words.contains("hunter2"), "{words}");
    scene.says(r#"{"type":"signal","name":"SIGINT"}"#).await;
    let word = loop {
        match scene.control.recv().await.unwrap() {
            ExecControl::Stdin(_) => {}
            word => break word,
        }
    };
    assert_eq!(word, ExecControl::Signal(stacyvm_orchestrator::Signal(2)));
}

#[tokio::test]
async fn a_lost_command_and_a_stopping_server_say_so() {
    let mut lost = scene();
    assert!(lost.told().await.contains("started"));
    drop(lost.events);
    let (words, code) = (lost.hear.recv().await.unwrap(), lost.hear.recv().await);
    assert!(words.to_text().unwrap().contains("INTERNAL_ERROR"));
    assert!(matches!(code, Some(Message::Close(Some(frame))) if frame.code == close_code::ERROR));

    let mut stopped = scene();
    assert!(stopped.told().await.contains("started"));
    stopped.cut.cancel();
    assert!(stopped.told().await.contains("UNAVAILABLE"));
    assert_eq!(stopped.told().await, "close 1001");
    stopped.talking.await.unwrap();
    assert!(stopped.events.is_closed());
}
