//! The readings of a path: what the server that gets the request may take it for.
//!
//! Servers and frameworks decode, merge and strip paths in different ways, and a rule about `/admin` must hold for
//! `/a/..;x/%61dmin` too. So policies are evaluated for every reading. Nothing here changes the request itself.
//!
//! Letter case, Unicode normalization and names of a server's file system are not covered. The invariant: a reading is
//! complete, or the path is refused as unreadable.

use std::{borrow::Cow, collections::BTreeSet};

use percent_encoding::percent_decode;

/// The longest path that is read, in bytes.
pub const MAX_PATH: usize = 4096;
/// How often a path is percent-decoded at most.
const MAX_DECODED: u8 = 3;
/// The most readings of one path. Real paths have fewer than half of them; more are an attempt to get past a rule.
pub const MAX_READINGS: usize = 32;

/// One transformation that a server may apply to a path.
type Step = fn(&[u8]) -> Vec<u8>;

/// The transformations other than decoding, which may happen in any order.
const STEPS: [Step; 5] = [backslashes, without_parameters, merged, without_dots, before_nul];

/// Why a path cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The path, or one of its readings, is not UTF-8.
    #[error("the path is not UTF-8")]
    NotText,
    /// The path is longer than [`MAX_PATH`].
    #[error("the path is longer than {MAX_PATH} bytes")]
    TooLong,
    /// The path has more than [`MAX_READINGS`] readings.
    #[error("the path can be read in more than {MAX_READINGS} ways")]
    TooManyWays,
}

/// Every reading of a path, each once, the unchanged path first.
///
/// A reading is decoded up to three times (RFC 3986 section 2.1). Between these, in any order, backslashes become
/// slashes, `;parameters` go (section 3.3), slashes are merged, dot segments are removed (section 5.2.4), and what follows
/// a NUL goes.
///
/// # Errors
/// The path is too long, has too many readings, or one of them is not UTF-8.
pub fn readings(path: &[u8]) -> Result<Vec<Cow<'_, str>>, Unreadable> {
    if path.len() > MAX_PATH {
        return Err(Unreadable::TooLong);
    }
    let text = std::str::from_utf8(path).map_err(|_| Unreadable::NotText)?;
    let mut found = vec![Cow::Borrowed(text)];
    if is_plain(path) {
        return Ok(found);
    }
    let mut seen = BTreeSet::from([path.to_vec()]);
    let mut take = |next: Vec<u8>, to: &mut Vec<Vec<u8>>| {
        // Different steps often lead to the same reading.
        if !seen.insert(next.clone()) {
            return Ok(());
        }
        if seen.len() > MAX_READINGS {
            return Err(Unreadable::TooManyWays);
        }
        let text = String::from_utf8(next.clone()).map_err(|_| Unreadable::NotText)?;
        found.push(Cow::Owned(text));
        to.push(next);
        Ok(())
    };
    // Level by level of decoding: a reading that is reached with fewer decodings may be decoded more often.
    let mut level = vec![path.to_vec()];
    for decoded in 0..=MAX_DECODED {
        let mut at = 0;
        while let Some(path) = level.get(at).cloned() {
            at += 1;
            for next in STEPS.map(|step| step(&path)) {
                take(next, &mut level)?;
            }
        }
        let mut next_level = Vec::new();
        for path in level.iter().filter(|_| decoded < MAX_DECODED) {
            if let Some(next) = decode(path) {
                take(next, &mut next_level)?;
            }
        }
        level = next_level;
    }
    Ok(found)
}

/// Whether the path has only one reading, as nearly every path of a real request.
fn is_plain(path: &[u8]) -> bool {
    let odd = |b: &u8| matches!(b, b'%' | b'\\' | b';');
    let twice = |pair: &[u8]| matches!(pair, b"//" | b"/.");
    !path.iter().any(odd) && !path.windows(2).any(twice) && !path.starts_with(b".")
}

/// The path percent-decoded once, if it has an escape; what is not an escape stays as it is.
fn decode(path: &[u8]) -> Option<Vec<u8>> {
    match percent_decode(path).into() {
        Cow::Owned(decoded) => Some(decoded),
        Cow::Borrowed(_) => None,
    }
}

/// The path with slashes for backslashes.
fn backslashes(path: &[u8]) -> Vec<u8> {
    path.iter().map(|b| if *b == b'\\' { b'/' } else { *b }).collect()
}

/// The path with each segment cut at its semicolon.
fn without_parameters(path: &[u8]) -> Vec<u8> {
    let bare = |segment: &[u8]| segment.split(|b| *b == b';').next().unwrap_or_default().to_vec();
    let segments: Vec<_> = path.split(|b| *b == b'/').map(bare).collect();
    segments.join(&b'/')
}

/// The path with one slash for several in a row.
fn merged(path: &[u8]) -> Vec<u8> {
    let mut out = path.to_vec();
    out.dedup_by(|a, b| (*a, *b) == (b'/', b'/'));
    out
}

/// What a program sees that takes paths for strings of C.
fn before_nul(path: &[u8]) -> Vec<u8> {
    path.iter().copied().take_while(|b| *b != 0).collect()
}

/// The path without dot segments (RFC 3986 section 5.2.4); `..` at the root stays at the root.
fn without_dots(path: &[u8]) -> Vec<u8> {
    let rooted = path.strip_prefix(b"/");
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut ends_open = false;
    for segment in rooted.unwrap_or(path).split(|b| *b == b'/') {
        ends_open = matches!(segment, b"." | b"..");
        match segment {
            b"." => {}
            b".." => {
                kept.pop();
            }
            other => kept.push(other),
        }
    }
    let mut out = if rooted.is_some() { b"/".to_vec() } else { vec![] };
    out.extend(kept.join(&b'/'));
    // "/a/." and "/a/b/.." name directories, so they end in a slash.
    if ends_open && !kept.is_empty() {
        out.push(b'/');
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(path: &str) -> Vec<String> {
        let mut all: Vec<_> =
            readings(path.as_bytes()).unwrap().into_iter().map(Cow::into_owned).collect();
        assert_eq!(all[0], path, "what it is as it stands comes first");
        all.sort();
        all
    }

    #[test]
    fn a_plain_path_has_one_reading() {
        for path in ["", "/", "/api/v1/users/7", "/a.b/c.", "*", "/caf\u{e9}"] {
            assert_eq!(read(path), [path]);
        }
    }

    #[test]
    fn every_disguise_of_a_path_is_read() {
        for path in [
            "/%61dmin",
            "/%2561dmin",
            "/%252561dmin",
            "//admin",
            "/./admin",
            "/x/../admin",
            "/x/..;a=b/admin",
            "/x/%2e%2E/admin",
            "/x/%2e%2e%2fadmin",
            "/x/%252e%252e/admin",
            "\\admin",
            "/x\\..\\admin",
            "/x%5c..%5cadmin",
            "/admin;a=b",
            "/%61dmin;x%2fy",
            "/x//../../admin",
            "/.//admin",
            "/../../admin",
            "/%2e%2e;/%61dmin",
        ] {
            assert!(read(path).contains(&"/admin".to_owned()), "{path}: {:?}", read(path));
        }
    }

    #[test]
    fn f5_what_stands_before_a_nul_is_read_alone_too() {
        for path in ["/secret%00", "/secret%00.png", "/secret%2500/x", "/a/..%2fsecret%00"] {
            assert!(read(path).contains(&"/secret".to_owned()), "{path}");
        }
    }

    #[test]
    fn slashes_are_merged_before_dots_and_after() {
        let all = read("/a//../b");
        for reading in ["/a//../b", "/a/../b", "/a/b", "/b"] {
            assert!(all.contains(&reading.to_owned()), "{all:?}");
        }
    }

    #[test]
    fn what_is_not_an_escape_stays() {
        assert_eq!(read("/100%/%zz/%4"), ["/100%/%zz/%4"]);
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        assert_eq!(readings(b"/\xff"), Err(Unreadable::NotText));
        assert_eq!(readings(b"/%ff"), Err(Unreadable::NotText));
        assert_eq!(readings(b"/%25ff"), Err(Unreadable::NotText));
        assert_eq!(readings(&[b'a'; MAX_PATH + 1]), Err(Unreadable::TooLong));
        assert!(readings(&[b'a'; MAX_PATH]).is_ok());
        let clever = b"/a;%5c..%2f%252e./b//%255c;%253b\\../c;d/./%2525";
        assert_eq!(readings(clever), Err(Unreadable::TooManyWays));
    }

    #[test]
    fn ordinary_odd_paths_are_read_in_few_ways() {
        for path in [
            "/proxy/8080//static/a%20b.js",
            "/files/My%20Documents/100%25.txt",
            "/git/repo.git/info/refs;v=2",
            "/a/b/../c/%2fetc",
            "/vscode-remote-resource/..%2F..%2Fx",
        ] {
            assert!(read(path).len() <= 16, "{path}: {}", read(path).len());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(path in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = readings(&path);
        }

        #[test]
        fn readings_are_complete(path in "(/|//|/\\.|/\\.\\.|;a|%2e|%2f|%25|%5c|\\\\|a|b){0,12}") {
            let Ok(all) = readings(path.as_bytes()) else { return Ok(()) };
            for reading in &all {
                // Whatever does not decode leads to a reading that is there.
                for next in STEPS.map(|step| step(reading.as_bytes())) {
                    let next = String::from_utf8(next).unwrap();
                    prop_assert!(all.iter().any(|known| *known == next), "{} {}", path, next);
                }
            }
        }
    }
}
