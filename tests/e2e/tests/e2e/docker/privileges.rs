//! What a command inside may do: capabilities, set-uid programs, system calls.

use std::fs;

use serde_json::json;

use crate::harness::Server;
use crate::harness::docker::need_docker;

/// A line of what the kernel says of a command, run as `user`.
#[track_caller]
fn status(server: &Server, id: &str, user: Option<&str>, key: &str) -> String {
    let mut request = json!({"command": "cat /proc/self/status"});
    if let Some(user) = user {
        request["user"] = json!(user);
    }
    let answer = server.exec_with(id, request).expect(200);
    let text = answer["stdout"].as_str().unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let line = line.unwrap_or_else(|| panic!("no {key} in {answer}"));
    line.trim_start_matches(':').trim().to_owned()
}

#[track_caller]
fn capabilities(server: &Server, id: &str, user: Option<&str>, set: &str) -> u64 {
    u64::from_str_radix(&status(server, id, user, set), 16).unwrap()
}

#[test]
fn by_default_neither_the_user_nor_root_has_capabilities() {
    let engine = need_docker!();
    for runtime in engine.runtimes() {
        let server = engine.server(&[&format!("runtime: {runtime}")]);
        let id = server.spawn(json!({}));
        for user in [None, Some("root")] {
            for set in ["CapInh", "CapPrm", "CapEff", "CapBnd"] {
                let found = capabilities(&server, &id, user, set);
                assert_eq!(found, 0, "{runtime}: {set} of {user:?} is {found:x}");
            }
        }
        // So root has no privilege over files of other users.
        let answer = server
            .exec_with(
                &id,
                json!({"command": "touch /tmp/mine && chown 1000 /tmp/mine", "user": "root"}),
            )
            .expect(200);
        assert_ne!(answer["exit_code"], 0, "{runtime}: {answer}");
    }
}

#[test]
fn what_is_dropped_and_added_is_what_root_has() {
    let engine = need_docker!();
    let chown = json!({"command": "touch /tmp/mine && chown 1000 /tmp/mine", "user": "root"});
    for (keys, expected) in [
        // NET_BIND_SERVICE and CHOWN, in either spelling.
        (
            &[
                "dropped_caps: [ALL]",
                "added_caps: [NET_BIND_SERVICE, cap_chown]",
            ][..],
            1 << 10 | 1,
        ),
        // What Docker gives, without one.
        (&["dropped_caps: [NET_RAW]"], 0xa804_25fb & !(1 << 13)),
    ] {
        let server = engine.server(keys);
        let id = server.spawn(json!({}));
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            let found = capabilities(&server, &id, Some("root"), set);
            assert_eq!(found, expected, "{keys:?}: {set} is {found:x}");
        }
        assert_eq!(capabilities(&server, &id, None, "CapEff"), 0, "{keys:?}");
        assert_eq!(capabilities(&server, &id, None, "CapPrm"), 0, "{keys:?}");
        let answer = server.exec_with(&id, chown.clone()).expect(200);
        assert_eq!(answer["exit_code"], 0, "{keys:?}: {answer}");
    }
}

#[test]
fn a_capability_that_is_none_stops_the_start() {
    let engine = need_docker!();
    let said = Server::refused(engine.options(&["added_caps: [SUPERPOWER]"]));
    for word in ["providers.docker.added_caps", "SUPERPOWER"] {
        assert!(said.contains(word), "{word} is not in {said}");
    }
}

#[test]
fn a_setuid_program_gains_nothing() {
    let engine = need_docker!();
    for runtime in engine.runtimes() {
        let server = engine.server(&[
            &format!("runtime: {runtime}"),
            // Only so that the program can be made.
            "dropped_caps: []",
        ]);
        let id = server.spawn(json!({"image": engine.image()}));
        let make = "cp /usr/bin/python3 /usr/local/bin/raised && chmod 4755 /usr/local/bin/raised \
                    && stat -c %A:%u /usr/local/bin/raised";
        let made = server.exec_with(&id, json!({"command": make, "user": "root"}));
        let made = made.expect(200);
        // coreutils' stat asks gVisor for what it does not have.
        if runtime == "runc" {
            assert_eq!(made["stdout"], "-rwsr-xr-x:0\n", "{made}");
        }
        let answer = server.exec(
            &id,
            "/usr/local/bin/raised -c 'import os; print(os.geteuid())'",
        );
        assert_eq!(answer["stdout"], "1000\n", "{runtime}: {answer}");
        if runtime == "runc" {
            assert_eq!(status(&server, &id, None, "NoNewPrivs"), "1");
            assert_eq!(status(&server, &id, Some("root"), "NoNewPrivs"), "1");
        }
    }
}

#[test]
fn the_filter_of_system_calls_is_the_one_that_was_chosen() {
    let engine = need_docker!();
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("no-links.json");
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {"names": ["symlink", "symlinkat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95},
        ],
    });
    fs::write(&file, profile.to_string()).unwrap();
    let in_a_file = format!("seccomp_profile: {}", file.display());
    for (key, mode, makes_links) in [
        ("seccomp_profile: default", "2", true),
        ("seccomp_profile: unconfined", "0", true),
        (&in_a_file, "2", false),
    ] {
        let server = engine.server(&[key]);
        let id = server.spawn(json!({}));
        assert_eq!(status(&server, &id, None, "Seccomp"), mode, "{key}");
        assert_eq!(status(&server, &id, Some("root"), "Seccomp"), mode, "{key}");
        let answer = server.exec(&id, "ln -s somewhere /tmp/new");
        if makes_links {
            assert_eq!(answer["exit_code"], 0, "{key}: {answer}");
        } else {
            let said = answer["stderr"].as_str().unwrap();
            assert!(said.contains("not supported"), "{key}: {answer}");
        }
    }
    let engine_default = engine.server(&[]);
    let id = engine_default.spawn(json!({}));
    assert_eq!(status(&engine_default, &id, None, "Seccomp"), "2");
}

#[test]
fn a_broken_filter_stops_the_start() {
    let engine = need_docker!();
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("broken.json");
    for content in [None, Some("{")] {
        if let Some(content) = content {
            fs::write(&file, content).unwrap();
        }
        let said =
            Server::refused(engine.options(&[&format!("seccomp_profile: {}", file.display())]));
        for word in ["providers.docker.seccomp_profile", "broken.json"] {
            assert!(said.contains(word), "{word} is not in {said}");
        }
    }
}
