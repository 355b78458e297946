//! Every outcome: its stable id, its verdict, its HTTP status.
//!
//! A new reason is one line in [`Reason::row`] and one in [`Reason::ALL`].

use std::fmt;

use crate::identity::Refusal;

/// What is to happen to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It travels on.
    Allow,
    /// It is refused until somebody signs in.
    SignIn,
    /// It is refused.
    Deny,
    /// It is refused because nobody can tell at the moment.
    Unavailable,
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The owner asks.
    Owner,
    /// The workspace was granted to the user.
    GrantedUser,
    /// The workspace was granted to a group of the user.
    GrantedGroup,
    /// The endpoint is open to the user's organization.
    Organization,
    /// The endpoint is open to everyone signed in.
    Authenticated,
    /// The endpoint is open to everyone.
    Public,
    /// A policy permits what ownership does not.
    PolicyPermitted,
    /// No credential.
    CredentialMissing,
    /// A credential that does not count.
    Refused(Refusal),
    /// The method is CONNECT: after it, HAProxy asks about nothing on the connection any more.
    MethodRefused,
    /// The request has no host.
    HostMissing,
    /// The host is not a host name.
    HostInvalid,
    /// The request has several hosts.
    HostRepeated,
    /// The request has several Authorization headers.
    AuthorizationRepeated,
    /// The request has several Cookie headers.
    CookieRepeated,
    /// The request has several credentials.
    CredentialRepeated,
    /// The request asks which issuers' tokens count here, which HAProxy answers itself (RFC 9728).
    ResourceMetadata,
    /// A WebSocket with a session's cookie, opened by a page of another origin.
    OriginForeign,
    /// No pattern matches the host.
    HostUnmatched,
    /// The identity has no right to the endpoint.
    NotPermitted,
    /// The identity has no right to the endpoint, but its issuer left its groups out of the token, and
    /// the workspace is granted to groups.
    GroupsOverage,
    /// The identity's account at the workspace's platform is suspended or left.
    UserInactive,
    /// Several accounts of the workspace's platform fit the identity.
    UserAmbiguous,
    /// The owner's account at the platform is suspended or gone.
    OwnerInactive,
    /// The workspace does not declare the endpoint.
    EndpointUndeclared,
    /// A TCP stream at an endpoint that speaks HTTP: the stream could carry requests with any header.
    EndpointNotTcp,
    /// An HTTP request at an endpoint that is declared as TCP.
    EndpointIsTcp,
    /// A TCP stream at an endpoint that has no address of its own: a backend or a named place tells
    /// workspaces apart by the Host header, which a stream does not have.
    StreamNeedsAddress,
    /// A policy forbids it.
    PolicyForbidden,
    /// Policies cannot be evaluated: something that they look at is missing or cannot be read.
    PolicyError,
    /// There is no such workspace.
    WorkspaceUnknown,
    /// The workspace is not running.
    WorkspaceStopped,
    /// The workspace is on its way up.
    WorkspaceStarting,
    /// The workspace is expected back.
    WorkspaceInterrupted,
    /// No source has delivered its workspaces yet.
    WorkspacesNotLoaded,
    /// Several sources have a workspace of that id.
    WorkspaceAmbiguous,
    /// What is known of the workspace is too old, or it changed in a way nobody could read yet.
    WorkspaceStale,
    /// Another workspace claims to be at the same address.
    DestinationContested,
    /// The name of the place where the workspace is does not resolve.
    DestinationUnresolved,
    /// The workspace claims to be where no request may be sent.
    DestinationForbidden,
    /// The issuer's keys could not be fetched.
    KeysUnavailable,
    /// The issuer of an opaque token could not be asked about it.
    IntrospectionUnavailable,
    /// The store of sessions is away, and whether the session still counts cannot be told.
    SessionsUnavailable,
    /// HAProxy asked with a message or argument that is not the shipped configuration's.
    MessageUnknown,
    /// No further tunnel can be tracked, so none is opened that could not be terminated.
    TunnelsFull,
    /// Too many requests wait for an answer.
    Overloaded,
    /// No answer in time.
    Deadline,
    /// The record of the decision could not be kept.
    AuditUnavailable,
    /// A fault of ours.
    Internal,
}

impl Reason {
    /// All reasons but the refusals of credentials ([`Refusal::ALL`]).
    pub const ALL: [Self; 48] = [
        Self::Owner,
        Self::GrantedUser,
        Self::GrantedGroup,
        Self::Organization,
        Self::Authenticated,
        Self::Public,
        Self::PolicyPermitted,
        Self::CredentialMissing,
        Self::MethodRefused,
        Self::HostMissing,
        Self::HostInvalid,
        Self::HostRepeated,
        Self::AuthorizationRepeated,
        Self::CookieRepeated,
        Self::CredentialRepeated,
        Self::ResourceMetadata,
        Self::OriginForeign,
        Self::HostUnmatched,
        Self::NotPermitted,
        Self::GroupsOverage,
        Self::UserInactive,
        Self::UserAmbiguous,
        Self::OwnerInactive,
        Self::EndpointUndeclared,
        Self::EndpointNotTcp,
        Self::EndpointIsTcp,
        Self::StreamNeedsAddress,
        Self::PolicyForbidden,
        Self::PolicyError,
        Self::WorkspaceUnknown,
        Self::WorkspaceStopped,
        Self::WorkspaceStarting,
        Self::WorkspaceInterrupted,
        Self::WorkspacesNotLoaded,
        Self::WorkspaceAmbiguous,
        Self::WorkspaceStale,
        Self::DestinationContested,
        Self::DestinationUnresolved,
        Self::DestinationForbidden,
        Self::KeysUnavailable,
        Self::IntrospectionUnavailable,
        Self::SessionsUnavailable,
        Self::MessageUnknown,
        Self::TunnelsFull,
        Self::Overloaded,
        Self::Deadline,
        Self::AuditUnavailable,
        Self::Internal,
    ];

    /// The reason of an id.
    #[must_use]
    pub fn of(id: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter().chain(Refusal::ALL.map(Self::Refused));
        all.find(|reason| reason.id() == id)
    }

    /// The stable id: what HAProxy, the audit log and the documentation call it.
    #[must_use]
    pub const fn id(self) -> &'static str {
        self.row().0
    }

    /// What is to happen.
    #[must_use]
    pub const fn verdict(self) -> Verdict {
        self.row().1
    }

    /// The HTTP status for the client; 200 stands for "allowed" and is never sent by us.
    #[must_use]
    pub const fn status(self) -> u16 {
        self.row().2
    }

    /// What an operator does about it, where one sentence says it.
    #[must_use]
    pub const fn advice(self) -> Option<&'static str> {
        match self {
            Self::EndpointNotTcp => Some(
                "the endpoint speaks HTTP: reach it through the HTTP front end, or declare it with 'protocol: tcp' if its server speaks something else",
            ),
            Self::EndpointIsTcp => Some(
                "the endpoint is declared as TCP: reach it through haproxy/tcp.cfg (docs/ssh.md), or take 'protocol: tcp' away if its server speaks HTTP",
            ),
            Self::StreamNeedsAddress => Some(
                "streams only reach an endpoint with an address of its own: give it a destination \"IP:PORT\" instead of a backend or a name",
            ),
            Self::DestinationForbidden => Some(
                "see [destinations] in the configuration: an address needs an entry in 'allow' (or 'only'), a backend one in 'backends'",
            ),
            _ => None,
        }
    }

    const fn row(self) -> (&'static str, Verdict, u16) {
        use Verdict::{Allow, Deny, SignIn, Unavailable};
        match self {
            Self::Owner => ("owner", Allow, 200),
            Self::GrantedUser => ("granted_user", Allow, 200),
            Self::GrantedGroup => ("granted_group", Allow, 200),
            Self::Organization => ("organization", Allow, 200),
            Self::Authenticated => ("authenticated", Allow, 200),
            Self::Public => ("public", Allow, 200),
            Self::PolicyPermitted => ("policy_permitted", Allow, 200),
            Self::CredentialMissing => ("credential_missing", SignIn, 401),
            Self::Refused(refusal) => (refusal.id(), Deny, 401),
            Self::MethodRefused => ("method_refused", Deny, 400),
            Self::HostMissing => ("host_missing", Deny, 400),
            Self::HostInvalid => ("host_invalid", Deny, 400),
            Self::HostRepeated => ("host_repeated", Deny, 400),
            Self::AuthorizationRepeated => ("authorization_repeated", Deny, 400),
            Self::CookieRepeated => ("cookie_repeated", Deny, 400),
            Self::CredentialRepeated => ("credential_repeated", Deny, 400),
            Self::ResourceMetadata => ("resource_metadata", Deny, 404),
            Self::OriginForeign => ("origin_foreign", Deny, 403),
            Self::HostUnmatched => ("host_unmatched", Deny, 421),
            Self::NotPermitted => ("not_permitted", Deny, 403),
            Self::GroupsOverage => ("groups_overage", Deny, 403),
            Self::UserInactive => ("user_inactive", Deny, 403),
            Self::UserAmbiguous => ("user_ambiguous", Deny, 403),
            Self::OwnerInactive => ("owner_inactive", Deny, 403),
            Self::EndpointUndeclared => ("endpoint_undeclared", Deny, 403),
            Self::EndpointNotTcp => ("endpoint_not_tcp", Deny, 403),
            Self::EndpointIsTcp => ("endpoint_is_tcp", Deny, 403),
            Self::StreamNeedsAddress => ("stream_needs_address", Deny, 403),
            Self::PolicyForbidden => ("policy_forbidden", Deny, 403),
            Self::PolicyError => ("policy_error", Deny, 403),
            Self::WorkspaceUnknown => ("workspace_unknown", Deny, 404),
            Self::WorkspaceStopped => ("workspace_stopped", Deny, 404),
            Self::WorkspaceStarting => ("workspace_starting", Unavailable, 503),
            Self::WorkspaceInterrupted => ("workspace_interrupted", Unavailable, 503),
            Self::WorkspacesNotLoaded => ("workspaces_not_loaded", Unavailable, 503),
            Self::WorkspaceAmbiguous => ("workspace_ambiguous", Unavailable, 503),
            Self::WorkspaceStale => ("workspace_stale", Unavailable, 503),
            Self::DestinationContested => ("destination_contested", Unavailable, 503),
            Self::DestinationUnresolved => ("destination_unresolved", Unavailable, 503),
            Self::DestinationForbidden => ("destination_forbidden", Unavailable, 503),
            Self::KeysUnavailable => ("keys_unavailable", Unavailable, 503),
            Self::IntrospectionUnavailable => ("introspection_unavailable", Unavailable, 503),
            Self::SessionsUnavailable => ("sessions_unavailable", Unavailable, 503),
            Self::MessageUnknown => ("message_unknown", Unavailable, 503),
            Self::TunnelsFull => ("tunnels_full", Unavailable, 503),
            Self::Overloaded => ("overloaded", Unavailable, 503),
            Self::Deadline => ("deadline", Unavailable, 503),
            Self::AuditUnavailable => ("audit_unavailable", Unavailable, 503),
            Self::Internal => ("internal", Unavailable, 503),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

impl Verdict {
    /// The stable id.
    #[must_use]
    pub const fn id(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::SignIn => "sign_in",
            Self::Deny => "deny",
            Self::Unavailable => "unavailable",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn everything() -> impl Iterator<Item = Reason> {
        Reason::ALL.into_iter().chain(Refusal::ALL.map(Reason::Refused))
    }

    #[test]
    fn ids_are_unique_and_plain() {
        let mut seen = HashSet::new();
        for reason in everything() {
            assert!(seen.insert(reason.id()), "{reason} twice");
            assert!(reason.id().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{reason}");
        }
    }

    #[test]
    fn only_allowing_reasons_have_status_200() {
        for reason in everything() {
            assert_eq!(reason.status() == 200, reason.verdict() == Verdict::Allow, "{reason}");
            assert!([200, 400, 401, 403, 404, 421, 503].contains(&reason.status()), "{reason}");
        }
    }

    #[test]
    fn refusals_can_stand_in_a_header() {
        for refusal in Refusal::ALL {
            assert!(
                refusal
                    .describe()
                    .bytes()
                    .all(|b| (b' '..=b'~').contains(&b) && b != b'"' && b != b'\\')
            );
        }
    }
}
