//! The key that signs links and cookies. It is made once and kept in a file that only the server's
//! user may read; deleting the file and starting the server again replaces it.

use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

use crate::private_file;

/// The bytes of a key: as many as the hash has, more would not be stronger.
const LENGTH: usize = 32;

/// Signs tokens of the server, and verifies them.
pub struct LinkKey {
    hmac: hmac::Key,
    /// Identifies the key without revealing it, so that a token of a replaced key is told from a
    /// forged one.
    pub(super) id: [u8; 4],
}

impl fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkKey(***)")
    }
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The system gave no random bytes.
    #[error("the system has no random bytes for a key of previews")]
    Random,
    /// The file cannot be made or read.
    #[error("cannot {step} the key of previews {}", path.display())]
    File {
        /// The step that failed.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The file holds no usable key.
    #[error(
        "the key of previews {} is {found}: delete it, and the next start makes a new one",
        path.display()
    )]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        found: &'static str,
    },
}

impl LinkKey {
    /// The key in the file `path`, which is made if it does not exist. Its directory must exist.
    ///
    /// # Errors
    /// When the file cannot be read or made, is too short or too long, or open to others.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        match read(path) {
            Err(KeyError::File { source, .. }) if source.kind() == ErrorKind::NotFound => {
                create(path)?;
                read(path)
            }
            other => other,
        }
    }

    /// A key that is stored nowhere and ends with the process.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub fn fleeting() -> Result<Self, KeyError> {
        random().map(|bytes| Self::from_bytes(&bytes))
    }

    pub(super) fn from_bytes(bytes: &[u8; LENGTH]) -> Self {
        let hmac = hmac::Key::new(hmac::HMAC_SHA256, bytes);
        let tag = hmac::sign(&hmac, b"stacyvm preview: the name of this key");
        let mut id = [0; 4];
        id.copy_from_slice(&tag.as_ref()[..4]);
        Self { hmac, id }
    }

    pub(super) fn sign(&self, message: &[u8]) -> hmac::Tag {
        hmac::sign(&self.hmac, message)
    }

    /// Verifies a signature, in a time that does not depend on how much of it is right.
    pub(super) fn is_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        hmac::verify(&self.hmac, message, signature).is_ok()
    }
}

fn random() -> Result<[u8; LENGTH], KeyError> {
    let mut bytes = [0; LENGTH];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map(|()| bytes).map_err(|_| KeyError::Random)
}

fn read(path: &Path) -> Result<LinkKey, KeyError> {
    let failed = |source| KeyError::File {
        step: "read",
        path: path.to_owned(),
        source,
    };
    let unusable = |found| KeyError::Unusable {
        path: path.to_owned(),
        found,
    };
    let file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.mode() & 0o077 != 0 {
        return Err(unusable("readable by other users"));
    }
    // One byte more than a key has, to detect a longer file.
    let mut bytes = Vec::with_capacity(LENGTH + 1);
    let mut limited = file.take(LENGTH as u64 + 1);
    limited.read_to_end(&mut bytes).map_err(failed)?;
    let bytes: [u8; LENGTH] = bytes
        .try_into()
        .map_err(|_| unusable("not 32 bytes long"))?;
    Ok(LinkKey::from_bytes(&bytes))
}

/// Makes the file. Of two processes that do so at once, both use the first file.
fn create(path: &Path) -> Result<(), KeyError> {
    private_file::create(path, &random()?).map_err(|source| KeyError::File {
        step: "make",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_is_made_once_and_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("link.key");
        let first = LinkKey::load(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        let second = LinkKey::load(&path).unwrap();
        let signature = first.sign(b"x");
        assert!(second.is_signed(b"x", signature.as_ref()));
        assert!(!second.is_signed(b"y", signature.as_ref()));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        std::fs::remove_file(&path).unwrap();
        let third = LinkKey::load(&path).unwrap();
        assert!(!third.is_signed(b"x", signature.as_ref()));
        assert_ne!(third.id, first.id);
        assert_eq!(format!("{third:?}"), "LinkKey(***)");
    }

    #[test]
    fn what_is_no_key_is_refused_with_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("link.key");
        for (length, mode, found) in [
            (31, 0o600, "32 bytes"),
            (33, 0o600, "32 bytes"),
            (32, 0o640, "other users"),
        ] {
            std::fs::write(&path, vec![1; length]).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            let error = LinkKey::load(&path).unwrap_err().to_string();
            assert!(
                error.contains(found) && error.contains("delete it"),
                "{error}"
            );
        }
    }
}
