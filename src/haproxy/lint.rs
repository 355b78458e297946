//! Dangerous mistakes in a HAProxy configuration that asks this agent, each with its line and what to
//! write instead.
//!
//! Judges texts only: no HAProxy is started, nothing but the files is looked at. A rule of HAProxy that is
//! not known here is passed over, so a clean result is no proof; `haproxy selftest` tries the real thing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::Serialize;

use super::{
    condition::Acls,
    document::{At, Document, Section, Source},
};

mod backends;
mod engine;
mod guard;
mod headers;
mod host;
mod pages;
mod question;
mod reuse;

pub(super) use engine::MARGIN;
use guard::Guard;
pub(super) use reuse::CONDITION as REUSE;

/// What the agent's configuration says that HAProxy's must fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Agent {
    /// Every question is answered within this time.
    pub answer_within: Duration,
    /// Whether people sign in with a browser.
    pub sign_in: bool,
    /// Whether tokens may be in a cookie.
    pub cookie: bool,
    /// Whether tokens may be in the query.
    pub query: bool,
    /// Whether tokens may be in a WebSocket subprotocol.
    pub subprotocol: bool,
    /// Whether there are policies, which are about method, path and client.
    pub policies: bool,
}

impl Default for Agent {
    /// What holds where the agent's configuration says nothing.
    fn default() -> Self {
        let answer_within = Duration::from_millis(300);
        Self {
            answer_within,
            sign_in: false,
            cookie: false,
            query: false,
            subprotocol: false,
            policies: false,
        }
    }
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The file, as it was named.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The kind of mistake.
    pub rule: Rule,
    /// What is wrong there.
    pub what: String,
    /// What can come of it.
    pub why: &'static str,
    /// What to write instead.
    pub fix: String,
}

impl Serialize for Rule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id())
    }
}

/// A kind of mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// A line that is none.
    Unreadable,
    /// No rule sends the question.
    NotAsked,
    /// The SPOE file or its engine is missing.
    SpoeUnreadable,
    /// The verdict is kept beyond its request.
    VerdictScope,
    /// The verdict is used before the question.
    VerdictTooEarly,
    /// A rule makes the verdict.
    VerdictMade,
    /// `-m found` on the verdict.
    VerdictFound,
    /// Nothing refuses what is not allowed.
    NoDefaultDeny,
    /// The refusal depends on more than the verdict.
    DenyDepends,
    /// A rule lets requests pass before the refusal.
    Bypass,
    /// Another front end leads to workspaces.
    Unguarded,
    /// A header in our name can come from the client.
    HeaderNotStripped,
    /// Host is compared in part only.
    HostInPart,
    /// Tokens or our cookies reach workspaces.
    CredentialTravels,
    /// Workspaces can set our cookies.
    CookieNotDropped,
    /// Clients share connections to workspaces.
    SharedConnection,
    /// The paths of our own pages lead to workspaces.
    ReservedPath,
    /// Tokens are taken in the clear.
    PlainHttp,
    /// Credentials are written to the log.
    SecretLogged,
    /// No `option set-on-error`.
    NoSetOnError,
    /// `timeout processing` is missing or too short.
    ProcessingTimeout,
    /// No `option var-prefix`.
    NoVarPrefix,
    /// The question lacks arguments, or has others.
    Arguments,
    /// A rule that reuse goes past.
    ReuseSkips,
    /// Half of an answer could be reused.
    ReuseHalf,
}

impl Rule {
    /// Every rule.
    pub const ALL: [Self; 25] = [
        Self::Unreadable,
        Self::NotAsked,
        Self::SpoeUnreadable,
        Self::VerdictScope,
        Self::VerdictTooEarly,
        Self::VerdictMade,
        Self::VerdictFound,
        Self::NoDefaultDeny,
        Self::DenyDepends,
        Self::Bypass,
        Self::Unguarded,
        Self::HeaderNotStripped,
        Self::HostInPart,
        Self::CredentialTravels,
        Self::CookieNotDropped,
        Self::SharedConnection,
        Self::ReservedPath,
        Self::PlainHttp,
        Self::SecretLogged,
        Self::NoSetOnError,
        Self::ProcessingTimeout,
        Self::NoVarPrefix,
        Self::Arguments,
        Self::ReuseSkips,
        Self::ReuseHalf,
    ];

    /// Its name, which does not change.
    #[must_use]
    pub fn id(self) -> &'static str {
        self.about().0
    }

    /// What can come of it.
    #[must_use]
    pub fn why(self) -> &'static str {
        self.about().1
    }

    fn about(self) -> (&'static str, &'static str) {
        match self {
            Self::Unreadable => {
                ("unreadable", "what cannot be read cannot be judged, and HAProxy refuses it")
            }
            Self::NotAsked => ("not-asked", "nobody decides about requests to this section"),
            Self::SpoeUnreadable => {
                ("spoe-unreadable", "without the SPOE file nobody knows what is asked and how")
            }
            Self::VerdictScope => (
                "verdict-scope",
                "a variable of the session or the process outlives its request: when the agent does not answer, the next request on the connection inherits the last verdict",
            ),
            Self::VerdictTooEarly => (
                "verdict-too-early",
                "the variables are not set yet: the rule decides without a verdict",
            ),
            Self::VerdictMade => (
                "verdict-made",
                "these requests pass without the agent having been asked, and when it is away",
            ),
            Self::VerdictFound => (
                "verdict-found",
                "the agent sets the variable in every answer, to false when it refuses: 'found' holds then, too",
            ),
            Self::NoDefaultDeny => (
                "no-default-deny",
                "what is not allowed is passed on, and everything is when the agent is away",
            ),
            Self::DenyDepends => (
                "deny-depends",
                "a request that is not allowed passes whenever the rest of the condition does not hold, as when the agent is away or answers something new",
            ),
            Self::Bypass => (
                "bypass",
                "these requests are passed on without a verdict, and with all they brought",
            ),
            Self::Unguarded => {
                ("unguarded", "whoever finds this front end reaches workspaces without a verdict")
            }
            Self::HeaderNotStripped => (
                "header-not-stripped",
                "a client can send this header itself, and the workspace believes it; names with underscores become the same variables in CGI-like servers",
            ),
            Self::HostInPart => (
                "host-in-part",
                "Host is the client's text: 'ws.example.com.evil.test' begins, 'evil-ws.example.com' ends with what is compared",
            ),
            Self::CredentialTravels => (
                "credential-travels",
                "the code in a workspace could use what it gets as the person who sent it",
            ),
            Self::CookieNotDropped => (
                "cookie-not-dropped",
                "a workspace could put a session cookie of its choice into a person's browser",
            ),
            Self::SharedConnection => (
                "shared-connection",
                "a workspace runs code that is not trusted to keep the answers to two people on one connection apart",
            ),
            Self::ReservedPath => (
                "reserved-path",
                "tickets and pages of sign-in at workspaces' hosts would go to the code in the workspace",
            ),
            Self::PlainHttp => ("plain-http", "a token sent in the clear is a token given away"),
            Self::SecretLogged => {
                ("secret-logged", "whoever reads the log can act as the people in it")
            }
            Self::NoSetOnError => (
                "no-set-on-error",
                "the log does not tell an agent that fails from one that refuses",
            ),
            Self::ProcessingTimeout => (
                "processing-timeout",
                "HAProxy gives up before the agent has answered with a reason, or never does",
            ),
            Self::NoVarPrefix => (
                "no-var-prefix",
                "the variables are called after the engine then, and change with its name",
            ),
            Self::Arguments => (
                "arguments",
                "the agent refuses what it cannot see, and sees the last of repeated headers only",
            ),
            Self::ReuseSkips => (
                "reuse-skips",
                "what the rule refuses or changes passes as it is when an allow is reused",
            ),
            Self::ReuseHalf => (
                "reuse-half",
                "HAProxy leaves out what it has no memory for: a token that must be taken away could travel on",
            ),
        }
    }
}

/// Files by the name that a configuration calls them: gives what is in it, or nothing.
pub type Files<'f> = &'f dyn Fn(&str) -> Option<Source>;

/// All mistakes in these files, which are one configuration, in the order of their places.
#[must_use]
pub fn lint(sources: &[Source], files: Files<'_>, agent: &Agent) -> Vec<Finding> {
    let document = Document::read(sources);
    let mut report = Report::new(sources);
    for found in &document.unreadable {
        report.add(Rule::Unreadable, found.at, &found.why, "see HAProxy's manual, section 2.2");
    }
    let mut spoe = BTreeMap::new();
    // What the whole configuration lacks is a mistake only if no way the conditions turn out has it.
    let mut lacks: Option<BTreeSet<Noted>> = None;
    for sections in document.variants() {
        let guards: Vec<_> = sections
            .iter()
            .filter_map(|section| Guard::of(section, &sections, files, &mut spoe, &mut report))
            .collect();
        let variant = Variant { sections: &sections, guards: &guards, agent };
        question::check_scopes(&variant, &mut report);
        reuse::check_made(&variant, &mut report);
        reuse::check_skipped(&variant, &mut report);
        for guard in &guards {
            question::check(guard, &mut report);
            headers::check(guard, agent, &mut report);
            host::check(guard, &mut report);
            engine::check(guard, agent, &mut report);
        }
        headers::check_backends(&variant, &mut report);
        backends::check(&variant, &mut report);
        if guards.is_empty() && report.is_clean() && !sections.is_empty() {
            let fix = "filter spoe engine identity config identity.spoe.cfg\nhttp-request send-spoe-group identity authorize";
            let at = sections.iter().find(|s| s.kind == "frontend" || s.kind == "listen");
            report.lacks(
                Rule::NotAsked,
                at.map_or(At { file: 0, line: 1 }, |s| s.at),
                "no section asks the agent: there is no 'filter spoe' with a message 'authorize'",
                fix,
            );
        }
        let here = std::mem::take(&mut report.lacks);
        lacks = Some(match lacks {
            Some(before) => before.intersection(&here).cloned().collect(),
            None => here,
        });
    }
    report.finish(lacks.unwrap_or_default())
}

/// One way the conditions turn out.
struct Variant<'v> {
    sections: &'v [Section],
    guards: &'v [Guard<'v>],
    agent: &'v Agent,
}

impl Variant<'_> {
    /// What a keyword is set to in a section or the defaults it inherits.
    fn setting<'s>(&'s self, section: &'s Section, keyword: &str) -> Option<(At, &'s str)> {
        guard::setting(section, self.sections, keyword)
    }
}

type Noted = (At, Rule, String, String);

/// What was found so far.
struct Report {
    names: Vec<String>,
    found: BTreeSet<Noted>,
    lacks: BTreeSet<Noted>,
}

impl Report {
    fn new(sources: &[Source]) -> Self {
        let names = sources.iter().map(|source| source.name.clone()).collect();
        Self { names, found: BTreeSet::new(), lacks: BTreeSet::new() }
    }

    /// Another file; its number.
    fn file(&mut self, name: &str) -> usize {
        self.names.push(name.to_owned());
        self.names.len() - 1
    }

    fn is_clean(&self) -> bool {
        self.found.is_empty()
    }

    fn add(&mut self, rule: Rule, at: At, what: impl Into<String>, fix: impl Into<String>) {
        self.found.insert((at, rule, what.into(), fix.into()));
    }

    /// Something that one way the conditions turn out lacks.
    fn lacks(&mut self, rule: Rule, at: At, what: impl Into<String>, fix: impl Into<String>) {
        self.lacks.insert((at, rule, what.into(), fix.into()));
    }

    fn finish(self, lacks: BTreeSet<Noted>) -> Vec<Finding> {
        let finding = |(at, rule, what, fix): Noted| Finding {
            file: self.names.get(at.file).cloned().unwrap_or_default(),
            line: at.line,
            rule,
            what,
            why: rule.why(),
            fix,
        };
        self.found
            .into_iter()
            .chain(lacks)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .map(finding)
            .collect()
    }
}

/// The ACLs of a section with those it inherits.
fn acls(lines: &[&super::document::Line]) -> Acls {
    let mut acls = Acls::new();
    for line in lines {
        if let [keyword, name, rest @ ..] = &line.words[..]
            && keyword == "acl"
        {
            acls.entry(name.clone()).or_default().push(super::condition::Test::read(rest));
        }
    }
    acls
}
