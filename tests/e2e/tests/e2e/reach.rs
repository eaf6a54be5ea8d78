//! What code inside a native sandbox must not reach of the server that runs it. Isolation itself
//! is tested in the provider's crate; here stands what only a whole server has.

use std::fs;

use serde_json::json;

use crate::harness::{Options, Server, need_root};

#[test]
fn the_api_port_is_out_of_reach() {
    need_root!();
    let server = Server::start();
    let id = server.spawn(json!({}));
    let port = server.address().port();
    let program = format!(
        "import socket
for address in ('127.0.0.1', '0.0.0.0', '10.0.0.1', '169.254.169.254'):
    try:
        socket.create_connection((address, {port}), 1)
        print('reached', address)
    except OSError:
        pass
print(sorted(name for _, name in socket.if_nameindex()))"
    );
    let answer = server
        .exec_with(
            &id,
            json!({"mode": "argv", "command": "python3", "args": ["-c", program]}),
        )
        .expect(200);
    assert_eq!(answer["stdout"], "['lo']\n", "{answer}");
}

#[test]
fn the_servers_files_are_out_of_reach() {
    need_root!();
    let server = Server::with(Options {
        api_key: Some("k-out-of-reach"),
        ..Options::default()
    });
    let id = server.spawn(json!({}));
    let data = server.data_dir();
    assert!(fs::read_dir(&data).unwrap().count() > 0);
    for path in [
        &data,
        &server.config_path(),
        &"/etc/shadow".into(),
        &"/root/.ssh".into(),
    ] {
        let answer = server.exec(&id, &format!("ls -ld {}", path.display()));
        assert_ne!(answer["exit_code"], 0, "{answer}");
        let response = server.request(
            "GET",
            &format!("/sandboxes/{id}/files/stat?path={}", path.display()),
            None,
        );
        // 400 where a directory of the sandbox's own root user is closed to its user.
        assert!(matches!(response.status, 400 | 404), "{}", response.text());
    }
    // Not by another name either: not in a process's environment, arguments or open files.
    let answer = server.exec(
        &id,
        "cat /proc/*/environ /proc/*/cmdline 2>/dev/null; ls -l /proc/*/fd /proc/*/cwd /proc/*/root 2>/dev/null; cat /proc/self/mountinfo",
    );
    let text = answer["stdout"].as_str().unwrap();
    assert!(!text.contains("k-out-of-reach"), "the key shows");
    let program = std::env::var("STACYVM_BIN").unwrap_or_default();
    assert!(
        program.is_empty() || !text.contains(&program),
        "the server's process shows"
    );
}

#[test]
fn the_database_and_the_key_are_closed_to_other_users_of_the_host() {
    use std::os::unix::fs::PermissionsExt;
    let server = Server::start();
    server.spawn(json!({}));
    let database = server.data_dir().join("stacyvm.db");
    for path in [server.data_dir(), database] {
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        let parent = fs::metadata(server.data_dir())
            .unwrap()
            .permissions()
            .mode();
        assert!(
            mode & 0o077 == 0 || parent & 0o077 == 0,
            "{} has mode {mode:o}",
            path.display()
        );
    }
}
