//! Much data: backpressure, flat memory, ports.

use bytes::Bytes;
use stacyvm_agent_client::{ExecControl, ExecEvent, OpError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc;

use crate::harness::{TestAgent, argv, finish, soon, until};

/// Resident memory of a process, KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_ascii_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}

#[tokio::test]
async fn a_gigabyte_of_output_leaves_the_agent_small() {
    let sandbox = TestAgent::new().await;
    let mut session = sandbox
        .agent
        .exec(argv(&["head", "-c", "1G", "/dev/zero"]))
        .await
        .unwrap();
    let (mut total, mut most) = (0_u64, 0);
    let exit = loop {
        match soon(session.events.recv()).await.unwrap() {
            ExecEvent::Output(_, bytes) => {
                assert!(bytes.len() <= 64 * 1024);
                total += bytes.len() as u64;
                if total.is_multiple_of(16 << 20) {
                    most = most.max(resident(sandbox.pid()));
                }
            }
            // A command that outlives its connection says where its output begins.
            ExecEvent::Resumed(_) => {}
            ExecEvent::End => unreachable!("the end of a look at output"),
            ExecEvent::Exit(exit) => break exit,
        }
    };
    assert_eq!((exit.exit_code, total), (0, 1 << 30));
    most = most.max(resident(sandbox.pid()));
    assert!(most < 16 * 1024, "the agent grew to {most} KiB");
}

#[tokio::test]
async fn a_reader_that_stops_stops_the_command_and_nobody_else() {
    let sandbox = TestAgent::new().await;
    let session = sandbox
        .agent
        .exec(argv(&["cat", "/dev/zero"]))
        .await
        .unwrap();
    let pid = session.pid;
    until("the command waits in a write", async || {
        let wait = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let blocked = std::fs::read_to_string(format!("/proc/{pid}/syscall")).ok()?;
        // 1 is write(2) on x86_64, 64 on aarch64.
        let writing = blocked.starts_with("1 ") || blocked.starts_with("64 ");
        (wait.contains(") S ") && writing).then_some(())
    })
    .await;
    assert_eq!(sandbox.sh("echo fine").await.stdout, "fine\n");
    assert!(resident(sandbox.pid()) < 16 * 1024);
    session.control.send(ExecControl::Kill).await.unwrap();
    let mut events = session.events;
    while let Some(event) = soon(events.recv()).await {
        if let ExecEvent::Exit(exit) = event {
            assert_eq!(exit.exit_code, 137);
        }
    }
}

#[tokio::test]
async fn a_port_inside_is_reached_both_ways() {
    let sandbox = TestAgent::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move {
        let (mut peer, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        peer.read_to_end(&mut heard).await.unwrap();
        peer.write_all(&heard).await.unwrap();
        peer.write_all(b"bye").await.unwrap();
    });
    let (send, inbound) = mpsc::channel(4);
    let mut outbound = sandbox.agent.forward(port, inbound).await.unwrap();
    let sending = tokio::spawn(async move {
        for _ in 0..20 {
            send.send(Bytes::from(vec![b'y'; 50_000])).await.unwrap();
        }
    });
    let mut heard = Vec::new();
    while let Some(bytes) = soon(outbound.recv()).await {
        heard.extend_from_slice(&bytes.unwrap());
    }
    assert_eq!(heard.len(), 1_000_003);
    assert!(heard.ends_with(b"ybye"));
    sending.await.unwrap();
    serving.await.unwrap();
}

#[tokio::test]
async fn a_closed_port_is_told() {
    let sandbox = TestAgent::new().await;
    // Bound, so that no other process gets it, and not listened on.
    let taken = TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = taken.local_addr().unwrap().port();
    let (_send, inbound) = mpsc::channel(1);
    let refused = sandbox.agent.forward(port, inbound).await.unwrap_err();
    assert!(matches!(refused, OpError::NotFound(_)), "{refused:?}");
}

#[tokio::test]
async fn dropping_the_receiver_closes_the_connection_inside() {
    let sandbox = TestAgent::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (_send, inbound) = mpsc::channel(1);
    let outbound = sandbox.agent.forward(port, inbound).await.unwrap();
    let (mut peer, _) = listener.accept().await.unwrap();
    drop(outbound);
    // Sending bytes makes the client notice that the receiver is dropped; then it disconnects.
    let closed = async {
        let mut buffer = [0; 16];
        while peer.write_all(b"anybody there").await.is_ok() {
            if matches!(peer.try_read(&mut buffer), Ok(0)) {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    soon(closed).await;
    assert_eq!(
        finish(sandbox.agent.exec(argv(&["true"])).await.unwrap())
            .await
            .code(),
        0
    );
}
