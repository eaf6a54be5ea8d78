//! The container runtime of a sandbox, the isolation level reported for it, and what the engine
//! records of it.

use serde_json::{Value, json};

use crate::harness::docker::need_docker;
use crate::harness::{SOON, Server, eventually};

fn kernel(server: &Server, id: &str) -> String {
    server.exec(id, "uname -r")["stdout"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn a_runtime_that_the_engine_does_not_have_stops_the_start() {
    let engine = need_docker!();
    let options = engine.options(&["runtime: warp-drive"]);
    let said = Server::refused(options.clone());
    for word in ["providers.docker.runtime", "warp-drive", "runc"] {
        assert!(said.contains(word), "{word} is not in {said}");
    }
    let doctor = Server::prepared(options).cli(&["doctor"]);
    let said = format!("{}{}", doctor.stdout, doctor.stderr);
    assert!(said.contains("warp-drive"), "{said}");
}

#[test]
fn kata_without_its_runtime_says_so() {
    let engine = need_docker!();
    let said = Server::refused(engine.options(&["runtime: kata-runtime"]));
    assert!(said.contains("kata-runtime"), "{said}");
}

#[test]
fn what_separates_a_sandbox_is_said_as_it_is() {
    let engine = need_docker!();
    for runtime in engine.runtimes() {
        let server = engine.server(&[&format!("runtime: {runtime}")]);
        let id = server.spawn(json!({}));
        let own = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let shares_the_kernel = kernel(&server, &id) == own;
        let expected = if shares_the_kernel {
            "container"
        } else {
            "userspace-kernel"
        };
        assert_eq!(shares_the_kernel, runtime == "runc", "{runtime}");
        let sandbox = server.request("GET", &format!("/sandboxes/{id}"), None);
        assert_eq!(sandbox.expect(200)["isolation"], expected, "{runtime}");
        let provider = server.request("GET", "/providers/docker", None).expect(200);
        assert_eq!(provider["isolation"], expected, "{provider}");
        assert_eq!(engine.inspect(&id, "{{.HostConfig.Runtime}}"), runtime);
        // A floor below is met, a machine is not there.
        server.spawn(json!({"isolation": "process"}));
        let vm = server.request("POST", "/sandboxes", Some(json!({"isolation": "vm"})));
        vm.expect(422);
    }
}

#[test]
fn a_stronger_level_that_is_asked_for_selects_gvisor() {
    let engine = need_docker!();
    if !engine.has_gvisor() {
        return;
    }
    let server = engine.server(&["runtime: runc"]);
    let usual = server.spawn(json!({}));
    let strong = server.spawn(json!({"isolation": "userspace-kernel"}));
    assert_ne!(kernel(&server, &usual), kernel(&server, &strong));
    let sandbox = server.request("GET", &format!("/sandboxes/{strong}"), None);
    assert_eq!(sandbox.expect(200)["isolation"], "userspace-kernel");
    assert_eq!(engine.inspect(&strong, "{{.HostConfig.Runtime}}"), "runsc");
}

#[test]
fn the_engine_logs_nothing_of_what_commands_print() {
    let engine = need_docker!();
    let server = engine.server(&[]);
    let id = server.spawn(json!({}));
    server.exec(&id, "head -c 1000000 /dev/zero; echo printed >&2");
    assert_eq!(
        engine.inspect(&id, "{{.HostConfig.LogConfig.Type}}"),
        "none"
    );
    let logs = engine.docker(&["logs", &engine.container(&id)]);
    let said = format!("{}{}", logs.stdout, logs.stderr);
    assert!(!said.contains("printed"), "{said}");
    assert_ne!(logs.code, Some(0), "{said}");
}

#[test]
fn children_that_nobody_waits_for_are_reaped() {
    let engine = need_docker!();
    for runtime in engine.runtimes() {
        let server = engine.server(&[&format!("runtime: {runtime}")]);
        let id = server.spawn(json!({}));
        // Each is an orphan before it ends, and then the first process is its parent.
        server.exec(&id, "for n in 1 2 3 4 5 6 7 8; do (sleep 0.05 &); done");
        eventually("no zombie is left", SOON, || {
            let answer = server.exec(&id, "cat /proc/[0-9]*/stat 2>/dev/null; true");
            let text = answer["stdout"].as_str().unwrap();
            assert!(text.starts_with("1 ("), "{answer}");
            !text.contains("(sleep)")
        });
    }
}

#[test]
fn a_provider_tells_what_it_can() {
    let engine = need_docker!();
    let server = engine.server(&[]);
    let all = server.request("GET", "/providers", None).expect(200);
    let docker = all
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["name"] == "docker")
        .unwrap_or_else(|| panic!("no docker in {all}"));
    assert_eq!(docker["healthy"], true, "{docker}");
    assert_eq!(docker["default"], true, "{docker}");
    let capabilities = docker["capabilities"].as_array().unwrap();
    // Claimed is only what the tests beside this one find.
    for never in ["snapshot", "egress-domains"] {
        assert!(!capabilities.contains(&Value::from(never)), "{docker}");
    }
}
