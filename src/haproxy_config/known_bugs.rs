//! Releases of HAProxy with a bug that people behind the gate notice: what fails, and what to do about it.
//!
//! `haproxy lint --haproxy-release`, `haproxy generate` and `doctor` compare the release with [`KNOWN_BUGS`]. Another bug is one more entry.

use std::{fmt, str::FromStr};

/// A release of HAProxy, such as 3.2.18.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    major: u16,
    minor: u16,
    patch: u16,
}

/// A bug that some releases have.
#[derive(Debug, PartialEq, Eq)]
pub struct KnownBug {
    /// The releases that have it.
    pub releases: &'static [Release],
    /// What fails.
    pub what: &'static str,
    /// A line of the section `global` that avoids it.
    pub workaround: &'static str,
    /// Where HAProxy's developers describe it.
    pub issue: &'static str,
}

/// Every bug that is known here.
pub const KNOWN_BUGS: &[KnownBug] = &[KnownBug {
    releases: &[Release::new(3, 0, 22), Release::new(3, 2, 18), Release::new(3, 3, 9)],
    what: "WebSockets over HTTP/2 fail in every browser",
    workaround: "h2-workaround-bogus-websocket-clients",
    issue: "https://github.com/haproxy/haproxy/issues/3355",
}];

/// The text is not a release of HAProxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a release such as 3.2.18, as 'haproxy -v' prints it")]
pub struct ReleaseError;

impl Release {
    const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Self { major, minor, patch }
    }

    /// The release that `haproxy -v` prints (`HAProxy version 3.2.18-1 2026/05/07`); `None` for a development version, which
    /// is not a release.
    #[must_use]
    pub fn said(text: &str) -> Option<Self> {
        text.lines().next()?.split_whitespace().find_map(|word| word.parse().ok())
    }

    /// The bugs of this release.
    pub fn known_bugs(self) -> impl Iterator<Item = &'static KnownBug> {
        KNOWN_BUGS.iter().filter(move |bug| bug.releases.contains(&self))
    }
}

impl FromStr for Release {
    type Err = ReleaseError;

    /// Reads `3.2.18`. A distribution's suffix (`-1+deb13u1`) is left out.
    fn from_str(text: &str) -> Result<Self, ReleaseError> {
        let number = text.split(['-', '+']).next().unwrap_or_default();
        let mut parts = number.split('.').map(|part| {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            part.parse::<u16>().ok().filter(|_| digits)
        });
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Some(major)), Some(Some(minor)), Some(Some(patch)), None) => {
                Ok(Self::new(major, minor, patch))
            }
            _ => Err(ReleaseError),
        }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl fmt::Display for KnownBug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.what, self.issue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q9_a_release_is_read_from_what_haproxy_says() {
        for (text, want) in [
            ("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/\nx", "2.6.12"),
            ("HAProxy version 3.3.9", "3.3.9"),
            ("HA-Proxy version 2.0.31-0ubuntu0.3", "2.0.31"),
            ("3.2.18-6ddfb3d", "3.2.18"),
        ] {
            assert_eq!(
                Release::said(text).map(|release| release.to_string()).as_deref(),
                Some(want)
            );
        }
        for text in ["", "HAProxy version 3.1-dev3", "3.2", "3.2.1.1", "3.+2.1", "3.2.99999", "x"] {
            assert_eq!(Release::said(text), None, "{text}");
        }
    }

    #[test]
    fn q9_the_releases_with_broken_websockets_are_known_and_their_neighbours_are_not() {
        let known = |text: &str| text.parse::<Release>().unwrap().known_bugs().count();
        for text in ["3.0.22", "3.2.18", "3.3.9"] {
            assert_eq!(known(text), 1, "{text}");
        }
        for text in ["2.6.12", "3.0.21", "3.0.23", "3.2.17", "3.2.19", "3.3.8", "3.3.10", "3.4.7"] {
            assert_eq!(known(text), 0, "{text}");
        }
    }
}
