//! Ona (formerly Gitpod Flex): the environments of an organization, by its public API.
//!
//! The stream of events only names what changed, without versions, replay or heartbeat, so
//! environments are always read by `GetEnvironment` and `ListEnvironments`. Ports are behind a
//! gateway of the platform, under host names that the platform assigns, unless the operator's
//! template says where they are.

use std::{collections::HashMap, sync::Arc};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::sync::{OnceCell, mpsc};
use tracing::debug;

use super::{
    connect::{self, Stream},
    http::PlatformApi,
};
use crate::{
    lock::Mutex,
    workspaces::{
        Admission, Destination, Endpoint, EndpointName, Grant, Grantee, NamedServer, Person, Phase,
        Protocol, Revision, Workspace, WorkspaceId,
        destination::DestinationTemplate,
        directory::Member,
        source::{Capabilities, IdentityMapping, Source, SourceError, SourceEvent},
    },
};

/// The number of items on a page; the limit of the API.
const PAGE: u32 = 100;
/// More pages than any organization has, so that an API that never ends does not keep the agent
/// busy forever.
const MAX_PAGES: usize = 20_000;

/// The settings of an Ona source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnaSettings {
    /// How members are mapped to identities.
    pub identity_mapping: IdentityMapping,
    /// Where the ports of environments are, instead of the platform's gateway.
    pub destination: Option<DestinationTemplate>,
    /// Whether users and administrators of an environment reach ports that only its creator reaches
    /// otherwise.
    pub shares: bool,
    /// Whether the policies of the organization are requested, which limit who may reach ports.
    pub policies: bool,
}

/// An Ona organization.
pub struct Ona {
    api: PlatformApi,
    settings: OnaSettings,
    organization: OnceCell<String>,
    /// The context of the last list, for environments that are read one by one.
    context: Mutex<Arc<OrganizationContext>>,
}

/// Facts of the organization that are needed to read an environment's description.
#[derive(Default)]
struct OrganizationContext {
    /// The organization's limit for who may reach a port.
    cap: Option<Admission>,
    /// The groups that each environment is shared with.
    shared: HashMap<String, Vec<Box<str>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    #[serde(default)]
    pagination: Pagination,
    #[serde(
        default,
        alias = "environments",
        alias = "members",
        alias = "groups",
        alias = "assignments"
    )]
    items: Vec<Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pagination {
    #[serde(default)]
    next_token: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EventHint {
    #[serde(default)]
    operation: String,
    #[serde(default)]
    resource_type: String,
    #[serde(default)]
    resource_id: String,
}

impl Ona {
    /// An organization, as the credential of `api` sees it.
    #[must_use]
    pub fn new(api: PlatformApi, settings: OnaSettings) -> Self {
        Self { api, settings, organization: OnceCell::new(), context: Mutex::default() }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        message: &Value,
    ) -> Result<T, SourceError> {
        let answer = connect::call(&self.api, &format!("gitpod.v1.{method}"), message).await?;
        answer.ok_or_else(|| SourceError::Protocol(format!("{method} says not_found")))
    }

    /// Requests all pages of a list.
    async fn pages(&self, method: &str, request: Value) -> Result<Vec<Value>, SourceError> {
        let mut items = Vec::new();
        let mut token = String::new();
        for _ in 0..MAX_PAGES {
            let mut request = request.clone();
            if let Some(request) = request.as_object_mut() {
                request.insert("pagination".into(), json!({ "pageSize": PAGE, "token": token }));
            }
            let page: Page = self.call(method, &request).await?;
            items.extend(page.items);
            if page.pagination.next_token.is_empty() {
                return Ok(items);
            }
            // The same token again would request the same page again and again.
            if page.pagination.next_token == token {
                break;
            }
            token = page.pagination.next_token;
        }
        Err(SourceError::Protocol(format!("{method} has no last page")))
    }

    async fn organization(&self) -> Result<&str, SourceError> {
        let ask = async || {
            let identity: Value =
                self.call("IdentityService/GetAuthenticatedIdentity", &json!({})).await?;
            text(&identity, "/organizationId").map(str::to_owned).ok_or_else(|| {
                SourceError::Protocol("the credential belongs to no organization".into())
            })
        };
        self.organization.get_or_try_init(ask).await.map(String::as_str)
    }

    /// Requests the organization's limit for who may reach a port.
    async fn cap(&self) -> Result<Option<Admission>, SourceError> {
        if !self.settings.policies {
            return Ok(None);
        }
        let request = json!({ "organizationId": self.organization().await? });
        let answer: Value =
            self.call("OrganizationService/GetOrganizationPolicies", &request).await?;
        let policies = answer.get("policies").unwrap_or(&Value::Null);
        // Without port sharing, only creators reach their ports.
        if policies.get("portSharingDisabled") == Some(&Value::Bool(true)) {
            return Ok(Some(Admission::Owner));
        }
        Ok(match text(policies, "/maxPortAdmissionLevel") {
            None | Some("ADMISSION_LEVEL_UNSPECIFIED") => None,
            Some(level) => Some(admission(Some(level))),
        })
    }

    /// Requests the groups that environments are shared with.
    async fn shared(&self) -> Result<HashMap<String, Vec<Box<str>>>, SourceError> {
        let mut shared: HashMap<String, Vec<Box<str>>> = HashMap::new();
        if !self.settings.shares {
            return Ok(shared);
        }
        let filter = json!({ "filter": {
            "resourceTypes": ["RESOURCE_TYPE_ENVIRONMENT"],
            "resourceRoles": ["RESOURCE_ROLE_ENVIRONMENT_ADMIN", "RESOURCE_ROLE_ENVIRONMENT_USER"],
        }});
        for assignment in self.pages("GroupService/ListRoleAssignments", filter).await? {
            let role = text(&assignment, "/resourceRole");
            // The platform should have filtered by role. An assignment of another role must not
            // grant access, so it is checked again.
            if !matches!(
                role,
                Some("RESOURCE_ROLE_ENVIRONMENT_ADMIN" | "RESOURCE_ROLE_ENVIRONMENT_USER")
            ) {
                continue;
            }
            let pair = text(&assignment, "/resourceId").zip(text(&assignment, "/groupId"));
            if let Some((environment, group)) = pair {
                shared.entry(environment.into()).or_default().push(group.into());
            }
        }
        Ok(shared)
    }

    fn context(&self) -> Arc<OrganizationContext> {
        Arc::clone(&self.context.lock())
    }

    /// The environment as a workspace, or `None` if its id is not valid.
    fn workspace(&self, environment: &Value, context: &OrganizationContext) -> Option<Workspace> {
        let id: WorkspaceId = text(environment, "/id")?.parse().ok()?;
        let creator = text(environment, "/metadata/creator/id").unwrap_or_default();
        let person = text(environment, "/metadata/creator/principal") == Some("PRINCIPAL_USER");
        let owner = Person {
            // Accounts of services and runners belong to no person, so such an environment has no
            // owner here.
            account: (person && !creator.is_empty()).then(|| creator.into()),
            ..Person::default()
        };
        let platform_groups = context.shared.get(id.as_str()).into_iter().flatten();
        let grants = platform_groups
            .map(|team| Grant { to: Grantee::PlatformGroup(team.clone()), endpoints: None })
            .collect();
        let started = text(environment, "/metadata/lastStartedAt");
        let counter = |pointer| connect::number(environment.pointer(pointer));
        Some(Workspace {
            instance: started.map(Into::into),
            revision: Revision {
                spec: counter("/spec/specVersion"),
                status: counter("/status/statusVersion"),
            },
            organization: self.settings.identity_mapping.organization(),
            owner_label: creator.into(),
            owner,
            grants,
            phase: phase(text(environment, "/status/phase")),
            address: None,
            template: None,
            endpoints: self.endpoints(environment, &id, context),
            paths: vec![],
            id,
        })
    }

    fn endpoints(
        &self,
        environment: &Value,
        id: &WorkspaceId,
        context: &OrganizationContext,
    ) -> Vec<Endpoint> {
        let list = |pointer| environment.pointer(pointer).and_then(Value::as_array);
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for port in list("/spec/ports").into_iter().flatten() {
            let number = port.get("port").and_then(Value::as_u64);
            let Some(number) = number.and_then(|n| u16::try_from(n).ok()).filter(|n| *n != 0)
            else {
                continue;
            };
            let name = EndpointName::Port(number);
            let url = list("/status/environmentUrls/ports")
                .into_iter()
                .flatten()
                .find(|url| url.get("port").and_then(Value::as_u64) == Some(number.into()));
            let url = url.and_then(|url| text(url, "/url"));
            let destination = match &self.settings.destination {
                Some(template) => template.render(id, &name),
                None => url.and_then(|url| NamedServer::parse(url).ok()).map(|server| {
                    Destination::NamedServer(Arc::new(server.with_own_host_header()))
                }),
            };
            let Some(destination) = destination else {
                debug!(workspace = %id, port = number, "the port has no place yet");
                continue;
            };
            let stated = admission(text(port, "/admission"));
            let stated = stated.min(context.cap.unwrap_or(Admission::Public));
            let admission =
                // Shares become grants, so the level must let grants in.
                if self.settings.shares { stated.max(Admission::Grants) } else { stated };
            if endpoints.iter().all(|endpoint| endpoint.name != name) {
                // Ona's protocols for a port are HTTP and HTTPS only.
                let protocol = Protocol::Http;
                endpoints.push(Endpoint::new(name, protocol, admission, destination));
            }
        }
        endpoints
    }
}

impl Source for Ona {
    fn capabilities(&self) -> Capabilities {
        Capabilities { watches: true, reads: true, accounts: true, lists_are_snapshots: false }
    }

    async fn list(&self) -> Result<Vec<Workspace>, SourceError> {
        let context =
            Arc::new(OrganizationContext { cap: self.cap().await?, shared: self.shared().await? });
        *self.context.lock() = Arc::clone(&context);
        let request = json!({ "filter": { "archivalStatus": "ARCHIVAL_STATUS_ALL", "statusPhases": [
            "ENVIRONMENT_PHASE_CREATING",
            "ENVIRONMENT_PHASE_STARTING",
            "ENVIRONMENT_PHASE_RUNNING",
            "ENVIRONMENT_PHASE_UPDATING",
        ]}});
        let environments = self.pages("EnvironmentService/ListEnvironments", request).await?;
        Ok(environments.iter().filter_map(|e| self.workspace(e, &context)).collect())
    }

    async fn read(&self, id: &WorkspaceId) -> Result<Option<Workspace>, SourceError> {
        let request = json!({ "environmentId": id.as_str() });
        let method = "gitpod.v1.EnvironmentService/GetEnvironment";
        let answer: Option<Value> = connect::call(&self.api, method, &request).await?;
        let Some(answer) = answer else { return Ok(None) };
        let environment = answer.get("environment").unwrap_or(&Value::Null);
        self.workspace(environment, &self.context())
            .map(Some)
            .ok_or_else(|| SourceError::Protocol("an environment without a usable id".into()))
    }

    async fn watch(&self, events: mpsc::Sender<SourceEvent>) -> SourceError {
        let types = [
            "ENVIRONMENT",
            "USER",
            "GROUP",
            "GROUP_MEMBERSHIP_CHANGED",
            "ROLE_ASSIGNMENT",
            "ROLE_ASSIGNMENT_CHANGED",
            "ORGANIZATION_POLICY",
        ];
        let filters: Vec<_> =
            types.iter().map(|t| json!({ "resourceType": format!("RESOURCE_TYPE_{t}") })).collect();
        let request = json!({ "organization": true, "resourceTypeFilters": filters });
        let opened = Stream::open(&self.api, "gitpod.v1.EventService/WatchEvents", &request).await;
        let mut stream = match opened {
            Ok(stream) => stream,
            Err(error) => return error,
        };
        // The server has accepted the stream, so events arrive from here on.
        let mut event = SourceEvent::Connected;
        loop {
            if events.send(event).await.is_err() {
                return SourceError::Unavailable("the agent no longer listens".into());
            }
            event = loop {
                match stream.next::<EventHint>().await {
                    Err(error) => return error,
                    Ok(hint) => {
                        if let Some(event) = hint.event() {
                            break event;
                        }
                    }
                }
            };
        }
    }

    async fn accounts(&self) -> Result<Vec<Member>, SourceError> {
        let request = json!({ "organizationId": self.organization().await? });
        let people = self.pages("OrganizationService/ListMembers", request).await?;
        let mut platform_groups: HashMap<String, Vec<Box<str>>> = HashMap::new();
        if self.settings.shares {
            for group in self.pages("GroupService/ListGroups", json!({})).await? {
                let Some(group) = text(&group, "/id") else { continue };
                let request = json!({ "groupId": group });
                for member in self.pages("GroupService/ListMemberships", request).await? {
                    if let Some(subject) = text(&member, "/subject/id") {
                        platform_groups.entry(subject.into()).or_default().push(group.into());
                    }
                }
            }
        }
        let member = |person: &Value| {
            let account = text(person, "/userId")?;
            let email = text(person, "/email").map(str::to_ascii_lowercase);
            let label = email.as_deref().or(text(person, "/fullName")).unwrap_or(account);
            Some(Member {
                account: account.into(),
                label: label.into(),
                person: Person {
                    issuers: self.settings.identity_mapping.issuers.clone(),
                    email: email.as_deref().map(Into::into),
                    ..Person::default()
                },
                active: text(person, "/status") == Some("USER_STATUS_ACTIVE"),
                platform_groups: platform_groups.remove(account).unwrap_or_default(),
            })
        };
        let mut member = member;
        Ok(people.iter().filter_map(&mut member).collect())
    }
}

impl EventHint {
    fn event(&self) -> Option<SourceEvent> {
        match self.resource_type.strip_prefix("RESOURCE_TYPE_")? {
            "ENVIRONMENT" => {
                let id = self.resource_id.parse().ok()?;
                Some(if self.operation == "RESOURCE_OPERATION_DELETE" {
                    SourceEvent::Ended(id)
                } else {
                    SourceEvent::Changed(id)
                })
            }
            "USER" | "GROUP" | "GROUP_MEMBERSHIP_CHANGED" => Some(SourceEvent::Accounts),
            "ROLE_ASSIGNMENT" | "ROLE_ASSIGNMENT_CHANGED" | "ORGANIZATION_POLICY" => {
                Some(SourceEvent::AnyWorkspace)
            }
            _ => None,
        }
    }
}

fn text<'v>(value: &'v Value, pointer: &str) -> Option<&'v str> {
    let text = value.pointer(pointer)?.as_str()?;
    // What stands in headers and logs has no control characters.
    (!text.is_empty() && !text.chars().any(char::is_control)).then_some(text)
}

fn phase(text: Option<&str>) -> Phase {
    match text.and_then(|text| text.strip_prefix("ENVIRONMENT_PHASE_")) {
        Some("CREATING" | "STARTING") => Phase::Provisioning,
        Some("RUNNING") => Phase::Running,
        Some("UPDATING") => Phase::Updating,
        Some("STOPPING") => Phase::Stopping,
        Some("STOPPED") => Phase::Stopped,
        Some("DELETING" | "DELETED") => Phase::Deleted,
        _ => Phase::Unknown,
    }
}

/// Maps a sharing level. An unknown level admits only the owner.
fn admission(level: Option<&str>) -> Admission {
    match level.and_then(|level| level.strip_prefix("ADMISSION_LEVEL_")) {
        Some("EVERYONE") => Admission::Public,
        Some("ORGANIZATION") => Admission::Organization,
        _ => Admission::Owner,
    }
}
