//! The tables `[issuer.introspection]` and `[issuer.sign_in]`: the agent as a client of the issuer, to which it proves
//! itself by a secret or a private key.

use std::{path::PathBuf, time::Duration};

use crate::{
    config::{
        kinds::Seconds,
        section::{Report, Section, table},
    },
    diagnostics::Word,
    identity::settings::{ClientKey, ClientSettings, IntrospectionSettings},
    secret::SecretLocation,
};

/// The longest time for which an answer may be cached, in seconds: a token stays valid for as long after its issuer
/// revoked it.
const MAX_CACHE_SECONDS: u64 = 60;

table! {
    /// How the agent proves which client it is.
    KeyGroup = "";
    /// A file with the client secret.
    client_secret_file: optional PathBuf, example("\"client-secret\"");
    /// An environment variable with the client secret.
    client_secret_env: optional String, example("\"CLIENT_SECRET\"");
    /// A file with a private key instead of a secret, PEM.
    private_key_file: optional PathBuf, example("\"client-key.pem\"");
    /// The id by which the issuer knows the private key.
    key_id: optional String, example("\"key-1\"");
}

impl Section for KeyGroup {
    type Value = ClientKey;

    fn build(self, report: &mut Report) -> Option<ClientKey> {
        let Self { client_secret_file, client_secret_env, private_key_file, key_id } = self;
        match (client_secret_file, client_secret_env, private_key_file, key_id) {
            (Some(file), None, None, None) => Some(ClientKey::Secret(SecretLocation::File(file))),
            (None, Some(name), None, None) => Some(ClientKey::Secret(SecretLocation::Env(name))),
            (None, None, Some(file), id) => Some(ClientKey::PrivateKey(file, id)),
            _ => {
                report.mistake(
                    "expected exactly one of 'client_secret_file', 'client_secret_env' and 'private_key_file' (with 'key_id')",
                );
                None
            }
        }
    }
}

table! {
    /// How the issuer is asked about tokens that are not JWTs. One of the three kinds of client key is required.
    IntrospectionTable = "issuer.introspection";
    /// The agent's client id at the issuer.
    client_id: required Word, example("\"workspaces\"");
    key: group KeyGroup;
    /// The address of the introspection endpoint, an https URL.
    endpoint: optional String, note("from the discovery document"), example("\"https://idp.example.com/introspect\"");
    /// How long an answer is cached, but never beyond the end of the token. A token that the issuer revokes stays valid for this time.
    cache_seconds: default Seconds<1, MAX_CACHE_SECONDS> = Duration::from_secs(MAX_CACHE_SECONDS);
}

impl Section for IntrospectionTable {
    type Value = IntrospectionSettings;

    fn build(self, _: &mut Report) -> Option<IntrospectionSettings> {
        let Self { client_id, key, endpoint, cache_seconds: cache_time } = self;
        Some(IntrospectionSettings { client_id: client_id?, key: key?, endpoint, cache_time })
    }
}

table! {
    /// The agent as a client of the issuer, for sign-in with a browser. One of the three kinds of client key is required.
    ClientTable = "issuer.sign_in";
    /// The agent's client id at the issuer.
    client_id: required Word, example("\"workspaces\"");
    key: group KeyGroup;
    /// The scopes that are asked for. Add `offline_access` where the issuer needs it for refresh tokens.
    scopes: default String = "openid email profile".into();
    /// The name of the issuer on the page where people choose one.
    label: optional Word, note("the issuer's `name`"), example("\"Example\"");
}

impl Section for ClientTable {
    type Value = ClientSettings;

    fn build(self, _: &mut Report) -> Option<ClientSettings> {
        let Self { client_id, key, scopes, label } = self;
        Some(ClientSettings { id: client_id?, key: key?, scopes, label })
    }
}
