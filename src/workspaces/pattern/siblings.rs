//! The hosts of a workspace's other endpoints, made from the host of one.
//!
//! A pattern only recognizes hosts. Here it is taken apart into pieces: literal text, the captures `port` and `app`, and
//! everything else. The host of another endpoint has the same pieces with another port or app; everything else is taken
//! from the host that is known. The result must resolve to that very endpoint of that very workspace, or it is left out, so
//! a pattern that is not understood costs an endpoint and never names a wrong host.

use regex::{Captures, Regex, RegexBuilder};
use regex_syntax::hir::{Hir, HirKind};

use super::{EndpointName, HostPatterns, MAX_PROGRAM, Scratch};
use crate::workspaces::host::Host;

/// A pattern, taken apart.
#[derive(Debug)]
pub(super) struct HostParts {
    /// The pattern with a capture around each part that is copied.
    regex: Regex,
    parts: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    Text(String),
    Port,
    App,
    /// Taken from the known host, by the name of its capture.
    Copied {
        name: String,
        may_be_empty: bool,
    },
    /// A part that is there or not.
    Optional(Vec<Self>),
    /// One of several.
    Either(Vec<Vec<Self>>),
}

impl HostParts {
    /// Takes a pattern apart; `None` if it names no port and no app, or is too large.
    pub(super) fn new(pattern: &str) -> Option<Self> {
        let hir = regex_syntax::parse(pattern).ok()?;
        if !names_endpoint(&hir) {
            return None;
        }
        let (mut regex, mut parts, mut count) = (String::new(), Vec::new(), 0);
        take_apart(&hir, &mut regex, &mut parts, &mut count);
        let regex = RegexBuilder::new(&format!("^(?:{regex})$"))
            .case_insensitive(true)
            .size_limit(MAX_PROGRAM)
            .build()
            .ok()?;
        Some(Self { regex, parts })
    }

    /// The host of another endpoint of the workspace of a known host.
    fn host(&self, known: &Captures<'_>, endpoint: &EndpointName) -> Option<Host> {
        let mut text = String::new();
        write(&self.parts, known, endpoint, &mut text)?;
        Host::parse(text.as_bytes()).ok()
    }
}

impl HostPatterns {
    /// The hosts of these endpoints of the workspace that a host names, without the endpoints that have none.
    #[must_use]
    pub fn hosts_of<'e>(
        &self,
        host: &Host,
        endpoints: impl IntoIterator<Item = &'e EndpointName>,
        scratch: &mut Scratch,
    ) -> Vec<Host> {
        let Some(here) = self.resolve(host, scratch) else { return vec![] };
        let mut patterns = self.patterns.iter();
        let Some(pattern) = patterns.find(|pattern| pattern.regex.is_match(host.as_str())) else {
            return vec![];
        };
        let Some(parts) = &pattern.parts else { return vec![] };
        let Some(known) = parts.regex.captures(host.as_str()) else { return vec![] };
        let mut host_of = |endpoint: &EndpointName| {
            let other = parts.host(&known, endpoint)?;
            let there = self.resolve(&other, scratch)?;
            let is_it = there.workspace == here.workspace
                && there.source == here.source
                && there.endpoint == *endpoint;
            is_it.then_some(other)
        };
        endpoints.into_iter().filter_map(&mut host_of).collect()
    }
}

/// Whether a capture `port` or `app` is in an expression.
fn names_endpoint(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Empty | HirKind::Literal(_) | HirKind::Class(_) | HirKind::Look(_) => false,
        HirKind::Repetition(repeated) => names_endpoint(&repeated.sub),
        HirKind::Capture(capture) => {
            matches!(capture.name.as_deref(), Some("port" | "app")) || names_endpoint(&capture.sub)
        }
        HirKind::Concat(all) | HirKind::Alternation(all) => all.iter().any(names_endpoint),
    }
}

/// Appends the parts of an expression, and the expression with captures around those that are copied.
fn take_apart(hir: &Hir, regex: &mut String, parts: &mut Vec<Part>, count: &mut usize) {
    match hir.kind() {
        HirKind::Literal(literal) if std::str::from_utf8(&literal.0).is_ok() => {
            let text = String::from_utf8_lossy(&literal.0).into_owned();
            regex.push_str(&regex::escape(&text));
            parts.push(Part::Text(text));
        }
        HirKind::Look(_) => regex.push_str(&hir.to_string()),
        HirKind::Capture(capture) if matches!(capture.name.as_deref(), Some("port" | "app")) => {
            regex.extend(["(?:", &capture.sub.to_string(), ")"]);
            let is_port = capture.name.as_deref() == Some("port");
            parts.push(if is_port { Part::Port } else { Part::App });
        }
        HirKind::Concat(all) => {
            for part in all {
                take_apart(part, regex, parts, count);
            }
        }
        HirKind::Repetition(repeated)
            if names_endpoint(hir) && (repeated.min, repeated.max) == (0, Some(1)) =>
        {
            let mut inner = Vec::new();
            regex.push_str("(?:");
            take_apart(&repeated.sub, regex, &mut inner, count);
            regex.push_str(")?");
            parts.push(Part::Optional(inner));
        }
        HirKind::Alternation(all) if names_endpoint(hir) => {
            let mut alternatives = Vec::new();
            for (number, alternative) in all.iter().enumerate() {
                let mut inner = Vec::new();
                regex.push_str(if number == 0 { "(?:" } else { "|" });
                take_apart(alternative, regex, &mut inner, count);
                alternatives.push(inner);
            }
            regex.push(')');
            parts.push(Part::Either(alternatives));
        }
        HirKind::Capture(capture) if names_endpoint(hir) => {
            regex.push_str("(?:");
            take_apart(&capture.sub, regex, parts, count);
            regex.push(')');
        }
        _ => {
            *count += 1;
            let name = format!("copied{count}");
            regex.extend(["(?P<", &name, ">", &without_names(hir), ")"]);
            let may_be_empty = hir.properties().minimum_len() == Some(0);
            parts.push(Part::Copied { name, may_be_empty });
        }
    }
}

/// The expression with its captures unnamed, so that no name is there twice.
fn without_names(hir: &Hir) -> String {
    let mut text = String::new();
    let mut rest = &*hir.to_string();
    while let Some((before, after)) = rest.split_once("(?P<") {
        text.push_str(before);
        text.push_str("(?:");
        rest = after.split_once('>').map_or("", |(_, after)| after);
    }
    text + rest
}

/// Appends the text of parts for an endpoint; `None` if they do not fit it.
fn write(
    parts: &[Part],
    known: &Captures<'_>,
    endpoint: &EndpointName,
    text: &mut String,
) -> Option<()> {
    for part in parts {
        match (part, endpoint) {
            (Part::Text(literal), _) => text.push_str(literal),
            (Part::Port, EndpointName::Port(port)) => *text += &port.to_string(),
            (Part::App, EndpointName::App(app)) => text.push_str(app.as_str()),
            (Part::Port | Part::App, _) => return None,
            (Part::Copied { name, may_be_empty }, _) => match known.name(name) {
                Some(found) => text.push_str(found.as_str()),
                // It is in an alternative that the known host does not have.
                None if *may_be_empty => {}
                None => return None,
            },
            (Part::Optional(inner), _) => try_write(inner, known, endpoint, text).unwrap_or(()),
            (Part::Either(all), _) => {
                all.iter().find_map(|inner| try_write(inner, known, endpoint, text))?;
            }
        }
    }
    Some(())
}

/// The same, which leaves the text as it was if the parts do not fit.
fn try_write(
    parts: &[Part],
    known: &Captures<'_>,
    endpoint: &EndpointName,
    text: &mut String,
) -> Option<()> {
    let length = text.len();
    let written = write(parts, known, endpoint, text);
    if written.is_none() {
        text.truncate(length);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspaces::{
        AppName,
        pattern::{IdRule, PatternSpec, Preset},
    };

    fn own(regex: &str) -> PatternSpec {
        PatternSpec {
            regex: regex.into(),
            id: IdRule::Template("{workspace}".into()),
            source: None,
        }
    }

    fn endpoints() -> Vec<EndpointName> {
        vec![
            EndpointName::Main,
            EndpointName::Port(3000),
            EndpointName::Port(8080),
            EndpointName::App(AppName::new("code").unwrap()),
            EndpointName::App(AppName::new("Not A Host!").unwrap()),
        ]
    }

    fn hosts(spec: PatternSpec, host: &str) -> Vec<String> {
        let patterns = HostPatterns::new(&[spec]).unwrap();
        let all = endpoints();
        let found = patterns.hosts_of(&host.parse().unwrap(), &all, &mut Scratch::default());
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn q3_the_hosts_of_other_endpoints_follow_from_one_for_every_platform() {
        let uuid = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";
        let gitpod = |port: &str| format!("{port}pinkpanda-demo-ns35kd21abc.ws-eu1.x.test");
        let all = [gitpod(""), gitpod("3000-"), gitpod("8080-")];
        for known in &all {
            assert_eq!(hosts(Preset::Gitpod.spec("x.test", "main"), known), all, "{known}");
        }
        let ona = |port: u16| format!("{port}--{uuid}.eu.x.test");
        let all = [ona(3000), ona(8080)];
        for known in &all {
            assert_eq!(hosts(Preset::Ona.spec("x.test", "main"), known), all, "{known}");
        }
        let coder = |name: &str| format!("{name}--dev--alice.x.test");
        let all = [coder("3000--main"), coder("8080--main"), coder("code")];
        for known in &all {
            assert_eq!(hosts(Preset::Coder.spec("x.test", "main"), known), all, "{known}");
        }
        let suffixed =
            own("(?<workspace>[a-z]+)(?:-p(?<port>[0-9]+))?(?:-(?<app>[a-z]+))?\\.x\\.test");
        assert_eq!(
            hosts(suffixed, "w.x.test"),
            ["w.x.test", "w-p3000.x.test", "w-p8080.x.test", "w-code.x.test"]
        );
    }

    #[test]
    fn q3_a_host_that_is_not_that_endpoint_of_that_workspace_is_left_out() {
        // The port is there twice, or is part of the workspace's name: no host of another endpoint is certain.
        for regex in ["(?<workspace>[a-z]+[0-9]*)\\.x\\.test", "(?<workspace>[a-z]+)\\.x\\.test"] {
            assert_eq!(hosts(own(regex), "w.x.test"), Vec::<String>::new(), "{regex}");
        }
        let greedy = own("(?:(?<port>[0-9]{4})-)?(?<workspace>[a-z0-9-]+)\\.x\\.test");
        // Another workspace has that name: the pattern takes the port of its own name away.
        assert_eq!(hosts(greedy, "w.x.test"), ["w.x.test", "3000-w.x.test", "8080-w.x.test"]);
        let two = HostPatterns::new(&[
            own("3000-(?<workspace>[a-z]+)\\.x\\.test"),
            own("(?:(?<port>[0-9]+)-)?(?<workspace>[a-z]+)\\.x\\.test"),
        ])
        .unwrap();
        let all = endpoints();
        let found = two.hosts_of(&"w.x.test".parse().unwrap(), &all, &mut Scratch::default());
        let found: Vec<_> = found.iter().map(Host::as_str).collect();
        // The first pattern has the host of port 3000, and says that it is the editor.
        assert_eq!(found, ["w.x.test", "8080-w.x.test"]);
        let none = two.hosts_of(&"other.test".parse().unwrap(), &all, &mut Scratch::default());
        assert!(none.is_empty());
    }

    #[test]
    fn q3_any_pattern_ends_in_hosts_that_resolve_or_in_none() {
        for regex in [
            "(?<workspace>[a-z]+)(?:-(?:(?<port>[0-9]+)|(?<app>[a-z]+)))?\\.(?:eu|us)\\.x\\.test",
            "(?:(?<port>[0-9]+)[.-])+(?<workspace>[a-z]+)\\.x\\.test",
            "(?i)(?:(?<port>\\d+)-)?(?<workspace>[a-z]+)(?<owner>|-[a-z]+)\\.x\\.test",
            "^(?:(?<port>[0-9]+)-)?(?<workspace>(?:[a-z]|[0-9])+)\\.x\\.test$",
        ] {
            let spec = PatternSpec { id: IdRule::Template("{workspace}".into()), ..own(regex) };
            let Ok(patterns) = HostPatterns::new(&[spec]) else { continue };
            let all = endpoints();
            for host in ["w.x.test", "3000-w.x.test", "w-8080.eu.x.test", "8080.w.x.test"] {
                let host: Host = host.parse().unwrap();
                let here = patterns.resolve(&host, &mut Scratch::default());
                for found in patterns.hosts_of(&host, &all, &mut Scratch::default()) {
                    let there = patterns.resolve(&found, &mut Scratch::default()).unwrap();
                    assert_eq!(Some(there.workspace), here.as_ref().map(|here| here.workspace));
                }
            }
        }
    }
}
