//! The store of an agent without `sessions_file` and `[redis]`: sessions end with the process.

use std::sync::Arc;

use super::{RemovedSession, SessionStore, StoreError, StoredCookie, StoredSessions};
use crate::sessions::{Digest, Session};

/// Stores nothing; the table in memory is all there is.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryStore;

impl SessionStore for MemoryStore {
    fn load(&self) -> Result<StoredSessions, StoreError> {
        Ok(StoredSessions::default())
    }

    fn save(&self, _: &Session, _: &StoredCookie) -> Result<(), StoreError> {
        Ok(())
    }

    fn save_cookie(
        &self,
        _: &Session,
        _: &StoredCookie,
        _: Option<&Digest>,
    ) -> Result<(), StoreError> {
        Ok(())
    }

    fn update(&self, _: &Session) -> Result<(), StoreError> {
        Ok(())
    }

    fn save_last_used(&self, _: &[(Arc<Session>, u64)]) -> Result<(), StoreError> {
        Ok(())
    }

    fn clear(&self, _: Vec<RemovedSession>) -> Result<(), StoreError> {
        Ok(())
    }

    fn expire(&self, _: Vec<RemovedSession>) -> Result<(), StoreError> {
        Ok(())
    }
}
