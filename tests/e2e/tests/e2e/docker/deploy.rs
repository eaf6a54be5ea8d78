//! The Dockerfile and the compose files: built, run and used as they are, and Traefik's labels as the
//! engine has them.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::docker::{Engine, need_docker};
use crate::harness::registry::on_the_path;
use crate::harness::server::{binary, finish};
use crate::harness::{SOON, eventually, http, skip};

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap().to_owned()
}

#[test]
fn the_compose_files_are_valid() {
    if !on_the_path("docker-compose") {
        skip("needs the package docker-compose");
        return;
    }
    for file in ["docker-compose.yml", "deploy/docker-compose.direct.yml"] {
        let mut command = std::process::Command::new("docker-compose");
        command.arg("--file").arg(root().join(file));
        command.arg("config").env("DOCKER_GID", "4242");
        let said = finish(&mut command).ok();
        for word in ["traefik", "/var/run/docker.sock", "stacyvm-previews"] {
            assert!(said.contains(word), "{file}: {said}");
        }
    }
}

/// A container that goes with this.
struct Running<'a>(&'a Engine, String);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = self.0.docker(&["logs", &self.1]);
            eprintln!("{}{}", logs.stdout, logs.stderr);
        }
        self.0.docker(&["rm", "--force", "--volumes", &self.1]);
    }
}

#[test]
fn the_image_makes_sandboxes_with_the_engine_it_is_given() {
    let engine = need_docker!();
    // The context of the build: what .dockerignore leaves of the sources, and the program.
    let context = tempfile::tempdir().unwrap();
    std::fs::create_dir(context.path().join("target")).unwrap();
    std::fs::copy(root().join("Dockerfile"), context.path().join("Dockerfile")).unwrap();
    std::fs::copy(binary(), context.path().join("target/stacyvm")).unwrap();
    let image = format!("e2e/stacyvm-{}:1", std::process::id());
    let base = engine.image();
    engine
        .docker(&[
            "build",
            "--quiet",
            "--tag",
            &image,
            "--build-arg",
            &format!("BUILDER={base}"),
            "--build-arg",
            &format!("BASE={base}"),
            "--build-arg",
            "PROGRAM=target/stacyvm",
            "--build-arg",
            "PACKAGES=",
            context.path().to_str().unwrap(),
        ])
        .ok();
    let _inside = engine.enter();
    let socket = engine.address().strip_prefix("unix://").unwrap();
    let name = format!("e2e-stacyvm-{}", std::process::id());
    let _running = Running(&engine, name.clone());
    // As docker-compose.yml runs it.
    let group = std::fs::metadata(socket).unwrap().gid().to_string();
    engine
        .docker(&[
            "run",
            "--detach",
            "--name",
            &name,
            "--group-add",
            &group,
            "--cap-drop",
            "ALL",
            "--security-opt",
            "no-new-privileges:true",
            "--read-only",
            "--tmpfs",
            "/tmp",
            "--volume",
            &format!("{socket}:/var/run/docker.sock"),
            &image,
        ])
        .ok();
    let address = engine
        .docker(&[
            "inspect",
            "--format",
            "{{.NetworkSettings.IPAddress}}",
            &name,
        ])
        .ok();
    let address: SocketAddr = format!("{}:7423", address.trim()).parse().unwrap();
    let ask = |method: &str, path: &str, body: Value| {
        let headers = [("Content-Type", "application/json")];
        let path = format!("/api/v1{path}");
        http::request(
            address,
            method,
            &path,
            &headers,
            body.to_string().as_bytes(),
        )
    };
    eventually("the server in the container is ready", SOON, || {
        ask("GET", "/ready", json!({})).is_ok_and(|answer| answer.status == 200)
    });
    let who = engine.docker(&["exec", &name, "id", "-u"]).ok();
    assert_eq!(who, "10001\n");
    let made = ask("POST", "/sandboxes", json!({"image": engine.small_image()}));
    let made = made.unwrap().expect(201);
    let id = made["id"].as_str().unwrap();
    let path = format!("/sandboxes/{id}");
    let command = json!({"command": "id -u; cat /proc/1/comm"});
    let answer = ask("POST", &format!("{path}/exec"), command).unwrap();
    let answer = answer.expect(200);
    assert!(
        answer["stdout"].as_str().unwrap().starts_with("1000\n"),
        "{answer}"
    );
    ask("DELETE", &path, json!({})).unwrap().expect(200);
    assert!(engine.things(id).is_empty(), "{:?}", engine.things(id));
    drop(_running);
    engine.docker(&["rmi", "--force", &image]);
    for volume in engine.things("volume stacyvm-agent-") {
        engine.docker(&["volume", "rm", volume.trim_start_matches("volume ")]);
    }
}

#[test]
fn traefik_finds_the_ports_of_a_sandbox() {
    let engine = need_docker!();
    let _inside = engine.enter();
    let server = engine.server(&[
        "network_mode: bridge",
        "traefik: {enabled: true, ports: [3000, 8080], entrypoints: [web], cert_resolver: own}",
    ]);
    let id = server.spawn(json!({}));
    let labels = engine.inspect(&id, "{{json .Config.Labels}}");
    let labels: Value = serde_json::from_str(&labels).unwrap();
    assert_eq!(labels["traefik.enable"], "true");
    let network = engine.inspect(&id, "{{.HostConfig.NetworkMode}}");
    assert_eq!(labels["traefik.docker.network"], network.as_str());
    for port in [3000, 8080] {
        let router = format!("traefik.http.routers.{id}-{port}");
        let rule = format!("Host(`{port}-{id}.localhost`)");
        assert_eq!(labels[format!("{router}.rule")], rule.as_str(), "{labels}");
        assert_eq!(labels[format!("{router}.entrypoints")], "web", "{labels}");
        assert_eq!(labels[format!("{router}.tls.certresolver")], "own");
        let service = labels[format!("{router}.service")].as_str().unwrap();
        let server = format!("traefik.http.services.{service}.loadbalancer.server.port");
        assert_eq!(labels[server], port.to_string(), "{labels}");
    }
    // Where the host, and so a Traefik on it, reaches the container.
    let address = engine.inspect(
        &id,
        "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
    );
    let serve = "mkdir -p /tmp/www && echo previewed > /tmp/www/index.html && \
                 httpd -p 3000 -h /tmp/www";
    assert_eq!(server.exec(&id, serve)["exit_code"], 0);
    let address: SocketAddr = format!("{address}:3000").parse().unwrap();
    eventually("the host reaches the port", SOON, || {
        http::request(address, "GET", "/index.html", &[], &[])
            .is_ok_and(|answer| answer.text() == "previewed\n")
    });
    // Without a network there is nothing to be found.
    let none = server.spawn(json!({"network": "none"}));
    let labels = engine.inspect(&none, "{{json .Config.Labels}}");
    assert!(!labels.contains("traefik"), "{labels}");
}
