//! Labels by which a Traefik proxy that watches the same engine finds the ports of a sandbox.
//!
//! This module only writes labels; it makes no network and contacts no Traefik. The one rule: labels
//! are fixed when a container is created, so only the configured ports are routed this way, and a
//! warm container has no such labels.

use std::collections::HashMap;

use stacyvm_types::SandboxId;

/// The settings of the labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traefik {
    /// The ports that get a host name.
    pub ports: Vec<u16>,
    /// The domain of the host names, which are `{port}-{id}.{domain}`. A port behind it, as in
    /// `localhost:7423`, is ignored.
    pub domain: String,
    /// Traefik's entry points; empty means Traefik's own default.
    pub entry_points: Vec<String>,
    /// Traefik's certificate resolver for the names; none means plain HTTP.
    pub cert_resolver: Option<String>,
    /// The network through which Traefik reaches the container; none means the container's own.
    pub network: Option<String>,
}

impl Traefik {
    /// The labels for the container of the sandbox `id`, which is in `network`.
    pub fn labels(&self, id: &SandboxId, network: &str) -> HashMap<String, String> {
        let domain = self.domain.split(':').next().unwrap_or_default();
        let network = self.network.as_deref().unwrap_or(network);
        let mut labels = HashMap::from([
            ("traefik.enable".to_owned(), "true".to_owned()),
            ("traefik.docker.network".to_owned(), network.to_owned()),
        ]);
        for port in &self.ports {
            let name = format!("{id}-{port}");
            let router = format!("traefik.http.routers.{name}");
            // Without it Traefik would pair every router with every service.
            labels.insert(format!("{router}.service"), name.clone());
            labels.insert(
                format!("{router}.rule"),
                format!("Host(`{port}-{id}.{domain}`)"),
            );
            if !self.entry_points.is_empty() {
                labels.insert(format!("{router}.entrypoints"), self.entry_points.join(","));
            }
            if let Some(resolver) = &self.cert_resolver {
                labels.insert(format!("{router}.tls"), "true".to_owned());
                labels.insert(format!("{router}.tls.certresolver"), resolver.clone());
            }
            labels.insert(
                format!("traefik.http.services.{name}.loadbalancer.server.port"),
                port.to_string(),
            );
        }
        labels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traefik() -> Traefik {
        Traefik {
            ports: vec![3000, 8080],
            domain: "example.org".to_owned(),
            entry_points: Vec::new(),
            cert_resolver: None,
            network: None,
        }
    }

    fn sorted(labels: HashMap<String, String>) -> Vec<String> {
        let mut lines: Vec<String> = labels
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        lines.sort_unstable();
        lines
    }

    #[test]
    fn each_port_has_a_router_and_its_own_service() {
        let id = SandboxId::from_u32(0xa1b2_c3d4);
        assert_eq!(
            sorted(traefik().labels(&id, "stacyvm-1")),
            [
                "traefik.docker.network=stacyvm-1",
                "traefik.enable=true",
                "traefik.http.routers.sb-a1b2c3d4-3000.rule=Host(`3000-sb-a1b2c3d4.example.org`)",
                "traefik.http.routers.sb-a1b2c3d4-3000.service=sb-a1b2c3d4-3000",
                "traefik.http.routers.sb-a1b2c3d4-8080.rule=Host(`8080-sb-a1b2c3d4.example.org`)",
                "traefik.http.routers.sb-a1b2c3d4-8080.service=sb-a1b2c3d4-8080",
                "traefik.http.services.sb-a1b2c3d4-3000.loadbalancer.server.port=3000",
                "traefik.http.services.sb-a1b2c3d4-8080.loadbalancer.server.port=8080",
            ]
        );
    }

    #[test]
    fn entry_points_certificates_and_another_network_are_named() {
        let traefik = Traefik {
            ports: vec![80],
            domain: "localhost:7423".to_owned(),
            entry_points: vec!["web".to_owned(), "secure".to_owned()],
            cert_resolver: Some("letsencrypt".to_owned()),
            network: Some("proxy".to_owned()),
        };
        let labels = traefik.labels(&SandboxId::from_u32(1), "stacyvm-1");
        let router = "traefik.http.routers.sb-00000001-80";
        for (name, value) in [
            ("traefik.docker.network".to_owned(), "proxy"),
            (format!("{router}.rule"), "Host(`80-sb-00000001.localhost`)"),
            (format!("{router}.entrypoints"), "web,secure"),
            (format!("{router}.tls"), "true"),
            (format!("{router}.tls.certresolver"), "letsencrypt"),
        ] {
            assert_eq!(labels.get(&name).map(String::as_str), Some(value), "{name}");
        }
    }
}
