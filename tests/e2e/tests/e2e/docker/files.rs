//! Who a command is, what it may write to, and how much.

use serde_json::json;

use crate::harness::Server;
use crate::harness::docker::need_docker;

/// Those of `places` that a command can write to.
#[track_caller]
fn writable(server: &Server, id: &str, user: &str, places: &[&str]) -> Vec<String> {
    let command = format!(
        "for place in {}; do if (echo x > $place/written) 2>/dev/null; then echo $place; fi; done",
        places.join(" ")
    );
    let answer = server.exec_with(id, json!({"command": command, "user": user}));
    let answer = answer.expect(200);
    let text = answer["stdout"].as_str().unwrap();
    text.lines().map(str::to_owned).collect()
}

const PLACES: [&str; 6] = ["/", "/etc", "/bin", "/root", "/workspace", "/tmp"];

#[test]
fn a_read_only_root_leaves_two_places_to_write_to() {
    let engine = need_docker!();
    for runtime in engine.runtimes() {
        let server = engine.server(&[&format!("runtime: {runtime}"), "read_only_rootfs: true"]);
        let id = server.spawn(json!({}));
        let user = writable(&server, &id, "1000", &PLACES);
        assert_eq!(user, ["/workspace", "/tmp"], "{runtime}");
        let refused = server.exec_with(&id, json!({"command": "echo x > /etc/x", "user": "root"}));
        let refused = refused.expect(200);
        let said = refused["stderr"].as_str().unwrap();
        assert!(
            said.contains("Read-only file system"),
            "{runtime}: {refused}"
        );
        // Programs can be built and run there, and the files API writes there.
        let answer = server.exec(&id, "cp /bin/busybox /tmp/echo && /tmp/echo from tmp");
        assert_eq!(answer["stdout"], "from tmp\n", "{runtime}: {answer}");
        let body = json!({"path": "kept", "content": "text"});
        let path = format!("/sandboxes/{id}/files");
        server.request("POST", &path, Some(body)).expect(200);
        let outside = json!({"path": "/etc/kept", "content": "text"});
        let outside = server.request("POST", &path, Some(outside));
        assert!(outside.status >= 400, "{}", outside.text());
        server
            .request("DELETE", &format!("/sandboxes/{id}"), None)
            .expect(200);
        assert!(engine.things(&id).is_empty(), "{:?}", engine.things(&id));
    }
}

#[test]
fn one_sandbox_can_ask_for_a_read_only_root() {
    let engine = need_docker!();
    let server = engine.server(&[]);
    let asked = server.spawn(json!({"read_only_rootfs": true}));
    let other = server.spawn(json!({}));
    assert_eq!(
        writable(&server, &asked, "root", &["/etc", "/tmp"]),
        ["/tmp"]
    );
    assert_eq!(
        writable(&server, &other, "root", &["/etc", "/tmp"]),
        ["/etc", "/tmp"]
    );
}

#[test]
fn temporary_files_have_an_end() {
    let engine = need_docker!();
    let server = engine.server(&["read_only_rootfs: true", "tmp_size_mb: 8", "shm_size_mb: 4"]);
    let id = server.spawn(json!({}));
    for (place, most) in [("/tmp", 8), ("/dev/shm", 4)] {
        let fill = format!("head -c 20000000 /dev/zero > {place}/full; wc -c < {place}/full");
        let answer = server.exec(&id, &fill);
        let written: u64 = answer["stdout"].as_str().unwrap().trim().parse().unwrap();
        assert!(written <= most << 20, "{place}: {answer}");
        assert!(written > (most - 1) << 20, "{place}: {answer}");
    }
}

#[test]
fn commands_run_as_a_user_who_owns_the_workspace() {
    let engine = need_docker!();
    for runtime in engine.runtimes() {
        let server = engine.server(&[&format!("runtime: {runtime}")]);
        let id = server.spawn(json!({}));
        let answer = server.exec(
            &id,
            "id -u; id -g; pwd; stat -c %u:%g /workspace; echo $HOME",
        );
        let said = answer["stdout"].as_str().unwrap();
        assert!(
            said.starts_with("1000\n1000\n/workspace\n1000:1000\n/"),
            "{runtime}: {answer}"
        );
        let user = writable(&server, &id, "1000", &PLACES);
        assert_eq!(user, ["/workspace", "/tmp"], "{runtime}");
        let root = server.exec_with(&id, json!({"command": "id -u", "user": "root"}));
        assert_eq!(root.expect(200)["stdout"], "0\n", "{runtime}");
        let limits = server.exec(&id, "stat -c %u /workspace/written");
        assert_eq!(limits["stdout"], "1000\n", "{runtime}: {limits}");
    }
}

#[test]
fn an_image_says_who_and_where() {
    let engine = need_docker!();
    let image = engine.derive(&["USER 1234:4321", "WORKDIR /srv", "ENV COLOUR=green"]);
    let server = engine.server(&[]);
    let id = server.spawn(json!({"image": image.name()}));
    let answer = server.exec(&id, "id -u; id -g; echo $COLOUR; stat -c %u:%g /workspace");
    assert_eq!(
        answer["stdout"], "1234\n4321\ngreen\n1234:4321\n",
        "{answer}"
    );
}
