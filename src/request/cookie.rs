//! What may travel on of a Cookie header: everything but our own cookies, byte for byte.

use std::iter;

use super::trim;

/// Each cookie of ours has a name that starts so.
pub const OUR_PREFIX: &[u8] = b"__Host-identity";

/// The header without our cookies and the one called `token`, if there is such a one; `None` if it has none
/// of them and may travel on as it is.
///
/// Names are compared without regard to case, as some browsers treat the `__Host-` prefix; a cookie
/// without a name whose value looks like one of ours counts as ours.
#[must_use]
pub fn without_ours(header: &[u8], token: Option<&[u8]>) -> Option<Vec<u8>> {
    let is_ours = |pair: &[u8]| is_ours(pair) || token.is_some_and(|name| is_named(pair, name));
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

/// The pairs of a Cookie header, each as `name=value`. Only space and tab around a pair are no part of it (RFC 6265
/// section 5.2): a name after any other byte is another name, to which browsers do not apply the rules of `__Host-`.
/// Whatever reads a cookie reads it from here.
pub fn pairs(header: &[u8]) -> impl Iterator<Item = &[u8]> {
    header.split(|byte| *byte == b';').map(trim)
}

/// The values of the cookies of that name, to the letter.
pub fn values<'h>(header: &'h [u8], name: &[u8]) -> impl Iterator<Item = &'h [u8]> {
    pairs(header).filter_map(move |pair| pair.strip_prefix(name)?.strip_prefix(b"="))
}

/// The value of the cookie of that name, if there is just one; of two, nobody knows which is meant.
#[must_use]
pub fn only<'h>(header: &'h [u8], name: &[u8]) -> Option<&'h [u8]> {
    let mut values = values(header, name);
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

/// The name to the letter. What is taken out may have any white space in front, since a workspace may pass over it.
fn is_named(pair: &[u8], name: &[u8]) -> bool {
    pair.trim_ascii().strip_prefix(name).is_some_and(|rest| rest.starts_with(b"="))
}

fn is_ours(pair: &[u8]) -> bool {
    let pair = pair.trim_ascii_start();
    let name = pair.strip_prefix(b"=").unwrap_or(pair).trim_ascii_start();
    name.split_at_checked(OUR_PREFIX.len())
        .is_some_and(|(start, _)| start.eq_ignore_ascii_case(OUR_PREFIX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn p1_the_cookie_with_a_token_is_taken_out_too() {
        let without = |header| without_ours(header, Some(b"token"));
        assert_eq!(without(b"a=1; token=x; b=2; token=y").as_deref(), Some(&b"a=1; b=2"[..]));
        assert_eq!(without(b"a=1; tokens=x; xtoken=1; Token=2; token"), None);
    }

    #[test]
    fn c5_of_two_cookies_of_one_name_none_counts() {
        let only = |header| only(header, b"__Host-identity");
        assert_eq!(only(b"a=1; __Host-identity=x; b=2"), Some(&b"x"[..]));
        assert_eq!(only(b"__Host-identity=x; __Host-identity=x"), None);
        assert_eq!(only(b"__Host-identity_pre=x; __host-identity=y; =__Host-identity=z"), None);
        assert_eq!(only(b""), None);
    }

    #[test]
    fn s15_only_space_and_tab_are_no_part_of_a_cookies_name() {
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
    fn our_cookies_are_taken_out_and_others_stay_as_they_are() {
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
        fn p4_what_is_left_never_holds_our_name_and_is_part_of_what_came(
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
