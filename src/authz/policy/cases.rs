//! Tests of policies: files next to them that end in `.test.yaml`, `.test.yml` or `.test.toml`.
//!
//! Each case describes a request and the verdict that it must get. `identity-spoa policy test` runs them with the code
//! that decides about real requests. Cases have no defaults that hide something: a case without a time is a mistake
//! where the policies read the time.

use std::{
    collections::BTreeSet,
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
};

use jiff::{civil::DateTime, tz::TimeZone};
use toml_span::{DeserError, Deserialize, Value, de_helpers::TableHelper};

use super::{PolicyMode, PolicyOutcome, PolicyRequest, PolicySet, Principal, RequestContext};
use crate::{
    authz::{
        permission::Permission,
        reason::{Reason, Verdict},
    },
    diagnostics::{self, Format, Mistake, Mistakes, choice, line_and_column, mistake},
    time::Timestamp,
    workspaces::EndpointName,
};

/// How the names of files with cases end.
const FILE_NAME_ENDS: [&str; 3] = [".test.yaml", ".test.yml", ".test.toml"];

/// PolicyCases from a directory.
#[derive(Debug)]
pub struct PolicyCases(Vec<(String, PolicyCase)>);

/// A case whose result is not the expected one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaseFailure {
    /// The file.
    pub file: String,
    /// The line in which the case begins.
    pub line: usize,
    /// The name of the case.
    pub name: String,
    /// The expected and the actual result.
    pub what: String,
}

/// The result of all cases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CasesReport {
    /// How many cases there were.
    pub cases: usize,
    /// The cases that failed.
    pub failures: Vec<CaseFailure>,
    /// The ids of policies that decided no case.
    pub untested: Vec<String>,
}

#[derive(Debug)]
struct PolicyCase {
    line: usize,
    at: usize,
    name: String,
    user: Option<User>,
    relation: Option<Permission>,
    workspace: String,
    organization: Option<String>,
    endpoint: EndpointName,
    declared: bool,
    stream: bool,
    method: String,
    path: String,
    client: Option<IpAddr>,
    time: Option<String>,
    allowed: bool,
    reason: Option<Reason>,
    policy: Option<String>,
}

#[derive(Debug)]
struct User {
    issuer: String,
    subject: String,
    email: Option<String>,
    username: Option<String>,
    organization: Option<String>,
    groups: Vec<Box<str>>,
}

impl fmt::Display for CaseFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.file, self.line, self.name, self.what)
    }
}

impl PolicyCases {
    /// Reads every file of cases in a directory.
    ///
    /// # Errors
    /// Every mistake in them.
    pub fn load(directory: &Path) -> Result<Self, Mistakes> {
        let shown = directory.display().to_string();
        let failed = |error| Mistakes::whole(&shown, format!("cannot read the cases: {error}"));
        let mut paths: BTreeSet<PathBuf> = BTreeSet::new();
        for entry in std::fs::read_dir(directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if FILE_NAME_ENDS.iter().any(|end| name.ends_with(end)) {
                paths.insert(path);
            }
        }
        let mut cases = Vec::new();
        let mut mistakes: Vec<Mistake> = Vec::new();
        for path in paths {
            let name = path.display().to_string();
            let text = match std::fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) => {
                    let message = format!("cannot read the cases: {error}");
                    mistakes.extend(Mistakes::whole(&name, message));
                    continue;
                }
            };
            match Self::parse(&name, &text, Format::from_path(&path).unwrap_or(Format::Yaml)) {
                Ok(found) => cases.extend(found.0),
                Err(found) => mistakes.extend(found),
            }
        }
        if mistakes.is_empty() { Ok(Self(cases)) } else { Err(mistakes.into()) }
    }

    /// Reads the cases of one text.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn parse(name: &str, text: &str, format: Format) -> Result<Self, Mistakes> {
        let CaseFile(mut cases) = diagnostics::read(name, text, format)?;
        for case in &mut cases {
            case.line = line_and_column(text, case.at).0;
        }
        Ok(Self(cases.into_iter().map(|case| (name.to_owned(), case)).collect()))
    }

    /// Whether there are no cases.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Evaluates the policies for each case.
    #[must_use]
    pub fn run(&self, set: &PolicySet) -> CasesReport {
        let mut untested: BTreeSet<String> = set.ids().into_iter().collect();
        let mut failures = Vec::new();
        for (file, case) in &self.0 {
            let what = match case.outcome(set) {
                Err(message) => Some(message),
                Ok(outcome) => {
                    if let Some(id) = &outcome.policy {
                        untested.remove(&**id);
                    }
                    case.failure(&outcome)
                }
            };
            failures.extend(what.map(|what| CaseFailure {
                file: file.clone(),
                line: case.line,
                name: case.name.clone(),
                what,
            }));
        }
        let untested = untested.into_iter().collect();
        CasesReport { cases: self.0.len(), failures, untested }
    }
}

impl PolicyCase {
    fn outcome(&self, set: &PolicySet) -> Result<PolicyOutcome, String> {
        let principal = self.user.as_ref().map(|user| Principal {
            issuer: &user.issuer,
            subject: &user.subject,
            email: user.email.as_deref(),
            username: user.username.as_deref(),
            organization: user.organization.as_deref(),
            groups: Some(&user.groups),
        });
        // The defaults are what most cases are about: an owner, or a visitor of a public endpoint.
        let usual = if principal.is_some() { Reason::Owner } else { Reason::Public };
        let relation = self.relation.unwrap_or(Permission::Granted(usual));
        if principal.is_none() && relation != Permission::Granted(Reason::Public) {
            return Err("without a 'user', the 'relation' can only be public".into());
        }
        if set.mode() == PolicyMode::Narrow && !relation.is_granted() && self.allowed {
            return Err("with mode = \"narrow\" no policy allows what ownership denies".into());
        }
        let now = match &self.time {
            Some(time) => read_time(time, &set.zone)?,
            // A default would make the result of a case depend on when it runs, or hide the rule.
            None if set.inputs.reads_time() => {
                return Err("the policies read the time: expected 'time'".into());
            }
            None => Timestamp::default(),
        };
        Ok(set.decide(&PolicyRequest {
            principal,
            workspace: &self.workspace,
            organization: self.organization.as_deref(),
            endpoint: &self.endpoint,
            declared: self.declared,
            relation,
            context: RequestContext {
                method: (!self.stream).then_some(self.method.as_bytes()),
                path: (!self.stream).then_some(self.path.as_bytes()),
                client: self.client,
                now,
                is_stream: self.stream,
            },
        }))
    }

    fn failure(&self, outcome: &PolicyOutcome) -> Option<String> {
        let reason = outcome.permission.reason();
        let as_expected = outcome.permission.is_granted() == self.allowed
            && self.reason.is_none_or(|wanted| wanted == reason)
            && (self.policy.is_none() || self.policy.as_deref() == outcome.policy.as_deref());
        if as_expected {
            return None;
        }
        let told = |allowed: bool, reason: Option<Reason>, policy: Option<&str>| {
            let verdict = if allowed { "allow" } else { "deny" };
            let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
            let policy = policy.map(|policy| format!(" by {policy}")).unwrap_or_default();
            format!("{verdict}{reason}{policy}")
        };
        let wanted = told(self.allowed, self.reason, self.policy.as_deref());
        let came = told(outcome.permission.is_granted(), Some(reason), outcome.policy.as_deref());
        Some(format!("expected {wanted}, found {came}"))
    }
}

/// A time with an offset from UTC, or by the clock of the policies' time zone.
fn read_time(text: &str, zone: &TimeZone) -> Result<Timestamp, String> {
    let local =
        || text.parse::<DateTime>().ok()?.to_zoned(zone.clone()).ok().map(|at| at.timestamp());
    let time = text.parse::<jiff::Timestamp>().ok().or_else(local);
    let millis = time.and_then(|time| u64::try_from(time.as_millisecond()).ok());
    millis.map(Timestamp::from_millis).ok_or_else(|| {
        format!("expected a time such as 2026-11-27T19:30 or 2026-11-27T18:30:00Z, found {text:?}")
    })
}

struct CaseFile(Vec<PolicyCase>);

impl<'de> Deserialize<'de> for CaseFile {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let mut table = TableHelper::new(value)?;
        let cases = table.required::<Vec<PolicyCase>>("cases");
        table.finalize(None)?;
        cases.map(Self).map_err(Into::into)
    }
}

impl<'de> Deserialize<'de> for PolicyCase {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let at = value.span.start;
        let mut table = TableHelper::new(value)?;
        let name = table.required::<String>("name");
        let user = table.optional::<User>("user");
        let relation = table.optional::<RelationWord>("relation").map(|relation| relation.0);
        let text = |table: &mut TableHelper<'de>, key, unless: &str| {
            table.optional::<String>(key).unwrap_or_else(|| unless.to_owned())
        };
        let workspace = text(&mut table, "workspace", "workspace");
        let organization = table.optional::<String>("organization");
        let endpoint = table.optional::<Endpoint>("endpoint").map(|endpoint| endpoint.0);
        let declared = table.optional::<bool>("declared").unwrap_or(true);
        let stream = table.optional::<bool>("stream").unwrap_or(false);
        let method = text(&mut table, "method", "GET");
        let path = text(&mut table, "path", "/");
        let client = table.optional::<Client>("client").map(|client| client.0);
        let time = table.optional::<TimeText>("time").map(|text| text.0);
        let verdict = table.required::<VerdictWord>("verdict");
        let reason = table.optional::<ReasonWord>("reason").map(|reason| reason.0);
        let policy = table.optional::<String>("policy");
        table.finalize(None)?;
        Ok(Self {
            line: 0,
            at,
            name: name?,
            user,
            relation,
            workspace,
            organization,
            endpoint: endpoint.unwrap_or(EndpointName::Main),
            declared,
            stream,
            method,
            path,
            client,
            time,
            allowed: verdict?.0,
            reason,
            policy,
        })
    }
}

impl<'de> Deserialize<'de> for User {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let mut table = TableHelper::new(value)?;
        let issuer = table.required::<String>("issuer");
        let subject = table.required::<String>("subject");
        let email = table.optional::<String>("email");
        let username = table.optional::<String>("username");
        let organization = table.optional::<String>("organization");
        let groups = table.optional::<Vec<String>>("groups").unwrap_or_default();
        table.finalize(None)?;
        let groups = groups.into_iter().map(Into::into).collect();
        Ok(Self { issuer: issuer?, subject: subject?, email, username, organization, groups })
    }
}

struct VerdictWord(bool);

impl<'de> Deserialize<'de> for VerdictWord {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        choice(value, &[("allow", true), ("deny", false)]).map(Self)
    }
}

struct RelationWord(Permission);

impl<'de> Deserialize<'de> for RelationWord {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let allowed = Reason::ALL.into_iter().filter(|reason| {
            reason.verdict() == Verdict::Allow && *reason != Reason::PolicyPermitted
        });
        let mut choices: Vec<_> =
            allowed.map(|reason| (reason.id(), Permission::Granted(reason))).collect();
        choices.push(("none", Permission::Denied(Reason::NotPermitted)));
        choice(value, &choices).map(Self)
    }
}

struct ReasonWord(Reason);

impl<'de> Deserialize<'de> for ReasonWord {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let text = value.take_string(None)?;
        let message = || mistake(value.span, format!("there is no reason {text:?}")).into();
        Reason::from_id(&text).map(Self).ok_or_else(message)
    }
}

struct Endpoint(EndpointName);

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let text = value.take_string(None)?;
        let message = || {
            let message = format!("expected main, port:NUMBER or app:NAME, found {text:?}");
            mistake(value.span, message).into()
        };
        EndpointName::parse(&text).map(Self).ok_or_else(message)
    }
}

struct Client(IpAddr);

impl<'de> Deserialize<'de> for Client {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        diagnostics::parsed(value).map(Self)
    }
}

struct TimeText(String);

impl<'de> Deserialize<'de> for TimeText {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let text = value.take_string(None)?;
        match read_time(&text, &TimeZone::UTC) {
            Ok(_) => Ok(Self(text.into())),
            Err(message) => Err(mistake(value.span, message).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICIES: &str = "
@id(\"night\") forbid(principal, action, resource)
when { context.hour < 6 };
@id(\"delete\") forbid(principal, action == Action::\"request\", resource)
when { context.method == \"DELETE\" };
";

    fn run(cases: &str) -> CasesReport {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let set = PolicySet::parse("p", POLICIES, PolicyMode::Narrow, zone).unwrap();
        PolicyCases::parse("c.test.yaml", cases, Format::Yaml).unwrap().run(&set)
    }

    #[test]
    fn a_case_passes_when_its_request_gets_its_verdict() {
        let report = run("
cases:
  - { name: day, user: { issuer: a, subject: b }, time: '2026-11-27T10:00', verdict: allow, reason: owner }
  - { name: night, user: { issuer: a, subject: b }, time: '2026-11-27T05:00', verdict: deny, policy: night }
  - { name: 05:00 in Berlin, time: '2026-11-27T04:30:00Z', verdict: deny, reason: policy_forbidden }
");
        assert_eq!(report.failures, []);
        assert_eq!((report.cases, report.untested), (3, vec!["delete".to_owned()]));
    }

    #[test]
    fn a_failure_has_its_line() {
        let report = run("
cases:
  - name: a deletion at night
    user: { issuer: a, subject: b }
    time: '2026-11-27T05:00'
    method: DELETE
    verdict: deny
    policy: night
  - name: a deletion at noon
    user: { issuer: a, subject: b }
    time: '2026-11-27T12:00'
    method: DELETE
    verdict: allow
  - { name: when, user: { issuer: a, subject: b }, verdict: allow }
  - { name: who, relation: owner, time: '2026-11-27T12:00', verdict: allow }
");
        let told: Vec<_> = report.failures.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "c.test.yaml:3: a deletion at night: expected deny by night, found deny (policy_forbidden) by delete",
                "c.test.yaml:9: a deletion at noon: expected allow, found deny (policy_forbidden) by delete",
                "c.test.yaml:14: when: the policies read the time: expected 'time'",
                "c.test.yaml:15: who: without a 'user', the 'relation' can only be public",
            ]
        );
    }

    #[test]
    fn mistakes_in_cases_are_found_with_their_lines() {
        let text = "
[[cases]]
name = 'a'
verdit = 'deny'
client = '10.0.0'
time = 'noon'
relation = 'boss'
endpoint = 'port'
";
        let mistakes =
            PolicyCases::parse("c.test.toml", text, Format::Toml).unwrap_err().to_string();
        for (line, what) in [
            (2, "'verdict' is missing"),
            (4, "did you mean 'verdict'?"),
            (5, "invalid IP address"),
            (6, "expected a time"),
            (7, "expected one of owner"),
            (8, "expected main, port:NUMBER"),
        ] {
            let found = mistakes
                .lines()
                .any(|m| m.starts_with(&format!("c.test.toml:{line}:")) && m.contains(what));
            assert!(found, "{line} {what}\n{mistakes}");
        }
    }
}
