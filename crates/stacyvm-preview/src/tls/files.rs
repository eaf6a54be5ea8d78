//! A certificate and a key in files that somebody else keeps fresh.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::sign::CertifiedKey;

use super::pair::{self, Current, PairError};
use crate::chain::Chain;

/// How often they are looked at. Renewals come days before the end, so it need not be often; and
/// looking sees what a watch misses: links that are moved, mounts, volumes of a cluster.
const LOOK: Duration = Duration::from_secs(2);

/// The two files.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) cert: PathBuf,
    key: PathBuf,
}

/// What tells that a file is another one: device, inode, length and time of change.
type Mark = Option<(u64, u64, u64, i64, i64)>;

impl Files {
    pub(super) fn new(cert: PathBuf, key: PathBuf) -> Self {
        Self { cert, key }
    }

    pub(super) fn read(&self) -> Result<CertifiedKey, PairError> {
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|error| PairError::Read(path.display().to_string(), error))
        };
        pair::from_pem(&read(&self.cert)?, &read(&self.key)?)
    }

    fn marks(&self) -> [Mark; 2] {
        let mark = |of: Metadata| (of.dev(), of.ino(), of.size(), of.mtime(), of.mtime_nsec());
        [&self.cert, &self.key].map(|path| std::fs::metadata(path).ok().map(mark))
    }

    /// Reads them whenever they have changed, for ever.
    pub(super) async fn watch(&self, current: &Arc<Current>) {
        // What is seen first is read once more, so that nothing is missed that was changed between
        // the reading at the start and the first look.
        let mut seen = None;
        loop {
            let files = self.clone();
            let pair = Arc::clone(current);
            let looking = tokio::task::spawn_blocking(move || files.look(seen, &pair));
            // A panic in there would be a bug of its own; the next look is as good.
            if let Ok(marks) = looking.await {
                seen = Some(marks);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// One look. A pair that does not work is told once and changes nothing.
    fn look(&self, seen: Option<[Mark; 2]>, current: &Current) -> [Mark; 2] {
        let marks = self.marks();
        if seen == Some(marks) {
            return marks;
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
                error = %Chain(&error),
                "new certificate of previews cannot be used, the old one stays"
            ),
        }
        marks
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
        let files = Files::new(path("cert.pem"), path("key.pem"));
        assert!(matches!(files.read(), Err(PairError::Read(..))));
        let put = |cert: &str, key: &str| {
            std::fs::write(path("cert.pem"), cert).unwrap();
            std::fs::write(path("key.pem"), key).unwrap();
        };
        let (one, other) = (pair("one.example"), pair("other.example"));
        put(&one.0, &one.1);
        let current = Current::new(None);
        let holds = |pair: &(String, String)| {
            let held = current.get().unwrap();
            held.cert
                == pair::from_pem(pair.0.as_bytes(), pair.1.as_bytes())
                    .unwrap()
                    .cert
        };
        let mut seen = files.look(None, &current);
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
            seen = files.look(None, &current);
            assert!(holds(&one), "{cert} {key}");
        }
        put(&other.0, &other.1);
        std::fs::remove_file(path("key.pem")).unwrap();
        seen = files.look(Some(seen), &current);
        assert!(holds(&one));
        std::fs::write(path("key.pem"), &other.1).unwrap();
        files.look(Some(seen), &current);
        assert!(holds(&other));
    }
}
