//! Opaque tokens: the agent asks their issuer what they mean (RFC 7662).
//!
//! A request never waits on the network by itself: the call runs in a task, once for all requests with the same token,
//! and the response is cached for a short time. The cache has a digest of the token, never the token. A response is
//! checked as strictly as the claims of a JWT.
//!
//! The invariant: while the issuer does not answer, requests with its opaque tokens are refused.

use std::{
    collections::HashMap,
    sync::{Arc, MutexGuard},
    time::{Duration, Instant},
};

use moka::{Expiry, sync::Cache};
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, watch};
use tracing::{debug, warn};
use zeroize::Zeroizing;

use super::{
    Authentication, Identity, Profile, TokenError, cache::TokenDigest, claims, json,
    pending::Waiting,
};
use crate::{
    lock::Mutex,
    time::{MonotonicTime, Timestamp},
    traces,
};

mod client;

pub use client::{IntrospectionClient, IntrospectionError};

/// The longest opaque token that the agent asks about, in bytes.
const MAX_TOKEN: usize = 4096;
/// The most calls at the same time.
const MAX_IN_FLIGHT: usize = 256;
/// How long a token that is not active is cached.
const INACTIVE_CACHE_TIME: Duration = Duration::from_secs(10);
/// How long a failure is cached: the issuer is not asked about the same token again before.
const FAILURE_CACHE_TIME: Duration = Duration::from_secs(1);

/// The opaque tokens of one issuer.
pub struct Introspector {
    profile: Arc<Profile>,
    client: IntrospectionClient,
    keep: Duration,
    answers: Cache<TokenDigest, CachedResponse>,
    pending: Mutex<HashMap<TokenDigest, watch::Sender<u64>>>,
    in_flight: Arc<Semaphore>,
}

/// The result of a call, with the time at which it ends. `Err(None)` is a failure of the call.
#[derive(Clone)]
struct CachedResponse {
    verdict: Result<Arc<Identity>, Option<TokenError>>,
    until: Timestamp,
}

struct EndsWithResponse;

/// A call under way. Dropping it wakes the requests that wait for it, even if the task was cancelled or panicked.
struct PendingGuard {
    introspector: Arc<Introspector>,
    digest: TokenDigest,
}

impl Drop for PendingGuard {
    fn drop(&mut self) {
        if let Some(done) = self.introspector.lock().remove(&self.digest) {
            done.send_replace(1);
        }
    }
}

impl Introspector {
    /// An introspector that calls through `client`, and caches each response for `keep` at most, `capacity` of them.
    #[must_use]
    pub fn new(
        profile: Arc<Profile>,
        client: IntrospectionClient,
        keep: Duration,
        capacity: u64,
    ) -> Self {
        let answers =
            Cache::builder().max_capacity(capacity).expire_after(EndsWithResponse).build();
        Self {
            profile,
            client,
            keep,
            answers,
            pending: Mutex::default(),
            in_flight: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
        }
    }

    /// Whether a token is opaque, and short enough to ask its issuer about it.
    #[must_use]
    pub fn is_opaque(token: &[u8]) -> bool {
        looks_opaque(token) && token.len() <= MAX_TOKEN
    }

    /// Whether a token is opaque, and too long to ask its issuer about it.
    #[must_use]
    pub fn is_too_long(token: &[u8]) -> bool {
        looks_opaque(token) && token.len() > MAX_TOKEN
    }

    /// Settles in advance what the issuer answers about a token.
    #[cfg(test)]
    pub(super) fn remember(&self, digest: TokenDigest, answer: Result<Arc<Identity>, TokenError>) {
        let until = Timestamp::now().plus(Duration::from_hours(1));
        self.answers.insert(digest, CachedResponse { verdict: answer.map_err(Some), until });
    }

    /// The cached result for a token, or the end of a call to wait for. Starts the call if none is under way.
    pub(super) fn lookup(
        self: &Arc<Self>,
        token: &[u8],
        digest: TokenDigest,
        now: Timestamp,
        waiting: Waiting,
    ) -> Result<Authentication, watch::Receiver<u64>> {
        if let Some(answer) = self.answers.get(&digest).filter(|answer| now < answer.until) {
            return Ok(match answer.verdict {
                Ok(identity) => Authentication::Known(identity),
                Err(Some(error)) => Authentication::Refused(error),
                Err(None) => Authentication::IntrospectionUnavailable,
            });
        }
        let (Waiting::Allowed, Ok(runtime)) = (waiting, tokio::runtime::Handle::try_current())
        else {
            return Ok(Authentication::IntrospectionUnavailable);
        };
        let mut pending = self.lock();
        if let Some(under_way) = pending.get(&digest) {
            return Err(under_way.subscribe());
        }
        // Every client can send opaque texts, so the calls to the issuer are limited.
        let Ok(permit) = Arc::clone(&self.in_flight).try_acquire_owned() else {
            warn!(issuer = %self.profile.authority.name, "a request with an opaque token is refused: too many introspection requests are under way");
            return Ok(Authentication::IntrospectionUnavailable);
        };
        let (done, wait) = watch::channel(0);
        pending.insert(digest, done);
        drop(pending);
        let ending = PendingGuard { introspector: Arc::clone(self), digest };
        let token = Zeroizing::new(token.to_vec());
        runtime.spawn(async move {
            let this = &ending.introspector;
            let answer = this.ask(&token).await;
            this.answers.insert(digest, answer);
            drop(permit);
        });
        Err(wait)
    }

    async fn ask(&self, token: &[u8]) -> CachedResponse {
        let name = &self.profile.authority.name;
        let started = MonotonicTime::now();
        let response = self.client.introspect(&self.profile, token).await;
        // The errors never have the token in them.
        let error = response.as_ref().err().map(ToString::to_string);
        traces::asked("introspection", name, MonotonicTime::now().since(started), error.as_deref());
        let response = match response {
            Ok(response) => response,
            Err(error) => {
                warn!(issuer = %name, %error, "introspecting an opaque token at its issuer failed: requests with this token are refused");
                return CachedResponse {
                    verdict: Err(None),
                    until: Timestamp::now().plus(FAILURE_CACHE_TIME),
                };
            }
        };
        let now = Timestamp::now();
        match read(&self.profile, &response, now.plus(self.keep), now) {
            Ok(identity) => {
                // Not until the token ends: the issuer may call it inactive earlier.
                let until = identity.expires.min(now.plus(self.keep));
                CachedResponse { verdict: Ok(Arc::new(identity)), until }
            }
            Err(error) => {
                debug!(issuer = %name, ?error, "an opaque token is not valid");
                let kept = if error.is_some() { INACTIVE_CACHE_TIME } else { FAILURE_CACHE_TIME };
                CachedResponse { verdict: Err(error), until: now.plus(kept) }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TokenDigest, watch::Sender<u64>>> {
        self.pending.lock()
    }
}

/// Whether a token is not a JWT, and has only the characters of a bearer token (RFC 6750 section 2.1).
fn looks_opaque(token: &[u8]) -> bool {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(b);
    // A JWT is verified here and never sent to an issuer, which may be another than its own.
    let is_jwt = token.split(|b| *b == b'.').count() == 3;
    !is_jwt && !token.is_empty() && token.iter().all(plain)
}

/// Reads a response (RFC 7662 section 2.2) as strictly as the claims of a JWT. `Err(None)` is a response that cannot be
/// read.
fn read(
    profile: &Profile,
    response: &[u8],
    at_most: Timestamp,
    now: Timestamp,
) -> Result<Identity, Option<TokenError>> {
    let mut claims: Map<String, Value> = json::object(response).map_err(|_| None)?;
    match claims.remove("active") {
        Some(Value::Bool(true)) => {}
        Some(Value::Bool(false)) => return Err(Some(TokenError::Inactive)),
        // Only the JSON values true and false are an answer (RFC 7662 section 2.2).
        _ => return Err(None),
    }
    if let Some(kind) = claims.remove("token_type") {
        match kind.as_str().map(str::to_ascii_lowercase).as_deref() {
            Some("bearer" | "access_token") => {}
            Some("dpop") => return Err(Some(TokenError::Bound)),
            _ => return Err(Some(TokenError::Type)),
        }
    }
    // A response needs neither `iss` nor `exp`: the issuer is the one that was asked, and without an end the response
    // is valid until the next call.
    claims.entry("iss").or_insert_with(|| profile.issuer.as_str().into());
    claims.entry("exp").or_insert_with(|| (at_most.as_millis() / 1000).into());
    claims::identity(profile, &claims, true, now).map_err(Some)
}

impl Expiry<TokenDigest, CachedResponse> for EndsWithResponse {
    fn expire_after_create(
        &self,
        _: &TokenDigest,
        answer: &CachedResponse,
        _: Instant,
    ) -> Option<Duration> {
        Some(answer.until.since(Timestamp::now()))
    }

    fn expire_after_update(
        &self,
        _: &TokenDigest,
        answer: &CachedResponse,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(answer.until.since(Timestamp::now()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn i1_only_what_is_not_a_jwt_is_asked_about() {
        for opaque in [&b"abc"[..], b"a.b", b"a.b.c.d.e", b"2YotnFZFEjr1zCsicMWpAA", b"a+/~-_="] {
            assert!(Introspector::is_opaque(opaque));
        }
        for other in [&b""[..], b"a.b.c", b"a b", b"a\r\nb", b"\xff", &[b'a'; 4097]] {
            assert!(!Introspector::is_opaque(other), "{}", other.escape_ascii());
        }
    }

    #[test]
    fn i1_a_response_is_judged_like_a_token() {
        let issuer = "https://idp.example.com".parse().unwrap();
        let profile = Profile::new("corp", issuer, vec!["workspaces".into()]);
        let now = Timestamp::from_secs(1_000_000);
        let judge = |over: Value| {
            let mut response = json!({
                "active": true, "sub": "alice", "aud": ["workspaces", "x"], "exp": 1_000_060,
                "token_type": "Bearer", "client_id": "c", "scope": "a b",
            });
            for (name, value) in over.as_object().unwrap() {
                response[name] = value.clone();
            }
            response.as_object_mut().unwrap().retain(|_, value| !value.is_null());
            read(&profile, response.to_string().as_bytes(), now.plus(Duration::from_mins(1)), now)
                .map(|identity| identity.subject)
        };
        assert_eq!(judge(json!({})).as_deref(), Ok("alice"));
        assert_eq!(judge(json!({"exp": null, "token_type": null})).as_deref(), Ok("alice"));
        for (over, want) in [
            (json!({"active": false}), Some(TokenError::Inactive)),
            (json!({"active": "true"}), None),
            (json!({"active": 1}), None),
            (json!({"active": null}), None),
            (json!({"aud": "other"}), Some(TokenError::Audience)),
            (json!({"aud": null}), Some(TokenError::Claims)),
            (json!({"sub": null}), Some(TokenError::Claims)),
            (json!({"exp": 1}), Some(TokenError::Expired)),
            (json!({"exp": "never"}), Some(TokenError::Claims)),
            (json!({"nbf": 2_000_000}), Some(TokenError::NotYetValid)),
            (json!({"iss": "https://elsewhere"}), Some(TokenError::Issuer)),
            (json!({"token_type": "DPoP"}), Some(TokenError::Bound)),
            (json!({"token_type": "refresh_token"}), Some(TokenError::Type)),
            (json!({"cnf": {"jkt": "x"}}), Some(TokenError::Bound)),
        ] {
            assert_eq!(judge(over.clone()).err(), Some(want), "{over}");
        }
        let twice = br#"{"active": false, "active": true, "sub": "a"}"#;
        assert_eq!(read(&profile, twice, now, now).err(), Some(None));
    }
}
