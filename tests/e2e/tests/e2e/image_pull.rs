//! Images that come from a real registry when a sandbox asks for them.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::harness::gate::Gate;
use crate::harness::oci::{Image, busybox};
use crate::harness::registry::{LOGIN, Registry};
use crate::harness::server::{Options, finish};
use crate::harness::{SOON, Server, eventually, host, need_root, skip};

/// More than the manifest and the configuration of a test's image, less than busybox.
const A_LITTLE: u64 = 200 * 1024;

/// Starts a registry with one image in it, or leaves the test, which is skipped.
macro_rules! stocked {
    () => {{
        need_root!();
        let Some(busybox) = busybox() else {
            skip("needs the package busybox-static");
            return;
        };
        let Some(registry) = Registry::start() else {
            return;
        };
        registry.push(&Image::with_shell(&busybox), "small:1");
        registry
    }};
}

fn spawn(server: &Server, image: &str) -> crate::harness::http::Response {
    server.request("POST", "/sandboxes", Some(json!({ "image": image })))
}

#[track_caller]
fn says(response: crate::harness::http::Response, status: u16, code: &str, words: &[&str]) {
    let answer = response.expect(status);
    assert_eq!(answer["code"], code, "{answer}");
    for word in words {
        let message = answer["message"].as_str().unwrap();
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}

#[test]
fn an_image_is_pulled_once_and_outlives_its_registry() {
    let mut registry = stocked!();
    let server = Server::start();
    let image = registry.image("small:1");
    let id = server.spawn(json!({ "image": image }));
    let answer = server.exec(&id, "cat /etc/motd; id -u; pwd");
    assert_eq!(
        answer["stdout"], "from an image\n1000\n/workspace\n",
        "{answer}"
    );
    let sandbox = server.request("GET", &format!("/sandboxes/{id}"), None);
    assert_eq!(sandbox.expect(200)["image"], image.as_str());

    registry.stop();
    let again = server.spawn(json!({ "image": image }));
    assert_eq!(
        server.exec(&again, "cat /etc/motd")["stdout"],
        "from an image\n"
    );
    let missing = spawn(&server, &registry.image("small:2"));
    let address = registry.address().to_string();
    says(
        missing,
        502,
        "PROVIDER_ERROR",
        &["pull the image", &address],
    );
    let listed = server.cli(&["image", "list"]).ok();
    assert!(listed.contains(&image), "{listed}");
}

#[test]
fn what_cannot_be_pulled_says_why() {
    let registry = stocked!();
    let server = Server::start();
    let tag = spawn(&server, &registry.image("small:none"));
    says(tag, 404, "NOT_FOUND", &["small:none"]);
    says(
        spawn(&server, &registry.image("nothing")),
        404,
        "NOT_FOUND",
        &["nothing"],
    );
    let nines = format!("small@sha256:{}", "9".repeat(64));
    says(
        spawn(&server, &registry.image(&nines)),
        404,
        "NOT_FOUND",
        &["small"],
    );
    says(
        spawn(&server, "UPPER/case"),
        400,
        "BAD_REQUEST",
        &["lower-case"],
    );
    assert_eq!(server.list(), Vec::<String>::new());
    let listed = server.request("GET", "/images", None).expect(200);
    assert_eq!(listed, json!([]));

    // The command line says the same, and ends with a failure.
    let finished = server.cli(&["image", "pull", &registry.image("small:none")]);
    assert_eq!(finished.code, Some(1));
    assert!(
        finished.stderr.contains("small:none"),
        "{}",
        finished.stderr
    );
}

#[test]
fn a_digest_names_one_image_for_ever() {
    need_root!();
    let Some(busybox) = busybox() else {
        skip("needs the package busybox-static");
        return;
    };
    let Some(registry) = Registry::start() else {
        return;
    };
    let server = Server::start();
    let old = registry.push(&Image::with_shell(&busybox), "moving:1");
    let image = Image::with_shell(&busybox).layer(|root| {
        fs::create_dir(root.join("etc")).unwrap();
        fs::write(root.join("etc/motd"), "the new one\n").unwrap();
    });
    registry.push(&image, "moving:1");
    let read = |image: String| {
        let id = server.spawn(json!({ "image": image }));
        server.exec(&id, "cat /etc/motd")["stdout"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(read(registry.image("moving:1")), "the new one\n");
    assert_eq!(
        read(registry.image(&format!("moving@{old}"))),
        "from an image\n"
    );
}

#[test]
fn a_registry_with_a_lock_is_opened_by_dockers_login() {
    need_root!();
    let Some(busybox) = busybox() else {
        skip("needs the package busybox-static");
        return;
    };
    let Some(registry) = Registry::locked() else {
        return;
    };
    registry.push(&Image::with_shell(&busybox), "secret:1");
    let server = Server::start();
    let image = registry.image("secret:1");
    let address = registry.address().to_string();
    says(
        spawn(&server, &image),
        502,
        "PROVIDER_ERROR",
        &["docker login", &address],
    );

    // The server's user logs in while it runs.
    let config = |password: &str| {
        let login = finish(Command::new("sh").args([
            "-c",
            "printf %s \"$0:$1\" | base64 -w0",
            LOGIN.0,
            password,
        ]));
        let text = json!({"auths": {&address: {"auth": login.ok()}}}).to_string();
        fs::create_dir_all(server.scratch(".docker")).unwrap();
        fs::write(server.scratch(".docker/config.json"), text).unwrap();
    };
    config("wrong-password");
    let refused = spawn(&server, &image);
    assert!(
        !refused.text().contains("wrong-password"),
        "{}",
        refused.text()
    );
    says(refused, 502, "PROVIDER_ERROR", &["docker login", &address]);
    config(LOGIN.1);
    let id = server.spawn(json!({ "image": image }));
    assert_eq!(
        server.exec(&id, "cat /etc/motd")["stdout"],
        "from an image\n"
    );
    for secret in [LOGIN.1, "wrong-password"] {
        assert!(!server.log().contains(secret), "a password is in the log");
    }
}

#[test]
fn aliases_lead_to_an_image() {
    let registry = stocked!();
    let image = registry.image("small:1");
    let server = Server::with(Options {
        more: format!("images:\n  aliases:\n    alpine:latest: tools\n    tools: \"{image}\"\n"),
        ..Options::default()
    });
    let id = server.spawn(json!({"image": "alpine:latest"}));
    assert_eq!(
        server.exec(&id, "cat /etc/motd")["stdout"],
        "from an image\n"
    );
    let sandbox = server.request("GET", &format!("/sandboxes/{id}"), None);
    assert_eq!(sandbox.expect(200)["image"], "alpine:latest");
}

#[test]
fn without_pulls_only_what_was_brought_here_is_there() {
    let registry = stocked!();
    let server = Server::with(Options {
        more: "images:\n  pull: never\n".to_owned(),
        ..Options::default()
    });
    let image = registry.image("small:1");
    says(
        spawn(&server, &image),
        404,
        "NOT_FOUND",
        &["stacyvm image pull"],
    );
    server.cli(&["image", "pull", &image]).ok();
    server.spawn(json!({ "image": image }));
}

#[test]
fn many_who_want_one_image_cause_one_download() {
    let registry = stocked!();
    let gate = Gate::before(registry.address(), A_LITTLE);
    let image = format!("{}/small:1", gate.address());
    let server = Server::start();
    std::thread::scope(|scope| {
        let spawns: Vec<_> = (0..6)
            .map(|_| scope.spawn(|| spawn(&server, &image)))
            .collect();
        eventually("the download is under way", SOON, || gate.holds());
        // Nothing else waits: neither other images nor the rest of the API.
        let id = server.spawn(json!({"image": "host"}));
        assert_eq!(server.exec(&id, "echo here")["stdout"], "here\n");
        assert_eq!(server.list(), [id]);
        gate.open();
        for spawned in spawns {
            spawned.join().unwrap().expect(201);
        }
    });
    let blobs = registry.all_downloads();
    assert!(blobs.values().all(|times| *times == 1), "{blobs:?}");
    assert!(blobs.len() >= 2, "{blobs:?}");
}

#[test]
fn a_pull_ends_with_the_last_who_waits_for_it() {
    let registry = stocked!();
    let gate = Gate::before(registry.address(), A_LITTLE);
    let image = format!("{}/small:1", gate.address());
    let server = Server::start();
    let body = json!({ "image": image }).to_string();
    let request = format!(
        "POST /api/v1/sandboxes HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n{body}",
        server.address(),
        body.len()
    );
    let mut client = std::net::TcpStream::connect(server.address()).unwrap();
    std::io::Write::write_all(&mut client, request.as_bytes()).unwrap();
    eventually("the download is under way", SOON, || gate.holds());
    drop(client);
    eventually("the pull is given up", SOON, || {
        server.log().contains("nobody waits for an image")
    });
    assert_eq!(server.list(), Vec::<String>::new());
    gate.open();
    server.spawn(json!({ "image": image }));
}

#[test]
fn a_server_that_is_killed_in_a_pull_leaves_nothing_half_made() {
    let registry = stocked!();
    let gate = Gate::before(registry.address(), A_LITTLE);
    let image = format!("{}/small:1", gate.address());
    let mut server = Server::start();
    std::thread::scope(|scope| {
        let server = &server;
        let (wanted, pid) = (&image, server.pid());
        let asking = scope.spawn(move || {
            server.try_request("POST", "/sandboxes", Some(json!({ "image": wanted })))
        });
        eventually("the download is under way", SOON, || gate.holds());
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        assert!(asking.join().unwrap().is_err(), "a dead server answered");
    });
    server.reap();
    server.resume();
    assert_eq!(server.cli(&["image", "list"]).ok(), "No images\n");
    says(
        server.request("GET", &format!("/images/{image}"), None),
        404,
        "NOT_FOUND",
        &[],
    );
    assert!(host::boxes(&server.data_dir()).is_empty());
    gate.open();
    let id = server.spawn(json!({ "image": image }));
    assert_eq!(
        server.exec(&id, "cat /etc/motd")["stdout"],
        "from an image\n"
    );
}

#[test]
fn a_server_that_stops_does_not_wait_for_a_pull() {
    let registry = stocked!();
    let gate = Gate::before(registry.address(), A_LITTLE);
    let image = format!("{}/small:1", gate.address());
    let mut server = Server::start();
    std::thread::scope(|scope| {
        let running = &server;
        let wanted = &image;
        let asking = scope.spawn(move || {
            running.try_request("POST", "/sandboxes", Some(json!({ "image": wanted })))
        });
        eventually("the download is under way", SOON, || gate.holds());
        rustix::process::kill_process(running.pid(), rustix::process::Signal::TERM).unwrap();
        let answer = asking.join().unwrap();
        if let Ok(answer) = answer {
            assert_eq!(answer.status, 503, "{}", answer.text());
        }
    });
    server.reap();
    server.resume();
}
