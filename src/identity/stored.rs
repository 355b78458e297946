//! An identity as it is written to disk and to Redis, so that sessions and tunnels outlive the agent.
//!
//! [`sessions`](crate::sessions) and [`tunnels`](crate::tunnels) store identities in this one form. It has the name and
//! the identifier of the [`Authority`] instead of the authority itself, because the configuration may have changed when it
//! is read again: [`StoredIdentity::restore`] finds the authority among those that are configured then. It is not
//! encrypted: the module that writes it protects it, since it has names and groups of people.
//!
//! A form of another version, or one with a field that this version does not know, is an error: part of an identity is
//! never taken for all of it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Authority, Identity, TokenIds, groups::JoinedGroups};
use crate::time::Timestamp;

/// The version that is written, and the only one that is read.
const VERSION: u8 = 1;

/// An identity in its stored form. Times are in milliseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredIdentity {
    version: Version,
    /// The configured name of the authority when this was written; it may have another one by now.
    authority: String,
    identifier: String,
    issuer: String,
    subject: String,
    email: Option<String>,
    username: Option<String>,
    groups: Vec<String>,
    groups_overage: bool,
    organization: Option<String>,
    token: Option<String>,
    session: Option<String>,
    sub: Option<String>,
    issued_ms: Option<u64>,
    bound_to: Option<[u8; 32]>,
    expires_ms: u64,
}

/// The version of the form. Only [`VERSION`] can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
struct Version;

/// The stored form is of a version that this program does not know.
#[derive(Debug, Error)]
#[error("a stored identity has version {0}, and only version {VERSION} is known")]
struct UnknownVersion(u8);

impl TryFrom<u8> for Version {
    type Error = UnknownVersion;

    fn try_from(version: u8) -> Result<Self, UnknownVersion> {
        if version == VERSION { Ok(Self) } else { Err(UnknownVersion(version)) }
    }
}

impl From<Version> for u8 {
    fn from(_: Version) -> Self {
        VERSION
    }
}

impl From<&Identity> for StoredIdentity {
    fn from(identity: &Identity) -> Self {
        let text = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
        Self {
            version: Version,
            authority: identity.authority.name.to_string(),
            identifier: identity.authority.identifier.to_string(),
            issuer: identity.issuer.to_string(),
            subject: identity.subject.to_string(),
            email: text(&identity.email),
            username: text(&identity.username),
            groups: identity.groups.iter().map(ToString::to_string).collect(),
            groups_overage: identity.groups_overage,
            organization: text(&identity.organization),
            token: text(&identity.token.id),
            session: text(&identity.token.session),
            sub: text(&identity.token.sub),
            issued_ms: identity.token.issued.map(Timestamp::as_millis),
            bound_to: identity.bound_to,
            expires_ms: identity.expires.as_millis(),
        }
    }
}

impl StoredIdentity {
    /// The identity, with its authority as it is configured now; `None` if its authority is not configured any more.
    #[must_use]
    pub fn restore<'a>(
        self,
        authorities: impl IntoIterator<Item = &'a Arc<Authority>>,
    ) -> Option<Identity> {
        let all = authorities.into_iter();
        let authority = Authority::find(all, &self.authority, &self.identifier, &self.issuer)?;
        let text = |text: Option<String>| text.map(String::into_boxed_str);
        let groups: Vec<Box<str>> = self.groups.into_iter().map(Into::into).collect();
        Some(Identity {
            authority: Arc::clone(authority),
            issuer: self.issuer.into(),
            subject: self.subject.into(),
            email: text(self.email),
            username: text(self.username),
            // It follows from the groups, so it is not stored.
            groups_joined: JoinedGroups::new(&groups),
            groups,
            groups_overage: self.groups_overage,
            organization: text(self.organization),
            token: TokenIds {
                id: text(self.token),
                session: text(self.session),
                sub: text(self.sub),
                issued: self.issued_ms.map(Timestamp::from_millis),
            },
            bound_to: self.bound_to,
            expires: Timestamp::from_millis(self.expires_ms),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};
    use serde_json::{Value, json};

    use super::*;

    fn text() -> impl Strategy<Value = Box<str>> {
        "\\PC{0,12}".prop_map(Into::into)
    }

    prop_compose! {
        fn token_ids()(
            id in option::of(text()),
            session in option::of(text()),
            sub in option::of(text()),
            issued in option::of(any::<u64>()),
        ) -> TokenIds {
            TokenIds { id, session, sub, issued: issued.map(Timestamp::from_millis) }
        }
    }

    prop_compose! {
        fn identities()(
            names in [text(), text(), text(), text()],
            texts in [option::of(text()), option::of(text()), option::of(text())],
            groups in vec(text(), 0..5),
            groups_overage: bool,
            token in token_ids(),
            bound_to: Option<[u8; 32]>,
            expires: u64,
        ) -> Identity {
            let [name, identifier, issuer, subject] = names;
            let [email, username, organization] = texts;
            let accepted = [issuer.clone()].into();
            Identity {
                authority: Arc::new(Authority { name, identifier, accepted, matching: vec![] }),
                issuer,
                subject,
                email,
                username,
                groups_joined: JoinedGroups::new(&groups),
                groups,
                groups_overage,
                organization,
                token,
                bound_to,
                expires: Timestamp::from_millis(expires),
            }
        }
    }

    proptest! {
        #[test]
        fn every_identity_is_restored_as_it_was(identity in identities()) {
            let text = serde_json::to_vec(&StoredIdentity::from(&identity)).unwrap();
            let stored: StoredIdentity = serde_json::from_slice(&text).unwrap();
            let restored = stored.restore([&identity.authority]).unwrap();
            prop_assert!(Arc::ptr_eq(&restored.authority, &identity.authority));
            prop_assert_eq!(format!("{restored:?}"), format!("{identity:?}"));
        }

        #[test]
        fn an_identity_of_an_authority_that_is_not_configured_is_not_restored(
            identity in identities(),
        ) {
            prop_assert!(StoredIdentity::from(&identity).restore([]).is_none());
            let mut other = Authority::clone(&identity.authority);
            other.accepted = ["\n".into()].into();
            prop_assert!(StoredIdentity::from(&identity).restore([&Arc::new(other)]).is_none());
        }
    }

    fn stored() -> Value {
        let authority = Arc::new(Authority::new("corp", "https://corp", vec![]));
        let identity = Identity::plain(authority, "https://corp", "alice");
        serde_json::to_value(StoredIdentity::from(&identity)).unwrap()
    }

    fn read(stored: Value) -> Result<StoredIdentity, String> {
        serde_json::from_value(stored).map_err(|error| error.to_string())
    }

    #[test]
    fn another_version_or_an_unknown_field_is_an_error() {
        assert!(read(stored()).is_ok());
        for version in [json!(0), json!(2), json!(256), json!("1"), Value::Null] {
            let mut other = stored();
            other["version"] = version.clone();
            assert!(read(other).is_err(), "{version}");
        }
        let mut other = stored();
        other["version"] = json!(2);
        assert_eq!(
            read(other).unwrap_err(),
            "a stored identity has version 2, and only version 1 is known"
        );
        let mut more = stored();
        more["admin"] = json!(true);
        assert!(read(more).unwrap_err().starts_with("unknown field `admin`"));
    }

    #[test]
    fn a_form_that_lacks_what_every_identity_has_is_an_error() {
        let needed =
            ["version", "authority", "identifier", "issuer", "subject", "groups", "expires_ms"];
        for field in needed {
            let mut less = stored();
            less.as_object_mut().unwrap().remove(field);
            assert!(read(less).unwrap_err().contains("missing field"), "{field}");
        }
    }
}
