//! Sessions in a file, so that they outlive the agent.
//!
//! One embedded database. What is in it is sealed with the operator's keys: who reads the file learns how
//! many sessions there are and nothing else. Only what is on disk is confirmed, so that a session that was
//! ended stays ended.

use std::{io, os::unix::fs::OpenOptionsExt as _, path::Path, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    Digest, Tokens,
    seal::{Purpose, SealError, Sealer},
};
use crate::{
    identity::{Authority, Identity, stored::StoredIdentity},
    time::Timestamp,
};

const SESSIONS: TableDefinition<'_, &[u8], &str> = TableDefinition::new("sessions");
const HANDLES: TableDefinition<'_, &[u8], &str> = TableDefinition::new("handles");

/// The key of a session in the file.
pub(crate) type Key = [u8; 16];

/// The name of a row, which it is sealed with: moved to another, it does not open.
pub(super) fn name(key: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(key)
}

/// The file.
pub struct Store {
    database: Database,
}

/// Something about the file went wrong.
#[derive(Debug, Error)]
#[error("the file of sessions: {0}")]
pub struct StoreError(#[from] redb::Error);

/// A session as it is kept.
#[derive(Serialize, Deserialize)]
pub(crate) struct Kept {
    identity: StoredIdentity,
    id_token: String,
    #[serde(default)]
    refresh_token: Option<String>,
    #[serde(default)]
    nonce: String,
    #[serde(default)]
    asked: u64,
    #[serde(default)]
    due: u64,
    #[serde(default)]
    pub(super) began: u64,
    pub(super) end: u64,
    pub(super) last: u64,
}

/// A cookie as it is kept.
#[derive(Serialize, Deserialize)]
pub(super) struct KeptHandle {
    pub(super) session: Key,
    pub(super) host: String,
}

/// A cookie to keep.
pub(super) struct Row<'a> {
    pub(super) session: &'a Key,
    pub(super) handle: &'a Digest,
    pub(super) host: &'a str,
}

/// Everything in the file.
#[derive(Default)]
pub(super) struct Loaded {
    pub(super) sessions: Vec<Entry>,
    pub(super) handles: Vec<CookieEntry>,
}

impl From<SealError> for StoreError {
    fn from(error: SealError) -> Self {
        Self(redb::Error::Io(io::Error::other(error)))
    }
}

impl Kept {
    pub(super) fn new(
        identity: &Identity,
        tokens: &Tokens,
        [began, end, last]: [Timestamp; 3],
    ) -> Self {
        Self {
            identity: identity.into(),
            id_token: tokens.id.expose_secret().into(),
            refresh_token: tokens.refresh.as_ref().map(|token| token.expose_secret().into()),
            nonce: tokens.nonce.to_string(),
            asked: tokens.asked.as_millis(),
            due: tokens.due.as_millis(),
            began: began.as_millis(),
            end: end.as_millis(),
            last: last.as_millis(),
        }
    }

    /// The identity and its proofs; `None` for an issuer that is not configured any more.
    pub(super) fn identity(self, authorities: &[Arc<Authority>]) -> Option<(Identity, Tokens)> {
        let identity = Identity {
            // A session is bound to no certificate, and lasts as long as the agent says.
            bound_to: None,
            expires: Timestamp::from_millis(self.end),
            ..self.identity.restore(authorities)?
        };
        let tokens = Tokens {
            id: SecretString::from(self.id_token),
            refresh: self.refresh_token.map(SecretString::from),
            nonce: self.nonce.into(),
            asked: Timestamp::from_millis(self.asked),
            due: Timestamp::from_millis(self.due),
        };
        Some((identity, tokens))
    }
}

impl Store {
    /// Opens the file, or makes it, readable for its owner only.
    ///
    /// # Errors
    /// It cannot be opened, or is no such file.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let make = || -> Result<Database, redb::Error> {
            let mut options = std::fs::OpenOptions::new();
            let options = options.read(true).write(true).create(true).truncate(false);
            options.mode(0o600).open(path)?;
            let database = Database::create(path)?;
            let write = database.begin_write()?;
            write.open_table(SESSIONS)?;
            write.open_table(HANDLES)?;
            write.commit()?;
            Ok(database)
        };
        Ok(Self { database: make()? })
    }

    /// Reads everything. What does not open with the operator's keys is passed over.
    pub(super) fn load(&self, sealer: &Sealer) -> Result<Loaded, StoreError> {
        let read = || -> Result<Loaded, redb::Error> {
            let read = self.database.begin_read()?;
            let mut loaded = Loaded::default();
            for row in read.open_table(SESSIONS)?.iter()? {
                let (key, text) = row?;
                let kept = sealer.open::<Kept>(Purpose::Session, &name(key.value()), text.value());
                if let (Ok(key), Some(kept)) = (Key::try_from(key.value()), kept) {
                    loaded.sessions.push(Entry { key, kept, last: None });
                }
            }
            for row in read.open_table(HANDLES)?.iter()? {
                let (key, text) = row?;
                let kept =
                    sealer.open::<KeptHandle>(Purpose::Session, &name(key.value()), text.value());
                if let (Ok(digest), Some(kept)) = (Digest::try_from(key.value()), kept) {
                    let KeptHandle { session, host } = kept;
                    loaded.handles.push(CookieEntry { digest, session, host });
                }
            }
            Ok(loaded)
        };
        Ok(read()?)
    }

    /// Keeps a cookie, and its session if it is a new one; takes away the cookie that it replaces.
    pub(super) fn keep(
        &self,
        sealer: &Sealer,
        session: Option<&Kept>,
        row: &Row<'_>,
        old: Option<&Digest>,
    ) -> Result<(), StoreError> {
        let Row { session: key, handle, host } = *row;
        let kept = KeptHandle { session: *key, host: host.into() };
        let kept = sealer.seal(Purpose::Session, &name(handle), &kept)?;
        let session = session.map(|kept| sealer.seal(Purpose::Session, &name(key), kept));
        let session = session.transpose()?;
        let write = || -> Result<(), redb::Error> {
            let write = self.database.begin_write()?;
            if let Some(session) = &session {
                write.open_table(SESSIONS)?.insert(&key[..], &**session)?;
            }
            let mut table = write.open_table(HANDLES)?;
            if let Some(old) = old {
                table.remove(&old[..])?;
            }
            table.insert(&handle[..], &*kept)?;
            drop(table);
            write.commit()?;
            Ok(())
        };
        Ok(write()?)
    }

    /// Writes sessions anew, and takes others away with their cookies.
    pub(super) fn update(
        &self,
        sealer: &Sealer,
        changed: &[(Key, Kept)],
        gone: &[Key],
        handles: &[Digest],
    ) -> Result<(), StoreError> {
        if changed.is_empty() && gone.is_empty() && handles.is_empty() {
            return Ok(());
        }
        let mut texts = Vec::new();
        for (key, kept) in changed {
            texts.push((key, sealer.seal(Purpose::Session, &name(key), kept)?));
        }
        let write = || -> Result<(), redb::Error> {
            let write = self.database.begin_write()?;
            {
                let mut table = write.open_table(SESSIONS)?;
                for (key, text) in &texts {
                    table.insert(&key[..], &**text)?;
                }
                for key in gone {
                    table.remove(&key[..])?;
                }
                let mut table = write.open_table(HANDLES)?;
                for digest in handles {
                    table.remove(&digest[..])?;
                }
            }
            write.commit()?;
            Ok(())
        };
        Ok(write()?)
    }
}

/// A session as others keep it.
pub(super) struct Entry {
    pub(super) key: Key,
    pub(super) kept: Kept,
    /// The last request that others know of.
    pub(super) last: Option<Timestamp>,
}

/// A cookie as others keep it.
#[derive(Serialize, Deserialize)]
pub(super) struct CookieEntry {
    pub(super) digest: Digest,
    pub(super) session: Key,
    pub(super) host: String,
}
