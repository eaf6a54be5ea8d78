//! Commands with a terminal.

use std::time::Duration;

use bytes::Bytes;
use stacyvm_agent_client::{ExecControl, ExecEvent, ExecSpec, TtySize};
use stacyvm_types::ExitReason;

use crate::harness::{TestAgent, finish, read_until, sh};

const SIZE: TtySize = TtySize { cols: 91, rows: 17 };

fn on_terminal(script: &str) -> ExecSpec {
    ExecSpec {
        tty: Some(SIZE),
        stdin: true,
        ..sh(script)
    }
}

#[tokio::test]
async fn it_is_a_terminal_of_the_asked_size_and_can_be_resized() {
    let sandbox = TestAgent::new().await;
    let script = "test -t 0 && test -t 1 && test -t 2 && echo $TERM; stty size; \
                  trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done";
    let mut session = sandbox.agent.exec(on_terminal(script)).await.unwrap();
    let seen = read_until(&mut session, "ready").await;
    assert!(seen.contains("xterm-256color\r\n17 91\r\n"), "{seen:?}");
    let size = TtySize {
        cols: 120,
        rows: 40,
    };
    session
        .control
        .send(ExecControl::Resize(size))
        .await
        .unwrap();
    let finished = finish(session).await;
    assert!(finished.stdout.contains("40 120"), "{:?}", finished.stdout);
    assert_eq!(finished.code(), 0);
}

#[tokio::test]
async fn control_c_interrupts_the_foreground() {
    let sandbox = TestAgent::new().await;
    let mut session = sandbox
        .agent
        .exec(on_terminal("echo ready; exec sleep 1000"))
        .await
        .unwrap();
    read_until(&mut session, "ready").await;
    session
        .control
        .send(ExecControl::Stdin(Bytes::from_static(&[3])))
        .await
        .unwrap();
    let finished = finish(session).await;
    assert_eq!(
        (finished.code(), finished.exit.reason),
        (130, ExitReason::Signal)
    );
}

#[tokio::test]
async fn the_end_of_input_is_a_character() {
    let sandbox = TestAgent::new().await;
    let session = sandbox
        .agent
        .exec(on_terminal("cat; echo over"))
        .await
        .unwrap();
    let line = Bytes::from_static(b"line\n");
    session
        .control
        .send(ExecControl::Stdin(line))
        .await
        .unwrap();
    session.control.send(ExecControl::CloseStdin).await.unwrap();
    let finished = finish(session).await;
    assert!(
        finished.stdout.ends_with("over\r\n"),
        "{:?}",
        finished.stdout
    );
    assert_eq!(finished.code(), 0);
}

#[tokio::test]
async fn last_words_on_a_terminal_are_not_lost() {
    let sandbox = TestAgent::new().await;
    for _ in 0..20 {
        let script = "i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); done; printf last";
        let session = sandbox.agent.exec(on_terminal(script)).await.unwrap();
        let finished = finish(session).await;
        assert!(
            finished.stdout.ends_with("line 199\r\nlast"),
            "{:?}",
            finished.stdout
        );
    }
}

#[tokio::test]
async fn the_last_words_wait_for_a_reader_that_is_slow() {
    let sandbox = TestAgent::new().await;
    // A little more than fits in flight: the command ends while the end of its output is still in the
    // terminal, where it stays until the reader has taken a good part.
    let script = "seq 1 50000; echo the very end";
    let mut session = sandbox.agent.exec(on_terminal(script)).await.unwrap();
    let (mut seen, mut chunks) = (Vec::new(), 0);
    while let ExecEvent::Output(_, bytes) = session.events.recv().await.unwrap() {
        seen.extend_from_slice(&bytes);
        chunks += 1;
        if chunks < 20 {
            // Together much longer than the timeout for the rest of a terminal's output.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    assert!(seen.ends_with(b"the very end\r\n"), "{}", seen.len());
}
