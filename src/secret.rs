//! Secrets that the configuration names: where each one is, and how it is read.
//!
//! A secret is in a file or in a variable of the environment, never in the configuration itself. It is read when the
//! subsystem that needs it is built, at the start and at a reload; it is wiped from memory after its last use. No error and no log line contains a part of a secret.

use std::{
    fs::Metadata,
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use secrecy::SecretString;
use thiserror::Error;
use tracing::warn;
use zeroize::Zeroizing;

use crate::fingerprint::Fingerprint;

/// The longest secret that is read, in bytes.
const MAX_SECRET: u64 = 64 * 1024;

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretLocation {
    /// In a file.
    File(PathBuf),
    /// In a variable of the environment.
    Env(String),
}

/// Why a secret cannot be read.
#[derive(Debug, Error)]
pub enum SecretError {
    /// The file is missing, or its mode or encoding is wrong.
    #[error("cannot read {}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The file is too long for a secret: probably the path is wrong.
    #[error("{} is longer than any secret", .0.display())]
    TooLong(PathBuf),
    /// There is no such variable, or it is not text.
    #[error("the environment has no variable {0}")]
    Env(String),
    /// The file or variable is empty.
    #[error("expected a secret, found nothing")]
    Empty,
}

impl SecretLocation {
    /// The secret, without the newline that editors add at its end.
    ///
    /// # Errors
    /// See [`SecretError`].
    pub fn read(&self) -> Result<SecretString, SecretError> {
        let text = self.text()?;
        let secret = text.strip_suffix('\n').unwrap_or(&text);
        if secret.is_empty() {
            return Err(SecretError::Empty);
        }
        Ok(SecretString::from(secret))
    }

    /// The text of the file or variable as it is, for keys in PEM.
    ///
    /// # Errors
    /// See [`SecretError`].
    pub fn text(&self) -> Result<Zeroizing<String>, SecretError> {
        match self {
            Self::File(path) => read_file(path),
            Self::Env(name) => match std::env::var(name) {
                Ok(text) => Ok(Zeroizing::new(text)),
                Err(_) => Err(SecretError::Env(name.clone())),
            },
        }
    }

    /// Tells whether a secret is still the same without keeping it.
    ///
    /// # Errors
    /// See [`SecretError`].
    pub fn fingerprint(&self) -> Result<Fingerprint, SecretError> {
        Ok(Fingerprint::of_bytes(self.text()?.as_bytes()))
    }
}

/// Warns of a secret in a file that every user of this machine can read. A file that does not exist causes no
/// warning: the code that reads it reports the error.
pub fn warn_if_readable(path: &Path) {
    if let Ok(about) = std::fs::metadata(path) {
        warn_of_mode(path, &about);
    }
}

fn warn_of_mode(path: &Path, about: &Metadata) {
    if about.permissions().mode() & 0o007 != 0 {
        warn!(path = %path.display(), "a file with a secret is readable by every user of this machine: set its mode to 0600");
    }
}

fn read_file(path: &Path) -> Result<Zeroizing<String>, SecretError> {
    let failed = |error| SecretError::File { path: path.to_owned(), error };
    let about = std::fs::metadata(path).map_err(failed)?;
    // A path to a disk image or a log must not be read into memory as a whole.
    if about.len() > MAX_SECRET {
        return Err(SecretError::TooLong(path.to_owned()));
    }
    warn_of_mode(path, &about);
    std::fs::read_to_string(path).map(Zeroizing::new).map_err(failed)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn a_secret_is_read_without_the_newline_at_its_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let location = SecretLocation::File(file.path().to_owned());
        for (text, secret) in [("s3cret", "s3cret"), ("s3cret\n", "s3cret"), ("a\n\n", "a\n")] {
            std::fs::write(file.path(), text).unwrap();
            assert_eq!(location.read().unwrap().expose_secret(), secret);
        }
    }

    #[test]
    fn an_invalid_secret_is_reported_without_its_text() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let location = SecretLocation::File(file.path().to_owned());
        assert!(matches!(location.read(), Err(SecretError::Empty)));
        std::fs::write(file.path(), "x".repeat(70_000)).unwrap();
        let error = location.read().unwrap_err().to_string();
        assert!(error.ends_with("is longer than any secret") && !error.contains("xx"), "{error}");
        let missing = SecretLocation::Env("IDENTITY_SPOA_NO_SUCH_VARIABLE".into());
        assert!(matches!(missing.read(), Err(SecretError::Env(_))));
    }
}
