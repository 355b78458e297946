//! One revocation, and those of one authority by what they name.
//!
//! A [`Revocation`] names exactly one thing: a subject, a session or a token. Whether it applies to an
//! identity is decided here and nowhere else.

use std::sync::Arc;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use super::{Identity, RevokeError};
use crate::time::Timestamp;

/// The longest text of a revocation, in bytes.
pub(super) const MAX_TEXT: usize = 512;

/// One revocation, in the form of the admin API and of the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Revocation {
    /// The issuer or certificate rule: its identifier, which the list uses, or its configured name. It may be left out where
    /// only one is configured.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub issuer: Box<str>,
    /// A subject: everything that was and will be issued to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<Box<str>>,
    /// With a subject: only what was issued before this time, in milliseconds since the Unix epoch, or has no time of issue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before_ms: Option<u64>,
    /// A session at the issuer (`sid`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<Box<str>>,
    /// A token (`jti`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Box<str>>,
    /// When it was revoked, by the agent's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<u64>,
    /// The administrator's note.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<Box<str>>,
}

/// What a revocation names.
#[derive(Clone, Copy)]
pub(super) enum RevocationKind {
    Subject,
    Session,
    Token,
}

/// The revocations of one authority, by what they name.
///
/// The maps are persistent, so that a copy of all takes no time however many there are: a request must not wait for the
/// lock while a million revocations are listed.
#[derive(Clone, Default)]
pub(super) struct AuthorityRevocations {
    pub(super) subjects: RevocationsById,
    pub(super) sessions: RevocationsById,
    pub(super) tokens: RevocationsById,
}

/// The revocations of one kind.
pub(super) type RevocationsById = imbl::HashMap<Arc<str>, Arc<Revocation>>;

impl AuthorityRevocations {
    /// Whether one of them applies to the identity.
    pub(super) fn cover(&self, identity: &Identity) -> bool {
        let token = &identity.token;
        let by_subject = self.subjects.get(&*identity.subject).is_some_and(|revocation| {
            match (revocation.before_ms, token.issued) {
                // A token without a time of issue may be older than the revocation, so it is refused.
                (Some(before), Some(issued)) => issued < Timestamp::from_millis(before),
                _ => true,
            }
        });
        by_subject
            || token.session.as_ref().is_some_and(|id| self.sessions.contains_key(&**id))
            || token.id.as_ref().is_some_and(|id| self.tokens.contains_key(&**id))
    }

    pub(super) fn of_kind(&mut self, kind: RevocationKind) -> &mut RevocationsById {
        match kind {
            RevocationKind::Subject => &mut self.subjects,
            RevocationKind::Session => &mut self.sessions,
            RevocationKind::Token => &mut self.tokens,
        }
    }

    pub(super) fn kind(&self, kind: RevocationKind) -> &RevocationsById {
        match kind {
            RevocationKind::Subject => &self.subjects,
            RevocationKind::Session => &self.sessions,
            RevocationKind::Token => &self.tokens,
        }
    }
}

impl Revocation {
    /// What is revoked, if the revocation names exactly one thing.
    pub(super) fn target(&self) -> Option<(RevocationKind, &str)> {
        match (&self.subject, &self.session, &self.token, self.before_ms) {
            (Some(subject), None, None, _) => Some((RevocationKind::Subject, subject)),
            (None, Some(session), None, None) => Some((RevocationKind::Session, session)),
            (None, None, Some(token), None) => Some((RevocationKind::Token, token)),
            _ => None,
        }
    }

    /// Checks that it names exactly one thing, with texts that a token can have.
    pub(super) fn validate(&self) -> Result<(), RevokeError> {
        let (_, named) = self.target().ok_or(RevokeError::Target)?;
        let clean = |text: &str| {
            !text.is_empty() && text.len() <= MAX_TEXT && !text.chars().any(char::is_control)
        };
        if clean(named) && self.note.as_deref().is_none_or(clean) {
            Ok(())
        } else {
            Err(RevokeError::Text)
        }
    }

    /// SHA-256 of what is revoked, without time and note: the key under which agents share it.
    #[must_use]
    pub fn key(&self) -> [u8; 32] {
        let target = self.target().map(|(kind, named)| (kind as u8, named));
        // Numbers, strings and pairs of them can always be written as JSON.
        let text = serde_json::to_vec(&(&*self.issuer, target)).unwrap_or_default();
        let mut name = [0; 32];
        name.copy_from_slice(digest::digest(&digest::SHA256, &text).as_ref());
        name
    }
}
