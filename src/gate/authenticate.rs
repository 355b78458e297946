//! Finds out who asks: by a token, by the cookie of a session, or by a client certificate.
//!
//! The first credential that is there decides, in this order; a request with several tokens for the
//! gate is refused. A token in Authorization that cannot be the gate's is the app's: it decides
//! nothing, and travels on with a request that another credential identifies. What a browser adds by
//! itself (a cookie, a certificate) counts only if the page that made the request may use it (see
//! [`origin`](super::origin)), whatever is in Authorization. Whatever was verified is compared with
//! the revocations last.
//!
//! Invariant: a header that could have a token of a configured issuer in it does not travel on.

use std::sync::Arc;

use tracing::debug;

use super::{AuthorizationHeader, Check, Gate, Stop, origin::CredentialHolder};
use crate::{
    authz::{decision::HostMatch, reason::Reason},
    identity::{
        Authentication, Identity, TokenError,
        credential::{Credential, Presented},
        evidence::{CredentialKind, Evidence},
        issuers::{Foreign, Judgement, Outcome},
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
    /// Whose the Authorization header is.
    pub(super) authorization: AuthorizationHeader,
}

impl Authenticated {
    /// A result by a credential outside the Authorization header, which is taken for the gate's.
    fn by(credential: CredentialKind, authentication: Authentication) -> Self {
        let evidence = Evidence { credential, ..Evidence::default() };
        let authorization = AuthorizationHeader::Gates;
        Self { authentication, evidence, session: None, authorization }
    }
}

/// The token of the Authorization header.
#[derive(Clone, Copy)]
struct HeaderToken<'t> {
    /// The whole value of the header.
    value: &'t [u8],
    token: &'t [u8],
    kind: CredentialKind,
}

impl<'t> HeaderToken<'t> {
    fn find(value: Option<&'t [u8]>, credential: &'t Credential<'_>) -> Option<Self> {
        let value = value?;
        match credential {
            Credential::Bearer(token) => Some(Self { value, token, kind: CredentialKind::Bearer }),
            Credential::Dpop(token) => Some(Self { value, token, kind: CredentialKind::Dpop }),
            Credential::Absent | Credential::Several => None,
        }
    }
}

/// Whose the Authorization header is, as far as its value says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Header {
    /// It has a token for the gate, or may have one.
    Gates,
    /// It has none.
    Workspaces,
    /// It has a token that may have been one for the gate.
    Uncertain,
}

impl From<Foreign> for Header {
    fn from(foreign: Foreign) -> Self {
        match foreign {
            Foreign::Certain => Self::Workspaces,
            Foreign::Inactive => Self::Uncertain,
        }
    }
}

impl Header {
    /// Whose the header is, by who asks.
    fn owner(self, authentication: &Authentication) -> AuthorizationHeader {
        match (self, authentication) {
            // Another credential identifies the person, so the token is none for the gate.
            (Self::Workspaces, _) | (Self::Uncertain, Authentication::Known(_)) => {
                AuthorizationHeader::Workspaces
            }
            (Self::Gates | Self::Uncertain, _) => AuthorizationHeader::Gates,
        }
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
    /// Finds out who asks: by a token for the gate if there is one, else by a session, else by a
    /// certificate. Together with a token, a certificate only proves that token.
    pub(super) fn authenticate(
        &self,
        check: &Check<'_>,
        scratch: &mut Scratch,
    ) -> Result<Authenticated, Stop> {
        // At other hosts nothing is served for an identity, so credentials there are not read.
        let (value, presented) = if check.is_for_workspace() {
            let presented = Presented::find(check.request, self.token_locations());
            (check.request.authorization, presented)
        } else {
            (None, Presented::NOTHING)
        };
        let header = HeaderToken::find(value, &presented.authorization);
        let (mut found, header) = match (&presented.own, header) {
            (Credential::Several, _) => return Err(Stop::Refused(Reason::CredentialRepeated)),
            (Credential::Absent, Some(header)) => self.by_header(check, header, scratch)?,
            (Credential::Absent, None) => {
                (self.by_browser(check, scratch)?, self.header_of_other_scheme(value))
            }
            (own, Some(header)) => self.by_own(check, own, header, scratch)?,
            (own, None) => {
                (self.by_token(check, own, scratch)?, self.header_of_other_scheme(value))
            }
        };
        // Last, for every kind of credential, so that no remembered token passes it.
        self.refuse_revoked(&mut found);
        found.authorization = header.owner(&found.authentication);
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

    /// Decides by the token of the Authorization header, which may be the app's.
    fn by_header(
        &self,
        check: &Check<'_>,
        header: HeaderToken<'_>,
        scratch: &mut Scratch,
    ) -> Result<(Authenticated, Header), Stop> {
        let mut found = Authenticated::by(header.kind, Authentication::Absent);
        match self.judge(check, header, &mut found.evidence) {
            Judgement::Ours(authentication) => {
                found.authentication = unproved(header.kind, authentication);
                Ok((found, Header::Gates))
            }
            Judgement::Foreign(foreign) => {
                Ok((self.by_other_than(check, header, scratch)?, foreign.into()))
            }
            Judgement::Wait(pending) => Err(Stop::Pending(pending)),
        }
    }

    /// Decides by a session or certificate for a request whose Authorization header has the app's
    /// token. Without these the token is refused, as the only one that there is.
    fn by_other_than(
        &self,
        check: &Check<'_>,
        header: HeaderToken<'_>,
        scratch: &mut Scratch,
    ) -> Result<Authenticated, Stop> {
        let found = match self.by_browser(check, scratch) {
            // A public endpoint needs no credential, so there the request is one without.
            Err(Stop::Refused(Reason::OriginForeign)) => {
                Authenticated::by(CredentialKind::None, Authentication::OriginForeign)
            }
            found => found?,
        };
        if !matches!(found.authentication, Authentication::Absent) {
            return Ok(found);
        }
        let (certificate, token) = (check.request.certificate, header.token);
        let refused = self.issuers.authenticate(token, certificate, check.now, Waiting::Never);
        Ok(Authenticated::by(header.kind, unproved(header.kind, settled(refused)?)))
    }

    /// Decides by a token at a place of `[credentials]` for a request that has one in Authorization
    /// too. It must be the app's.
    fn by_own(
        &self,
        check: &Check<'_>,
        own: &Credential<'_>,
        header: HeaderToken<'_>,
        scratch: &mut Scratch,
    ) -> Result<(Authenticated, Header), Stop> {
        match self.judge(check, header, &mut Evidence::default()) {
            Judgement::Foreign(foreign) => {
                Ok((self.by_token(check, own, scratch)?, foreign.into()))
            }
            // Whose it is cannot be said, and one of two people may be meant.
            Judgement::Ours(unknown @ Authentication::IntrospectionUnavailable) => {
                Ok((Authenticated::by(header.kind, unknown), Header::Gates))
            }
            Judgement::Ours(_) => Err(Stop::Refused(Reason::CredentialRepeated)),
            Judgement::Wait(pending) => Err(Stop::Pending(pending)),
        }
    }

    /// Judges whether the token of the Authorization header is for the gate.
    fn judge(
        &self,
        check: &Check<'_>,
        header: HeaderToken<'_>,
        evidence: &mut Evidence,
    ) -> Judgement {
        let (request, token) = (check.request, (header.value, header.token));
        self.issuers.judge(token, request.certificate, check.now, check.waiting, evidence)
    }

    /// Whose an Authorization header without a token is. Its value could have a token for the gate under
    /// another scheme: a workspace must not get that either.
    fn header_of_other_scheme(&self, value: Option<&[u8]>) -> Header {
        match value {
            Some(value) if self.issuers.may_be_in(value) => Header::Gates,
            _ => Header::Workspaces,
        }
    }

    /// Decides by a token at a place of `[credentials]`.
    fn by_token(
        &self,
        check: &Check<'_>,
        own: &Credential<'_>,
        scratch: &mut Scratch,
    ) -> Result<Authenticated, Stop> {
        let (token, kind): (&[u8], _) = match own {
            Credential::Bearer(token) => (token, CredentialKind::Bearer),
            Credential::Dpop(token) => (token, CredentialKind::Dpop),
            Credential::Absent | Credential::Several => {
                return Err(Stop::Refused(Reason::CredentialRepeated));
            }
        };
        // A browser sends cookies by itself, so a page of another site could make this request.
        if self.token_locations().is_in_cookie(check.request)
            && self.is_foreign(check, CredentialHolder::AnyClient, scratch)
        {
            return Err(Stop::Refused(Reason::OriginForeign));
        }
        let (issuers, certificate) = (&self.issuers, check.request.certificate);
        let mut found = Authenticated::by(kind, Authentication::Absent);
        let evidence = &mut found.evidence;
        let authentication = settled(issuers.authenticate_with_evidence(
            token,
            certificate,
            check.now,
            check.waiting,
            evidence,
        ))?;
        found.authentication = unproved(kind, authentication);
        Ok(found)
    }

    /// Decides by what a browser or its connection has: a session, else a certificate.
    fn by_browser(&self, check: &Check<'_>, scratch: &mut Scratch) -> Result<Authenticated, Stop> {
        match self.by_session(check, scratch)? {
            Some(found) => Ok(found),
            None => self.by_certificate(check, scratch),
        }
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

/// The result for a token of a kind. Proofs of DPoP (RFC 9449) are not supported, so such a token is never accepted: it
/// is verified only to say what is wrong with it.
fn unproved(kind: CredentialKind, authentication: Authentication) -> Authentication {
    match (kind, authentication) {
        (CredentialKind::Dpop, Authentication::Known(_)) => {
            Authentication::Refused(TokenError::Bound)
        }
        (_, authentication) => authentication,
    }
}

fn settled(outcome: Outcome) -> Result<Authentication, Stop> {
    match outcome {
        Outcome::Settled(authentication) => Ok(authentication),
        Outcome::Wait(pending) => Err(Stop::Pending(pending)),
    }
}
