//! The Connect protocol with JSON over HTTP, as Gitpod and Ona speak it: unary calls, and streams of
//! messages in envelopes of one flag byte, a length of four bytes (big-endian), and the message.
//!
//! Specification: connectrpc.com, "Connect Protocol Reference".

use bytes::{Buf as _, BytesMut};
use reqwest::{Response, header::CONTENT_TYPE};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::http::{self, Api};
use crate::workspaces::source::SourceError;

/// The largest message of a stream, in bytes; a hint has some hundred.
const MAX_MESSAGE: usize = 4 << 20;
const END: u8 = 0b10;
const COMPRESSED: u8 = 0b01;
const ENVELOPE: usize = 5;

/// Calls a method. `None` stands for the code `not_found`.
///
/// # Errors
/// As [`http::ask`].
pub async fn call<T: DeserializeOwned>(
    api: &Api,
    method: &str,
    message: &impl Serialize,
) -> Result<Option<T>, SourceError> {
    let request = api.post(method)?.header("Connect-Protocol-Version", "1");
    let request = request.header(CONTENT_TYPE, "application/json").body(json(message)?);
    // A wrong address is "404" too; only the code says that the thing is gone.
    http::ask_unless(request, |body| {
        let error: Option<Failure> = serde_json::from_slice(body).ok();
        error.is_some_and(|error| error.code == "not_found")
    })
    .await
}

/// What went wrong, as the platform says it.
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
    /// Calls a method that answers with a stream. Some servers send nothing before the first message,
    /// so this may take as long.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub async fn open(
        api: &Api,
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
        let response = http::accept(http::send(request).await?).await?;
        Ok(Self { response, input: BytesMut::new() })
    }

    /// The next message.
    ///
    /// # Errors
    /// The stream has ended, in good order or not, or cannot be read.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<T, SourceError> {
        loop {
            if let Some((flags, message)) = split(&mut self.input)? {
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

/// Takes one whole envelope off the input: its flags and its message.
///
/// # Errors
/// It claims to be larger than any event, or is compressed.
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
    if input.len() - ENVELOPE < length {
        return Ok(None);
    }
    input.advance(ENVELOPE);
    Ok(Some((flags, input.split_to(length))))
}

/// What the last envelope says.
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

/// A number that JSON carries as text, since it may have 64 bits; absent when zero.
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
