//! HAProxy's configuration from the agent's: the shipped files, without what this agent never says and with
//! its addresses and times.
//!
//! There is no second copy: `haproxy/` is compiled in and specialised by [`template`].

use std::{fmt, time::Duration};

use strum::VariantArray as _;

use super::lint::REUSE;
use crate::haproxy_config::shipped::{GATE, SPOE};

mod template;

const TCP: &str = include_str!("../../haproxy/tcp.cfg");
/// The files of haproxy/pages by name, in the order of the names. A test of generate holds the list against the directory.
const PAGES: [(&str, &str); 2] = [
    ("style.css", include_str!("../../haproxy/pages/style.css")),
    ("unavailable.html", include_str!("../../haproxy/pages/unavailable.html")),
];

/// A version of HAProxy.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, strum::VariantArray,
)]
pub enum Version {
    /// 2.6 and 2.8
    #[value(name = "2.6")]
    V2_6,
    /// 3.0
    #[value(name = "3.0")]
    V3_0,
    /// 3.2, where SPOP has a mode of its own
    #[value(name = "3.2")]
    V3_2,
    /// 3.4 and later
    #[value(name = "3.4")]
    V3_4,
}

impl Version {
    /// As HAProxy writes it.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::V2_6 => "2.6",
            Self::V3_0 => "3.0",
            Self::V3_2 => "3.2",
            Self::V3_4 => "3.4",
        }
    }
}

/// A HAProxy that nothing can be written for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the haproxy of this machine is {0:?}, and 2.6 or later is needed: say --haproxy-version for another"
)]
pub struct UnknownVersion(String);

impl Version {
    /// What to write for a HAProxy, by what `haproxy -v` says (`HAProxy version 2.6.12-1 …`).
    ///
    /// # Errors
    /// It is older than all that can be written for, or is none.
    pub fn of(said: &str) -> Result<Self, UnknownVersion> {
        let line = said.lines().next().unwrap_or_default();
        let number = line.split_whitespace().find_map(numbers);
        let known =
            Self::VARIANTS.iter().copied().rev().find(|known| number >= numbers(known.text()));
        let known = known.filter(|_| number.is_some());
        known.ok_or_else(|| UnknownVersion(line.chars().take(80).collect()))
    }
}

/// The first two numbers of a version.
fn numbers(text: &str) -> Option<(u32, u32)> {
    let mut parts =
        text.trim_matches('"').split('.').map(|part| part.split('-').next()?.parse().ok());
    Some((parts.next()??, parts.next()??))
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// A file to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its path below the directory of HAProxy's configuration.
    pub path: String,
    /// What is in it.
    pub text: String,
}

/// What the agent's configuration says that matters to HAProxy's.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that a configuration says")]
pub struct Facts {
    /// HAProxy's version.
    pub version: Version,
    /// Where HAProxy finds the agent, as a `server` line says it; the shipped address where the
    /// configuration does not tell.
    pub agent: Option<String>,
    /// How long HAProxy waits for an answer.
    pub processing: Duration,
    /// Within which time the agent answers.
    pub response_timeout: Duration,
    /// The login host and the address of its pages.
    pub sign_in: Option<(String, String)>,
    /// The port of HAProxy's https, as browsers see it.
    pub login_port: u16,
    /// Whether tokens may be in a cookie.
    pub cookie: bool,
    /// Whether tokens may be in the query.
    pub query: bool,
    /// Whether tokens may be in a WebSocket subprotocol.
    pub subprotocol: bool,
    /// Whether workspaces tell which issuers' tokens count.
    pub metadata: bool,
    /// Whether another agent may share sessions with this one.
    pub several: bool,
    /// How long HAProxy may reuse an allow.
    pub reuse: Option<Duration>,
}

impl Facts {
    /// Whether the agent ever sets a variable, whatever is asked.
    fn says(&self, variable: &str) -> bool {
        match variable {
            "location" | "set_cookie" => self.sign_in.is_some(),
            "query" => self.query,
            "protocols" => self.subprotocol,
            "metadata" => self.metadata,
            _ => true,
        }
    }

    /// Whether the question has this argument, of those that not everybody needs.
    fn asks(&self, argument: &str, sample: &str) -> bool {
        match argument {
            "query" => self.query || self.sign_in.is_some(),
            "protocols" | "protocol_lines" => self.subprotocol,
            "fetch_mode" | "fetch_dest" | "accept" | "upgrade" | "requested_with"
            | "fetch_site" | "origin" | "referer" => self.sign_in.is_some() || self.cookie,
            // HAProxy has had the stream's number since 2.9.
            _ => self.version >= Version::V3_0 || !sample.contains("txn.id32"),
        }
    }

    /// How a condition of `.if` turns out, where that is known here.
    fn decides(&self, condition: &str) -> Option<bool> {
        if condition == "defined(GATE_LOGIN_HOST)" {
            return Some(self.sign_in.is_some());
        }
        if condition == REUSE {
            return Some(self.reuse.is_some());
        }
        if ["defined(IDENTITY_AGENT_2)", "defined(GATE_LOGIN_PAGES_2)"].contains(&condition) {
            // Where the second one is, only the environment says.
            return (!self.several).then_some(false);
        }
        let wanted = condition.strip_prefix("version_atleast(")?.strip_suffix(')')?;
        Some(numbers(self.version.text())? >= numbers(wanted)?)
    }
}

/// Every file, in the order of their names; the same for the same configuration.
#[must_use]
pub fn generate(facts: &Facts) -> Vec<File> {
    let gate = template::gate(GATE, facts);
    let mut files = vec![
        File { path: "haproxy.cfg".into(), text: gate },
        File { path: "identity.spoe.cfg".into(), text: template::spoe(SPOE, facts) },
        File { path: "tcp.cfg".into(), text: template::gate(TCP, facts) },
    ];
    for (name, text) in PAGES {
        let path = format!("pages/{name}");
        if files.iter().any(|file| file.text.contains(&path)) {
            files.push(File { path, text: text.to_owned() });
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_compiled_in() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/haproxy/pages");
        let files = std::fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert!(PAGES.iter().map(|(name, _)| *name).eq(names.iter().map(String::as_str)));
    }

    #[test]
    fn what_haproxy_says_of_itself_tells_what_to_write() {
        for (said, want) in [
            (
                "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/\nStatus: x",
                Some("2.6"),
            ),
            ("HAProxy version 2.8.5 2023/12/07", Some("2.6")),
            ("HAProxy version 3.0.11-1+deb13u1", Some("3.0")),
            ("HAProxy version 3.1-dev3", Some("3.0")),
            ("HAProxy version 3.3.9", Some("3.2")),
            ("HAProxy version 3.4.7-1 2026/10/14", Some("3.4")),
            ("HAProxy version 3.10.2", Some("3.4")),
            ("HA-Proxy version 2.4.22 2023/02/14", None),
            ("", None),
        ] {
            assert_eq!(Version::of(said).ok().map(Version::text), want, "{said}");
        }
    }
}
