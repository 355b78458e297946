//! The table `[sign_in]`; `[sign_in.pages]` is in [`super::pages`].

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{
    SignIn,
    kinds::{Number, Parsed, Seconds},
    pages::PagesTable,
    section::{Report, Section, table},
};
use crate::{
    sessions::{Lifetime, flow::PublicUrls},
    workspaces::host::Host,
};

table! {
    /// How people sign in with a browser; needs an issuer with `[issuer.sign_in]`.
    SignInTable = "sign_in", restart;
    /// The login host; of the same site (registrable domain) as the workspaces.
    host: required Parsed<Host>, example("\"login.example.com\"");
    /// Where HAProxy finds the pages, `IP:PORT`.
    listen: required Parsed<SocketAddr>, example("\"127.0.0.1:9011\"");
    /// The keys that encrypt sessions, a secret: the first key encrypts, every key decrypts.
    encryption_keys_file: required PathBuf, note("made if absent"), example("\"session-keys\"");
    /// A file in which sessions survive a restart of the agent.
    sessions_file: optional PathBuf, note("in memory"), example("\"sessions.jsonl\"");
    /// The port of HAProxy's https, as browsers see it.
    port: default Number<1, 65_535, u16> = 443;
    /// Sessions end after this time without a request.
    idle_seconds: default Seconds<60, 2_592_000> = Duration::from_hours(8);
    /// Sessions end after this time, even if they are in use.
    absolute_seconds: default Seconds<60, 2_592_000> = Duration::from_hours(24);
    /// How often providers are asked to confirm a session in use, by its refresh token; 0: never.
    refresh_seconds: default Seconds<0, 86_400> = Duration::from_mins(5);
    /// What the pages say.
    pages: optional PagesTable;
}

impl Section for SignInTable {
    type Value = SignIn;

    fn build(self, _: &mut Report) -> Option<SignIn> {
        let absolute = self.absolute_seconds;
        Some(SignIn {
            listen: self.listen?,
            urls: PublicUrls { login: self.host?.as_str().into(), port: self.port },
            keys: self.encryption_keys_file?,
            sessions: self.sessions_file,
            lifetime: Lifetime { idle: self.idle_seconds.min(absolute), absolute },
            refresh: Some(self.refresh_seconds).filter(|every| !every.is_zero()),
            pages: self.pages.unwrap_or_default(),
        })
    }
}
