//! The records of live tunnels: opened, closed, cut, could not be cut.

use crate::{
    audit::{AuditEvent, Entry, Object},
    haproxy::runtime::Detail,
    identity::Identity,
    time::Timestamp,
    tunnels::{Cause, Tunnel},
    workspaces::WorkspaceId,
};

/// What happened to a tunnel.
pub(super) struct TunnelEvent<'a> {
    /// When.
    pub time: Timestamp,
    /// `tunnel_open`, `tunnel_close`, `tunnel_cut` or `tunnel_cut_failed`.
    pub event: AuditEvent,
    /// Which.
    pub tunnel: &'a Tunnel,
    /// Why it was, or is to be, cut.
    pub cause: Option<Cause>,
    /// Why it could not be cut.
    pub error: Option<&'a str>,
}

impl Entry for TunnelEvent<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let Tunnel { identity, place, .. } = self.tunnel;
        let identity = identity.as_deref();
        let mut line = Object::begin(out);
        line.number("time_ms", self.time.as_millis());
        line.event(self.event);
        line.text("decision_id", &self.tunnel.id);
        line.text("kind", self.tunnel.kind.id());
        line.text("reason", self.tunnel.reason.id());
        line.optional("cause", self.cause.map(Cause::id));
        let uid = match self.cause {
            Some(Cause::Administrator(uid)) => uid,
            _ => None,
        };
        line.displayed("uid", uid);
        line.optional("error", self.error);
        line.text("by", self.tunnel.by.id());
        line.optional("user", identity.map(Identity::label));
        line.optional("subject", identity.map(|identity| &*identity.subject));
        line.optional("issuer", identity.map(|identity| &*identity.issuer));
        line.optional("workspace", self.tunnel.workspace.as_ref().map(WorkspaceId::as_str));
        line.optional("owner", self.tunnel.owner.as_deref());
        line.displayed("endpoint", self.tunnel.endpoint.as_ref());
        line.text("host", self.tunnel.host.as_str());
        line.displayed("client", self.tunnel.client);
        line.number("since_ms", self.tunnel.since.as_millis());
        line.foreign("frontend", &place.frontend);
        line.displayed("process", place.process);
        line.displayed("stream", place.stream);
        line.displayed("source", place.source);
        line.text("can_be_cut", if place.can_be_found() { "yes" } else { "no" });
        line.end();
    }
}

/// A stream was terminated of which the agent has no record.
pub(super) struct StreamTerminated<'a> {
    /// When.
    pub time: Timestamp,
    /// The stream.
    pub detail: &'a Detail,
    /// Its process.
    pub process: u32,
    /// Why.
    pub cause: Cause,
}

impl Entry for StreamTerminated<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let mut line = Object::begin(out);
        line.number("time_ms", self.time.as_millis());
        line.event(AuditEvent::TunnelCut);
        line.text("cause", self.cause.id());
        line.foreign("frontend", &self.detail.frontend);
        line.displayed("process", Some(self.process));
        line.displayed("stream", Some(self.detail.id));
        line.displayed("source", self.detail.source);
        line.end();
    }
}
