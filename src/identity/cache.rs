//! The cache of verified tokens, so that a signature is checked once for each token and not for each request.
//!
//! The key is a SHA-256 digest of a random prefix and the token. So no token stays in memory longer than its request,
//! and a client cannot choose two tokens with the same key. Revocations are not cached: they are checked for each request.
//!
//! The invariant: an entry is used only before its token ends, and only while the key set that verified it is current.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use aws_lc_rs::{digest, rand};
use moka::{Expiry, sync::Cache};

use super::{Identity, evidence::Evidence};
use crate::time::Timestamp;

/// The key of a token in the cache.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenDigest([u8; 32]);

/// A verified token.
#[derive(Clone)]
pub struct Verified {
    /// The identity that it stands for.
    pub identity: Arc<Identity>,
    /// The index of the issuer in [`super::issuers::Issuers::providers`].
    pub issuer: usize,
    /// The number of the key set that verified it. With another key set the token must be verified again.
    pub key_set: u64,
    /// What the record of a decision says about it.
    pub evidence: Evidence,
}

/// A bounded cache of verified tokens, whose entries end with their tokens.
pub struct TokenCache {
    prefix: [u8; 32],
    entries: Cache<TokenDigest, Verified>,
}

struct EndsWithToken;

impl TokenCache {
    /// A cache of at most `capacity` tokens.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn new(capacity: u64) -> Result<Self, aws_lc_rs::error::Unspecified> {
        let mut prefix = [0; 32];
        rand::fill(&mut prefix)?;
        let entries = Cache::builder().max_capacity(capacity).expire_after(EndsWithToken).build();
        Ok(Self { prefix, entries })
    }

    /// The key of a token in this cache.
    #[must_use]
    pub fn digest(&self, token: &[u8]) -> TokenDigest {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&self.prefix);
        context.update(token);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(context.finish().as_ref());
        TokenDigest(bytes)
    }

    /// The verified token, if it is in the cache and has not ended at `now`.
    #[must_use]
    pub fn find(&self, token: &TokenDigest, now: Timestamp) -> Option<Verified> {
        // The cache expires by a monotonic clock, but tokens end by wall time, which can be set: so it is checked again.
        self.entries.get(token).filter(|verified| now < verified.identity.expires)
    }

    /// Adds a verified token.
    pub fn remember(&self, token: TokenDigest, verified: Verified) {
        self.entries.insert(token, verified);
    }
}

impl Expiry<TokenDigest, Verified> for EndsWithToken {
    fn expire_after_create(
        &self,
        _: &TokenDigest,
        verified: &Verified,
        _: Instant,
    ) -> Option<Duration> {
        Some(verified.identity.expires.since(Timestamp::now()))
    }

    // By default moka keeps the old deadline when an entry is replaced.
    fn expire_after_update(
        &self,
        _: &TokenDigest,
        verified: &Verified,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(verified.identity.expires.since(Timestamp::now()))
    }
}
