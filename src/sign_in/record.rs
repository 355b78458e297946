//! The audit records of sessions: signed in, signed out, refreshed, ended, denied.
//!
//! Written by the pages of sign-in, by the refresh task and by the administrator's API.

use crate::{
    audit::{AuditEvent, AuditLog, AuditRecord, JsonObject},
    identity::Identity,
    metrics::Metrics,
    time::Timestamp,
};

/// An event of a person's session.
#[derive(Default)]
pub struct SessionEvent<'a> {
    /// When it happened.
    pub time: Timestamp,
    /// What happened; one of [`AuditEvent::SESSION`].
    pub event: AuditEvent,
    /// The person, if it is about one.
    pub identity: Option<&'a Identity>,
    /// The workspace's host, if it is about one.
    pub host: Option<&'a str>,
    /// Why a sign-in was denied.
    pub reason: Option<&'a str>,
    /// The id of the decision that denied it, which is on the person's page.
    pub decision_id: Option<&'a str>,
    /// How many sessions ended.
    pub sessions: Option<usize>,
    /// The user id of the administrator's process, if it came over the admin socket.
    pub uid: Option<u32>,
}

impl AuditRecord for SessionEvent<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let mut line = JsonObject::begin(out);
        line.number("time_ms", self.time.as_millis());
        line.event(self.event);
        line.optional("user", self.identity.map(Identity::label));
        if let Some(email) = self.identity.and_then(Identity::email_unless_label) {
            line.text("email", email);
        }
        line.optional("subject", self.identity.map(|identity| &*identity.subject));
        line.optional("issuer", self.identity.map(|identity| &*identity.issuer));
        line.optional("host", self.host);
        line.optional("reason", self.reason);
        line.optional("decision_id", self.decision_id);
        line.display("sessions", self.sessions);
        line.display("uid", self.uid);
        line.end();
    }
}

impl SessionEvent<'_> {
    /// Records and counts the event. Returns whether it is on record.
    pub fn record(&self, log: &AuditLog, metrics: &Metrics) -> bool {
        metrics.session_event(self.event);
        log.record_event(self.event, self.identity.map_or("sessions", Identity::label), self)
    }
}
