//! The audit record of what happens to sessions.

use tracing::error;

use crate::{
    audit::{AuditEvent, AuditLog, Entry, Object},
    identity::Identity,
    metrics::Metrics,
    time::Timestamp,
};

/// What happened to a person's session.
#[derive(Default)]
pub struct SessionEvent<'a> {
    /// When.
    pub time: Timestamp,
    /// What happened; one of [`AuditEvent::SESSION`].
    pub event: AuditEvent,
    /// Who, if it is about one person.
    pub identity: Option<&'a Identity>,
    /// The workspace's host, if it is about one.
    pub host: Option<&'a str>,
    /// Why it was denied.
    pub reason: Option<&'a str>,
    /// The id of the decision that denied it, which the person was told.
    pub decision_id: Option<&'a str>,
    /// How many sessions ended.
    pub sessions: Option<usize>,
    /// The user id at the other end of the admin socket, if an administrator did it.
    pub uid: Option<u32>,
}

impl Entry for SessionEvent<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let mut line = Object::begin(out);
        line.number("time_ms", self.time.as_millis());
        line.event(self.event);
        line.optional("user", self.identity.map(Identity::label));
        line.optional("subject", self.identity.map(|identity| &*identity.subject));
        line.optional("issuer", self.identity.map(|identity| &*identity.issuer));
        line.optional("host", self.host);
        line.optional("reason", self.reason);
        line.optional("decision_id", self.decision_id);
        line.displayed("sessions", self.sessions);
        line.displayed("uid", self.uid);
        line.end();
    }
}

impl SessionEvent<'_> {
    /// Records and counts it. Returns whether it is on record.
    pub fn record(&self, log: &AuditLog, metrics: &Metrics) -> bool {
        let kept = log.record(self).is_ok();
        metrics.session_event(self.event);
        if !kept {
            error!(
                event = self.event.id(),
                "recording an event failed: the audit log has no room or cannot be written"
            );
        }
        kept
    }
}
