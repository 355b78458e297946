//! Tokens that were verified already.
//!
//! The key is a digest over a random prefix and the token, so that no token lies in memory longer
//! than its request, and nobody outside can make two tokens meet.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use aws_lc_rs::{digest, rand};
use moka::{Expiry, sync::Cache};

use super::{Identity, evidence::Evidence};
use crate::time::Timestamp;

/// A token's name in the cache.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenDigest([u8; 32]);

/// What is remembered of a verified token.
#[derive(Clone)]
pub struct Verified {
    /// Whose it is.
    pub identity: Arc<Identity>,
    /// The position of the issuer in the configuration.
    pub issuer: usize,
    /// The key set that verified it; with any other set the token must be verified again.
    pub key_set: u64,
    /// What is on record of it.
    pub evidence: Evidence,
}

/// A bounded cache of verified tokens. An entry ends with its token.
pub struct TokenCache {
    prefix: [u8; 32],
    entries: Cache<TokenDigest, Verified>,
}

struct EndsWithToken;

impl TokenCache {
    /// A cache of at most `capacity` tokens.
    ///
    /// # Errors
    /// The system has no random numbers to give.
    pub fn new(capacity: u64) -> Result<Self, aws_lc_rs::error::Unspecified> {
        let mut prefix = [0; 32];
        rand::fill(&mut prefix)?;
        let entries = Cache::builder().max_capacity(capacity).expire_after(EndsWithToken).build();
        Ok(Self { prefix, entries })
    }

    /// The token's name in this cache.
    #[must_use]
    pub fn digest(&self, token: &[u8]) -> TokenDigest {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&self.prefix);
        context.update(token);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(context.finish().as_ref());
        TokenDigest(bytes)
    }

    /// What is known of the token, if it is not over at `now`.
    #[must_use]
    pub fn find(&self, token: &TokenDigest, now: Timestamp) -> Option<Verified> {
        // The cache's own clock is monotonic; the token's end is wall time, so it is asked again.
        self.entries.get(token).filter(|verified| now < verified.identity.expires)
    }

    /// Remembers a verified token.
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

    // By default an update would keep the old deadline.
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
