//! Every outcome of a decision: its stable id, its verdict, its HTTP status.
//!
//! A reason is declared once, in the list below. HAProxy, the audit log, the metrics and `docs/reasons.md` name it by
//! its id; a test holds the document against the list. The errors of tokens ([`TokenError`]) are reasons too, with ids
//! and sentences of their own.

use std::fmt;

use crate::identity::TokenError;

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It goes on to the workspace.
    Allow,
    /// It is refused, and signing in may help.
    SignIn,
    /// It is refused.
    Deny,
    /// It is refused because the agent cannot decide at the moment.
    Unavailable,
}

/// Declares the reasons: documentation, name, id, verdict and HTTP status of each.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $id:literal, $verdict:ident, $status:literal;)+) => {
        /// Why a request is allowed or refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[doc = $doc])+ $name,)+
            /// The credential is not valid.
            Refused(TokenError),
        }

        impl Reason {
            /// Every reason except the errors of tokens ([`TokenError::ALL`]).
            pub const ALL: [Self; [$($id),+].len()] = [$(Self::$name),+];

            const fn row(self) -> (&'static str, Verdict, u16) {
                match self {
                    $(Self::$name => ($id, Verdict::$verdict, $status),)+
                    Self::Refused(error) => (error.id(), Verdict::Deny, 401),
                }
            }
        }
    };
}

// Those of most decisions stand first: metrics search the list for each decision.
reasons! {
    /// The person is the owner.
    Owner = "owner", Allow, 200;
    /// A grant of the workspace names the person.
    GrantedUser = "granted_user", Allow, 200;
    /// A grant of the workspace names a group or team of the person.
    GrantedGroup = "granted_group", Allow, 200;
    /// The endpoint admits the workspace's organization, and the person is a member.
    Organization = "organization", Allow, 200;
    /// The endpoint admits everyone with a valid credential.
    Authenticated = "authenticated", Allow, 200;
    /// The endpoint admits everyone.
    Public = "public", Allow, 200;
    /// A policy permits what ownership does not.
    PolicyPermitted = "policy_permitted", Allow, 200;
    /// A CORS preflight of an origin that may use the endpoint, where the workspace answers CORS. It reaches the workspace
    /// without a credential and an identity.
    PreflightPassed = "cors_preflight_passed", Allow, 200;
    /// The request has no credential.
    CredentialMissing = "credential_missing", SignIn, 401;
    /// The person has a session here and may pass, and is first led through the login host, which gives the workspace's other
    /// endpoints a session too.
    EndpointsWithoutSession = "endpoints_without_session", SignIn, 401;
    /// The method is CONNECT, after which HAProxy asks about nothing more on the connection.
    MethodRefused = "method_refused", Deny, 400;
    /// The request has no host.
    HostMissing = "host_missing", Deny, 400;
    /// The host is not a host name.
    HostInvalid = "host_invalid", Deny, 400;
    /// The request has several Host headers.
    HostRepeated = "host_repeated", Deny, 400;
    /// The request has several Authorization headers.
    AuthorizationRepeated = "authorization_repeated", Deny, 400;
    /// The request has several Cookie headers, which HAProxy did not join.
    CookieRepeated = "cookie_repeated", Deny, 400;
    /// The request has several credentials.
    CredentialRepeated = "credential_repeated", Deny, 400;
    /// The request asks which issuers' tokens are accepted (RFC 9728). HAProxy answers it with the document and 200.
    ResourceMetadata = "resource_metadata", Deny, 404;
    /// A CORS preflight of an origin that may ask. HAProxy answers it with 204 and what is allowed; nothing reaches the
    /// workspace.
    CorsPreflight = "cors_preflight", Deny, 403;
    /// A page of another workspace or site made the request, whose cookie or client certificate the browser added by
    /// itself.
    OriginForeign = "origin_foreign", Deny, 403;
    /// No pattern matches the host.
    HostUnmatched = "host_unmatched", Deny, 421;
    /// The person has no right to the endpoint.
    NotPermitted = "not_permitted", Deny, 403;
    /// The person has no right to the endpoint, but the issuer left their groups out of the token, and the workspace is
    /// granted to groups.
    GroupsOverage = "groups_overage", Deny, 403;
    /// The person's account at the workspace's platform is suspended or gone.
    UserInactive = "user_inactive", Deny, 403;
    /// Several accounts of the workspace's platform match the person.
    UserAmbiguous = "user_ambiguous", Deny, 403;
    /// The owner's account at the platform is suspended or gone.
    OwnerInactive = "owner_inactive", Deny, 403;
    /// The workspace does not declare the endpoint.
    EndpointUndeclared = "endpoint_undeclared", Deny, 403;
    /// A TCP stream at an endpoint that speaks HTTP: the stream could carry requests with any header.
    EndpointNotTcp = "endpoint_not_tcp", Deny, 403;
    /// An HTTP request at an endpoint that is declared as TCP.
    EndpointIsTcp = "endpoint_is_tcp", Deny, 403;
    /// A TCP stream at an endpoint without an address of its own. A backend, or a destination with a name, finds the
    /// workspace by the Host header, which a stream does not have.
    StreamNeedsAddress = "stream_needs_address", Deny, 403;
    /// A policy forbids it.
    PolicyForbidden = "policy_forbidden", Deny, 403;
    /// The policies cannot be evaluated, because something that they look at is missing or cannot be read.
    PolicyError = "policy_error", Deny, 403;
    /// There is no such workspace.
    WorkspaceUnknown = "workspace_unknown", Deny, 404;
    /// The workspace is not running.
    WorkspaceStopped = "workspace_stopped", Deny, 404;
    /// The workspace is starting.
    WorkspaceStarting = "workspace_starting", Unavailable, 503;
    /// The workspace is interrupted, and its platform expects it back.
    WorkspaceInterrupted = "workspace_interrupted", Unavailable, 503;
    /// Not every source has delivered its complete list yet.
    WorkspacesNotLoaded = "workspaces_not_loaded", Unavailable, 503;
    /// Several sources have a workspace of that id.
    WorkspaceAmbiguous = "workspace_ambiguous", Unavailable, 503;
    /// The source has not confirmed the workspace for too long, or it changed in a way that could not be read yet.
    WorkspaceStale = "workspace_stale", Unavailable, 503;
    /// Another workspace claims the same address.
    DestinationContested = "destination_contested", Unavailable, 503;
    /// The name of the destination does not resolve.
    DestinationUnresolved = "destination_unresolved", Unavailable, 503;
    /// The operator does not permit the destination.
    DestinationForbidden = "destination_forbidden", Unavailable, 503;
    /// The issuer's keys could not be fetched.
    KeysUnavailable = "keys_unavailable", Unavailable, 503;
    /// The issuer of an opaque token does not answer.
    IntrospectionUnavailable = "introspection_unavailable", Unavailable, 503;
    /// The store of sessions has been away too long for the agent to know whether the session still exists.
    SessionsUnavailable = "sessions_unavailable", Unavailable, 503;
    /// HAProxy's message or one of its arguments is not as in the shipped configuration.
    MessageUnknown = "message_unknown", Unavailable, 503;
    /// The table of tunnels is full, and a tunnel that is not in it could not be closed later.
    TunnelsFull = "tunnels_full", Unavailable, 503;
    /// Too many requests wait for a response.
    Overloaded = "overloaded", Unavailable, 503;
    /// The response was not ready in time.
    Deadline = "deadline", Unavailable, 503;
    /// The record of the decision could not be written.
    AuditUnavailable = "audit_unavailable", Unavailable, 503;
    /// A fault of the agent.
    Internal = "internal", Unavailable, 503;
}

impl Reason {
    /// The reason with this id.
    #[must_use]
    pub fn from_id(id: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter().chain(TokenError::ALL.map(Self::Refused));
        all.find(|reason| reason.id() == id)
    }

    /// The stable id: what HAProxy, the audit log and the documentation call it.
    #[must_use]
    pub const fn id(self) -> &'static str {
        self.row().0
    }

    /// What happens to the request.
    #[must_use]
    pub const fn verdict(self) -> Verdict {
        self.row().1
    }

    /// The HTTP status for the client. 200 stands for "allowed": then the workspace answers.
    #[must_use]
    pub const fn status(self) -> u16 {
        self.row().2
    }

    /// What an operator can do about it, where one sentence says it.
    #[must_use]
    pub const fn advice(self) -> Option<&'static str> {
        match self {
            Self::CookieRepeated => Some(
                "HAProxy joins several Cookie lines before it asks: copy the two rules with 'txn.cookies' from part 1 of haproxy/haproxy.cfg",
            ),
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
        Reason::ALL.into_iter().chain(TokenError::ALL.map(Reason::Refused))
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
}
