//! Carries one line of commands to a runtime API, and its answer back.
//!
//! The end of an answer is found in the answer itself, and the connection stays open in both directions until then. A
//! master (3.1 and later) that has received the end of the client's side can forget to close its own after it refused a
//! command. The client would wait for an end that never comes, and each such connection takes one of the ten that a
//! master has, until it is restarted.

use std::{io, pin::pin, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    select,
    sync::Notify,
    time::timeout,
};

use super::{AskError, Socket, runtime};

/// After this time without a byte, a request is sent once more on a second connection.
const SILENCE_TIMEOUT: Duration = Duration::from_millis(300);
/// The limit for a whole answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest answer, in bytes: about 150,000 streams.
pub(super) const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// Sends commands that change nothing, or nothing more when they are repeated. After [`SILENCE_TIMEOUT`] they are sent again on
/// a second connection, so that one lost or slow answer costs no more than that. The first answer that is whole is
/// taken.
pub(super) async fn ask(socket: &Socket, commands: &str) -> Result<Vec<u8>, AskError> {
    let silent = Notify::new();
    let mut first = pin!(within(ANSWER_TIMEOUT, once(socket, commands, &silent)));
    select! {
        answer = &mut first => return answer,
        () = silent.notified() => {}
    }
    let nothing_more = Notify::new();
    // The first connection stays open: its answer may only be slow.
    let mut second = pin!(within(ANSWER_TIMEOUT, once(socket, commands, &nothing_more)));
    select! {
        Ok(answer) = &mut first => Ok(answer),
        Ok(answer) = &mut second => Ok(answer),
        else => Err(AskError::Late(ANSWER_TIMEOUT)),
    }
}

/// Sends commands once, with a limit of their own. For commands that must not be repeated.
pub(super) async fn command(
    socket: &Socket,
    commands: &str,
    limit: Duration,
) -> Result<Vec<u8>, AskError> {
    within(limit, once(socket, commands, &Notify::new())).await
}

async fn within(
    limit: Duration,
    answer: impl Future<Output = Result<Vec<u8>, AskError>>,
) -> Result<Vec<u8>, AskError> {
    timeout(limit, answer).await.map_err(|_| AskError::Late(limit))?
}

async fn once(socket: &Socket, commands: &str, silent: &Notify) -> Result<Vec<u8>, AskError> {
    match socket {
        Socket::Unix(path) => {
            converse(or_tell(silent, UnixStream::connect(path)).await?, commands, silent).await
        }
        Socket::Tcp(address) => {
            converse(or_tell(silent, TcpStream::connect(address)).await?, commands, silent).await
        }
    }
}

async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    commands: &str,
    silent: &Notify,
) -> Result<Vec<u8>, AskError> {
    or_tell(silent, stream.write_all(commands.as_bytes())).await?;
    let mut answer = Vec::new();
    while or_tell(silent, stream.read_buf(&mut answer)).await? > 0 {
        if answer.len() >= MAX_ANSWER {
            return Err(AskError::Long);
        }
        // A master does not close the connection, so the end must be seen in the answer itself.
        if runtime::is_at_end(&answer) {
            break;
        }
    }
    Ok(answer)
}

/// Waits for I/O, and notifies `silent` when that takes longer than [`SILENCE_TIMEOUT`].
async fn or_tell<T>(
    silent: &Notify,
    waited_for: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    // The operation is pinned, not restarted: bytes that were read must not be lost.
    let mut waited_for = pin!(waited_for);
    if let Ok(result) = timeout(SILENCE_TIMEOUT, &mut waited_for).await {
        return result;
    }
    silent.notify_one();
    waited_for.await
}
