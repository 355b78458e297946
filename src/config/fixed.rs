//! What of a configuration holds from the start of the agent to its end.

use super::Config;
use crate::agent::AgentSettings;

impl Config {
    /// The tables and keys that cannot change while the agent runs and differ from `other`'s: they say where it
    /// listens, where it keeps what must outlive it, and how it reaches HAProxy.
    #[must_use]
    pub fn fixed_that_differ(&self, other: &Self) -> Vec<&'static str> {
        let pairs = self.fixed().into_iter().zip(other.fixed());
        pairs.filter(|((_, is), (_, was))| is != was).map(|((name, _), _)| name).collect()
    }

    fn fixed(&self) -> Vec<(&'static str, String)> {
        let AgentSettings { listen, socket_mode, socket_owner, workers, answer_within, .. } =
            &self.agent;
        let listeners = format!("{:?}", (listen, socket_mode, socket_owner));
        let limits = (workers, answer_within, self.agent.connections, self.agent.waiting);
        let sign_in = self.sign_in.as_ref().map(|about| {
            (
                about.listen,
                &about.places,
                &about.keys,
                &about.sessions,
                about.lifetime,
                about.refresh,
            )
        });
        vec![
            ("[agent] listen, socket_mode, socket_owner", listeners),
            ("[agent] workers, answer_within_ms, connections, waiting", format!("{limits:?}")),
            (
                "[agent] tokens, follow_file",
                format!("{:?}", (self.agent.tokens, self.agent.follow_file)),
            ),
            ("[agent] reuse_ms", format!("{:?}", self.agent.reuse)),
            ("[audit]", format!("{:?}", self.audit)),
            ("[admin]", format!("{:?}", self.admin)),
            ("[metrics]", format!("{:?}", self.metrics)),
            ("[sign_in] (other than [sign_in.pages])", format!("{sign_in:?}")),
            ("[shared]", format!("{:?}", self.shared)),
            ("[haproxy]", format!("{:?}", self.haproxy)),
            ("[traces]", format!("{:?}", self.traces)),
            ("[tunnels]", format!("{:?}", self.tunnels)),
        ]
    }
}
