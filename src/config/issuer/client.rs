//! The tables `[issuer.introspection]` and `[issuer.sign_in]`: the agent as a client of the issuer.

use std::{path::PathBuf, time::Duration};

use crate::{
    config::{
        Client, ClientKey, Introspection,
        kinds::Seconds,
        section::{Report, Section, table},
    },
    diagnostics::Word,
};

/// The longest time that an answer may be kept, in seconds: so long a token may live on after its issuer
/// took it back.
const MAX_KEEP: u64 = 60;

table! {
    /// How a client proves who it is.
    KeyGroup = "";
    /// A file with the secret.
    client_secret_file: optional PathBuf, example("\"client-secret\"");
    /// A variable of the environment with the secret.
    client_secret_env: optional String, example("\"CLIENT_SECRET\"");
    /// A private key instead of a secret, PEM.
    private_key_file: optional PathBuf, example("\"client-key.pem\"");
    /// What the issuer calls the private key.
    key_id: optional String, example("\"key-1\"");
}

impl Section for KeyGroup {
    type Value = ClientKey;

    fn build(self, report: &mut Report) -> Option<ClientKey> {
        let Self { client_secret_file, client_secret_env, private_key_file, key_id } = self;
        match (client_secret_file, client_secret_env, private_key_file, key_id) {
            (Some(file), None, None, None) => Some(ClientKey::SecretFile(file)),
            (None, Some(name), None, None) => Some(ClientKey::SecretEnv(name)),
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
    /// How the issuer is asked about tokens that are no JWTs. One of the three keys is needed.
    IntrospectionTable = "issuer.introspection";
    /// The agent's name at the issuer.
    client_id: required Word, example("\"workspaces\"");
    key: group KeyGroup;
    /// The address, an https URL.
    endpoint: optional String, note("the discovery document's"), example("\"https://idp.example.com/introspect\"");
    /// How long an answer is kept; never past the token's end.
    cache_seconds: default Seconds<1, MAX_KEEP> = Duration::from_secs(MAX_KEEP);
}

impl Section for IntrospectionTable {
    type Value = Introspection;

    fn build(self, _: &mut Report) -> Option<Introspection> {
        let Self { client_id, key, endpoint, cache_seconds: keep } = self;
        Some(Introspection { client_id: client_id?, key: key?, endpoint, keep })
    }
}

table! {
    /// The agent as a client of the issuer. One of the three keys is needed.
    ClientTable = "issuer.sign_in";
    /// The agent's name at the issuer.
    client_id: required Word, example("\"workspaces\"");
    key: group KeyGroup;
    /// What is asked for.
    scopes: default String = "openid email profile".into();
    /// What people call it, for the page to choose from.
    label: optional Word, note("the issuer's `name`"), example("\"Example\"");
}

impl Section for ClientTable {
    type Value = Client;

    fn build(self, _: &mut Report) -> Option<Client> {
        let Self { client_id, key, scopes, label } = self;
        Some(Client { id: client_id?, key: key?, scopes, label })
    }
}
