//! The table `[sign_in]`: the login host, and how long sessions of browsers last. `[sign_in.pages]` is in [`super::pages`].

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{
    kinds::{Number, Parsed, Seconds},
    pages::PagesTable,
    section::{Report, Section, table},
};
use crate::{
    sessions::{Lifetime, flow::PublicUrls, settings::SessionSettings},
    sign_in::settings::SignInSettings,
    workspaces::host::Host,
};

table! {
    /// How people sign in with a browser; needs an issuer with `[issuer.sign_in]`.
    SignInTable = "sign_in", restart;
    /// The login host. It must be of the same site (registrable domain) as the workspaces, and must not be the host of a workspace.
    host: required Parsed<Host>, example("\"login.example.com\"");
    /// Where the agent serves the sign-in pages to HAProxy, `IP:PORT`.
    listen: required Parsed<SocketAddr>, example("\"127.0.0.1:9011\"");
    /// The secret keys that encrypt sessions. The first key encrypts; every key can decrypt.
    encryption_keys_file: required PathBuf, note("created if it does not exist"), example("\"session-keys\"");
    /// The file in which sessions outlive a restart of the agent.
    sessions_file: optional PathBuf, note("in memory"), example("\"sessions.jsonl\"");
    /// The port of HAProxy's https, as browsers see it.
    port: default Number<1, 65_535, u16> = 443;
    /// A session ends after this time without a request.
    idle_seconds: default Seconds<60, 2_592_000> = Duration::from_hours(8);
    /// The maximum lifetime of a session, even if it is in use.
    absolute_seconds: default Seconds<60, 2_592_000> = Duration::from_hours(24);
    /// How often a provider that gave a refresh token is asked whether a session in use is still valid; 0 turns that off.
    refresh_seconds: default Seconds<0, 86_400> = Duration::from_mins(5);
    /// The words and the look of the pages.
    pages: optional PagesTable;
}

impl Section for SignInTable {
    type Value = SignInSettings;

    fn build(self, _: &mut Report) -> Option<SignInSettings> {
        let absolute = self.absolute_seconds;
        let sessions = SessionSettings {
            urls: PublicUrls { login: self.host?.as_str().into(), port: self.port },
            keys: self.encryption_keys_file?,
            file: self.sessions_file,
            // Set from the table [redis], when the whole document is read.
            redis: None,
            lifetime: Lifetime { idle: self.idle_seconds.min(absolute), absolute },
        };
        Some(SignInSettings {
            listen: self.listen?,
            sessions,
            refresh: Some(self.refresh_seconds).filter(|every| !every.is_zero()),
            pages: self.pages.unwrap_or_default(),
        })
    }
}
