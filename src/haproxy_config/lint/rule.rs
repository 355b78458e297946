//! The kinds of mistakes that lint finds. The id of a kind never changes: people and CI search for it.

use serde::Serialize;

impl Serialize for Rule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id())
    }
}

/// A kind of mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, strum::VariantArray)]
pub enum Rule {
    /// A line that cannot be read.
    Unreadable,
    /// No rule asks the agent.
    NotAsked,
    /// The SPOE file or its engine is missing.
    SpoeUnreadable,
    /// The verdict is kept for longer than its request.
    VerdictScope,
    /// The verdict is used before the agent is asked.
    VerdictTooEarly,
    /// A rule makes the verdict.
    VerdictMade,
    /// `-m found` is used on the verdict.
    VerdictFound,
    /// Nothing refuses what is not allowed.
    NoDefaultDeny,
    /// The refusal depends on more than the verdict.
    DenyDepends,
    /// A rule lets requests pass before the refusal.
    Bypass,
    /// A section that does not ask the agent leads to workspaces.
    Unguarded,
    /// A client's own identity header is not deleted.
    HeaderNotStripped,
    /// Only a part of Host is compared.
    HostInPart,
    /// Tokens or the agent's cookies reach workspaces.
    CredentialTravels,
    /// Workspaces can set the agent's cookies.
    CookieNotDropped,
    /// Clients share connections to workspaces.
    SharedConnection,
    /// The paths of the agent's pages lead to workspaces.
    ReservedPath,
    /// Tokens are accepted over plain http.
    PlainHttp,
    /// Credentials are written to the log.
    SecretLogged,
    /// `option set-on-error` is missing.
    NoSetOnError,
    /// `timeout processing` is missing or too short.
    ProcessingTimeout,
    /// `option var-prefix` is missing.
    NoVarPrefix,
    /// Arguments of the authorization request are missing or wrong.
    Arguments,
    /// A rule that reused requests skip.
    ReuseSkips,
    /// Half of an answer could be reused.
    ReuseHalf,
    /// A route or a destination that the agent does not choose.
    RouteNotAgents,
    /// An identity header whose value is not the agent's.
    HeaderForged,
    /// A rule ends the rules although later ones are needed.
    RulesSkipped,
    /// A shipped rule that protects workspaces or the gate is missing.
    RuleMissing,
    /// Responses of workspaces are cached for other people.
    SharedCache,
    /// The certificate of a server is not verified.
    ServerUnverified,
    /// The runtime API is open to the network.
    SocketOpen,
    /// The page of statistics is open to people who reach a workspace.
    StatisticsOpen,
    /// The request that arrives has another path or method than the one the agent judged.
    NotAsJudged,
    /// A section of one mode leads to one of the other mode.
    ModeDiffers,
    /// Several questions at a time on one connection, where HAProxy cannot do it.
    Pipelining,
    /// Something that lint cannot judge.
    NotJudged,
}

impl Rule {
    /// The id, which never changes.
    #[must_use]
    pub fn id(self) -> &'static str {
        self.about().0
    }

    /// What can happen because of such a mistake.
    #[must_use]
    pub fn why(self) -> &'static str {
        self.about().1
    }

    #[expect(clippy::too_many_lines, reason = "a table: one entry for each rule")]
    fn about(self) -> (&'static str, &'static str) {
        match self {
            Self::Unreadable => {
                ("unreadable", "what cannot be read cannot be judged, and HAProxy refuses it")
            }
            Self::NotAsked => ("not-asked", "no agent decides about requests to this section"),
            Self::SpoeUnreadable => {
                ("spoe-unreadable", "without the SPOE file it is not known what is asked and how")
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
                ("unguarded", "all who reach this front end reach workspaces without a verdict")
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
                ("secret-logged", "all who can read the log can act as the people in it")
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
            Self::RouteNotAgents => (
                "route-not-agents",
                "the agent decides about one workspace, and the request goes to another one, or where the client says",
            ),
            Self::HeaderForged => (
                "header-forged",
                "workspaces believe this header: with a client's value in it the client is who it wants to be",
            ),
            Self::RulesSkipped => (
                "rules-skipped",
                "the rules below are not followed then: what they take away travels on",
            ),
            Self::RuleMissing => (
                "rule-missing",
                "what this rule prevents is possible without it; docs/threat-model.md",
            ),
            Self::SharedCache => (
                "shared-cache",
                "an answer for one person is given to the next who asks for the same address",
            ),
            Self::ServerUnverified => (
                "server-unverified",
                "whatever answers at that address gets the request, with any certificate",
            ),
            Self::SocketOpen => (
                "socket-open",
                "all who reach this socket command HAProxy: they can change addresses, maps and variables",
            ),
            Self::StatisticsOpen => (
                "statistics-open",
                "all who may open one workspace read the names and addresses of the others there",
            ),
            Self::NotAsJudged => (
                "not-as-judged",
                "the agent decides about the method and path that it is told: what a policy forbids arrives under another name",
            ),
            Self::ModeDiffers => (
                "mode-differs",
                "a TCP stream is judged once, when it begins: the requests in it are not, and their headers stay as the client wrote them",
            ),
            Self::Pipelining => (
                "pipelining",
                "from 3.1 on HAProxy stops reading a connection on which answers of 16 kB arrive at once: all questions on it time out, and their requests are refused",
            ),
            Self::NotJudged => {
                ("not-judged", "it may do anything: a clean result says nothing about it")
            }
        }
    }
}
