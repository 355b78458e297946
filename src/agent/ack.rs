//! Encodes a response as the ACK of one NOTIFY.

use std::net::IpAddr;

use super::variables::{self, GroupsText};
use crate::{
    authz::{decision::DecisionId, reason::Reason},
    gate::{Gate, Response},
    request::Request,
    spop::{
        Actions, Notify, Value,
        ack::{self, ActionPosition, Scope},
        frame::TooLong,
    },
    time::{MonotonicTime, Timestamp},
    tunnels::AllowedRequest,
    verdict_cache::ReuseTerms,
    workspaces::registry::Snapshot,
};

/// What the requests of one batch share.
pub struct Batch<'s> {
    /// The gate.
    pub gate: &'s Gate,
    /// The workspaces.
    pub workspaces: &'s Snapshot,
    /// The time of the decisions.
    pub now: Timestamp,
    /// When the requests were read.
    pub started: MonotonicTime,
    /// The largest ACK that HAProxy accepts.
    pub max_frame_size: u32,
}

/// One NOTIFY, with what its ACK needs besides the response.
pub(super) struct Exchange<'e> {
    /// The frame.
    pub(super) notify: &'e Notify<'e>,
    /// The request in it.
    pub(super) request: &'e Request<'e>,
    /// The id of the decision.
    pub(super) id: &'e DecisionId,
    /// The batch that it belongs to.
    pub(super) batch: &'e Batch<'e>,
}

/// Whether an ACK offers its response for reuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reuse {
    /// It does.
    Offered,
    /// It does not.
    No,
}

impl<'e> Exchange<'e> {
    /// What the table of tunnels needs of an allow.
    pub(super) fn allowed<'a>(&'a self, response: &'a Response) -> AllowedRequest<'a>
    where
        'e: 'a,
    {
        let certificates = &self.batch.gate.certificates;
        let Self { request, id, batch, .. } = *self;
        AllowedRequest { response, request, id, certificates, now: batch.now }
    }

    /// Appends the ACK. The terms of reuse are left out if there is no room for them.
    ///
    /// # Errors
    /// The ACK does not fit into a frame; nothing is appended.
    pub(super) fn encode(
        &self,
        response: &Response,
        terms: Option<ReuseTerms<'_>>,
        groups: GroupsText,
        out: &mut Vec<u8>,
    ) -> Result<Reuse, TooLong> {
        let ids = (self.notify.stream_id, self.notify.frame_id);
        let mut reuse = Reuse::No;
        ack::write(out, ids, self.batch.max_frame_size, |actions| {
            // The variables of a reused allow are in the frame already: they are repeated there,
            // not encoded again.
            let mut reusable = terms.map(|terms| (terms, [None; REUSE_VARIABLES.len()]));
            variables::each(response, self.request, self.id, groups, |name, value| {
                let set = actions.set_at(Scope::Transaction, name, spop(value));
                if let Some((_, kept)) = &mut reusable
                    && let Some(number) = REUSE_VARIABLES.iter().position(|kept| *kept == name)
                    && let Some(kept) = kept.get_mut(number)
                {
                    *kept = Some(set);
                }
            });
            if let Some((terms, kept)) = reusable
                && actions.attempt(|actions| offer(actions, &kept, terms))
            {
                reuse = Reuse::Offered;
            }
        })?;
        Ok(reuse)
    }

    /// Appends the ACK of a refusal in place of the response that failed, and returns the refusal.
    pub(super) fn refuse(&self, reason: Reason, out: &mut Vec<u8>) -> Response {
        let response = Response::refuse(reason);
        // It has about two hundred bytes, which fit into the smallest frame of the protocol.
        let _ = self.encode(&response, None, GroupsText::Whole, out);
        response
    }
}

fn spop(value: variables::Value<'_>) -> Value<'_> {
    match value {
        variables::Value::Bool(value) => Value::Bool(value),
        variables::Value::Int(number) => Value::Uint32(number),
        variables::Value::Ip(IpAddr::V4(ip)) => Value::Ipv4(ip),
        variables::Value::Ip(IpAddr::V6(ip)) => Value::Ipv6(ip),
        variables::Value::Text(text) => Value::Str(text),
    }
}

/// The variables that a reused allow needs. The rules of the backends 'reused' in
/// haproxy/haproxy.cfg read them.
const REUSE_VARIABLES: [&str; 16] = [
    "decision_id",
    "user",
    "subject",
    "issuer",
    "email",
    "groups",
    "groups_incomplete",
    "workspace",
    "dst_ip",
    "dst_port",
    "host_port",
    "tls_port",
    "dst_host",
    "sni",
    "cookie",
    "keep",
];

/// Sets the terms on which HAProxy may reuse an allow, and copies the variables that this needs to
/// the session. `reuse_of` comes last, so that a truncated list is never valid.
fn offer(
    actions: &mut Actions<'_>,
    kept: &[Option<ActionPosition>; REUSE_VARIABLES.len()],
    terms: ReuseTerms<'_>,
) {
    for (name, set) in REUSE_VARIABLES.iter().zip(kept) {
        match set {
            Some(set) => actions.repeat(*set, Scope::Session),
            // A variable of an earlier allow must not complete this one.
            None => actions.unset(Scope::Session, name),
        }
    }
    let mut set = |name, value: Value<'_>| actions.set(Scope::Session, name, value);
    set("reuse_until", Value::Uint64(terms.until));
    match terms.client {
        IpAddr::V4(ip) => set("reuse_client", Value::Bin(&ip.octets())),
        IpAddr::V6(ip) => set("reuse_client", Value::Bin(&ip.octets())),
    }
    set("reuse_epoch", Value::Str(terms.epoch));
    set("reuse_host", Value::Str(terms.host));
    set("reuse_of", Value::Str(terms.id));
}
