//! Workspaces: who owns them, who may reach them, and where they are.
//!
//! A host name is matched by [`pattern`] to a workspace id and one of its endpoints; the
//! [`registry`] holds what each [`source`] last said of its workspaces, which [`reconcile`] keeps
//! fresh, and whom its [`directory`] knows. Says nothing about who asks: that is [`crate::identity`],
//! and whether they may is [`crate::authz::decision`].

use std::{fmt, str::FromStr, sync::Arc};

use thiserror::Error;

pub mod destination;
pub mod directory;
pub mod host;
pub mod pattern;
mod person;
pub mod reconcile;
pub mod registry;
pub mod source;

pub use destination::{Destination, Gateway};
pub use person::{IssuerNames, Organization, Person};

/// The longest workspace id in bytes.
pub const MAX_ID: usize = 128;

/// The platform's id of a workspace: 1 to [`MAX_ID`] bytes of letters, digits, `-`, `_` and `.`,
/// lower case, as it stands in host names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkspaceId(Arc<str>);

/// Why a text is not a workspace id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a workspace id has 1 to {MAX_ID} lower-case letters, digits, '-', '_' or '.'")]
pub struct IdError;

impl WorkspaceId {
    /// The id.
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
        if text.is_empty() || text.len() > MAX_ID || !text.bytes().all(clean) {
            return Err(IdError);
        }
        Ok(Self(text.into()))
    }
}

/// A platform's name of somebody, without control characters: it stands in headers and logs.
pub(crate) fn plain(name: &str) -> Arc<str> {
    name.chars().filter(|c| !c.is_control()).collect::<String>().into()
}

// Maps keyed by id are searched by the text a host pattern captured.
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

/// One way into a workspace.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum EndpointName {
    /// The workspace's own host, without a port: its editor.
    Main,
    /// A port that a process in the workspace listens on.
    Port(u16),
    /// An application that the platform names.
    App(AppName),
}

/// The name of an application: 1 to [`MAX_APP`] bytes without control characters.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct AppName(Arc<str>);

/// The longest name of an application in bytes: a label of a host.
pub const MAX_APP: usize = 63;

impl AppName {
    /// The name, if the text is one.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let clean = !text.is_empty() && !text.chars().any(char::is_control);
        (clean && text.len() <= MAX_APP).then(|| Self(text.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl EndpointName {
    /// The endpoint that a text stands for, as it displays itself.
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

/// What a workspace is doing. Anything a platform says that is not understood is [`Phase::Unknown`],
/// which is not routable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not known.
    Unknown,
    /// Being made or started.
    Provisioning,
    /// Up.
    Running,
    /// Up, with a change being applied.
    Updating,
    /// Expected back by itself.
    Interrupted,
    /// Going down: counts as stopped.
    Stopping,
    /// Down.
    Stopped,
    /// Gone for good.
    Deleted,
    /// Broken.
    Failed,
}

/// Whom an endpoint admits, from the narrowest to the widest; each includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Admission {
    /// The owner alone.
    Owner,
    /// The owner and whom the workspace was granted to.
    Grants,
    /// Everyone of the workspace's organization.
    Organization,
    /// Everyone who has a valid identity.
    Authenticated,
    /// Everyone, without an identity.
    Public,
}

impl fmt::Display for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Owner => "owner",
            Self::Grants => "grants",
            Self::Organization => "organization",
            Self::Authenticated => "authenticated",
            Self::Public => "public",
        })
    }
}

/// To whom a workspace is shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grantee {
    /// One person.
    User(Person),
    /// A group of the identity provider, compared byte for byte.
    Group {
        /// The issuers that may say who is in the group.
        issuers: IssuerNames,
        /// The group.
        name: Box<str>,
    },
    /// A group of the platform, by its id there; who is in it, the source's directory tells.
    Team(Box<str>),
}

/// One share of a workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// To whom.
    pub to: Grantee,
    /// Which endpoints; `None` is all of them.
    pub endpoints: Option<Vec<EndpointName>>,
}

/// What the server of an endpoint speaks, which says how it may be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP, with WebSockets and other upgrades: each request is decided about, and the headers that
    /// say who it is are HAProxy's.
    #[default]
    Http,
    /// Any other protocol over TCP: a stream is decided about when it begins, and its bytes are the
    /// client's alone.
    Tcp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
        })
    }
}

/// A declared endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Which.
    pub name: EndpointName,
    /// What its server speaks.
    pub protocol: Protocol,
    /// Whom it admits, before the caps of the operator.
    pub admission: Admission,
    /// Where it is.
    pub destination: Destination,
}

/// How new a description of a workspace is, by the platform's own counters. Descriptions of different
/// instances cannot be compared, nor those without counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revision {
    /// Counts changes of what it is to be.
    pub spec: Option<u64>,
    /// Counts changes of what it is.
    pub status: Option<u64>,
}

impl Revision {
    /// Whether this is surely older than the other: one counter is behind and none is ahead.
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
    /// The platform's name for this life of the workspace: one that was stopped and started again has
    /// another.
    pub instance: Option<Box<str>>,
    /// How new this is, within the instance.
    pub revision: Revision,
    /// The organization it belongs to.
    pub organization: Option<Organization>,
    /// Who owns it.
    pub owner: Person,
    /// The owner in one word, for records and headers.
    pub owner_label: Arc<str>,
    /// With whom it is shared.
    pub grants: Vec<Grant>,
    /// What it is doing.
    pub phase: Phase,
    /// Where undeclared ports would be, when the policy lets the owner reach them.
    pub address: Option<destination::Address>,
    /// The same, where the operator's words say it and not an address.
    pub template: Option<Arc<destination::Template>>,
    /// The declared endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Endpoints that are below a path of the workspace's own host.
    pub paths: Vec<PathRule>,
}

/// An endpoint that is told by its path, where a platform gives it no host of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathRule {
    /// The path, with a slash at its end.
    pub prefix: Box<str>,
    /// The endpoint.
    pub endpoint: EndpointName,
}

impl Workspace {
    /// What the organization that it belongs to is called.
    #[must_use]
    pub fn organization_name(&self) -> Option<&str> {
        self.organization.as_ref().map(|organization| &*organization.name)
    }

    /// The declared endpoint of that name.
    #[must_use]
    pub fn endpoint(&self, name: &EndpointName) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.name == *name)
    }

    /// Which endpoint a request is for whose host names `name`: one below whose path it is, the longest
    /// such path first.
    #[must_use]
    pub fn endpoint_at(&self, name: &EndpointName, path: Option<&[u8]>) -> EndpointName {
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
    /// Whether requests may reach a workspace in this phase.
    #[must_use]
    pub fn is_routable(self) -> bool {
        matches!(self, Self::Running | Self::Updating)
    }

    /// The word for it, as in the file of workspaces.
    #[must_use]
    pub const fn id(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Provisioning => "provisioning",
            Self::Running => "running",
            Self::Updating => "updating",
            Self::Interrupted => "interrupted",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Deleted => "deleted",
            Self::Failed => "failed",
        }
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
