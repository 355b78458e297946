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

use super::{AppName, EndpointName, MAX_ID_LENGTH, WorkspaceId, host::Host};
use crate::workspaces::source::SourceId;

pub mod coverage;
mod literal;
mod siblings;

use siblings::HostParts;

/// The most memory in bytes that a compiled pattern may take, since a short expression can expand
/// to a huge one.
const MAX_PROGRAM: usize = 1 << 20;

const UUID: &str = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";

/// The host names of a platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
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
    /// How the workspace id is made.
    pub id: IdRule,
    /// The source whose workspaces the hosts belong to; `None` means any source.
    pub source: Option<SourceId>,
}

/// How a host that a pattern matches gives the workspace id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdRule {
    /// From captures: text with `{capture}` parts. The default is `{workspace}`.
    Template(String),
    /// All hosts of the pattern belong to this one workspace. The pattern must then be literal, apart from
    /// the captures `port` and `app`.
    Fixed(WorkspaceId),
}

/// The reason why a pattern cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PatternError {
    /// The text is not a regular expression.
    #[error("not a regular expression: {0}")]
    Regex(String),
    /// No part of the host is the workspace id.
    #[error(
        "the pattern has no capture (?<workspace>…): put it around the part of the host that is the workspace id; for a literal host of one workspace, add workspace = \"ID\" instead"
    )]
    NoWorkspace,
    /// The id template uses a capture that the expression does not have.
    #[error("the pattern has no capture (?<{0}>…), which 'id' uses")]
    NoCapture(String),
    /// The expression has a named capture that nothing uses, which is most likely a typing mistake.
    #[error(
        "the capture (?<{0}>…) is not used: name captures workspace, port or app, or use them in 'id'; \
         write (?:…) to group without a name"
    )]
    UnusedCapture(String),
    /// The id template has unbalanced or empty braces, or no capture at all.
    #[error(
        "the id template {0:?} is not text with {{capture}} parts; for one workspace at a literal host, use 'workspace' instead of 'id'"
    )]
    Template(String),
    /// The workspace id is given twice: by the key and by the host.
    #[error(
        "the workspace id is given twice, by the key 'workspace' and by the capture (?<workspace>…): remove one of them"
    )]
    TwoIds,
    /// A fixed workspace, with a pattern that matches more hosts than it spells out.
    #[error(
        "with 'workspace', every host that the pattern matches belongs to that workspace, so the pattern must be literal apart from (?<port>…) and (?<app>…): write '\\.' for a dot; if hosts of several workspaces match, remove 'workspace' and name the part that differs (?<workspace>…)"
    )]
    NotLiteral,
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
                id: IdRule::Template("{workspace}".into()),
                source: None,
            },
            Self::Ona => PatternSpec {
                regex: format!(
                    "(?<port>[0-9]{{1,5}})--(?<workspace>{UUID})\\.[a-z0-9-]+\\.{domain}"
                ),
                id: IdRule::Template("{workspace}".into()),
                source: None,
            },
            Self::Coder => PatternSpec {
                regex: format!(
                    "(?:(?<port>[0-9]{{4,5}})--{agent}|(?<app>{name})(?:--{name})?)--(?<workspace>{name})--(?<owner>{name})\\.{domain}",
                    agent = regex::escape(agent),
                ),
                id: IdRule::Template("{workspace}--{owner}".into()),
                source: None,
            },
        }
    }
}

/// The workspace and endpoint that a host names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternMatch {
    /// The source of the workspace, if the pattern names one.
    pub source: Option<SourceId>,
    /// The workspace id as text. It may belong to no workspace, and may not even be a valid id.
    pub workspace: ArrayString<MAX_ID_LENGTH>,
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
    recent: Vec<Option<Box<(Host, PatternMatch)>>>,
}

/// The next number for [`HostPatterns`]. Zero stands for a [`Scratch`] that was not used yet.
static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

/// How many results a [`Scratch`] keeps. Each takes half a kilobyte once it is used.
const CACHED_RESULTS: usize = 16;

#[derive(Debug)]
struct HostPattern {
    regex: Regex,
    workspace: Vec<IdPart>,
    port: Option<usize>,
    app: Option<usize>,
    source: Option<SourceId>,
    /// How the hosts of other endpoints are made; `None` if the pattern does not say.
    parts: Option<HostParts>,
}

#[derive(Debug)]
enum IdPart {
    Text(Box<str>),
    Capture(usize),
}

impl HostPatterns {
    /// Compiles patterns.
    ///
    /// # Errors
    /// The index of each pattern that cannot be used, with the reason.
    pub fn new(specs: &[PatternSpec]) -> Result<Self, Vec<(usize, PatternError)>> {
        let mut patterns = Vec::new();
        let mut errors = Vec::new();
        for (index, spec) in specs.iter().enumerate() {
            match HostPattern::new(spec) {
                Ok(pattern) => patterns.push(pattern),
                Err(error) => errors.push((index, error)),
            }
        }
        let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
        if errors.is_empty() { Ok(Self { patterns, number }) } else { Err(errors) }
    }

    /// Returns the workspace and endpoint of a host. `None` if no pattern matches, or if a captured
    /// port or application name is not valid.
    #[must_use]
    pub fn resolve(&self, host: &Host, scratch: &mut Scratch) -> Option<PatternMatch> {
        // After a reload, the results belong to other patterns.
        if scratch.patterns != self.number {
            scratch.patterns = self.number;
            scratch.captures = self.patterns.iter().map(|p| p.regex.capture_locations()).collect();
            scratch.recent.clear();
            scratch.recent.resize(CACHED_RESULTS, None);
        }
        let slot = scratch.recent.get_mut(slot(host));
        if let Some(Some(known)) = &slot
            && known.0 == *host
        {
            return Some(known.1.clone());
        }
        let target = self.find(host, &mut scratch.captures)?;
        if let Some(slot) = slot {
            let result = (host.clone(), target.clone());
            // The old box is filled again, so hosts that take turns in a slot do not allocate.
            match slot {
                Some(old) => **old = result,
                None => *slot = Some(Box::new(result)),
            }
        }
        Some(target)
    }

    fn find(&self, host: &Host, captures: &mut [CaptureLocations]) -> Option<PatternMatch> {
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
    sum % CACHED_RESULTS
}

impl HostPattern {
    fn new(spec: &PatternSpec) -> Result<Self, PatternError> {
        // Always anchored: a pattern that matched a part of the host would accept foreign domains.
        let regex = RegexBuilder::new(&format!("^(?:{})$", spec.regex))
            .case_insensitive(true)
            .size_limit(MAX_PROGRAM)
            .build()
            .map_err(|e| PatternError::Regex(e.to_string()))?;
        let capture = |name: &str| regex.capture_names().position(|n| n == Some(name));
        let mut used = vec!["port", "app"];
        let mut workspace = Vec::new();
        match &spec.id {
            IdRule::Template(template) => {
                for piece in id_parts(template)? {
                    match piece {
                        Ok(text) => workspace.push(IdPart::Text(text.into())),
                        Err(name) => {
                            let index = capture(name).ok_or_else(|| missing(name))?;
                            workspace.push(IdPart::Capture(index));
                            used.push(name);
                        }
                    }
                }
            }
            IdRule::Fixed(_) if capture("workspace").is_some() => return Err(PatternError::TwoIds),
            IdRule::Fixed(id) => workspace.push(IdPart::Text(id.as_str().into())),
        }
        if let Some(name) = regex.capture_names().flatten().find(|name| !used.contains(name)) {
            return Err(PatternError::UnusedCapture(name.into()));
        }
        if matches!(spec.id, IdRule::Fixed(_)) && !literal::is_literal(&spec.regex) {
            return Err(PatternError::NotLiteral);
        }
        let (port, app) = (capture("port"), capture("app"));
        let parts = HostParts::new(&spec.regex);
        Ok(Self { regex, workspace, port, app, source: spec.source, parts })
    }

    fn target(&self, host: &str, found: &CaptureLocations) -> Option<PatternMatch> {
        let text = |index| found.get(index).and_then(|(start, end)| host.get(start..end));
        let mut workspace = ArrayString::new();
        for piece in &self.workspace {
            let part = match piece {
                IdPart::Text(text) => text,
                IdPart::Capture(index) => text(*index)?,
            };
            // A text that does not fit is longer than any valid id.
            workspace.try_push_str(part).ok()?;
        }
        let endpoint = match (self.port.and_then(text), self.app.and_then(text)) {
            (Some(port), _) => EndpointName::Port(parse_port(port)?),
            (None, Some(app)) => EndpointName::App(AppName::new(app)?),
            (None, None) => EndpointName::Main,
        };
        Some(PatternMatch { source: self.source, workspace, endpoint })
    }
}

/// Parses a port in its one spelling. A leading zero would give the same endpoint several host
/// names.
pub(crate) fn parse_port(digits: &str) -> Option<u16> {
    if digits.starts_with('0') || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// The error for a capture that the id template uses and the pattern does not have.
fn missing(name: &str) -> PatternError {
    match name {
        "workspace" => PatternError::NoWorkspace,
        other => PatternError::NoCapture(other.into()),
    }
}

/// Splits an id template into `Ok(text)` and `Err(capture name)`.
fn id_parts(template: &str) -> Result<Vec<Result<&str, &str>>, PatternError> {
    let bad = || PatternError::Template(template.into());
    let mut rest = template;
    let mut id_parts = Vec::new();
    while let Some((text, tail)) = rest.split_once('{') {
        let (name, tail) = tail.split_once('}').ok_or_else(bad)?;
        if name.is_empty() || text.contains('}') || name.contains('{') {
            return Err(bad());
        }
        if !text.is_empty() {
            id_parts.push(Ok(text));
        }
        id_parts.push(Err(name));
        rest = tail;
    }
    if rest.contains('}') || id_parts.is_empty() {
        return Err(bad());
    }
    if !rest.is_empty() {
        id_parts.push(Ok(rest));
    }
    Ok(id_parts)
}

#[cfg(test)]
mod tests;
