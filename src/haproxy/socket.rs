//! HAProxy's runtime API: which streams it has, and ending one (management.txt section 9.3).
//!
//! A socket is a process's own (`stats socket`) or its master's (`haproxy -S`), through which every
//! process of it is reached, old ones after a reload too; which it is, it is asked. Every question has a
//! time limit and every answer a size limit ([`super::exchange`]). [`super::runtime`] reads the answers; nothing
//! here knows tunnels.

use std::{fmt, fmt::Write as _, io, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use thiserror::Error;

use super::{
    exchange::{self, MAX_ANSWER},
    runtime::{self, Detail, List, Malformed, Pointer},
};

/// The limit for the end of streams. When it is missed, the streams are looked at again before the next attempt.
const SHUT_WITHIN: Duration = Duration::from_millis(600);
/// A process that missed its time limit is given this long to answer one question before it is asked another: each
/// question that is given up takes one of its master's ten connections until the process goes on.
const STANDSTILL: Duration = Duration::from_mins(1);
/// The variable that what is kept for reuse depends on.
const EPOCH: &str = "proc.identity_epoch";
/// Commands at once. HAProxy takes a line of `tune.bufsize` bytes at most, 16 KiB unless configured.
pub(crate) const BATCH: usize = 200;

/// Where a runtime API is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Socket {
    /// A unix socket.
    Unix(PathBuf),
    /// TCP.
    Tcp(SocketAddr),
}

/// Why a text is no such place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("expected \"unix:/path/to/socket\" or \"IP:PORT\"")]
pub struct SocketError;

/// Why there is no answer that counts.
#[derive(Debug, Error)]
pub enum AskError {
    /// Nobody listens, or the connection broke.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// No whole answer in time.
    #[error("no whole answer within {0:?}")]
    Late(Duration),
    /// More than is read.
    #[error("the answer is longer than {} MiB", MAX_ANSWER >> 20)]
    Long,
    /// Not what HAProxy answers.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// One process, and the way to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    socket: Socket,
    /// Its id, where the socket is its master's.
    through_master: Option<u32>,
}

impl Socket {
    /// The processes that are reached here.
    ///
    /// # Errors
    /// No answer, or none that can be read.
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
    /// Its id, where that is known without asking.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.through_master
    }

    /// All its streams.
    ///
    /// # Errors
    /// No whole answer, or one that cannot be read.
    pub async fn list(&self) -> Result<List, AskError> {
        Ok(runtime::list(&self.ask(["show sess"].into_iter()).await?)?)
    }

    /// More of some streams. Those that are gone are left out.
    ///
    /// # Errors
    /// No whole answer, or one that cannot be read.
    pub async fn details(&self, streams: &[Pointer]) -> Result<Vec<Detail>, AskError> {
        let mut details = Vec::new();
        for batch in streams.chunks(BATCH) {
            let commands = batch.iter().map(|stream| format!("show sess {stream}"));
            details.extend(runtime::details(&self.ask(commands).await?)?);
        }
        Ok(details)
    }

    /// Ends streams. Says of each whether it was there.
    ///
    /// # Errors
    /// No whole answer, or one that cannot be read: the socket's level is not `admin`.
    pub async fn shut(&self, streams: &[Pointer]) -> Result<Vec<bool>, AskError> {
        let mut shut = Vec::new();
        for batch in streams.chunks(BATCH) {
            let commands = batch.iter().map(|stream| format!("shutdown session {stream}"));
            let answer = exchange::command(&self.socket, &self.line(commands), SHUT_WITHIN).await?;
            shut.extend(runtime::shut(&answer, batch.len())?);
        }
        Ok(shut)
    }

    /// Ends all that is kept for reuse: it was kept under another epoch. Without one, only makes sure that the
    /// process answers.
    ///
    /// # Errors
    /// No whole answer, or the process has another epoch afterwards: the socket's level is not `admin`.
    pub async fn end_reuse(&self, epoch: Option<&str>) -> Result<(), AskError> {
        let Some(epoch) = epoch else {
            runtime::is_whole(&self.ask(std::iter::empty::<&str>()).await?)?;
            return Ok(());
        };
        let set = format!("set var {EPOCH} str({epoch})");
        let commands = self.line([&*set, &format!("get var {EPOCH}")].into_iter());
        // The mode is the connection's; a master passes it on to its processes.
        let commands = format!("experimental-mode on;{commands}");
        let answer = exchange::ask(&self.socket, &commands).await?;
        Ok(runtime::has_value(&answer, EPOCH, epoch)?)
    }

    /// Waits, up to a minute, until the process answers again after it missed a time limit.
    ///
    /// # Errors
    /// No answer, or one that cannot be read.
    pub async fn goes_on(&self) -> Result<(), AskError> {
        let commands = self.line(std::iter::empty::<&str>());
        let answer = exchange::command(&self.socket, &commands, STANDSTILL).await?;
        Ok(runtime::is_whole(&answer)?)
    }

    /// Whether streams may be ended here: asks for the end of one that cannot be.
    ///
    /// # Errors
    /// They may not, or there is no whole answer.
    pub async fn may_terminate(&self) -> Result<(), AskError> {
        let answer = self.ask(["shutdown session 0x1"].into_iter()).await?;
        runtime::shut(&answer, 1)?;
        Ok(())
    }

    /// Asks, and at the end which process answers: without that an answer is not whole.
    async fn ask(
        &self,
        commands: impl Iterator<Item = impl fmt::Display>,
    ) -> Result<Vec<u8>, AskError> {
        exchange::ask(&self.socket, &self.line(commands)).await
    }

    fn line(&self, commands: impl Iterator<Item = impl fmt::Display>) -> String {
        let mut line = String::new();
        let mut push = |command: &dyn fmt::Display| {
            // Into memory: it cannot fail. A master takes one command of a line for each process named.
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
