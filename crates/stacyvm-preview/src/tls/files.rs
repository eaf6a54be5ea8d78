//! A certificate and a key in files that the operator renews.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::sign::CertifiedKey;

use super::certificate::{self, CertificateError, CurrentCertificate};
use crate::error_chain::ErrorChain;

/// How often the files are checked. Renewals come days before the expiry, so it need not be often;
/// and a check sees what a watch misses: moved links, mounts, volumes of a cluster.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// The two files.
#[derive(Clone, Debug)]
pub(super) struct CertificateFiles {
    pub(super) cert: PathBuf,
    key: PathBuf,
}

/// Identifies the content of a file: device, inode, length and time of change; none without a file.
type Fingerprint = Option<(u64, u64, u64, i64, i64)>;

impl CertificateFiles {
    pub(super) fn new(cert: PathBuf, key: PathBuf) -> Self {
        Self { cert, key }
    }

    pub(super) fn read(&self) -> Result<CertifiedKey, CertificateError> {
        let read = |path: &PathBuf| {
            std::fs::read(path)
                .map_err(|error| CertificateError::Read(path.display().to_string(), error))
        };
        certificate::from_pem(&read(&self.cert)?, &read(&self.key)?)
    }

    fn fingerprints(&self) -> [Fingerprint; 2] {
        let fingerprint =
            |of: Metadata| (of.dev(), of.ino(), of.size(), of.mtime(), of.mtime_nsec());
        [&self.cert, &self.key].map(|path| std::fs::metadata(path).ok().map(fingerprint))
    }

    /// Reads the files whenever they have changed, for ever.
    pub(super) async fn watch(&self, current: &Arc<CurrentCertificate>) {
        // The first check always reads the files, so that a change between the start and the first
        // check is not missed.
        let mut seen = None;
        loop {
            let files = self.clone();
            let current = Arc::clone(current);
            let checking = tokio::task::spawn_blocking(move || files.check(seen, &current));
            // A check that panicked is repeated like any other.
            if let Ok(found) = checking.await {
                seen = Some(found);
            }
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
    }

    /// Reads the files if they have changed. Files that cannot be used are logged once and change
    /// nothing.
    fn check(
        &self,
        seen: Option<[Fingerprint; 2]>,
        current: &CurrentCertificate,
    ) -> [Fingerprint; 2] {
        let found = self.fingerprints();
        if seen == Some(found) {
            return found;
        }
        let cert = self.cert.display();
        match self.read() {
            Ok(pair) => {
                current.replace(pair);
                if seen.is_some() {
                    tracing::info!(%cert, "certificate of previews replaced");
                }
            }
            Err(error) => tracing::warn!(
                %cert,
                error = %ErrorChain(&error),
                "new certificate of previews cannot be used, the old one stays"
            ),
        }
        found
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn pair(name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    #[test]
    fn a_new_pair_is_taken_and_a_broken_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name);
        let files = CertificateFiles::new(path("cert.pem"), path("key.pem"));
        assert!(matches!(files.read(), Err(CertificateError::Read(..))));
        let put = |cert: &str, key: &str| {
            std::fs::write(path("cert.pem"), cert).unwrap();
            std::fs::write(path("key.pem"), key).unwrap();
        };
        let (one, other) = (pair("one.example"), pair("other.example"));
        put(&one.0, &one.1);
        let current = CurrentCertificate::new(None);
        let holds = |pair: &(String, String)| {
            let held = current.get().unwrap();
            held.cert
                == certificate::from_pem(pair.0.as_bytes(), pair.1.as_bytes())
                    .unwrap()
                    .cert
        };
        let mut seen = files.check(None, &current);
        assert!(holds(&one));
        // Renewals come as new files: another inode, whatever the clock says.
        for (cert, key) in [
            (other.0.as_str(), one.1.as_str()),
            ("", &one.1),
            (&one.0, "nonsense"),
            (
                "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
                &one.1,
            ),
        ] {
            put(cert, key);
            seen = files.check(None, &current);
            assert!(holds(&one), "{cert} {key}");
        }
        put(&other.0, &other.1);
        std::fs::remove_file(path("key.pem")).unwrap();
        seen = files.check(Some(seen), &current);
        assert!(holds(&one));
        std::fs::write(path("key.pem"), &other.1).unwrap();
        files.check(Some(seen), &current);
        assert!(holds(&other));
    }
}
