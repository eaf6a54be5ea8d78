//! Detached commands: their output is replayed and followed, they get input and controls, and their
//! exit is waited for.

use bytes::Bytes;
use stacyvm_agent_client::{Agent, Attached, ExecControl, ExecEvent, OpError, Signal, TtySize};
use stacyvm_types::ExitReason;

use crate::harness::{DEADLINES, TestAgent, argv, finish, sh, soon, until};

/// All events of an attachment until its end.
struct Heard {
    resumed: Vec<u64>,
    bytes: Vec<u8>,
    last: ExecEvent,
}

async fn hear(mut attached: Attached) -> Heard {
    let (mut resumed, mut bytes) = (Vec::new(), Vec::new());
    loop {
        match soon(attached.events.recv()).await.expect("no end came") {
            ExecEvent::Resumed(offset) => resumed.push(offset),
            ExecEvent::Output(_, chunk) => bytes.extend_from_slice(&chunk),
            last => {
                return Heard {
                    resumed,
                    bytes,
                    last,
                };
            }
        }
    }
}

fn code(heard: &Heard) -> i32 {
    match &heard.last {
        ExecEvent::Exit(exit) => exit.exit_code,
        other => panic!("no exit but {other:?}"),
    }
}

async fn attach(agent: &Agent, exec_id: u64, offset: u64) -> Attached {
    agent.attach(exec_id, offset, true).await.unwrap()
}

#[tokio::test]
async fn output_is_replayed_from_any_offset_after_every_connection_is_gone() {
    let sandbox = TestAgent::new().await;
    let first = sandbox.another_client().await;
    let script = "for i in $(seq 1 2000); do echo line $i; done; echo err >&2; exit 7";
    let (exec_id, pid) = first.exec_detached(sh(script)).await.unwrap();
    assert!(pid > 0);
    drop(first);
    let agent = sandbox.another_client().await;
    let exit = soon(agent.wait_exec(exec_id)).await.unwrap();
    assert_eq!((exit.exit_code, exit.reason), (7, ExitReason::Exit));
    let whole = hear(attach(&agent, exec_id, 0).await).await;
    assert_eq!((whole.resumed.as_slice(), code(&whole)), (&[0][..], 7));
    let text = String::from_utf8(whole.bytes.clone()).unwrap();
    assert_eq!(text.matches("line ").count(), 2000);
    assert!(text.contains("err\n"));
    for offset in [1, 4321, whole.bytes.len() as u64] {
        let part = hear(attach(&agent, exec_id, offset).await).await;
        assert_eq!(part.resumed, [offset]);
        assert_eq!(part.bytes, whole.bytes[offset as usize..]);
    }
    let record = agent.exec_record(exec_id).await.unwrap();
    assert_eq!(
        (record.log_start, record.log_end),
        (0, whole.bytes.len() as u64)
    );
    assert_eq!(record.exit.unwrap().exit_code, 7);
    assert_eq!(record.argv[..2], ["sh", "-c"]);
}

#[tokio::test]
async fn a_connection_that_is_cut_again_and_again_loses_no_byte_and_doubles_none() {
    let sandbox = TestAgent::new().await;
    // More than a record retains, so that the command must wait for its reader. It prints nothing
    // before there is one.
    let mut spec = sh("read go; seq -f 'line number %.0f of the output' 0 299999");
    spec.stdin = true;
    let agent = sandbox.another_client().await;
    let (exec_id, _) = agent.exec_detached(spec).await.unwrap();
    let mut attached = attach(&agent, exec_id, 0).await;
    let go = ExecControl::Stdin(Bytes::from_static(b"go\n"));
    agent.tell_exec(exec_id, go).await.unwrap();
    drop(agent);
    let (mut bytes, mut offset, mut cuts): (Vec<u8>, u64, u32) = (Vec::new(), 0, 0);
    let exit = loop {
        match soon(attached.events.recv()).await {
            Some(ExecEvent::Resumed(from)) => assert_eq!(from, offset),
            Some(ExecEvent::Output(_, chunk)) => {
                offset += chunk.len() as u64;
                bytes.extend_from_slice(&chunk);
                if cuts < 20 && bytes.len() as u64 / 400_000 > u64::from(cuts) {
                    cuts += 1;
                    let agent = sandbox.another_client().await;
                    attached = attach(&agent, exec_id, offset).await;
                }
            }
            Some(ExecEvent::Exit(exit)) => break exit,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((exit.exit_code, cuts), (0, 20));
    let text = String::from_utf8(bytes).unwrap();
    for (number, line) in text.lines().enumerate() {
        assert_eq!(line, format!("line number {number} of the output"));
    }
    assert_eq!(text.lines().count(), 300_000);
}

#[tokio::test]
async fn input_comes_from_anybody_and_its_end_too() {
    let sandbox = TestAgent::new().await;
    let agent = &sandbox.agent;
    let mut spec = sh("while read line; do echo \"got $line\"; done; echo end");
    spec.stdin = true;
    let (exec_id, _) = agent.exec_detached(spec).await.unwrap();
    let say = async |text: &'static str| {
        let input = ExecControl::Stdin(Bytes::from_static(text.as_bytes()));
        agent.tell_exec(exec_id, input).await
    };
    say("one\n").await.unwrap();
    let attached = attach(agent, exec_id, 0).await;
    let control = attached.control.clone();
    let chunk = Bytes::from_static(b"two\n");
    control.send(ExecControl::Stdin(chunk)).await.unwrap();
    // An attachment that is dropped does not close the input.
    drop(attach(agent, exec_id, 0).await);
    until("both lines arrived", async || {
        let record = agent.exec_record(exec_id).await.unwrap();
        (record.log_end == 16).then_some(())
    })
    .await;
    say("three\n").await.unwrap();
    agent
        .tell_exec(exec_id, ExecControl::CloseStdin)
        .await
        .unwrap();
    let heard = hear(attached).await;
    assert_eq!(heard.bytes, b"got one\ngot two\ngot three\nend\n");
    assert!(matches!(say("late\n").await, Err(OpError::Conflict(_))));
    let unknown = agent.tell_exec(exec_id + 100, ExecControl::Kill).await;
    assert!(matches!(unknown, Err(OpError::NotFound(_))));
}

#[tokio::test]
async fn input_waits_for_a_command_that_does_not_read_and_signals_do_not() {
    let sandbox = TestAgent::new().await;
    let agent = &sandbox.agent;
    let mut spec = argv(&["sleep", "600"]);
    spec.stdin = true;
    let (exec_id, _) = agent.exec_detached(spec).await.unwrap();
    let flood = ExecControl::Stdin(Bytes::from(vec![b'x'; 4 * 1024 * 1024]));
    let feeding = tokio::spawn({
        let agent = agent.clone();
        async move { agent.tell_exec(exec_id, flood).await }
    });
    let mut attached = attach(agent, exec_id, 0).await;
    for _ in 0..100 {
        let chunk = ExecControl::Stdin(Bytes::from(vec![b'y'; 64 * 1024]));
        // The queue is full.
        if attached.control.try_send(chunk).is_err() {
            break;
        }
    }
    agent
        .tell_exec(exec_id, ExecControl::Signal(Signal(15)))
        .await
        .unwrap();
    loop {
        match soon(attached.events.recv()).await.unwrap() {
            ExecEvent::Exit(exit) => {
                assert_eq!((exit.exit_code, exit.reason), (143, ExitReason::Signal));
                break;
            }
            ExecEvent::Resumed(0) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(
        soon(feeding).await.unwrap(),
        Err(OpError::Conflict(_))
    ));
}

#[tokio::test]
async fn a_terminal_is_resized_interrupted_and_read_again() {
    let sandbox = TestAgent::new().await;
    let agent = &sandbox.agent;
    let mut spec = sh(
        "trap 'echo interrupted; exit 5' INT; stty size; read line; stty size; while :; do sleep 0.05; done",
    );
    spec.tty = Some(TtySize { cols: 80, rows: 24 });
    spec.stdin = true;
    let (exec_id, _) = agent.exec_detached(spec).await.unwrap();
    let size = TtySize {
        cols: 100,
        rows: 30,
    };
    agent
        .tell_exec(exec_id, ExecControl::Resize(size))
        .await
        .unwrap();
    let type_in = async |text: &'static [u8]| {
        let input = ExecControl::Stdin(Bytes::from_static(text));
        agent.tell_exec(exec_id, input).await.unwrap();
    };
    type_in(b"go\n").await;
    let seen = async |text: &str| {
        until(text, async || {
            let now = agent.attach(exec_id, 0, false).await.unwrap();
            let heard = hear(now).await;
            assert!(matches!(heard.last, ExecEvent::End | ExecEvent::Exit(_)));
            let all = String::from_utf8_lossy(&heard.bytes).into_owned();
            all.contains(text).then_some(())
        })
        .await;
    };
    seen("30 100").await;
    type_in(b"\x03").await;
    seen("interrupted").await;
    assert_eq!(soon(agent.wait_exec(exec_id)).await.unwrap().exit_code, 5);
}

#[tokio::test]
async fn all_that_runs_is_listed_and_only_detached_ones_are_followed() {
    let sandbox = TestAgent::new().await;
    let agent = &sandbox.agent;
    let mut plain = agent.exec(argv(&["sleep", "600"])).await.unwrap();
    let (detached, _) = agent
        .exec_detached(argv(&["no-such-program"]))
        .await
        .unwrap();
    let all = agent.execs().await.unwrap();
    let numbers: Vec<_> = all.iter().map(|one| (one.exec_id, one.detached)).collect();
    assert_eq!(numbers, [(plain.exec_id, false), (detached, true)]);
    assert_eq!(all[1].exit.as_ref().unwrap().exit_code, 127);
    let refused = agent.attach(plain.exec_id, 0, true).await;
    assert!(matches!(refused, Err(OpError::Conflict(_))));
    let missing = agent.exec_record(999).await;
    assert!(matches!(missing, Err(OpError::NotFound(_))));
    // Another stream may end it.
    agent
        .tell_exec(plain.exec_id, ExecControl::Kill)
        .await
        .unwrap();
    let exit = loop {
        if let ExecEvent::Exit(exit) = soon(plain.events.recv()).await.unwrap() {
            break exit;
        }
    };
    assert_eq!(exit.exit_code, 137);
    until("the plain one is forgotten", async || {
        (agent.execs().await.unwrap().len() == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_flood_that_nobody_reads_never_waits_and_keeps_its_end() {
    let sandbox = TestAgent::new().await;
    let agent = &sandbox.agent;
    let script = "head -c 50000000 /dev/zero; echo the end";
    let (exec_id, _) = agent.exec_detached(sh(script)).await.unwrap();
    let exit = soon(agent.wait_exec(exec_id)).await.unwrap();
    assert_eq!(exit.exit_code, 0);
    let heard = hear(attach(agent, exec_id, 5).await).await;
    assert_eq!(heard.resumed.len(), 1);
    let begin = heard.resumed[0];
    assert!(begin > 5, "it says where the output begins");
    assert_eq!(begin + heard.bytes.len() as u64, 50_000_008);
    assert!(heard.bytes.ends_with(b"the end\n"));
}

#[tokio::test]
async fn a_deadline_ends_a_detached_command_without_its_client() {
    let sandbox = TestAgent::new().await;
    let mut seen = Vec::new();
    for timeout in DEADLINES {
        let client = sandbox.another_client().await;
        let mut spec = sh("echo begun; sleep 600");
        spec.timeout = Some(timeout);
        let (exec_id, _) = client.exec_detached(spec).await.unwrap();
        drop(client);
        let exit = soon(sandbox.agent.wait_exec(exec_id)).await.unwrap();
        assert_eq!((exit.exit_code, exit.reason), (137, ExitReason::Timeout));
        let heard = hear(attach(&sandbox.agent, exec_id, 0).await).await;
        assert_eq!((heard.resumed.as_slice(), code(&heard)), (&[0][..], 137));
        seen = heard.bytes;
        if !seen.is_empty() {
            break;
        }
    }
    assert_eq!(seen, b"begun\n");
    // The agent still works.
    let session = sandbox.agent.exec(sh("echo alive")).await.unwrap();
    assert_eq!(finish(session).await.stdout, "alive\n");
}
