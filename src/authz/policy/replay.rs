//! What policies would have decided about a recorded past: they are evaluated for each decision of an audit log.
//!
//! A record has the time, the issuer's identifier, subject, workspace, endpoint, method and client, and the shape of
//! the path, in which ids and possible secrets are `*`. Where policies were evaluated at the time, shadow policies too,
//! the record has their other inputs under `inputs`. The invariant: a decision whose record lacks something that the
//! policies read is counted as such, never guessed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::Serialize;
use serde_json::Value;

use super::{PolicyMode, PolicyRequest, PolicySet, Principal, RequestContext};
use crate::{
    authz::{
        permission::Permission,
        reason::{Reason, Verdict},
    },
    time::Timestamp,
    workspaces::EndpointName,
};

/// The result of a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReplayReport {
    /// How many decisions were read.
    pub decisions: u64,
    /// Decisions that no policy can change, such as about a request without a credential.
    pub not_asked: u64,
    /// Decisions that would be the same.
    pub same: u64,
    /// Decisions that cannot be replayed, because their records lack something.
    pub lacking: u64,
    /// What those records lack; a record may lack several things.
    pub lacks: BTreeMap<&'static str, u64>,
    /// Decisions that would be different.
    pub different: u64,
    /// The different decisions, grouped by user, workspace and reasons.
    pub changes: Vec<ChangedDecisions>,
}

/// Decisions about one user at one workspace that would be different in the same way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChangedDecisions {
    /// The user in one word; `None` without an identity at a public endpoint.
    pub user: Option<String>,
    /// The workspace.
    pub workspace: String,
    /// The reason that was recorded.
    pub was: &'static str,
    /// The reason that the decisions would have.
    pub would_be: &'static str,
    /// Whether the requests would be allowed.
    pub allowed: bool,
    /// The policy that would decide.
    pub policy: Option<String>,
    /// How many decisions.
    pub count: u64,
    /// The first decision, in milliseconds since the Unix epoch.
    pub first_ms: u64,
    /// The last decision, in milliseconds since the Unix epoch.
    pub last_ms: u64,
}

/// Evaluates policies for records.
pub struct Replay<'s> {
    set: &'s PolicySet,
    /// The configured name of each issuer's identifier.
    issuers: BTreeMap<String, String>,
    report: ReplayReport,
    changes: BTreeMap<ChangeKey, ChangedDecisions>,
}

type ChangeKey = (Option<String>, String, &'static str, &'static str, Option<String>);

/// The result for one record.
enum RecordOutcome {
    NotAsked,
    Same,
    Lacks(BTreeSet<&'static str>),
    Other(Reason, Permission, Option<String>),
}

impl<'s> Replay<'s> {
    /// A replay of these policies. `issuers` has the configured name of each issuer's identifier, since records without
    /// `inputs` have only the identifier.
    #[must_use]
    pub fn new(set: &'s PolicySet, issuers: BTreeMap<String, String>) -> Self {
        Self { set, issuers, report: ReplayReport::default(), changes: BTreeMap::new() }
    }

    /// Evaluates the policies for one record. A record that is not a decision is ignored.
    pub fn record(&mut self, record: &Value) {
        let Some(verdict) = text(record, "verdict") else { return };
        let count = record.get("count").and_then(Value::as_u64).unwrap_or(1);
        self.report.decisions += count;
        match self.replay(record, verdict == Verdict::Allow.id()) {
            RecordOutcome::NotAsked => self.report.not_asked += count,
            RecordOutcome::Same => self.report.same += count,
            RecordOutcome::Lacks(what) => {
                self.report.lacking += count;
                for what in what {
                    *self.report.lacks.entry(what).or_default() += count;
                }
            }
            RecordOutcome::Other(was, permission, policy) => {
                self.report.different += count;
                let reason = permission.reason();
                let user = text(record, "user").map(str::to_owned);
                let workspace = text(record, "workspace").unwrap_or_default().to_owned();
                let key = (user.clone(), workspace.clone(), was.id(), reason.id(), policy.clone());
                let time = record.get("time_ms").and_then(Value::as_u64).unwrap_or_default();
                let first = record.get("from_ms").and_then(Value::as_u64).unwrap_or(time);
                let change = self.changes.entry(key).or_insert(ChangedDecisions {
                    user,
                    workspace,
                    was: was.id(),
                    would_be: reason.id(),
                    allowed: permission.is_granted(),
                    policy,
                    count: 0,
                    first_ms: first,
                    last_ms: time,
                });
                change.count += count;
                change.first_ms = change.first_ms.min(first);
                change.last_ms = change.last_ms.max(time);
            }
        }
    }

    /// The result for all records.
    #[must_use]
    pub fn finish(mut self) -> ReplayReport {
        self.report.changes = self.changes.into_values().collect();
        self.report
    }

    fn replay(&self, record: &Value, allowed: bool) -> RecordOutcome {
        let Some(was) = text(record, "reason").and_then(Reason::from_id) else {
            return RecordOutcome::NotAsked;
        };
        let inputs = record.get("inputs").filter(|inputs| inputs.is_object());
        let asked = record.get("policy_id").is_some();
        let mut lacks = BTreeSet::new();
        let relation =
            match inputs.and_then(|inputs| text(inputs, "relation")).and_then(Reason::from_id) {
                Some(relation) => relation,
                // Policies were evaluated, and their inputs were too long for the record.
                None if asked && is_of_policy(was) => {
                    return RecordOutcome::Lacks(BTreeSet::from(["inputs"]));
                }
                None => was,
            };
        let has_no_right = matches!(relation, Reason::NotPermitted | Reason::GroupsOverage);
        let relation = match relation.verdict() {
            Verdict::Allow => Permission::Granted(relation),
            _ if has_no_right => Permission::Denied(relation),
            Verdict::SignIn | Verdict::Deny | Verdict::Unavailable => {
                return RecordOutcome::NotAsked;
            }
        };
        // Refused after the policies, because of the workspace's phase or destination: no policy changes that.
        if !allowed && relation.is_granted() && !is_of_policy(was) {
            return RecordOutcome::Same;
        }
        if !relation.is_granted() && self.set.mode() == PolicyMode::Narrow {
            return RecordOutcome::Same;
        }
        let recorded = RecordedRequest::new(record, inputs, &self.issuers);
        let Some(request) = recorded.request(self.set, relation, &mut lacks) else {
            return RecordOutcome::Lacks(lacks);
        };
        let outcome = self.set.decide(&request);
        if outcome.permission.is_granted() == allowed {
            return RecordOutcome::Same;
        }
        RecordOutcome::Other(was, outcome.permission, outcome.policy.map(|id| id.to_string()))
    }
}

/// Whether a policy decided.
const fn is_of_policy(reason: Reason) -> bool {
    matches!(reason, Reason::PolicyForbidden | Reason::PolicyError | Reason::PolicyPermitted)
}

/// A member of a record that is text and was not cut.
fn text<'v>(record: &'v Value, name: &str) -> Option<&'v str> {
    record.get(name).and_then(Value::as_str).filter(|text| !text.ends_with('\u{2026}'))
}

/// What a record says about its request.
struct RecordedRequest<'r> {
    record: &'r Value,
    inputs: Option<&'r Value>,
    issuer: Option<String>,
    groups: Option<Vec<Box<str>>>,
    endpoint: Option<EndpointName>,
    method: Option<&'r str>,
    path: Option<&'r str>,
    is_stream: bool,
}

impl<'r> RecordedRequest<'r> {
    fn new(
        record: &'r Value,
        inputs: Option<&'r Value>,
        issuers: &BTreeMap<String, String>,
    ) -> Self {
        let named = || issuers.get(text(record, "issuer")?).map(String::as_str);
        let issuer = inputs.and_then(|inputs| text(inputs, "issuer")).or_else(named);
        let groups = inputs.and_then(|inputs| inputs.get("groups")?.as_array());
        let groups =
            groups.map(|all| all.iter().filter_map(Value::as_str).map(Into::into).collect());
        // Only a method that was neither escaped nor cut when it was recorded.
        let method =
            text(record, "method").filter(|m| !m.is_empty() && m.len() < 32 && !m.contains('\\'));
        let path = record.get("path").and_then(Value::as_str);
        let stream = inputs.and_then(|inputs| inputs.get("stream")?.as_bool());
        // Records of streams have an empty method and no path.
        let nothing = text(record, "method").is_some_and(str::is_empty) && path.is_none();
        Self {
            record,
            inputs,
            issuer: issuer.map(str::to_owned),
            groups,
            endpoint: text(record, "endpoint").and_then(EndpointName::parse),
            method,
            // A path with a placeholder is only a shape, by which no rule about paths can be evaluated.
            path: path.filter(|path| !path.contains('*')),
            is_stream: stream.unwrap_or(nothing),
        }
    }

    /// The request to evaluate, if the record has everything that the policies read.
    fn request<'q>(
        &'q self,
        set: &PolicySet,
        relation: Permission,
        lacks: &mut BTreeSet<&'static str>,
    ) -> Option<PolicyRequest<'q>> {
        let inputs = set.inputs();
        let input = |name: &str| self.inputs.and_then(|inputs| text(inputs, name));
        let is_known = text(self.record, "subject").is_some();
        let mut need = |is_read: bool, is_there: bool, what: &'static str| {
            if is_read && !is_there {
                lacks.insert(what);
            }
        };
        need(inputs.reads("path") && !self.is_stream, self.path.is_some(), "path");
        need(inputs.reads("method") && !self.is_stream, self.method.is_some(), "method");
        let client = text(self.record, "client").and_then(|text| text.parse::<IpAddr>().ok());
        need(inputs.reads("client"), client.is_some(), "client");
        let has_subject = self.record.get("subject").is_some_and(Value::is_string);
        need(has_subject, is_known, "subject");
        if is_known {
            need(inputs.reads_issuer(), self.issuer.is_some(), "issuer");
            need(inputs.reads_groups(), self.groups.is_some(), "groups");
            for name in ["email", "username", "user_organization"] {
                need(inputs.reads(name), self.inputs.is_some(), name);
            }
        }
        need(inputs.reads("organization"), self.inputs.is_some(), "organization");
        let declared = self.inputs.and_then(|inputs| inputs.get("declared")?.as_bool());
        need(!relation.is_granted(), declared.is_some(), "declared");
        need(true, self.endpoint.is_some(), "endpoint");
        need(true, text(self.record, "workspace").is_some(), "workspace");
        if !lacks.is_empty() {
            return None;
        }
        let principal = text(self.record, "subject").map(|subject| Principal {
            issuer: self.issuer.as_deref().unwrap_or_default(),
            subject,
            email: input("email"),
            username: input("username"),
            organization: input("user_organization"),
            groups: self.groups.as_deref(),
        });
        let time = self.record.get("time_ms").and_then(Value::as_u64).unwrap_or_default();
        Some(PolicyRequest {
            principal,
            workspace: text(self.record, "workspace")?,
            organization: input("organization"),
            endpoint: self.endpoint.as_ref()?,
            declared: declared.unwrap_or(true),
            relation,
            context: RequestContext {
                method: self.method.map(str::as_bytes),
                path: self.path.map(str::as_bytes),
                client,
                now: Timestamp::from_millis(time),
                is_stream: self.is_stream,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use serde_json::json;

    use super::*;

    fn replay(mode: PolicyMode, policies: &str, records: &[Value]) -> ReplayReport {
        let set = PolicySet::parse("p", policies, mode, TimeZone::UTC).unwrap();
        let issuers = BTreeMap::from([("https://corp".to_owned(), "corp".to_owned())]);
        let mut replay = Replay::new(&set, issuers);
        for record in records {
            replay.record(record);
        }
        replay.finish()
    }

    fn record(change: Value) -> Value {
        let mut record = json!({"time_ms": 1000, "verdict": "allow", "reason": "owner",
            "user": "alice", "subject": "s", "issuer": "https://corp", "workspace": "w",
            "endpoint": "main", "method": "GET", "path": "/a/b", "client": "192.0.2.1"});
        let Value::Object(change) = change else { panic!() };
        record.as_object_mut().unwrap().extend(change);
        record
    }

    fn rule(when: &str) -> String {
        format!(
            "@id(\"no\") forbid(principal is User, action == Action::\"request\", resource) when {{ {when} }};"
        )
    }

    #[test]
    fn what_a_policy_would_forbid_is_told_by_user_and_workspace() {
        let report = replay(
            PolicyMode::Narrow,
            &rule("context.method == \"POST\""),
            &[
                record(json!({})),
                record(json!({"method": "POST", "time_ms": 10})),
                record(json!({"method": "POST", "time_ms": 90, "count": 4, "from_ms": 5})),
                record(json!({"method": "POST", "user": "bob"})),
                record(json!({"method": "POST", "verdict": "deny", "reason": "not_permitted"})),
                record(json!({"method": "POST", "verdict": "deny", "reason": "workspace_stopped"})),
                record(json!({"verdict": "sign_in", "reason": "credential_missing"})),
                json!({"event": "start"}),
            ],
        );
        assert_eq!((report.decisions, report.different, report.lacking), (10, 6, 0));
        assert_eq!((report.same, report.not_asked), (2, 2));
        let [alice, bob] = &report.changes[..] else { panic!("{report:?}") };
        assert_eq!((alice.user.as_deref(), alice.count), (Some("alice"), 5));
        assert_eq!((alice.first_ms, alice.last_ms), (5, 90));
        assert_eq!(
            (alice.was, alice.would_be, alice.allowed),
            ("owner", "policy_forbidden", false)
        );
        assert_eq!((bob.user.as_deref(), bob.policy.as_deref()), (Some("bob"), Some("no")));
    }

    #[test]
    fn what_a_record_lacks_is_counted_and_not_guessed() {
        let inputs = json!({"relation": "owner", "declared": true, "stream": false, "issuer": "corp",
            "email": "a@x", "username": null, "user_organization": null, "organization": null,
            "groups": ["g"]});
        for (when, there, lacking) in [
            ("context.path == \"/a/*\"", json!({"path": "/a/*"}), Some("path")),
            ("context.path == \"/a/b\"", json!({}), None),
            ("context.path like \"*\"", json!({"path": null}), Some("path")),
            ("context.method == \"GET\"", json!({"method": "G\\\\x"}), Some("method")),
            ("context.client.isLoopback()", json!({"client": null}), Some("client")),
            ("principal == User::\"corp/s\"", json!({}), None),
            ("principal == User::\"corp/s\"", json!({"issuer": "https://else"}), Some("issuer")),
            ("principal has email", json!({}), Some("email")),
            ("principal has email", json!({"inputs": inputs}), None),
            ("principal in Group::\"corp/g\"", json!({}), Some("groups")),
            ("principal in Group::\"corp/g\"", json!({"inputs": inputs}), None),
            ("resource has organization", json!({}), Some("organization")),
        ] {
            let report = replay(PolicyMode::Narrow, &rule(when), &[record(there)]);
            let lacks: Vec<_> = report.lacks.keys().copied().collect();
            assert_eq!(lacks, lacking.into_iter().collect::<Vec<_>>(), "{when}");
            assert_eq!(report.different, u64::from(lacking.is_none()), "{when}");
        }
    }

    #[test]
    fn what_was_forbidden_may_be_allowed_and_strangers_permitted() {
        let inputs = |relation: &str| json!({"relation": relation, "declared": true, "stream": false, "issuer": "corp", "groups": []});
        let forbidden = |relation: &str| {
            record(json!({"verdict": "deny", "reason": "policy_forbidden", "policy_id": "old",
                "inputs": inputs(relation)}))
        };
        let report =
            replay(PolicyMode::Narrow, &rule("context.method == \"POST\""), &[forbidden("owner")]);
        assert!(report.changes[0].allowed && report.changes[0].would_be == "owner");
        let permit = "@id(\"yes\") permit(principal, action, resource);";
        let stranger = record(json!({"verdict": "deny", "reason": "not_permitted"}));
        let known = record(json!({"verdict": "deny", "reason": "not_permitted",
            "policy_id": null, "inputs": inputs("not_permitted")}));
        let report = replay(PolicyMode::Replace, permit, &[stranger, known]);
        assert_eq!(report.lacks, BTreeMap::from([("declared", 1)]));
        assert!(report.changes[0].allowed && report.changes[0].would_be == "policy_permitted");
        // A record that had no room for what policies knew.
        let full =
            record(json!({"verdict": "deny", "reason": "policy_forbidden", "policy_id": "old",
            "inputs": null}));
        let report = replay(PolicyMode::Narrow, &rule("context.method == \"POST\""), &[full]);
        assert_eq!(report.lacks, BTreeMap::from([("inputs", 1)]));
    }
}
