//! What the store is told about the owners' quotas.

use stacyvm_types::{OwnerId, Quota};

use crate::sqlite::quotas;
use crate::{Store, StoreError};

impl Store {
    /// Every quota, in no order.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn list_quotas(&self) -> Result<Vec<Quota>, StoreError> {
        self.workers.read(quotas::list).await
    }

    /// Writes an owner's quota in place of the one before, if there was one.
    ///
    /// # Errors
    /// When it is not written.
    pub async fn set_quota(&self, quota: Quota) -> Result<(), StoreError> {
        self.workers
            .write(move |connection| quotas::set(connection, &quota))
            .await
    }

    /// Takes an owner's quota away. False when there was none.
    ///
    /// # Errors
    /// When it is not written.
    pub async fn delete_quota(&self, owner: &OwnerId) -> Result<bool, StoreError> {
        let owner = owner.clone();
        self.workers
            .write(move |connection| quotas::delete(connection, &owner))
            .await
    }
}
