//! Handles one authorization request: a NOTIFY of HAProxy becomes one ACK.
//!
//! The request is decided by the gate. An allow that opens a tunnel enters the table of tunnels,
//! and one that HAProxy may reuse enters the verdict cache. Then the response is encoded, recorded
//! in the audit log, and counted. If one of these steps fails, the response becomes a refusal. A
//! panic refuses the request that caused it, and no other.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::Guard;
use arrayvec::ArrayString;
use tracing::{debug, error, warn};

use crate::{
    agent::{
        ack::{Batch, Exchange, Reuse},
        record::DecisionRecord,
        variables::GroupsText,
    },
    audit::AuditLog,
    authz::{
        decision::DecisionId,
        reason::{Reason, Verdict},
    },
    gate::{Gate, Response, Step, live::Live},
    identity::{
        Identity,
        pending::{Pending, Waiting},
    },
    metrics::Metrics,
    request::{self, Request},
    spop::{Notify, frame::TooLong},
    time::{MonotonicTime, Timestamp},
    traces::{self, DecisionSpan},
    tunnels::{CannotTrack, Tunnel, TunnelKind, Tunnels},
    verdict_cache::{ReuseTerms, VerdictCache},
    workspaces::pattern::Scratch,
};

/// Decides, records and encodes.
pub struct SpoeHandler {
    live: Arc<Live>,
    metrics: Arc<Metrics>,
    audit_log: Arc<AuditLog>,
    tunnels: Option<Arc<Tunnels>>,
    cache: Option<Arc<VerdictCache>>,
    run: u32,
    count: AtomicU64,
}

/// A response, with the tunnel and the cache entry that belong to it.
struct Settled<'r> {
    response: Response,
    opening: Opening,
    /// The terms on which HAProxy may reuse it.
    terms: Option<ReuseTerms<'r>>,
}

/// Whether an allow opens a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    /// It opens a tunnel, which is in the table.
    Tunnel,
    /// It opens no tunnel, or tunnels are not tracked.
    Nothing,
}

/// The audit log could not take a record.
struct Unrecorded;

impl SpoeHandler {
    /// A handler for one run of the agent. Decision ids have a random number that differs from run
    /// to run.
    #[must_use]
    pub fn new(live: Arc<Live>, audit_log: Arc<AuditLog>) -> Self {
        let mut run = [0; 4];
        // Without random numbers, the time alone distinguishes the runs.
        let _ = aws_lc_rs::rand::fill(&mut run);
        let (metrics, run) = (Arc::clone(&live.load().metrics), u32::from_be_bytes(run));
        Self { live, metrics, audit_log, tunnels: None, cache: None, run, count: AtomicU64::new(0) }
    }

    /// The same handler, which tracks allowed tunnels.
    #[must_use]
    pub fn tracking(self, tunnels: Option<Arc<Tunnels>>) -> Self {
        Self { tunnels, ..self }
    }

    /// The same handler, which lets HAProxy reuse allows.
    #[must_use]
    pub fn reusing(self, cache: Option<Arc<VerdictCache>>) -> Self {
        Self { cache, ..self }
    }

    /// The current gate. Take it once for all requests of a batch.
    #[must_use]
    pub fn gate(&self) -> Guard<Arc<Gate>> {
        self.live.load()
    }

    /// The counters.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Handles one request: appends its ACK, or returns what to wait for where waiting is allowed.
    ///
    /// A panic on the way refuses this request and no other.
    pub fn handle(
        &self,
        notify: &Notify<'_>,
        batch: &Batch<'_>,
        scratch: &mut Scratch,
        waiting: Waiting,
        out: &mut Vec<u8>,
    ) -> Option<Pending> {
        let attempt = catch_panic(out, |out| {
            let request = match read_request(notify) {
                Ok(request) => request,
                Err(reason) => {
                    self.finish(notify, &Request::default(), Response::refuse(reason), batch, out);
                    return None;
                }
            };
            if self.tunnels.is_some() && !request.passed.tunnels {
                warn!(
                    "a request is refused: HAProxy does not pass the arguments that [haproxy] needs; compare the args lines with haproxy/identity.spoe.cfg"
                );
                let response = Response::refuse(Reason::MessageUnknown);
                self.finish(notify, &request, response, batch, out);
                return None;
            }
            if let Some(tunnels) = &self.tunnels
                && !request.location.can_be_found()
            {
                tunnels.cannot_be_found();
                let response = Response::refuse(Reason::MessageUnknown);
                self.finish(notify, &request, response, batch, out);
                return None;
            }
            match batch.gate.decide(&request, batch.workspaces, batch.now, scratch, waiting) {
                Step::Done(response) => {
                    self.finish(notify, &request, response, batch, out);
                    None
                }
                Step::Wait(pending) => Some(pending),
            }
        });
        attempt.unwrap_or_else(|| {
            self.refuse(notify, Reason::Internal, batch, out);
            None
        })
    }

    /// Refuses a request without deciding about it.
    pub fn refuse(
        &self,
        notify: &Notify<'_>,
        reason: Reason,
        batch: &Batch<'_>,
        out: &mut Vec<u8>,
    ) {
        let request = read_request(notify).unwrap_or_default();
        self.finish(notify, &request, Response::refuse(reason), batch, out);
    }

    /// Settles what follows from a response, encodes it, and records it before it can be sent.
    fn finish(
        &self,
        notify: &Notify<'_>,
        request: &Request<'_>,
        response: Response,
        batch: &Batch<'_>,
        out: &mut Vec<u8>,
    ) {
        let start = out.len();
        let id = &self.next_id(batch.now);
        let exchange = Exchange { notify, request, id, batch };
        let Settled { mut response, opening, terms } = self.settle(&exchange, response);
        let encoded =
            exchange.encode(&response, terms, GroupsText::Whole, out).or_else(|TooLong| {
                // The groups are the one variable that can be told to be missing.
                exchange.encode(&response, None, GroupsText::LeftOut, out)
            });
        match encoded {
            Ok(Reuse::Offered) => {
                if let Some(tunnels) = &self.tunnels {
                    // This cannot fail: the request itself was remembered with the same location.
                    let _ = tunnels.note_reusable(&exchange.allowed(&response));
                }
            }
            Ok(Reuse::No) => {}
            Err(TooLong) => {
                warn!(
                    max_frame_size = batch.max_frame_size,
                    "a response is larger than a SPOP frame: the request is refused"
                );
                response = exchange.refuse(Reason::Internal, out);
            }
        }
        debug!(decision_id = %id, reason = %response.decision.reason, "decided");
        let latency = MonotonicTime::now().since(batch.started);
        let recorded = self.record(&exchange, &response, opening, latency);
        if recorded.is_err() && response.decision.verdict() == Verdict::Allow {
            out.truncate(start);
            response = exchange.refuse(Reason::AuditUnavailable, out);
        }
        self.metrics.decided(response.decision.reason, &response.evidence, latency);
        traces::decided(&span(&response, request, id, latency));
        if let Some(shadow) = &response.decision.shadow {
            self.metrics.shadowed(response.decision.verdict(), shadow.reason.verdict());
        }
    }

    /// Opens the tunnel of an allow, and offers the allow for reuse. If the tunnel cannot be
    /// tracked, the response becomes a refusal.
    fn settle<'r>(&self, exchange: &Exchange<'r>, response: Response) -> Settled<'r> {
        let (response, opening) = match self.open(exchange, &response) {
            Ok(opening) => (response, opening),
            Err(CannotTrack) => (Response::refuse(Reason::TunnelsFull), Opening::Nothing),
        };
        let Exchange { request, batch, .. } = *exchange;
        let terms = self.cache.as_ref().and_then(|cache| {
            cache.count_reused(request.reuse.times);
            // Policies may read what HAProxy does not compare, such as the path or the hour.
            let held = batch.gate.policies.is_none()
                && self.tunnels.as_ref().is_none_or(|tunnels| tunnels.can_offer_reuse());
            held.then(|| cache.offer(&response, request, batch.now)).flatten()
        });
        Settled { response, opening, terms }
    }

    /// Enters an allowed tunnel into the table, or remembers a plain request.
    fn open(&self, exchange: &Exchange<'_>, response: &Response) -> Result<Opening, CannotTrack> {
        let Some(tunnels) =
            self.tunnels.as_ref().filter(|_| response.decision.verdict() == Verdict::Allow)
        else {
            return Ok(Opening::Nothing);
        };
        // What cannot be tracked could not be terminated, so it is not allowed.
        let allowed = exchange.allowed(response);
        if TunnelKind::from_request(exchange.request).is_none() {
            // A plain request may last, too: it is remembered for some seconds.
            tunnels.note(&allowed)?;
            return Ok(Opening::Nothing);
        }
        let tunnel = Tunnel::from_allowed(&allowed).ok_or(CannotTrack)?;
        tunnels.open(tunnel).map(|()| Opening::Tunnel)
    }

    /// Records a decision, and the opening of its tunnel. Without a record the tunnel is removed
    /// again.
    fn record(
        &self,
        exchange: &Exchange<'_>,
        response: &Response,
        opening: Opening,
        latency: Duration,
    ) -> Result<(), Unrecorded> {
        let Exchange { request, id, batch, .. } = *exchange;
        let record = DecisionRecord::new(response, request, id, batch.now);
        // The decision comes first, so that no tunnel is on record without it.
        let mut kept = self.audit_log.record(&record.made(batch.gate.versions, latency)).is_ok();
        if let (Some(tunnels), Opening::Tunnel) = (&self.tunnels, opening) {
            let allowed = kept && response.decision.verdict() == Verdict::Allow;
            kept = allowed && tunnels.record_opening(id).is_ok();
            if !kept {
                tunnels.forget(id);
            }
        }
        if kept { Ok(()) } else { Err(Unrecorded) }
    }

    fn next_id(&self, now: Timestamp) -> DecisionId {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let mut id = ArrayString::new();
        push_hex(&mut id, now.as_millis(), 11);
        let _ = id.try_push('-');
        push_hex(&mut id, self.run.into(), 8);
        let _ = id.try_push('-');
        push_hex(&mut id, count, (u64::BITS - count.leading_zeros()).div_ceil(4).max(1));
        id
    }
}

/// What a trace has of a response.
fn span<'a>(
    response: &'a Response,
    request: &Request<'a>,
    id: &'a DecisionId,
    took: Duration,
) -> DecisionSpan<'a> {
    let Response { decision, evidence, .. } = response;
    DecisionSpan {
        id,
        verdict: decision.verdict().id(),
        reason: decision.reason.id(),
        failed: decision.verdict() == Verdict::Unavailable,
        cached: evidence.cached,
        traceparent: request.traceparent,
        unique_id: request.unique_id,
        workspace: decision.workspace.as_deref().map(|workspace| workspace.id.as_str()),
        user: decision.identity.as_deref().map(Identity::label),
        took,
    }
}

/// Appends the last `digits` hexadecimal digits of a number. The formatter of the standard library
/// would take as long as the decision.
fn push_hex(text: &mut DecisionId, number: u64, digits: u32) {
    for digit in (0..digits).rev() {
        let nibble = u32::try_from(number >> (4 * digit) & 0xf).unwrap_or_default();
        // INVARIANT: at most 11 + 8 + 16 digits and two hyphens: 37 of 40 bytes.
        let _ = text.try_push(char::from_digit(nibble, 16).unwrap_or('0'));
    }
}

/// Runs `work`, which appends to `out`. After a panic, `out` is as before, and the result is
/// `None`.
fn catch_panic<T>(out: &mut Vec<u8>, work: impl FnOnce(&mut Vec<u8>) -> T) -> Option<T> {
    let start = out.len();
    let attempt = catch_unwind(AssertUnwindSafe(|| work(out)));
    if attempt.is_err() {
        error!(
            "deciding a request panicked: the request is refused; please report the lines above"
        );
        out.truncate(start);
    }
    attempt.ok()
}

/// Reads the one message of a NOTIFY that is ours. Messages of other agents in the same group are
/// ignored.
fn read_request<'b>(notify: &Notify<'b>) -> Result<Request<'b>, Reason> {
    let known = |name: &[u8]| name == request::AUTHORIZE || name == request::AUTHORIZE_TCP;
    let mut messages = notify.messages().filter(|message| known(message.name));
    let (Some(message), None) = (messages.next(), messages.next()) else {
        warn!(
            "a request is refused: its NOTIFY frame does not have exactly one 'authorize' or 'authorize-tcp' message; compare the SPOE configuration with haproxy/identity.spoe.cfg"
        );
        return Err(Reason::MessageUnknown);
    };
    Request::read(message.name, message.args()).map_err(|error| {
        warn!(%error, "a request is refused: its SPOE message cannot be read; compare the args lines with haproxy/identity.spoe.cfg");
        Reason::MessageUnknown
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_takes_nothing_along_but_its_own_response() {
        let mut out = b"answers so far".to_vec();
        let result = catch_panic(&mut out, |out| {
            out.extend_from_slice(b"half an ans");
            assert!(out.is_empty(), "on purpose");
        });
        assert_eq!((result, out.as_slice()), (None, &b"answers so far"[..]));
        let result = catch_panic(&mut out, |out| {
            out.extend_from_slice(b", and one more");
            7
        });
        assert_eq!((result, out.as_slice()), (Some(7), &b"answers so far, and one more"[..]));
    }
}
