//! Opaque tokens: what they say, their issuer says when asked (RFC 7662).
//!
//! Asking happens off the request's way, once for all who wait for the same token. What was learnt is
//! remembered for a short time under the token's digest, never the token.

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

pub use client::{ClientAuthentication, IntrospectionClient, IntrospectionError};

/// The longest opaque token that is asked about, in bytes.
const MAX_TOKEN: usize = 4096;
/// How many questions may be under way.
const MAX_IN_FLIGHT: usize = 256;
/// For how long a token that is not active is remembered as such.
const INACTIVE_CACHE_TIME: Duration = Duration::from_secs(10);
/// For how long an issuer that cannot answer is not asked again about the same token.
const FAILURE_CACHE_TIME: Duration = Duration::from_secs(1);

/// Asks one issuer about opaque tokens.
pub struct Introspector {
    profile: Arc<Profile>,
    client: IntrospectionClient,
    keep: Duration,
    answers: Cache<TokenDigest, CachedResponse>,
    pending: Mutex<HashMap<TokenDigest, watch::Sender<u64>>>,
    in_flight: Arc<Semaphore>,
}

/// What is known of a token, and for how long.
#[derive(Clone)]
struct CachedResponse {
    verdict: Result<Arc<Identity>, Option<TokenError>>,
    until: Timestamp,
}

struct EndsWithResponse;

/// Tells all who wait that a question is over, however it ended.
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
    /// Asks with `client`; keeps what it learns for `keep` at most, `capacity` tokens of it.
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

    /// Whether it is a token to ask about: not a JWT, and of the characters of a bearer token (RFC 6750
    /// section 2.1).
    #[must_use]
    pub fn is_opaque(token: &[u8]) -> bool {
        let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(b);
        let is_jwt = token.split(|b| *b == b'.').count() == 3;
        !is_jwt && !token.is_empty() && token.len() <= MAX_TOKEN && token.iter().all(plain)
    }

    /// What is known of the token, or what to wait for. Asks in a task of its own.
    pub(super) fn judge(
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
        // Its errors never say anything of the token.
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
                let until = identity.expires.min(now.plus(self.keep));
                CachedResponse { verdict: Ok(Arc::new(identity)), until }
            }
            Err(error) => {
                debug!(issuer = %name, ?error, "an opaque token does not count");
                let kept = if error.is_some() { INACTIVE_CACHE_TIME } else { FAILURE_CACHE_TIME };
                CachedResponse { verdict: Err(error), until: now.plus(kept) }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TokenDigest, watch::Sender<u64>>> {
        self.pending.lock()
    }
}

/// Judges a response (RFC 7662 section 2.2) as strictly as a token that says the same itself. `None` is a
/// response that says nothing.
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
        _ => return Err(None),
    }
    if let Some(kind) = claims.remove("token_type") {
        match kind.as_str().map(str::to_ascii_lowercase).as_deref() {
            Some("bearer" | "access_token") => {}
            Some("dpop") => return Err(Some(TokenError::Bound)),
            _ => return Err(Some(TokenError::Type)),
        }
    }
    // Who was asked is who says it; an end is optional in a response, and then the next question's.
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
    fn i1_only_what_is_no_jwt_is_asked_about() {
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
