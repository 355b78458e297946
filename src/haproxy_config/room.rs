//! The room that HAProxy needs in its buffers: for the headers that the gate adds to a request, and for the request's own.
//!
//! HAProxy keeps `tune.maxrewrite` bytes of a buffer of `tune.bufsize` bytes free while it receives a request. When a large
//! body fills the rest, a header for which these bytes do not suffice ends the request with 500. What is added depends on the
//! agent's configuration: [`HeaderRoom::for_headers`] has the longest values.

use crate::{
    identity::{
        claims::{MAX_SUBJECT, MAX_TEXT},
        groups::MAX_LENGTH,
    },
    workspaces::{MAX_ID_LENGTH, host::MAX_HOST},
};

/// The sizes of HAProxy's buffers, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderRoom {
    /// `tune.bufsize`.
    pub bufsize: u32,
    /// `tune.maxrewrite`.
    pub maxrewrite: u32,
}

/// What HAProxy has by default.
pub const DEFAULT: HeaderRoom = HeaderRoom { bufsize: 16_384, maxrewrite: 1_024 };
/// What is left for the request's own headers, in bytes. HAProxy's default leaves a little less.
pub const REQUEST: u32 = 15_360;
/// For headers that rules of the operator's own add.
const OWN: usize = 512;
/// What HAProxy needs for a header besides its name and value.
const PER_HEADER: usize = 8;
/// The longest port, with its colon.
const PORT: usize = 6;
/// The longest issuer where the configuration is not known.
const ISSUER: usize = 255;

/// The headers that the rules add, with the longest value of each. Values that only get shorter on the way, as that of Cookie,
/// are left out.
const HEADERS: [(&str, usize); 13] = [
    ("Connection", "Upgrade".len()),
    ("X-Identity-Rounds", 1),
    ("X-Forwarded-For", 45),
    ("X-Forwarded-Proto", "https".len()),
    ("X-Forwarded-Host", MAX_HOST + PORT),
    ("X-Unique-ID", 36),
    ("X-Identity-Decision-Id", 40),
    ("X-Identity-Workspace", MAX_ID_LENGTH),
    ("X-Identity-Subject", MAX_SUBJECT),
    ("X-Forwarded-User", MAX_TEXT),
    ("X-Forwarded-Email", MAX_TEXT),
    ("X-Identity-Groups-Incomplete", 1),
    ("Host", MAX_HOST + PORT),
];
/// Those whose longest value depends on the configuration.
const ISSUER_HEADER: &str = "X-Identity-Issuer";
const GROUPS_HEADER: &str = "X-Forwarded-Groups";

/// Whether identities of the configuration can have groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Groups {
    /// At some issuer.
    Possible,
    /// At none.
    Never,
}

impl HeaderRoom {
    /// The room for identities of issuers whose longest identifier has this many bytes.
    #[must_use]
    pub fn for_headers(issuer: usize, groups: Groups) -> Self {
        let groups = match groups {
            Groups::Possible => cost(GROUPS_HEADER, MAX_LENGTH),
            Groups::Never => 0,
        };
        let fixed: usize = HEADERS.iter().map(|(name, value)| cost(name, *value)).sum();
        let added = fixed + cost(ISSUER_HEADER, issuer) + groups + OWN;
        let added = u32::try_from(added).unwrap_or(u32::MAX / 4);
        let maxrewrite = added.next_multiple_of(1_024);
        // HAProxy reduces the room for headers to half of the buffer.
        let bufsize = (REQUEST + maxrewrite).max(2 * maxrewrite + 1).next_multiple_of(4_096);
        Self { bufsize, maxrewrite }
    }

    /// What HAProxy makes of `tune.maxrewrite`: at most half of the buffer.
    #[must_use]
    pub fn effective(self) -> u32 {
        self.maxrewrite.min(self.bufsize / 2)
    }

    /// What is left for the request's own headers.
    #[must_use]
    pub fn left(self) -> u32 {
        self.bufsize.saturating_sub(self.effective())
    }

    /// The lines of the section `global`.
    #[must_use]
    pub fn lines(self) -> String {
        format!("tune.bufsize {}\ntune.maxrewrite {}", self.bufsize, self.maxrewrite)
    }
}

impl Default for HeaderRoom {
    /// The room for any configuration, which the shipped file has.
    fn default() -> Self {
        Self::for_headers(ISSUER, Groups::Possible)
    }
}

/// A size of HAProxy's: a number of bytes, or of kibibytes with the suffix `k`, which versions from 3.4 on take.
#[must_use]
pub fn parse(text: &str) -> Option<u32> {
    match text.strip_suffix(['k', 'K']) {
        Some(kibibytes) => kibibytes.parse::<u32>().ok()?.checked_mul(1_024),
        None => text.parse().ok(),
    }
}

fn cost(name: &str, value: usize) -> usize {
    name.len() + value + PER_HEADER
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::haproxy_config::shipped::GATE;

    #[test]
    fn q7_every_header_that_the_shipped_rules_add_has_its_room() {
        let enforced = GATE.split("# --- 4.").nth(1).unwrap().split("# --- 6.").next().unwrap();
        let reused = GATE.split("\nbackend reused\n").nth(1).unwrap().split("\nbackend ").next();
        for line in enforced.lines().chain(reused.unwrap().lines()) {
            let Some((_, rule)) = line.split_once("http-request set-header ") else { continue };
            let name = rule.split(' ').next().unwrap();
            let known = HEADERS.iter().any(|(known, _)| *known == name);
            let shrinks = ["Cookie", "Sec-WebSocket-Protocol"].contains(&name);
            assert!(known || shrinks || [ISSUER_HEADER, GROUPS_HEADER].contains(&name), "{line}");
        }
    }

    #[test]
    fn q7_the_shipped_file_has_the_room_for_any_configuration() {
        let lines = HeaderRoom::default().lines();
        for line in lines.lines() {
            assert!(GATE.contains(&format!("    {line}\n")), "haproxy/haproxy.cfg needs: {line}");
        }
    }

    #[test]
    fn q7_the_room_grows_with_what_is_added_and_leaves_the_request_its_own() {
        let all = [
            HeaderRoom::for_headers(20, Groups::Never),
            HeaderRoom::for_headers(20, Groups::Possible),
            HeaderRoom::default(),
            HeaderRoom::for_headers(4_000, Groups::Possible),
            HeaderRoom::for_headers(40_000, Groups::Possible),
        ];
        for room in all {
            assert!(room.left() >= REQUEST && room.effective() == room.maxrewrite, "{room:?}");
        }
        assert!(all.is_sorted_by_key(|room| room.maxrewrite), "{all:?}");
        assert!(all[0].maxrewrite < 4_096 && all[1].maxrewrite > 8_192, "{all:?}");
        assert_eq!(HeaderRoom { bufsize: 16_384, maxrewrite: 12_288 }.effective(), 8_192);
    }

    #[test]
    fn q7_sizes_are_read_as_haproxy_does() {
        for (text, want) in [
            ("16384", Some(16_384)),
            ("32k", Some(32_768)),
            ("", None),
            ("-1", None),
            ("k", None),
            ("9999999k", None),
            ("1m", None),
        ] {
            assert_eq!(parse(text), want, "{text}");
        }
    }
}
