//! The sockets of HAProxy's runtime API, and what the agent does there: list streams, look at them, close them, and end
//! the reuse of allows (management.txt section 9.3).
//!
//! A socket belongs to a process (`stats socket`) or to a master (`haproxy -S`), which reaches all its processes, also
//! those that a reload has replaced. The socket itself is asked which it is. [`super::exchange`] sets the limits, and
//! [`super::runtime`] parses the answers; nothing here knows about tunnels.

use std::{
    fmt, fmt::Write as _, io, iter, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration,
};

use thiserror::Error;

use super::{
    exchange::{self, MAX_ANSWER},
    runtime::{self, Detail, List, Malformed, Pointer},
};

/// The limit for closing streams. If it is missed, the streams are looked at again before the next attempt.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(600);
/// How long a process that missed a time limit gets to answer one request before it is asked another. Each request that
/// is given up occupies one of the master's ten connections until the process goes on.
const RECOVERY_TIMEOUT: Duration = Duration::from_mins(1);
/// The variable that reused allows depend on: a new value ends them.
const EPOCH_VARIABLE: &str = "proc.identity_epoch";
/// The most commands in a line. HAProxy takes lines of up to `tune.bufsize` bytes, by default 16 KiB.
pub(crate) const BATCH: usize = 200;

/// The address of a runtime API.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Socket {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP address.
    Tcp(SocketAddr),
}

/// Why a text is not the address of a runtime API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("expected \"unix:/path/to/socket\" or \"IP:PORT\"")]
pub struct SocketError;

/// Why a request to the runtime API failed.
#[derive(Debug, Error)]
pub enum AskError {
    /// The connection failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The answer was not complete within the limit.
    #[error("no whole answer within {0:?}")]
    Late(Duration),
    /// The answer is longer than the limit.
    #[error("the answer is longer than {} MiB", MAX_ANSWER >> 20)]
    Long,
    /// The answer is not what HAProxy answers.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// A process of HAProxy, and the way to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    socket: Socket,
    /// The process id, if the socket is its master's.
    through_master: Option<u32>,
}

impl Socket {
    /// The processes that this socket reaches.
    ///
    /// # Errors
    /// There is no answer, or it cannot be parsed.
    pub async fn processes(&self) -> Result<Vec<Process>, AskError> {
        let process = |through_master| Process { socket: self.clone(), through_master };
        let answer = exchange::ask(self, "show proc\n").await?;
        Ok(match runtime::processes(&answer)? {
            Some(ids) => ids.into_iter().map(|id| process(Some(id))).collect(),
            None => vec![process(None)],
        })
    }
}

impl Process {
    /// The process id, if it is known without asking.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.through_master
    }

    /// All streams of the process.
    ///
    /// # Errors
    /// The answer is not whole, or cannot be parsed.
    pub async fn list(&self) -> Result<List, AskError> {
        Ok(runtime::list(&self.ask(["show sess"].into_iter()).await?)?)
    }

    /// The version of HAProxy that the process runs.
    ///
    /// # Errors
    /// The answer is not whole, or has no version.
    pub async fn version(&self) -> Result<String, AskError> {
        Ok(runtime::version(&self.ask(iter::empty::<&str>()).await?)?)
    }

    /// The details of some streams. Streams that have ended are left out.
    ///
    /// # Errors
    /// The answer is not whole, or cannot be parsed.
    pub async fn details(&self, streams: &[Pointer]) -> Result<Vec<Detail>, AskError> {
        let mut details = Vec::new();
        // HAProxy rejects a line longer than its buffer as a whole.
        for batch in streams.chunks(BATCH) {
            let commands = batch.iter().map(|stream| format!("show sess {stream}"));
            details.extend(runtime::details(&self.ask(commands).await?)?);
        }
        Ok(details)
    }

    /// Closes streams, and returns for each whether it still existed.
    ///
    /// # Errors
    /// The answer is not whole or cannot be parsed: mostly because the socket's level is not `admin`.
    pub async fn shut(&self, streams: &[Pointer]) -> Result<Vec<bool>, AskError> {
        let mut shut = Vec::new();
        for batch in streams.chunks(BATCH) {
            let commands = batch.iter().map(|stream| format!("shutdown session {stream}"));
            let answer =
                exchange::command(&self.socket, &self.line(commands), CLOSE_TIMEOUT).await?;
            shut.extend(runtime::shut(&answer, batch.len())?);
        }
        Ok(shut)
    }

    /// Sets a new epoch, which ends the reuse of all allows that were given under another one. Without an epoch, only
    /// checks that the process answers.
    ///
    /// # Errors
    /// The answer is not whole, or the process still has another epoch: mostly because the socket's level is not
    /// `admin`.
    pub async fn end_reuse(&self, epoch: Option<&str>) -> Result<(), AskError> {
        let Some(epoch) = epoch else {
            runtime::is_whole(&self.ask(std::iter::empty::<&str>()).await?)?;
            return Ok(());
        };
        // The value is read back: without the level `admin` HAProxy refuses the first command, and answers the rest.
        let set = format!("set var {EPOCH_VARIABLE} str({epoch})");
        let commands = self.line([&*set, &format!("get var {EPOCH_VARIABLE}")].into_iter());
        // The mode applies to the connection; a master passes it on to its processes.
        let commands = format!("experimental-mode on;{commands}");
        let answer = exchange::ask(&self.socket, &commands).await?;
        Ok(runtime::has_value(&answer, EPOCH_VARIABLE, epoch)?)
    }

    /// Waits up to a minute until the process answers again after it missed a time limit.
    ///
    /// # Errors
    /// There is no answer, or it cannot be parsed.
    pub async fn goes_on(&self) -> Result<(), AskError> {
        let commands = self.line(std::iter::empty::<&str>());
        let answer = exchange::command(&self.socket, &commands, RECOVERY_TIMEOUT).await?;
        Ok(runtime::is_whole(&answer)?)
    }

    /// Checks that streams may be closed through this socket, by closing one that cannot exist.
    ///
    /// # Errors
    /// They may not, or the answer is not whole.
    pub async fn may_terminate(&self) -> Result<(), AskError> {
        // No stream has this address, so nothing is closed.
        let answer = self.ask(["shutdown session 0x1"].into_iter()).await?;
        runtime::shut(&answer, 1)?;
        Ok(())
    }

    /// Sends commands and `show info`, whose answer marks the end.
    async fn ask(
        &self,
        commands: impl Iterator<Item = impl fmt::Display>,
    ) -> Result<Vec<u8>, AskError> {
        exchange::ask(&self.socket, &self.line(commands)).await
    }

    fn line(&self, commands: impl Iterator<Item = impl fmt::Display>) -> String {
        let mut line = String::new();
        let mut push = |command: &dyn fmt::Display| {
            // Writing to memory cannot fail. A master needs the process before every command of a line.
            let _ = match self.through_master {
                Some(id) => write!(line, "@!{id} {command};"),
                None => write!(line, "{command};"),
            };
        };
        commands.for_each(|command| push(&command));
        push(&"show info");
        line.pop();
        line.push('\n');
        line
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.through_master {
            Some(id) => write!(f, "{} process {id}", self.socket),
            None => self.socket.fmt(f),
        }
    }
}

impl FromStr for Socket {
    type Err = SocketError;

    fn from_str(text: &str) -> Result<Self, SocketError> {
        match text.strip_prefix("unix:") {
            Some("") => Err(SocketError),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp).map_err(|_| SocketError),
        }
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}
