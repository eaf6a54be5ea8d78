//! Managing images over HTTP and by the command line.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::Server;
use crate::harness::oci::{Image, need_busybox};
use crate::harness::registry::Registry;
use crate::harness::server::{Finished, Options, finish};

/// The command line without a server, on a server's directory.
fn offline(server: &Server, arguments: &[&str]) -> Finished {
    finish(server.command(arguments).env_remove("STACYVM_SERVER"))
}

fn names(list: &Value) -> Vec<&str> {
    let images = list.as_array().unwrap().iter();
    images
        .map(|image| image["name"].as_str().unwrap())
        .collect()
}

fn load(server: &Server, image: &Image, name: &str) {
    let archive = image.archive();
    server
        .cli(&["image", "load", archive.to_str().unwrap(), name])
        .ok();
}

#[test]
fn a_pull_tells_how_far_it_is() {
    let busybox = need_busybox!();
    let Some(registry) = Registry::start() else {
        return;
    };
    let digest = registry.push(&Image::with_shell(&busybox), "team/small:1");
    let server = Server::start();
    let image = registry.image("team/small:1");
    let request = json!({"image": image, "stream": true});
    let mut answer = server.open("POST", "/images/pull", Some(request));
    assert_eq!(answer.status, 200);
    let mut lines = Vec::new();
    while let Some(line) = answer.line().unwrap() {
        lines.push(line);
    }
    assert_eq!(lines[0]["status"], "resolved", "{lines:?}");
    assert_eq!(lines[0]["digest"], digest.as_str(), "{lines:?}");
    assert!(
        lines.iter().any(|line| line["stage"] == "done"),
        "{lines:?}"
    );
    let last = lines.last().unwrap();
    assert_eq!(last["status"], "done", "{lines:?}");
    assert_eq!(last["cached"], false);
    assert_eq!(last["image"]["digest"], digest.as_str());

    let again = server.request("POST", "/images/pull", Some(json!({ "image": image })));
    assert_eq!(again.expect(200)["cached"], true);
    let none = json!({"image": registry.image("team/none"), "stream": true});
    let none = server
        .request("POST", "/images/pull", Some(none))
        .expect(404);
    assert_eq!(
        none["code"], "NOT_FOUND",
        "a failure before the first word is a plain one"
    );
    for wrong in [
        json!({"image": "UPPER"}),
        json!({"image": ""}),
        json!({"image": image, "policy": "sometimes"}),
        json!({"image": image, "policy": 7}),
        json!({}),
    ] {
        let answer = server.request("POST", "/images/pull", Some(wrong));
        assert_eq!(answer.expect(400)["code"], "BAD_REQUEST");
    }
}

#[test]
fn images_are_listed_named_and_removed() {
    let busybox = need_busybox!();
    let server = Server::start();
    let image = Image::with_shell(&busybox).set("User", json!("1000"));
    load(&server, &image, "localhost:5000/team/tool:1");
    let details = server.request("GET", "/images/localhost:5000%2Fteam%2Ftool:1", None);
    let details = details.expect(200);
    assert_eq!(details["name"], "localhost:5000/team/tool:1", "{details}");
    assert_eq!(details["config"]["user"], "1000", "{details}");
    assert_eq!(
        details["layer_list"].as_array().unwrap().len(),
        1,
        "{details}"
    );
    let same = server.request("GET", "/images/localhost:5000/team/tool:1", None);
    assert_eq!(same.expect(200), details);
    let id = details["id"].as_str().unwrap();
    let by_id = server.request("GET", &format!("/images/{id}"), None);
    assert_eq!(by_id.expect(200)["id"], id);

    let tag = json!({"image": "localhost:5000/team/tool:1", "name": "short"});
    server.request("POST", "/images/tag", Some(tag)).expect(200);
    let listed = server.request("GET", "/images/", None).expect(200);
    assert_eq!(names(&listed), ["localhost:5000/team/tool:1", "short"]);
    let removed = server.request("DELETE", "/images/localhost:5000/team/tool:1", None);
    assert_eq!(removed.expect(200)["images"], json!([]));
    server.spawn(json!({"image": "short"}));
    let missing = server.request("DELETE", "/images/none", None).expect(404);
    assert_eq!(missing["code"], "NOT_FOUND");
}

#[test]
fn what_a_sandbox_stands_on_stays() {
    let busybox = need_busybox!();
    let mut server = Server::start();
    load(&server, &Image::with_shell(&busybox), "used");
    let other = Image::with_shell(&busybox).layer(|root| {
        fs::write(root.join("other"), "x").unwrap();
    });
    load(&server, &other, "unused");
    let id = server.spawn(json!({"image": "used"}));
    // Also after a restart, and for another process.
    server.kill();
    let offline_refused = offline(&server, &["image", "rm", "used"]);
    assert_eq!(offline_refused.code, Some(1), "{}", offline_refused.stderr);
    assert!(
        offline_refused.stderr.contains("in use"),
        "{}",
        offline_refused.stderr
    );
    assert!(
        offline_refused.stderr.contains("hint:"),
        "{}",
        offline_refused.stderr
    );
    server.resume();
    let refused = server.request("DELETE", "/images/used", None).expect(409);
    assert_eq!(refused["code"], "CONFLICT");
    let refused = server.cli(&["image", "rm", "used"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("hint:"), "{}", refused.stderr);

    let dry = json!({"all": true, "dry_run": true});
    let would = server
        .request("POST", "/images/prune", Some(dry))
        .expect(200);
    assert_eq!(would["images"].as_array().unwrap().len(), 1, "{would}");
    let printed = offline(&server, &["image", "prune", "--all"]).ok();
    assert!(printed.contains("unused"), "{printed}");
    let listed = server.request("GET", "/images", None).expect(200);
    assert_eq!(names(&listed), ["used"]);
    assert_eq!(
        server.exec(&id, "cat /etc/motd")["stdout"],
        "from an image\n"
    );

    server
        .request("DELETE", &format!("/sandboxes/{id}"), None)
        .expect(200);
    server.cli(&["image", "rm", "used"]).ok();
    assert_eq!(server.cli(&["image", "list"]).ok(), "No images\n");
}

#[test]
fn a_run_holds_its_image_against_the_server_beside_it() {
    let busybox = need_busybox!();
    let server = Server::start();
    load(&server, &Image::with_shell(&busybox), "shared");
    let mut run = server
        .command(&[
            "run",
            "--image",
            "shared",
            "--",
            "sh",
            "-c",
            "echo up; read line",
        ])
        .env_remove("STACYVM_SERVER")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut lines = std::io::BufReader::new(run.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut lines, &mut said).unwrap();
    assert_eq!(said, "up\n");
    let refused = server.request("DELETE", "/images/shared", None);
    drop(run.stdin.take());
    assert!(run.wait().unwrap().code().is_some());
    assert_eq!(refused.expect(409)["code"], "CONFLICT");
    server.request("DELETE", "/images/shared", None).expect(200);
}

#[test]
fn an_image_travels_from_one_server_to_another() {
    let busybox = need_busybox!();
    let (here, there) = (Server::start(), Server::start());
    let image = Image::with_shell(&busybox).set("WorkingDir", json!("/etc"));
    load(&here, &image, "traveller:1");
    for (number, save) in ["over HTTP", "offline"].iter().enumerate() {
        let file = here.scratch(&format!("saved-{number}.tar"));
        let path = file.to_str().unwrap();
        let arguments = ["image", "save", "traveller:1", "-o", path];
        match number {
            0 => here.cli(&arguments).ok(),
            _ => offline(&here, &arguments).ok(),
        };
        let twice = here.cli(&arguments);
        assert_eq!(twice.code, Some(1), "{save}: a file was written over");
        let loaded = there.cli(&["image", "load", path]).ok();
        assert!(loaded.contains("traveller:1"), "{save}: {loaded}");
        let id = there.spawn(json!({"image": "traveller:1"}));
        assert_eq!(
            there.exec(&id, "cat motd")["stdout"],
            "from an image\n",
            "{save}"
        );
        there
            .request("DELETE", &format!("/sandboxes/{id}"), None)
            .expect(200);
        there.cli(&["image", "rm", "traveller:1"]).ok();
    }
    let missing = here.cli(&["image", "save", "none", "-o", "nowhere.tar"]);
    assert_eq!(missing.code, Some(1));
    assert!(missing.stderr.contains("none"), "{}", missing.stderr);
    assert!(!here.scratch("nowhere.tar").exists());
}

#[test]
fn what_is_no_archive_is_refused_and_leaves_nothing() {
    let _ = need_busybox!();
    let server = Server::start();
    let file = server.scratch("noise.tar");
    fs::write(&file, vec![7; 100_000]).unwrap();
    let empty = server.scratch("empty.tar");
    finish(
        Command::new("tar")
            .arg("-cf")
            .arg(&empty)
            .args(["-T", "/dev/null"]),
    )
    .ok();
    for file in [&file, &empty] {
        let path = file.to_str().unwrap();
        for finished in [
            server.cli(&["image", "load", path]),
            offline(&server, &["image", "load", path]),
            server.cli(&["image", "import", path, "noise"]),
        ] {
            assert_eq!(
                finished.code,
                Some(1),
                "{}{}",
                finished.stdout,
                finished.stderr
            );
            assert!(
                finished.stderr.starts_with("error: "),
                "{}",
                finished.stderr
            );
        }
    }
    let answer = server
        .request("POST", "/images/load?kind=rootfs", None)
        .expect(400);
    assert!(
        answer["message"].as_str().unwrap().contains("name"),
        "{answer}"
    );
    let incoming = server.data_dir().join("native/incoming");
    assert_eq!(
        fs::read_dir(incoming).unwrap().count(),
        0,
        "an archive is left"
    );
    assert_eq!(
        server.request("GET", "/images", None).expect(200),
        json!([])
    );
}

#[test]
fn a_provider_without_images_says_so() {
    let server = Server::with(Options {
        provider: "mock",
        ..Options::default()
    });
    for (method, path, body) in [
        ("GET", "/images", None),
        ("GET", "/images/x", None),
        ("POST", "/images/pull", Some(json!({"image": "x"}))),
        ("POST", "/images/prune", Some(json!({}))),
        ("GET", "/images/save?name=x", None),
    ] {
        let answer = server.request(method, path, body).expect(422);
        assert_eq!(answer["code"], "UNSUPPORTED", "{path}: {answer}");
        assert!(
            answer["message"].as_str().unwrap().contains("images"),
            "{answer}"
        );
    }
    let answer = server
        .request("GET", "/images?provider=none", None)
        .expect(404);
    assert_eq!(answer["code"], "NOT_FOUND");
}
