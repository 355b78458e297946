//! The errors of frames, and the status code of each for the peer.

use nom::IResult;
use nom::error::{ErrorKind, ParseError};
use thiserror::Error;

/// The status codes of DISCONNECT frames (SPOE.txt section 3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Status {
    /// No error.
    Normal = 0,
    /// An I/O error.
    Io = 1,
    /// A timeout.
    Timeout = 2,
    /// A frame is too big.
    TooBig = 3,
    /// An invalid frame.
    Invalid = 4,
    /// The HELLO has no version.
    NoVersion = 5,
    /// The HELLO has no max-frame-size.
    NoMaxFrameSize = 6,
    /// The HELLO has no capabilities.
    NoCapabilities = 7,
    /// No common version.
    UnsupportedVersion = 8,
    /// The max-frame-size is too big or too small.
    BadMaxFrameSize = 9,
    /// Fragmented payloads are not supported.
    NoFragmentation = 10,
    /// Interlaced frames.
    Interlaced = 11,
    /// No frame has that id.
    NoFrameId = 12,
    /// Out of resources.
    Resources = 13,
    /// Any other error.
    Unknown = 99,
}

/// An error in a frame of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The length is larger than both ends agreed on.
    #[error("the frame is longer than the negotiated max-frame-size")]
    TooBig,
    /// The frame, or an item in it, ends too early.
    #[error("the frame ends in the middle of a value")]
    Truncated,
    /// There are bytes after the end.
    #[error("the frame has bytes behind its last value")]
    Trailing,
    /// An integer has more than 64 bits, or does not fit its type.
    #[error("an integer does not fit its type")]
    Integer,
    /// The protocol does not define this data type.
    #[error("a value has an unknown data type")]
    Type,
    /// A frame of this type must not come now.
    #[error("a frame of this type is not expected here")]
    Unexpected,
    /// The frame id of a NOTIFY is zero, or the id of another frame is not.
    #[error("the stream id or the frame id is not as the frame type demands")]
    Ids,
    /// The payload is fragmented.
    #[error("the frame is a fragment, and fragmentation was not negotiated")]
    Fragment,
    /// The HELLO has no `supported-versions`.
    #[error("the HELLO has no supported-versions")]
    NoVersion,
    /// The HELLO has no `max-frame-size`.
    #[error("the HELLO has no max-frame-size")]
    NoMaxFrameSize,
    /// The HELLO has no `capabilities`.
    #[error("the HELLO has no capabilities")]
    NoCapabilities,
    /// Both ends have no version in common.
    #[error("the HELLO offers no version 2")]
    UnsupportedVersion,
    /// The max-frame-size is below the minimum of the protocol.
    #[error("the max-frame-size is below 256")]
    BadMaxFrameSize,
    /// The DISCONNECT has no `status-code` or no `message`.
    #[error("the DISCONNECT has no status-code or no message")]
    NoStatus,
    /// The protocol does not define this action.
    #[error("an action is of an unknown type or has the wrong number of arguments")]
    Action,
}

impl FrameError {
    /// The status code for the peer.
    #[must_use]
    pub const fn status(self) -> Status {
        match self {
            Self::TooBig => Status::TooBig,
            Self::Truncated
            | Self::Trailing
            | Self::Integer
            | Self::Type
            | Self::Unexpected
            | Self::Ids
            | Self::NoStatus
            | Self::Action => Status::Invalid,
            Self::Fragment => Status::NoFragmentation,
            Self::NoVersion => Status::NoVersion,
            Self::NoMaxFrameSize => Status::NoMaxFrameSize,
            Self::NoCapabilities => Status::NoCapabilities,
            Self::UnsupportedVersion => Status::UnsupportedVersion,
            Self::BadMaxFrameSize => Status::BadMaxFrameSize,
        }
    }
}

// nom's own parsers have only one error here: there are too few bytes.
impl ParseError<&[u8]> for FrameError {
    fn from_error_kind(_: &[u8], _: ErrorKind) -> Self {
        Self::Truncated
    }

    fn append(_: &[u8], _: ErrorKind, other: Self) -> Self {
        other
    }
}

/// The result of a parser: the remaining input and a value. Input is always complete, because a
/// frame is split off before it is parsed. So a short body is an error, and never a reason to wait.
pub(super) type Parsed<'b, T> = IResult<&'b [u8], T, FrameError>;

/// The error of a parser.
pub(super) fn fail<T>(error: FrameError) -> Parsed<'static, T> {
    Err(nom::Err::Error(error))
}
