//! Peers over standard input and output, one after the other.

use std::process::Stdio;
use std::sync::Arc;

use stacyvm_agent_client::{Agent, link};
use stacyvm_proto::link::MAX_DATA;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, WriteHalf, duplex, split};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::Mutex;

use crate::harness::{PROGRAM, alive, argv, finish, pid_in, sh, soon, until_gone};

/// An agent, and an engine that attaches hosts to its pipes: output of the agent goes to the newest
/// host, and no host ever sees an end of stream.
struct Piped {
    root: tempfile::TempDir,
    process: Child,
    input: Arc<Mutex<ChildStdin>>,
    newest: Arc<Mutex<Option<WriteHalf<DuplexStream>>>>,
}

impl Piped {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("workspace")).unwrap();
        let mut process = Command::new(PROGRAM)
            .arg("--stdio")
            .arg("--root")
            .arg(root.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let input = process.stdin.take().unwrap();
        let mut output = process.stdout.take().unwrap();
        let newest = Arc::new(Mutex::new(None::<WriteHalf<DuplexStream>>));
        let hosts = newest.clone();
        tokio::spawn(async move {
            let mut buffer = vec![0; 32 * 1024];
            while let Ok(count @ 1..) = output.read(&mut buffer).await {
                if let Some(host) = &mut *hosts.lock().await {
                    let _ = host.write_all(&buffer[..count]).await;
                }
            }
        });
        Self {
            root,
            process,
            input: Arc::new(Mutex::new(input)),
            newest,
        }
    }

    async fn attach(&self) -> Agent {
        let (host, engine) = duplex(64 * 1024);
        let (mut said, to_host) = split(engine);
        *self.newest.lock().await = Some(to_host);
        let input = self.input.clone();
        tokio::spawn(async move {
            let mut buffer = vec![0; 32 * 1024];
            while let Ok(count @ 1..) = said.read(&mut buffer).await {
                if input
                    .lock()
                    .await
                    .write_all(&buffer[..count])
                    .await
                    .is_err()
                {
                    return;
                }
            }
            // A host that is gone does not close the pipe.
            std::future::pending::<()>().await;
        });
        let (read, write) = split(host);
        let (read, write) = soon(link(read, write)).await.unwrap();
        soon(Agent::connect_split(read, write, None)).await.unwrap()
    }
}

#[tokio::test]
async fn a_peer_that_is_replaced_ends_like_one_on_a_socket() {
    let mut piped = Piped::new();
    let workspace = piped.root.path().join("workspace");
    let first = piped.attach().await;
    let _followed = first
        .exec(sh("echo $$ > followed; exec sleep 1000"))
        .await
        .unwrap();
    first
        .exec_detached(sh("echo $$ > detached; exec sleep 1000"))
        .await
        .unwrap();
    let followed = pid_in(&workspace.join("followed")).await;
    let detached = pid_in(&workspace.join("detached")).await;

    let second = piped.attach().await;
    until_gone(followed).await;
    assert!(alive(detached));
    let said = finish(second.exec(sh("echo here")).await.unwrap()).await;
    assert_eq!(said.stdout, "here\n");
    // Later bytes of the first session, its end included, do not affect the second.
    drop(first);
    second.ping().await.unwrap();
    soon(second.shutdown(std::time::Duration::ZERO))
        .await
        .unwrap();
    assert!(soon(piped.process.wait()).await.unwrap().success());
    until_gone(detached).await;
}

#[tokio::test]
async fn a_peer_that_died_in_the_middle_of_a_chunk_is_forgotten() {
    let piped = Piped::new();
    drop(piped.attach().await);
    for cut in [1, 2, 5, 11, 4000] {
        // A chunk whose header announces the longest data, cut short.
        let mut broken = vec![3];
        broken.extend_from_slice(&(MAX_DATA as u16).to_le_bytes());
        broken.resize(4000, 0xee);
        let mut input = piped.input.lock().await;
        soon(input.write_all(&broken[..cut])).await.unwrap();
        soon(input.flush()).await.unwrap();
        drop(input);
        let agent = piped.attach().await;
        let said = finish(agent.exec(sh("echo here")).await.unwrap()).await;
        assert_eq!(said.stdout, "here\n");
    }
}

#[tokio::test]
async fn much_goes_through_both_ways_at_once() {
    let piped = Piped::new();
    let agent = piped.attach().await;
    let mut both = Vec::new();
    for _ in 0..4 {
        let words = ["head", "-c", "3000000", "/dev/zero"];
        both.push(agent.exec(argv(&words)).await.unwrap());
    }
    for session in both {
        let finished = finish(session).await;
        assert_eq!((finished.stdout.len(), finished.code()), (3_000_000, 0));
    }
}

#[tokio::test]
async fn pipes_that_close_for_good_do_not_end_the_sandbox() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent.sock");
    std::fs::create_dir_all(directory.path().join("root/workspace")).unwrap();
    let mut process = Command::new(PROGRAM)
        .args(["--stdio", "--socket"])
        .arg(&socket)
        .arg("--root")
        .arg(directory.path().join("root"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    drop((process.stdin.take(), process.stdout.take()));
    let agent = crate::harness::until("the socket is served", async || {
        let stream = tokio::net::UnixStream::connect(&socket).await.ok()?;
        Agent::connect(stream, None).await.ok()
    })
    .await;
    let said = finish(agent.exec(sh("echo here")).await.unwrap()).await;
    assert_eq!(said.stdout, "here\n");
}
