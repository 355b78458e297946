//! Resolves the host names of destinations in the background.
//!
//! A name is resolved when a workspace first has it, and then at an interval as long as a workspace
//! has it. If a name stops resolving, its last address is used for five more minutes, so a short
//! DNS failure closes nothing; then requests for it are refused. A request only reads the last
//! result.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{Address, DestinationLimits, NamedServer};
use crate::{lock::Mutex, time::MonotonicTime};

/// The time between two lookups of a name.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(30);
/// How long the last address is used while the name does not resolve.
const LAST_ADDRESS_LIFETIME: Duration = Duration::from_mins(5);
/// How many names are resolved at the same time.
const MAX_LOOKUPS: usize = 64;
/// How many new names can wait for their first lookup. The others are resolved in the next round.
const MAX_QUEUED: usize = 4096;

type NamedServers = HashMap<(Box<str>, bool), Weak<NamedServer>>;

/// All named servers, each name once.
pub struct Resolver {
    /// By URL, and by whether the Host header is replaced.
    servers: Mutex<NamedServers>,
    queue: mpsc::Sender<Weak<NamedServer>>,
    queued: Mutex<Option<mpsc::Receiver<Weak<NamedServer>>>>,
    ranges: DestinationLimits,
}

impl Default for Resolver {
    fn default() -> Self {
        Self::new(DestinationLimits::default())
    }
}

impl Resolver {
    /// A resolver without names. If a name has several addresses, the first that `ranges` permits
    /// is used.
    #[must_use]
    pub fn new(ranges: DestinationLimits) -> Self {
        let (queue, queued) = mpsc::channel(MAX_QUEUED);
        Self { servers: Mutex::default(), queue, queued: Mutex::new(Some(queued)), ranges }
    }

    /// Returns the one shared server for this name, port and scheme, which is resolved from now on.
    #[must_use]
    pub fn share(&self, server: &Arc<NamedServer>) -> Arc<NamedServer> {
        let key = (server.to_string().into_boxed_str(), server.sets_host_header);
        let mut servers = self.servers.lock();
        if let Some(known) = servers.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        servers.insert(key, Arc::downgrade(server));
        // If the queue is full or nothing runs yet, the next round resolves it.
        let _ = self.queue.try_send(Arc::downgrade(server));
        Arc::clone(server)
    }

    /// The number of names without an address.
    #[must_use]
    pub fn unresolved(&self) -> usize {
        let servers = self.servers.lock();
        let all = servers.values().filter_map(Weak::upgrade);
        all.filter(|server| server.address().is_none()).count()
    }

    /// Resolves names until stopped.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let queued = self.queued.lock().take();
        let Some(mut queued) = queued else { return };
        let mut known = HashMap::new();
        let mut round = tokio::time::interval(LOOKUP_INTERVAL);
        let mut running = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(server) = queued.recv(), if running.len() < MAX_LOOKUPS => {
                    if let Some(server) = server.upgrade() {
                        running.spawn(look_up(server));
                    }
                }
                Some(Ok((server, found))) = running.join_next() => {
                    self.record(&server, &found, &mut known, MonotonicTime::now());
                }
                _ = round.tick() => {
                    for server in self.all(&mut known) {
                        if running.len() >= MAX_LOOKUPS
                            && let Some(Ok((server, found))) = running.join_next().await
                        {
                            self.record(&server, &found, &mut known, MonotonicTime::now());
                        }
                        running.spawn(look_up(server));
                    }
                }
            }
        }
    }

    /// Returns the servers that some workspace still has, and forgets all others.
    fn all(&self, known: &mut HashMap<String, MonotonicTime>) -> Vec<Arc<NamedServer>> {
        let mut servers = self.servers.lock();
        let mut all = Vec::new();
        servers.retain(|_, server| {
            all.extend(server.upgrade());
            server.strong_count() > 0
        });
        let names: HashSet<&str> = all.iter().map(|server| server.host.as_str()).collect();
        known.retain(|name, _| names.contains(name.as_str()));
        all
    }

    fn record(
        &self,
        server: &NamedServer,
        found: &std::io::Result<Vec<Address>>,
        known: &mut HashMap<String, MonotonicTime>,
        now: MonotonicTime,
    ) {
        let name = server.host.as_str();
        match found {
            Ok(addresses) => {
                let permitted = addresses.iter().copied().find(|ip| self.ranges.permits(*ip));
                // A forbidden address is stored too: requests are then refused with the reason that
                // says so.
                let address = permitted.or(addresses.first().copied());
                if let (None, Some(address)) = (permitted, address) {
                    warn!(name, %address, "the host name of a workspace resolves to a forbidden address: requests for it are refused");
                }
                server.set_address(address);
                known.insert(name.to_owned(), now);
            }
            Err(error) => {
                debug!(name, %error, "the name does not resolve");
                // DNS fails for moments; a workspace must not close for that.
                let recent =
                    known.get(name).is_some_and(|at| now.since(*at) < LAST_ADDRESS_LIFETIME);
                if !recent && server.address().is_some() {
                    warn!(name, %error, "the host name of a workspace has not resolved for five minutes: requests for it are refused");
                }
                if !recent {
                    server.set_address(None);
                }
            }
        }
    }
}

async fn look_up(server: Arc<NamedServer>) -> (Arc<NamedServer>, std::io::Result<Vec<Address>>) {
    let found = tokio::net::lookup_host((server.host.as_str(), server.port)).await;
    let found = found.map(|addresses| {
        let mut addresses: Vec<Address> = addresses.map(|at| at.ip().into()).collect();
        // HAProxy gets one address, and IPv4 is reachable from nearly everywhere.
        addresses.sort_by_key(|address| address.ip().is_ipv6());
        addresses
    });
    (server, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(resolver: &Resolver) -> Arc<NamedServer> {
        resolver.share(&Arc::new(NamedServer::parse("http://w.svc:80").unwrap()))
    }

    #[test]
    fn a_name_that_no_longer_resolves_keeps_its_address_for_a_while() {
        let resolver = Resolver::default();
        let server = share(&resolver);
        let mut known = HashMap::new();
        let moment = |secs| MonotonicTime::at(Duration::from_secs(secs));
        let fails = || Err(std::io::Error::other("no such name"));
        resolver.record(&server, &Ok(vec!["10.0.0.1".parse().unwrap()]), &mut known, moment(10));
        resolver.record(&server, &fails(), &mut known, moment(300));
        assert_eq!(server.address(), Some("10.0.0.1:80".parse().unwrap()));
        resolver.record(&server, &fails(), &mut known, moment(311));
        assert_eq!(server.address(), None);
        resolver.record(&server, &Ok(vec!["10.0.0.2".parse().unwrap()]), &mut known, moment(312));
        assert_eq!(server.address(), Some("10.0.0.2:80".parse().unwrap()));
    }

    #[test]
    fn of_several_addresses_a_permitted_one_is_taken() {
        let resolver = Resolver::default();
        let server = share(&resolver);
        let addresses = ["127.0.0.1", "10.0.0.1"].map(|ip| ip.parse().unwrap());
        resolver.record(
            &server,
            &Ok(addresses.to_vec()),
            &mut HashMap::new(),
            MonotonicTime::now(),
        );
        assert_eq!(server.address(), Some("10.0.0.1:80".parse().unwrap()));
    }

    #[test]
    fn a_name_is_forgotten_with_the_last_workspace_that_has_it() {
        let resolver = Resolver::default();
        let one = share(&resolver);
        assert!(Arc::ptr_eq(&one, &share(&resolver)));
        assert_eq!(resolver.all(&mut HashMap::new()).len(), 1);
        drop(one);
        assert!(resolver.all(&mut HashMap::new()).is_empty());
    }
}
