//! The audit record of a decision. docs/audit.md describes the fields.

use std::{net::IpAddr, time::Duration};

use crate::{
    audit::{AuditRecord, JsonObject},
    authz::{decision::DecisionId, permission::Permission, policy::ShadowDecision},
    gate::{Response, Versions},
    identity::{Identity, evidence::Evidence},
    request::Request,
    time::Timestamp,
    workspaces::{EndpointName, Workspace},
};

/// The longest unique id and method that are recorded, in bytes.
const MAX_UNIQUE_ID: usize = 128;
const MAX_METHOD: usize = 32;
const MAX_DECISION_ID: usize = 40;
/// The most bytes of the policy inputs in a record. Larger inputs are left out as a whole.
const MAX_INPUTS: usize = 1024;

/// One decision, borrowed from what it was made of.
///
/// The fields that differ between two equal requests come first. The rest of the line is compared
/// to deduplicate records.
pub struct DecisionRecord<'a> {
    time_ms: u64,
    decision_id: &'a str,
    unique_id: &'a [u8],
    latency: Option<Duration>,
    /// How often HAProxy reused an earlier decision since the last request, and the id of that
    /// decision.
    reused: Option<(u64, &'a [u8])>,
    verdict: &'static str,
    reason: &'static str,
    user: Option<&'a str>,
    /// The e-mail address, where it is not `user`.
    email: Option<&'a str>,
    subject: Option<&'a str>,
    issuer: Option<&'a str>,
    workspace: Option<&'a str>,
    owner: Option<&'a str>,
    endpoint: Option<&'a EndpointName>,
    host: &'a [u8],
    method: &'a [u8],
    path: Option<&'a [u8]>,
    client: Option<IpAddr>,
    evidence: Evidence,
    versions: Versions,
    asked: Option<Asked<'a>>,
}

/// The inputs and results of policies.
struct Asked<'a> {
    relation: Permission,
    identity: Option<&'a Identity>,
    workspace: Option<&'a Workspace>,
    is_stream: bool,
    policy: Option<&'a str>,
    shadow: Option<&'a ShadowDecision>,
}

impl<'a> DecisionRecord<'a> {
    /// The record of a decision, without versions and latency.
    #[must_use]
    pub fn new(
        response: &'a Response,
        request: &Request<'a>,
        id: &'a DecisionId,
        time: Timestamp,
    ) -> Self {
        let decision = &response.decision;
        let identity = decision.identity.as_deref();
        let workspace = decision.workspace.as_deref();
        Self {
            time_ms: time.as_millis(),
            decision_id: id,
            unique_id: request.unique_id.unwrap_or_default(),
            latency: None,
            // HAProxy reports reuse with the next authorization request of the connection.
            reused: request.reuse.last.map(|id| (request.reuse.times, id)).filter(|(n, _)| *n > 0),
            verdict: decision.verdict().id(),
            reason: decision.reason.id(),
            user: identity.map(Identity::label),
            email: identity.and_then(Identity::email_unless_label),
            subject: identity.map(|i| &*i.subject),
            issuer: identity.map(|i| &*i.issuer),
            workspace: workspace.map(|w| w.id.as_str()),
            owner: decision.owner.as_deref(),
            endpoint: decision.endpoint.as_ref(),
            host: request.host.unwrap_or_default(),
            method: request.method.unwrap_or_default(),
            path: request.path,
            client: request.client,
            evidence: response.evidence,
            versions: Versions::default(),
            asked: decision.relation.map(|relation| Asked {
                relation,
                identity,
                workspace,
                is_stream: request.is_stream,
                policy: decision.policy.as_deref(),
                shadow: decision.shadow.as_ref(),
            }),
        }
    }

    /// Adds the versions of what decided, and the time it took.
    #[must_use]
    pub const fn made(mut self, versions: Versions, latency: Duration) -> Self {
        self.versions = versions;
        self.latency = Some(latency);
        self
    }
}

impl AuditRecord for DecisionRecord<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let mut line = JsonObject::begin(out);
        line.number("time_ms", self.time_ms);
        line.text("decision_id", self.decision_id);
        line.untrusted_up_to(MAX_UNIQUE_ID, "unique_id", self.unique_id);
        if let Some(latency) = self.latency {
            line.number("latency_us", u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
        }
        if let Some((times, id)) = self.reused {
            line.number("reused", times);
            line.untrusted_up_to(MAX_DECISION_ID, "reused_of", id);
        }
        line.boolean("cached", self.evidence.cached);
        line.text("verdict", self.verdict);
        line.text("reason", self.reason);
        line.optional("user", self.user);
        if let Some(email) = self.email {
            line.text("email", email);
        }
        line.optional("subject", self.subject);
        line.optional("issuer", self.issuer);
        line.optional("workspace", self.workspace);
        line.optional("owner", self.owner);
        line.display("endpoint", self.endpoint);
        line.untrusted("host", self.host);
        line.untrusted_up_to(MAX_METHOD, "method", self.method);
        line.path("path", self.path);
        line.display("client", self.client);
        line.text("credential", self.evidence.credential.id());
        line.fingerprint("token", self.evidence.token);
        line.fingerprint("key_set", self.evidence.key_set);
        line.fingerprint("config", self.versions.config);
        line.fingerprint("policy", self.versions.policy);
        if let Some(asked) = &self.asked {
            asked.write(&mut line, self.endpoint);
        }
        line.end();
    }
}

impl Asked<'_> {
    fn write(&self, line: &mut JsonObject<'_>, endpoint: Option<&EndpointName>) {
        line.optional("policy_id", self.policy);
        if let Some(shadow) = self.shadow {
            line.object("shadow", |line| {
                line.text("verdict", shadow.reason.verdict().id());
                line.text("reason", shadow.reason.id());
                line.optional("policy_id", shadow.policy.as_deref());
                line.fingerprint("policy", Some(shadow.set));
            });
        }
        let (identity, workspace) = (self.identity, self.workspace);
        let organization = workspace.and_then(|workspace| workspace.organization_name());
        let declared = workspace.zip(endpoint).is_some_and(|(w, name)| w.endpoint(name).is_some());
        let texts = |who: &Identity| {
            let all = [&who.email, &who.username, &who.organization].into_iter().flatten();
            let groups = who.groups.iter();
            who.authority.name.len() + all.chain(groups).map(|text| text.len() + 3).sum::<usize>()
        };
        // Groups can be long, and all of a record must fit a line of the audit log.
        let size = identity.map_or(0, texts) + organization.map_or(0, str::len);
        if size > MAX_INPUTS {
            return line.null("inputs");
        }
        line.object("inputs", |line| {
            line.text("relation", self.relation.reason().id());
            line.boolean("declared", declared);
            line.boolean("stream", self.is_stream);
            line.optional("organization", organization);
            let Some(who) = identity else { return };
            line.text("issuer", &who.authority.name);
            line.optional("email", who.email.as_deref());
            line.optional("username", who.username.as_deref());
            line.optional("user_organization", who.organization.as_deref());
            // The token does not list the groups, which is not the same as having none.
            if who.groups_overage {
                line.null("groups");
            } else {
                line.list("groups", who.groups.iter().map(|group| &**group));
            }
        });
    }
}
