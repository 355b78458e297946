//! Plain requests in HAProxy that last and that this agent has no record of.
//!
//! Most of them are fine: another agent allowed them, or they go to a site without authorization.
//! Two kinds matter. Requests that began before this agent did may have been allowed by the one
//! before it. Requests that began while more were allowed than can be remembered were allowed by
//! this one, and could not be terminated later.

use std::time::Duration;

use tracing::warn;

use super::{
    TerminationCause,
    recent::ForgottenSpan,
    terminator::{AGE_ROUNDING, SocketWorker},
};
use crate::{
    haproxy::{
        AskError, Process,
        runtime::{Detail, List, Listed, Pointer},
    },
    time::MonotonicTime,
};

/// The longest time from the start of a stream to its authorization request. Before HAProxy 3.0 the
/// age of a stream includes the time for which its connection was idle (`timeout http-keep-alive`).
const MAX_IDLE_BEFORE_REQUEST: Duration = Duration::from_secs(75);

/// Plain requests that there is no record of.
#[derive(Default)]
pub(super) struct UnknownRequests {
    /// Those that are older than this agent.
    before: Vec<Pointer>,
    /// Those that may have been allowed and forgotten.
    lost: Vec<Pointer>,
}

impl SocketWorker {
    /// Sorts unknown streams into those that are older than the agent, and those that may be
    /// forgotten requests. Others are left alone.
    pub(super) fn unknown_requests(
        &self,
        list: &List,
        strangers: &[Pointer],
        asked: MonotonicTime,
    ) -> UnknownRequests {
        let forgotten = self.tunnels.recent.lock().lost();
        let mut plain = UnknownRequests::default();
        for stream in list.streams.iter().filter(|stream| strangers.contains(&stream.pointer)) {
            // The default of the monotonic clock is the start of this agent.
            if forgotten.is_some_and(|lost| may_be_of(stream, lost, asked)) {
                plain.lost.push(stream.pointer);
            } else if stream.age.0 >= asked.since(MonotonicTime::default()) {
                plain.before.push(stream.pointer);
            }
        }
        plain
    }

    /// Terminates forgotten requests. Reports those that are older than the agent, and terminates
    /// them if configured.
    pub(super) async fn handle_unknown_requests(
        &self,
        process: &Process,
        process_id: u32,
        plain: &UnknownRequests,
        details: &[Detail],
    ) -> Result<(), AskError> {
        // Some of the streams may have been located since they were listed.
        let taken = self.located_pointers(&self.tunnels.lock(), process);
        let of = |pointers: &[Pointer]| -> Vec<&Detail> {
            let met = details.iter().filter(|detail| {
                pointers.contains(&detail.pointer)
                    && !taken.contains(&detail.pointer)
                    && !detail.is_tunnel
            });
            met.collect()
        };
        let before = of(&plain.before);
        if !before.is_empty() {
            let (count, terminate) = (before.len(), self.tunnels.settings.terminate_unknown);
            warn!(%process, count, terminate, "HAProxy has requests under way that began before this agent started: with terminate_unknown they are terminated, otherwise they continue");
            self.tunnels.lock().unknown += count;
            if terminate {
                self.terminate_plain(process, process_id, &before, TerminationCause::Unknown)
                    .await?;
            }
        }
        let lost = of(&plain.lost);
        if !lost.is_empty() {
            let count = lost.len();
            warn!(%process, count, "more requests were allowed at once than can be remembered: those of that time that last are terminated");
            self.terminate_plain(process, process_id, &lost, TerminationCause::Untracked).await?;
        }
        Ok(())
    }

    async fn terminate_plain(
        &self,
        process: &Process,
        process_id: u32,
        streams: &[&Detail],
        cause: TerminationCause,
    ) -> Result<(), AskError> {
        let pointers: Vec<_> = streams.iter().map(|detail| detail.pointer).collect();
        process.shut(&pointers).await?;
        for detail in streams {
            self.tunnels.record_unknown(detail, process_id, cause);
        }
        Ok(())
    }
}

/// Whether a stream may be one of the requests that were forgotten.
fn may_be_of(stream: &Listed, lost: ForgottenSpan, asked: MonotonicTime) -> bool {
    // The span may have begun earlier than the age says, by the rounding, and the authorization
    // request may have come later than the stream, by the idle time of its connection.
    let earliest = asked.before(stream.age.1.saturating_add(AGE_ROUNDING)).unwrap_or_default();
    let latest = asked.before(stream.age.0).unwrap_or_default().plus(MAX_IDLE_BEFORE_REQUEST);
    earliest <= lost.to && latest >= lost.from
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::haproxy::runtime;

    #[test]
    fn s4_what_may_be_one_of_the_forgotten_is_told_by_its_age() {
        let at = |secs| MonotonicTime::at(Duration::from_secs(secs));
        let lost = ForgottenSpan { from: at(100), to: at(102) };
        let is = |age: &str, asked: u64| {
            let answer = format!("0x1: src=10.0.0.1:80 fe=gate age={age}\nName: HAProxy\nPid: 8\n");
            let streams = runtime::list(answer.as_bytes()).unwrap().streams;
            may_be_of(&streams[0], lost, at(asked))
        };
        assert!(is("4s", 105), "in the middle of it");
        assert!(!is("4s", 110), "too young: it began after it");
        assert!(is("7s", 110));
        // Its connection may have been idle before the authorization request.
        assert!(is("50s", 110));
        assert!(!is("3m10s", 110), "it began long before");
    }
}
