//! The host names under which the server may be called while no key protects it.
//!
//! A page of a foreign site can point its own name at this machine (DNS rebinding) and then talk
//! to the server as its own origin. It cannot make the browser send another `Host`, so names that
//! are not configured are refused. Names of previews are refused too: the program that answers
//! there runs in a sandbox, and must not reach the API.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::Request;
use http::header::HOST;

use crate::error::Failure;

/// The names that are allowed beside `localhost` and addresses.
#[derive(Debug)]
pub(crate) struct HostRule {
    any: bool,
    names: Vec<String>,
    suffixes: Vec<String>,
}

impl HostRule {
    pub(crate) fn new(allowed: &[String], preview_domain: &str) -> Self {
        let mut rule = Self {
            any: false,
            names: Vec::new(),
            suffixes: Vec::new(),
        };
        let preview = Some(preview_domain.to_owned()).filter(|name| !name.is_empty());
        for name in allowed.iter().cloned().chain(preview) {
            let name = name.trim().to_ascii_lowercase();
            if name == "*" {
                rule.any = true;
            } else if let Some(suffix) = name.strip_prefix("*.") {
                rule.suffixes.push(format!(".{}", without_port(suffix)));
            } else {
                rule.names.push(without_port(&name).to_owned());
            }
        }
        rule
    }

    /// Refuses a request whose `Host` is none of ours.
    pub(crate) fn check<B>(&self, request: &Request<B>) -> Result<(), Failure> {
        if self.any {
            return Ok(());
        }
        let mut sent = request.headers().get_all(HOST).iter();
        let header = sent.next();
        if sent.next().is_some() {
            return Err(Failure::bad_request("there is more than one Host header"));
        }
        let header = header.map(|value| value.to_str().unwrap_or("?"));
        let authority = request.uri().authority().map(http::uri::Authority::as_str);
        let mut hosts = [header, authority].into_iter().flatten().peekable();
        if hosts.peek().is_none() {
            return Err(Failure::forbidden(
                "refused without a Host header, because authentication is off",
            ));
        }
        if hosts.all(|host| self.allows(host)) {
            Ok(())
        } else {
            Err(Failure::forbidden(
                "this host name is refused because authentication is off: call the server as \
                 localhost or by its address, add the name to server.allowed_hosts, or set \
                 auth.api_key",
            ))
        }
    }

    fn allows(&self, host: &str) -> bool {
        if let Some(rest) = host.strip_prefix('[') {
            let Some((address, port)) = rest.split_once(']') else {
                return false;
            };
            return address.parse::<Ipv6Addr>().is_ok()
                && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
        }
        let name = match host.split_once(':') {
            Some((name, port)) if is_port(port) => name,
            Some(_) => return false,
            None => host,
        };
        if name.parse::<Ipv4Addr>().is_ok() {
            return true;
        }
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        if is_preview(&name) {
            return false;
        }
        name == "localhost"
            || name.ends_with(".localhost")
            || self.names.contains(&name)
            || self
                .suffixes
                .iter()
                .any(|suffix| name.ends_with(suffix.as_str()))
    }
}

fn is_port(text: &str) -> bool {
    text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn without_port(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((name, port)) if is_port(port) && !name.ends_with(':') => name,
        _ => name,
    }
}

/// Whether a name is one that clients build for a sandbox's port: `3000-sb-0123abcd.…`.
fn is_preview(name: &str) -> bool {
    let label = name.split('.').next().unwrap_or(name);
    label
        .split_once("-sb-")
        .is_some_and(|(port, _)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_names_addresses_and_configured_names_pass() {
        let rule = HostRule::new(
            &["Box.example.org".to_owned(), "*.lan".to_owned()],
            "stacy.example.com:7423",
        );
        for host in [
            "localhost",
            "LOCALHOST:7423",
            "localhost.",
            "app.localhost:1",
            "127.0.0.1:7423",
            "192.168.0.7",
            "[::1]:7423",
            "[fe80::1]",
            "box.example.org:80",
            "a.lan",
            "stacy.example.com",
        ] {
            assert!(rule.allows(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "notlocalhost",
            "lan",
            "localhost:80:80",
            "localhost:http",
            "[::1",
            "[evil]",
            "[::1]x",
            "1.2.3",
            "3000-sb-0123abcd.localhost:7423",
            "3000-sb-0123abcd.stacy.example.com",
            "x.stacy.example.com",
        ] {
            assert!(!rule.allows(host), "{host}");
        }
    }

    #[test]
    fn a_star_opens_the_door() {
        let rule = HostRule::new(&["*".to_owned()], "");
        let request = Request::builder().header(HOST, "evil.example").body(());
        assert!(request.is_ok_and(|request| rule.check(&request).is_ok()));
    }
}
