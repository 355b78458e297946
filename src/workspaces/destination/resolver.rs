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

use super::{Address, Gateway, Ranges};
use crate::{lock::Mutex, time::MonotonicTime};

/// The time between two lookups of a name.
const INTERVAL: Duration = Duration::from_secs(30);
/// How long the last address is used while the name does not resolve.
const KEEP: Duration = Duration::from_mins(5);
/// How many names are resolved at the same time.
const AT_ONCE: usize = 64;
/// How many new names can wait for their first lookup. The others are resolved in the next round.
const WAITING: usize = 4096;

type Places = HashMap<(Box<str>, bool), Weak<Gateway>>;

/// All named servers, each name once.
pub struct Resolver {
    /// By URL, and by whether the Host header is replaced.
    places: Mutex<Places>,
    fresh: mpsc::Sender<Weak<Gateway>>,
    waiting: Mutex<Option<mpsc::Receiver<Weak<Gateway>>>>,
    ranges: Ranges,
}

impl Default for Resolver {
    fn default() -> Self {
        Self::new(Ranges::default())
    }
}

impl Resolver {
    /// A resolver without names. If a name has several addresses, the first that `ranges` permits
    /// is used.
    #[must_use]
    pub fn new(ranges: Ranges) -> Self {
        let (fresh, waiting) = mpsc::channel(WAITING);
        Self { places: Mutex::default(), fresh, waiting: Mutex::new(Some(waiting)), ranges }
    }

    /// Returns the one shared server for this name, port and scheme, which is resolved from now on.
    #[must_use]
    pub fn adopt(&self, gateway: &Arc<Gateway>) -> Arc<Gateway> {
        let key = (gateway.to_string().into_boxed_str(), gateway.renames);
        let mut places = self.places.lock();
        if let Some(known) = places.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        places.insert(key, Arc::downgrade(gateway));
        // If the queue is full or nothing runs yet, the next round resolves it.
        let _ = self.fresh.try_send(Arc::downgrade(gateway));
        Arc::clone(gateway)
    }

    /// The number of names without an address.
    #[must_use]
    pub fn unresolved(&self) -> usize {
        let places = self.places.lock();
        let all = places.values().filter_map(Weak::upgrade);
        all.filter(|gateway| gateway.address().is_none()).count()
    }

    /// Resolves names until stopped.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let waiting = self.waiting.lock().take();
        let Some(mut waiting) = waiting else { return };
        let mut known = HashMap::new();
        let mut round = tokio::time::interval(INTERVAL);
        let mut running = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(gateway) = waiting.recv(), if running.len() < AT_ONCE => {
                    if let Some(gateway) = gateway.upgrade() {
                        running.spawn(look_up(gateway));
                    }
                }
                Some(Ok((gateway, found))) = running.join_next() => {
                    self.learn(&gateway, &found, &mut known, MonotonicTime::now());
                }
                _ = round.tick() => {
                    for gateway in self.all(&mut known) {
                        if running.len() >= AT_ONCE
                            && let Some(Ok((gateway, found))) = running.join_next().await
                        {
                            self.learn(&gateway, &found, &mut known, MonotonicTime::now());
                        }
                        running.spawn(look_up(gateway));
                    }
                }
            }
        }
    }

    /// Returns the servers that some workspace still has, and forgets all others.
    fn all(&self, known: &mut HashMap<String, MonotonicTime>) -> Vec<Arc<Gateway>> {
        let mut places = self.places.lock();
        let mut all = Vec::new();
        places.retain(|_, place| {
            all.extend(place.upgrade());
            place.strong_count() > 0
        });
        let names: HashSet<&str> = all.iter().map(|gateway| gateway.host.as_str()).collect();
        known.retain(|name, _| names.contains(name.as_str()));
        all
    }

    fn learn(
        &self,
        gateway: &Gateway,
        found: &std::io::Result<Vec<Address>>,
        known: &mut HashMap<String, MonotonicTime>,
        now: MonotonicTime,
    ) {
        let name = gateway.host.as_str();
        match found {
            Ok(addresses) => {
                let permitted = addresses.iter().copied().find(|ip| self.ranges.permits(*ip));
                // A forbidden address is stored too: requests are then refused with the reason that
                // says so.
                let address = permitted.or(addresses.first().copied());
                if let (None, Some(address)) = (permitted, address) {
                    warn!(name, %address, "the host name of a workspace resolves to a forbidden address: requests for it are refused");
                }
                gateway.learn(address);
                known.insert(name.to_owned(), now);
            }
            Err(error) => {
                debug!(name, %error, "the name does not resolve");
                // DNS fails for moments; a workspace must not close for that.
                let kept = known.get(name).is_some_and(|at| now.since(*at) < KEEP);
                if !kept && gateway.address().is_some() {
                    warn!(name, %error, "the host name of a workspace has not resolved for five minutes: requests for it are refused");
                }
                if !kept {
                    gateway.learn(None);
                }
            }
        }
    }
}

async fn look_up(gateway: Arc<Gateway>) -> (Arc<Gateway>, std::io::Result<Vec<Address>>) {
    let found = tokio::net::lookup_host((gateway.host.as_str(), gateway.port)).await;
    let found = found.map(|addresses| {
        let mut addresses: Vec<Address> = addresses.map(|at| at.ip().into()).collect();
        // HAProxy gets one address, and IPv4 is reachable from nearly everywhere.
        addresses.sort_by_key(|address| address.ip().is_ipv6());
        addresses
    });
    (gateway, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adopt(resolver: &Resolver) -> Arc<Gateway> {
        resolver.adopt(&Arc::new(Gateway::parse("http://w.svc:80").unwrap()))
    }

    #[test]
    fn a_name_that_no_longer_resolves_keeps_its_address_for_a_while() {
        let resolver = Resolver::default();
        let gateway = adopt(&resolver);
        let mut known = HashMap::new();
        let moment = |secs| MonotonicTime::at(Duration::from_secs(secs));
        let fails = || Err(std::io::Error::other("no such name"));
        resolver.learn(&gateway, &Ok(vec!["10.0.0.1".parse().unwrap()]), &mut known, moment(10));
        resolver.learn(&gateway, &fails(), &mut known, moment(300));
        assert_eq!(gateway.address(), Some("10.0.0.1:80".parse().unwrap()));
        resolver.learn(&gateway, &fails(), &mut known, moment(311));
        assert_eq!(gateway.address(), None);
        resolver.learn(&gateway, &Ok(vec!["10.0.0.2".parse().unwrap()]), &mut known, moment(312));
        assert_eq!(gateway.address(), Some("10.0.0.2:80".parse().unwrap()));
    }

    #[test]
    fn of_several_addresses_a_permitted_one_is_taken() {
        let resolver = Resolver::default();
        let gateway = adopt(&resolver);
        let addresses = ["127.0.0.1", "10.0.0.1"].map(|ip| ip.parse().unwrap());
        resolver.learn(
            &gateway,
            &Ok(addresses.to_vec()),
            &mut HashMap::new(),
            MonotonicTime::now(),
        );
        assert_eq!(gateway.address(), Some("10.0.0.1:80".parse().unwrap()));
    }

    #[test]
    fn a_name_is_forgotten_with_the_last_workspace_that_has_it() {
        let resolver = Resolver::default();
        let one = adopt(&resolver);
        assert!(Arc::ptr_eq(&one, &adopt(&resolver)));
        assert_eq!(resolver.all(&mut HashMap::new()).len(), 1);
        drop(one);
        assert!(resolver.all(&mut HashMap::new()).is_empty());
    }
}
