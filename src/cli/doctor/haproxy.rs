//! Findings about the sockets of HAProxy's runtime API.

use std::collections::BTreeSet;

use super::Finding;
use crate::{
    haproxy::{AskError, Socket},
    haproxy_config::known_bugs::Release,
};

/// Whether each socket answers, reaches every process and may terminate streams.
pub(super) async fn examine(sockets: &[Socket]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut releases = BTreeSet::new();
    for socket in sockets {
        findings.push(one(socket, &mut releases).await.unwrap_or_else(|error| {
            Finding::fail(
                format!("{socket}: {error}"),
                "start HAProxy with -S and this socket (or a 'stats socket' of 'level admin'), and let the agent's user write to it",
            )
        }));
    }
    findings.extend(releases.into_iter().flat_map(known_bugs));
    findings
}

/// The findings about a release.
fn known_bugs(release: Release) -> impl Iterator<Item = Finding> {
    release.known_bugs().map(move |bug| {
        let advice = format!(
            "use another release, or add '{}' to the section 'global' of its configuration",
            bug.workaround
        );
        Finding::warn(format!("HAProxy {release} has a known bug: {bug}"), advice)
    })
}

/// The finding about one socket. The releases of its processes are added to `releases`.
async fn one(socket: &Socket, releases: &mut BTreeSet<Release>) -> Result<Finding, AskError> {
    let processes = socket.processes().await?;
    let mut streams = 0;
    for process in &processes {
        streams += process.list().await?.streams.len();
        process.may_terminate().await?;
        // A development version is not a release.
        releases.extend(process.version().await?.parse::<Release>());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q9_a_release_with_a_known_bug_is_a_warning_that_says_what_to_do() {
        let found: Vec<_> = known_bugs("3.2.18".parse().unwrap()).collect();
        assert_eq!(found.len(), 1);
        assert!(found[0].text.contains("3.2.18") && found[0].text.contains("issues/3355"));
        assert!(found[0].advice.as_ref().unwrap().contains("h2-workaround"));
        assert_eq!(known_bugs("3.2.19".parse().unwrap()).count(), 0);
    }
}
