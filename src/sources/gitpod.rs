//! Gitpod classic: the workspaces of an organization, by the public API (v1).
//!
//! The stream of events covers only the workspaces of the token's owner, so the list of the
//! organization is read every few seconds as well. The API has no addresses: all workspaces are
//! reached through Gitpod's `ws-proxy`, which tells them apart by host; the operator configures its
//! address as a template.

use std::collections::HashSet;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{
    connect::{self, Stream},
    http::PlatformApi,
};
use crate::workspaces::{
    Admission, Endpoint, EndpointName, Person, Phase, Protocol, Revision, Workspace, WorkspaceId,
    destination::DestinationTemplate,
    directory::Member,
    source::{Capabilities, IdentityMapping, Source, SourceError, SourceEvent},
};

/// The largest page that the API returns.
const PAGE: usize = 400;
/// More pages than any organization has, so that an API that never ends does not keep the agent
/// busy forever.
const MAX_PAGES: usize = 10_000;

/// The settings of a Gitpod source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitpodSettings {
    /// Gitpod's id of the organization.
    pub id: Box<str>,
    /// How members are mapped to identities.
    pub identity_mapping: IdentityMapping,
    /// The address of `ws-proxy`.
    pub destination: DestinationTemplate,
    /// The longest life of a workspace in days. Older workspaces are not listed.
    pub lookback_days: i64,
}

/// A Gitpod organization.
pub struct Gitpod {
    api: PlatformApi,
    settings: GitpodSettings,
}

impl Gitpod {
    /// An organization, as the credential of `api` sees it. The token's owner must be an owner of
    /// the organization.
    #[must_use]
    pub fn new(api: PlatformApi, settings: GitpodSettings) -> Self {
        Self { api, settings }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        message: &Value,
    ) -> Result<Option<T>, SourceError> {
        connect::call(&self.api, &format!("gitpod.v1.{method}"), message).await
    }

    /// Requests one page of a list. The first page is 0.
    async fn page(
        &self,
        method: &str,
        items: &str,
        mut request: Value,
        page: usize,
    ) -> Result<Vec<Value>, SourceError> {
        if let Some(request) = request.as_object_mut() {
            request.insert("organizationId".into(), json!(self.settings.id));
            request.insert("pagination".into(), json!({ "pageSize": PAGE, "page": page }));
        }
        let answer: Option<Value> = self.call(method, &request).await?;
        let answer =
            answer.ok_or_else(|| SourceError::Protocol(format!("{method} says not_found")))?;
        Ok(answer.get(items).and_then(Value::as_array).cloned().unwrap_or_default())
    }

    fn workspace(&self, described: &Value) -> Option<Workspace> {
        let id: WorkspaceId = text(described, "/id")?.parse().ok()?;
        let whole = admission(text(described, "/spec/admission"));
        let mut endpoints = Vec::new();
        let mut push = |name: EndpointName, admission| {
            if let Some(destination) = self.settings.destination.render(&id, &name) {
                // Gitpod's protocols for a port are HTTP and HTTPS only.
                let protocol = Protocol::Http;
                endpoints.push(Endpoint::new(name, protocol, admission, destination));
            }
        };
        push(EndpointName::Main, whole);
        let ports = described.pointer("/spec/ports").and_then(Value::as_array);
        let mut seen = HashSet::new();
        for port in ports.into_iter().flatten() {
            let number = connect::number(port.get("port")).and_then(|n| u16::try_from(n).ok());
            if let Some(number) = number.filter(|n| *n != 0 && seen.insert(*n)) {
                // A public workspace makes its ports public. A public port does not make anything
                // else public.
                let own = admission(text(port, "/admission"));
                push(EndpointName::Port(number), own.max(whole));
            }
        }
        let owner = text(described, "/metadata/ownerId").unwrap_or_default();
        Some(Workspace {
            instance: text(described, "/status/instanceId").map(Into::into),
            revision: Revision {
                spec: None,
                status: connect::number(described.pointer("/status/statusVersion")),
            },
            organization: self.settings.identity_mapping.organization(),
            owner_label: owner.into(),
            owner: Person {
                account: (!owner.is_empty()).then(|| owner.into()),
                ..Person::default()
            },
            grants: vec![],
            phase: phase(text(described, "/status/phase/name")),
            address: None,
            template: Some(std::sync::Arc::new(self.settings.destination.clone())),
            endpoints,
            paths: vec![],
            id,
        })
    }
}

impl Source for Gitpod {
    fn capabilities(&self) -> Capabilities {
        // The list contains sessions. New sessions are added at its beginning, so its pages miss
        // none.
        Capabilities { watches: true, reads: true, accounts: true, lists_are_snapshots: true }
    }

    async fn list(&self) -> Result<Vec<Workspace>, SourceError> {
        let days = self.settings.lookback_days;
        let now = jiff::Timestamp::now();
        let hours = |hours: i64| jiff::SignedDuration::from_hours(hours);
        let moments = now
            .checked_sub(hours(days.saturating_mul(24)))
            .and_then(|from| Ok((from, now.checked_add(hours(24))?)));
        let (from, to) = moments.map_err(|e| SourceError::Protocol(e.to_string()))?;
        // Without an end, the API lists the week before now.
        let request = json!({ "from": from.to_string(), "to": to.to_string() });
        let (mut seen, mut workspaces) = (HashSet::new(), Vec::new());
        for page in 0..MAX_PAGES {
            let method = "WorkspaceService/ListWorkspaceSessions";
            let sessions = self.page(method, "workspaceSessions", request.clone(), page).await?;
            for session in &sessions {
                let described = session.get("workspace").unwrap_or(&Value::Null);
                // No person can enter a prebuild.
                if text(described, "/spec/type") == Some("WORKSPACE_TYPE_PREBUILD") {
                    continue;
                }
                let Some(workspace) = self.workspace(described) else { continue };
                // The newest session of a workspace comes first, and the older ones are history.
                let newest = seen.insert(workspace.id.clone());
                let over = matches!(workspace.phase, Phase::Stopped | Phase::Deleted);
                if newest && !over {
                    workspaces.push(workspace);
                }
            }
            if sessions.len() < PAGE {
                return Ok(workspaces);
            }
        }
        Err(SourceError::Protocol("the list of sessions has no last page".into()))
    }

    async fn read(&self, id: &WorkspaceId) -> Result<Option<Workspace>, SourceError> {
        let request = json!({ "workspaceId": id.as_str() });
        let answer = match self.call("WorkspaceService/GetWorkspace", &request).await {
            Ok(Some(answer)) => answer,
            Ok(None) => return Ok(None),
            // An owner of the organization may list all workspaces but read only their own. The
            // credential is right.
            Err(SourceError::Forbidden(text)) => {
                return Err(SourceError::Unavailable(format!(
                    "another member's workspace: {text}"
                )));
            }
            Err(error) => return Err(error),
        };
        let answer: Value = answer;
        let described = answer.get("workspace").unwrap_or(&Value::Null);
        // A workspace of another organization does not belong to this source.
        if text(described, "/metadata/organizationId").is_some_and(|o| *o != *self.settings.id) {
            return Ok(None);
        }
        self.workspace(described)
            .map(Some)
            .ok_or_else(|| SourceError::Protocol("a workspace without a usable id".into()))
    }

    async fn watch(&self, events: mpsc::Sender<SourceEvent>) -> SourceError {
        let method = "gitpod.v1.WorkspaceService/WatchWorkspaceStatus";
        let mut stream = match Stream::open(&self.api, method, &json!({})).await {
            Ok(stream) => stream,
            Err(error) => return error,
        };
        loop {
            // The first message is empty: it says that the stream is established.
            let event = match stream.next::<Value>().await {
                Err(error) => return error,
                Ok(message) => match text(&message, "/workspaceId").map(str::parse) {
                    Some(Ok(id)) => SourceEvent::Changed(id),
                    Some(Err(_)) => continue,
                    None => SourceEvent::Connected,
                },
            };
            if events.send(event).await.is_err() {
                return SourceError::Unavailable("the agent no longer listens".into());
            }
        }
    }

    async fn accounts(&self) -> Result<Vec<Member>, SourceError> {
        let (mut seen, mut members) = (HashSet::new(), Vec::new());
        for page in 0..MAX_PAGES {
            let method = "OrganizationService/ListOrganizationMembers";
            let found = self.page(method, "members", json!({}), page).await?;
            let found: Vec<_> = found.iter().filter_map(|member| self.member(member)).collect();
            let before = members.len();
            members.extend(found.into_iter().filter(|m| seen.insert(m.account.clone())));
            // Some lists of this API count pages from 0 and some from 1; the latter return the
            // first page for 0 too.
            if page > 0 && members.len() == before {
                return Ok(members);
            }
        }
        Err(SourceError::Protocol("the list of members has no last page".into()))
    }
}

impl Gitpod {
    fn member(&self, member: &Value) -> Option<Member> {
        let account = text(member, "/userId")?;
        let email = text(member, "/email").map(str::to_ascii_lowercase);
        let label = email.as_deref().or(text(member, "/fullName")).unwrap_or(account);
        Some(Member {
            account: account.into(),
            label: label.into(),
            person: Person {
                issuers: self.settings.identity_mapping.issuers.clone(),
                email: email.as_deref().map(Into::into),
                ..Person::default()
            },
            // A member who has left is not in the list.
            active: true,
            platform_groups: vec![],
        })
    }
}

fn text<'v>(value: &'v Value, pointer: &str) -> Option<&'v str> {
    let text = value.pointer(pointer)?.as_str()?;
    (!text.is_empty() && !text.chars().any(char::is_control)).then_some(text)
}

fn phase(name: Option<&str>) -> Phase {
    match name.and_then(|name| name.strip_prefix("PHASE_")) {
        Some("PREPARING" | "IMAGEBUILD" | "PENDING" | "CREATING" | "INITIALIZING") => {
            Phase::Provisioning
        }
        Some("RUNNING") => Phase::Running,
        Some("INTERRUPTED") => Phase::Interrupted,
        Some("STOPPING") => Phase::Stopping,
        Some("STOPPED" | "PAUSED") => Phase::Stopped,
        _ => Phase::Unknown,
    }
}

/// Maps a sharing level. An unknown level admits only the owner.
fn admission(level: Option<&str>) -> Admission {
    match level {
        Some("ADMISSION_LEVEL_EVERYONE") => Admission::Public,
        _ => Admission::Owner,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspaces::IssuerNames;

    fn gitpod() -> Gitpod {
        let settings = GitpodSettings {
            id: "o1".into(),
            identity_mapping: IdentityMapping {
                issuers: IssuerNames::one("corp"),
                organization: None,
            },
            destination: DestinationTemplate::parse("backend:ws-proxy").unwrap(),
            lookback_days: 14,
        };
        let url = "http://127.0.0.1:9".parse().unwrap();
        Gitpod::new(PlatformApi::new(url, None, "Bearer ", None).unwrap(), settings)
    }

    #[test]
    fn an_open_port_opens_nothing_else_and_an_open_workspace_its_ports() {
        let described = |whole: &str| {
            json!({
                "id": "pinkpanda-demo-ns35kd21abc",
                "metadata": { "ownerId": "u1", "organizationId": "o1" },
                "spec": { "admission": whole, "ports": [
                    { "port": "3000", "admission": "ADMISSION_LEVEL_EVERYONE" },
                    { "port": "4000", "admission": "ADMISSION_LEVEL_OWNER_ONLY" },
                    { "port": "3000", "admission": "ADMISSION_LEVEL_OWNER_ONLY" },
                    { "port": "0" }, { "port": "70000" },
                ]},
                "status": { "statusVersion": "1697487533", "phase": { "name": "PHASE_RUNNING" },
                            "instanceId": "i1" },
            })
        };
        let endpoints = |whole: &str| -> Vec<String> {
            let workspace = gitpod().workspace(&described(whole)).unwrap();
            assert_eq!(workspace.revision.status, Some(1_697_487_533));
            workspace.endpoints.iter().map(|e| format!("{} {}", e.name, e.admission)).collect()
        };
        assert_eq!(
            endpoints("ADMISSION_LEVEL_OWNER_ONLY"),
            ["main owner", "port:3000 public", "port:4000 owner"]
        );
        assert_eq!(
            endpoints("ADMISSION_LEVEL_EVERYONE"),
            ["main public", "port:3000 public", "port:4000 public"]
        );
        assert_eq!(endpoints("ADMISSION_LEVEL_NEW")[0], "main owner");
    }
}
