//! HELLO frames and what they agree on (SPOE.txt sections 3.2.4 and 3.2.5).

use super::{
    FrameError, Value,
    frame::{self, FrameType, MIN_SIZE},
    value::{key_values, write_key_value},
};

/// The version of the protocol.
pub const VERSION: &str = "2.0";
const PIPELINING: &[u8] = b"pipelining";

/// The offer of HAProxy, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HaproxyHello<'b> {
    /// The largest frame that HAProxy accepts, without the length, in bytes; at least [`MIN_SIZE`].
    pub max_frame_size: u32,
    /// Whether responses may come in any order.
    pub pipelining: bool,
    /// Whether this is `option spop-check`: respond and close.
    pub healthcheck: bool,
    /// A text that identifies the engine of HAProxy.
    pub engine_id: Option<&'b [u8]>,
}

/// What both ends agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The largest frame that either end sends, without the length, in bytes.
    pub max_frame_size: u32,
    /// Whether responses may come in any order.
    pub pipelining: bool,
}

impl<'b> HaproxyHello<'b> {
    /// Reads the payload of a HAPROXY-HELLO.
    ///
    /// # Errors
    /// An item is missing or has the wrong type, version 2 is not offered, or the max-frame-size is
    /// too small.
    pub fn parse(payload: &'b [u8]) -> Result<Self, FrameError> {
        let (mut versions, mut size, mut capabilities) = (None, None, None);
        let (mut healthcheck, mut engine_id) = (false, None);
        for item in key_values(payload) {
            match item? {
                (b"supported-versions", Value::Str(text)) => versions = Some(text),
                (b"max-frame-size", Value::Uint32(bytes)) => size = Some(bytes),
                (b"capabilities", Value::Str(text)) => capabilities = Some(text),
                (b"healthcheck", Value::Bool(check)) => healthcheck = check,
                (b"engine-id", Value::Str(text)) => engine_id = Some(text),
                (
                    b"supported-versions"
                    | b"max-frame-size"
                    | b"capabilities"
                    | b"healthcheck"
                    | b"engine-id",
                    _,
                ) => return Err(FrameError::Type),
                _ => {}
            }
        }
        let versions = versions.ok_or(FrameError::NoVersion)?;
        let max_frame_size = size.ok_or(FrameError::NoMaxFrameSize)?;
        let capabilities = capabilities.ok_or(FrameError::NoCapabilities)?;
        // HAProxy lists every version that it speaks: one that is known is enough.
        if !items(versions).any(is_version_2) {
            return Err(FrameError::UnsupportedVersion);
        }
        if max_frame_size < MIN_SIZE {
            return Err(FrameError::BadMaxFrameSize);
        }
        let pipelining = items(capabilities).any(|item| item == PIPELINING);
        Ok(Self { max_frame_size, pipelining, healthcheck, engine_id })
    }

    /// What both ends can do. `ours` is the largest frame that the agent accepts.
    #[must_use]
    pub fn agree(&self, ours: u32) -> Agreed {
        Agreed { max_frame_size: self.max_frame_size.min(ours), pipelining: self.pipelining }
    }
}

impl Agreed {
    /// Appends the AGENT-HELLO with this agreement.
    pub fn write(self, out: &mut Vec<u8>) {
        // The agent agrees to what HAProxy offered, and offers nothing by itself.
        let capabilities = if self.pipelining { PIPELINING } else { b"" };
        // About 80 bytes, which fit the smallest frame of the protocol.
        let _ = frame::write(out, FrameType::AgentHello, (0, 0), MIN_SIZE, |out| {
            write_key_value(out, b"version", Value::Str(VERSION.as_bytes()));
            write_key_value(out, b"max-frame-size", Value::Uint32(self.max_frame_size));
            write_key_value(out, b"capabilities", Value::Str(capabilities));
        });
    }

    /// Reads the payload of an AGENT-HELLO, as HAProxy would.
    ///
    /// # Errors
    /// An item is missing or has the wrong type, the version is another one, or the max-frame-size
    /// is too small.
    pub fn parse(payload: &[u8]) -> Result<Self, FrameError> {
        let (mut version, mut size, mut capabilities) = (None, None, None);
        for item in key_values(payload) {
            match item? {
                (b"version", Value::Str(text)) => version = Some(text),
                (b"max-frame-size", Value::Uint32(bytes)) => size = Some(bytes),
                (b"capabilities", Value::Str(text)) => capabilities = Some(text),
                (b"version" | b"max-frame-size" | b"capabilities", _) => {
                    return Err(FrameError::Type);
                }
                _ => {}
            }
        }
        if !is_version_2(version.ok_or(FrameError::NoVersion)?) {
            return Err(FrameError::UnsupportedVersion);
        }
        let max_frame_size = size.ok_or(FrameError::NoMaxFrameSize)?;
        let capabilities = capabilities.ok_or(FrameError::NoCapabilities)?;
        if max_frame_size < MIN_SIZE {
            return Err(FrameError::BadMaxFrameSize);
        }
        Ok(Self { max_frame_size, pipelining: items(capabilities).any(|item| item == PIPELINING) })
    }
}

/// The items of a comma-separated list, without the spaces around them.
fn items(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|&byte| byte == b',').map(<[u8]>::trim_ascii)
}

/// Whether a text is "Major.Minor" with major version 2. What is not a version is ignored: a later
/// HAProxy may list more.
fn is_version_2(version: &[u8]) -> bool {
    let mut parts = version.split(|&byte| byte == b'.');
    let digits = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    parts.next() == Some(b"2") && parts.next().is_none_or(digits) && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSIONS: (&[u8], Value<'_>) = (b"supported-versions", Value::Str(b"2.0"));
    const SIZE: (&[u8], Value<'_>) = (b"max-frame-size", Value::Uint32(16_380));
    const CAPABILITIES: (&[u8], Value<'_>) = (b"capabilities", Value::Str(b"pipelining,async"));

    fn parse(items: &[(&[u8], Value<'_>)]) -> Result<HaproxyHello<'static>, FrameError> {
        let mut payload = Vec::new();
        for (name, value) in items {
            write_key_value(&mut payload, name, *value);
        }
        HaproxyHello::parse(payload.leak())
    }

    #[test]
    fn a_hello_is_read() {
        let hello = parse(&[
            VERSIONS,
            SIZE,
            CAPABILITIES,
            (b"engine-id", Value::Str(b"x")),
            (b"new", Value::Null),
        ]);
        let want = HaproxyHello {
            max_frame_size: 16_380,
            pipelining: true,
            healthcheck: false,
            engine_id: Some(b"x"),
        };
        assert_eq!(hello, Ok(want));
        assert_eq!(want.agree(1000), Agreed { max_frame_size: 1000, pipelining: true });
        assert_eq!(want.agree(99_999).max_frame_size, 16_380);
    }

    #[test]
    fn each_missing_item_has_its_own_error() {
        assert_eq!(parse(&[SIZE, CAPABILITIES]), Err(FrameError::NoVersion));
        assert_eq!(parse(&[VERSIONS, CAPABILITIES]), Err(FrameError::NoMaxFrameSize));
        assert_eq!(parse(&[VERSIONS, SIZE]), Err(FrameError::NoCapabilities));
    }

    #[test]
    fn items_of_the_wrong_type_are_refused() {
        for wrong in [
            (&b"max-frame-size"[..], Value::Int32(16_380)),
            (b"healthcheck", Value::Str(b"true")),
            (b"capabilities", Value::Null),
            (b"supported-versions", Value::Uint32(2)),
        ] {
            assert_eq!(parse(&[VERSIONS, SIZE, CAPABILITIES, wrong]), Err(FrameError::Type));
        }
    }

    #[test]
    fn versions_are_read_leniently() {
        for (text, good) in [
            ("2.0", true),
            ("2", true),
            (" 1.0 , 2.3 ", true),
            ("3.0, 2.x, 2.0", true),
            ("1.5", false),
            ("20.0", false),
            ("02.0", false),
            ("2.x", false),
            ("2.", false),
            ("2.0.0", false),
            ("", false),
        ] {
            let hello =
                parse(&[(b"supported-versions", Value::Str(text.as_bytes())), SIZE, CAPABILITIES]);
            assert_eq!(hello.is_ok(), good, "{text}");
        }
    }

    #[test]
    fn a_small_max_frame_size_is_refused() {
        let with =
            |size| parse(&[VERSIONS, (b"max-frame-size", Value::Uint32(size)), CAPABILITIES]);
        assert_eq!(with(255), Err(FrameError::BadMaxFrameSize));
        assert!(with(256).is_ok());
        assert!(with(u32::MAX).is_ok());
    }

    #[test]
    fn an_agent_hello_survives_a_round_trip() {
        for pipelining in [true, false] {
            let agreed = Agreed { max_frame_size: u32::MAX, pipelining };
            let mut out = Vec::new();
            agreed.write(&mut out);
            let (frame, _) = frame::split(&out, MIN_SIZE).unwrap().unwrap();
            assert_eq!(frame.kind, Some(FrameType::AgentHello));
            assert_eq!(Agreed::parse(frame.payload), Ok(agreed));
        }
    }
}
