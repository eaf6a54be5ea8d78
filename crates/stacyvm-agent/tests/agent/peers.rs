//! Several peers, and peers that misbehave.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use proptest::prelude::*;
use prost::Message as _;
use stacyvm_agent_client::OpError;
use stacyvm_proto::message::{Answer, Done, Hello, HelloReply, Open, Reply, Request, Tell};
use stacyvm_proto::{HEADER_LEN, Header, Kind};

use crate::harness::{DEADLINE, TestAgent, argv, finish, sh, soon, until_gone};

fn raw(sandbox: &TestAgent) -> UnixStream {
    let stream = UnixStream::connect(sandbox.socket()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

fn say(stream: &mut UnixStream, kind: Kind, id: u32, payload: &[u8]) {
    let header = Header::new(kind, id, 0, payload.len() as u32);
    stream.write_all(&header.encode()).unwrap();
    stream.write_all(payload).unwrap();
}

fn hear(stream: &mut UnixStream) -> (Header, Vec<u8>) {
    let mut header = [0; HEADER_LEN];
    stream.read_exact(&mut header).unwrap();
    let header = Header::decode(&header).unwrap();
    let mut payload = vec![0; header.length as usize];
    stream.read_exact(&mut payload).unwrap();
    (header, payload)
}

#[tokio::test]
async fn another_generation_is_refused_in_words() {
    let sandbox = TestAgent::new().await;
    let mut stream = raw(&sandbox);
    let hello = Hello {
        generation_min: 90,
        generation_max: 99,
        ..Hello::default()
    };
    say(&mut stream, Kind::Hello, 0, &hello.encode_to_vec());
    let (_, payload) = hear(&mut stream);
    let reply = HelloReply::decode(payload.as_slice()).unwrap();
    assert!(reply.refused.unwrap().message.contains("generation"));
    assert_eq!(
        stream.read(&mut [0; 1]).unwrap(),
        0,
        "the connection should be closed"
    );
    assert!(sandbox.agent.ping().await.is_ok());
}

#[tokio::test]
async fn an_unknown_request_is_refused_in_words() {
    let sandbox = TestAgent::new().await;
    let mut stream = raw(&sandbox);
    let hello = Hello {
        generation_min: 1,
        generation_max: 99,
        ..Hello::default()
    };
    say(&mut stream, Kind::Hello, 0, &hello.encode_to_vec());
    hear(&mut stream);
    // A request with field 500, from a later version.
    say(&mut stream, Kind::Open, 1, &[0xa2, 0x1f, 0x01, 0x00]);
    let (header, payload) = hear(&mut stream);
    assert_eq!(header.kind, Kind::Message.number());
    let reply = stacyvm_proto::message::Reply::decode(payload.as_slice()).unwrap();
    let Some(stacyvm_proto::message::Answer::Failure(failure)) = reply.answer else {
        panic!("expected a failure, got {reply:?}");
    };
    assert_eq!(failure.code(), stacyvm_proto::message::Code::Unsupported);
    // The empty request and the unreadable one are refused as well.
    say(&mut stream, Kind::Open, 2, &Open::default().encode_to_vec());
    say(&mut stream, Kind::Open, 3, &[0xff; 7]);
    let ends: Vec<_> = (0..5).map(|_| hear(&mut stream).0.kind).collect();
    assert_eq!(
        ends.iter()
            .filter(|kind| **kind == Kind::Finish.number())
            .count(),
        3
    );
}

#[tokio::test]
async fn peers_do_not_harm_each_other() {
    let sandbox = TestAgent::new().await;
    let first = sandbox.another_client().await;
    let second = sandbox.another_client().await;
    let running = first.exec(sh("sleep 0.3; echo unharmed")).await.unwrap();
    let abandoned = second.exec(sh("sleep 1000")).await.unwrap();
    let pid = abandoned.pid;
    drop((abandoned, second));
    until_gone(pid).await;
    let mut garbage = raw(&sandbox);
    garbage.write_all(&[0x55; 1000]).unwrap();
    assert_eq!(finish(running).await.stdout, "unharmed\n");
}

#[tokio::test]
async fn a_dead_agent_fails_what_is_pending() {
    let mut sandbox = TestAgent::new().await;
    let mut session = sandbox.agent.exec(sh("sleep 1000")).await.unwrap();
    let pid = session.pid;
    sandbox.kill();
    assert_eq!(soon(session.events.recv()).await, None);
    soon(sandbox.agent.closed()).await;
    assert!(matches!(sandbox.agent.ping().await, Err(OpError::Gone(_))));
    assert!(matches!(
        sandbox.agent.stat("/").await,
        Err(OpError::Gone(_))
    ));
    // This test ends the process that the agent left behind.
    let leader = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    let _ = rustix::process::kill_process_group(leader, rustix::process::Signal::KILL);
    until_gone(pid).await;
}

#[test]
fn garbage_harms_nobody() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let sandbox = runtime.block_on(TestAgent::new());
    let hello = Hello {
        generation_min: 1,
        generation_max: 1,
        ..Hello::default()
    };
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let strategy = (
        any::<bool>(),
        proptest::collection::vec(any::<u8>(), 0..2000),
    );
    runner
        .run(&strategy, |(after_hello, bytes)| {
            let mut stream = raw(&sandbox);
            if after_hello {
                say(&mut stream, Kind::Hello, 0, &hello.encode_to_vec());
            }
            // The agent may disconnect half way.
            let _ = stream.write_all(&bytes);
            drop(stream);
            prop_assert!(runtime.block_on(sandbox.agent.ping()).is_ok());
            Ok(())
        })
        .unwrap();
    let finished = runtime.block_on(sandbox.sh("echo still here"));
    assert_eq!(finished.stdout, "still here\n");
}

#[tokio::test]
async fn input_that_ends_a_command_was_taken() {
    let sandbox = TestAgent::new().await;
    let mut spec = argv(&["head", "-n", "1"]);
    spec.stdin = true;
    let (exec_id, _) = sandbox.agent.exec_detached(spec).await.unwrap();
    let mut stream = raw(&sandbox);
    let hello = Hello {
        generation_min: 1,
        generation_max: 1,
        ..Hello::default()
    };
    say(&mut stream, Kind::Hello, 0, &hello.encode_to_vec());
    hear(&mut stream);
    let tell = Tell {
        exec_id,
        input: true,
        ..Tell::default()
    };
    let open = Open {
        request: Some(Request::Tell(tell)),
    };
    say(&mut stream, Kind::Open, 1, &open.encode_to_vec());
    let mut data = Header::new(Kind::Data, 1, 1, 5).encode().to_vec();
    data.extend_from_slice(b"word\n");
    stream.write_all(&data).unwrap();
    // The command has ended before its input ends.
    let exit = soon(sandbox.agent.wait_exec(exec_id)).await.unwrap();
    assert_eq!(exit.exit_code, 0);
    stream
        .write_all(&Header::new(Kind::Finish, 1, 1, 0).encode())
        .unwrap();
    let reply = loop {
        let (header, payload) = hear(&mut stream);
        if header.kind == Kind::Message.number() {
            break Reply::decode(payload.as_slice()).unwrap();
        }
    };
    assert_eq!(reply.answer, Some(Answer::Done(Done {})));
}
