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
    /// Any client can claim any address.
    AddressForged,
    /// Several requests at a time on one connection to the agent, which HAProxy cannot do.
    Pipelining,
    /// HAProxy's buffers have no room for the gate's headers.
    HeaderRoom,
    /// The release of HAProxy has a known bug.
    KnownBug,
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
                ("unreadable", "lint cannot judge such a line, and HAProxy refuses it")
            }
            Self::NotAsked => ("not-asked", "no agent decides about the requests to this section"),
            Self::SpoeUnreadable => (
                "spoe-unreadable",
                "without the SPOE file lint does not know what HAProxy sends to the agent",
            ),
            Self::VerdictScope => (
                "verdict-scope",
                "such a variable outlives its request: if the agent does not answer, the next request on the connection inherits the last verdict",
            ),
            Self::VerdictTooEarly => (
                "verdict-too-early",
                "the variable is not set yet, so the rule decides without a verdict",
            ),
            Self::VerdictMade => (
                "verdict-made",
                "requests pass that the agent did not allow, also while it is down",
            ),
            Self::VerdictFound => (
                "verdict-found",
                "the agent sets the variable in every answer, to false if it refuses: 'found' is true then too",
            ),
            Self::NoDefaultDeny => (
                "no-default-deny",
                "requests that are not allowed reach workspaces, and all requests do while the agent is down",
            ),
            Self::DenyDepends => (
                "deny-depends",
                "a request that is not allowed passes whenever the rest of the condition is false, for instance while the agent is down",
            ),
            Self::Bypass => (
                "bypass",
                "these requests reach a workspace without a verdict, with all headers that the client sent",
            ),
            Self::Unguarded => {
                ("unguarded", "every client of this section reaches workspaces without a verdict")
            }
            Self::HeaderNotStripped => (
                "header-not-stripped",
                "a client can send this header, and the workspace believes it; CGI servers also accept it with underscores in its name",
            ),
            Self::HostInPart => (
                "host-in-part",
                "the client chooses Host: 'ws.example.com.evil.test' begins and 'evil-ws.example.com' ends with the compared text",
            ),
            Self::CredentialTravels => (
                "credential-travels",
                "the code in a workspace could use the credential to act as that person",
            ),
            Self::CookieNotDropped => (
                "cookie-not-dropped",
                "a workspace could put a session cookie of its choice into a person's browser",
            ),
            Self::SharedConnection => (
                "shared-connection",
                "a workspace runs untrusted code, which could mix up the responses to two people on one connection",
            ),
            Self::ReservedPath => (
                "reserved-path",
                "the code in the workspace would get sign-in requests, which contain tickets",
            ),
            Self::PlainHttp => {
                ("plain-http", "a token sent over plain http can be read on the way")
            }
            Self::SecretLogged => {
                ("secret-logged", "everyone who can read the log can act as the people in it")
            }
            Self::NoSetOnError => {
                ("no-set-on-error", "the log does not show whether the agent failed or refused")
            }
            Self::ProcessingTimeout => (
                "processing-timeout",
                "HAProxy gives up before the agent answers, or waits without a limit",
            ),
            Self::NoVarPrefix => (
                "no-var-prefix",
                "the variables then begin with the name of the engine, and change with it",
            ),
            Self::Arguments => (
                "arguments",
                "the agent refuses requests that lack an argument, and sees only the last one of repeated headers",
            ),
            Self::ReuseSkips => {
                ("reuse-skips", "a reused request passes without what the rule refuses or changes")
            }
            Self::ReuseHalf => (
                "reuse-half",
                "HAProxy drops variables for which it has no memory: a token that must be removed could reach a workspace",
            ),
            Self::RouteNotAgents => (
                "route-not-agents",
                "the agent decides about one workspace, and the request goes to another one or where the client chooses",
            ),
            Self::HeaderForged => (
                "header-forged",
                "workspaces believe this header: with a value of the client's choice it can pose as any person",
            ),
            Self::RulesSkipped => (
                "rules-skipped",
                "what the skipped rules remove reaches the workspace or the browser",
            ),
            Self::RuleMissing => {
                ("rule-missing", "what the rule prevents becomes possible: docs/threat-model.md")
            }
            Self::SharedCache => (
                "shared-cache",
                "the next person who requests the same address gets the response for the first one",
            ),
            Self::ServerUnverified => {
                ("server-unverified", "any server that answers at that address gets the request")
            }
            Self::SocketOpen => (
                "socket-open",
                "every client that reaches it controls HAProxy: it can change addresses, maps and variables",
            ),
            Self::StatisticsOpen => (
                "statistics-open",
                "every person who may open one workspace can read the names and addresses of the others",
            ),
            Self::NotAsJudged => (
                "not-as-judged",
                "the agent judges the method and path that it was asked about: a request that a policy forbids arrives as another one",
            ),
            Self::ModeDiffers => (
                "mode-differs",
                "a TCP stream is judged once, when it begins: the requests in it are not judged, and keep the headers of the client",
            ),
            Self::AddressForged => (
                "address-forged",
                "policies, limits, logs and X-Forwarded-For then have an address of the client's choice",
            ),
            Self::Pipelining => (
                "pipelining",
                "from 3.1 on HAProxy stops reading a connection on which 16 kB of answers arrive at once: everything on it times out and is refused",
            ),
            Self::HeaderRoom => (
                "header-room",
                "a request whose body fills the buffer has no room for the headers about the person: it ends with 500",
            ),
            Self::KnownBug => {
                ("known-bug", "people behind the gate notice it, and nothing in the log says why")
            }
            Self::NotJudged => {
                ("not-judged", "it could do anything: a result without mistakes does not cover it")
            }
        }
    }
}
