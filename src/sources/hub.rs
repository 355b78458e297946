//! JupyterHub: the agent takes the place of the hub's proxy.
//!
//! The hub reports each server to its proxy when it starts and before it stops, by the REST API of
//! configurable-http-proxy ([`server`]). So the agent removes a server before its process ends. The
//! owner of a server, the groups of users and the shares come from the hub's own REST API. The hub
//! needs `c.JupyterHub.subdomain_host`, which gives the servers of each user a host name of their
//! own.
//!
//! Invariant: a route whose host is not below `subdomain_host`, or that would take the hub's own
//! host, is refused, so a user name can never get the routes of another user or of the hub.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{
        Arc, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::ACCEPT;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;
use tokio::sync::mpsc;
use tracing::warn;
use url::Url;

use super::http::{self, PlatformApi};
use crate::{
    lock::Mutex,
    workspaces::{
        Admission, AppName, Destination, Endpoint, EndpointName, Grant, Grantee, NamedServer,
        PathRule, Person, Phase, Protocol, Revision, Workspace, WorkspaceId,
        destination::Server,
        directory::Member,
        host::Host,
        source::{Capabilities, IdentityMapping, Source, SourceError, SourceEvent},
        without_control_characters,
    },
};

pub mod server;

/// The number of users on a page.
const PAGE: usize = 200;
/// More pages than any hub has, so that an API that never ends does not keep the agent busy
/// forever.
const MAX_PAGES: usize = 10_000;
/// The most routes that are stored.
const MAX_ROUTES: usize = 100_000;
const PAGINATION: &str = "application/jupyterhub-pagination+json";

/// The settings of a JupyterHub source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubSettings {
    /// The host in `c.JupyterHub.subdomain_host`. The hosts of users are below it.
    pub host: Host,
    /// How the hub's users are mapped to identities; their user names are login names.
    pub identity_mapping: IdentityMapping,
    /// Who reaches the hub itself and its services, which have a login of their own.
    pub hub_admission: Admission,
    /// Whether the hub's shares are requested.
    pub shares: bool,
}

/// A JupyterHub.
pub struct Hub {
    api: PlatformApi,
    settings: HubSettings,
    table: Mutex<RouteTable>,
    /// Counts changes, so that later descriptions can be told from earlier ones.
    change_count: AtomicU64,
    listener: Mutex<Option<mpsc::Sender<SourceEvent>>>,
}

/// Everything that the hub has reported.
#[derive(Default)]
struct RouteTable {
    /// The routes, by host and then by path.
    routes: BTreeMap<WorkspaceId, BTreeMap<String, Route>>,
    /// The people and groups that servers are shared with, by owner and server name.
    shares: HashMap<(String, String), Vec<Grantee>>,
    /// The number of the last change of each host.
    revisions: HashMap<WorkspaceId, u64>,
}

/// A route as the hub sent it.
#[derive(Clone, Debug, PartialEq)]
struct Route {
    /// The hub's name of the route.
    key: String,
    destination: Destination,
    body: Map<String, Value>,
}

/// The reason why a route is refused.
#[derive(Debug, Error)]
pub enum RouteError {
    /// Without a host of their own, the servers of all users would share one host. A route below
    /// another host has no known owner.
    #[error(
        "the route {0:?} has no host of a user below {1}: set c.JupyterHub.subdomain_host to that host, so that each user's servers have a host name of their own; the name of the hub's host cannot be a user name"
    )]
    Host(String, Box<str>),
    /// The body is not what a hub sends.
    #[error("the body has no 'target' with an address: {0}")]
    Target(String),
    /// There are too many routes.
    #[error("there are {MAX_ROUTES} routes already, which is the limit")]
    Full,
}

/// The workspace of a route, and its path on the workspace's host. The path ends in a slash.
struct RoutePath {
    workspace: WorkspaceId,
    path: String,
}

impl RoutePath {
    /// Parses the path of an API call, percent-decoded and without the prefix.
    ///
    /// The hub's own route is "/", whatever its host is. Routes of users begin with a host.
    fn parse(path: &str, hub: &Host) -> Result<Self, RouteError> {
        let outside = || RouteError::Host(path.into(), hub.as_str().into());
        let trimmed = path.trim_matches('/');
        let (host, rest) = match trimmed.split_once('/') {
            _ if trimmed.is_empty() => (hub.as_str(), ""),
            Some(parts) => parts,
            None => (trimmed, ""),
        };
        let host = Host::parse(host.as_bytes()).map_err(|_| outside())?;
        let below = host.as_str().strip_suffix(hub.as_str());
        let label = match below.map(|below| below.strip_suffix('.').unwrap_or(below)) {
            Some("") => hub.as_str().split('.').next().unwrap_or_default(),
            // A user with the name of the hub's host would otherwise get the hub's routes.
            Some(label) if hub.as_str().split('.').next() == Some(label) => return Err(outside()),
            Some(label) if !label.contains('.') && below.is_some_and(|b| b.ends_with('.')) => label,
            _ => return Err(outside()),
        };
        let workspace = label.parse().map_err(|_| outside())?;
        let path = if rest.is_empty() { "/".into() } else { format!("/{rest}/") };
        Ok(Self { workspace, path })
    }
}

impl Hub {
    /// A hub that has reported nothing yet.
    #[must_use]
    pub fn new(api: PlatformApi, settings: HubSettings) -> Self {
        Self {
            api,
            settings,
            table: Mutex::default(),
            change_count: AtomicU64::new(1),
            listener: Mutex::default(),
        }
    }

    fn table(&self) -> MutexGuard<'_, RouteTable> {
        self.table.lock()
    }

    /// Adds or replaces a route.
    ///
    /// # Errors
    /// See [`RouteError`].
    pub fn add(&self, path: &str, body: Map<String, Value>) -> Result<(), RouteError> {
        let path_parts = RoutePath::parse(path, &self.settings.host)?;
        let id = path_parts.workspace;
        let target = body.get("target").and_then(Value::as_str).unwrap_or_default();
        let destination = destination(target).ok_or_else(|| RouteError::Target(target.into()))?;
        let mut table = self.table();
        // A hub that adds routes without end must not fill the memory.
        if table.routes.len() >= MAX_ROUTES && !table.routes.contains_key(&id) {
            return Err(RouteError::Full);
        }
        let key = format!("/{}", path.trim_matches('/'));
        let route = Route { key, destination, body };
        table.routes.entry(id.clone()).or_default().insert(path_parts.path, route);
        self.changed(&mut table, &id);
        Ok(())
    }

    /// Removes a route. Returns whether it was there.
    pub fn remove(&self, path: &str) -> bool {
        let Ok(path_parts) = RoutePath::parse(path, &self.settings.host) else { return false };
        let id = path_parts.workspace;
        let mut table = self.table();
        let Some(routes) = table.routes.get_mut(&id) else { return false };
        let there = routes.remove(&path_parts.path).is_some();
        if routes.is_empty() {
            table.routes.remove(&id);
        }
        self.changed(&mut table, &id);
        there
    }

    /// Returns all routes as the hub expects them, with the bodies that it sent.
    pub fn routes(&self) -> Map<String, Value> {
        let table = self.table();
        let routes = table.routes.values().flat_map(BTreeMap::values);
        routes.map(|route| (route.key.clone(), Value::Object(route.body.clone()))).collect()
    }

    /// Sends the new state of a workspace to the listener. The table stays locked meanwhile, so
    /// that events are sent in the order of the changes.
    fn changed(&self, table: &mut RouteTable, id: &WorkspaceId) {
        let number = self.change_count.fetch_add(1, Ordering::Relaxed);
        let event = if let Some(routes) = table.routes.get(id) {
            table.revisions.insert(id.clone(), number);
            SourceEvent::Described(Box::new(self.workspace(id, routes, table)))
        } else {
            table.revisions.remove(id);
            SourceEvent::Ended(id.clone())
        };
        let listener = self.listener.lock();
        if let Some(listener) = listener.as_ref()
            && listener.try_send(event).is_err()
        {
            warn!(workspace = %id, "a changed route of JupyterHub is applied late, with the next full list: the queue is full");
        }
    }

    fn workspace(
        &self,
        id: &WorkspaceId,
        routes: &BTreeMap<String, Route>,
        table: &RouteTable,
    ) -> Workspace {
        let text =
            |route: &Route, key| route.body.get(key).and_then(Value::as_str).map(str::to_owned);
        let user = routes.values().find_map(|route| text(route, "user"));
        let mut endpoints = Vec::new();
        let mut paths = Vec::new();
        let mut grants = Vec::new();
        for (path, route) in routes {
            let server = text(route, "server_name").filter(|name| !name.is_empty());
            let name = match &server {
                None => EndpointName::Main,
                Some(server) => match AppName::new(server) {
                    Some(app) => EndpointName::App(app),
                    None => continue,
                },
            };
            // Routes without a user belong to the hub itself and to its services.
            let has_user = route.body.contains_key("user");
            let admission = if has_user { Admission::Grants } else { self.settings.hub_admission };
            if name != EndpointName::Main {
                paths.push(PathRule { prefix: path.as_str().into(), endpoint: name.clone() });
            }
            if let Some(user) = user.as_ref().filter(|_| has_user) {
                let key = (user.clone(), server.unwrap_or_default());
                let shared = table.shares.get(&key).into_iter().flatten().cloned();
                let endpoints = Some(vec![name.clone()]);
                grants.extend(shared.map(|to| Grant { to, endpoints: endpoints.clone() }));
            }
            let destination = route.destination.clone();
            endpoints.push(Endpoint::new(name, Protocol::Http, admission, destination));
        }
        let label = user.as_deref().unwrap_or("hub");
        Workspace {
            id: id.clone(),
            instance: None,
            revision: Revision { spec: None, status: table.revisions.get(id).copied() },
            organization: self.settings.identity_mapping.organization(),
            owner_label: without_control_characters(label),
            owner: Person { account: user.as_deref().map(Into::into), ..Person::default() },
            grants,
            // The hub reports only servers that are up.
            phase: Phase::Running,
            address: None,
            template: None,
            endpoints,
            paths,
        }
    }

    /// Requests the shares of each user's servers.
    async fn fetch_shares(&self) -> Result<(), SourceError> {
        if !self.settings.shares {
            return Ok(());
        }
        let owners: Vec<String> = {
            let table = self.table();
            let routes = table.routes.values().flat_map(BTreeMap::values);
            let users = routes.filter_map(|route| route.body.get("user")?.as_str());
            let mut users: Vec<_> = users.map(str::to_owned).collect();
            users.sort();
            users.dedup();
            users
        };
        let mut shares: HashMap<(String, String), Vec<Grantee>> = HashMap::new();
        for owner in owners {
            let path = format!("shares/{}", encoded(&owner));
            for share in self.pages::<Share>(&path).await? {
                // A share can grant less than access.
                if !share.scopes.iter().any(|scope| scope.starts_with("access:servers")) {
                    continue;
                }
                let grantee = match (share.user, share.group) {
                    (Some(user), None) => {
                        let account = Some(user.name.into());
                        Grantee::User(Person { account, ..Person::default() })
                    }
                    (None, Some(group)) => Grantee::PlatformGroup(group.name.into()),
                    _ => continue,
                };
                let server = share.server.name;
                shares.entry((owner.clone(), server)).or_default().push(grantee);
            }
        }
        let mut table = self.table();
        let workspace_of = |key: &(String, String)| -> Option<WorkspaceId> {
            let route =
                |route: &Route| route.body.get("user").and_then(Value::as_str) == Some(&key.0);
            table.routes.iter().find(|(_, all)| all.values().any(route)).map(|(id, _)| id.clone())
        };
        // Only workspaces whose shares have changed are published again.
        let differing = shares.keys().chain(table.shares.keys());
        let differing = differing.filter(|key| shares.get(*key) != table.shares.get(*key));
        let touched: Vec<WorkspaceId> = differing.filter_map(workspace_of).collect();
        table.shares = shares;
        for id in touched {
            self.changed(&mut table, &id);
        }
        Ok(())
    }

    /// Requests all pages of a list.
    async fn pages<T: for<'de> Deserialize<'de>>(&self, path: &str) -> Result<Vec<T>, SourceError> {
        let mut items = Vec::new();
        for _ in 0..MAX_PAGES {
            let request = self.api.get(&format!("{path}?limit={PAGE}&offset={}", items.len()))?;
            let page: Page<T> =
                match http::fetch_optional(request.header(ACCEPT, PAGINATION)).await? {
                    Some(page) => page,
                    // 404: the user was deleted a moment ago.
                    None => return Ok(items),
                };
            let last = page.items.is_empty() || page.pagination.next.is_none();
            items.extend(page.items);
            if last {
                return Ok(items);
            }
        }
        Err(SourceError::Protocol(format!("{path} has no last page")))
    }
}

#[derive(Deserialize)]
struct Page<T> {
    items: Vec<T>,
    #[serde(rename = "_pagination")]
    pagination: Pagination,
}

#[derive(Deserialize)]
struct Pagination {
    next: Option<Value>,
}

#[derive(Deserialize)]
struct Share {
    server: Named,
    #[serde(default)]
    scopes: Vec<String>,
    user: Option<Named>,
    group: Option<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize, Serialize)]
struct User {
    name: String,
    #[serde(default)]
    groups: Vec<String>,
}

impl Source for Hub {
    fn capabilities(&self) -> Capabilities {
        Capabilities { watches: true, reads: false, accounts: true, lists_are_snapshots: true }
    }

    /// Asks the hub to compare its servers with the routes here and to repair them. Then the routes
    /// are complete.
    async fn list(&self) -> Result<Vec<Workspace>, SourceError> {
        let check = self.api.post("proxy")?.body("{}");
        let checking = async { http::check_status(http::send(check).await?).await };
        checking.await?;
        self.fetch_shares().await?;
        let table = self.table();
        let all = table.routes.iter().map(|(id, routes)| self.workspace(id, routes, &table));
        Ok(all.collect())
    }

    async fn read(&self, _: &WorkspaceId) -> Result<Option<Workspace>, SourceError> {
        Err(SourceError::Protocol("a hub is not asked about one server".into()))
    }

    async fn watch(&self, events: mpsc::Sender<SourceEvent>) -> SourceError {
        if events.send(SourceEvent::Connected).await.is_ok() {
            *self.listener.lock() = Some(events.clone());
            events.closed().await;
        }
        SourceError::Unavailable("the agent no longer listens".into())
    }

    async fn accounts(&self) -> Result<Vec<Member>, SourceError> {
        let users: Vec<User> = self.pages("users").await?;
        let member = |user: User| Member {
            account: user.name.as_str().into(),
            person: Person {
                issuers: self.settings.identity_mapping.issuers.clone(),
                username: Some(user.name.as_str().into()),
                ..Person::default()
            },
            label: without_control_characters(&user.name),
            active: true,
            platform_groups: user.groups.into_iter().map(Into::into).collect(),
        };
        Ok(users.into_iter().map(member).collect())
    }
}

/// The destination in a route's target. Servers with a certificate of the hub's own authority
/// (`internal_ssl`) are not supported.
fn destination(target: &str) -> Option<Destination> {
    let url = Url::parse(target).ok()?;
    let port = url.port_or_known_default()?;
    // A server with TLS has a certificate of the hub's own authority, which HAProxy does not know.
    if url.scheme() != "http" {
        return None;
    }
    let address = match url.host()? {
        url::Host::Ipv4(ip) => IpAddr::from(ip),
        url::Host::Ipv6(ip) => IpAddr::from(ip),
        url::Host::Domain(name) => {
            let gateway = NamedServer::parse(&format!("http://{name}:{port}")).ok()?;
            return Some(Destination::NamedServer(Arc::new(gateway)));
        }
    };
    Server::new(address.into(), port).map(Destination::Address)
}

/// Percent-encodes a user name as one segment of a path.
fn encoded(name: &str) -> String {
    /// The characters that never need an escape (RFC 3986 section 2.3).
    const SEGMENT: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    utf8_percent_encode(name, SEGMENT).to_string()
}

#[cfg(test)]
mod tests;
