//! Host patterns: which host names are workspaces, and which workspace and endpoint each one names.
//!
//! A pattern is a regular expression over the whole lower-case host, with the named captures
//! `workspace`, `port` and `app`. It is always anchored at both ends. The first pattern that
//! matches decides. A host that no pattern matches belongs to no workspace, and requests for it are
//! refused.
//!
//! [`HostPatterns::resolve`] runs for every request and does not allocate; each connection keeps a
//! [`Scratch`] for it. Whether a resolved workspace exists is not known here: the
//! [registry](super::registry) answers that.

use std::sync::atomic::{AtomicU64, Ordering};

use arrayvec::ArrayString;
use regex::{CaptureLocations, Regex, RegexBuilder};
use thiserror::Error;

use super::{AppName, EndpointName, MAX_ID, host::Host};
use crate::workspaces::source::SourceId;

/// The most memory in bytes that a compiled pattern may take, since a short expression can expand
/// to a huge one.
const MAX_PROGRAM: usize = 1 << 20;

const UUID: &str = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";

/// The host names of a platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// Gitpod classic: `<id>.ws[-<region>].<domain>` and `<port>-<id>.ws[-<region>].<domain>`.
    Gitpod,
    /// Ona: `<port>--<environment uuid>.<region>.<domain>`.
    Ona,
    /// Coder: `<port>--<agent>--<workspace>--<owner>.<domain>` and `<app>--<workspace>--<owner>…`.
    /// The workspace id is `<workspace>--<owner>`.
    Coder,
}

/// The configuration of one pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternSpec {
    /// The regular expression.
    pub regex: String,
    /// The template of the workspace id, made from captures. The default is `{workspace}`.
    pub id: String,
    /// The source whose workspaces the hosts belong to; `None` means any source.
    pub source: Option<SourceId>,
}

/// The reason why a pattern cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PatternError {
    /// The text is not a regular expression.
    #[error("not a regular expression: {0}")]
    Regex(String),
    /// The id template uses a capture that the expression does not have.
    #[error("the pattern has no capture (?<{0}>…), which the workspace id needs")]
    NoCapture(String),
    /// The expression has a named capture that nothing uses, which is most likely a typing mistake.
    #[error(
        "the capture (?<{0}>…) is not used: name captures workspace, port or app, or use them in `id`; \
         write (?:…) to group without a name"
    )]
    UnusedCapture(String),
    /// The id template has unbalanced or empty braces.
    #[error("the id template {0:?} is not text with {{capture}} parts")]
    Template(String),
}

impl Preset {
    /// Returns the platform's pattern for workspaces below `domain`.
    ///
    /// For [`Preset::Coder`], `agent` is the one agent whose ports are served. Another agent is
    /// another machine, so the same port there is another process.
    #[must_use]
    pub fn spec(self, domain: &str, agent: &str) -> PatternSpec {
        let domain = regex::escape(domain);
        let name = "[a-z0-9]+(?:-[a-z0-9]+)*";
        match self {
            Self::Gitpod => PatternSpec {
                regex: format!(
                    "(?:(?<port>[0-9]{{1,5}})-)?(?<workspace>{UUID}|[0-9a-z]{{2,16}}-[0-9a-z]{{2,16}}-[0-9a-z]{{8,11}})\
                     \\.ws(?:-[a-z0-9]+)?\\.{domain}"
                ),
                id: "{workspace}".into(),
                source: None,
            },
            Self::Ona => PatternSpec {
                regex: format!(
                    "(?<port>[0-9]{{1,5}})--(?<workspace>{UUID})\\.[a-z0-9-]+\\.{domain}"
                ),
                id: "{workspace}".into(),
                source: None,
            },
            Self::Coder => PatternSpec {
                regex: format!(
                    "(?:(?<port>[0-9]{{4,5}})--{agent}|(?<app>{name})(?:--{name})?)--(?<workspace>{name})--(?<owner>{name})\\.{domain}",
                    agent = regex::escape(agent),
                ),
                id: "{workspace}--{owner}".into(),
                source: None,
            },
        }
    }
}

/// The workspace and endpoint that a host names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The source of the workspace, if the pattern names one.
    pub source: Option<SourceId>,
    /// The workspace id as text. It may belong to no workspace, and may not even be a valid id.
    pub workspace: ArrayString<MAX_ID>,
    /// The endpoint.
    pub endpoint: EndpointName,
}

/// All patterns, in the order of the configuration.
#[derive(Debug)]
pub struct HostPatterns {
    patterns: Vec<HostPattern>,
    /// The number of this set of patterns in this process. A [`Scratch`] uses it to notice a
    /// reload.
    number: u64,
}

/// Memory that a caller of [`HostPatterns::resolve`] keeps between calls.
///
/// It has room for captures, so that a match does not allocate, and the last results, since a
/// connection asks for the same few hosts again and again.
#[derive(Debug, Default)]
pub struct Scratch {
    /// The number of the patterns that the results belong to.
    patterns: u64,
    captures: Vec<CaptureLocations>,
    recent: Vec<Option<Box<(Host, Target)>>>,
}

/// The next number for [`HostPatterns`]. Zero stands for a [`Scratch`] that was not used yet.
static COUNT: AtomicU64 = AtomicU64::new(1);

/// How many results a [`Scratch`] keeps. Each takes half a kilobyte once it is used.
const RECENT: usize = 16;

#[derive(Debug)]
struct HostPattern {
    regex: Regex,
    workspace: Vec<Piece>,
    port: Option<usize>,
    app: Option<usize>,
    source: Option<SourceId>,
}

#[derive(Debug)]
enum Piece {
    Text(Box<str>),
    Capture(usize),
}

impl HostPatterns {
    /// Compiles patterns.
    ///
    /// # Errors The index of each pattern that cannot be used, with the reason.
    pub fn new(specs: &[PatternSpec]) -> Result<Self, Vec<(usize, PatternError)>> {
        let mut patterns = Vec::new();
        let mut errors = Vec::new();
        for (index, spec) in specs.iter().enumerate() {
            match HostPattern::new(spec) {
                Ok(pattern) => patterns.push(pattern),
                Err(error) => errors.push((index, error)),
            }
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        if errors.is_empty() { Ok(Self { patterns, number }) } else { Err(errors) }
    }

    /// Returns the workspace and endpoint of a host. `None` if no pattern matches, or if a captured
    /// port or application name is not valid.
    #[must_use]
    pub fn resolve(&self, host: &Host, scratch: &mut Scratch) -> Option<Target> {
        if scratch.patterns != self.number {
            scratch.patterns = self.number;
            scratch.captures = self.patterns.iter().map(|p| p.regex.capture_locations()).collect();
            scratch.recent.clear();
            scratch.recent.resize(RECENT, None);
        }
        let slot = scratch.recent.get_mut(slot(host));
        if let Some(Some(known)) = &slot
            && known.0 == *host
        {
            return Some(known.1.clone());
        }
        let target = self.find(host, &mut scratch.captures)?;
        if let Some(slot) = slot {
            let kept = (host.clone(), target.clone());
            // The old box is filled again, so hosts that take turns in a slot do not allocate.
            match slot {
                Some(old) => **old = kept,
                None => *slot = Some(Box::new(kept)),
            }
        }
        Some(target)
    }

    fn find(&self, host: &Host, captures: &mut [CaptureLocations]) -> Option<Target> {
        for (pattern, found) in self.patterns.iter().zip(captures) {
            if pattern.regex.captures_read(found, host.as_str()).is_some() {
                return pattern.target(host.as_str(), found);
            }
        }
        None
    }
}

/// The slot for a host's result. Two hosts with the same slot only cost a new match each.
fn slot(host: &Host) -> usize {
    let sum = host
        .as_str()
        .bytes()
        .fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
    sum % RECENT
}

impl HostPattern {
    fn new(spec: &PatternSpec) -> Result<Self, PatternError> {
        let regex = RegexBuilder::new(&format!("^(?:{})$", spec.regex))
            .case_insensitive(true)
            .size_limit(MAX_PROGRAM)
            .build()
            .map_err(|e| PatternError::Regex(e.to_string()))?;
        let capture = |name: &str| regex.capture_names().position(|n| n == Some(name));
        let mut used = vec!["port", "app"];
        let mut workspace = Vec::new();
        for piece in pieces(&spec.id)? {
            match piece {
                Ok(text) => workspace.push(Piece::Text(text.into())),
                Err(name) => {
                    let index =
                        capture(name).ok_or_else(|| PatternError::NoCapture(name.into()))?;
                    workspace.push(Piece::Capture(index));
                    used.push(name);
                }
            }
        }
        if let Some(name) = regex.capture_names().flatten().find(|name| !used.contains(name)) {
            return Err(PatternError::UnusedCapture(name.into()));
        }
        let (port, app) = (capture("port"), capture("app"));
        Ok(Self { regex, workspace, port, app, source: spec.source })
    }

    fn target(&self, host: &str, found: &CaptureLocations) -> Option<Target> {
        let text = |index| found.get(index).and_then(|(start, end)| host.get(start..end));
        let mut workspace = ArrayString::new();
        for piece in &self.workspace {
            let part = match piece {
                Piece::Text(text) => text,
                Piece::Capture(index) => text(*index)?,
            };
            workspace.try_push_str(part).ok()?;
        }
        let endpoint = match (self.port.and_then(text), self.app.and_then(text)) {
            (Some(port), _) => EndpointName::Port(parse_port(port)?),
            (None, Some(app)) => EndpointName::App(AppName::new(app)?),
            (None, None) => EndpointName::Main,
        };
        Some(Target { source: self.source, workspace, endpoint })
    }
}

/// Parses a port in its one spelling. A leading zero would give the same endpoint several host
/// names.
fn parse_port(digits: &str) -> Option<u16> {
    if digits.starts_with('0') || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// Splits an id template into `Ok(text)` and `Err(capture name)`.
fn pieces(template: &str) -> Result<Vec<Result<&str, &str>>, PatternError> {
    let bad = || PatternError::Template(template.into());
    let mut rest = template;
    let mut pieces = Vec::new();
    while let Some((text, tail)) = rest.split_once('{') {
        let (name, tail) = tail.split_once('}').ok_or_else(bad)?;
        if name.is_empty() || text.contains('}') || name.contains('{') {
            return Err(bad());
        }
        if !text.is_empty() {
            pieces.push(Ok(text));
        }
        pieces.push(Err(name));
        rest = tail;
    }
    if rest.contains('}') || pieces.is_empty() {
        return Err(bad());
    }
    if !rest.is_empty() {
        pieces.push(Ok(rest));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(patterns: &HostPatterns, host: &str) -> Option<(String, String)> {
        let host = Host::parse(host.as_bytes()).unwrap();
        let target = patterns.resolve(&host, &mut Scratch::default())?;
        Some((target.workspace.to_string(), target.endpoint.to_string()))
    }

    #[expect(clippy::unnecessary_wraps, reason = "compared with what resolve gives")]
    fn found(workspace: &str, endpoint: &str) -> Option<(String, String)> {
        Some((workspace.into(), endpoint.into()))
    }

    fn preset(preset: Preset, domain: &str) -> HostPatterns {
        HostPatterns::new(&[preset.spec(domain, "main")]).unwrap()
    }

    fn custom(regex: &str, id: &str) -> Result<HostPatterns, PatternError> {
        HostPatterns::new(&[PatternSpec { regex: regex.into(), id: id.into(), source: None }])
            .map_err(|mut errors| errors.remove(0).1)
    }

    #[test]
    fn gitpod_hosts_name_the_editor_and_ports() {
        let gitpod = preset(Preset::Gitpod, "gitpod.example");
        let id = "pinkpanda-demo-ns35kd21abc";
        for (host, want) in [
            (format!("{id}.ws.gitpod.example"), found(id, "main")),
            (format!("{id}.ws-eu1.gitpod.example"), found(id, "main")),
            (format!("3000-{id}.ws-eu1.gitpod.example"), found(id, "port:3000")),
            (format!("3000-{id}.ws.gitpod.example.evil.com"), None),
            (format!("evil.{id}.ws.gitpod.example"), None),
            (format!("0300-{id}.ws.gitpod.example"), None),
            (format!("65536-{id}.ws.gitpod.example"), None),
            (format!("debug-{id}.ws.gitpod.example"), None),
            (format!("{id}.wsxgitpod.example"), None),
        ] {
            assert_eq!(resolve(&gitpod, &host), want, "{host}");
        }
    }

    #[test]
    fn a_gitpod_id_that_starts_with_digits_is_not_read_as_a_port() {
        let gitpod = preset(Preset::Gitpod, "gitpod.example");
        assert_eq!(
            resolve(&gitpod, "1234-amber-9ba20cc1.ws.gitpod.example"),
            found("1234-amber-9ba20cc1", "main")
        );
    }

    #[test]
    fn ona_hosts_name_a_port_of_an_environment() {
        let ona = preset(Preset::Ona, "gitpod.dev");
        let id = "019a0000-aaaa-bbbb-cccc-0123456789ab";
        assert_eq!(
            resolve(&ona, &format!("3000--{id}.eu-central-1-01.gitpod.dev")),
            found(id, "port:3000")
        );
        assert_eq!(resolve(&ona, &format!("{id}.eu-central-1-01.gitpod.dev")), None);
        assert_eq!(resolve(&ona, &format!("3000--{id}.a.b.gitpod.dev")), None);
    }

    #[test]
    fn coder_hosts_name_ports_of_the_served_agent_and_apps() {
        let coder = preset(Preset::Coder, "apps.example");
        for (host, want) in [
            ("8080--main--dev--alice.apps.example", found("dev--alice", "port:8080")),
            ("8080--gpu--dev--alice.apps.example", found("dev--alice", "app:8080")),
            ("code-server--dev--alice.apps.example", found("dev--alice", "app:code-server")),
            ("code--main--dev--alice.apps.example", found("dev--alice", "app:code")),
            ("dev--alice.apps.example", None),
        ] {
            assert_eq!(resolve(&coder, host), want, "{host}");
        }
    }

    #[test]
    fn a_pattern_is_anchored_even_with_alternatives() {
        let patterns = custom("(?<workspace>a)|(?:b)x", "{workspace}").unwrap();
        assert_eq!(resolve(&patterns, "a.evil"), None);
        assert_eq!(resolve(&patterns, "evil.a"), None);
        assert_eq!(resolve(&patterns, "a"), found("a", "main"));
        assert_eq!(resolve(&patterns, "bx"), None);
    }

    #[test]
    fn a_pattern_that_cannot_work_is_refused_with_the_reason() {
        assert!(matches!(custom("(", "{workspace}"), Err(PatternError::Regex(_))));
        assert_eq!(
            custom("[a-z]+", "{workspace}").unwrap_err(),
            PatternError::NoCapture("workspace".into())
        );
        assert_eq!(
            custom("(?<workspace>a)-(?<prot>[0-9]+)", "{workspace}").unwrap_err(),
            PatternError::UnusedCapture("prot".into())
        );
        for template in ["", "fixed", "{", "}", "{}", "{workspace", "a}{workspace}"] {
            assert!(
                matches!(custom("(?<workspace>a)", template), Err(PatternError::Template(_))),
                "{template}"
            );
        }
    }

    #[test]
    fn remembered_answers_are_those_of_these_patterns_and_this_host() {
        let one = custom("(?<workspace>[a-z]+)(?:[.]x)?", "{workspace}").unwrap();
        let two = custom("(?<workspace>[a-z]+)(?:[.]x)?", "two-{workspace}").unwrap();
        let mut scratch = Scratch::default();
        for n in 0..500 {
            let host = Host::parse(format!("{}.x", "a".repeat(n % 60 + 1)).as_bytes()).unwrap();
            for _ in 0..2 {
                let target = one.resolve(&host, &mut scratch).unwrap();
                assert_eq!(target.workspace.len(), n % 60 + 1);
            }
            if n % 7 == 0 {
                let target = two.resolve(&host, &mut scratch).unwrap();
                assert!(target.workspace.starts_with("two-a"));
            }
        }
    }

    #[test]
    fn the_first_pattern_that_matches_decides() {
        let spec = |regex: &str, id: &str| PatternSpec {
            regex: regex.into(),
            id: id.into(),
            source: None,
        };
        let patterns = HostPatterns::new(&[
            spec("special-(?<workspace>[a-z]+)", "{workspace}"),
            spec("(?<workspace>[a-z-]+)", "{workspace}"),
        ])
        .unwrap();
        assert_eq!(resolve(&patterns, "special-a"), found("a", "main"));
        assert_eq!(resolve(&patterns, "other-a"), found("other-a", "main"));
    }
}
