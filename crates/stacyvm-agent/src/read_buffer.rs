//! The buffer that output is read into.

use parking_lot::{Mutex, MutexGuard};
use stacyvm_proto::MAX_CHUNK;

/// A buffer of [`MAX_CHUNK`] bytes that all reading tasks use in turn. Its memory is allocated at
/// the first use.
#[derive(Debug, Default)]
pub(crate) struct ReadBuffer(Mutex<Vec<u8>>);

impl ReadBuffer {
    /// The buffer, at its full size. The guard must not be held across an `await`.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        let mut buffer = self.0.lock();
        if buffer.is_empty() {
            buffer.resize(MAX_CHUNK, 0);
        }
        buffer
    }
}
