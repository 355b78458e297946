//! Workspaces: who owns them, who may reach them, and where they are.
//!
//! A host name is matched by [`pattern`] to a workspace id and one of its endpoints; the
//! [`registry`] holds what the sources last said of each workspace. Says nothing about who asks:
//! that is [`crate::identity`], and whether they may is [`crate::decision`].

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use arrayvec::ArrayString;
use thiserror::Error;

pub mod file;
pub mod host;
pub mod pattern;
pub mod registry;
pub mod watch;

/// The longest workspace id in bytes.
pub const MAX_ID: usize = 128;

/// The platform's id of a workspace: 1 to [`MAX_ID`] bytes of letters, digits, `-`, `_` and `.`,
/// lower case, as it stands in host names.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct WorkspaceId(ArrayString<MAX_ID>);

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
        if text.is_empty() || !text.bytes().all(clean) {
            return Err(IdError);
        }
        ArrayString::from(text).map(Self).map_err(|_| IdError)
    }
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
    App(ArrayString<63>),
}

impl fmt::Display for EndpointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Main => f.write_str("main"),
            Self::Port(port) => write!(f, "port:{port}"),
            Self::App(name) => write!(f, "app:{name}"),
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

/// A person as a workspace record names them. At least one of subject, e-mail and username is there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Person {
    /// The configured name of the issuer whose identities this person signs in with; `None` stands
    /// for "any issuer whose match rules reach this record".
    pub issuer: Option<Box<str>>,
    /// The issuer's id of the person (RFC 7519 section 4.1.2), compared byte for byte.
    pub subject: Option<Box<str>>,
    /// The e-mail address in lower case.
    pub email: Option<Box<str>>,
    /// The login name, compared byte for byte.
    pub username: Option<Box<str>>,
}

impl fmt::Display for Person {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.username.as_deref().or(self.email.as_deref()).or(self.subject.as_deref());
        f.write_str(name.unwrap_or("?"))
    }
}

/// To whom a workspace is shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grantee {
    /// One person.
    User(Person),
    /// A group of the identity provider, compared byte for byte.
    Group {
        /// The configured name of the issuer that vouches for the group; `None` as in [`Person`].
        issuer: Option<Box<str>>,
        /// The group.
        name: Box<str>,
    },
}

/// One share of a workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// To whom.
    pub to: Grantee,
    /// Which endpoints; `None` is all of them.
    pub endpoints: Option<Vec<EndpointName>>,
}

/// Where HAProxy sends an allowed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// An address, set by `http-request set-dst`.
    Address(SocketAddr),
    /// A backend of haproxy.cfg, by name.
    Backend(Arc<str>),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Backend(name) => write!(f, "backend:{name}"),
        }
    }
}

/// A declared endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Which.
    pub name: EndpointName,
    /// Whom it admits.
    pub admission: Admission,
    /// Where it is.
    pub destination: Destination,
}

/// A workspace as its source last described it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workspace {
    /// The platform's id.
    pub id: WorkspaceId,
    /// The organization it belongs to.
    pub organization: Option<Box<str>>,
    /// Who owns it.
    pub owner: Person,
    /// The owner in one word, for records and headers.
    pub owner_label: Box<str>,
    /// With whom it is shared.
    pub grants: Vec<Grant>,
    /// What it is doing.
    pub phase: Phase,
    /// Where undeclared ports would be, when the policy lets the owner reach them.
    pub address: Option<IpAddr>,
    /// The declared endpoints.
    pub endpoints: Vec<Endpoint>,
}

impl Workspace {
    /// The declared endpoint of that name.
    #[must_use]
    pub fn endpoint(&self, name: &EndpointName) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.name == *name)
    }
}
