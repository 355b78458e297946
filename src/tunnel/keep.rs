//! Tunnels in a file, so that a restarted agent goes on with what the one before it had.
//!
//! Written as a whole whenever tunnels came or went, twice a second at most, and beside the requests. What was
//! opened since is in the [`Journal`], so that an agent that is killed loses no tunnel either.

use std::{
    collections::HashSet,
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

use super::{By, Cause, Kind, Place, Tunnel, Tunnels, journal::Journal};
use crate::{
    clock::{Moment, Timestamp},
    decision::{Reason, Route},
    gate::Gate,
    identity::{Identity, Refusal, TokenIds, profile::Authority},
    workspace::{EndpointName, Gateway, host::Host},
};

/// Between two writings.
const EVERY: Duration = Duration::from_millis(500);

#[derive(Serialize, Deserialize)]
struct Kept {
    id: String,
    kind: String,
    by: String,
    identity: Option<KeptIdentity>,
    workspace: Option<String>,
    owner: Option<String>,
    endpoint: Option<String>,
    reason: String,
    host: String,
    #[serde(default)]
    method: Option<Vec<u8>>,
    path: Option<Vec<u8>>,
    route: Option<KeptRoute>,
    client: Option<IpAddr>,
    since_ms: u64,
    frontend: Vec<u8>,
    stream: Option<u32>,
    started: Option<u64>,
    process: Option<u32>,
    source: Option<SocketAddr>,
}

#[derive(Serialize, Deserialize)]
struct KeptIdentity {
    authority: String,
    #[serde(default)]
    identifier: String,
    issuer: String,
    subject: String,
    email: Option<String>,
    username: Option<String>,
    groups: Vec<String>,
    groups_joined: String,
    groups_overage: bool,
    organization: Option<String>,
    token: Option<String>,
    session: Option<String>,
    issued_ms: Option<u64>,
    bound_to: Option<[u8; 32]>,
    expires_ms: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum KeptRoute {
    Backend(String),
    Direct(SocketAddr),
    Named { at: SocketAddr, url: String, renames: bool },
}

/// Takes over what the file has and what the journal has beside it. A tunnel of the journal that has ended since
/// is found to be nowhere, as any that ends.
///
/// # Errors
/// One of them cannot be read; it being absent is none.
pub fn adopt(tunnels: &Tunnels, gate: &Gate, path: &Path) -> io::Result<usize> {
    let mut kept: Vec<Kept> = match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => vec![],
        Err(error) => return Err(error),
    };
    for line in Journal::beside(path).read()? {
        match serde_json::from_slice(&line) {
            Ok(tunnel) => kept.push(tunnel),
            // One line that cannot be read takes no other along.
            Err(error) => {
                error!(%error, path = %path.display(), "a line of the journal of tunnels cannot be read: its tunnel is not known and cannot be closed");
            }
        }
    }
    let mut seen = HashSet::new();
    kept.retain(|kept| seen.insert(kept.id.clone()));
    let authorities: Vec<&Arc<Authority>> = gate.authorities().collect();
    let mut count = 0;
    for kept in kept {
        let was_known = kept.identity.is_some();
        let Some(mut tunnel) = kept.tunnel(&authorities) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a tunnel of this version"));
        };
        tunnel.session = session(gate, &tunnel);
        let id = tunnel.id;
        // Whoever vouched for them is not configured any more, or their session did not outlive the agent.
        let cause = if was_known && tunnel.identity.is_none() {
            Some(Cause::Refused(Reason::Refused(Refusal::Issuer)))
        } else {
            (tunnel.by == By::Session && tunnel.session.is_none()).then_some(Cause::SessionEnded)
        };
        tunnels.adopt(tunnel);
        tunnels.due(cause.map(|cause| (id, cause)));
        count += 1;
    }
    if count > 0 {
        info!(count, "live tunnels are taken over");
    }
    Ok(count)
}

/// Writes the file whenever something changed, until stopped, and once more then.
pub async fn run(tunnels: Arc<Tunnels>, path: PathBuf, stop: CancellationToken) {
    let mut written = None;
    let mut failed = false;
    loop {
        let last = stop.is_cancelled();
        let version = tunnels.lock().version;
        if written != Some(version) {
            let (all, to) = (Arc::clone(&tunnels), path.clone());
            let done = tokio::task::spawn_blocking(move || {
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
                    error!(%error, path = %path.display(), "the file of tunnels cannot be written: a restarted agent would not know them");
                }
                Ok(Err(_)) | Err(_) => {}
            }
        }
        if last {
            return;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// The journal's line of a tunnel.
pub(super) fn line(tunnel: &Tunnel) -> Option<Vec<u8>> {
    serde_json::to_vec(&Kept::of(tunnel)).ok()
}

fn write(tunnels: &Tunnels, path: &Path) -> io::Result<()> {
    let all: Vec<Arc<Tunnel>> = {
        let state = tunnels.lock();
        state.entries.values().map(|entry| Arc::clone(&entry.tunnel)).collect()
    };
    let kept: Vec<Kept> = all.iter().map(|tunnel| Kept::of(tunnel)).collect();
    let text = serde_json::to_vec(&kept)?;
    let mut part = path.to_owned().into_os_string();
    part.push(".part");
    // Names and groups of people are in it.
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    file.write_all(&text)?;
    drop(file);
    std::fs::rename(&part, path)
}

/// The session that a tunnel of the agent before this one belongs to: one and the same person's with the same
/// end, which is its beginning to the millisecond.
fn session(gate: &Gate, tunnel: &Tunnel) -> Option<Arc<crate::session::Session>> {
    let (sign_in, identity) = (gate.sign_in.as_ref()?, tunnel.identity.as_ref()?);
    if tunnel.by != By::Session {
        return None;
    }
    sign_in.sessions.any(|session| {
        let known = session.identity();
        known.issuer == identity.issuer
            && known.subject == identity.subject
            && known.expires == identity.expires
    })
}

impl Kept {
    fn of(tunnel: &Tunnel) -> Self {
        let route = tunnel.route.as_ref().map(|route| match route {
            Route::Backend(name) => KeptRoute::Backend(name.to_string()),
            Route::Direct(at) => KeptRoute::Direct(*at),
            Route::Named(at, gateway) => {
                let (url, renames) = (gateway.to_string(), gateway.renames);
                KeptRoute::Named { at: *at, url, renames }
            }
        });
        Self {
            id: tunnel.id.to_string(),
            kind: tunnel.kind.id().into(),
            by: tunnel.by.id().into(),
            identity: tunnel.identity.as_deref().map(KeptIdentity::of),
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
            frontend: tunnel.place.frontend.to_vec(),
            stream: tunnel.place.stream,
            started: tunnel.place.started,
            process: tunnel.place.process,
            source: tunnel.place.source,
        }
    }

    fn tunnel(self, authorities: &[&Arc<Authority>]) -> Option<Tunnel> {
        let by = [By::Token, By::Session, By::Certificate, By::Nobody];
        let route = match self.route {
            None => None,
            Some(KeptRoute::Backend(name)) => Some(Route::Backend(name.into())),
            Some(KeptRoute::Direct(at)) => Some(Route::Direct(at)),
            Some(KeptRoute::Named { at, url, renames }) => {
                let gateway = Gateway::parse(&url).ok()?;
                let gateway = if renames { gateway.renaming() } else { gateway };
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
            kind: Kind::ALL.into_iter().find(|kind| kind.id() == self.kind)?,
            identity: self.identity.and_then(|kept| kept.identity(authorities)).map(Arc::new),
            by: by.into_iter().find(|by| by.id() == self.by)?,
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
            opened: Moment::default(),
            place: Place {
                frontend: self.frontend.into(),
                stream: self.stream,
                started: self.started,
                process: self.process,
                source: self.source,
            },
        })
    }
}

impl KeptIdentity {
    fn of(identity: &Identity) -> Self {
        let text = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
        Self {
            authority: identity.authority.name.to_string(),
            identifier: identity.authority.identifier.to_string(),
            issuer: identity.issuer.to_string(),
            subject: identity.subject.to_string(),
            email: text(&identity.email),
            username: text(&identity.username),
            groups: identity.groups.iter().map(ToString::to_string).collect(),
            groups_joined: identity.groups_joined.to_string(),
            groups_overage: identity.groups_overage,
            organization: text(&identity.organization),
            token: text(&identity.token.id),
            session: text(&identity.token.session),
            issued_ms: identity.token.issued.map(Timestamp::as_millis),
            bound_to: identity.bound_to,
            expires_ms: identity.expires.as_millis(),
        }
    }

    fn identity(self, authorities: &[&Arc<Authority>]) -> Option<Identity> {
        let (name, identifier) = (&self.authority, &self.identifier);
        let all = authorities.iter().copied();
        let authority = Authority::find(all, name, identifier, &self.issuer)?;
        let text = |text: Option<String>| text.map(String::into_boxed_str);
        Some(Identity {
            authority: Arc::clone(authority),
            issuer: self.issuer.into(),
            subject: self.subject.into(),
            email: text(self.email),
            username: text(self.username),
            groups: self.groups.into_iter().map(Into::into).collect(),
            groups_joined: self.groups_joined.into(),
            organization: text(self.organization),
            groups_overage: self.groups_overage,
            token: TokenIds {
                id: text(self.token),
                session: text(self.session),
                // Only sessions are ended by it, and those are kept elsewhere.
                sub: None,
                issued: self.issued_ms.map(Timestamp::from_millis),
            },
            bound_to: self.bound_to,
            expires: Timestamp::from_millis(self.expires_ms),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::tests::{identity, named, tunnel};

    #[test]
    fn what_is_kept_of_a_tunnel_is_all_that_decides_about_it() {
        let authority = identity().authority;
        let direct = Route::Direct("10.0.0.1:80".parse().unwrap());
        for route in [direct, Route::Backend("b".into()), named(false), named(true)] {
            for by in [By::Token, By::Certificate, By::Nobody] {
                let tunnel = tunnel(by, route.clone());
                let text = serde_json::to_vec(&[Kept::of(&tunnel)]).unwrap();
                let kept: Vec<Kept> = serde_json::from_slice(&text).unwrap();
                let kept = kept.into_iter().next().unwrap().tunnel(&[&authority]).unwrap();
                assert_eq!(format!("{kept:?}"), format!("{tunnel:?}"));
            }
        }
    }

    #[test]
    fn whoever_an_unknown_authority_vouched_for_is_nobody() {
        let kept = Kept::of(&tunnel(By::Token, named(false)));
        assert!(kept.tunnel(&[]).unwrap().identity.is_none());
    }
}
