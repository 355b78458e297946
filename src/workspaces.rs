//! The model of workspaces: identifiers, endpoints, owners, grants and phases.
//!
//! A [`Workspace`] is what a source last reported about one development environment. Host names are
//! mapped to workspace ids by [`pattern`]; the [`registry`] holds the current workspaces of every
//! [`source`]; [`reconcile`] keeps them up to date; a [`directory`] maps the accounts of a platform
//! to identities; a [`destination`] says where requests for an endpoint go, and [`cross_origin`]
//! which pages of other origins may send them.
//!
//! This module knows nothing about requests and decides nothing. Who asks is [`crate::identity`],
//! and whether that person may reach the endpoint is [`crate::authz::decision`].
//!
//! Invariant: a [`WorkspaceId`], an [`AppName`] and a [`host::Host`] that exist are valid, so they
//! can stand in headers, logs and host names without another check.

use std::{fmt, str::FromStr, sync::Arc};

use strum::{Display, IntoStaticStr, VariantArray};
use thiserror::Error;

pub mod cross_origin;
pub mod destination;
pub mod directory;
pub mod host;
pub mod pattern;
mod person;
pub mod reconcile;
pub mod registry;
pub mod source;

pub use cross_origin::{CorsAnswers, CrossOrigin, EndpointOrigins};
pub use destination::{Destination, NamedServer};
pub use person::{IssuerNames, Organization, Person};

/// The longest workspace id, in bytes.
pub const MAX_ID_LENGTH: usize = 128;

/// The platform's id of a workspace, as it stands in host names.
///
/// It has 1 to [`MAX_ID_LENGTH`] bytes: lower-case letters, digits, `-`, `_` and `.`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkspaceId(Arc<str>);

/// The error of parsing a [`WorkspaceId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a workspace id has 1 to {MAX_ID_LENGTH} lower-case letters, digits, '-', '_' or '.'")]
pub struct IdError;

impl WorkspaceId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for WorkspaceId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let clean =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
        if text.is_empty() || text.len() > MAX_ID_LENGTH || !text.bytes().all(clean) {
            return Err(IdError);
        }
        Ok(Self(text.into()))
    }
}

/// Removes control characters from a name that a platform chose, since it is sent in headers and
/// written to logs.
pub(crate) fn without_control_characters(name: &str) -> Arc<str> {
    name.chars().filter(|c| !c.is_control()).collect::<String>().into()
}

// Lets a map with ids as keys be searched by the text that a host pattern captured, without an
// allocation.
impl std::borrow::Borrow<str> for WorkspaceId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkspaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for WorkspaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WorkspaceId({})", self.0)
    }
}

/// The name of one endpoint of a workspace.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum EndpointName {
    /// The editor: the workspace's own host, without a port.
    Main,
    /// A port on which a process in the workspace listens.
    Port(u16),
    /// An application, by the name that the platform gave it.
    App(AppName),
}

/// The name of an application: 1 to [`MAX_APP_LENGTH`] bytes without control characters.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct AppName(Arc<str>);

/// The longest name of an application in bytes: it must fit into one label of a host name.
pub const MAX_APP_LENGTH: usize = 63;

impl AppName {
    /// Returns the name, or `None` if the text is empty, too long, or has control characters.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let clean = !text.is_empty() && !text.chars().any(char::is_control);
        (clean && text.len() <= MAX_APP_LENGTH).then(|| Self(text.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl EndpointName {
    /// Parses the text that `Display` writes: `main`, `port:NUMBER` or `app:NAME`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            None if text == "main" => Some(Self::Main),
            Some(("port", port)) => port.parse().ok().map(Self::Port),
            Some(("app", name)) => AppName::new(name).map(Self::App),
            _ => None,
        }
    }
}

impl fmt::Display for EndpointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Main => f.write_str("main"),
            Self::Port(port) => write!(f, "port:{port}"),
            Self::App(name) => write!(f, "app:{}", name.as_str()),
        }
    }
}

/// The state of a workspace. A state that a source does not understand becomes [`Phase::Unknown`],
/// which is not routable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Phase {
    /// The platform reported no state, or one that is not understood.
    Unknown,
    /// The workspace is being created or started.
    Provisioning,
    /// The workspace is up.
    Running,
    /// The workspace is up while a change is being applied.
    Updating,
    /// The workspace is down and is expected to come back without action of its owner.
    Interrupted,
    /// The workspace is going down. Requests are refused as for a stopped one.
    Stopping,
    /// The workspace is down.
    Stopped,
    /// The workspace was removed.
    Deleted,
    /// The workspace failed to start or crashed.
    Failed,
}

/// Who may reach an endpoint, from the narrowest to the widest. Each value includes the ones before
/// it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Display, IntoStaticStr, VariantArray,
)]
#[strum(serialize_all = "snake_case")]
pub enum Admission {
    /// Only the owner.
    Owner,
    /// The owner, and people and groups with a grant.
    Grants,
    /// All members of the workspace's organization.
    Organization,
    /// Every person with a valid identity.
    Authenticated,
    /// Everyone, also without an identity.
    Public,
}

/// Who receives a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grantee {
    /// A single person.
    User(Person),
    /// A group of the identity provider. Its name is compared byte for byte.
    Group {
        /// The issuers whose statement about membership is accepted.
        issuers: IssuerNames,
        /// The name of the group in identities.
        name: Box<str>,
    },
    /// A group of the platform, by the platform's id. The source's directory says who is a member.
    PlatformGroup(Box<str>),
}

/// The right of a person or group, other than the owner, to reach endpoints of a workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Who receives it.
    pub to: Grantee,
    /// The endpoints it is for; `None` means all of them.
    pub endpoints: Option<Vec<EndpointName>>,
}

/// The protocol that an endpoint's server speaks. It decides which HAProxy front end may route to
/// it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Display, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Protocol {
    /// HTTP, with WebSockets and other upgrades. Each request is authorized, and HAProxy sets the
    /// identity headers.
    #[default]
    Http,
    /// Any other protocol over TCP. A stream is authorized when it begins. The client controls all
    /// its bytes, so no header in it can be trusted.
    Tcp,
}

/// An endpoint that a workspace declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its name.
    pub name: EndpointName,
    /// The protocol of its server.
    pub protocol: Protocol,
    /// Who may reach it, before the operator's `max_admission` limits are applied.
    pub admission: Admission,
    /// Where its server is.
    pub destination: Destination,
    /// What pages of other origins may do here, where it differs from what the source says.
    pub origins: EndpointOrigins,
}

impl Endpoint {
    /// An endpoint that says nothing about pages of other origins: what the source says holds for it.
    #[must_use]
    pub fn new(
        name: EndpointName,
        protocol: Protocol,
        admission: Admission,
        destination: Destination,
    ) -> Self {
        Self { name, protocol, admission, destination, origins: EndpointOrigins::default() }
    }
}

/// The platform's own counters for the version of a description, to tell older descriptions from
/// newer ones.
///
/// Descriptions of different instances of a workspace, or without counters, cannot be ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revision {
    /// Counts changes of the desired state.
    pub spec: Option<u64>,
    /// Counts changes of the reported state.
    pub status: Option<u64>,
}

impl Revision {
    /// Returns whether this version is certainly older: one counter is behind and none is ahead.
    #[must_use]
    pub fn is_older_than(self, other: Self) -> bool {
        let pairs = [(self.spec, other.spec), (self.status, other.status)];
        let mut behind = false;
        for (mine, theirs) in pairs {
            match mine.zip(theirs) {
                Some((mine, theirs)) if mine > theirs => return false,
                Some((mine, theirs)) => behind |= mine < theirs,
                None => {}
            }
        }
        behind
    }
}

/// A workspace as its source last described it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workspace {
    /// The platform's id.
    pub id: WorkspaceId,
    /// The platform's name for the current run. A workspace that is stopped and started again has a
    /// new one.
    pub instance: Option<Box<str>>,
    /// The version of this description within the instance.
    pub revision: Revision,
    /// The organization that the workspace belongs to.
    pub organization: Option<Organization>,
    /// The owner.
    pub owner: Person,
    /// The owner's name for audit records and headers.
    pub owner_label: Arc<str>,
    /// The grants to other people and groups.
    pub grants: Vec<Grant>,
    /// The current state.
    pub phase: Phase,
    /// The address for ports that are not declared. Used only with `undeclared_ports = "owner"`.
    pub address: Option<destination::Address>,
    /// The destination template for ports that are not declared, where the source has one instead
    /// of an address.
    pub template: Option<Arc<destination::DestinationTemplate>>,
    /// The endpoints that the workspace declares.
    pub endpoints: Vec<Endpoint>,
    /// Endpoints that share the workspace's own host and are distinguished by the path.
    pub paths: Vec<PathRule>,
}

/// An endpoint below a path, for platforms that give it no host name of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathRule {
    /// The path prefix. It ends in a slash.
    pub prefix: Box<str>,
    /// The endpoint below it.
    pub endpoint: EndpointName,
}

impl Workspace {
    /// The name of the organization that the workspace belongs to.
    #[must_use]
    pub fn organization_name(&self) -> Option<&str> {
        self.organization.as_ref().map(|organization| &*organization.name)
    }

    /// Returns the declared endpoint with this name.
    #[must_use]
    pub fn endpoint(&self, name: &EndpointName) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.name == *name)
    }

    /// Returns the endpoint of a request whose host names the endpoint `name`.
    ///
    /// For the main endpoint, the longest path rule that matches the request's path wins.
    #[must_use]
    pub fn endpoint_at(&self, name: &EndpointName, path: Option<&[u8]>) -> EndpointName {
        // Only the workspace's own host is divided by paths.
        if *name != EndpointName::Main || self.paths.is_empty() {
            return name.clone();
        }
        let path = path.unwrap_or_default();
        let below = |rule: &&PathRule| path.starts_with(rule.prefix.as_bytes());
        let longest = self.paths.iter().filter(below).max_by_key(|rule| rule.prefix.len());
        longest.map_or_else(|| name.clone(), |rule| rule.endpoint.clone())
    }
}

impl Phase {
    /// Returns whether requests may be sent to a workspace in this state.
    #[must_use]
    pub fn is_routable(self) -> bool {
        matches!(self, Self::Running | Self::Updating)
    }

    /// The word for this state in lists of workspaces, audit records and the API.
    #[must_use]
    pub fn id(self) -> &'static str {
        self.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_older_only_when_no_counter_is_ahead() {
        let rev = |spec, status| Revision { spec, status };
        for (one, other, older) in [
            (rev(Some(1), Some(1)), rev(Some(1), Some(2)), true),
            (rev(Some(1), Some(1)), rev(Some(1), Some(1)), false),
            (rev(Some(2), Some(1)), rev(Some(1), Some(2)), false),
            (rev(Some(2), Some(2)), rev(Some(1), Some(2)), false),
            (rev(None, Some(1)), rev(Some(1), Some(2)), true),
            (rev(None, None), rev(Some(1), Some(2)), false),
            (rev(Some(1), None), rev(None, Some(2)), false),
        ] {
            assert_eq!(one.is_older_than(other), older, "{one:?} {other:?}");
        }
    }
}
