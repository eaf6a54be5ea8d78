//! The address of an engine.

use std::fmt;
use std::path::{Path, PathBuf};

use bollard::{ClientVersion, Docker};
use stacyvm_provider::ProviderError;

/// The default ports of an engine without and with TLS.
const PLAIN_PORT: u16 = 2375;
const TLS_PORT: u16 = 2376;

/// Certificates for mutual authentication, each a file in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authority that signed the engine's certificate.
    pub ca: PathBuf,
    /// The server's certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Where an engine listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineAddress {
    /// A socket of this machine.
    Unix(PathBuf),
    /// A port without encryption, `HOST:PORT`. Every program that reaches it controls the engine's
    /// machine.
    Tcp(String),
    /// A port with TLS and certificates on both sides.
    Tls(String, TlsFiles),
}

impl EngineAddress {
    /// Parses `unix:///path`, `/path`, `tcp://host:port`, `http://…` or `https://…`. With `tls` a
    /// port is connected to over TLS.
    ///
    /// # Errors
    /// `Invalid` when it is none of these, or when TLS is asked for without certificates.
    pub fn parse(text: &str, tls: Option<TlsFiles>) -> Result<Self, ProviderError> {
        let wrong = |reason: &str| {
            ProviderError::Invalid(format!(
                "Docker engine address {text:?} {reason}; hint: use unix:///var/run/docker.sock, tcp://HOST:PORT or https://HOST:PORT"
            ))
        };
        let path = text.strip_prefix("unix://");
        if let Some(path) = path.or_else(|| text.starts_with('/').then_some(text)) {
            if !path.starts_with('/') {
                return Err(wrong("has no absolute path"));
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        let (scheme, host) = text
            .split_once("://")
            .ok_or_else(|| wrong("has no scheme"))?;
        let host = host.trim_end_matches('/');
        if host.is_empty() || host.contains(['/', '@', '?', '#', ' ']) {
            return Err(wrong("names no host and port"));
        }
        match (scheme, tls) {
            ("tcp" | "http", None) => Ok(Self::Tcp(with_port(host, PLAIN_PORT))),
            ("tcp" | "https", Some(tls)) => Ok(Self::Tls(with_port(host, TLS_PORT), tls)),
            ("https", None) => Err(wrong("wants certificates")),
            ("http", Some(_)) => Err(wrong("is not for TLS, but certificates are set")),
            ("ssh" | "npipe" | "fd", _) => Err(wrong("has a scheme that is not supported")),
            _ => Err(wrong("has an unknown scheme")),
        }
    }

    /// Whether the engine may run on another machine, where it sees none of this one's files.
    pub fn is_remote(&self) -> bool {
        !matches!(self, Self::Unix(_))
    }

    /// A client for this address. Only a missing socket or file is an error now; `timeout` is in
    /// seconds.
    pub(super) fn connect(
        &self,
        timeout: u64,
        version: &ClientVersion,
    ) -> Result<Docker, bollard::errors::Error> {
        match self {
            Self::Unix(path) => {
                Docker::connect_with_unix(&path.to_string_lossy(), timeout, version)
            }
            Self::Tcp(host) => {
                Docker::connect_with_http(&format!("tcp://{host}"), timeout, version)
            }
            Self::Tls(host, TlsFiles { ca, cert, key }) => {
                for file in [ca, cert, key] {
                    check_readable(file)?;
                }
                let address = format!("tcp://{host}");
                Docker::connect_with_ssl(&address, key, cert, ca, timeout, version)
            }
        }
    }
}

/// Reports a missing certificate by its path, which a failed handshake would not.
fn check_readable(file: &Path) -> Result<(), bollard::errors::Error> {
    std::fs::File::open(file)
        .map(drop)
        .map_err(|_| bollard::errors::Error::CertPathError {
            path: file.to_owned(),
        })
}

fn with_port(host: &str, port: u16) -> String {
    let has_port = host.rsplit_once(':').is_some_and(|(before, port)| {
        !port.contains(']') && (!before.contains(':') || before.ends_with(']'))
    });
    if has_port {
        host.to_owned()
    } else {
        format!("{host}:{port}")
    }
}

impl fmt::Display for EngineAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(host) => write!(f, "tcp://{host}"),
            Self::Tls(host, _) => write!(f, "https://{host}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn files() -> TlsFiles {
        let file = |name: &str| PathBuf::from(name);
        TlsFiles {
            ca: file("ca.pem"),
            cert: file("cert.pem"),
            key: file("key.pem"),
        }
    }

    #[test]
    fn addresses_are_read_as_the_docker_client_reads_them() {
        let read = |text: &str| EngineAddress::parse(text, None).unwrap().to_string();
        assert_eq!(read("unix:///run/d.sock"), "unix:///run/d.sock");
        assert_eq!(read("/run/d.sock"), "unix:///run/d.sock");
        assert_eq!(read("tcp://engine:99"), "tcp://engine:99");
        assert_eq!(read("tcp://engine/"), "tcp://engine:2375");
        assert_eq!(read("http://10.0.0.1"), "tcp://10.0.0.1:2375");
        assert_eq!(read("tcp://[::1]"), "tcp://[::1]:2375");
        assert_eq!(read("tcp://[::1]:5"), "tcp://[::1]:5");
        for text in ["tcp://engine", "https://engine", "https://engine:2376/"] {
            let tls = EngineAddress::parse(text, Some(files())).unwrap();
            assert_eq!(tls, EngineAddress::Tls("engine:2376".to_owned(), files()));
            assert!(tls.is_remote());
        }
        assert!(
            !EngineAddress::parse("/x", Some(files()))
                .unwrap()
                .is_remote()
        );
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_remedy() {
        for wrong in [
            "",
            "engine",
            "unix://relative",
            "https://engine",
            "ssh://me@engine",
            "ftp://x",
            "tcp://",
            "tcp://a/b",
            "tcp://me@x",
            "npipe:////./pipe/docker_engine",
        ] {
            let error = EngineAddress::parse(wrong, None).unwrap_err().to_string();
            assert!(error.contains("hint: use unix://"), "{error}");
        }
        assert!(EngineAddress::parse("http://x", Some(files())).is_err());
    }
}
