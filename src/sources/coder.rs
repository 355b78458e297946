//! Coder: the workspaces of a deployment, by its REST API.
//!
//! Coder sends events for one workspace at a time only, so its list is read every few seconds. The
//! workspace id is `NAME--OWNER`, as in Coder's host names. All workspaces are reached through
//! Coder's own proxy, which tells them apart by host; the operator configures its address as a
//! template.

use std::{collections::HashMap, sync::Arc};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::http::{self, PlatformApi};
use crate::workspaces::{
    Admission, AppName, Endpoint, EndpointName, Grant, Grantee, Person, Phase, Protocol, Revision,
    Workspace, WorkspaceId,
    destination::DestinationTemplate,
    directory::Member,
    source::{Capabilities, IdentityMapping, Source, SourceError, SourceEvent},
    without_control_characters,
};

/// The number of items on a page.
const PAGE: usize = 100;
/// More pages than any deployment has, so that an API that never ends does not keep the agent busy
/// forever.
const MAX_PAGES: usize = 10_000;
/// How many workspaces are asked for their port shares at the same time.
const AT_ONCE: usize = 8;

/// The settings of a Coder source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoderSettings {
    /// How users are mapped to identities.
    pub identity_mapping: IdentityMapping,
    /// The address of Coder's proxy.
    pub destination: DestinationTemplate,
    /// The one agent whose ports are served.
    pub agent: Box<str>,
    /// Whether the shared ports of each workspace are requested.
    pub port_shares: bool,
}

/// A Coder deployment.
pub struct Coder {
    api: PlatformApi,
    settings: CoderSettings,
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    workspaces: Vec<Described>,
}

#[derive(Deserialize)]
struct Described {
    id: String,
    name: String,
    owner_id: String,
    owner_name: String,
    #[serde(default)]
    organization_id: String,
    latest_build: Build,
}

#[derive(Deserialize)]
struct Build {
    id: String,
    #[serde(default, rename = "build_number")]
    number: u64,
    #[serde(default)]
    status: String,
    #[serde(default)]
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    #[serde(default)]
    agents: Option<Vec<Agent>>,
}

#[derive(Deserialize)]
struct Agent {
    #[serde(default)]
    name: String,
    #[serde(default)]
    apps: Option<Vec<App>>,
}

#[derive(Deserialize)]
struct App {
    #[serde(default)]
    slug: String,
    #[serde(default)]
    subdomain: bool,
    #[serde(default)]
    external: bool,
    #[serde(default)]
    sharing_level: String,
}

#[derive(Deserialize)]
struct Shares {
    #[serde(default)]
    shares: Vec<PortShare>,
}

#[derive(Deserialize)]
struct PortShare {
    agent_name: String,
    port: u16,
    #[serde(default)]
    share_level: String,
}

#[derive(Deserialize)]
struct Users {
    #[serde(default)]
    users: Vec<User>,
}

#[derive(Deserialize)]
struct User {
    id: String,
    username: String,
    #[serde(default)]
    email: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    organization_ids: Vec<String>,
}

impl Coder {
    /// A deployment, as the credential of `api` sees it.
    #[must_use]
    pub fn new(api: PlatformApi, settings: CoderSettings) -> Self {
        Self { api, settings }
    }

    async fn complete(&self, described: Described) -> Result<Option<Workspace>, SourceError> {
        let shares = if self.settings.port_shares {
            let request =
                self.api.get(&format!("api/v2/workspaces/{}/port-share", described.id))?;
            // 404: the workspace was deleted after the list was made.
            http::fetch_optional::<Shares>(request)
                .await?
                .map(|shares| shares.shares)
                .unwrap_or_default()
        } else {
            vec![]
        };
        Ok(self.workspace(&described, &shares))
    }

    /// Returns the workspace, or `None` if its name cannot be part of a host name.
    fn workspace(&self, described: &Described, shares: &[PortShare]) -> Option<Workspace> {
        let id = format!("{}--{}", described.name, described.owner_name).to_lowercase();
        let id: WorkspaceId = id.parse().ok()?;
        let mut endpoints: Vec<Endpoint> = Vec::new();
        let mut push = |name: EndpointName, level: &str| {
            let Some(destination) = self.settings.destination.render(&id, &name) else { return };
            if endpoints.iter().all(|endpoint| endpoint.name != name) {
                // Coder's applications and shared ports are web pages.
                let (protocol, admission) = (Protocol::Http, admission(level));
                endpoints.push(Endpoint::new(name, protocol, admission, destination));
            }
        };
        let agents = || {
            let resources = described.latest_build.resources.iter();
            resources.flat_map(|resource| resource.agents.iter().flatten())
        };
        for app in agents().flat_map(|agent| agent.apps.iter().flatten()) {
            // The others are links to other sites, or are below a path of the dashboard's host.
            if app.subdomain
                && !app.external
                && let Some(slug) = AppName::new(&app.slug.to_lowercase())
            {
                push(EndpointName::App(slug), &app.sharing_level);
            }
        }
        let has_agent = agents().any(|agent| *agent.name == *self.settings.agent);
        for share in shares.iter().filter(|share| *share.agent_name == *self.settings.agent) {
            if has_agent && share.port != 0 {
                push(EndpointName::Port(share.port), &share.share_level);
            }
        }
        let team = format!("organization:{}", described.organization_id);
        // Coder's level "organization" means the workspace's own organization. Its members are a
        // group of the directory, so a grant to that group stands for it.
        let covered: Vec<_> = endpoints
            .iter()
            .filter(|endpoint| endpoint.admission == Admission::Grants)
            .map(|endpoint| endpoint.name.clone())
            .collect();
        let grant = Grant { to: Grantee::PlatformGroup(team.into()), endpoints: Some(covered) };
        Some(Workspace {
            instance: Some(described.latest_build.id.as_str().into()),
            revision: Revision { spec: Some(described.latest_build.number), status: None },
            organization: self.settings.identity_mapping.organization(),
            owner_label: without_control_characters(&described.owner_name),
            owner: Person {
                account: Some(described.owner_id.as_str().into()),
                ..Person::default()
            },
            grants: if described.organization_id.is_empty() { vec![] } else { vec![grant] },
            phase: phase(&described.latest_build.status),
            address: None,
            // The owner may reach any port of a workspace, shared or not.
            template: has_agent.then(|| Arc::new(self.settings.destination.clone())),
            endpoints,
            paths: vec![],
            id,
        })
    }
}

impl Source for Coder {
    fn capabilities(&self) -> Capabilities {
        Capabilities { watches: false, reads: true, accounts: true, lists_are_snapshots: false }
    }

    async fn list(&self) -> Result<Vec<Workspace>, SourceError> {
        let mut described = Vec::new();
        for _ in 0..MAX_PAGES {
            let offset = described.len();
            let path = format!("api/v2/workspaces?q=status:running&limit={PAGE}&offset={offset}");
            let page: Page = http::fetch(self.api.get(&path)?).await?;
            let last = page.workspaces.len() < PAGE;
            described.extend(page.workspaces);
            if last {
                let completed = stream::iter(described).map(|described| self.complete(described));
                let all: Vec<_> = completed.buffer_unordered(AT_ONCE).try_collect().await?;
                return Ok(all.into_iter().flatten().collect());
            }
        }
        Err(SourceError::Protocol("the list of workspaces has no last page".into()))
    }

    async fn read(&self, id: &WorkspaceId) -> Result<Option<Workspace>, SourceError> {
        // Coder's names never contain two hyphens in a row.
        let Some((name, owner)) = id.as_str().split_once("--") else { return Ok(None) };
        let path = format!("api/v2/users/{owner}/workspace/{name}");
        match http::fetch_optional::<Described>(self.api.get(&path)?).await? {
            Some(described) => self.complete(described).await,
            None => Ok(None),
        }
    }

    async fn watch(&self, _: mpsc::Sender<SourceEvent>) -> SourceError {
        SourceError::Protocol("Coder tells of one workspace at a time".into())
    }

    async fn accounts(&self) -> Result<Vec<Member>, SourceError> {
        let mut members: HashMap<String, Member> = HashMap::new();
        for page in 0..MAX_PAGES {
            let path = format!("api/v2/users?limit={PAGE}&offset={}", page * PAGE);
            let users: Users = http::fetch(self.api.get(&path)?).await?;
            let last = users.users.len() < PAGE;
            members
                .extend(users.users.into_iter().map(|user| (user.id.clone(), self.member(&user))));
            if last {
                return Ok(members.into_values().collect());
            }
        }
        Err(SourceError::Protocol("the list of users has no last page".into()))
    }
}

impl Coder {
    fn member(&self, user: &User) -> Member {
        let email = Some(user.email.to_ascii_lowercase()).filter(|email| !email.is_empty());
        Member {
            account: user.id.as_str().into(),
            label: without_control_characters(&user.username),
            person: Person {
                issuers: self.settings.identity_mapping.issuers.clone(),
                email: email.as_deref().map(Into::into),
                username: Some(user.username.as_str().into()),
                ..Person::default()
            },
            // "dormant" means a long time without a sign-in. The user becomes active again by
            // signing in.
            active: matches!(user.status.as_str(), "active" | "dormant"),
            platform_groups: user
                .organization_ids
                .iter()
                .map(|organization| format!("organization:{organization}").into())
                .collect(),
        }
    }
}

fn phase(status: &str) -> Phase {
    match status {
        "pending" | "starting" => Phase::Provisioning,
        "running" => Phase::Running,
        "stopping" | "canceling" => Phase::Stopping,
        "stopped" | "canceled" => Phase::Stopped,
        "deleting" | "deleted" => Phase::Deleted,
        "failed" => Phase::Failed,
        _ => Phase::Unknown,
    }
}

/// Maps a sharing level. An unknown level admits only the owner.
fn admission(level: &str) -> Admission {
    match level {
        // The workspace's own organization, by a grant.
        "organization" => Admission::Grants,
        // All users of the deployment.
        "authenticated" => Admission::Organization,
        "public" => Admission::Public,
        _ => Admission::Owner,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspaces::IssuerNames;

    fn coder() -> Coder {
        let settings = CoderSettings {
            identity_mapping: IdentityMapping {
                issuers: IssuerNames::one("corp"),
                organization: None,
            },
            destination: DestinationTemplate::parse("backend:coder").unwrap(),
            agent: "main".into(),
            port_shares: true,
        };
        let url = "http://127.0.0.1:9".parse().unwrap();
        Coder::new(PlatformApi::new(url, None, "Coder-Session-Token:", None).unwrap(), settings)
    }

    #[test]
    fn a_workspace_has_its_apps_and_shared_ports() {
        let described: Described = serde_json::from_str(
            r#"{"id":"1","name":"Dev","owner_id":"u1","owner_name":"alice","organization_id":"o1",
            "latest_build":{"id":"b7","build_number":7,"status":"running","resources":[
              {"agents":[{"name":"main","apps":[
                {"slug":"code","subdomain":true,"sharing_level":"owner"},
                {"slug":"wiki","subdomain":true,"sharing_level":"authenticated"},
                {"slug":"odd","subdomain":true,"sharing_level":"unheard-of"},
                {"slug":"docs","external":true,"subdomain":true,"sharing_level":"public"},
                {"slug":"path","subdomain":false,"sharing_level":"public"}]}]},
              {"agents":null}]}}"#,
        )
        .unwrap();
        let shares: Shares = serde_json::from_str(
            r#"{"shares":[{"agent_name":"main","port":8080,"share_level":"public"},
            {"agent_name":"main","port":9090,"share_level":"organization"},
            {"agent_name":"gpu","port":7070,"share_level":"public"}]}"#,
        )
        .unwrap();
        let workspace = coder().workspace(&described, &shares.shares).unwrap();
        assert_eq!(workspace.id.as_str(), "dev--alice");
        let endpoints: Vec<_> =
            workspace.endpoints.iter().map(|e| format!("{} {}", e.name, e.admission)).collect();
        assert_eq!(
            endpoints,
            [
                "app:code owner",
                "app:wiki organization",
                "app:odd owner",
                "port:8080 public",
                "port:9090 grants"
            ]
        );
        let covered = workspace.grants[0].endpoints.as_ref().unwrap();
        assert_eq!(covered, &[EndpointName::Port(9090)]);
    }

    #[test]
    fn a_suspended_user_is_not_active() {
        let user = |status: &str| User {
            id: "u".into(),
            username: "alice".into(),
            email: "Alice@Example.com".into(),
            status: status.into(),
            organization_ids: vec![],
        };
        for (status, active) in
            [("active", true), ("dormant", true), ("suspended", false), ("", false), ("new", false)]
        {
            assert_eq!(coder().member(&user(status)).active, active, "{status}");
        }
        let person = coder().member(&user("active")).person;
        assert_eq!(person.email.as_deref(), Some("alice@example.com"));
    }
}
