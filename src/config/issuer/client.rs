//! The tables `[issuer.introspection]` and `[issuer.sign_in]`: the agent as a client of the issuer, to which it proves
//! itself by a secret or a private key.

use std::{path::PathBuf, time::Duration};

use super::authorize::AuthorizeTable;
use crate::{
    config::{
        kinds::{Choice, Seconds, words_of},
        section::{Report, Section, table},
    },
    diagnostics::Word,
    identity::{
        client_auth::{AssertionAudience, ClientMethod, SecretMethod},
        settings::{ClientKey, ClientSettings, IntrospectionSettings},
        userinfo::UserinfoUse,
    },
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
    /// A file with a private key instead of a secret, PEM. If the file has a certificate after the key, its thumbprint is sent (`x5t#S256`).
    private_key_file: optional PathBuf, example("\"client-key.pem\"");
    /// The id by which the issuer knows the private key.
    key_id: optional String, example("\"key-1\"");
    /// The party that assertions made with the private key are for: the issuer, or the endpoint that is called.
    assertion_audience: optional Choice<AssertionAudience>, note("`\"issuer\"`; with the presets `entra` and `okta` `\"endpoint\"`"), example("\"endpoint\"");
    /// How the agent authenticates. `none` is for a public client, which has no secret; its codes are protected by PKCE alone.
    auth_method: optional Choice<ClientMethod>, note("by what the key is, and what the issuer's discovery document offers"), example("\"client_secret_post\"");
}

words_of!(AssertionAudience, ClientMethod);

impl Section for KeyGroup {
    type Value = ClientKey;

    fn build(self, report: &mut Report) -> Option<ClientKey> {
        let Self {
            client_secret_file: file, client_secret_env: env, private_key_file: key, ..
        } = self;
        let (id, audience, method) = (self.key_id, self.assertion_audience, self.auth_method);
        let is_for_key = id.is_some() || audience.is_some();
        match (file, env, key, method) {
            (None, None, None, Some(ClientMethod::None)) if !is_for_key => {
                return Some(ClientKey::Public);
            }
            (None, None, Some(file), None | Some(ClientMethod::PrivateKeyJwt)) => {
                return Some(ClientKey::PrivateKey(file, id, audience));
            }
            (Some(file), None, None, method) if !is_for_key => {
                let location = SecretLocation::File(file);
                if let Some(key) = with_secret(location, method) {
                    return Some(key);
                }
            }
            (None, Some(name), None, method) if !is_for_key => {
                if let Some(key) = with_secret(SecretLocation::Env(name), method) {
                    return Some(key);
                }
            }
            _ => {}
        }
        report.mistake(
            "expected exactly one of 'client_secret_file', 'client_secret_env' and 'private_key_file' (with 'key_id'), and an \
             'auth_method' that fits it; or only auth_method = \"none\" for a public client",
        );
        None
    }
}

/// A secret that is sent by this method; `None` if the method needs another key.
fn with_secret(location: SecretLocation, method: Option<ClientMethod>) -> Option<ClientKey> {
    let method = match method {
        None => None,
        Some(ClientMethod::ClientSecretBasic) => Some(SecretMethod::Basic),
        Some(ClientMethod::ClientSecretPost) => Some(SecretMethod::Post),
        Some(ClientMethod::PrivateKeyJwt | ClientMethod::None) => return None,
    };
    Some(ClientKey::Secret(location, method))
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

    fn build(self, report: &mut Report) -> Option<IntrospectionSettings> {
        let Self { client_id, key, endpoint, cache_seconds: cache_time } = self;
        if key == Some(ClientKey::Public) {
            report.mistake("an issuer answers about tokens to clients with a key only: auth_method = \"none\" is for sign-in");
        }
        Some(IntrospectionSettings { client_id: client_id?, key: key?, endpoint, cache_time })
    }
}

table! {
    /// The agent as a client of the issuer, for sign-in with a browser. One of the three kinds of client key is required, or `auth_method = "none"`.
    ClientTable = "issuer.sign_in";
    /// The agent's client id at the issuer.
    client_id: required Word, example("\"workspaces\"");
    key: group KeyGroup;
    /// The scopes that are asked for. Add `offline_access` where the issuer needs it for refresh tokens.
    scopes: default String = "openid email profile".into();
    /// Whether the issuer's userinfo endpoint is asked: when the ID token lacks a claim that the configuration needs (groups, what `match` and `require` name, an organization), or never.
    userinfo: optional Choice<UserinfoUse>, note("`\"when_needed\"`; with the preset `entra` `\"never\"`"), example("\"never\"");
    /// Parameters of the provider's own in the address where people sign in.
    authorize: optional AuthorizeTable;
    /// The name of the issuer on the page where people choose one.
    label: optional Word, note("the issuer's `name`"), example("\"Example\"");
}

words_of!(UserinfoUse);

impl Section for ClientTable {
    type Value = ClientSettings;

    fn build(self, _: &mut Report) -> Option<ClientSettings> {
        let Self { client_id, key, scopes, userinfo, authorize, label } = self;
        let authorize = authorize.unwrap_or_default();
        let (id, key) = (client_id?, key?);
        Some(ClientSettings { id, key, scopes, userinfo, authorize, ask_prompt: None, label })
    }
}
