//! The tables `[[host]]` and `[credentials]`: which hosts are workspaces, and where a request may have its token.

use toml_span::{Span, Spanned};

use super::{
    kinds::{At, Choice, Form, Parsed, words_of},
    section::{Report, Section, table},
};
use crate::{
    identity::credential::{TokenHeader, TokenLocations},
    workspaces::{
        WorkspaceId,
        host::Host,
        pattern::{HostPatterns, IdRule, PatternError, PatternSpec, Preset, Scratch},
    },
};

table! {
    /// Hosts that are workspaces; the first pattern that matches decides. Each has either `preset` or `pattern`.
    HostTable = "host", repeated;
    /// The platform whose host names these are.
    preset: optional Choice<Preset>, used("\"gitpod\"");
    /// With `preset`: the domain below which the workspaces' hosts are.
    domain: optional At<Domain>, used("\"gitpod.example.com\"");
    /// With `preset = "coder"`: the Coder agent of a workspace whose ports are served; those of its other agents are not.
    agent: optional String, note("\"main\"");
    /// A regular expression that the whole host must match, with the captures `workspace` and `port` or `app`.
    pattern: optional At<String>, example("'(?<workspace>[a-z0-9-]+)\\.example\\.com'");
    /// With `pattern`: how the workspace's id is made from captures.
    id: optional At<String>, note("\"{workspace}\"");
    /// With a literal `pattern` (a host without captures): the id of the one workspace that has this host.
    workspace: optional At<Parsed<WorkspaceId>>, example("\"app\"");
    /// Only workspaces of this source.
    source: optional At<String>, note("any source");
}

/// A table `[[host]]` whose source is not looked up yet: the sources are read in another table.
pub(super) struct RawHost {
    pub(super) spec: PatternSpec,
    pub(super) source: Option<Spanned<String>>,
    /// Where the pattern or its domain stands.
    pub(super) span: Span,
}

impl Section for HostTable {
    type Value = RawHost;

    fn build(self, report: &mut Report) -> Option<RawHost> {
        let id_span = self.id.as_ref().map(|id| id.span);
        let (spec, span) = match (self.preset, self.pattern) {
            (Some(preset), None) if self.id.is_none() && self.workspace.is_none() => {
                let Some(domain) = self.domain else {
                    // A domain that is there and invalid is reported already.
                    if !report.is_wrong("domain") {
                        report.mistake("a 'preset' needs the 'domain' of the hosts");
                    }
                    return None;
                };
                let agent = self.agent.as_deref().unwrap_or("main");
                (preset.spec(&domain.value, agent), domain.span)
            }
            (None, Some(pattern)) if self.domain.is_none() && self.agent.is_none() => {
                let id = match (self.id, self.workspace) {
                    (Some(_), Some(workspace)) => {
                        let message = "the workspace id is given twice: use either 'id', which makes it from captures, or 'workspace', which names the one workspace of a literal host";
                        report.mistake_at(workspace.span, message);
                        return None;
                    }
                    (None, Some(workspace)) => IdRule::Fixed(workspace.value),
                    (Some(id), None) => IdRule::Template(id.value),
                    // An id that is present and invalid is reported already.
                    (None, None) if report.is_wrong("workspace") => return None,
                    (None, None) => IdRule::Template("{workspace}".into()),
                };
                (PatternSpec { regex: pattern.value, id, source: None }, pattern.span)
            }
            _ => {
                if report.is_clean() {
                    report.mistake(
                        "a [[host]] has either 'preset' with 'domain' (and 'agent'), or 'pattern' (and 'id' or 'workspace')",
                    );
                }
                return None;
            }
        };
        for (_, error) in HostPatterns::new(std::slice::from_ref(&spec)).err().unwrap_or_default() {
            let at = match error {
                PatternError::Template(_) => id_span.unwrap_or(span),
                _ => span,
            };
            report.mistake_at(at, error.to_string());
        }
        Some(RawHost { spec, source: self.source, span })
    }
}

impl RawHost {
    /// Whether a host is one of these workspaces' hosts.
    pub(super) fn has(&self, host: &Host) -> bool {
        let pattern = HostPatterns::new(std::slice::from_ref(&self.spec)).ok();
        pattern.is_some_and(|pattern| pattern.resolve(host, &mut Scratch::default()).is_some())
    }
}

words_of!(Preset);

/// A domain in lower case, as it stands in host names.
struct Domain;

impl Form for Domain {
    type Value = String;

    fn parse(text: &str) -> Result<String, String> {
        if Host::parse(text.as_bytes()).is_ok_and(|host| host.as_str() == text) {
            return Ok(text.into());
        }
        Err(format!(
            "expected a domain in lower case such as \"gitpod.example.com\", found {text:?}"
        ))
    }
}

table! {
    /// Where a token may be besides the Authorization header; nowhere by default. The agent's token is never sent on to a workspace.
    CredentialsTable = "credentials";
    /// A header with a token of the agent's, so that Authorization is the app's: `Proxy-Authorization` (with `Bearer`), or a name of your own that begins with `X-`.
    header: optional OwnHeader, example("\"Proxy-Authorization\"");
    /// The name of a cookie with a token. With `__Host-` at its beginning, workspaces cannot set it for each other.
    cookie: optional Token, example("\"__Host-token\"");
    /// The name of a query parameter with a token. Such tokens end up in browser histories and logs.
    query: optional Token, example("\"token\"");
    /// Whether a token may be in a WebSocket subprotocol `base64url.bearer.authorization.k8s.io.TOKEN`.
    subprotocol: default bool = false;
}

impl Section for CredentialsTable {
    type Value = TokenLocations;

    fn build(self, _: &mut Report) -> Option<TokenLocations> {
        let Self { header, cookie, query, subprotocol } = self;
        Some(TokenLocations { header, cookie, query, subprotocol })
    }
}

/// The name of a header for tokens.
struct OwnHeader;

impl Form for OwnHeader {
    type Value = TokenHeader;

    fn parse(text: &str) -> Result<TokenHeader, String> {
        TokenHeader::parse(text)
    }
}

/// The name of a cookie or query parameter, of characters that need no escaping in either.
struct Token;

impl Form for Token {
    type Value = Box<str>;

    fn parse(text: &str) -> Result<Box<str>, String> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if text.is_empty() || !text.bytes().all(plain) {
            return Err(format!(
                "expected a name of letters, digits, '-', '_' and '.', found {text:?}"
            ));
        }
        Ok(text.into())
    }
}

#[cfg(test)]
mod tests {
    use crate::{config::Config, diagnostics::Format};

    /// The mistakes in a configuration with sign-in at this host and with this table `[[host]]`, whose first key is in
    /// line 15.
    fn mistakes(login: &str, host: &str) -> String {
        let text = format!(
            "[agent]\nlisten = ['127.0.0.1:0']\n[[issuer]]\nname = 'corp'\nissuer = 'https://idp.example.com'\naudience = 'a'\n\
             [issuer.sign_in]\nclient_id = 'c'\nclient_secret_file = 's'\n\
             [sign_in]\nhost = '{login}'\nlisten = '127.0.0.1:9011'\nencryption_keys_file = 'k'\n\
             [[host]]\n{host}\n[workspaces]\nfile = 'w.yaml'\n"
        );
        let config = Config::parse("agent.toml", &text, Format::Toml, "".as_ref());
        config.err().map(|mistakes| mistakes.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_login_host_that_is_a_host_of_workspaces_is_a_mistake_of_that_pattern() {
        for host in [
            r"pattern = 'login\.example\.com'
workspace = 'app'",
            r"pattern = '(?<workspace>[a-z]+)\.example\.com'",
            r"pattern = '(?:(?<port>[0-9]+)-)?(?<workspace>[a-z-]+)\.example\.com'",
        ] {
            let found = mistakes("login.example.com", host);
            let line =
                "agent.toml:15:12: the login host \"login.example.com\" is a host of workspaces";
            assert!(found.starts_with(line) && found.lines().count() == 1, "{host}: {found}");
        }
        let preset = "preset = 'coder'\ndomain = 'example.com'";
        let found = mistakes("code--login--alice.example.com", preset);
        assert!(found.starts_with("agent.toml:16:11: the login host"), "{found}");
    }

    #[test]
    fn a_login_host_next_to_the_hosts_of_workspaces_is_good() {
        for (login, host) in [
            ("login.example.com", r"pattern = '(?<workspace>[a-z]+)\.ws\.example\.com'"),
            ("login.example.com", "preset = 'coder'\ndomain = 'example.com'"),
            ("login.example.com", "pattern = 'app\\.example\\.com'\nworkspace = 'app'"),
            // A port that does not exist names no endpoint, so no workspace has this host.
            (
                "99999-a.example.com",
                r"pattern = '(?<port>[0-9]+)-(?<workspace>[a-z]+)\.example\.com'",
            ),
        ] {
            assert_eq!(mistakes(login, host), "", "{login} {host}");
        }
    }
}
