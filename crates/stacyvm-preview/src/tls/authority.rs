//! A certificate authority of this machine, for development: for previews of one domain and nothing
//! else.
//!
//! A name constraint limits its certificate to the domain, so that trusting it is safe for all other
//! names, even if its key is stolen. The key stays in the data directory. Browsers do not accept a
//! certificate for `*.localhost`, so each host name gets one of its own when it is first asked for.

use std::collections::HashMap;
use std::fmt;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::crypto::provider;
use crate::private_file;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the certificate of the authority is valid.
const LIFETIME: Duration = Duration::from_secs(3650 * 24 * 60 * 60);
/// How long an issued certificate is valid; browsers distrust more than 398 days.
const LEAF_LIFETIME: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// After this time a host name gets a new certificate.
const LEAF_RENEWAL: Duration = Duration::from_secs(60 * 24 * 60 * 60);
/// Issued certificates that are cached.
const MAX_CACHED_LEAVES: usize = 1024;

/// Why the authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The authority was not made yet.
    #[error("there is no development authority for {domain} in {}", path.display())]
    Missing {
        /// The domain that it would be for.
        domain: String,
        /// The directory that it would be in.
        path: PathBuf,
    },
    /// The domain is not a host name.
    #[error("{0:?} is no host name that an authority could be for")]
    Domain(String),
    /// A file cannot be read or written.
    #[error("cannot {step} {}", path.display())]
    File {
        /// The step that failed.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A certificate cannot be made.
    #[error("cannot make a certificate for {domain}")]
    Certificate {
        /// The name that it would be for.
        domain: String,
        /// The cause.
        #[source]
        source: rcgen::Error,
    },
    /// The library cannot use a certificate that was issued.
    #[error("cannot use the own certificate")]
    Unusable(#[source] rustls::Error),
}

/// The development authority for one preview domain.
pub struct Authority {
    domain: String,
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
    path: PathBuf,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("domain", &self.domain)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Opens the authority in `directory`, and makes it if there is none.
    ///
    /// # Errors
    /// When the domain is no host name, or files cannot be read or written.
    pub fn open_or_make(directory: &Path, domain: &str) -> Result<Self, AuthorityError> {
        match Self::open(directory, domain) {
            Err(AuthorityError::Missing { .. }) => {
                Self::make(directory, domain)?;
                Self::open(directory, domain)
            }
            other => other,
        }
    }

    /// Opens the authority in `directory`.
    ///
    /// # Errors
    /// `Missing` when there is none.
    pub fn open(directory: &Path, domain: &str) -> Result<Self, AuthorityError> {
        let domain = host_name(domain)?;
        let directory = directory.join(&domain);
        let path = directory.join("authority.pem");
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|source| match source.kind() {
                ErrorKind::NotFound => AuthorityError::Missing {
                    domain: domain.clone(),
                    path: directory.clone(),
                },
                _ => AuthorityError::File {
                    step: "read",
                    path: path.to_owned(),
                    source,
                },
            })
        };
        let certificate = read(&path)?;
        let key = read(&directory.join("authority.key"))?;
        let wrong = |source| AuthorityError::Certificate {
            domain: domain.clone(),
            source,
        };
        let key = KeyPair::from_pem(&key).map_err(wrong)?;
        // The issuer's name and key identifier are the same each time they are made.
        let issuer = Issuer::new(params(&domain), key);
        Ok(Self {
            domain,
            certificate,
            issuer,
            path,
        })
    }

    fn make(directory: &Path, domain: &str) -> Result<(), AuthorityError> {
        let domain = host_name(domain)?;
        let directory = directory.join(&domain);
        let wrong = |source| AuthorityError::Certificate {
            domain: domain.clone(),
            source,
        };
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| AuthorityError::File {
                step: "write",
                path,
                source,
            }
        };
        std::fs::create_dir_all(&directory).map_err(failed(&directory))?;
        let key = KeyPair::generate().map_err(wrong)?;
        let certificate = params(&domain).self_signed(&key).map_err(wrong)?;
        let path = directory.join("authority.key");
        private_file::replace(&path, key.serialize_pem().as_bytes()).map_err(failed(&path))?;
        // Last, so that a certificate always has its key.
        let path = directory.join("authority.pem");
        private_file::replace(&path, certificate.pem().as_bytes()).map_err(failed(&path))
    }

    /// The certificate of the authority in PEM, which is no secret.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The file of the certificate.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The domain that it issues certificates for, and for every name below.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Issues certificates with a new key.
    pub(super) fn issuer(self) -> Result<LeafIssuer, AuthorityError> {
        let key = KeyPair::generate().map_err(|source| AuthorityError::Certificate {
            domain: self.domain.clone(),
            source,
        })?;
        let issuer = LeafIssuer {
            authority: self,
            key,
            issued: Mutex::default(),
        };
        // The first certificate shows whether any can be issued.
        issuer.issue(&issuer.authority.domain)?;
        Ok(issuer)
    }
}

/// Issues a certificate for each host name that is asked for, and caches it.
pub(super) struct LeafIssuer {
    authority: Authority,
    key: KeyPair,
    issued: Mutex<HashMap<String, (Instant, Arc<CertifiedKey>)>>,
}

impl fmt::Debug for LeafIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LeafIssuer").field(&self.authority).finish()
    }
}

impl LeafIssuer {
    pub(super) fn issue(&self, name: &str) -> Result<Arc<CertifiedKey>, AuthorityError> {
        let wrong = |source| AuthorityError::Certificate {
            domain: name.to_owned(),
            source,
        };
        let mut params = CertificateParams::new([name.to_owned()]).map_err(wrong)?;
        params.distinguished_name = Default::default();
        params.distinguished_name.push(DnType::CommonName, name);
        set_lifetime(&mut params, LEAF_LIFETIME);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = params.signed_by(&self.key, &self.authority.issuer);
        let leaf = leaf.map_err(wrong)?.der().clone();
        let key = PrivateKeyDer::try_from(self.key.serialize_der());
        let key = key.expect("the key was made as PKCS#8");
        CertifiedKey::from_der(vec![leaf], key, &provider())
            .map(Arc::new)
            .map_err(AuthorityError::Unusable)
    }

    fn cached(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let issued = self.issued.lock();
        let (when, leaf) = issued.get(name)?;
        (when.elapsed() < LEAF_RENEWAL).then(|| Arc::clone(leaf))
    }
}

impl ResolvesServerCert for LeafIssuer {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let domain = &self.authority.domain;
        let name = hello.server_name().unwrap_or(domain).to_ascii_lowercase();
        let below = name
            .strip_suffix(domain.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        if !below {
            return None;
        }
        if let Some(leaf) = self.cached(&name) {
            return Some(leaf);
        }
        let leaf = self.issue(&name);
        let leaf = leaf.inspect_err(|error| {
            tracing::warn!(%error, "no certificate for a preview");
        });
        let leaf = leaf.ok()?;
        let mut issued = self.issued.lock();
        if issued.len() >= MAX_CACHED_LEAVES {
            issued.clear();
        }
        issued.insert(name, (Instant::now(), Arc::clone(&leaf)));
        Some(leaf)
    }
}

fn params(domain: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = Default::default();
    let name = format!("StacyVM development authority for {domain}");
    params.distinguished_name.push(DnType::CommonName, name);
    set_lifetime(&mut params, LIFETIME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let every = |address: &str| {
        let address: IpAddr = address.parse().expect("these are addresses");
        GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(address, 0))
    };
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(domain.to_owned())],
        excluded_subtrees: vec![every("0.0.0.0"), every("::")],
    });
    params
}

/// Makes a certificate valid from yesterday, because clocks differ, for `lifetime` from now.
fn set_lifetime(params: &mut CertificateParams, lifetime: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - DAY).into();
    params.not_after = (now + lifetime).into();
}

/// A preview domain as a host name, without its port. It also names a directory, so characters with
/// a meaning in paths are refused.
fn host_name(domain: &str) -> Result<String, AuthorityError> {
    let name = domain.trim().trim_end_matches('.').to_ascii_lowercase();
    let name = match name.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => &name,
    };
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if name.len() <= 253 && name.split('.').all(label) && name.parse::<IpAddr>().is_err() {
        Ok(name.to_owned())
    } else {
        Err(AuthorityError::Domain(domain.chars().take(64).collect()))
    }
}
