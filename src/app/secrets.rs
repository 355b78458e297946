//! Secrets that the configuration names, read when the program starts.

use std::{fs::Metadata, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::{Context as _, bail};
use jsonwebtoken::{Algorithm, EncodingKey};
use secrecy::SecretString;
use tracing::warn;
use zeroize::Zeroizing;

use crate::{
    config::{ClientKey, Password},
    fingerprint::Fingerprint,
    identity::introspection::ClientAuthentication,
};

/// The longest secret that is read, in bytes.
const MAX_SECRET: u64 = 64 * 1024;

pub(crate) fn client_authentication(key: &ClientKey) -> anyhow::Result<ClientAuthentication> {
    match key {
        ClientKey::SecretFile(path) => {
            let text = read(path)?;
            let secret = secret(&text);
            let secret =
                secret.with_context(|| format!("the client_secret_file {}", path.display()))?;
            Ok(ClientAuthentication::Secret(secret))
        }
        ClientKey::SecretEnv(name) => {
            let text = Zeroizing::new(std::env::var(name).with_context(|| {
                format!("client_secret_env: the environment has no variable {name}")
            })?);
            let secret = secret(&text).with_context(|| format!("the variable {name}"))?;
            Ok(ClientAuthentication::Secret(secret))
        }
        ClientKey::PrivateKey(path, key_id) => {
            let pem = read(path)?;
            let rsa = EncodingKey::from_rsa_pem(pem.as_bytes()).map(|key| (key, Algorithm::RS256));
            let either = rsa.or_else(|_| {
                EncodingKey::from_ec_pem(pem.as_bytes()).map(|key| (key, Algorithm::ES256))
            });
            let Ok((key, algorithm)) = either else {
                bail!(
                    "the private_key_file {}: expected the PEM of an RSA or P-256 private key",
                    path.display()
                );
            };
            Ok(ClientAuthentication::PrivateKey { key, algorithm, key_id: key_id.clone() })
        }
    }
}

/// Whether a key is still the same.
pub(crate) fn fingerprint(key: &ClientKey) -> anyhow::Result<Fingerprint> {
    let text = match key {
        ClientKey::SecretFile(path) | ClientKey::PrivateKey(path, _) => read(path)?,
        ClientKey::SecretEnv(name) => Zeroizing::new(std::env::var(name)?),
    };
    Ok(Fingerprint::of_bytes(text.as_bytes()))
}

/// The password of a store.
pub(crate) fn password(password: &Password) -> anyhow::Result<SecretString> {
    match password {
        Password::File(path) => {
            secret(&read(path)?).with_context(|| format!("the password_file {}", path.display()))
        }
        Password::Env(name) => {
            let text = Zeroizing::new(std::env::var(name).with_context(|| {
                format!("password_env: the environment has no variable {name}")
            })?);
            secret(&text).with_context(|| format!("the variable {name}"))
        }
    }
}

/// Without the newline that editors add.
fn secret(text: &str) -> anyhow::Result<SecretString> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    if text.is_empty() {
        bail!("expected a secret, found nothing");
    }
    Ok(SecretString::from(text))
}

/// Says so if everybody on this machine can read a secret.
fn say_if_open(path: &Path, about: &Metadata) {
    if about.permissions().mode() & 0o007 != 0 {
        warn!(path = %path.display(), "a file with a secret is readable by every user of this machine: set its mode to 0600");
    }
}

/// Looks at the file of a secret that is read elsewhere, if there is one.
pub(crate) fn look_at(path: &Path) {
    if let Ok(about) = std::fs::metadata(path) {
        say_if_open(path, &about);
    }
}

fn read(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let named = || format!("cannot read {}", path.display());
    let about = std::fs::metadata(path).with_context(named)?;
    if about.len() > MAX_SECRET {
        bail!("{} is longer than any secret", path.display());
    }
    say_if_open(path, &about);
    Ok(Zeroizing::new(std::fs::read_to_string(path).with_context(named)?))
}
