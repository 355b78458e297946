//! Which credential of a request counts.

/// The credential a request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential<'a> {
    /// None, or one of a scheme that is not ours and belongs to the workspace (Basic, Digest …).
    Absent,
    /// A bearer token (RFC 6750 section 2.1).
    Bearer(&'a [u8]),
}

impl<'a> Credential<'a> {
    /// Reads the value of the one Authorization header. The scheme's case does not matter
    /// (RFC 9110 section 11.1).
    #[must_use]
    pub fn from_authorization(value: &'a [u8]) -> Self {
        match value.split_at_checked(BEARER.len()) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case(BEARER) => match rest.first() {
                None | Some(b' ' | b'\t') => Self::Bearer(rest.trim_ascii()),
                Some(_) => Self::Absent,
            },
            _ => Self::Absent,
        }
    }
}

const BEARER: &[u8] = b"Bearer";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bearer_token_is_a_credential() {
        for (value, want) in [
            (&b"Bearer abc"[..], Credential::Bearer(b"abc")),
            (b"bEARER   abc ", Credential::Bearer(b"abc")),
            (b"Bearer", Credential::Bearer(b"")),
            (b"Bearer ", Credential::Bearer(b"")),
            (b"Bearerabc", Credential::Absent),
            (b"Basic YTpi", Credential::Absent),
            (b"abc", Credential::Absent),
            (b"", Credential::Absent),
            (b"Bearer \xff", Credential::Bearer(b"\xff")),
        ] {
            assert_eq!(Credential::from_authorization(value), want, "{}", value.escape_ascii());
        }
    }
}
