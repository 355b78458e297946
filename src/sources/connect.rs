//! The Connect protocol with JSON over HTTP, which Gitpod and Ona use.
//!
//! It has unary calls and streams of messages. Each message of a stream is in an envelope: one flag
//! byte, a length of four bytes (big-endian), and the message. Specification: connectrpc.com,
//! "Connect Protocol Reference". Compressed envelopes are refused, since the agent does not ask for
//! compression.

use bytes::{Buf as _, BytesMut};
use reqwest::{Response, header::CONTENT_TYPE};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::http::{self, PlatformApi};
use crate::workspaces::source::SourceError;

/// The largest message of a stream in bytes. An event has some hundred.
const MAX_MESSAGE: usize = 4 << 20;
const END: u8 = 0b10;
const COMPRESSED: u8 = 0b01;
const ENVELOPE: usize = 5;

/// Calls a method. `None` means the error code `not_found`.
///
/// # Errors
/// As [`http::fetch_optional`].
pub async fn call<T: DeserializeOwned>(
    api: &PlatformApi,
    method: &str,
    message: &impl Serialize,
) -> Result<Option<T>, SourceError> {
    let request = api.post(method)?.header("Connect-Protocol-Version", "1");
    let request = request.header(CONTENT_TYPE, "application/json").body(json(message)?);
    // A wrong URL also returns 404. Only the code says that the object does not exist.
    http::fetch_unless(request, |body| {
        let error: Option<Failure> = serde_json::from_slice(body).ok();
        error.is_some_and(|error| error.code == "not_found")
    })
    .await
}

/// An error as the platform reports it.
#[derive(Deserialize)]
struct Failure {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// A stream of messages from a platform.
pub struct Stream {
    response: Response,
    input: BytesMut,
}

impl Stream {
    /// Calls a method that returns a stream. Some servers send no headers before the first message,
    /// so this can wait for it.
    ///
    /// # Errors
    /// There is no response, or an error status.
    pub async fn open(
        api: &PlatformApi,
        method: &str,
        message: &impl Serialize,
    ) -> Result<Self, SourceError> {
        let message = json(message)?;
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
        let mut body = vec![0];
        body.extend_from_slice(&length.to_be_bytes());
        body.extend_from_slice(&message);
        let request = api.post(method)?.header("Connect-Protocol-Version", "1");
        let request = request.header(CONTENT_TYPE, "application/connect+json").body(body);
        let response = http::check_status(http::send(request).await?).await?;
        Ok(Self { response, input: BytesMut::new() })
    }

    /// Returns the next message.
    ///
    /// # Errors
    /// The stream has ended, cleanly or not, or a message cannot be parsed.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<T, SourceError> {
        loop {
            if let Some((flags, message)) = split(&mut self.input)? {
                // The last envelope has a status instead of a message.
                if flags & END != 0 {
                    return Err(end(&message));
                }
                return serde_json::from_slice(&message)
                    .map_err(|error| SourceError::Protocol(format!("an event: {error}")));
            }
            match self.response.chunk().await {
                Ok(Some(chunk)) => self.input.extend_from_slice(&chunk),
                Ok(None) => {
                    return Err(SourceError::Unavailable("the stream broke off".into()));
                }
                Err(error) => return Err(http::unavailable(&error)),
            }
        }
    }
}

/// Removes one complete envelope from the input and returns its flags and message.
///
/// # Errors
/// The length is above the limit, or the message is compressed.
pub fn split(input: &mut BytesMut) -> Result<Option<(u8, BytesMut)>, SourceError> {
    let Some((head, _)) = input.split_first_chunk::<ENVELOPE>() else { return Ok(None) };
    let [flags, length @ ..] = *head;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_MESSAGE {
        return Err(SourceError::Protocol(format!("an event of {length} bytes")));
    }
    if flags & COMPRESSED != 0 {
        return Err(SourceError::Protocol("a compressed event, which was not asked for".into()));
    }
    // The rest of the message has not arrived yet.
    if input.len() - ENVELOPE < length {
        return Ok(None);
    }
    input.advance(ENVELOPE);
    Ok(Some((flags, input.split_to(length))))
}

/// The error that the last envelope of a stream reports.
fn end(message: &[u8]) -> SourceError {
    #[derive(Deserialize)]
    struct End {
        error: Option<Failure>,
    }
    let Ok(end) = serde_json::from_slice::<End>(message) else {
        return SourceError::Protocol("an end of the stream that is not JSON".into());
    };
    let Some(Failure { code, message }) = end.error else {
        return SourceError::Unavailable("the platform ended the stream".into());
    };
    let text: String = message.chars().take(200).flat_map(char::escape_debug).collect();
    match code.as_str() {
        "unauthenticated" => SourceError::Unauthorized(text),
        "permission_denied" => SourceError::Forbidden(text),
        "resource_exhausted" => SourceError::RateLimited(std::time::Duration::from_secs(1)),
        _ => SourceError::Unavailable(format!("the platform ended the stream: {text}")),
    }
}

fn json(message: &impl Serialize) -> Result<Vec<u8>, SourceError> {
    serde_json::to_vec(message).map_err(|error| SourceError::Protocol(error.to_string()))
}

/// Reads a number. JSON of Protocol Buffers has 64-bit numbers as text, and leaves out zero.
pub(super) fn number(value: Option<&Value>) -> Option<u64> {
    match value? {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.as_u64(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(flags: u8, message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[flags][..], &length, message].concat()
    }

    #[test]
    fn envelopes_come_out_whole_however_they_arrive() {
        let bytes = [envelope(0, b"{}"), envelope(0, b"{\"a\":1}"), envelope(2, b"{}")].concat();
        for step in 1..bytes.len() {
            let mut input = BytesMut::new();
            let mut found = Vec::new();
            for piece in bytes.chunks(step) {
                input.extend_from_slice(piece);
                while let Some((flags, message)) = split(&mut input).unwrap() {
                    found.push((flags, message.to_vec()));
                }
            }
            let want = [(0, b"{}".to_vec()), (0, b"{\"a\":1}".to_vec()), (2, b"{}".to_vec())];
            assert_eq!(found, want, "{step}");
        }
    }

    #[test]
    fn an_envelope_that_claims_too_much_is_refused_before_it_is_read() {
        let mut input = BytesMut::from(&[0, 0xff, 0xff, 0xff, 0xff][..]);
        assert!(split(&mut input).is_err());
        let mut input = BytesMut::from(&envelope(1, b"gz")[..]);
        assert!(split(&mut input).is_err());
    }

    #[test]
    fn an_end_tells_why() {
        let told = |text: &str| end(text.as_bytes());
        assert!(matches!(told("{}"), SourceError::Unavailable(_)));
        let refused = r#"{"error":{"code":"unauthenticated","message":"no"}}"#;
        assert_eq!(told(refused), SourceError::Unauthorized("no".into()));
        let error = r#"{"error":{"code":"unavailable","message":"bye\n"}}"#;
        assert!(told(error).to_string().ends_with("bye\\n"));
        assert!(matches!(told("nonsense"), SourceError::Protocol(_)));
    }
}
