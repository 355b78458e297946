//! Refuses requests that no decision can be made about, with any credential: CONNECT, repeated
//! headers, and requests for which HAProxy does not pass the needed arguments.

use tracing::warn;

use super::{Check, Gate, Metadata, Stop};
use crate::{authz::reason::Reason, request::Request};

impl Gate {
    /// Ends the way of requests that are refused or answered without authentication.
    pub(super) fn check_fitness(&self, check: &Check<'_>) -> Result<(), Stop> {
        if let Some(reason) = unfit(check.request) {
            return Err(Stop::Refused(reason));
        }
        if self.metadata.is_some()
            && check.is_for_workspace()
            && check.request.path == Some(Metadata::PATH.as_bytes())
        {
            return Err(Stop::Metadata);
        }
        if self.lacks_arguments(check.request) {
            return Err(Stop::Refused(Reason::MessageUnknown));
        }
        Ok(())
    }

    /// Whether HAProxy does not pass an argument that the configuration needs.
    fn lacks_arguments(&self, request: &Request<'_>) -> bool {
        let locations = self.token_locations();
        let sign_in = self.browser.is_some() && !request.passed.browser;
        if sign_in {
            warn!(
                "a request is refused: HAProxy does not pass the arguments that [sign_in] needs; add them to the args line as in haproxy/identity.spoe.cfg"
            );
        }
        let credentials = (locations.header.is_some() && !request.passed.token)
            || (locations.cookie.is_some() && !request.passed.browser)
            || (locations.query.is_some() && !request.passed.query)
            || (locations.subprotocol && !request.passed.protocols);
        if credentials {
            warn!(
                "a request is refused: HAProxy does not pass the place of tokens that [credentials] names; add the argument to the args line as in haproxy/identity.spoe.cfg"
            );
        }
        let policies = self.policies.is_some() && !request.passed.policies;
        if policies {
            warn!(
                "a request is refused: HAProxy does not pass the arguments that [policy] needs; add method, path and client to the args line as in haproxy/identity.spoe.cfg"
            );
        }
        sign_in || credentials || policies
    }
}

/// The reason for which a request is refused before it is read. HAProxy passes the last of several
/// headers with one name. The workspace may read another one of them, so none counts.
fn unfit(request: &Request<'_>) -> Option<Reason> {
    // After a response to CONNECT, HAProxy passes everything on the connection without a check.
    if request.method.is_some_and(|method| method.eq_ignore_ascii_case(b"CONNECT")) {
        Some(Reason::MethodRefused)
    } else if request.hosts > 1 {
        Some(Reason::HostRepeated)
    } else if request.authorizations > 1 {
        Some(Reason::AuthorizationRepeated)
    } else if request.tokens > 1 || request.protocol_lines > 1 {
        Some(Reason::CredentialRepeated)
    } else if request.cookies > 1 {
        Some(Reason::CookieRepeated)
    } else {
        None
    }
}
