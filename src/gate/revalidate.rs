//! Whether an allow that lasts would be one now: for tunnels and for what HAProxy may reuse.

use std::sync::Arc;

use super::Gate;
use crate::{
    authz::{
        decision::{Decision, Route},
        permission,
        policy::RequestContext,
        reason::{Reason, Verdict},
    },
    identity::{Identity, Refusal},
    sessions::Session,
    workspaces::{
        Destination,
        host::Host,
        pattern::Scratch,
        registry::{Found, Snapshot},
    },
};

/// Why an allow may not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A request like the one that was allowed would be refused now, for that reason.
    Refused(Reason),
    /// It would be led to another place.
    Moved,
}

/// An allow that lasts, with what it rests on.
pub struct Held<'h> {
    /// The host.
    pub host: &'h Host,
    /// What else may matter of the request, and the time.
    pub about: RequestContext<'h>,
    /// Who asked.
    pub identity: Option<Arc<Identity>>,
    /// The session that said so, if one did.
    pub session: Option<&'h Arc<Session>>,
    /// Where it leads.
    pub route: Option<&'h Route>,
}

/// Whether an allow would be one now, and would lead to the same place.
///
/// # Errors
/// Why it would not.
pub fn revalidate(
    gate: &Gate,
    workspaces: &Snapshot,
    held: Held<'_>,
    scratch: &mut Scratch,
) -> Result<(), Ended> {
    // Whoever vouched for them is configured otherwise now, or not at all: what they showed would have to be
    // verified anew, and is not here. Sessions go on, as the configuration says now.
    if held.session.is_none()
        && let Some(identity) = &held.identity
        && !gate.authorities().any(|authority| Arc::ptr_eq(authority, &identity.authority))
    {
        return Err(Ended::Refused(Reason::Refused(Refusal::Issuer)));
    }
    // A session's person may have other groups by now.
    let identity = held.session.map(|session| session.identity()).or(held.identity);
    let decision = gate.judge_in(workspaces, held.host, &held.about, identity, scratch);
    let same_place = match decision.verdict() {
        Verdict::Allow => same(held.route, decision.route.as_ref()),
        // A name that does not resolve at this moment moves nobody who is there already.
        _ if decision.reason == Reason::DestinationUnresolved => {
            is_named(workspaces, &decision, held.route)
        }
        Verdict::SignIn | Verdict::Deny | Verdict::Unavailable => {
            return Err(Ended::Refused(decision.reason));
        }
    };
    if same_place { Ok(()) } else { Err(Ended::Moved) }
}

/// Whether two routes lead to one place. A name is one place, whatever its address is at the moment.
fn same(was: Option<&Route>, is: Option<&Route>) -> bool {
    match (was, is) {
        (Some(Route::Named(_, was)), Some(Route::Named(_, is))) => was == is,
        (was, is) => was == is,
    }
}

/// Whether the workspace is still where the tunnel leads, by name.
fn is_named(workspaces: &Snapshot, decision: &Decision, route: Option<&Route>) -> bool {
    let (Some(Route::Named(_, was)), Some(workspace), Some(endpoint)) =
        (route, &decision.workspace, &decision.endpoint)
    else {
        return false;
    };
    match workspaces.find(None, workspace.id.as_str()) {
        Found::Workspace(record) => {
            matches!(permission::destination(&record, endpoint), Some(Destination::Gateway(is)) if is == *was)
        }
        Found::Unknown | Found::NotLoaded | Found::Ambiguous => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspaces::Gateway;

    #[test]
    fn a_name_is_one_place_whatever_its_address_is() {
        let named = |at: &str, url: &str| {
            Some(Route::Named(at.parse().unwrap(), Arc::new(Gateway::parse(url).unwrap())))
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
