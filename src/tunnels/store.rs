//! The file of tunnels, by which a restarted agent knows the tunnels of the one before it.
//!
//! It is written as a whole whenever tunnels were added or removed, twice a second at most, and
//! never by the thread of a request. What was opened since is in the [`Journal`], so that an agent
//! that is killed loses no tunnel either.
//!
//! Plain requests that were allowed in the last seconds are in a second file, which an agent writes
//! as it ends. An agent that is killed does not hand them over.
//!
//! Nothing in these files gives access: a tunnel that is read is revalidated at once, and
//! terminated if its issuer is not configured or its session is unknown.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io::{self, Write as _},
    net::{IpAddr, SocketAddr},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{
    TerminationCause, Tunnel, TunnelCredential, TunnelKind, TunnelLocation, Tunnels,
    journal::Journal, recent::RecentRequests,
};
use crate::{
    authz::{decision::Route, reason::Reason},
    gate::Gate,
    identity::{Authority, TokenError, stored::StoredIdentity},
    sessions::Session,
    time::{MonotonicTime, Timestamp},
    workspaces::{EndpointName, NamedServer, host::Host},
};

/// Time between two checks for a change that must be written.
const WRITE_INTERVAL: Duration = Duration::from_millis(500);
/// The ending of the file of recent requests, and the most that it has: the newest, about 9,000 a
/// second. Reading more would take longer than the requests are of interest.
const RECENT_ENDING: &str = ".recent";
const MAX_RECENT: usize = 32_768;

#[derive(Serialize, Deserialize)]
struct StoredTunnel {
    id: String,
    kind: String,
    credential: String,
    identity: Option<StoredIdentity>,
    workspace: Option<String>,
    owner: Option<String>,
    endpoint: Option<String>,
    reason: String,
    host: String,
    #[serde(default)]
    method: Option<Vec<u8>>,
    path: Option<Vec<u8>>,
    route: Option<StoredRoute>,
    client: Option<IpAddr>,
    since_ms: u64,
    frontend: Vec<u8>,
    stream: Option<u32>,
    started: Option<u64>,
    process: Option<u32>,
    source: Option<SocketAddr>,
}

/// A plain request that was allowed in the last seconds.
#[derive(Serialize, Deserialize)]
struct StoredRequest {
    memory: RecentList,
    asked_ms: Option<u64>,
    request: StoredTunnel,
}

/// The list of recent requests that it belongs to.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RecentList {
    Allowed,
    Reusable,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredRoute {
    Backend(String),
    Direct(SocketAddr),
    Named { at: SocketAddr, url: String, renames: bool },
}

/// Adds the tunnels of the file and of the journal to the table. A tunnel of the journal may have
/// ended since: the first scan removes it.
///
/// # Errors
/// A file exists and cannot be read.
pub fn load(tunnels: &Tunnels, gate: &Gate, path: &Path) -> io::Result<usize> {
    let mut stored: Vec<StoredTunnel> = match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => vec![],
        Err(error) => return Err(error),
    };
    for line in Journal::of_file(path).read()? {
        match serde_json::from_slice(&line) {
            Ok(tunnel) => stored.push(tunnel),
            // One damaged line must not cost the other tunnels.
            Err(error) => {
                error!(%error, path = %path.display(), "reading a line of the journal of tunnels failed: its tunnel is not known and cannot be terminated");
            }
        }
    }
    let mut seen = HashSet::new();
    // A tunnel can be in the file and in the journal.
    stored.retain(|stored| seen.insert(stored.id.clone()));
    let known = Restorer::new(gate);
    let mut count = 0;
    for stored in stored {
        let Some((tunnel, cause)) = known.tunnel(stored) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a tunnel of this version"));
        };
        let id = tunnel.id;
        tunnels.adopt(tunnel);
        tunnels.mark_for_termination(cause.map(|cause| (id, cause)));
        count += 1;
    }
    if count > 0 {
        info!(count, "tunnels of the previous agent are taken over");
    }
    let recent = recent_file(path);
    if let Err(error) = load_recent(tunnels, &known, &recent) {
        error!(%error, path = %recent.display(), "reading the last requests of the previous agent failed: those that last are not known and cannot be terminated");
    }
    Ok(count)
}

/// Remembers the requests that the agent before this one allowed in its last seconds, and deletes
/// the file: it is not needed any more.
fn load_recent(tunnels: &Tunnels, known: &Restorer<'_>, path: &Path) -> io::Result<()> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    // Removed before it is read: a file that makes the agent fail must not do so at each start.
    std::fs::remove_file(path)?;
    let all: Vec<StoredRequest> = serde_json::from_slice(&text)?;
    let mut count = 0;
    for StoredRequest { memory, asked_ms, request } in all {
        // The cause of its end is not needed: it is decided about when its stream is found.
        let Some((tunnel, _)) = known.tunnel(request) else { continue };
        let memory = match memory {
            RecentList::Allowed => Some(&tunnels.recent),
            RecentList::Reusable => tunnels.reusable.as_ref(),
        };
        count +=
            usize::from(memory.is_some_and(|memory| memory.inherit(&tunnel, asked_ms).is_ok()));
    }
    info!(count, "requests of the previous agent's last seconds are taken over");
    Ok(())
}

/// Writes the requests that were allowed in the last seconds, for the next agent. Must be called
/// after the last response.
///
/// # Errors
/// The file cannot be written.
pub fn store_recent(tunnels: &Tunnels, path: &Path) -> io::Result<()> {
    let mut all = recent(&tunnels.recent, RecentList::Allowed);
    if let Some(given) = &tunnels.reusable {
        all.extend(recent(given, RecentList::Reusable));
    }
    if all.is_empty() {
        return Ok(());
    }
    replace(&recent_file(path), &serde_json::to_vec(&all)?)
}

/// The newest of the remembered requests, without those that are tunnels already.
fn recent(memory: &RecentRequests, name: RecentList) -> VecDeque<StoredRequest> {
    let (mut all, mut next) = (VecDeque::new(), Some(0));
    while let Some(from) = next {
        next = memory.lock().some(from, |seen| {
            if let Some(tunnel) = seen.tunnel().filter(|_| !seen.is_taken()) {
                if all.len() == MAX_RECENT {
                    all.pop_front();
                }
                let (asked_ms, request) = (seen.asked_millis(), StoredTunnel::from_tunnel(&tunnel));
                all.push_back(StoredRequest { memory: name, asked_ms, request });
            }
        });
    }
    all
}

fn recent_file(path: &Path) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(RECENT_ENDING);
    name.into()
}

/// Writes the file after changes until stopped, and once more at the end.
pub async fn run(tunnels: Arc<Tunnels>, path: PathBuf, stop: CancellationToken) {
    let mut written = None;
    let mut failed = false;
    loop {
        let last = stop.is_cancelled();
        let version = tunnels.lock().version;
        // The version is read before the tunnels, so that a change in between is written next time.
        if written != Some(version) {
            let (all, to) = (Arc::clone(&tunnels), path.clone());
            let done = tokio::task::spawn_blocking(move || {
                // The turn comes before the table is read: what is opened in between is then in the
                // other file.
                let turn = all.journal().map(Journal::turn);
                write(&all, &to)?;
                if let Some(turn) = turn {
                    turn.done();
                }
                Ok::<_, io::Error>(())
            })
            .await;
            match done {
                Ok(Ok(())) => {
                    written = Some(version);
                    failed = false;
                }
                Ok(Err(error)) if !failed => {
                    failed = true;
                    error!(%error, path = %path.display(), "writing the file of tunnels failed: an agent that restarts now would not know the tunnels");
                }
                Ok(Err(_)) | Err(_) => {}
            }
        }
        if last {
            return;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(WRITE_INTERVAL) => {}
        }
    }
}

/// A tunnel as a line of the journal.
pub(super) fn line(tunnel: &Tunnel) -> Option<Vec<u8>> {
    serde_json::to_vec(&StoredTunnel::from_tunnel(tunnel)).ok()
}

fn write(tunnels: &Tunnels, path: &Path) -> io::Result<()> {
    let all: Vec<Arc<Tunnel>> = {
        let state = tunnels.lock();
        state.entries.values().map(|entry| Arc::clone(&entry.tunnel)).collect()
    };
    let stored: Vec<StoredTunnel> =
        all.iter().map(|tunnel| StoredTunnel::from_tunnel(tunnel)).collect();
    let text = serde_json::to_vec(&stored)?;
    replace(path, &text)
}

/// Replaces a file by one with this content, so that a reader never sees half of it.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut part = path.to_owned().into_os_string();
    part.push(".part");
    // The mode is 0600 because the file has names and groups of people.
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    file.write_all(text)?;
    drop(file);
    std::fs::rename(&part, path)
}

/// What stored tunnels are matched with: the configured authorities and the live sessions.
struct Restorer<'g> {
    authorities: Vec<&'g Arc<Authority>>,
    /// Sessions by person and end. Two sessions of a person that end in the same millisecond were
    /// begun in the same millisecond.
    sessions: HashMap<(Box<str>, Box<str>, Timestamp), Arc<Session>>,
}

impl<'g> Restorer<'g> {
    fn new(gate: &'g Gate) -> Self {
        let sign_in = gate.browser.as_ref();
        let alive = sign_in.map(|sign_in| sign_in.sessions.active(Timestamp::now()));
        let sessions = alive.into_iter().flatten().map(|session| {
            let identity = session.identity();
            let (issuer, subject) = (identity.issuer.clone(), identity.subject.clone());
            ((issuer, subject, identity.expires), session)
        });
        Self { authorities: gate.authorities().collect(), sessions: sessions.collect() }
    }

    /// A stored tunnel, and why it must not go on: its issuer is no longer configured, or its
    /// session is unknown. `None` if the stored form is not one of this version.
    fn tunnel(&self, stored: StoredTunnel) -> Option<(Tunnel, Option<TerminationCause>)> {
        // An identity that is not restored belongs to an issuer that is not configured any more.
        let was_known = stored.identity.is_some();
        let mut tunnel = stored.tunnel(&self.authorities)?;
        if let Some(identity) =
            tunnel.identity.as_ref().filter(|_| tunnel.credential == TunnelCredential::Session)
        {
            let (issuer, subject) = (identity.issuer.clone(), identity.subject.clone());
            tunnel.session = self.sessions.get(&(issuer, subject, identity.expires)).cloned();
        }
        let cause = if was_known && tunnel.identity.is_none() {
            Some(TerminationCause::Refused(Reason::Refused(TokenError::Issuer)))
        } else {
            (tunnel.credential == TunnelCredential::Session && tunnel.session.is_none())
                .then_some(TerminationCause::SessionEnded)
        };
        Some((tunnel, cause))
    }
}

impl StoredTunnel {
    fn from_tunnel(tunnel: &Tunnel) -> Self {
        let route = tunnel.route.as_ref().map(|route| match route {
            Route::Backend(name) => StoredRoute::Backend(name.to_string()),
            Route::Direct(at) => StoredRoute::Direct(*at),
            Route::Named(at, gateway) => {
                let (url, renames) = (gateway.to_string(), gateway.sets_host_header);
                StoredRoute::Named { at: *at, url, renames }
            }
        });
        Self {
            id: tunnel.id.to_string(),
            kind: tunnel.kind.id().into(),
            credential: tunnel.credential.id().into(),
            identity: tunnel.identity.as_deref().map(StoredIdentity::from),
            workspace: tunnel.workspace.as_ref().map(ToString::to_string),
            owner: tunnel.owner.as_deref().map(Into::into),
            endpoint: tunnel.endpoint.as_ref().map(ToString::to_string),
            reason: tunnel.reason.id().into(),
            host: tunnel.host.as_str().into(),
            method: tunnel.method.as_deref().map(Into::into),
            path: tunnel.path.as_deref().map(Into::into),
            route,
            client: tunnel.client,
            since_ms: tunnel.since.as_millis(),
            frontend: tunnel.location.frontend.to_vec(),
            stream: tunnel.location.stream,
            started: tunnel.location.started,
            process: tunnel.location.process,
            source: tunnel.location.source,
        }
    }

    fn tunnel(self, authorities: &[&Arc<Authority>]) -> Option<Tunnel> {
        let credentials = [
            TunnelCredential::Token,
            TunnelCredential::Session,
            TunnelCredential::Certificate,
            TunnelCredential::None,
        ];
        let route = match self.route {
            None => None,
            Some(StoredRoute::Backend(name)) => Some(Route::Backend(name.into())),
            Some(StoredRoute::Direct(at)) => Some(Route::Direct(at)),
            Some(StoredRoute::Named { at, url, renames }) => {
                let gateway = NamedServer::parse(&url).ok()?;
                let gateway = if renames { gateway.with_own_host_header() } else { gateway };
                Some(Route::Named(at, Arc::new(gateway)))
            }
        };
        let workspace = match self.workspace {
            Some(id) => Some(id.parse().ok()?),
            None => None,
        };
        let endpoint = match self.endpoint {
            Some(name) => Some(EndpointName::parse(&name)?),
            None => None,
        };
        Some(Tunnel {
            id: self.id.as_str().try_into().ok()?,
            kind: TunnelKind::ALL.into_iter().find(|kind| kind.id() == self.kind)?,
            identity: self
                .identity
                .and_then(|stored| stored.restore(authorities.iter().copied()))
                .map(Arc::new),
            credential: credentials.into_iter().find(|known| known.id() == self.credential)?,
            session: None,
            workspace,
            owner: self.owner.map(Into::into),
            endpoint,
            reason: Reason::ALL.into_iter().find(|reason| reason.id() == self.reason)?,
            host: Host::parse(self.host.as_bytes()).ok()?,
            method: self.method.map(Into::into),
            path: self.path.map(Into::into),
            route,
            client: self.client,
            since: Timestamp::from_millis(self.since_ms),
            opened: MonotonicTime::default(),
            location: TunnelLocation {
                frontend: self.frontend.into(),
                stream: self.stream,
                started: self.started,
                process: self.process,
                source: self.source,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnels::tests::{identity, named, tunnel};

    #[test]
    fn everything_that_decides_about_a_tunnel_is_stored() {
        let authority = identity().authority;
        let direct = Route::Direct("10.0.0.1:80".parse().unwrap());
        for route in [direct, Route::Backend("b".into()), named(false), named(true)] {
            for credential in
                [TunnelCredential::Token, TunnelCredential::Certificate, TunnelCredential::None]
            {
                let tunnel = tunnel(credential, route.clone());
                let text = serde_json::to_vec(&[StoredTunnel::from_tunnel(&tunnel)]).unwrap();
                let stored: Vec<StoredTunnel> = serde_json::from_slice(&text).unwrap();
                let stored = stored.into_iter().next().unwrap().tunnel(&[&authority]).unwrap();
                assert_eq!(format!("{stored:?}"), format!("{tunnel:?}"));
            }
        }
    }

    #[test]
    fn an_identity_of_an_unknown_authority_is_not_restored() {
        let stored = StoredTunnel::from_tunnel(&tunnel(TunnelCredential::Token, named(false)));
        assert!(stored.tunnel(&[]).unwrap().identity.is_none());
    }
}
