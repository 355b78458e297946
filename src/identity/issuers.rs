//! The configured issuers, and the one entry point for tokens: [`Issuers::authenticate`].
//!
//! A token is looked up in the cache, verified against the keys of its issuer, or given to introspection if it is opaque.
//! A token names its issuer itself, and only a configured issuer is used: no address in a token is ever followed.

use std::sync::Arc;

use aws_lc_rs::digest;

use super::{
    Authentication, Identity, TokenError,
    cache::{TokenCache, Verified},
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
        match self.verify(token, now, waiting, evidence) {
            Outcome::Settled(Authentication::Known(identity))
                if !is_proved(&identity, certificate) =>
            {
                Outcome::Settled(Authentication::Refused(TokenError::Bound))
            }
            outcome => outcome,
        }
    }

    fn verify(
        &self,
        token: &[u8],
        now: Timestamp,
        waiting: Waiting,
        evidence: &mut Evidence,
    ) -> Outcome {
        let digest = self.cache.digest(token);
        if let Some(verified) = self.cache.find(&digest, now)
            && self.is_current(&verified, now)
        {
            // The kind of credential is this request's; the rest is what was recorded when the token was verified.
            let credential = evidence.credential;
            *evidence = Evidence { credential, cached: true, ..verified.evidence };
            return Outcome::Settled(Authentication::Known(verified.identity));
        }
        if let Some(introspector) = &self.introspector
            && Introspector::is_opaque(token)
        {
            return match introspector.lookup(token, digest, now, waiting) {
                Ok(authentication) => Outcome::Settled(authentication),
                Err(ended) => Outcome::Wait(Pending::new(ended)),
            };
        }
        let refused = |error| Outcome::Settled(Authentication::Refused(error));
        let unverified = match Unverified::inspect(token) {
            Ok(unverified) => unverified,
            Err(error) => return refused(error),
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

    /// Whether the key set that verified a cached token is still the issuer's.
    fn is_current(&self, verified: &Verified, now: Timestamp) -> bool {
        self.providers
            .get(verified.issuer)
            .and_then(|provider| provider.keys(now))
            .is_some_and(|keys| keys.number == verified.key_set)
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
