//! Findings about the sockets of HAProxy's runtime API.

use super::Finding;
use crate::haproxy::{AskError, Socket};

/// Whether each socket answers, reaches every process and may terminate streams.
pub(super) async fn examine(sockets: &[Socket]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for socket in sockets {
        findings.push(one(socket).await.unwrap_or_else(|error| {
            Finding::fail(
                format!("{socket}: {error}"),
                "start HAProxy with -S and this socket (or a 'stats socket' of 'level admin'), and let the agent's user write to it",
            )
        }));
    }
    findings
}

/// The finding about one socket.
async fn one(socket: &Socket) -> Result<Finding, AskError> {
    let processes = socket.processes().await?;
    let mut streams = 0;
    for process in &processes {
        streams += process.list().await?.streams.len();
        process.may_terminate().await?;
    }
    let count = processes.len();
    let text = format!("{socket}: {count} process(es), {streams} streams");
    Ok(if processes.iter().any(|process| process.id().is_none()) {
        Finding::warn(
            text,
            "after a reload of HAProxy, tunnels of the old process cannot be reached by this socket: use the socket of the master (haproxy -W -S …)",
        )
    } else {
        Finding::ok(text)
    })
}
