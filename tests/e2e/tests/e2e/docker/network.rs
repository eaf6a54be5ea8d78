//! Whether a container has a network. What it reaches there is looked at with the rules of the network.

use serde_json::json;

use crate::harness::Server;
use crate::harness::docker::need_docker;

/// Names of the interfaces inside.
#[track_caller]
fn interfaces(server: &Server, id: &str) -> Vec<String> {
    let answer = server.exec(id, "cat /proc/net/dev");
    let text = answer["stdout"].as_str().unwrap();
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    // Tunnels that a kernel puts into every namespace are down and lead nowhere.
    lines
        .map(|(name, _)| name.trim().to_owned())
        .filter(|name| name == "lo" || name.starts_with("eth"))
        .collect()
}

#[test]
fn without_a_network_there_is_only_the_loopback() {
    let engine = need_docker!();
    for runtime in engine.runtimes() {
        let server = engine.server(&[&format!("runtime: {runtime}"), "network_mode: none"]);
        let id = server.spawn(json!({}));
        assert_eq!(interfaces(&server, &id), ["lo"], "{runtime}");
        assert_eq!(engine.inspect(&id, "{{.HostConfig.NetworkMode}}"), "none");
        let answer = server.exec(&id, "nc -w 2 192.0.2.1 80 </dev/null");
        assert_ne!(answer["exit_code"], 0, "{runtime}: {answer}");
        // Its own loopback is there.
        let talk = "(nc -l -p 5000 -e echo heard &) ; \
                    until nc -w 2 127.0.0.1 5000 </dev/null; do sleep 0.1; done";
        let answer = server.exec(&id, talk);
        assert_eq!(answer["stdout"], "heard\n", "{runtime}: {answer}");
    }
}

#[test]
fn with_a_network_there_is_one_of_our_own() {
    let engine = need_docker!();
    let _inside = engine.enter();
    let server = engine.server(&["network_mode: bridge"]);
    let id = server.spawn(json!({}));
    assert_eq!(interfaces(&server, &id), ["lo", "eth0"]);
    let network = engine.inspect(&id, "{{.HostConfig.NetworkMode}}");
    assert!(network.starts_with("stacyvm-"), "{network}");
    let none = server.spawn(json!({"network": "none"}));
    assert_eq!(interfaces(&server, &none), ["lo"]);
}
