//! The audit records of live tunnels. [`super::table`] writes them; docs/audit.md describes the
//! fields.

use crate::{
    audit::{AuditEvent, AuditRecord, JsonObject},
    haproxy::runtime::Detail,
    identity::Identity,
    time::Timestamp,
    tunnels::{TerminationCause, Tunnel},
    workspaces::WorkspaceId,
};

/// Something that happened to a tunnel.
pub(super) struct TunnelEvent<'a> {
    /// The time of the event.
    pub time: Timestamp,
    /// `tunnel_open`, `tunnel_close`, `tunnel_terminate` or `tunnel_terminate_failed`.
    pub event: AuditEvent,
    /// The tunnel.
    pub tunnel: &'a Tunnel,
    /// Why it was terminated, or must be.
    pub cause: Option<TerminationCause>,
    /// Why it could not be terminated yet.
    pub error: Option<&'a str>,
}

impl AuditRecord for TunnelEvent<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let Tunnel { identity, location, .. } = self.tunnel;
        let identity = identity.as_deref();
        let mut line = JsonObject::begin(out);
        line.number("time_ms", self.time.as_millis());
        line.event(self.event);
        line.text("decision_id", &self.tunnel.id);
        line.text("kind", self.tunnel.kind.id());
        line.text("reason", self.tunnel.reason.id());
        line.optional("cause", self.cause.map(TerminationCause::id));
        // Only a termination by an administrator has a user id.
        let uid = match self.cause {
            Some(TerminationCause::Administrator(uid)) => uid,
            _ => None,
        };
        line.display("uid", uid);
        line.optional("error", self.error);
        line.text("credential", self.tunnel.credential.id());
        line.optional("user", identity.map(Identity::label));
        if let Some(email) = identity.and_then(Identity::email_unless_label) {
            line.text("email", email);
        }
        line.optional("subject", identity.map(|identity| &*identity.subject));
        line.optional("issuer", identity.map(|identity| &*identity.issuer));
        line.optional("workspace", self.tunnel.workspace.as_ref().map(WorkspaceId::as_str));
        line.optional("owner", self.tunnel.owner.as_deref());
        line.display("endpoint", self.tunnel.endpoint.as_ref());
        line.text("host", self.tunnel.host.as_str());
        line.display("client", self.tunnel.client);
        line.number("since_ms", self.tunnel.since.as_millis());
        line.untrusted("frontend", &location.frontend);
        line.display("process", location.process);
        line.display("stream", location.stream);
        line.display("source", location.source);
        line.text("can_be_terminated", if location.can_be_found() { "yes" } else { "no" });
        line.end();
    }
}

/// The termination of a stream that this agent has no tunnel of.
pub(super) struct StreamTerminated<'a> {
    /// The time of the event.
    pub time: Timestamp,
    /// The stream.
    pub detail: &'a Detail,
    /// The id of its process.
    pub process: u32,
    /// Why it was terminated.
    pub cause: TerminationCause,
}

impl AuditRecord for StreamTerminated<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let mut line = JsonObject::begin(out);
        line.number("time_ms", self.time.as_millis());
        line.event(AuditEvent::TunnelTerminate);
        line.text("cause", self.cause.id());
        line.untrusted("frontend", &self.detail.frontend);
        line.display("process", Some(self.process));
        line.display("stream", Some(self.detail.id));
        line.display("source", self.detail.source);
        line.end();
    }
}
