//! Asking providers again whether sessions still count, and what they say of people now.
//!
//! Never on a request's way: a session that is in use and whose time has come is looked at within a
//! second, and until the answer is there it counts as before. A provider that says no ends it; one that
//! does not answer is asked again later, and the session lasts until its own end at most. Here also end
//! the sessions of people who left a platform's directory.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Semaphore, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::client::{RenewError, SignedIn};
use crate::{
    audit::{AuditEvent, AuditLog},
    gate::live::Live,
    identity::Identity,
    sessions::{Session, Tokens},
    sign_in::{SignIn, record::SessionEvent},
    time::Timestamp,
    workspaces::directory::Membership,
};

/// How often it is looked whose time has come.
const LOOK: Duration = Duration::from_secs(1);
/// In how many of these looks it is also looked who has left: it is for tidiness, a request is refused at
/// once.
const DEPARTED_EVERY: u64 = 5;
/// How long a provider that did not answer is left alone about a session.
const AGAIN: Duration = Duration::from_mins(1);
/// The most questions at once.
const AT_ONCE: usize = 16;

/// Asks providers.
pub struct Refresher {
    /// The sessions.
    pub sign_in: Arc<SignIn>,
    /// Knows who is asked, what is revoked, and the platforms' directories.
    pub live: Arc<Live>,
    /// Where what happens to sessions is recorded.
    pub audit_log: Arc<AuditLog>,
}

impl Refresher {
    /// Asks until stopped.
    pub async fn run(self, stop: CancellationToken) {
        let (this, room) = (Arc::new(self), Arc::new(Semaphore::new(AT_ONCE)));
        for round in 1_u64.. {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(LOOK) => {}
            }
            if round.is_multiple_of(DEPARTED_EVERY) {
                this.end_departed().await;
            }
            let now = Timestamp::now();
            for session in this.sign_in.browser.sessions.due(now) {
                let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
                session.put_off(now.plus(AGAIN));
                let this = Arc::clone(&this);
                tokio::spawn(async move {
                    this.renew(session).await;
                    drop(place);
                });
            }
        }
    }

    async fn renew(self: Arc<Self>, session: Arc<Session>) {
        let identity = session.identity();
        // What was revoked is not asked about, so that it ends by itself.
        if self.live.load().revocations.cover(&identity) {
            return;
        }
        let issuer = &*identity.authority.name;
        let client = self.sign_in.configured().client_of(&identity);
        let Some(client) = client else { return };
        if !self.sign_in.browser.sessions.claim(&session).await {
            return;
        }
        let said = client.renew(&identity, &session.tokens()).await;
        match said {
            Ok(SignedIn { identity: found, tokens }) => {
                self.take_in(&session, &identity, found, tokens).await;
            }
            Err(RenewError::Over(why)) => {
                info!(
                    user = identity.label(),
                    why, "a session was ended: its provider no longer accepts it"
                );
                self.end(&session, AuditEvent::SessionRefused).await;
            }
            Err(RenewError::Failed(error)) => {
                warn!(issuer, %error, "refreshing a session at its provider failed: the session stays valid, and it is tried again");
            }
        }
        self.sign_in.browser.sessions.release(&session).await;
    }

    async fn take_in(
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
        let kept = move || this.sign_in.browser.sessions.renew(&session, found, tokens);
        match tokio::task::spawn_blocking(kept).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                error!(%error, "storing a refreshed session failed: it is valid, but after a restart it has its old tokens");
            }
            Err(_) => error!("storing a refreshed session panicked: please report the lines above"),
        }
    }

    /// Ends the sessions of people whose account at a platform is suspended or gone: each request of
    /// theirs is refused anyway, and now there is nothing left to come back with.
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
        for session in self.sign_in.browser.sessions.alive(Timestamp::now()) {
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
        let end = move || this.sign_in.browser.sessions.end(|other| other.is(&ended));
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
