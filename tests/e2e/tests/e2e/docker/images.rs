//! Images of every kind: with entry points that mean something else, without a shell, from a registry.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::harness::docker::need_docker;
use crate::harness::oci::{Image, need_busybox};
use crate::harness::registry::{LOGIN, Registry};
use crate::harness::server::finish;

#[test]
fn an_entry_point_does_not_matter() {
    let engine = need_docker!();
    for runtime in engine.runtimes() {
        let server = engine.server(&[&format!("runtime: {runtime}")]);
        for entry_point in [
            "ENTRYPOINT [\"/bin/false\"]",
            "ENTRYPOINT [\"/bin/echo\", \"usage: something\"]",
            "ENTRYPOINT [\"/not/there\"]",
            "ENTRYPOINT exec sleep 0",
        ] {
            let image = engine.derive(&[entry_point, "CMD [\"--help\"]"]);
            let id = server.spawn(json!({"image": image.name()}));
            let answer = server.exec(&id, "echo here");
            assert_eq!(answer["stdout"], "here\n", "{runtime}: {entry_point}");
            server
                .request("DELETE", &format!("/sandboxes/{id}"), None)
                .expect(200);
        }
    }
}

#[test]
fn a_temporary_directory_that_the_image_closed_is_open() {
    let busybox = need_busybox!();
    let engine = need_docker!();
    let place = tempfile::tempdir().unwrap();
    for directory in ["root/bin", "root/tmp"] {
        fs::create_dir_all(place.path().join(directory)).unwrap();
    }
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(place.path().join("root/tmp"), closed).unwrap();
    fs::copy(&busybox, place.path().join("root/bin/sh")).unwrap();
    let archive = place.path().join("root.tar");
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(place.path().join("root")).arg("-cf");
    finish(tar.arg(&archive).arg(".")).ok();
    let image = engine.import(&archive);
    for runtime in engine.runtimes() {
        for read_only in [false, true] {
            let server = engine.server(&[&format!("runtime: {runtime}")]);
            let asked = json!({"image": image.name(), "read_only_rootfs": read_only});
            let id = server.spawn(asked);
            let answer = server.exec(&id, "echo x > /tmp/written && echo done");
            assert_eq!(
                answer["stdout"], "done\n",
                "{runtime}, {read_only}: {answer}"
            );
        }
    }
}

#[test]
fn an_image_needs_no_shell() {
    let busybox = need_busybox!();
    let engine = need_docker!();
    let place = tempfile::tempdir().unwrap();
    // Nothing but one program, and not under a name that would be looked for.
    fs::copy(&busybox, place.path().join("echo")).unwrap();
    let archive = place.path().join("root.tar");
    let tar = finish(
        Command::new("tar")
            .arg("-C")
            .arg(place.path())
            .arg("-cf")
            .arg(&archive)
            .arg("echo"),
    );
    tar.ok();
    let image = engine.import(&archive);
    for runtime in engine.runtimes() {
        let server = engine.server(&[&format!("runtime: {runtime}")]);
        let id = server.spawn(json!({"image": image.name()}));
        let request = json!({"command": "/echo", "args": ["no", "shell"], "mode": "argv"});
        let answer = server.exec_with(&id, request).expect(200);
        assert_eq!(answer["stdout"], "no shell\n", "{runtime}: {answer}");
        // Files go in and out without a program of the image.
        let path = format!("/sandboxes/{id}/files");
        let body = json!({"path": "/workspace/file", "content": "content"});
        server.request("POST", &path, Some(body)).expect(200);
        let read = server.request("GET", &format!("{path}?path=/workspace/file"), None);
        assert_eq!((read.status, read.text()), (200, "content".to_owned()));
    }
}

#[test]
fn an_image_that_is_not_there_says_so() {
    let engine = need_docker!();
    let mut options = engine.options(&[]);
    options.more.push_str("images:\n  pull: never\n");
    let server = crate::harness::Server::with(options);
    for image in ["never/was:1", "host"] {
        let answer = server.request("POST", "/sandboxes", Some(json!({"image": image})));
        assert!((400..500).contains(&answer.status), "{}", answer.text());
        let message = answer.json()["message"].to_string();
        assert!(message.contains(image), "{message}");
    }
    assert_eq!(server.list(), Vec::<String>::new());
}

#[test]
fn an_image_is_pulled_once_with_dockers_login() {
    let busybox = need_busybox!();
    let engine = need_docker!();
    // The engine pulls, so the registry is on its loopback.
    let _inside = engine.enter();
    let Some(mut registry) = Registry::locked() else {
        return;
    };
    let digest = registry.push(&Image::with_shell(&busybox), "small:1");
    let image = registry.image("small:1");
    let server = engine.server(&[]);
    let spawn = |image: &str| server.request("POST", "/sandboxes", Some(json!({ "image": image })));

    let refused = spawn(&image);
    assert!((400..=502).contains(&refused.status), "{}", refused.text());
    assert!(
        refused.text().contains("docker login"),
        "{}",
        refused.text()
    );

    let login = finish(Command::new("sh").args([
        "-c",
        "printf %s \"$0:$1\" | base64 -w0",
        LOGIN.0,
        LOGIN.1,
    ]));
    let address = registry.address().to_string();
    let text = json!({"auths": {&address: {"auth": login.ok()}}}).to_string();
    fs::create_dir_all(server.scratch(".docker")).unwrap();
    fs::write(server.scratch(".docker/config.json"), text).unwrap();
    let id = spawn(&image).expect(201)["id"].as_str().unwrap().to_owned();
    assert_eq!(
        server.exec(&id, "cat /etc/motd; id -u")["stdout"],
        "from an image\n1000\n"
    );
    assert!(!server.log().contains(LOGIN.1), "a password is in the log");

    // By its digest it is the same, and what is here is never asked for again.
    let by_digest = registry.image(&format!("small@{digest}"));
    registry.stop();
    for name in [&image, &by_digest] {
        spawn(name).expect(201);
    }
    let nines = registry.image(&format!("small@sha256:{}", "9".repeat(64)));
    let missing = spawn(&nines);
    assert!(missing.status >= 400, "{}", missing.text());
    for id in server.list() {
        let _ = server.request("DELETE", &format!("/sandboxes/{id}"), None);
    }
    engine.docker(&["rmi", "--force", &image]);
}

#[test]
fn a_pull_shows_how_far_it_is() {
    let busybox = need_busybox!();
    let engine = need_docker!();
    let _inside = engine.enter();
    let Some(registry) = Registry::start() else {
        return;
    };
    registry.push(&Image::with_shell(&busybox), "shown:1");
    let image = registry.image("shown:1");
    let server = engine.server(&[]);
    let body = json!({"image": image, "stream": true});
    let mut lines = server.open("POST", "/images/pull?provider=docker", Some(body));
    let mut all = Vec::new();
    while let Some(line) = lines.line().unwrap() {
        all.push(line.to_string());
    }
    assert!(all.len() > 1, "{all:?}");
    assert!(!all.last().unwrap().contains("error"), "{all:?}");
    engine.docker(&["rmi", "--force", &image]);
}
