//! A host name, parsed from the bytes of a Host header or of a TLS server name.
//!
//! A [`Host`] that exists is a lower-case DNS name. It has no port, no trailing dot and no bytes
//! that could mean something else to HAProxy or to a workspace, so it can be compared and written
//! to logs as it is. Which host names belong to workspaces is decided by [`super::pattern`].

use std::{fmt, str::FromStr};

use arrayvec::ArrayString;
use thiserror::Error;

/// The longest host name in bytes, without a trailing dot (RFC 1035 section 2.3.4).
pub const MAX_HOST: usize = 253;
const MAX_LABEL: usize = 63;

/// A lower-case DNS name without port and without trailing dot.
///
/// It is stored inline, so parsing one does not allocate.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Host(ArrayString<MAX_HOST>);

/// The reason why bytes are not a host name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HostError {
    /// There are no bytes before the port.
    #[error("the host is empty")]
    Empty,
    /// The name is longer than [`MAX_HOST`] bytes.
    #[error("the host is longer than {MAX_HOST} bytes")]
    TooLong,
    /// A label is empty, longer than 63 bytes, or starts or ends with a hyphen. A trailing dot is
    /// an empty label.
    #[error("a label of the host is empty, too long, or starts or ends with a hyphen")]
    Label,
    /// There is a byte other than a letter, digit, hyphen or dot: an address literal, user
    /// information, UTF-8.
    #[error("the host has a byte other than a letter, digit, hyphen or dot")]
    Byte,
    /// The text after the colon is not a port number.
    #[error("the port behind the host is not a number from 1 to 65535")]
    Port,
}

impl Host {
    /// Parses a Host header value (RFC 9112 section 3.2). The port is checked and removed, and
    /// letters become lower case.
    ///
    /// # Errors
    /// Anything else than a DNS name: a trailing dot, an address literal, user
    /// information, a stray byte.
    pub fn parse(raw: &[u8]) -> Result<Self, HostError> {
        let name = match raw.iter().position(|&b| b == b':') {
            None => raw,
            Some(colon) => {
                let (name, port) = raw.split_at(colon);
                check_port(port.get(1..).unwrap_or_default())?;
                name
            }
        };
        if name.is_empty() {
            return Err(HostError::Empty);
        }
        let mut host = ArrayString::new();
        let mut label = 0_usize;
        // One pass checks the bytes, counts the label's length and copies in lower case.
        let mut last = b'.';
        for &byte in name {
            match byte {
                b'.' if label == 0 || last == b'-' => return Err(HostError::Label),
                b'.' => label = 0,
                b'-' if label == 0 => return Err(HostError::Label),
                b'-' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => label += 1,
                _ => return Err(HostError::Byte),
            }
            if label > MAX_LABEL {
                return Err(HostError::Label);
            }
            last = byte;
            host.try_push(char::from(byte.to_ascii_lowercase())).map_err(|_| HostError::TooLong)?;
        }
        if label == 0 || last == b'-' {
            return Err(HostError::Label);
        }
        Ok(Self(host))
    }

    /// The name in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        Self::parse(text.as_bytes())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Host({})", self.0)
    }
}

fn check_port(digits: &[u8]) -> Result<(), HostError> {
    let mut port = 0_u32;
    // A longer text could overflow the number.
    if digits.is_empty() || digits.len() > 5 {
        return Err(HostError::Port);
    }
    for digit in digits {
        if !digit.is_ascii_digit() {
            return Err(HostError::Port);
        }
        port = port * 10 + u32::from(digit - b'0');
    }
    if (1..=u32::from(u16::MAX)).contains(&port) { Ok(()) } else { Err(HostError::Port) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn f4_a_host_is_lowered_and_loses_its_port() {
        assert_eq!(
            Host::parse(b"3000-Abc.WS.Example.com:443").unwrap().as_str(),
            "3000-abc.ws.example.com"
        );
    }

    #[test]
    fn f4_a_host_that_is_not_a_plain_dns_name_is_refused() {
        for (raw, want) in [
            (&b""[..], HostError::Empty),
            (b":443", HostError::Empty),
            (b"a.example.com.", HostError::Label),
            (b".example.com", HostError::Label),
            (b"a..example.com", HostError::Label),
            (b"-a.example.com", HostError::Label),
            (b"a-.example.com", HostError::Label),
            (b"a.example.com-", HostError::Label),
            (b"user@a.example.com", HostError::Byte),
            (b"[::1]", HostError::Port),
            (b"[", HostError::Byte),
            (b"a.example.com:", HostError::Port),
            (b"a.example.com:0", HostError::Port),
            (b"a.example.com:65536", HostError::Port),
            (b"a.example.com:443:443", HostError::Port),
            (b"a.example.com:+80", HostError::Port),
            (b"a\xff.example.com", HostError::Byte),
            (b"a\0.example.com", HostError::Byte),
            (b"a.example.com ", HostError::Byte),
            (b"a.example.com,b.example.com", HostError::Byte),
            ("ｅxample.com".as_bytes(), HostError::Byte),
        ] {
            assert_eq!(Host::parse(raw), Err(want), "{}", raw.escape_ascii());
        }
        assert_eq!(Host::parse(&[b'a'; 64]), Err(HostError::Label));
        assert_eq!(Host::parse("a.".repeat(127).as_bytes()), Err(HostError::TooLong));
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_clean_host_or_an_error(raw in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(host) = Host::parse(&raw) {
                prop_assert!(host.as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.'));
                prop_assert_eq!(Host::parse(host.as_str().as_bytes()).unwrap(), host);
            }
        }
    }
}
