//! The last good key set in a file, so that an agent that starts while the provider is down has its keys.
//!
//! The file has public keys only, but a person who can write to it can make tokens valid. So it is written with mode 0600
//! and not read when others may write to it.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::PathBuf,
};

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::fetch::MAX_BODY;
use crate::{
    identity::keys::{KeySet, KeySetError},
    time::Timestamp,
};

/// The file of one issuer.
pub(super) struct KeysFile {
    path: PathBuf,
    issuer: Box<str>,
}

/// Why the file cannot be used.
#[derive(Debug, Error)]
pub(super) enum StoreError {
    #[error("cannot read it: {0}")]
    Read(#[from] io::Error),
    #[error("others than its owner may write to it: set its mode to 0600")]
    Writable,
    #[error("it is longer than the keys of any issuer")]
    TooLarge,
    #[error("it is not a file of stored keys: {0}")]
    Form(#[from] serde_json::Error),
    #[error("it has the keys of the issuer {0:?}")]
    Issuer(String),
    #[error("its content was changed or cut")]
    Digest,
    #[error(transparent)]
    Keys(#[from] KeySetError),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    issuer: String,
    fetched_ms: u64,
    digest: String,
    keys: String,
}

impl KeysFile {
    pub(super) fn new(path: PathBuf, issuer: &str) -> Self {
        Self { path, issuer: issuer.into() }
    }

    pub(super) fn path(&self) -> String {
        self.path.display().to_string()
    }

    /// The keys and when they were fetched; `None` if there is no file.
    pub(super) fn read(&self) -> Result<Option<(KeySet, Timestamp)>, StoreError> {
        let about = match fs::metadata(&self.path) {
            Ok(about) => about,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if about.permissions().mode() & 0o022 != 0 {
            return Err(StoreError::Writable);
        }
        // JSON may need several bytes for each byte of the document.
        if about.len() > 8 * MAX_BODY as u64 {
            return Err(StoreError::TooLarge);
        }
        let stored: Stored = serde_json::from_slice(&fs::read(&self.path)?)?;
        // The path may have been another issuer's before the configuration changed.
        if *stored.issuer != *self.issuer {
            return Err(StoreError::Issuer(stored.issuer));
        }
        if stored.digest != self.digest(stored.fetched_ms, &stored.keys) {
            return Err(StoreError::Digest);
        }
        let set = KeySet::parse(stored.keys.as_bytes())?;
        Ok(Some((set, Timestamp::from_millis(stored.fetched_ms))))
    }

    /// Replaces the file at once: a reader never sees half of it.
    pub(super) fn write(&self, keys: &str, fetched: Timestamp) -> io::Result<()> {
        let stored = Stored {
            issuer: self.issuer.to_string(),
            fetched_ms: fetched.as_millis(),
            digest: self.digest(fetched.as_millis(), keys),
            keys: keys.to_owned(),
        };
        let part = self.path.with_extension("part");
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        // The mode of `open` is only for a new file, and the part of an earlier attempt may be there.
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(&serde_json::to_vec(&stored)?)?;
        file.sync_all()?;
        fs::rename(part, &self.path)
    }

    /// A digest that shows a damaged file. It does not protect against a person who changes the file.
    fn digest(&self, fetched_ms: u64, keys: &str) -> String {
        let text = format!("{}\n{fetched_ms}\n{keys}", self.issuer);
        URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, text.as_bytes()))
    }
}
