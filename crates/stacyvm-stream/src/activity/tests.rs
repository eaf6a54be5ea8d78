#![allow(clippy::unwrap_used)]

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::time::sleep;

use super::*;

const TIMEOUT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(40);

fn pair() -> (Activity, ActivityStream<DuplexStream>, DuplexStream) {
    let activity = Activity::new();
    let (near, far) = duplex(64);
    let near = ActivityStream::new(near, &activity);
    (activity, near, far)
}

/// How long after `start` the connection counts as idle.
async fn idle_after(activity: &Activity, start: Instant) -> Duration {
    activity.idle(TIMEOUT).await;
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn idle_time_starts_at_the_beginning() {
    let start = Instant::now();
    let (activity, _near, _far) = pair();
    assert_eq!(idle_after(&activity, start).await, TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn bytes_of_either_direction_are_activity() {
    for reads in [true, false] {
        let start = Instant::now();
        let (activity, mut near, mut far) = pair();
        sleep(PAUSE).await;
        if reads {
            far.write_all(b"x").await.unwrap();
            near.read_exact(&mut [0]).await.unwrap();
        } else {
            near.write_all(b"x").await.unwrap();
        }
        assert_eq!(
            idle_after(&activity, start).await,
            PAUSE + TIMEOUT,
            "{reads}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_that_move_while_idleness_is_awaited_put_it_off() {
    let start = Instant::now();
    let (activity, mut near, _far) = pair();
    let writing = async {
        for _ in 0..3 {
            sleep(PAUSE).await;
            near.write_all(b"x").await.unwrap();
        }
    };
    let (idle, ()) = tokio::join!(idle_after(&activity, start), writing);
    assert_eq!(idle, PAUSE * 3 + TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn streams_of_one_connection_share_their_activity() {
    let start = Instant::now();
    let (activity, _near, _far) = pair();
    let (other, _its_far) = duplex(64);
    let mut other = ActivityStream::new(other, &activity);
    sleep(PAUSE).await;
    other.write_all(b"x").await.unwrap();
    assert_eq!(idle_after(&activity, start).await, PAUSE + TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_file_is_no_activity() {
    let start = Instant::now();
    let (activity, mut near, mut far) = pair();
    far.shutdown().await.unwrap();
    sleep(PAUSE).await;
    for _ in 0..3 {
        assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 0);
    }
    assert_eq!(idle_after(&activity, start).await, TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn errors_flushes_and_shutdowns_are_no_activity() {
    let start = Instant::now();
    let (activity, mut near, far) = pair();
    drop(far);
    sleep(PAUSE).await;
    let error = near.write(b"x").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    let slices = [IoSlice::new(b"x")];
    near.write_vectored(&slices).await.unwrap_err();
    near.flush().await.unwrap();
    near.shutdown().await.unwrap();
    assert_eq!(idle_after(&activity, start).await, TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn attempts_that_move_nothing_are_no_activity() {
    let start = Instant::now();
    let (activity, mut near, _far) = pair();
    near.write_all(&[0; 64]).await.unwrap();
    sleep(PAUSE).await;
    // The pipe is full and nothing comes back.
    let mut buffer = [0; 8];
    let reading = tokio::time::timeout(Duration::from_secs(1), near.read(&mut buffer));
    assert!(reading.await.is_err());
    let writing = tokio::time::timeout(Duration::from_secs(1), near.write(b"x"));
    assert!(writing.await.is_err());
    assert_eq!(idle_after(&activity, start).await, TIMEOUT);
}

/// Takes three bytes of each write, and only vectored ones; remembers in how many slices they came.
#[derive(Debug, Default)]
struct Vectored {
    slices: Vec<usize>,
}

impl AsyncWrite for Vectored {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        panic!("a vectored write was taken apart");
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.slices.push(slices.len());
        Poll::Ready(Ok(3))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn vectored_writes_pass_whole_and_are_activity() {
    let start = Instant::now();
    let activity = Activity::new();
    let mut stream = ActivityStream::new(Vectored::default(), &activity);
    assert!(stream.is_write_vectored());
    sleep(PAUSE).await;
    let slices = [IoSlice::new(b"one"), IoSlice::new(b"two")];
    assert_eq!(stream.write_vectored(&slices).await.unwrap(), 3);
    assert_eq!(stream.stream.slices, [2]);
    assert_eq!(idle_after(&activity, start).await, PAUSE + TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn one_direction_ends_and_the_other_goes_on() {
    let activity = Activity::new();
    let ((client, mut client_far), (server, mut server_far)) = (duplex(64), duplex(64));
    let mut client = ActivityStream::new(client, &activity);
    let mut server = ActivityStream::new(server, &activity);
    let copying =
        tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
    client_far.write_all(b"question").await.unwrap();
    client_far.shutdown().await.unwrap();
    let mut question = String::new();
    server_far.read_to_string(&mut question).await.unwrap();
    assert_eq!(question, "question");
    server_far.write_all(b"answer").await.unwrap();
    server_far.shutdown().await.unwrap();
    let mut answer = String::new();
    client_far.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "answer");
    assert_eq!(copying.await.unwrap().unwrap(), (8, 6));
}

#[tokio::test(start_paused = true)]
async fn a_timeout_beyond_the_clock_never_ends() {
    let (activity, _near, _far) = pair();
    let idle = activity.idle(Duration::MAX);
    let waited = tokio::time::timeout(Duration::from_secs(1 << 20), idle).await;
    assert!(waited.is_err());
}
