//! The orchestrator over real parts: the mock provider, the real agent program
//! (`STACYVM_AGENT_BIN`, or built here by cargo), and a store in a file.
#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use stacyvm_mock::MockProvider;
use stacyvm_orchestrator::{
    Caller, Error, ExecEvent, ListFilter, Orchestrator, ReadRange, Settings, WriteOptions, upload,
};
use stacyvm_provider::Provider;
use stacyvm_provider::prelude::*;
use stacyvm_store::Store;
use stacyvm_testing::agent;
use stacyvm_types::{
    ErrorCode, ExecRequest, ExecResponse, FileMode, Sandbox, SandboxState, SpawnRequest,
};
use tempfile::TempDir;

/// One data directory and the server that works on it.
struct Server {
    orchestrator: Orchestrator,
    provider: Arc<MockProvider>,
    caller: Caller,
}

impl Server {
    async fn start(home: &TempDir) -> Self {
        let settings = Settings {
            default_provider: "mock".to_owned(),
            max_output_bytes: 1024 * 1024,
            ..Settings::default()
        };
        let store = Store::open(home.path().join("stacyvm.db")).unwrap();
        Self::over(home, settings, store).await
    }

    async fn over(home: &TempDir, settings: Settings, store: Store) -> Self {
        let provider = Arc::new(MockProvider::new(home.path().join("mock"), agent()).unwrap());
        let providers: Vec<Arc<dyn Provider>> = vec![Arc::clone(&provider) as _];
        let orchestrator = Orchestrator::start(settings, store, providers);
        Self {
            orchestrator: orchestrator.await.unwrap(),
            provider,
            caller: Caller::default(),
        }
    }

    async fn spawn(&self, json: &str) -> Sandbox {
        let request: SpawnRequest = serde_json::from_str(json).unwrap();
        let spawned = self.orchestrator.spawn(&self.caller, request, None);
        spawned.await.unwrap()
    }

    async fn run(&self, sandbox: &Sandbox, json: &str) -> Result<ExecResponse, Error> {
        let request: ExecRequest = serde_json::from_str(json).unwrap();
        let id = &sandbox.id;
        self.orchestrator
            .exec_captured(&self.caller, id, request)
            .await
    }

    async fn list(&self) -> Vec<Sandbox> {
        let all = self.orchestrator.list(&self.caller, ListFilter::default());
        all.await.unwrap()
    }

    async fn destroy(&self, sandbox: &Sandbox) {
        let id = &sandbox.id;
        self.orchestrator.destroy(&self.caller, id).await.unwrap();
    }

    /// Destroys what there is and stops.
    async fn end(self) {
        for sandbox in self.list().await {
            self.destroy(&sandbox).await;
        }
        assert_eq!(self.provider.list().await.unwrap(), []);
        self.orchestrator.shutdown(Duration::from_secs(10)).await;
    }
}

/// Processes of this machine that have exactly this argument.
fn processes(marker: &str) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let has = |line: &Vec<u8>| {
        line.split(|byte| *byte == 0)
            .any(|word| word == marker.as_bytes())
    };
    lines.filter(has).count()
}

async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    stacyvm_testing::eventually(what, async || condition()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_life_with_real_parts() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(&home).await;
    let sandbox = server.spawn(r#"{"env":{"GREETING":"hello"}}"#).await;
    assert_eq!(sandbox.state, SandboxState::Running);
    let out = server
        .run(
            &sandbox,
            r#"{"command":"printf '%s|' \"$GREETING\" \"$MORE\"; printf '%s|' ","args":["a b","$HOME","it's"],"env":{"MORE":"x"}}"#,
        )
        .await
        .unwrap();
    assert_eq!(out.stdout, "hello|x|a b|$HOME|it's|");
    let out = server
        .run(
            &sandbox,
            r#"{"command":"cat; echo oops >&2; exit 42","stdin":"from outside"}"#,
        )
        .await
        .unwrap();
    assert_eq!((out.exit_code, out.stdout.as_str()), (42, "from outside"));
    assert_eq!(out.stderr, "oops\n");
    let own_path = r#"{"command":"echo $PATH","env":{"PATH":"/nowhere"}}"#;
    let out = server.run(&sandbox, own_path).await.unwrap();
    assert_eq!((out.exit_code, out.stdout.as_str()), (0, "/nowhere\n"));
    let missing = server
        .run(&sandbox, r#"{"command":"no-such-program","mode":"argv"}"#)
        .await
        .unwrap();
    assert_eq!(missing.exit_code, 127);
    assert!(!missing.stderr.is_empty());
    let nowhere = server
        .run(
            &sandbox,
            r#"{"command":"true","workdir":"/no/such/directory"}"#,
        )
        .await;
    assert_eq!(nowhere.unwrap_err().code(), ErrorCode::BadRequest);

    let id = &sandbox.id;
    let ops = server
        .orchestrator
        .sandbox(&server.caller, id)
        .await
        .unwrap();
    let (sender, data) = upload(2);
    sender.send(Bytes::from_static(b"content")).await.unwrap();
    sender.finish();
    let options = WriteOptions {
        mode: FileMode::FILE,
        parents: true,
    };
    ops.write("/workspace/a/b.txt", options, data)
        .await
        .unwrap();
    let mut read = ops.read("a/b.txt", ReadRange::default()).await.unwrap();
    assert_eq!(read.data.next().await.unwrap().unwrap(), "content");
    let absent = ops.stat("/workspace/none").await.unwrap_err();
    assert_eq!(absent.code(), ErrorCode::NotFound);
    let logs = server
        .orchestrator
        .logs(&server.caller, id, 10)
        .await
        .unwrap();
    assert!(logs.iter().any(|line| line.contains("oops")), "{logs:?}");

    // Another server over the same directory finds it and can use it.
    server.orchestrator.shutdown(Duration::from_secs(10)).await;
    let server = Server::start(&home).await;
    assert_eq!(server.list().await, std::slice::from_ref(&sandbox));
    let out = server
        .run(&sandbox, r#"{"command":"cat a/b.txt; echo $GREETING"}"#)
        .await;
    assert_eq!(out.unwrap().stdout, "contenthello\n");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_and_a_lost_listener_end_the_whole_tree() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(&home).await;
    let sandbox = server.spawn("{}").await;
    // A number of seconds that nobody else sleeps.
    let marker = format!("3{}.5", std::process::id());
    let tree = format!("sleep {marker} & setsid sleep {marker} & sleep {marker}");
    let body = serde_json::json!({"command": tree, "timeout": "300ms"}).to_string();
    let error = server.run(&sandbox, &body).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Timeout);
    assert!(error.to_string().starts_with("exec timeout:"), "{error}");
    eventually("the timed out tree is gone", || processes(&marker) == 0).await;

    let request: ExecRequest =
        serde_json::from_value(serde_json::json!({"command": tree})).unwrap();
    let id = &sandbox.id;
    let running = server
        .orchestrator
        .exec(&server.caller, id, request)
        .await
        .unwrap();
    eventually("the tree stands", || processes(&marker) >= 3).await;
    drop(running);
    eventually("the abandoned tree is gone", || processes(&marker) == 0).await;
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_output_is_cut_and_the_servers_memory_stays_bounded() {
    fn peak_kib() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(&home).await;
    let sandbox = server.spawn("{}").await;
    server.run(&sandbox, r#"{"command":"true"}"#).await.unwrap();
    let before = peak_kib();
    let flood = r#"{"command":"head -c 200000000 /dev/zero | tr '\\0' x"}"#;
    let out = server.run(&sandbox, flood).await.unwrap();
    assert_eq!((out.exit_code, out.truncated), (0, true));
    assert_eq!(out.stdout.len(), 1024 * 1024);
    let grown = peak_kib() - before;
    assert!(grown < 64 * 1024, "memory grew by {grown} KiB");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn destroying_ends_a_streamed_command_and_every_process() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(&home).await;
    let sandbox = server.spawn("{}").await;
    let marker = format!("4{}.5", std::process::id());
    let command = format!("setsid sleep {marker} & sleep {marker}");
    let request: ExecRequest =
        serde_json::from_value(serde_json::json!({"command": command})).unwrap();
    let id = &sandbox.id;
    let mut running = server
        .orchestrator
        .exec(&server.caller, id, request)
        .await
        .unwrap();
    eventually("it runs", || processes(&marker) >= 2).await;
    server.destroy(&sandbox).await;
    assert_eq!(processes(&marker), 0);
    let exit = loop {
        if let ExecEvent::Exit(exit) = running.events.recv().await.unwrap() {
            break exit;
        }
    };
    assert_eq!(exit.exit_code, 137);
    assert_eq!(exit.reason, stacyvm_types::ExitReason::SandboxDestroyed);
    server.end().await;
}

/// Each life of the server is a runtime that is dropped in the middle of its work.
#[test]
fn deaths_at_random_moments_leave_no_box_and_lose_no_sandbox() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(home.path().join("stacyvm.db")).unwrap();
    let settings = Settings {
        default_provider: "mock".to_owned(),
        ..Settings::default()
    };
    let answered: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let life = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
    };
    for death in 1..=10 {
        let runtime = life();
        runtime.block_on(async {
            let work = async {
                let server = Server::over(&home, settings.clone(), store.clone()).await;
                for round in 0.. {
                    let sandbox = server.spawn("{}").await;
                    let id = sandbox.id.to_string();
                    answered.lock().unwrap().insert(id.clone());
                    server
                        .run(&sandbox, r#"{"command":"echo x > f"}"#)
                        .await
                        .unwrap();
                    if round % 2 == 0 {
                        answered.lock().unwrap().remove(&id);
                        server.destroy(&sandbox).await;
                    }
                }
            };
            let lifetime = Duration::from_millis(rand::random_range(0..150));
            let _ = tokio::time::timeout(lifetime, work).await;
        });
        drop(runtime);
        let runtime = life();
        runtime.block_on(async {
            let now = stacyvm_types::Timestamp::now();
            store.prune_idempotency(now).await.unwrap();
            let server = Server::over(&home, settings.clone(), store.clone()).await;
            let deadline = Instant::now() + Duration::from_secs(60);
            loop {
                let boxes = server.provider.list().await.unwrap();
                let boxes: BTreeSet<_> = boxes.into_iter().map(|found| found.id).collect();
                let rows = store.list_active().await.unwrap();
                let rows: BTreeSet<_> = rows.into_iter().map(|row| row.id).collect();
                let listed = server.list().await.into_iter().map(|sandbox| sandbox.id);
                let listed: BTreeSet<_> = listed.collect();
                if boxes == rows && rows == listed {
                    break;
                }
                assert!(
                    Instant::now() < deadline,
                    "{death}: {boxes:?} {rows:?} {listed:?}"
                );
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let known = answered.lock().unwrap().clone();
            let list = server.list().await;
            let listed: BTreeSet<_> = list.iter().map(|sandbox| sandbox.id.to_string()).collect();
            assert!(listed.is_superset(&known), "{death}: lost one");
            for sandbox in &list {
                let out = server
                    .run(sandbox, r#"{"command":"echo alive"}"#)
                    .await
                    .unwrap();
                assert_eq!(out.stdout, "alive\n", "{death}: {}", sandbox.id);
            }
        });
        drop(runtime);
    }
    life().block_on(async {
        let server = Server::over(&home, settings.clone(), store.clone()).await;
        server.end().await;
    });
}
