//! What a killed process and a full disk leave behind. The parts that must die run in a child:
//! this very test binary, asked for one test by name and told its directory by a variable.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use stacyvm_store::{Store, StoreError};
use stacyvm_types::SandboxId;

use crate::record;

const DIRECTORY: &str = "STACYVM_STORE_TEST_DIRECTORY";

fn directory() -> Option<PathBuf> {
    std::env::var_os(DIRECTORY).map(PathBuf::from)
}

fn child_of(test: &str, directory: &Path, wrapper: Option<Command>) -> Command {
    let program = std::env::current_exe().unwrap();
    let mut command = match wrapper {
        Some(mut wrapper) => {
            wrapper.arg(program);
            wrapper
        }
        None => Command::new(program),
    };
    command
        .args(["--exact", test, "--nocapture", "--ignored"])
        .env(DIRECTORY, directory);
    command
}

/// Writes until it is killed, and says on its output what has been acknowledged.
#[tokio::test]
#[ignore = "the child of killed_processes_lose_nothing_acknowledged"]
async fn writes_until_killed() {
    let Some(directory) = directory() else { return };
    let store = Store::open(directory.join("stacyvm.db")).unwrap();
    let base = u32::try_from(store.total_sandboxes().await.unwrap()).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..4_u32 {
        let store = store.clone();
        tasks.spawn(async move {
            for number in (base + worker * 1_000_000..).take(100_000) {
                let outcome = store.insert_intent(record(number), None).await.unwrap();
                assert_eq!(outcome, stacyvm_store::IntentOutcome::Written);
                store
                    .mark_running(&SandboxId::from_u32(number))
                    .await
                    .unwrap();
                // One write call a line: a line is there whole or not at all.
                let line = format!("acknowledged {number}\n");
                std::io::stdout().write_all(line.as_bytes()).unwrap();
            }
        });
    }
    tasks.join_all().await;
}

#[tokio::test]
async fn killed_processes_lose_nothing_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stacyvm.db");
    let mut acknowledged = Vec::new();
    for round in 1..=5_usize {
        let mut command = child_of("crash::writes_until_killed", directory.path(), None);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut heard = 0;
        let mut number = |line: String| {
            let number = line.strip_prefix("acknowledged ")?.parse::<u32>().ok()?;
            acknowledged.push(number);
            Some(())
        };
        while heard < round * 40 {
            heard += usize::from(number(lines.next().unwrap().unwrap()).is_some());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it acknowledged between the last line read and its death.
        lines.map_while(Result::ok).for_each(|line| {
            number(line);
        });

        let store = Store::open(&path).unwrap();
        for number in &acknowledged {
            let found = store.get(&SandboxId::from_u32(*number)).await.unwrap();
            let state = found.map(|record| record.state);
            assert_eq!(state, Some(stacyvm_store::StoredState::Running), "{number}");
        }
        store.close().await;
    }
    assert!(acknowledged.len() >= 600);
}

/// Fills a small disk of its own, and uses it again after making room.
#[tokio::test]
#[ignore = "the child of a_full_disk_is_told_and_gotten_over"]
async fn fills_its_disk() {
    let Some(directory) = directory() else { return };
    let store = Store::open(directory.join("stacyvm.db")).unwrap();
    let ballast = directory.join("ballast");
    std::fs::write(&ballast, vec![1; 512 * 1024]).unwrap();
    let mut written = Vec::new();
    let error = loop {
        let number = u32::try_from(written.len()).unwrap();
        let mut record = record(number);
        record.metadata.insert("k".to_owned(), "v".repeat(4000));
        match store.insert_intent(record, None).await {
            Ok(_) => written.push(SandboxId::from_u32(number)),
            Err(error) => break error,
        }
        assert!(number < 10_000, "the disk never got full");
    };
    assert!(matches!(error, StoreError::Full), "{error:?}");
    assert!(!error.to_string().contains(directory.to_str().unwrap()));
    // Reading goes on, and nothing acknowledged is missing.
    assert_eq!(store.list_active().await.unwrap().len(), written.len());
    std::fs::remove_file(&ballast).unwrap();
    for id in &written {
        assert!(store.mark_destroyed(id).await.unwrap());
    }
    let again = store.insert_intent(record(1_000_000), None).await.unwrap();
    assert_eq!(again, stacyvm_store::IntentOutcome::Written);
    store.close().await;
    println!("got over it");
}

#[test]
fn a_full_disk_is_told_and_gotten_over() {
    let directory = tempfile::tempdir().unwrap();
    let wrapper = stacyvm_testing::on_small_disk(directory.path(), 1 << 20);
    let mut command = child_of("crash::fills_its_disk", directory.path(), Some(wrapper));
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(child) = child else {
        return stacyvm_testing::skip("there is no unshare command");
    };
    let output = finished(child);
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(77) || complained.contains("unshare") {
        return stacyvm_testing::skip(format_args!("no mount namespace: {complained}"));
    }
    assert!(output.status.success(), "{said}\n{complained}");
    assert!(said.contains("got over it"), "{said}\n{complained}");
}

/// Waits with a deadline, so that a hanging child fails the test instead of hanging it.
fn finished(mut child: Child) -> std::process::Output {
    let deadline = Instant::now() + Duration::from_secs(60);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}
