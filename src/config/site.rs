//! A warning for login hosts that are not of the workspaces' site, where sign-in cannot work (docs/decisions/0014).
//!
//! Browsers send cookies only within one site (registrable domain). Which names are registrable is in the Public Suffix
//! List, which changes and is not part of this program. Two rules need no list: names with fewer than two labels in common
//! are never of one site, and the usual second-level names of countries, such as `co.uk`, are not a site. So there is no
//! false warning, but a wrong login host may also remain unnoticed.

use super::Config;
use crate::workspaces::pattern::PatternSpec;

/// The second labels below which countries register names.
const COUNTRY_SECOND_LEVELS: [&str; 10] =
    ["ac", "co", "com", "edu", "gob", "gov", "gouv", "net", "org", "or"];

impl Config {
    /// A sentence for each host pattern whose workspaces are of another site than the login host.
    pub(super) fn other_sites(&self) -> Vec<String> {
        let Some(sign_in) = &self.sign_in else { return vec![] };
        let login = &*sign_in.sessions.urls.login;
        let elsewhere = self.hosts.iter().filter_map(|spec| {
            let domain = domain(spec)?;
            (!may_be_one_site(login, &domain)).then_some(domain)
        });
        elsewhere.map(|domain| warning(login, &domain)).collect()
    }
}

fn warning(login: &str, domain: &str) -> String {
    format!(
        "sign-in does not work at the workspaces below '{domain}': the login host '{login}' is of another site (registrable domain), and browsers do not send a session's cookies from one site to another. \
         Give [sign_in] a 'host' that ends in the workspaces' registrable domain, such as 'login.{domain}'"
    )
}

/// The domain in which all host names of a pattern end, such as `ws.example.com`, or `None` if its text does not show one.
fn domain(spec: &PatternSpec) -> Option<String> {
    let text = spec.regex.trim_end_matches('$');
    if has_alternatives(text) {
        return None;
    }
    let mut end = Vec::new();
    let mut rest: Vec<char> = text.chars().collect();
    while let Some(last) = rest.pop() {
        let escapes = rest.iter().rev().take_while(|char| **char == '\\').count();
        match (last, escapes % 2) {
            ('.' | '-', 1) => {
                rest.pop();
                end.push(last);
            }
            ('a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_', 0) => {
                end.push(last.to_ascii_lowercase());
            }
            _ => {
                rest.push(last);
                break;
            }
        }
    }
    let end: String = end.into_iter().rev().collect();
    // Without the beginning of the pattern, the first label may be only the end of a longer one.
    let whole = if rest.is_empty() { &*end } else { end.split_once('.')?.1 };
    Some(whole.to_owned()).filter(|domain| !domain.is_empty())
}

/// Whether a pattern has alternatives outside its groups, so that its end is not the end of all hosts.
fn has_alternatives(text: &str) -> bool {
    let (mut depth, mut escaped, mut class) = (0_u32, false, false);
    for char in text.chars() {
        match char {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' => class = true,
            ']' => class = false,
            _ if class => {}
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            '|' if depth == 0 => return true,
            _ => {}
        }
    }
    false
}

/// Whether the two can have a registrable domain in common.
fn may_be_one_site(one: &str, other: &str) -> bool {
    let labels = one.rsplit('.').zip(other.rsplit('.'));
    let common: Vec<_> = labels.take_while(|(a, b)| a == b).map(|(label, _)| label).collect();
    match common[..] {
        [] | [_] => false,
        [top, second] => !(top.len() == 2 && COUNTRY_SECOND_LEVELS.contains(&second)),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspaces::pattern::{IdRule, Preset};

    fn domain_of(regex: &str) -> Option<String> {
        domain(&PatternSpec {
            regex: regex.into(),
            id: IdRule::Template("{workspace}".into()),
            source: None,
        })
    }

    #[test]
    fn the_end_of_a_pattern_is_the_domain_of_its_hosts() {
        for preset in [Preset::Gitpod, Preset::Ona, Preset::Coder] {
            let domain = domain(&preset.spec("ws-1.example.com", "main"));
            assert_eq!(domain.as_deref(), Some("ws-1.example.com"), "{preset:?}");
        }
        for (regex, expected) in [
            (r"(?<workspace>[a-z]+)\.example\.com", Some("example.com")),
            (r"(?<workspace>[a-z]+)\.example\.com$", Some("example.com")),
            (r"(?<workspace>[a-z]+)(?:-x|-y)\.dev\.example\.co\.uk", Some("dev.example.co.uk")),
            // The label may be longer to the left.
            (r"(?<workspace>[a-z]+)-x\.example\.com", Some("example.com")),
            (r"(?<workspace>[a-z]+)\d\.example\.com", Some("example.com")),
            (r"(?<workspace>x|[a-z|]+)\.EXAMPLE\.com", Some("example.com")),
            // Any character, one of several ends, repetition: not known.
            (r"(?<workspace>[a-z]+).example.com", None),
            (r"(?<workspace>[a-z]+)\.(?:example\.com|example\.org)", None),
            (r"(?<workspace>[a-z]+)\.example\.com|(?<port>[0-9]+)\.example\.org", None),
            (r"(?<workspace>[a-z]+)\.example\.coms?", None),
            (r"(?<workspace>[a-z]+)", None),
        ] {
            assert_eq!(domain_of(regex).as_deref(), expected, "{regex}");
        }
    }

    #[test]
    fn names_without_a_registrable_domain_in_common_are_of_two_sites() {
        for (login, domain) in [
            ("login.example.com", "example.com"),
            ("example.com", "ws.example.com"),
            ("login.corp.example.co.uk", "ws.example.co.uk"),
            ("login.example.co.uk", "example.co.uk"),
            ("login.example.de", "ws.example.de"),
        ] {
            assert!(may_be_one_site(login, domain), "{login} {domain}");
        }
        for (login, domain) in [
            ("login.example.com", "example.org"),
            ("login.example.com", "workspaces.com"),
            ("login.example.co.uk", "workspaces.co.uk"),
            ("login.notexample.com", "example.com"),
            ("login", "workspaces"),
            ("login.localhost", "ws.localhost"),
        ] {
            assert!(!may_be_one_site(login, domain), "{login} {domain}");
        }
    }
}
