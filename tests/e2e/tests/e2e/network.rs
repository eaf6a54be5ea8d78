//! What sandboxes with a network reach and what not, before and after the server was stopped or
//! killed, and what is left of networks on the host. Everything happens in namespaces of the
//! test's own (see `harness::world`).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::harness::world::{ASK, PORT, World};
use crate::harness::{Options, SOON, Server, eventually, host};

/// Networks wait ready in this number.
const READY: usize = 8;

fn server(native: &'static [&'static str]) -> Server {
    Server::with(Options {
        native,
        ..Options::default()
    })
}

/// What became of each target, asked from inside a sandbox.
#[track_caller]
fn ask(server: &Server, id: &str, targets: &str) -> BTreeMap<String, String> {
    let request = json!({"mode": "argv", "command": "python3", "args": ["-c", ASK, targets]});
    let answer = server.exec_with(id, request).expect(200);
    assert_eq!(answer["exit_code"], 0, "{answer}");
    outcomes(answer["stdout"].as_str().unwrap())
}

fn outcomes(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.split_once(" = "))
        .map(|(target, outcome)| (target.to_owned(), outcome.to_owned()))
        .collect()
}

/// A sandbox that listens like the others do, and its addresses.
fn listening(server: &Server) -> (String, [String; 2]) {
    let id = server.spawn(json!({}));
    let program = format!(
        "import socket, threading\ndef serve(f):\n  s = socket.socket(f); s.setsockopt(41, 26, 1) if f == socket.AF_INET6 else None; s.bind(('', {PORT})); s.listen()\n  while True:\n    c, a = s.accept(); c.sendall(b'hello'); c.close()\nthreading.Thread(target=serve, args=(socket.AF_INET,)).start(); serve(socket.AF_INET6)"
    );
    server
        .exec_with(
            &id,
            json!({"mode": "argv", "command": "python3", "args": ["-c", program], "detach": true}),
        )
        .expect(201);
    let addresses = addresses(server, &id);
    eventually("the neighbour listens", SOON, || {
        let own = ["127.0.0.1", "::1", &addresses[0], &addresses[1]];
        let targets: String = own
            .iter()
            .map(|address| format!("tcp {address} {PORT}\n"))
            .collect();
        ask(server, &id, &targets)
            .values()
            .all(|outcome| outcome.starts_with("hello"))
    });
    (id, addresses)
}

/// A sandbox's IPv4 and IPv6 address.
fn addresses(server: &Server, id: &str) -> [String; 2] {
    let answer = server.exec(id, "grep -w \"$(hostname)\" /etc/hosts | cut -d' ' -f1");
    let mut lines = answer["stdout"]
        .as_str()
        .unwrap()
        .lines()
        .map(str::to_owned);
    let both = [lines.next(), lines.next()];
    both.map(|address| address.unwrap_or_else(|| panic!("{answer}")))
}

/// What must be refused to every sandbox.
fn forbidden(server: &Server, neighbour: &[String; 2], gateway: &str) -> String {
    let api = server.address().port();
    let mut targets = String::new();
    for address in [
        // The host.
        "11.22.33.2",
        "192.168.77.2",
        "192.168.88.2",
        "2600:1234::2",
        "fd00:77::2",
        gateway,
        // Metadata.
        "169.254.169.254",
        "fd00:ec2::254",
        // Private networks, beside and behind the host.
        "192.168.77.1",
        "fd00:77::1",
        "192.168.88.1",
        // Another sandbox.
        &neighbour[0],
        &neighbour[1],
        // An address that was once IPv4, in a form that must not lead around the rules.
        "::ffff:192.168.77.1",
    ] {
        targets += &format!("tcp {address} {PORT}\n");
        if !address.starts_with("::ffff") {
            targets += &format!("udp {address} {PORT}\n");
        }
    }
    for address in [
        "127.0.0.1",
        "11.22.33.2",
        "192.168.77.2",
        "2600:1234::2",
        gateway,
    ] {
        targets += &format!("tcp {address} {api}\n");
    }
    targets
}

#[track_caller]
fn gateway(server: &Server, id: &str) -> String {
    let answer = server.exec(id, "cut -d' ' -f2 /etc/resolv.conf | head -1");
    answer["stdout"].as_str().unwrap().trim().to_owned()
}

/// No target was reached, and each TCP connection was refused at once. Refusals of UDP are messages of
/// their own, of which the kernel sends only so many a second.
#[track_caller]
fn assert_refused(asked: &BTreeMap<String, String>, when: &str) {
    for (target, outcome) in asked {
        let silence = target.starts_with("udp") && outcome == "silence";
        assert!(
            silence || outcome == "refused",
            "{when}: {target}: {outcome}"
        );
    }
}

/// Outside is reached, everything else is not.
#[track_caller]
fn check_walls(world: &World, server: &Server, id: &str, neighbour: &[String; 2], when: &str) {
    let outside = format!(
        "tcp 11.22.33.1 {PORT}\nudp 11.22.33.1 {PORT}\ntcp 2600:1234::1 {PORT}\nudp 2600:1234::1 {PORT}"
    );
    for (target, outcome) in ask(server, id, &outside) {
        let seen = if target.contains(':') {
            "hello 2600:1234::2"
        } else {
            "hello 11.22.33.2"
        };
        assert_eq!(outcome, seen, "{when}: {target}");
    }
    let forbidden = forbidden(server, neighbour, &gateway(server, id));
    assert_refused(&ask(server, id, &forbidden), when);
    // From the host itself all of them answer, but for those that are another machine's to refuse.
    let reached = world.host.ask(
        &forbidden
            .lines()
            .filter(|line| {
                !neighbour
                    .iter()
                    .any(|address| line.contains(&format!(" {address} ")))
            })
            .map(|line| format!("{line}\n"))
            .collect::<String>(),
    );
    for (target, outcome) in outcomes(&reached) {
        let api = target.ends_with(&server.address().port().to_string());
        // The server of a test listens on the loopback alone.
        if !api || target.contains("127.0.0.1") {
            assert_ne!(outcome, "refused", "{when}: nothing listens at {target}");
        }
    }
}

#[test]
fn outside_is_reached_and_nothing_else() {
    let Some(world) = World::enter() else {
        return;
    };
    let mut server = server(&["network: auto"]);
    let (neighbour, addresses) = listening(&server);
    let id = server.spawn(json!({}));
    check_walls(&world, &server, &id, &addresses, "at first");

    server.stop();
    server.resume();
    check_walls(&world, &server, &id, &addresses, "after a stop");
    server.kill();
    server.resume();
    check_walls(&world, &server, &id, &addresses, "after a kill");
    let late = server.spawn(json!({}));
    check_walls(&world, &server, &late, &addresses, "made after a kill");

    // Without a network there is none.
    let closed = server.spawn(json!({"network": "none"}));
    let targets = format!("tcp 11.22.33.1 {PORT}\ntcp 192.168.77.1 {PORT}");
    assert_refused(&ask(&server, &closed, &targets), "without a network");
    for id in [neighbour, id, late, closed] {
        server.request("DELETE", &format!("/sandboxes/{id}"), None);
    }
}

#[test]
fn nobody_outside_reaches_in_or_through() {
    let Some(world) = World::enter() else {
        return;
    };
    let server = server(&["network: auto"]);
    let (id, [four, six]) = listening(&server);
    let gateway = gateway(&server, &id);
    // The world outside believes that sandboxes are to be found at the host.
    for address in [&four, &gateway] {
        world
            .internet
            .ip(&format!("route add {address} via 11.22.33.2"));
    }
    world
        .internet
        .ip(&format!("-6 route add {six} via 2600:1234::2"));
    let targets = format!(
        "tcp {four} {PORT}\ntcp {six} {PORT}\nudp {gateway} {PORT}\ntcp {gateway} {PORT}\ntcp 192.168.88.1 {PORT}\nudp 192.168.88.1 {PORT}"
    );
    let heard_behind = || World::heard(&world.behind).matches("ask").count();
    let before = heard_behind();
    for (target, outcome) in outcomes(&world.internet.ask(&targets)) {
        assert!(
            matches!(&*outcome, "refused" | "silence"),
            "{target}: {outcome}"
        );
    }
    // Not even a word without an answer.
    assert_eq!(heard_behind(), before);
    // Neither does a process on the host.
    for (target, outcome) in outcomes(
        &world
            .host
            .ask(&format!("tcp {four} {PORT}\ntcp {six} {PORT}")),
    ) {
        assert_eq!(outcome, "refused", "{target}");
    }
    // The way through the host would be there: its own rules stand in it, and no route is missing.
    assert_eq!(world.setting("ipv4/conf/up0/forwarding"), "1");
    world.internet.ip("route del 192.168.88.0/24");
}

#[test]
fn a_sandbox_cannot_speak_under_another_address() {
    let Some(world) = World::enter() else {
        return;
    };
    let server = server(&["network: auto"]);
    let id = server.spawn(json!({}));
    let other = server.spawn(json!({}));
    let ([four, six], [other_four, other_six]) =
        (addresses(&server, &id), addresses(&server, &other));
    let pid = first_process(&server, &id);
    // With rights that nothing in a sandbox has: the walls must hold without its consent.
    let send = "import socket, sys
source, target, text = sys.argv[1:]
s = socket.socket(socket.AF_INET6 if ':' in source else socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_IP, 19, 1) if ':' not in source else s.setsockopt(41, 75, 1)
s.bind((source, 0)); s.sendto(text.encode(), (target, 7000))";
    let say = |source: &str, text: &str| {
        let target = if source.contains(':') {
            "2600:1234::1"
        } else {
            "11.22.33.1"
        };
        World::inside(pid, "python3", &["-c", send, source, target, text]).ok();
    };
    for source in [
        other_four.as_str(),
        "11.22.33.77",
        "192.168.77.9",
        "127.0.0.5",
    ] {
        // Some are not even let out by the kernel inside.
        let target = "11.22.33.1";
        World::inside(pid, "python3", &["-c", send, source, target, "false-four"]);
    }
    for source in [other_six.as_str(), "2600:1234::77", "fd00:77::9"] {
        World::inside(
            pid,
            "python3",
            &["-c", send, source, "2600:1234::1", "false-six"],
        );
    }
    eventually("what is said honestly arrives", SOON, || {
        say(&four, "honest-four");
        say(&six, "honest-six");
        let heard = World::heard(&world.internet);
        heard.contains("honest-four") && heard.contains("honest-six")
    });
    let heard = World::heard(&world.internet);
    assert!(!heard.contains("false"), "{heard}");
}

fn first_process(server: &Server, id: &str) -> i32 {
    let path = server
        .data_dir()
        .join("native/boxes")
        .join(id)
        .join("pid.json");
    let text = std::fs::read_to_string(path).unwrap();
    let record: Value = serde_json::from_str(&text).unwrap();
    i32::try_from(record["pid"].as_i64().unwrap()).unwrap()
}

#[test]
fn what_the_operator_opens_is_open_and_what_is_closed_is_closed() {
    let Some(_world) = World::enter() else {
        return;
    };
    let server = server(&[
        "network: bridge",
        "network_subnet: 10.77.0.0/20",
        "allow_host_ports: [7000]",
        // Sandboxes' own ranges among them.
        "allow_cidrs: [192.168.77.0/24, 169.254.0.0/16, 10.0.0.0/8, 'fd00::/8', 'fd00:ec2::254']",
        "deny_cidrs: [192.168.77.2, 11.22.33.0/30, 'fd00:77::5']",
    ]);
    let (_neighbour, [near_four, near_six]) = listening(&server);
    let id = server.spawn(json!({}));
    let [own, _] = addresses(&server, &id);
    assert!(own.starts_with("10.77."), "{own}");
    let gateway = gateway(&server, &id);
    let open = format!(
        "tcp 192.168.77.1 {PORT}\nudp 192.168.77.1 {PORT}\ntcp fd00:77::1 {PORT}\ntcp fd00:ec2::254 {PORT}\ntcp {gateway} {PORT}\nudp {gateway} {PORT}\ntcp 192.168.88.2 {PORT}\ntcp 2600:1234::2 {PORT}"
    );
    for (target, outcome) in ask(&server, &id, &open) {
        assert!(outcome.starts_with("hello"), "{target}: {outcome}");
    }
    let closed = format!(
        // Metadata inside an open range, another port of the host, a range that stayed closed, a
        // public address that was closed, sandboxes.
        "tcp 169.254.169.254 {PORT}\nudp 169.254.169.254 {PORT}\ntcp {gateway} {heard}\ntcp 192.168.88.1 {PORT}\ntcp 11.22.33.1 {PORT}\nudp 11.22.33.1 {PORT}\ntcp {near_four} {PORT}\ntcp {near_six} {PORT}",
        heard = PORT + 1,
    );
    assert_refused(&ask(&server, &id, &closed), "with openings");
}

/// Other people's rules and interfaces.
const FOREIGN: &str = "add table inet mine; add chain inet mine watch { type filter hook forward priority 5; policy accept; }; add rule inet mine watch ip saddr 1.2.3.4 counter drop";

#[test]
fn nothing_is_left_and_nothing_of_others_is_touched() {
    let Some(world) = World::enter() else {
        return;
    };
    world.host.nft(FOREIGN);
    world.host.ip("link add docker0 type bridge");
    world.host.ip("addr add 172.17.0.1/16 dev docker0");
    let state = || {
        (
            world.host.nft("list ruleset"),
            world.host.ip("-br addr"),
            world.host.ip("route"),
            world.host.ip("-6 route show default"),
            world.setting("ipv4/ip_forward"),
            world.setting("ipv4/conf/up0/forwarding"),
            world.setting("ipv6/conf/all/forwarding"),
        )
    };
    let before = state();
    let mut server = server(&["network: auto"]);
    let ids: Vec<_> = (0..3).map(|_| server.spawn(json!({}))).collect();
    assert!(
        world
            .host
            .nft("list ruleset")
            .contains("table inet stacyvm_")
    );
    assert_eq!(
        world.setting("ipv4/ip_forward"),
        "0",
        "the whole machine forwards"
    );
    for id in &ids[..2] {
        server.request("DELETE", &format!("/sandboxes/{id}"), None);
    }
    // One sandbox is left: its interface and the rules stay while no server runs.
    server.stop();
    eventually("ready networks go with their server", SOON, || {
        world.interfaces().len() == 2
    });
    assert!(
        world
            .host
            .nft("list ruleset")
            .contains("table inet stacyvm_")
    );
    server.resume();
    server.request("DELETE", &format!("/sandboxes/{}", ids[2]), None);
    server.stop();
    assert_eq!(world.interfaces(), Vec::<String>::new());
    assert_eq!(state(), before);

    // A server that was killed leaves rules, and the next start that wants no network removes them.
    server.resume();
    server.kill();
    server.resume();
    server.stop();
    eventually("nothing is left", SOON, || world.interfaces().is_empty());
    assert_eq!(state(), before);
}

#[test]
fn creates_cut_off_by_a_kill_leave_no_interface() {
    let Some(world) = World::enter() else {
        return;
    };
    let mut server = server(&["network: auto"]);
    for round in 0..4 {
        let address = server.address();
        let spawning: Vec<_> = (0..6)
            .map(|_| {
                // Their threads stand where this one stands.
                std::thread::spawn(move || {
                    let body = json!({}).to_string().into_bytes();
                    let headers = [("Content-Type", "application/json")];
                    let _ = crate::harness::http::request(
                        address,
                        "POST",
                        "/api/v1/sandboxes",
                        &headers,
                        &body,
                    );
                })
            })
            .collect();
        // Somewhere in the middle, a different one each time.
        let data = server.data_dir();
        eventually("some creations are under way", SOON, || {
            host::boxes(&data).len() > round
        });
        server.kill();
        for thread in spawning {
            thread.join().unwrap();
        }
        server.resume();
        eventually("every interface belongs to a sandbox", SOON, || {
            world.interfaces().len() == server.list().len() + READY + 1
        });
        for id in server.list() {
            let target = format!("tcp 11.22.33.1 {PORT}");
            let outcome = ask(&server, &id, &target);
            assert_eq!(outcome[&target], "hello 11.22.33.2");
            server.request("DELETE", &format!("/sandboxes/{id}"), None);
        }
    }
    server.stop();
    eventually("nothing is left", SOON, || world.interfaces().is_empty());
}

#[test]
fn two_servers_and_a_run_stay_out_of_each_others_way() {
    let Some(world) = World::enter() else {
        return;
    };
    let mut first = server(&["network: auto"]);
    let second = server(&["network: auto"]);
    let (one, _) = listening(&first);
    let (two, [four, six]) = listening(&second);
    let outside = format!("tcp 11.22.33.1 {PORT}");
    let across = format!("tcp {four} {PORT}\ntcp {six} {PORT}\nudp {four} {PORT}");
    assert_refused(&ask(&first, &one, &across), "across servers");
    let program = ["-c", ASK, outside.as_str()];
    let mut run = first.command(&["run", "--", "python3"]);
    let said = crate::harness::server::finish(
        run.args(program)
            .env("STACYVM_SERVER_DATA_DIR", first.scratch("run"))
            .env_remove("STACYVM_CONFIG"),
    )
    .ok();
    assert_eq!(outcomes(&said)[&outside], "hello 11.22.33.2");
    first.request("DELETE", &format!("/sandboxes/{one}"), None);
    first.stop();
    assert_eq!(ask(&second, &two, &outside)[&outside], "hello 11.22.33.2");
    let tables = world.host.nft("list tables");
    assert_eq!(tables.matches("stacyvm_").count(), 1, "{tables}");
    assert_eq!(world.setting("ipv4/conf/up0/forwarding"), "1");
    drop(second);
    assert_eq!(world.setting("ipv4/conf/up0/forwarding"), "0");
}

#[test]
fn a_firewall_in_the_way_is_named_with_what_opens_it() {
    let Some(world) = World::enter() else {
        return;
    };
    world.host.nft("add table inet wall; add chain inet wall pass { type filter hook forward priority 0; policy drop; }");
    let mut server = server(&["network: auto"]);
    let log = server.log();
    let command = "nft insert rule inet wall pass iifname";
    assert!(
        log.contains("the firewall chain inet wall pass drops"),
        "{log}"
    );
    assert!(log.contains(command), "{log}");
    let id = server.spawn(json!({}));
    let target = format!("tcp 11.22.33.1 {PORT}");
    assert_eq!(ask(&server, &id, &target)[&target], "silence");
    // What it says is what opens it.
    let start = log.find("nft insert rule").unwrap();
    let mending = log[start..]
        .split("\",\"")
        .next()
        .unwrap()
        .replace("\\\"", "\"");
    crate::harness::server::finish(world.host.command("sh").args(["-c", &mending])).ok();
    assert_eq!(ask(&server, &id, &target)[&target], "hello 11.22.33.2");
    server.stop();
    let before = server.log().len();
    server.resume();
    let log = server.log();
    assert!(
        !log[before..].contains("inet wall pass"),
        "{}",
        &log[before..]
    );
}
