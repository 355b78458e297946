//! Refreshes sessions at their providers, and ends those that a provider does not confirm.
//!
//! A task looks every second for sessions that are in use and due. It never delays a request: until the provider
//! answers, the session is valid as before. A provider that refuses ends the session; one that does not answer is asked
//! again later, and the session lasts at most until its own end. Groups and names that changed are used from then on.
//!
//! The same task ends the sessions of people whose account at a workspace platform is suspended or gone.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Semaphore, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::client::{RefreshError, SignedIn};
use crate::{
    audit::{AuditEvent, AuditLog},
    gate::live::Live,
    identity::Identity,
    sessions::{Session, Tokens, store::StoreError},
    sign_in::{SignIn, record::SessionEvent},
    time::Timestamp,
    workspaces::directory::Membership,
};

/// How often due sessions are looked for.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Every how many checks the people who left are looked for. Their requests are refused at once in any case.
const CHECKS_PER_DEPARTURE_CHECK: u64 = 5;
/// How long a provider that did not answer is not asked about the same session again.
const RETRY_BACKOFF: Duration = Duration::from_mins(1);
/// The most sessions that are refreshed at the same time.
const MAX_CONCURRENT: usize = 16;

/// The task that refreshes sessions.
pub struct Refresher {
    /// The sessions and the providers' clients.
    pub sign_in: Arc<SignIn>,
    /// Knows what is revoked, and the directories of the platforms.
    pub live: Arc<Live>,
    /// Where the events of sessions are recorded.
    pub audit_log: Arc<AuditLog>,
}

impl Refresher {
    /// Runs until stopped.
    pub async fn run(self, stop: CancellationToken) {
        let (this, room) = (Arc::new(self), Arc::new(Semaphore::new(MAX_CONCURRENT)));
        for round in 1_u64.. {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(CHECK_INTERVAL) => {}
            }
            if round.is_multiple_of(CHECKS_PER_DEPARTURE_CHECK) {
                this.end_departed().await;
            }
            let now = Timestamp::now();
            for session in this.sign_in.browser.sessions.due_for_refresh(now) {
                let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
                session.postpone_refresh(now.plus(RETRY_BACKOFF));
                let this = Arc::clone(&this);
                tokio::spawn(async move {
                    this.refresh(session).await;
                    drop(place);
                });
            }
        }
    }

    /// Refreshes one session.
    async fn refresh(self: Arc<Self>, session: Arc<Session>) {
        let identity = session.identity();
        // A revoked session is refused in any case. Without a refresh it ends by itself.
        if self.live.load().revocations.cover(&identity) {
            return;
        }
        let issuer = &*identity.authority.name;
        let client = self.sign_in.configured().client_of(&identity);
        let Some(client) = client else { return };
        if !self.sign_in.browser.sessions.lock_refresh(&session).await {
            return;
        }
        let refreshed = client.refresh(&identity, &session.tokens()).await;
        match refreshed {
            Ok(SignedIn { identity: found, tokens }) => {
                self.replace(&session, &identity, found, tokens).await;
            }
            Err(RefreshError::Over(why)) => {
                info!(
                    user = identity.label(),
                    why, "a session was ended: its provider no longer accepts it"
                );
                self.end(&session, AuditEvent::SessionRefused).await;
            }
            Err(RefreshError::Failed(error)) => {
                warn!(issuer, %error, "refreshing a session at its provider failed: the session stays valid, and it is tried again");
            }
        }
        self.sign_in.browser.sessions.unlock_refresh(&session).await;
    }

    /// Replaces the identity and tokens of a session by the new ones.
    async fn replace(
        self: &Arc<Self>,
        session: &Arc<Session>,
        before: &Identity,
        found: Identity,
        tokens: Tokens,
    ) {
        let same = |(a, b): (&Identity, &Identity)| {
            a.groups == b.groups
                && a.email == b.email
                && a.username == b.username
                && a.organization == b.organization
        };
        if !same((before, &found)) {
            info!(
                user = before.label(),
                "a refreshed session has other groups or names than before"
            );
            self.record(AuditEvent::SessionChanged, &found);
        }
        let (this, session) = (Arc::clone(self), Arc::clone(session));
        let store = move || this.sign_in.browser.sessions.refresh(&session, found, tokens);
        match tokio::task::spawn_blocking(store).await {
            // It ended while its provider was asked, and there is nothing to store.
            Ok(Ok(()) | Err(StoreError::Ended)) => {}
            Ok(Err(error)) => {
                error!(%error, "storing a refreshed session failed: it is valid, but after a restart it has its old tokens");
            }
            Err(_) => error!("storing a refreshed session panicked: please report the lines above"),
        }
    }

    /// Ends the sessions of people whose account at a platform is suspended or gone. Each of their requests is refused in
    /// any case; ending the session leaves nothing that a restored account could use.
    async fn end_departed(self: &Arc<Self>) {
        let workspaces = self.live.load().registry.snapshot();
        let directories: Vec<_> = workspaces.directories().collect();
        if directories.is_empty() {
            return;
        }
        let is_gone = |identity: &Identity| {
            directories
                .iter()
                .any(|all| matches!(all.membership(identity), Membership::Inactive(_)))
        };
        for session in self.sign_in.browser.sessions.active(Timestamp::now()) {
            if is_gone(&session.identity.load()) {
                info!(
                    user = session.identity().label(),
                    "a session was ended: the account of its user is suspended or gone"
                );
                self.end(&session, AuditEvent::SessionDeparted).await;
            }
        }
    }

    async fn end(self: &Arc<Self>, session: &Arc<Session>, event: AuditEvent) {
        let (this, ended) = (Arc::clone(self), Arc::clone(session));
        let end = move || this.sign_in.browser.sessions.end_where(|other| other.is_same(&ended));
        if !matches!(tokio::task::spawn_blocking(end).await, Ok(Ok(_))) {
            error!(
                "storing the end of a session failed: it is ended now, but may be valid again after a restart"
            );
        }
        self.record(event, &session.identity.load());
    }

    fn record(&self, event: AuditEvent, identity: &Identity) {
        let (time, identity) = (Timestamp::now(), Some(identity));
        let event = SessionEvent { time, event, identity, ..SessionEvent::default() };
        event.record(&self.audit_log, &self.live.load().metrics);
    }
}
