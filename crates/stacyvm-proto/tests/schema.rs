//! The frozen description of generation 1 against the code that speaks it.
//!
//! `schema/generation-1.txt` names every message with its fields, and gives sample bytes. The
//! samples here are encoded and compared: bytes that differ mean that old agents are not
//! understood any more.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use prost::Message;
use stacyvm_proto::message::*;
use stacyvm_proto::{Header, Kind};

const FROZEN: &str = include_str!("../schema/generation-1.txt");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sample(
    samples: &mut BTreeMap<&'static str, String>,
    name: &'static str,
    message: &impl Message,
) {
    samples.insert(name, hex(&message.encode_to_vec()));
}

fn open(request: Request) -> Open {
    Open {
        request: Some(request),
    }
}

fn reply(answer: Answer) -> Reply {
    Reply {
        answer: Some(answer),
    }
}

fn control(control: control::Control) -> Control {
    Control {
        control: Some(control),
    }
}

/// One of everything, every field set.
fn samples() -> BTreeMap<&'static str, String> {
    let mut all = BTreeMap::new();
    let header = Header::new(Kind::Data, 0x0102_0304, 2, 0x0001_0000);
    all.insert("frame-header", hex(&header.encode()));
    let failure = Failure {
        code: Code::NotFound.into(),
        message: "m".into(),
    };
    let hello = Hello {
        generation_min: 1,
        generation_max: 1,
        program: "p".into(),
        configure: Some(Configure {
            env: [("A".into(), "b".into())].into(),
            user: Some("u".into()),
            workdir: Some("/w".into()),
        }),
    };
    sample(&mut all, "hello", &hello);
    let hello_reply = HelloReply {
        generation: 1,
        program: "p".into(),
        capabilities: vec!["exec".into(), "pty".into()],
        refused: Some(failure.clone()),
    };
    sample(&mut all, "hello-reply", &hello_reply);
    requests(&mut all);
    answers(&mut all, failure);
    let size = TerminalSize { cols: 80, rows: 24 };
    sample(
        &mut all,
        "control-resize",
        &control(control::Control::Resize(size)),
    );
    let signal = control::Control::Signal(SendSignal { number: 15 });
    sample(&mut all, "control-signal", &control(signal));
    sample(
        &mut all,
        "control-kill",
        &control(control::Control::Kill(Kill {})),
    );
    all
}

fn requests(all: &mut BTreeMap<&'static str, String>) {
    let path = || "/a".to_owned();
    let exec = Exec {
        argv: vec!["sh".into(), "-c".into()],
        env: [("A".into(), "b".into())].into(),
        workdir: Some("w".into()),
        user: Some("u".into()),
        stdin: true,
        tty: Some(TerminalSize { cols: 80, rows: 24 }),
        timeout_micros: Some(1_000_000),
        detached: true,
        kill_orphans: true,
    };
    sample(all, "open-exec", &open(Request::Exec(exec)));
    sample(
        all,
        "open-stat",
        &open(Request::Stat(Stat { path: path() })),
    );
    let list = List {
        path: path(),
        depth: 3,
    };
    sample(all, "open-list", &open(Request::List(list)));
    let read = Read {
        path: path(),
        offset: 300,
        length: Some(7),
    };
    sample(all, "open-read", &open(Request::Read(read)));
    let write = Write {
        path: path(),
        mode: 0o644,
        parents: true,
    };
    sample(all, "open-write", &open(Request::Write(write)));
    let mkdir = Mkdir {
        path: path(),
        mode: 0o755,
    };
    sample(all, "open-mkdir", &open(Request::Mkdir(mkdir)));
    let rename = Rename {
        from: path(),
        to: "/b".into(),
    };
    sample(all, "open-rename", &open(Request::Rename(rename)));
    let remove = Remove {
        path: path(),
        recursive: true,
    };
    sample(all, "open-remove", &open(Request::Remove(remove)));
    let chmod = Chmod {
        path: path(),
        mode: 0o600,
    };
    sample(all, "open-chmod", &open(Request::Chmod(chmod)));
    let glob = Glob {
        pattern: "*".into(),
    };
    sample(all, "open-glob", &open(Request::Glob(glob)));
    let archive_out = ArchiveOut { path: path() };
    sample(
        all,
        "open-archive-out",
        &open(Request::ArchiveOut(archive_out)),
    );
    let archive_in = ArchiveIn { path: path() };
    sample(
        all,
        "open-archive-in",
        &open(Request::ArchiveIn(archive_in)),
    );
    sample(
        all,
        "open-forward",
        &open(Request::Forward(Forward { port: 3000 })),
    );
    // Without the fields that came later, byte for byte what it always was; then with them.
    let mut logs = Logs {
        lines: 100,
        follow: false,
    };
    sample(all, "open-logs", &open(Request::Logs(logs)));
    logs.follow = true;
    sample(all, "open-logs-follow", &open(Request::Logs(logs)));
    sample(all, "open-usage", &open(Request::Usage(Usage {})));
    let shutdown = Shutdown { grace_ms: 2000 };
    sample(all, "open-shutdown", &open(Request::Shutdown(shutdown)));
    let execs = Execs { exec_id: Some(9) };
    sample(all, "open-execs", &open(Request::Execs(execs)));
    let attach = Attach {
        exec_id: 9,
        offset: 300,
        follow: true,
        quiet: true,
    };
    sample(all, "open-attach", &open(Request::Attach(attach)));
    let tell = Tell {
        exec_id: 9,
        control: Some(control(control::Control::Kill(Kill {}))),
        input: true,
        close: true,
    };
    sample(all, "open-tell", &open(Request::Tell(tell)));
}

fn answers(all: &mut BTreeMap<&'static str, String>, failure: Failure) {
    let entry = Entry {
        path: "/a".into(),
        size: 5,
        mode: 0o644,
        is_dir: true,
        is_symlink: true,
        symlink_target: Some("b".into()),
        owner: "user".into(),
        group: "1000".into(),
        modified_micros: -1,
    };
    sample(all, "reply-failure", &reply(Answer::Failure(failure)));
    sample(all, "reply-done", &reply(Answer::Done(Done {})));
    let started = Started {
        exec_id: 9,
        pid: 77,
    };
    sample(all, "reply-started", &reply(Answer::Started(started)));
    let exit = Exit {
        exit_code: 137,
        signal: Some(9),
        cause: ExitCause::Timeout.into(),
        duration_nanos: 1_000_000_007,
    };
    sample(all, "reply-exit", &reply(Answer::Exit(exit)));
    let entries = Entries {
        entries: vec![entry.clone()],
    };
    sample(all, "reply-entries", &reply(Answer::Entries(entries)));
    let paths = Paths {
        paths: vec!["/a".into(), "/b".into()],
        skipped: 0,
    };
    sample(all, "reply-paths", &reply(Answer::Paths(paths)));
    let paths = Paths {
        paths: vec!["/a".into()],
        skipped: 300,
    };
    sample(all, "reply-paths-skipped", &reply(Answer::Paths(paths)));
    let opened = Opened { entry: Some(entry) };
    sample(all, "reply-opened", &reply(Answer::Opened(opened)));
    let counts = Counts {
        pids: 3,
        mem_bytes: 4096,
        cpu_nanos: 10_000_000,
    };
    sample(all, "reply-counts", &reply(Answer::Counts(counts)));
    let execs = ExecInfos {
        execs: vec![ExecInfo {
            exec_id: 9,
            argv: vec!["sh".into()],
            pid: 77,
            tty: true,
            detached: true,
            started_micros: -1,
            exit: Some(exit),
            log_start: 5,
            log_end: 300,
        }],
    };
    sample(all, "reply-execs", &reply(Answer::Execs(execs)));
    let resumed = Resumed { offset: 300 };
    sample(all, "reply-resumed", &reply(Answer::Resumed(resumed)));
}

fn frozen() -> BTreeMap<&'static str, String> {
    FROZEN
        .lines()
        .filter_map(|line| line.strip_prefix("sample "))
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, bytes)| (name, bytes.trim().to_owned()))
        .collect()
}

#[test]
fn the_code_still_speaks_generation_1() {
    let (code, frozen) = (samples(), frozen());
    for (name, bytes) in &code {
        assert_eq!(
            Some(bytes),
            frozen.get(name),
            "sample {name} (left: the code, right: the schema)"
        );
    }
    assert_eq!(
        code.len(),
        frozen.len(),
        "the schema has samples that the code lacks"
    );
}

#[test]
fn kinds_and_codes_have_their_frozen_numbers() {
    let kinds = [
        ("hello", Kind::Hello),
        ("open", Kind::Open),
        ("message", Kind::Message),
        ("data", Kind::Data),
        ("credit", Kind::Credit),
        ("finish", Kind::Finish),
        ("reset", Kind::Reset),
        ("ping", Kind::Ping),
        ("pong", Kind::Pong),
    ];
    for (name, kind) in kinds {
        let line = format!("kind {} {name}", kind.number());
        assert!(FROZEN.lines().any(|frozen| frozen == line), "{line}");
    }
    let codes = (0..).map_while(|number| Code::try_from(number).ok());
    for code in codes {
        let line = format!("code {} {code:?}", code as i32);
        assert!(FROZEN.lines().any(|frozen| frozen == line), "{line}");
    }
    let causes = (0..).map_while(|number| ExitCause::try_from(number).ok());
    for cause in causes {
        let line = format!("cause {} {cause:?}", cause as i32);
        assert!(FROZEN.lines().any(|frozen| frozen == line), "{line}");
    }
}

#[test]
fn fields_of_a_later_age_are_skipped() {
    let mut bytes = Stat { path: "/a".into() }.encode_to_vec();
    // Field 900, a length-delimited value nobody knows.
    bytes.extend_from_slice(&[0xa2, 0x38, 0x02, 0x01, 0x02]);
    assert_eq!(Stat::decode(bytes.as_slice()).unwrap().path, "/a");
}

#[test]
fn values_of_variables_stay_out_of_debug() {
    let exec = Exec {
        argv: vec!["program".into(), "hidden-argument".into()],
        env: [("NAME".into(), "hidden-value".into())].into(),
        ..Exec::default()
    };
    let open = format!("{:?}", open(Request::Exec(exec)));
    assert!(
        open.contains("program") && open.contains("NAME") && !open.contains("hidden"),
        "{open}"
    );
    let configure = Configure {
        env: [("NAME".into(), "hidden-value".into())].into(),
        ..Configure::default()
    };
    let hello = Hello {
        configure: Some(configure),
        ..Hello::default()
    };
    assert!(!format!("{hello:?}").contains("hidden"));
}
