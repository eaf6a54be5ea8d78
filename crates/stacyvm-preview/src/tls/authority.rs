//! An authority of this machine, for development: it vouches for previews of one domain, and for
//! nothing else.
//!
//! Its certificate names the domain as the only one that it may speak for, so that whoever trusts
//! it trusts it with nothing else, even if its key is stolen. Its key is used at the start of a
//! server and stays in the data directory. Browsers take no `*.localhost`, so each host name gets
//! a certificate of its own the first time that it is asked for.

use std::collections::HashMap;
use std::fmt;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::private_file;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the authority itself is good.
const LIFE: Duration = Duration::from_secs(3650 * 24 * 60 * 60);
/// How long what it issues is good; browsers distrust more than 398 days.
const LEAF_LIFE: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// After this time a host name gets a new certificate.
const LEAF_RENEWAL: Duration = Duration::from_secs(60 * 24 * 60 * 60);
/// Certificates that are kept; more host names than that make new ones.
const MOST_LEAVES: usize = 1024;

/// Why the authority is of no use.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// There is none yet.
    #[error("there is no development authority for {domain} in {}", path.display())]
    Missing {
        /// For which domain.
        domain: String,
        /// Where it would be.
        path: PathBuf,
    },
    /// The domain is no host name.
    #[error("{0:?} is no host name that an authority could be for")]
    Domain(String),
    /// A file cannot be read or written.
    #[error("cannot {step} {}", path.display())]
    File {
        /// What was being done.
        step: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A certificate cannot be made.
    #[error("cannot make a certificate for {domain}")]
    Certificate {
        /// For which name.
        domain: String,
        /// Why not.
        #[source]
        source: rcgen::Error,
    },
    /// The library cannot use what was made.
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
    /// The one in `directory`, made when it is not there.
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

    /// The one in `directory`.
    ///
    /// # Errors
    /// `Missing` when it was not made yet.
    pub fn open(directory: &Path, domain: &str) -> Result<Self, AuthorityError> {
        let domain = host_name(domain)?;
        let place = directory.join(&domain);
        let path = place.join("authority.pem");
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|source| match source.kind() {
                ErrorKind::NotFound => AuthorityError::Missing {
                    domain: domain.clone(),
                    path: place.clone(),
                },
                _ => AuthorityError::File {
                    step: "read",
                    path: path.to_owned(),
                    source,
                },
            })
        };
        let certificate = read(&path)?;
        let key = read(&place.join("authority.key"))?;
        let wrong = |source| AuthorityError::Certificate {
            domain: domain.clone(),
            source,
        };
        let key = KeyPair::from_pem(&key).map_err(wrong)?;
        // Everything that an issuer's name and key identifier are made of is the same each time.
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
        let place = directory.join(&domain);
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
        std::fs::create_dir_all(&place).map_err(failed(&place))?;
        let key = KeyPair::generate().map_err(wrong)?;
        let certificate = params(&domain).self_signed(&key).map_err(wrong)?;
        let path = place.join("authority.key");
        private_file::replace(&path, key.serialize_pem().as_bytes()).map_err(failed(&path))?;
        // Last: where it stands, its key does.
        let path = place.join("authority.pem");
        private_file::replace(&path, certificate.pem().as_bytes()).map_err(failed(&path))
    }

    /// Its certificate in PEM, which is no secret.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Where its certificate is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// For which domain it is, and for every name below.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    pub(super) fn issuer(self) -> Result<Leaves, AuthorityError> {
        let key = KeyPair::generate().map_err(|source| AuthorityError::Certificate {
            domain: self.domain.clone(),
            source,
        })?;
        let leaves = Leaves {
            authority: self,
            key,
            made: Mutex::default(),
        };
        // The first one shows whether any can be made.
        leaves.issue(&leaves.authority.domain)?;
        Ok(leaves)
    }
}

/// What it has issued since the start.
pub(super) struct Leaves {
    authority: Authority,
    key: KeyPair,
    made: Mutex<HashMap<String, (Instant, Arc<CertifiedKey>)>>,
}

impl fmt::Debug for Leaves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Leaves").field(&self.authority).finish()
    }
}

impl Leaves {
    pub(super) fn issue(&self, name: &str) -> Result<Arc<CertifiedKey>, AuthorityError> {
        let wrong = |source| AuthorityError::Certificate {
            domain: name.to_owned(),
            source,
        };
        let mut params = CertificateParams::new([name.to_owned()]).map_err(wrong)?;
        params.distinguished_name = Default::default();
        params.distinguished_name.push(DnType::CommonName, name);
        lasting(&mut params, LEAF_LIFE);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = params.signed_by(&self.key, &self.authority.issuer);
        let leaf = leaf.map_err(wrong)?.der().clone();
        let key = PrivateKeyDer::try_from(self.key.serialize_der());
        let key = key.expect("the key was made as PKCS#8");
        CertifiedKey::from_der(vec![leaf], key, &super::provider())
            .map(Arc::new)
            .map_err(AuthorityError::Unusable)
    }

    fn kept(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let (when, leaf) = made.get(name)?;
        (when.elapsed() < LEAF_RENEWAL).then(|| Arc::clone(leaf))
    }
}

impl ResolvesServerCert for Leaves {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let domain = &self.authority.domain;
        let name = hello.server_name().unwrap_or(domain).to_ascii_lowercase();
        let below = name
            .strip_suffix(domain.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        if !below {
            return None;
        }
        if let Some(leaf) = self.kept(&name) {
            return Some(leaf);
        }
        let leaf = self.issue(&name);
        let leaf = leaf.inspect_err(|error| {
            tracing::warn!(%error, "no certificate for a preview");
        });
        let leaf = leaf.ok()?;
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.len() >= MOST_LEAVES {
            made.clear();
        }
        made.insert(name, (Instant::now(), Arc::clone(&leaf)));
        Some(leaf)
    }
}

fn params(domain: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = Default::default();
    let name = format!("StacyVM development authority for {domain}");
    params.distinguished_name.push(DnType::CommonName, name);
    lasting(&mut params, LIFE);
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

/// From yesterday on, because clocks differ.
fn lasting(params: &mut CertificateParams, life: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - DAY).into();
    params.not_after = (now + life).into();
}

/// A preview domain as a host name, without its port. It also names a directory, so nothing that
/// means something in a path gets through.
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
