//! The stored tokens of a person, in a file that only this person can read.

use std::{
    collections::BTreeMap,
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use tracing::warn;
use zeroize::Zeroizing;

use crate::time::Timestamp;

/// The maximum number of tokens in the file; one more empties it first.
const MAX_ENTRIES: usize = 100;

#[derive(Clone, Serialize, Deserialize)]
struct StoredToken {
    token: String,
    /// When it expires, in milliseconds since the Unix epoch.
    end: u64,
    refresh: Option<String>,
}

/// The file and its tokens; no file if the environment names no home directory.
pub(super) struct Cache {
    path: Option<PathBuf>,
    entries: BTreeMap<String, StoredToken>,
}

impl Cache {
    /// Reads the file. An empty path means that nothing is stored.
    ///
    /// # Errors
    /// Other users can read the file, or it cannot be read.
    pub(super) fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let path = if let Some(path) = path {
            Some(path.to_owned()).filter(|path| !path.as_os_str().is_empty())
        } else {
            let var = |name| std::env::var_os(name).map(PathBuf::from);
            let base = var("XDG_CACHE_HOME").or_else(|| Some(var("HOME")?.join(".cache")));
            base.map(|base| base.join("identity-spoa/tokens.json"))
        };
        let mut cache = Self { path, entries: BTreeMap::new() };
        let Some(path) = &cache.path else { return Ok(cache) };
        let Ok(about) = std::fs::metadata(path) else { return Ok(cache) };
        if about.permissions().mode() & 0o077 != 0 {
            bail!("others can read the tokens in {}: set its mode to 0600", path.display());
        }
        let text = std::fs::read_to_string(path).map(Zeroizing::new);
        let text = text.with_context(|| format!("cannot read {}", path.display()))?;
        match serde_json::from_str(&text) {
            Ok(entries) => cache.entries = entries,
            Err(_) => {
                warn!(path = %path.display(), "reading the stored tokens failed: the file is replaced and you sign in again");
            }
        }
        Ok(cache)
    }

    /// A stored token that does not expire before `until`.
    pub(super) fn token(&self, name: &str, until: Timestamp) -> Option<SecretString> {
        let entry = self.entries.get(name)?;
        (until.as_millis() < entry.end).then(|| entry.token.as_str().into())
    }

    pub(super) fn refresh_token(&self, name: &str) -> Option<SecretString> {
        self.entries.get(name)?.refresh.as_deref().map(Into::into)
    }

    /// Stores a token. A failure is only logged: the person has the token all the same.
    pub(super) fn store(
        mut self,
        name: &str,
        token: &SecretString,
        end: Timestamp,
        refresh: Option<&SecretString>,
    ) {
        let Some(path) = self.path.take() else { return };
        if self.entries.len() >= MAX_ENTRIES {
            self.entries.clear();
        }
        let entry = StoredToken {
            token: token.expose_secret().into(),
            end: end.as_millis(),
            refresh: refresh.map(|token| token.expose_secret().into()),
        };
        self.entries.insert(name.into(), entry);
        if let Err(error) = self.write(&path) {
            warn!(path = %path.display(), %error, "storing the token failed: you must sign in again next time");
        }
    }

    fn write(&self, path: &Path) -> anyhow::Result<()> {
        let directory = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(directory)?;
        let text = Zeroizing::new(serde_json::to_string(&self.entries)?);
        // The file is replaced as a whole, since two terminals may write it at the same time.
        let part = path.with_extension(format!("{}.part", std::process::id()));
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        file.write_all(text.as_bytes())?;
        std::fs::rename(&part, path)?;
        Ok(())
    }
}
