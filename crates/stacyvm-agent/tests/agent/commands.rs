//! One command: its environment, input, output and exit.

use std::time::Duration;

use bytes::Bytes;
use stacyvm_agent_client::{
    Configure, Credentials, ExecControl, ExecEvent, ExecSpec, OpError, Signal,
};
use stacyvm_types::ExitReason;

use crate::harness::{DEADLINE, TestAgent, argv, finish, refused, sh, soon};

#[tokio::test]
async fn exit_codes_and_signals_are_told() {
    let sandbox = TestAgent::new().await;
    for code in [0, 1, 42, 255] {
        let finished = sandbox.sh(&format!("exit {code}")).await;
        assert_eq!(
            (finished.code(), finished.exit.reason),
            (code, ExitReason::Exit)
        );
        assert_eq!(finished.exit.signal, None);
    }
    let finished = sandbox.sh("kill -TERM $$").await;
    assert_eq!(
        (finished.code(), finished.exit.reason),
        (143, ExitReason::Signal)
    );
    assert_eq!(finished.exit.signal, Some(15));
}

#[tokio::test]
async fn output_streams_are_separate_and_whole() {
    let sandbox = TestAgent::new().await;
    let finished = sandbox
        .sh("printf out; printf err >&2; printf ' more'")
        .await;
    assert_eq!((&*finished.stdout, &*finished.stderr), ("out more", "err"));
    let finished = sandbox.sh("head -c 3000000 /dev/zero | tr '\\0' x").await;
    assert_eq!(finished.stdout.len(), 3_000_000);
}

#[tokio::test]
async fn ids_are_unique_and_the_pid_is_real() {
    let sandbox = TestAgent::new().await;
    let first = sandbox.agent.exec(sh("echo $$")).await.unwrap();
    let second = sandbox.agent.exec(sh("echo $$")).await.unwrap();
    assert_ne!(first.exec_id, second.exec_id);
    let pid = first.pid;
    assert_eq!(finish(first).await.stdout.trim(), pid.to_string());
    finish(second).await;
}

#[tokio::test]
async fn variables_come_from_defaults_sandbox_and_command() {
    let configure = Configure {
        env: [
            ("FROM".into(), "sandbox".into()),
            ("ONE".into(), "1".into()),
        ]
        .into(),
        ..Configure::default()
    };
    let sandbox = TestAgent::with(Some(configure)).await;
    let mut spec = sh("echo $FROM $ONE $TWO $LANG; echo $PATH; echo $HOME; env | wc -l");
    spec.env = [
        ("FROM".into(), "command".into()),
        ("TWO".into(), "2 $x".into()),
    ]
    .into();
    let finished = finish(sandbox.agent.exec(spec).await.unwrap()).await;
    let lines: Vec<_> = finished.stdout.lines().collect();
    assert_eq!(lines[0], "command 1 2 $x C.UTF-8");
    assert_eq!(
        lines[1],
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    );
    assert!(
        lines[2].starts_with(sandbox.root().to_str().unwrap()),
        "{}",
        lines[2]
    );
    // Nothing of the agent's own environment leaks: the nine set here, and the shell's PWD.
    assert_eq!(lines[3], "10");
    // A client without defaults leaves the present ones.
    let second = sandbox.another_client().await;
    let finished = finish(second.exec(sh("echo $FROM")).await.unwrap()).await;
    assert_eq!(finished.stdout, "sandbox\n");
}

#[tokio::test]
async fn the_workdir_is_inside_the_root() {
    let sandbox = TestAgent::new().await;
    let root = std::fs::canonicalize(sandbox.root()).unwrap();
    std::fs::create_dir_all(root.join("workspace/deep")).unwrap();
    std::os::unix::fs::symlink("/etc", root.join("workspace/out")).unwrap();
    for (asked, inside) in [
        (None, "workspace"),
        (Some("deep"), "workspace/deep"),
        (Some("/workspace/deep/../.."), ""),
        (Some("/../../.."), ""),
    ] {
        let mut spec = argv(&["pwd", "-P"]);
        spec.workdir = asked.map(str::to_owned);
        let finished = finish(sandbox.agent.exec(spec).await.unwrap()).await;
        let expected = root.join(inside);
        assert_eq!(
            finished.stdout.trim_end().trim_end_matches('/'),
            expected.to_str().unwrap().trim_end_matches('/')
        );
    }
    for missing in ["nowhere", "/workspace/nowhere", "out"] {
        let mut spec = argv(&["pwd"]);
        spec.workdir = Some(missing.into());
        assert!(
            matches!(refused(&sandbox.agent, spec).await, OpError::Invalid(_)),
            "{missing}"
        );
    }
}

#[tokio::test]
async fn input_reaches_the_command_and_ends() {
    let sandbox = TestAgent::new().await;
    let mut spec = argv(&["cat"]);
    spec.stdin = true;
    let session = sandbox.agent.exec(spec).await.unwrap();
    let control = session.control.clone();
    let data = Bytes::from(vec![b'x'; 1_000_000]);
    let feeding = tokio::spawn(async move {
        control.send(ExecControl::Stdin(data)).await.unwrap();
        control
            .send(ExecControl::Stdin(Bytes::from_static(b"end")))
            .await
            .unwrap();
        control.send(ExecControl::CloseStdin).await.unwrap();
    });
    let finished = finish(session).await;
    assert_eq!(finished.stdout.len(), 1_000_003);
    assert!(finished.stdout.ends_with("xend"));
    feeding.await.unwrap();
    // By default the input is empty and ends at once.
    let finished = finish(sandbox.agent.exec(argv(&["cat"])).await.unwrap()).await;
    assert_eq!((finished.code(), &*finished.stdout), (0, ""));
}

#[tokio::test]
async fn a_command_that_does_not_read_still_ends() {
    let sandbox = TestAgent::new().await;
    let mut spec = sh("exec 0<&-; echo ready; sleep 0.1; exit 7");
    spec.stdin = true;
    let session = sandbox.agent.exec(spec).await.unwrap();
    let control = session.control.clone();
    let feeding = tokio::spawn(async move {
        let chunk = Bytes::from(vec![0; 60_000]);
        while control
            .send(ExecControl::Stdin(chunk.clone()))
            .await
            .is_ok()
        {}
    });
    assert_eq!(finish(session).await.code(), 7);
    soon(feeding).await.unwrap();
}

#[tokio::test]
async fn what_is_no_program_is_told_like_a_shell_does() {
    let sandbox = TestAgent::new().await;
    for name in ["no-such-program", "/no/such/program"] {
        let finished = finish(sandbox.agent.exec(argv(&[name])).await.unwrap()).await;
        assert_eq!(finished.code(), 127);
        assert_eq!(finished.stderr, format!("stacyvm: {name}: not found\n"));
    }
    std::fs::write(sandbox.root().join("workspace/plain"), "text").unwrap();
    for name in ["./plain", "/usr"] {
        let finished = finish(sandbox.agent.exec(argv(&[name])).await.unwrap()).await;
        assert_eq!(finished.code(), 126, "{name}");
        assert!(
            finished.stderr.contains("permission denied"),
            "{}",
            finished.stderr
        );
    }
}

#[tokio::test]
async fn nonsense_is_refused() {
    let sandbox = TestAgent::new().await;
    for spec in [argv(&[]), argv(&[""]), argv(&["echo", "a\0b"])] {
        assert!(matches!(
            refused(&sandbox.agent, spec).await,
            OpError::Invalid(_)
        ));
    }
    let large = "x".repeat(300 * 1024);
    let refusal = refused(&sandbox.agent, argv(&["echo", &large])).await;
    assert!(matches!(refusal, OpError::Invalid(_)), "{refusal:?}");
    // Over the kernel's bound for one argument, under the protocol's for all.
    let large = "x".repeat(200 * 1024);
    let refusal = refused(&sandbox.agent, argv(&["echo", &large])).await;
    assert!(matches!(refusal, OpError::Invalid(_)), "{refusal:?}");
    let spec = ExecSpec {
        user: Credentials::User("nobody-here".into()),
        ..argv(&["id"])
    };
    assert!(matches!(
        refused(&sandbox.agent, spec).await,
        OpError::NotFound(_)
    ));
    assert!(sandbox.agent.ping().await.is_ok());
}

#[tokio::test]
async fn users_are_those_of_the_sandbox() {
    if !stacyvm_testing::root_or_skip() {
        return;
    }
    let sandbox = TestAgent::new().await;
    let etc = sandbox.root().join("etc");
    std::fs::create_dir_all(&etc).unwrap();
    std::fs::write(
        etc.join("passwd"),
        "someone:x:4321:4322::/home/someone:/bin/zsh\n",
    )
    .unwrap();
    std::fs::write(etc.join("group"), "more:x:4444:someone\n").unwrap();
    std::os::unix::fs::chown(sandbox.root().join("workspace"), Some(4321), None).unwrap();
    open_to_all(&sandbox);
    let spec = ExecSpec {
        user: Credentials::User("someone".into()),
        ..sh("id -u; id -g; id -G; echo $USER $SHELL; grep CapEff /proc/self/status")
    };
    let finished = finish(sandbox.agent.exec(spec).await.unwrap()).await;
    assert_eq!(
        finished.stdout, "4321\n4322\n4322 4444\nsomeone /bin/zsh\nCapEff:\t0000000000000000\n",
        "{}",
        finished.stderr
    );
    let spec = ExecSpec {
        user: Credentials::User("77:88".into()),
        ..sh("id -u; id -g; id -G")
    };
    let finished = finish(sandbox.agent.exec(spec).await.unwrap()).await;
    assert_eq!(finished.stdout, "77\n88\n88\n");
}

/// Lets other users through the temporary directory.
fn open_to_all(sandbox: &TestAgent) {
    use std::os::unix::fs::PermissionsExt as _;
    let root = sandbox.root();
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(root.parent().unwrap(), open).unwrap();
}

#[tokio::test]
async fn signals_and_kill_reach_the_command() {
    let sandbox = TestAgent::new().await;
    let script = "trap 'echo caught; exit 9' USR1; echo ready; while :; do sleep 0.05; done";
    let mut session = sandbox.agent.exec(sh(script)).await.unwrap();
    crate::harness::read_until(&mut session, "ready").await;
    session
        .control
        .send(ExecControl::Signal(Signal(10)))
        .await
        .unwrap();
    let finished = finish(session).await;
    assert_eq!((finished.code(), &*finished.stdout), (9, "caught\n"));
    let session = sandbox.agent.exec(argv(&["sleep", "1000"])).await.unwrap();
    session.control.send(ExecControl::Kill).await.unwrap();
    let finished = finish(session).await;
    assert_eq!(
        (finished.code(), finished.exit.reason),
        (137, ExitReason::Signal)
    );
}

#[tokio::test]
async fn the_first_words_come_before_the_end() {
    let sandbox = TestAgent::new().await;
    let mut spec = sh("echo first; read line; echo $line");
    spec.stdin = true;
    let mut session = sandbox.agent.exec(spec).await.unwrap();
    let first = soon(session.events.recv()).await;
    assert!(matches!(first, Some(ExecEvent::Output(_, bytes)) if &bytes[..] == b"first\n"));
    let line = Bytes::from_static(b"second\n");
    session
        .control
        .send(ExecControl::Stdin(line))
        .await
        .unwrap();
    assert_eq!(finish(session).await.stdout, "second\n");
}

#[tokio::test]
async fn the_duration_is_measured_inside() {
    let sandbox = TestAgent::new().await;
    let finished = sandbox.sh("sleep 0.2").await;
    assert!(finished.exit.duration >= Duration::from_millis(200));
}

#[tokio::test]
async fn lines_of_all_commands_are_kept() {
    let sandbox = TestAgent::new().await;
    sandbox.sh("echo one; echo two >&2").await;
    sandbox.sh("printf unfinished").await;
    let lines = sandbox.agent.logs(10).await.unwrap();
    assert_eq!(lines.len(), 3);
    assert!(lines[..2].contains(&"one".to_owned()) && lines[..2].contains(&"two".to_owned()));
    assert_eq!(lines[2], "unfinished");
    assert_eq!(sandbox.agent.logs(1).await.unwrap(), ["unfinished"]);
}

#[tokio::test]
async fn a_followed_log_has_every_line_once() {
    let sandbox = TestAgent::new().await;
    sandbox.sh("echo before").await;
    let mut log = sandbox.agent.follow_logs(10).await.unwrap();
    let mut lines = Vec::new();
    let mut follow = async |until: &str| {
        while !lines.iter().any(|line| line == until) {
            let batch = tokio::time::timeout(DEADLINE, log.recv()).await;
            let batch = batch.unwrap().unwrap().unwrap();
            assert_eq!(batch.skipped, 0);
            lines.extend(batch.lines);
        }
        lines.len()
    };
    assert_eq!(follow("before").await, 1);
    // In one write, because an unfinished line that stands for long is sent as a line.
    sandbox
        .sh("seq 1 2000 > all; cat all; printf 'no end'")
        .await;
    // A line without an end is sent all the same.
    assert_eq!(follow("no end").await, 2002);
    assert_eq!(lines[1..4], ["1", "2", "3"]);
    assert_eq!(lines[2000], "2000");
}
