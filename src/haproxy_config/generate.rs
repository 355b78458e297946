//! `haproxy generate`: writes HAProxy's configuration from facts of the agent's.
//!
//! The shipped files in `haproxy/` are compiled in, and [`template`] takes out what this agent does not need and puts
//! in its addresses and times. There is no second copy of the rules, so what is generated is what the tests run.
//! [`Facts`] is all that a file depends on: the same facts give the same text.

use std::{fmt, time::Duration};

use strum::VariantArray as _;

use super::lint::REUSE;
use crate::haproxy_config::{
    room::HeaderRoom,
    shipped::{GATE, SPOE},
};

mod template;

const TCP: &str = include_str!("../../haproxy/tcp.cfg");
/// The files of haproxy/pages by name, in the order of the names. A test of generate holds the list against the directory.
const PAGES: [(&str, &str); 3] = [
    ("style.css", include_str!("../../haproxy/pages/style.css")),
    ("too-large.html", include_str!("../../haproxy/pages/too-large.html")),
    ("unavailable.html", include_str!("../../haproxy/pages/unavailable.html")),
];

/// A version of HAProxy, or a range of versions that take the same configuration.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, strum::VariantArray,
)]
pub enum Version {
    /// 2.6 to 2.9
    #[value(name = "2.6")]
    V2_6,
    /// 3.0 and 3.1
    #[value(name = "3.0")]
    V3_0,
    /// 3.2 and 3.3. Since 3.2 the agent's backend has a mode of its own (`mode spop`).
    #[value(name = "3.2")]
    V3_2,
    /// 3.4 and later
    #[value(name = "3.4")]
    V3_4,
}

impl Version {
    /// The version as HAProxy writes it.
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

/// The installed HAProxy is too old, or `haproxy -v` printed something else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the haproxy of this machine is {0:?}, and 2.6 or later is needed: use --haproxy-version for another one"
)]
pub struct UnknownVersion(String);

impl Version {
    /// The version for an installed HAProxy, from what `haproxy -v` prints (`HAProxy version 2.6.12-1 …`).
    ///
    /// # Errors
    /// HAProxy is older than 2.6, or the text has no version.
    pub fn installed(said: &str) -> Result<Self, UnknownVersion> {
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
    // A development version has a suffix (`3.1-dev3`).
    let mut parts =
        text.trim_matches('"').split('.').map(|part| part.split('-').next()?.parse().ok());
    Some((parts.next()??, parts.next()??))
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// A generated file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// The path below the directory of HAProxy's configuration.
    pub path: String,
    /// The contents.
    pub text: String,
}

/// What HAProxy's configuration depends on: facts of the agent's configuration, and HAProxy's version.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that a configuration says")]
pub struct Facts {
    /// The version to write for.
    pub version: Version,
    /// The agent's address as a `server` line has it. `None` leaves the shipped address.
    pub agent: Option<String>,
    /// How long HAProxy waits for an answer (`timeout processing`).
    pub processing: Duration,
    /// Within which time the agent answers (`response_timeout_ms`).
    pub response_timeout: Duration,
    /// The login host, and the address of the agent's pages.
    pub sign_in: Option<(String, String)>,
    /// The port of HAProxy's https, as browsers see it.
    pub login_port: u16,
    /// The header in which programs may send tokens, so that Authorization is the app's.
    pub header: Option<String>,
    /// Whether tokens are accepted in a cookie.
    pub cookie: bool,
    /// Whether tokens are accepted in the query.
    pub query: bool,
    /// Whether tokens are accepted in a WebSocket subprotocol.
    pub subprotocol: bool,
    /// Whether workspaces publish the accepted issuers (`resource_metadata`).
    pub metadata: bool,
    /// Whether a second agent may share sessions with this one.
    pub several: bool,
    /// For how long HAProxy may reuse an allow; `None` is never.
    pub reuse: Option<Duration>,
    /// The room in HAProxy's buffers.
    pub room: HeaderRoom,
}

impl Facts {
    /// Whether this agent ever sets a variable.
    fn says(&self, variable: &str) -> bool {
        match variable {
            "location" | "set_cookie" => self.sign_in.is_some(),
            "query" => self.query,
            "protocols" => self.subprotocol,
            "metadata" => self.metadata,
            "cors_origin" | "cors_methods" | "cors_headers" => {
                self.sign_in.is_some() || self.cookie
            }
            _ => true,
        }
    }

    /// Whether this agent needs an argument of the authorization request. Some agents need no query, for instance.
    fn asks(&self, argument: &str, sample: &str) -> bool {
        match argument {
            "token" | "tokens" => self.header.is_some(),
            "query" => self.query || self.sign_in.is_some(),
            "protocols" | "protocol_lines" => self.subprotocol,
            "fetch_mode" | "fetch_dest" | "accept" | "upgrade" | "requested_with"
            | "fetch_site" | "origin" | "referer" | "preflight_method" | "preflight_headers" => {
                self.sign_in.is_some() || self.cookie
            }
            // HAProxy has the stream's id since 2.9.
            _ => self.version >= Version::V3_0 || !sample.contains("txn.id32"),
        }
    }

    /// The outcome of an `.if` condition, if the facts decide it.
    fn decides(&self, condition: &str) -> Option<bool> {
        if condition == "defined(GATE_LOGIN_HOST)" {
            return Some(self.sign_in.is_some());
        }
        if condition == REUSE {
            return Some(self.reuse.is_some());
        }
        if ["defined(IDENTITY_AGENT_2)", "defined(GATE_LOGIN_PAGES_2)"].contains(&condition) {
            // Only the environment knows the address of the second agent.
            return (!self.several).then_some(false);
        }
        let wanted = condition.strip_prefix("version_atleast(")?.strip_suffix(')')?;
        Some(numbers(self.version.text())? >= numbers(wanted)?)
    }
}

/// All files, with those of `haproxy/` first and then the pages in the order of their names.
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
        // A page that no rule names would never be served.
        if files.iter().any(|file| file.text.contains(&path)) {
            files.push(File { path, text: text.to_owned() });
        }
    }
    files
}

/// The rules in parts, for a `haproxy.cfg` that exists already, with the files that they name.
///
/// `parts/frontend.cfg` has parts 1 to 6 of the front end, `parts/log.cfg` its log format, `parts/backends.cfg` the backends
/// without the example, with what the shipped `defaults` have for them, and `parts/global.cfg` the defaults of the
/// environment that these need.
#[must_use]
pub fn parts(facts: &Facts) -> Vec<File> {
    let mut files = generate(facts);
    let gate = files.iter().find(|file| file.path == "haproxy.cfg");
    let parts = template::parts(gate.map_or("", |file| &file.text));
    files.retain(|file| file.path != "haproxy.cfg" && file.path != "tcp.cfg");
    let part = |(name, text)| File { path: format!("parts/{name}.cfg"), text };
    files.extend(parts.into_iter().map(part));
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
    fn the_installed_version_decides_what_is_generated() {
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
            assert_eq!(Version::installed(said).ok().map(Version::text), want, "{said}");
        }
    }
}
