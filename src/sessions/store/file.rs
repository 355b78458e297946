//! Sessions in a file, so that people need not sign in again after a restart of the agent.
//!
//! The file is one embedded database (`sessions_file`), which one agent uses alone. Its values are encrypted with the key
//! ring: a reader of the file learns how many sessions there are and nothing else.
//!
//! The invariant: a call returns when its transaction is on disk, and every write of a session requires that the session
//! is still in the file. So a session that ended stays ended, whatever is written about it at the same time.

use std::{os::unix::fs::OpenOptionsExt as _, path::Path, sync::Arc, thread, time::Duration};

use redb::{
    Database, ReadableDatabase as _, ReadableTable as _, Table, TableDefinition, WriteTransaction,
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    CookieRow, Key, LoadedSession, RemovedSession, SessionStore, StoreError, StoredCookie,
    StoredSession, StoredSessions, row_name,
};
use crate::sessions::{
    Digest, Session,
    keyring::{Keyring, Purpose, SealError},
};

const SESSIONS: TableDefinition<'_, &[u8], &str> = TableDefinition::new("sessions");
const COOKIES: TableDefinition<'_, &[u8], &str> = TableDefinition::new("cookies");

/// How many sessions are written in one transaction. A sign-in may have to wait for one.
const WRITTEN_TOGETHER: usize = 1000;
/// The pause between two such transactions, in which a sign-in that waits gets its turn.
const BETWEEN_WRITES: Duration = Duration::from_millis(1);

/// The file.
pub struct FileStore {
    database: Database,
    keyring: Arc<Keyring>,
}

type Rows<'t> = Table<'t, &'static [u8], &'static str>;

impl FileStore {
    /// Opens the file, or creates it, readable for its owner only.
    ///
    /// # Errors
    /// The file cannot be opened, or is not such a database.
    pub fn open(path: &Path, keyring: Arc<Keyring>) -> Result<Self, StoreError> {
        let open = || -> Result<Database, redb::Error> {
            let mut options = std::fs::OpenOptions::new();
            let options = options.read(true).write(true).create(true).truncate(false);
            options.mode(0o600).open(path)?;
            let database = Database::create(path)?;
            let write = database.begin_write()?;
            write.open_table(SESSIONS)?;
            write.open_table(COOKIES)?;
            write.commit()?;
            Ok(database)
        };
        Ok(Self { database: open()?, keyring })
    }

    fn seal(&self, name: &[u8], value: &impl Serialize) -> Result<String, SealError> {
        self.keyring.seal(Purpose::Session, &row_name(name), value)
    }

    fn open_row<T: DeserializeOwned>(&self, name: &[u8], text: &str) -> Option<T> {
        self.keyring.open(Purpose::Session, &row_name(name), text)
    }

    /// Does some writes as one transaction, which is on disk when this returns.
    fn write<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let transaction = || -> Result<T, redb::Error> {
            let write = self.database.begin_write()?;
            let done = work(&write)?;
            write.commit()?;
            Ok(done)
        };
        Ok(transaction()?)
    }

    /// Writes a session again if it is still in the file. Returns whether it is.
    ///
    /// The session is read here, within the transaction, so that of two writers the later one writes what the session
    /// is by then.
    fn rewrite(&self, rows: &mut Rows<'_>, session: &Session) -> Result<bool, redb::Error> {
        let is_there = rows.get(&session.key[..])?.is_some();
        if is_there {
            let text = self.seal(&session.key, &session.to_stored())?;
            rows.insert(&session.key[..], &*text)?;
        }
        Ok(is_there)
    }

    fn remove(&self, removed: &[RemovedSession]) -> Result<(), StoreError> {
        if removed.is_empty() {
            return Ok(());
        }
        self.write(|write| {
            let mut sessions = write.open_table(SESSIONS)?;
            let mut cookies = write.open_table(COOKIES)?;
            for session in removed {
                sessions.remove(&session.key[..])?;
                for digest in &session.cookies {
                    cookies.remove(&digest[..])?;
                }
            }
            Ok(())
        })
    }
}

impl SessionStore for FileStore {
    /// Rows that the key ring cannot decrypt are ignored.
    fn load(&self) -> Result<StoredSessions, StoreError> {
        let read = || -> Result<StoredSessions, redb::Error> {
            let read = self.database.begin_read()?;
            let mut stored = StoredSessions::default();
            for row in read.open_table(SESSIONS)?.iter()? {
                let (key, text) = row?;
                let session = self.open_row::<StoredSession>(key.value(), text.value());
                if let (Ok(key), Some(session)) = (Key::try_from(key.value()), session) {
                    stored.sessions.push(LoadedSession { key, session, last_used: None });
                }
            }
            for row in read.open_table(COOKIES)?.iter()? {
                let (digest, text) = row?;
                let cookie = self.open_row::<CookieRow>(digest.value(), text.value());
                if let (Ok(digest), Some(cookie)) = (Digest::try_from(digest.value()), cookie) {
                    let CookieRow { session, host } = cookie;
                    stored.cookies.push(StoredCookie { digest, session, host });
                }
            }
            Ok(stored)
        };
        Ok(read()?)
    }

    fn save(&self, session: &Session, cookie: &StoredCookie) -> Result<(), StoreError> {
        let session_text = self.seal(&session.key, &session.to_stored())?;
        let cookie_text = self.seal(&cookie.digest, &cookie.row())?;
        self.write(|write| {
            write.open_table(SESSIONS)?.insert(&session.key[..], &*session_text)?;
            write.open_table(COOKIES)?.insert(&cookie.digest[..], &*cookie_text)?;
            Ok(())
        })
    }

    fn save_cookie(
        &self,
        session: &Session,
        cookie: &StoredCookie,
        replaced: Option<&Digest>,
    ) -> Result<(), StoreError> {
        let text = self.seal(&cookie.digest, &cookie.row())?;
        let is_there = self.write(|write| {
            if write.open_table(SESSIONS)?.get(&session.key[..])?.is_none() {
                return Ok(false);
            }
            let mut cookies = write.open_table(COOKIES)?;
            if let Some(replaced) = replaced {
                cookies.remove(&replaced[..])?;
            }
            cookies.insert(&cookie.digest[..], &*text)?;
            Ok(true)
        })?;
        if is_there { Ok(()) } else { Err(StoreError::Ended) }
    }

    fn update(&self, session: &Session) -> Result<(), StoreError> {
        let is_there =
            self.write(|write| self.rewrite(&mut write.open_table(SESSIONS)?, session))?;
        if is_there { Ok(()) } else { Err(StoreError::Ended) }
    }

    fn save_last_used(&self, sessions: &[(Arc<Session>, u64)]) -> Result<(), StoreError> {
        for some in sessions.chunks(WRITTEN_TOGETHER) {
            self.write(|write| {
                let mut rows = write.open_table(SESSIONS)?;
                for (session, _) in some {
                    self.rewrite(&mut rows, session)?;
                }
                Ok(())
            })?;
            // Without a pause this thread would take the lock of writers again before a sign-in that waits wakes up.
            thread::sleep(BETWEEN_WRITES);
        }
        Ok(())
    }

    fn clear(&self, ended: Vec<RemovedSession>) -> Result<(), StoreError> {
        self.remove(&ended)
    }

    fn expire(&self, expired: Vec<RemovedSession>) -> Result<(), StoreError> {
        self.remove(&expired)
    }
}
