//! Names in sandboxes with a network, and sandboxes that reach outside only by name, before and
//! after the server or the program that resolves names was killed.

use std::collections::BTreeMap;
use std::fs;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::events::Watching;
use crate::harness::world::{PORT, World};
use crate::harness::{Options, SOON, Server, eventually};

fn server() -> Server {
    Server::with(Options {
        // A private one: sandboxes themselves do not reach it.
        native: &["network: bridge", "name_servers: [192.168.77.1]"],
        ..Options::default()
    })
}

/// Does each of these, a line each, and says what came of it: `name NAME`, `page HOST ADDRESS`,
/// `tcp HOST PORT`, `udp HOST PORT`.
const TRY: &str = r#"
import concurrent.futures, http.client, socket, sys
def addresses(name):
    try: return sorted({found[4][0] for found in socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)})
    except socket.gaierror: return []
def work(line):
    kind, *words = line.split()
    try:
        if kind == 'name': return ' '.join(addresses(words[0])) or 'unknown'
        if kind == 'page':
            c = http.client.HTTPConnection(words[1], 80, timeout=5)
            c.putrequest('GET', '/', skip_host=True); c.putheader('Host', words[0]); c.endheaders()
            answer = c.getresponse()
            return str(answer.status) + ' ' + (answer.read().decode() if answer.status == 200 else '')
        if kind == 'tcp':
            s = socket.create_connection((words[0], int(words[1])), 5); s.settimeout(5)
            s.sendall(b'\0\1\2')
        else:
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(3)
            s.connect((words[0], int(words[1]))); s.send(b'x')
        return s.recv(100).decode() or 'closed'
    except Exception as error: return 'refused'
with concurrent.futures.ThreadPoolExecutor(16) as pool:
    for line, outcome in zip(sys.argv[1].splitlines(), pool.map(work, sys.argv[1].splitlines())):
        print(line, '=', outcome.strip())
"#;

#[track_caller]
fn attempt(server: &Server, id: &str, lines: &[&str]) -> BTreeMap<String, String> {
    let request =
        json!({"mode": "argv", "command": "python3", "args": ["-c", TRY, lines.join("\n")]});
    let answer = server.exec_with(id, request).expect(200);
    assert_eq!(answer["exit_code"], 0, "{answer}");
    let text = answer["stdout"].as_str().unwrap();
    text.lines()
        .filter_map(|line| line.split_once(" = "))
        .map(|(line, outcome)| (line.to_owned(), outcome.to_owned()))
        .collect()
}

#[track_caller]
fn check(server: &Server, id: &str, when: &str, expected: &[(String, &str)]) {
    let lines: Vec<_> = expected.iter().map(|(line, _)| line.as_str()).collect();
    let found = attempt(server, id, &lines);
    for (line, outcome) in expected {
        assert_eq!(found[line], *outcome, "{when}: {line}");
    }
}

fn open() -> Vec<(String, &'static str)> {
    [
        ("name outside.example", "11.22.33.1 2600:1234::1"),
        ("name other.test", "11.22.33.1"),
        ("name nowhere.example", "unknown"),
        // They lead inside.
        ("name inside.example", "unknown"),
        ("name metadata.example", "unknown"),
        ("page outside.example 11.22.33.1", "200 hello"),
        // Asking the host's name server directly is asking a private network.
        ("udp 192.168.77.1 53", "refused"),
    ]
    .map(|(line, outcome)| (line.to_owned(), outcome))
    .to_vec()
}

fn restricted() -> Vec<(String, &'static str)> {
    [
        ("name outside.example".to_owned(), "11.22.33.1 2600:1234::1"),
        ("name other.test".to_owned(), "unknown"),
        ("page outside.example 11.22.33.1".to_owned(), "200 hello"),
        ("page OUTSIDE.example. 11.22.33.1".to_owned(), "200 hello"),
        // The name decides, not the address: where the client wanted to go leads nowhere.
        ("page outside.example 11.99.99.99".to_owned(), "200 hello"),
        ("page other.test 11.22.33.1".to_owned(), "403"),
        (
            "page outside.example.evil.test 11.22.33.1".to_owned(),
            "403",
        ),
        ("page 11.22.33.1 11.22.33.1".to_owned(), "403"),
        // It is on the list, and leads inside.
        ("page inside.example 11.22.33.1".to_owned(), "502"),
        (format!("udp 11.22.33.1 {PORT}"), "refused"),
        (format!("udp 192.168.77.1 {PORT}"), "refused"),
    ]
    .to_vec()
}

/// Connections that name no host are taken and then closed, or reset.
#[track_caller]
fn check_nameless(server: &Server, id: &str) {
    for target in [
        format!("tcp 11.22.33.1 {PORT}"),
        format!("tcp 2600:1234::1 {PORT}"),
        format!("tcp 192.168.77.1 {PORT}"),
        format!("tcp 11.22.33.2 {PORT}"),
    ] {
        let outcome = &attempt(server, id, &[&target])[&target];
        assert!(
            matches!(&**outcome, "refused" | "closed"),
            "{target}: {outcome}"
        );
    }
}

/// The process that resolves names for this server: a child of it.
fn egress_process(server: &Server) -> Option<Pid> {
    let own = server.pid().as_raw_nonzero().get().to_string();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let stat = read("stat");
        let parent = stat
            .rsplit(')')
            .next()
            .and_then(|rest| rest.split_whitespace().nth(1));
        if parent == Some(&own) && read("cmdline").contains("egress") {
            return Pid::from_raw(entry.file_name().to_str()?.parse().ok()?);
        }
    }
    None
}

#[test]
fn names_are_resolved_and_lead_outside_alone() {
    let Some(_world) = World::enter() else {
        return;
    };
    let mut server = server();
    let id = server.spawn(json!({}));
    check(&server, &id, "at first", &open());

    let before = egress_process(&server).expect("a process resolves names");
    kill_process(before, Signal::KILL).unwrap();
    eventually("another process resolves names", SOON, || {
        let now = egress_process(&server);
        now.is_some_and(|now| now != before)
            && attempt(&server, &id, &["name other.test"])["name other.test"] == "11.22.33.1"
    });
    check(&server, &id, "after its death", &open());
    server.kill();
    server.resume();
    check(&server, &id, "after the server's death", &open());
}

#[test]
fn a_list_of_names_is_all_that_is_reached() {
    let Some(_world) = World::enter() else {
        return;
    };
    let mut server = server();
    let list = json!({"network": {"allow_domains": ["outside.example", "inside.example"]}});
    let id = server.spawn(list);
    let free = server.spawn(json!({}));
    check(&server, &id, "at first", &restricted());
    check_nameless(&server, &id);
    // The other sandbox's list is none.
    check(&server, &free, "beside it", &open());

    let watching = ["events", "--replay", "--output", "json", "--sandbox", &id];
    let watching = Watching::start(server.command(&watching));
    let told = watching.until(&["network.refused", "other.test", "not_allowed"]);
    assert!(told.contains(&id), "{told}");
    drop(watching);
    server.stop();
    server.resume();
    check(&server, &id, "after a stop", &restricted());
    server.kill();
    server.resume();
    check(&server, &id, "after a kill", &restricted());
    check_nameless(&server, &id);

    // With the program gone and nothing to take its place, what is restricted reaches nothing.
    let closed = server.spawn(json!({"network": {"allow_domains": []}}));
    let lines = ["page outside.example 11.22.33.1", "name outside.example"];
    let found = attempt(&server, &closed, &lines);
    assert_eq!(found[lines[0]], "403");
    assert_eq!(found[lines[1]], "unknown");
}
