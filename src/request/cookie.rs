//! Cookies: the only reader of Cookie headers and the only writer of Set-Cookie headers in this program.
//!
//! The gate reads its own cookies and a configured token cookie here; the sign-in pages read and set theirs here; the
//! agent takes both out of the header before a request reaches a workspace ([`without_ours`]).
//!
//! Reading is strict and removing is lenient. A name is compared byte for byte, and only space and tab around it are
//! ignored: a browser applies the rules of the `__Host-` prefix to exactly those names, so any other spelling could
//! have been set by a workspace. What is removed may be spelled in any way that a workspace could mistake for ours.
//! docs/decisions/0017-libraries.md says why this is not the crate `cookie`.

use std::{iter, time::Duration};

use super::trim;

/// The prefix of the names of all cookies of this program.
pub const OUR_PREFIX: &[u8] = b"__Host-identity";

/// How long a browser keeps a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CookieLifetime {
    /// Until the browser is closed.
    BrowserSession,
    /// For this long, in whole seconds.
    For(Duration),
    /// The browser deletes it now.
    Expired,
}

/// The value of a Set-Cookie header (RFC 6265 section 4.1). Every cookie of this program belongs to its host alone, is sent
/// over TLS only and is hidden from scripts. `SameSite=Lax` sends it with a navigation from another site, which a
/// provider makes when it sends the browser back.
///
/// `name` and `value` are written as they are: both come from this program's own names and base64url.
#[must_use]
pub fn set_cookie(name: &str, value: &str, lifetime: CookieLifetime) -> String {
    let cookie = format!("{name}={value}; Path=/; Secure; HttpOnly; SameSite=Lax");
    match lifetime {
        CookieLifetime::BrowserSession => cookie,
        CookieLifetime::For(time) => format!("{cookie}; Max-Age={}", time.as_secs()),
        CookieLifetime::Expired => format!("{cookie}; Max-Age=0"),
    }
}

/// The header without the agent's cookies and without the cookie called `token`, if there is such a name; `None` if the
/// header has none of them and may reach the workspace unchanged.
///
/// The agent's names are compared without regard to case, as some browsers treat the `__Host-` prefix. A cookie without a
/// name whose value looks like one of them is removed too.
#[must_use]
pub fn without_ours(header: &[u8], token: Option<&[u8]>) -> Option<Vec<u8>> {
    let is_ours = |pair: &[u8]| is_ours(pair) || token.is_some_and(|name| is_named(pair, name));
    // Most requests have nothing to remove, and Cookie headers are long: look before anything is copied.
    let starts = memchr::memchr_iter(b';', header).map(|at| at + 1);
    if !iter::once(0).chain(starts).any(|at| header.get(at..).is_some_and(is_ours)) {
        return None;
    }
    let mut rest = Vec::with_capacity(header.len());
    for pair in header.split(|&b| b == b';').filter(|pair| !is_ours(pair)) {
        if rest.is_empty() {
            rest.extend_from_slice(pair.trim_ascii_start());
        } else {
            rest.push(b';');
            rest.extend_from_slice(pair);
        }
    }
    Some(rest)
}

/// The pairs of a Cookie header, each as `name=value`, without the space and tab around it (RFC 6265 section 5.2). Any
/// other byte in front of a name makes it another name, to which browsers do not apply the rules of `__Host-`.
pub fn pairs(header: &[u8]) -> impl Iterator<Item = &[u8]> {
    header.split(|byte| *byte == b';').map(trim)
}

/// The values of the cookies with this exact name.
pub fn values<'h>(header: &'h [u8], name: &[u8]) -> impl Iterator<Item = &'h [u8]> {
    pairs(header).filter_map(move |pair| pair.strip_prefix(name)?.strip_prefix(b"="))
}

/// The names and values of the cookies whose name begins with `prefix` and is UTF-8.
pub fn with_prefix<'h>(
    header: &'h [u8],
    prefix: &str,
) -> impl Iterator<Item = (&'h str, &'h [u8])> {
    pairs(header).filter(move |pair| pair.starts_with(prefix.as_bytes())).filter_map(|pair| {
        let (name, value) = pair.split_at_checked(memchr::memchr(b'=', pair)?)?;
        Some((std::str::from_utf8(name).ok()?, value.strip_prefix(b"=")?))
    })
}

/// The value of the cookie with this exact name; `None` if there are several, since then it is not known which of them
/// this program has set.
#[must_use]
pub fn only<'h>(header: &'h [u8], name: &[u8]) -> Option<&'h [u8]> {
    only_in(iter::once(header), name)
}

/// The same over several Cookie headers, which HTTP/2 allows (RFC 9113 section 8.2.3).
#[must_use]
pub fn only_in<'h>(headers: impl Iterator<Item = &'h [u8]>, name: &[u8]) -> Option<&'h [u8]> {
    let mut values = headers.flat_map(|header| values(header, name));
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

/// Whether a pair has this exact name. Any whitespace around it is ignored, since a workspace may ignore it too.
fn is_named(pair: &[u8], name: &[u8]) -> bool {
    pair.trim_ascii().strip_prefix(name).is_some_and(|rest| rest.starts_with(b"="))
}

/// Whether a workspace could take a pair for one of the agent's cookies.
fn is_ours(pair: &[u8]) -> bool {
    let pair = pair.trim_ascii_start();
    // "=name" is a cookie without a name, which some servers read as one with that name.
    let name = pair.strip_prefix(b"=").unwrap_or(pair).trim_ascii_start();
    name.split_at_checked(OUR_PREFIX.len())
        .is_some_and(|(start, _)| start.eq_ignore_ascii_case(OUR_PREFIX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn c1_every_cookie_is_set_for_its_host_alone() {
        for (lifetime, age) in [
            (CookieLifetime::BrowserSession, ""),
            (CookieLifetime::For(Duration::from_mins(10)), "; Max-Age=600"),
            (CookieLifetime::Expired, "; Max-Age=0"),
        ] {
            let want = format!("__Host-identity=v; Path=/; Secure; HttpOnly; SameSite=Lax{age}");
            assert_eq!(set_cookie("__Host-identity", "v", lifetime), want);
        }
    }

    #[test]
    fn cookies_are_found_by_the_beginning_of_their_names() {
        let header =
            b"a=1; __Host-identity_at_x=1=2; __Host-identity_at_\xff=3; __Host-identity_at_y; \
            __Host-identity_at_=\xff; x__Host-identity_at_z=4";
        let found: Vec<_> = with_prefix(header, "__Host-identity_at_").collect();
        let want = [("__Host-identity_at_x", &b"1=2"[..]), ("__Host-identity_at_", b"\xff")];
        assert_eq!(found, want);
    }

    #[test]
    fn c5_of_two_cookies_of_one_name_in_two_headers_neither_is_valid() {
        let only = |headers: &[&'static [u8]]| only_in(headers.iter().copied(), b"t");
        assert_eq!(only(&[b"a=1", b"t=x"]), Some(&b"x"[..]));
        assert_eq!(only(&[b"t=x", b"t=x"]), None);
    }

    #[test]
    fn p1_the_cookie_with_a_token_is_removed_too() {
        let without = |header| without_ours(header, Some(b"token"));
        assert_eq!(without(b"a=1; token=x; b=2; token=y").as_deref(), Some(&b"a=1; b=2"[..]));
        assert_eq!(without(b"a=1; tokens=x; xtoken=1; Token=2; token"), None);
    }

    #[test]
    fn c5_of_two_cookies_of_one_name_neither_is_valid() {
        let only = |header| only(header, b"__Host-identity");
        assert_eq!(only(b"a=1; __Host-identity=x; b=2"), Some(&b"x"[..]));
        assert_eq!(only(b"__Host-identity=x; __Host-identity=x"), None);
        assert_eq!(only(b"__Host-identity_pre=x; __host-identity=y; =__Host-identity=z"), None);
        assert_eq!(only(b""), None);
    }

    #[test]
    fn s15_only_space_and_tab_are_not_part_of_a_cookies_name() {
        for (before, counts) in [
            (&b" "[..], true),
            (b"\t", true),
            (b" \t ", true),
            (b"\x0c", false),
            (b"\r", false),
            (b"\n", false),
            (b"\x0b", false),
            (b"\0", false),
            (b"\xa0", false),
            (b"\xc2\xa0", false),
            (b" \x0c", false),
        ] {
            let pair = [before, b"__Host-identity=x"].concat();
            for header in [pair.clone(), [b"a=1;", &*pair, b"; b=2"].concat()] {
                let found = only(&header, b"__Host-identity");
                assert_eq!(found, counts.then_some(&b"x"[..]), "{}", header.escape_ascii());
            }
            let after = [b"__Host-identity=x", before].concat();
            let value = [b"x", before].concat();
            let want = if counts { &b"x"[..] } else { &*value };
            assert_eq!(only(&after, b"__Host-identity"), Some(want), "{}", after.escape_ascii());
        }
        // What a workspace may read as ours is taken out all the same.
        for header in [&b"a=1;\x0c__Host-identity=x"[..], b"a=1; \r__Host-identity=x"] {
            assert_eq!(without_ours(header, None).as_deref(), Some(&b"a=1"[..]));
        }
    }

    #[test]
    fn our_cookies_are_removed_and_others_stay_as_they_are() {
        for (header, want) in [
            (&b"a=1; b=2"[..], None),
            (b"__Host-identity=x", Some(&b""[..])),
            (b"a=1; __Host-identity=x; b=2", Some(b"a=1; b=2")),
            (b"__Host-identity=x; b=\xff\"2\"", Some(b"b=\xff\"2\"")),
            (b"a=1;__host-IDENTITY_pre=x", Some(b"a=1")),
            (b"a=1; =__Host-identity=x;  c=3", Some(b"a=1;  c=3")),
            (b"x__Host-identity=1", None),
            (b"", None),
        ] {
            assert_eq!(without_ours(header, None).as_deref(), want, "{}", header.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn p4_the_rest_of_a_header_has_none_of_our_names_and_is_part_of_it(
            pairs in proptest::collection::vec("(__Host-identity[a-z]{0,3}|__HOST-identity|[a-z]{1,4}| |=|)=[ -:<-~]{0,6}", 0..6)
        ) {
            let header = pairs.join("; ").into_bytes();
            if let Some(rest) = without_ours(&header, None) {
                prop_assert!(without_ours(&rest, None).is_none());
                let kept: Vec<_> = header.split(|b| *b == b';').filter(|p| !is_ours(p)).map(<[u8]>::trim_ascii).collect();
                let left: Vec<_> = rest.split(|b| *b == b';').map(<[u8]>::trim_ascii).filter(|p| !(p.is_empty() && kept.is_empty())).collect();
                prop_assert_eq!(kept, left);
            }
        }
    }
}
