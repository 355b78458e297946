//! The files and variables that a configuration names and whose contents the agent needs: secrets, certificates, keys,
//! the texts and the logo of the pages.
//!
//! Reading a configuration opens no other file. [`Config::inputs`] then reads what it names, by the functions that the
//! agent's parts use, so that `check` and a start report all of them at once, each at the line that names it. What was
//! read is dropped again.
//!
//! A file that the agent makes at its first start may be absent. The token of a platform may be, too: it is read for each
//! call, so its absence is a warning. So is a credential of systemd whose service does not run, since it exists only
//! while the service does.

use std::{fmt::Display, io, path::Path};

use super::Config;
use crate::{
    audit,
    diagnostics::{Mistake, Mistakes},
    identity::settings::ClientKey,
    secret::SecretLocation,
    sessions::{keyring::Keyring, settings::SharedStoreSettings},
    sign_in::{
        page::{PageSettings, Pages, PagesError},
        settings::SignInSettings,
    },
    sources::{
        http::ApiCredential,
        settings::{SourceKind, SourceSettings},
    },
    workspaces::source::SourceError,
};

/// Where systemd puts the credentials of services, in a directory for each unit.
const CREDENTIALS: &str = "/run/credentials";

/// What reading the named files and variables gave, in the order of the lines.
#[derive(Debug, Default)]
pub struct Inputs {
    /// What keeps the agent from starting.
    pub mistakes: Mistakes,
    /// What the agent starts without, and what cannot be read before its service runs.
    pub warnings: Vec<Mistake>,
}

/// The results so far, and the configuration that names the keys.
struct Examined<'c> {
    config: &'c Config,
    mistakes: Vec<Mistake>,
    warnings: Vec<Mistake>,
}

impl Config {
    /// Reads every file and variable that is named and read at a start, and reports those that cannot be used.
    #[must_use]
    pub fn inputs(&self) -> Inputs {
        let mut examined = Examined { config: self, mistakes: vec![], warnings: vec![] };
        for (index, issuer) in self.issuers.iter().enumerate() {
            let table = format!("/issuer/{index}");
            if let Some(path) = &issuer.ca_file {
                examined.needs(&format!("{table}/ca_file"), Some(path), issuer.fetcher());
            }
            if let Some(introspection) = &issuer.introspection {
                examined.client_key(&format!("{table}/introspection"), &introspection.key);
            }
            if let Some(client) = &issuer.client {
                examined.client_key(&format!("{table}/sign_in"), &client.key);
            }
        }
        if let Some(sign_in) = &self.sign_in {
            examined.sign_in(sign_in);
        }
        // The list of [workspaces] is the first source and has no table [[source]].
        let unlisted = self.sources.sources.len().saturating_sub(self.listed_sources());
        for (index, source) in self.sources.sources.iter().skip(unlisted).enumerate() {
            examined.source(&format!("/source/{index}"), source);
        }
        examined.audit_key();
        let Examined { mut mistakes, mut warnings, .. } = examined;
        // Mistakes in other files, which have lines of their own, come last.
        mistakes.sort_by_key(|mistake| (mistake.file != self.file, mistake.place));
        warnings.sort_by_key(|warning| warning.place);
        Inputs { mistakes: mistakes.into(), warnings }
    }
}

impl Examined<'_> {
    /// Reports that a key's input cannot be used. `path` is the file, if it is one.
    fn needs<T>(&mut self, key: &str, path: Option<&Path>, read: Result<T, impl Display>) {
        let Err(error) = read else { return };
        if !self.is_not_there_yet(key, path) {
            // The alternate form of an error has its causes, too.
            let mistake = self.mistake(&[key], format!("{error:#}"));
            self.mistakes.push(mistake);
        }
    }

    /// Reports an input without which the agent starts, and what does not work without it.
    fn wants<T>(
        &mut self,
        key: &str,
        path: Option<&Path>,
        read: Result<T, impl Display>,
        without: &str,
    ) {
        let Err(error) = read else { return };
        if !self.is_not_there_yet(key, path) {
            let warning = self.mistake(&[key], format!("{error:#}: {without}"));
            self.warnings.push(warning);
        }
    }

    /// Whether the file is a credential of a service that does not run; if so there is a warning.
    fn is_not_there_yet(&mut self, key: &str, path: Option<&Path>) -> bool {
        let Some((path, unit)) = path.and_then(|path| Some((path, stopped_service(path)?))) else {
            return false;
        };
        let message = format!(
            "not checked: systemd makes {} when {unit} starts, and {unit} does not run; check again, as root, while it runs",
            path.display()
        );
        let warning = self.mistake(&[key], message);
        self.warnings.push(warning);
        true
    }

    /// A mistake at the first of these keys that the configuration has.
    fn mistake(&self, keys: &[&str], message: String) -> Mistake {
        let place = self.config.place(keys);
        Mistake { file: self.config.file.clone(), place, message }
    }

    fn client_key(&mut self, table: &str, key: &ClientKey) {
        let (name, path) = match key {
            ClientKey::Secret(SecretLocation::File(path), _) => ("client_secret_file", Some(path)),
            ClientKey::Secret(SecretLocation::Env(_), _) => ("client_secret_env", None),
            ClientKey::PrivateKey(path, ..) => ("private_key_file", Some(path)),
            ClientKey::Public => return,
        };
        let path = path.map(|path| &**path);
        self.needs(&format!("{table}/{name}"), path, key.authentication());
    }

    fn sign_in(&mut self, sign_in: &SignInSettings) {
        let keys = &sign_in.sessions.keys;
        let ring = Keyring::read(keys).map_err(|error| format!("{}: {error}", keys.display()));
        self.needs("/sign_in/encryption_keys_file", Some(keys), ring);
        let pages = &sign_in.pages;
        let only_logo = PageSettings { texts: None, ..pages.clone() };
        let only_texts = PageSettings { logo: None, ..pages.clone() };
        let logo = Pages::load(only_logo, vec![]);
        self.needs("/sign_in/pages/logo_file", pages.logo.as_deref(), logo);
        match Pages::load(only_texts, vec![]) {
            // Mistakes in the texts are in the lines of that file.
            Err(PagesError::Texts(mistakes))
                if mistakes.as_slice().iter().any(|mistake| mistake.place.is_some()) =>
            {
                self.mistakes.extend(mistakes);
            }
            texts => self.needs("/sign_in/pages/texts_file", pages.texts.as_deref(), texts),
        }
        if let Some(redis) = &sign_in.sessions.redis {
            self.redis(redis);
        }
    }

    fn redis(&mut self, redis: &SharedStoreSettings) {
        if let Some(location) = &redis.password {
            let (key, path) = match location {
                SecretLocation::File(path) => ("/redis/password_file", Some(&**path)),
                SecretLocation::Env(_) => ("/redis/password_env", None),
            };
            self.needs(key, path, location.read());
        }
        if let Some(path) = &redis.ca_file {
            self.needs("/redis/ca_file", Some(path), read(path));
        }
    }

    fn source(&mut self, table: &str, source: &SourceSettings) {
        if let Some(platform) = source.kind.platform() {
            if let Some(path) = &platform.ca_file {
                let authority = platform.authority().transpose();
                self.needs(&format!("{table}/ca_file"), Some(path), authority);
            }
            let without = "the source delivers no workspaces until there is one";
            self.token(table, "token", &platform.credential, without);
        }
        match &source.kind {
            SourceKind::Hub(_, _, listen) => {
                let without = "the hub's routes are refused until there is one";
                self.token(table, "routes_token", &listen.token, without);
            }
            SourceKind::Kubernetes(settings, _) => {
                if let Some(path) = &settings.kubeconfig {
                    let without = "the source delivers no workspaces until it can be read";
                    self.wants(&format!("{table}/kubeconfig"), Some(path), read(path), without);
                }
            }
            _ => {}
        }
    }

    /// The token in the keys `NAME_file` or `NAME_env` of a table.
    fn token(&mut self, table: &str, name: &str, credential: &ApiCredential, without: &str) {
        let (kind, path) = match credential {
            ApiCredential::File(path) => ("file", Some(&**path)),
            ApiCredential::Env(_) => ("env", None),
        };
        // Before a platform was asked, only the place of the credential says something.
        let read = credential.read().map_err(|error| match error {
            SourceError::Unauthorized(what) => what,
            error => error.to_string(),
        });
        self.wants(&format!("{table}/{name}_{kind}"), path, read, without);
    }

    /// The key that signs checkpoints, which the agent makes if it is absent. Often the agent's user alone can read it,
    /// so another user who checks cannot tell whether it is good.
    fn audit_key(&mut self) {
        let Some(path) = &self.config.audit.key else { return };
        if let Err(error) = audit::check_signing_key(path)
            && error.kind() == io::ErrorKind::InvalidData
        {
            let message = format!("{}: {error}", path.display());
            let mistake = self.mistake(&["/audit/key_file", "/audit/file"], message);
            self.mistakes.push(mistake);
        }
    }
}

/// The unit of a credential, if systemd has not made the unit's directory.
fn stopped_service(path: &Path) -> Option<impl Display> {
    let below = path.strip_prefix(CREDENTIALS).ok()?;
    let unit = Path::new(below.components().next()?.as_os_str());
    let stopped = !Path::new(CREDENTIALS).join(unit).exists();
    stopped.then(|| unit.display())
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}
