//! The configured issuers, and the one entry point for tokens: [`Issuers::authenticate`].
//!
//! A token is looked up in the cache, verified against the keys of its issuer, or given to introspection if it is opaque.
//! A token names its issuer itself, and only a configured issuer is used: no address in a token is ever followed.
//!
//! An Authorization header may also hold a token of the app behind the gate: [`Issuers::judge`] tells it from one for the gate.

use std::sync::Arc;

use aws_lc_rs::digest;

use super::{
    Authentication, Identity, TokenError,
    cache::{TokenCache, TokenDigest, Verified},
    claimed_issuer,
    evidence::Evidence,
    introspection::Introspector,
    jwt::{Unverified, VerifyError},
    pending::{Pending, Waiting},
    profile::Profile,
    provider::Provider,
};
use crate::{fingerprint::Fingerprint, time::Timestamp};

/// The issuers whose tokens are accepted.
pub struct Issuers {
    providers: Vec<Arc<Provider>>,
    cache: TokenCache,
    introspector: Option<Arc<Introspector>>,
}

/// The result of authentication by a token.
pub enum Outcome {
    /// The result.
    Settled(Authentication),
    /// A fetch of keys or a call of introspection is under way, after which the result may be different.
    Wait(Pending),
}

/// What the token of an Authorization header is to the gate.
pub enum Judgement {
    /// It is of a configured issuer, or may be. It is valid, or why not.
    Ours(Authentication),
    /// It is the app's.
    Foreign(Foreign),
    /// As [`Outcome::Wait`].
    Wait(Pending),
}

/// How certain it is that a token is not for the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// No reader could take it for a token of a configured issuer.
    Certain,
    /// It is opaque, and its issuer answers that it is not active: a token of that issuer that has ended gets the same
    /// answer.
    Inactive,
}

impl Issuers {
    /// Issuers with a cache of tokens. No two of them may have the same issuer identifier.
    #[must_use]
    pub fn new(providers: Vec<Arc<Provider>>, cache: TokenCache) -> Self {
        Self { providers, cache, introspector: None }
    }

    /// Adds the introspection of opaque tokens.
    #[must_use]
    pub fn with_introspector(mut self, introspector: Introspector) -> Self {
        self.introspector = Some(Arc::new(introspector));
        self
    }

    /// Settles in advance what introspection answers about a token.
    #[cfg(test)]
    pub(crate) fn assume(&self, token: &[u8], answer: Result<Arc<Identity>, TokenError>) {
        let introspector = self.introspector.as_ref().unwrap();
        introspector.remember(self.cache.digest(token), answer);
    }

    /// The issuers, in the order of the configuration.
    pub fn profiles(&self) -> impl Iterator<Item = &Arc<Profile>> {
        self.providers.iter().map(|provider| provider.profile())
    }

    /// The providers, in the order of the configuration.
    #[must_use]
    pub fn providers(&self) -> &[Arc<Provider>] {
        &self.providers
    }

    /// Verifies a bearer token. A token that is bound to a client certificate is valid only together with it.
    ///
    /// Where waiting is allowed, an unknown key id or an opaque token may give [`TokenOutcome::Wait`].
    #[must_use]
    pub fn authenticate(
        &self,
        token: &[u8],
        certificate: Option<&[u8]>,
        now: Timestamp,
        waiting: Waiting,
    ) -> Outcome {
        self.authenticate_with_evidence(token, certificate, now, waiting, &mut Evidence::default())
    }

    /// As [`Self::authenticate`], and fills in the evidence for the record.
    pub fn authenticate_with_evidence(
        &self,
        token: &[u8],
        certificate: Option<&[u8]>,
        now: Timestamp,
        waiting: Waiting,
        evidence: &mut Evidence,
    ) -> Outcome {
        let digest = self.cache.digest(token);
        let outcome = match self.find_cached(&digest, now, evidence) {
            Some(identity) => Outcome::Settled(Authentication::Known(identity)),
            None => self.verify(token, digest, now, waiting, evidence),
        };
        proved(outcome, certificate)
    }

    /// Judges the token of an Authorization header with this value, which may be the app's. A token that is the app's is not
    /// verified; [`Self::authenticate`] says what is wrong with it.
    pub fn judge(
        &self,
        (header, token): (&[u8], &[u8]),
        certificate: Option<&[u8]>,
        now: Timestamp,
        waiting: Waiting,
        evidence: &mut Evidence,
    ) -> Judgement {
        let digest = self.cache.digest(token);
        // A token that was verified needs no second look.
        let outcome = if let Some(identity) = self.find_cached(&digest, now, evidence) {
            Outcome::Settled(Authentication::Known(identity))
        } else {
            let is_ours = self.may_be_in(header);
            if !is_ours && !self.introspects(token) {
                // It may be opaque, and the issuer is not asked about it.
                if self.introspector.is_some() && Introspector::is_too_long(token) {
                    return Judgement::Ours(Authentication::Refused(TokenError::Oversized));
                }
                return Judgement::Foreign(Foreign::Certain);
            }
            match self.verify(token, digest, now, waiting, evidence) {
                Outcome::Settled(Authentication::Refused(TokenError::Inactive)) if !is_ours => {
                    return Judgement::Foreign(Foreign::Inactive);
                }
                outcome => outcome,
            }
        };
        match proved(outcome, certificate) {
            Outcome::Settled(authentication) => Judgement::Ours(authentication),
            Outcome::Wait(pending) => Judgement::Wait(pending),
        }
    }

    /// Whether an issuer is asked about this token.
    #[must_use]
    pub fn introspects(&self, token: &[u8]) -> bool {
        self.introspector.is_some() && Introspector::is_opaque(token)
    }

    /// Whether the value of an Authorization header, of any scheme, could have a token of a configured issuer in it.
    #[must_use]
    pub fn may_be_in(&self, header: &[u8]) -> bool {
        claimed_issuer::is_in_header(header, |iss| {
            let mut accepted = self.profiles().flat_map(|profile| &profile.accepted);
            accepted.any(|accepted| claimed_issuer::is_alike(accepted.iss.as_bytes(), iss))
        })
    }

    /// The identity of a token that was verified for an earlier request.
    fn find_cached(
        &self,
        digest: &TokenDigest,
        now: Timestamp,
        evidence: &mut Evidence,
    ) -> Option<Arc<Identity>> {
        let verified = self.cache.find(digest, now)?;
        if !self.is_current(&verified, now) {
            return None;
        }
        // The kind of credential is this request's; the rest is what was recorded when the token was verified.
        let credential = evidence.credential;
        *evidence = Evidence { credential, cached: true, ..verified.evidence };
        Some(verified.identity)
    }

    fn verify(
        &self,
        token: &[u8],
        digest: TokenDigest,
        now: Timestamp,
        waiting: Waiting,
        evidence: &mut Evidence,
    ) -> Outcome {
        if let Some(introspector) = self.introspector.as_ref().filter(|_| self.introspects(token)) {
            return match introspector.lookup(token, digest, now, waiting) {
                Ok(authentication) => Outcome::Settled(authentication),
                Err(ended) => Outcome::Wait(Pending::new(ended)),
            };
        }
        let refused = |error| Outcome::Settled(Authentication::Refused(error));
        let unverified = match Unverified::inspect(token) {
            Ok(unverified) => unverified,
            Err(error) => return refused(self.explained(error, token)),
        };
        // The issuer is not verified yet. It only selects the keys, and the claims are checked against it afterwards.
        let Some((issuer, provider)) = unverified.issuer().and_then(|name| {
            self.providers
                .iter()
                .enumerate()
                .find(|(_, provider)| provider.profile().accepts(name).is_some())
        }) else {
            return refused(TokenError::Issuer);
        };
        let Some(keys) = provider.keys(now) else {
            return Outcome::Settled(Authentication::KeysUnavailable);
        };
        match unverified.verify(provider.profile(), &keys.set, now) {
            Ok(identity) => {
                let identity = Arc::new(identity);
                evidence.key_set = Some(Fingerprint::of_digest(keys.set.digest()));
                let token = identity.token.id.as_deref();
                evidence.token = token.map(|id| Fingerprint::of_bytes(id.as_bytes()));
                let (key_set, evidence) = (keys.number, *evidence);
                let verified =
                    Verified { identity: Arc::clone(&identity), issuer, key_set, evidence };
                self.cache.remember(digest, verified);
                Outcome::Settled(Authentication::Known(identity))
            }
            Err(VerifyError::Refused(error)) => refused(error),
            // The provider may have a new key that is not here yet.
            Err(VerifyError::UnknownKey) if waiting == Waiting::Allowed => match provider.refetch()
            {
                Some(ended) => Outcome::Wait(Pending::new(ended)),
                None => refused(TokenError::Key),
            },
            Err(VerifyError::UnknownKey) => refused(TokenError::Key),
        }
    }

    /// The error of a token that is not read any further. For a token of another issuer that is its issuer, and not how it is
    /// signed there.
    fn explained(&self, error: TokenError, token: &[u8]) -> TokenError {
        match error {
            TokenError::Algorithm | TokenError::Type if !self.may_be_in(token) => {
                TokenError::Issuer
            }
            _ => error,
        }
    }

    /// Whether the key set that verified a cached token is still the issuer's.
    fn is_current(&self, verified: &Verified, now: Timestamp) -> bool {
        self.providers
            .get(verified.issuer)
            .and_then(|provider| provider.keys(now))
            .is_some_and(|keys| keys.number == verified.key_set)
    }
}

/// The outcome, which is a refusal if the token is bound to a certificate that the request does not present.
fn proved(outcome: Outcome, certificate: Option<&[u8]>) -> Outcome {
    match outcome {
        Outcome::Settled(Authentication::Known(identity)) if !is_proved(&identity, certificate) => {
            Outcome::Settled(Authentication::Refused(TokenError::Bound))
        }
        outcome => outcome,
    }
}

/// Whether the request presents the client certificate that the token is bound to (RFC 8705 section 3). It is checked
/// for cached tokens too: they may come from a request with another certificate.
fn is_proved(identity: &Identity, certificate: Option<&[u8]>) -> bool {
    identity.bound_to.is_none_or(|thumbprint| {
        certificate.is_some_and(|der| {
            digest::digest(&digest::SHA256, der).as_ref() == thumbprint.as_slice()
        })
    })
}
