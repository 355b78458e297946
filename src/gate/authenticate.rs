//! Finds out who asks: by a token, by the cookie of a session, or by a client certificate.
//!
//! The first credential that is there decides, in this order; a request with several tokens is
//! refused. What a browser adds by itself (a cookie, a certificate) counts only if the page that
//! made the request may use it (see [`origin`](super::origin)). Whatever was verified is compared
//! with the revocations last.

use std::sync::Arc;

use tracing::debug;

use super::{Check, Gate, Stop, origin::CredentialHolder};
use crate::{
    authz::{decision::HostMatch, reason::Reason},
    identity::{
        Authentication, Identity, TokenError,
        credential::Credential,
        evidence::{CredentialKind, Evidence},
        issuers::Outcome,
        pending::{Pending, Waiting},
        profile::Authority,
    },
    request::cookie,
    sessions::{self, Session, store::CookieLookup},
    workspaces::pattern::Scratch,
};

/// The result of authentication.
pub(super) struct Authenticated {
    /// Who asks.
    pub(super) authentication: Authentication,
    /// The credential that it is based on.
    pub(super) evidence: Evidence,
    /// The browser session, if there is one.
    pub(super) session: Option<Arc<Session>>,
}

impl Authenticated {
    fn by(credential: CredentialKind, authentication: Authentication) -> Self {
        let evidence = Evidence { credential, ..Evidence::default() };
        Self { authentication, evidence, session: None }
    }
}

/// The result of looking up the cookie of a session.
enum SessionLookup {
    /// There is no valid session.
    None,
    /// A session, and the person who signed in.
    Found(Arc<Session>, Arc<Identity>),
    /// The shared store is being asked.
    Pending(Pending),
    /// The shared store cannot be asked.
    Unavailable,
}

impl Gate {
    /// Finds out who asks: by a token if there is one, else by a session, else by a certificate.
    /// Together with a token, a certificate only proves that token.
    pub(super) fn authenticate(
        &self,
        check: &Check<'_>,
        scratch: &mut Scratch,
    ) -> Result<Authenticated, Stop> {
        // At other hosts nothing is served for an identity, so credentials there are not read.
        let credential = if check.is_for_workspace() {
            Credential::find(check.request, self.token_locations())
        } else {
            Credential::Absent
        };
        let mut found = match &credential {
            Credential::Several => return Err(Stop::Refused(Reason::CredentialRepeated)),
            Credential::Bearer(token) => self.by_bearer(check, token, scratch)?,
            Credential::Dpop(token) => self.by_dpop(check, token)?,
            Credential::Absent => match self.by_session(check, scratch)? {
                Some(found) => found,
                None => self.by_certificate(check, scratch)?,
            },
        };
        // Last, for every kind of credential, so that no remembered token passes it.
        self.refuse_revoked(&mut found);
        Ok(found)
    }

    /// A person whose credential is assumed to be valid.
    pub(super) fn authenticated_as(&self, identity: Arc<Identity>) -> Authenticated {
        let known = Authentication::Known(identity);
        let mut assumed = Authenticated::by(CredentialKind::Bearer, known);
        self.refuse_revoked(&mut assumed);
        assumed
    }

    /// Refuses a person whose credential is revoked, whatever kind it is of.
    fn refuse_revoked(&self, found: &mut Authenticated) {
        if let Authentication::Known(identity) = &found.authentication
            && self.revocations.cover(identity)
        {
            debug!(user = identity.label(), "a revoked credential");
            found.authentication = Authentication::Refused(TokenError::Revoked);
        }
    }

    fn by_bearer(
        &self,
        check: &Check<'_>,
        token: &[u8],
        scratch: &mut Scratch,
    ) -> Result<Authenticated, Stop> {
        // A browser sends cookies by itself, so a page of another site could make this request.
        if self.token_locations().is_in_cookie(check.request)
            && self.is_foreign(check, CredentialHolder::AnyClient, scratch)
        {
            return Err(Stop::Refused(Reason::OriginForeign));
        }
        let (issuers, certificate) = (&self.issuers, check.request.certificate);
        let mut found = Authenticated::by(CredentialKind::Bearer, Authentication::Absent);
        let evidence = &mut found.evidence;
        found.authentication = settled(issuers.authenticate_with_evidence(
            token,
            certificate,
            check.now,
            check.waiting,
            evidence,
        ))?;
        Ok(found)
    }

    /// Handles a DPoP token (RFC 9449). Proofs are not supported, so it is never accepted. It is
    /// verified only to say what is wrong with it.
    fn by_dpop(&self, check: &Check<'_>, token: &[u8]) -> Result<Authenticated, Stop> {
        let certificate = check.request.certificate;
        let outcome = self.issuers.authenticate(token, certificate, check.now, check.waiting);
        let authentication = match settled(outcome)? {
            Authentication::Known(_) => Authentication::Refused(TokenError::Bound),
            other => other,
        };
        Ok(Authenticated::by(CredentialKind::Dpop, authentication))
    }

    fn by_session(
        &self,
        check: &Check<'_>,
        scratch: &mut Scratch,
    ) -> Result<Option<Authenticated>, Stop> {
        match self.find_session(check) {
            SessionLookup::None => Ok(None),
            SessionLookup::Found(..)
                if self.is_foreign(check, CredentialHolder::Browser, scratch) =>
            {
                Err(Stop::Refused(Reason::OriginForeign))
            }
            SessionLookup::Found(session, identity) => {
                let known = Authentication::Known(identity);
                let found = Authenticated::by(CredentialKind::Session, known);
                Ok(Some(Authenticated { session: Some(session), ..found }))
            }
            SessionLookup::Pending(pending) => Err(Stop::Pending(pending)),
            SessionLookup::Unavailable => {
                let unknown = Authentication::SessionsUnavailable;
                Ok(Some(Authenticated::by(CredentialKind::None, unknown)))
            }
        }
    }

    /// Identifies a client certificate. One that matches no rule is not a credential for the gate.
    fn by_certificate(
        &self,
        check: &Check<'_>,
        scratch: &mut Scratch,
    ) -> Result<Authenticated, Stop> {
        let by_rule = |der| self.certificates.iter().find_map(|rule| rule.identify(der, check.now));
        match check.request.certificate.and_then(by_rule) {
            None => Ok(Authenticated::by(CredentialKind::None, Authentication::Absent)),
            Some(_) if self.is_foreign(check, CredentialHolder::AnyClient, scratch) => {
                Err(Stop::Refused(Reason::OriginForeign))
            }
            Some(identity) => {
                let known = Authentication::Known(Arc::new(identity));
                Ok(Authenticated::by(CredentialKind::Certificate, known))
            }
        }
    }

    /// Looks up the session of the cookie of this host.
    fn find_session(&self, check: &Check<'_>) -> SessionLookup {
        let (Some(browser), HostMatch::Matched(host, _)) = (&self.browser, &check.host) else {
            return SessionLookup::None;
        };
        let id = check
            .request
            .cookie
            .and_then(|header| cookie::only(header, sessions::COOKIE.as_bytes()));
        let Some(id) = id else { return SessionLookup::None };
        let (all, host) = (&browser.sessions, host.as_str());
        match all.find(id, host, check.now) {
            // Treated as no session: the person may sign in again, and is sent to the login host.
            Some(session) if self.revocations.cover(&session.identity.load()) => {
                SessionLookup::None
            }
            Some(_) if all.is_stale() => SessionLookup::Unavailable,
            // A session from an issuer that is no longer configured is ignored.
            Some(session) => match self.vouched(session.identity()) {
                Some(identity) => SessionLookup::Found(session, identity),
                None => SessionLookup::None,
            },
            None => match all.look_up(id, host) {
                CookieLookup::Unknown => SessionLookup::None,
                CookieLookup::Pending(answered) if check.waiting == Waiting::Allowed => {
                    SessionLookup::Pending(Pending::new(answered))
                }
                CookieLookup::Pending(_) | CookieLookup::Unavailable => SessionLookup::Unavailable,
            },
        }
    }

    /// Every configured issuer and certificate rule.
    pub fn authorities(&self) -> impl Iterator<Item = &Arc<Authority>> {
        let issuers = self.issuers.profiles().map(|profile| &profile.authority);
        issuers.chain(self.certificates.iter().map(|rule| &rule.authority))
    }

    /// Brings an identity that was verified under another configuration up to date. Its issuer or
    /// certificate rule must still be configured, under any name; the rules for matching people are
    /// those of now. `None` if the issuer is not configured any more.
    #[must_use]
    pub fn vouched(&self, identity: Arc<Identity>) -> Option<Arc<Identity>> {
        let known = &identity.authority;
        let all = self.authorities();
        let authority = Authority::find(all, &known.name, &known.identifier, &identity.issuer)?;
        if Arc::ptr_eq(authority, known) || authority == known {
            return Some(identity);
        }
        let authority = Arc::clone(authority);
        Some(Arc::new(Identity { authority, ..Identity::clone(&identity) }))
    }
}

fn settled(outcome: Outcome) -> Result<Authentication, Stop> {
    match outcome {
        Outcome::Settled(authentication) => Ok(authentication),
        Outcome::Wait(pending) => Err(Stop::Pending(pending)),
    }
}
