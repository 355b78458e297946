//! Decides again about something that was allowed earlier: a tunnel, or an allow that HAProxy may
//! reuse.
//!
//! The decision is made by the same code as that about a request. Only the credential is not
//! verified again, because it is not stored: its issuer must still be configured as it was.

use std::sync::Arc;

use super::Gate;
use crate::{
    authz::{
        decision::{Decision, Route},
        permission,
        policy::RequestContext,
        reason::{Reason, Verdict},
    },
    identity::{Identity, TokenError},
    sessions::Session,
    workspaces::{
        Destination,
        host::Host,
        pattern::Scratch,
        registry::{LookupResult, Snapshot},
    },
};

/// Why an earlier allow does not hold any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The same request would be refused now, for this reason.
    Refused(Reason),
    /// The same request would be sent to another place.
    Moved,
}

/// An earlier allow, with what it was based on.
pub struct HeldAllow<'h> {
    /// The host of the request.
    pub host: &'h Host,
    /// What policies can see of the request, and the time.
    pub context: RequestContext<'h>,
    /// Who asked.
    pub identity: Option<Arc<Identity>>,
    /// The browser session, if there was one.
    pub session: Option<&'h Arc<Session>>,
    /// Where the request was sent.
    pub route: Option<&'h Route>,
}

/// Checks that a request would be allowed now and would be sent to the same place.
///
/// # Errors
/// Why it would not.
pub fn revalidate(
    gate: &Gate,
    workspaces: &Snapshot,
    held: HeldAllow<'_>,
    scratch: &mut Scratch,
) -> Result<(), EndReason> {
    // The issuer or certificate rule was changed or removed, and the credential is not here to be
    // verified by the new rules. A session needs no credential: it follows the new configuration.
    if held.session.is_none()
        && let Some(identity) = &held.identity
        && !gate.authorities().any(|authority| Arc::ptr_eq(authority, &identity.authority))
    {
        return Err(EndReason::Refused(Reason::Refused(TokenError::Issuer)));
    }
    // The groups of a session's person may have changed since.
    let identity = held.session.map(|session| session.identity()).or(held.identity);
    let decision =
        gate.decide_for_identity(workspaces, held.host, &held.context, identity, scratch);
    let same_place = match decision.verdict() {
        Verdict::Allow => same(held.route, decision.route.as_ref()),
        // If DNS fails, what is connected already stays connected.
        _ if decision.reason == Reason::DestinationUnresolved => {
            is_named(workspaces, &decision, held.route)
        }
        Verdict::SignIn | Verdict::Deny | Verdict::Unavailable => {
            return Err(EndReason::Refused(decision.reason));
        }
    };
    if same_place { Ok(()) } else { Err(EndReason::Moved) }
}

/// Whether two routes lead to the same place. A name is the same place at any address.
fn same(was: Option<&Route>, is: Option<&Route>) -> bool {
    match (was, is) {
        (Some(Route::Named(_, was)), Some(Route::Named(_, is))) => was == is,
        (was, is) => was == is,
    }
}

/// Whether the destination of the workspace still is the name that the route leads to.
fn is_named(workspaces: &Snapshot, decision: &Decision, route: Option<&Route>) -> bool {
    let (Some(Route::Named(_, was)), Some(workspace), Some(endpoint)) =
        (route, &decision.workspace, &decision.endpoint)
    else {
        return false;
    };
    match workspaces.find(None, workspace.id.as_str()) {
        LookupResult::Workspace(record) => {
            matches!(permission::destination(&record, endpoint), Some(Destination::NamedServer(is)) if is == *was)
        }
        LookupResult::Unknown | LookupResult::NotLoaded | LookupResult::Ambiguous => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspaces::NamedServer;

    #[test]
    fn a_name_is_one_place_whatever_its_address_is() {
        let named = |at: &str, url: &str| {
            Some(Route::Named(at.parse().unwrap(), Arc::new(NamedServer::parse(url).unwrap())))
        };
        let was = named("10.0.0.1:80", "http://a.test");
        assert!(same(was.as_ref(), named("10.0.0.2:80", "http://a.test").as_ref()));
        for other in [
            named("10.0.0.1:80", "http://b.test"),
            named("10.0.0.1:80", "https://a.test"),
            named("10.0.0.1:80", "http://a.test:81"),
            Some(Route::Direct("10.0.0.1:80".parse().unwrap())),
            Some(Route::Backend("a".into())),
            None,
        ] {
            assert!(!same(was.as_ref(), other.as_ref()), "{other:?}");
        }
    }
}
