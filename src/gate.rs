//! The way of one request through the stages: request, identity, workspace, decision.
//!
//! The live path, `explain` and the tests all go through [`Gate::decide`].

use std::sync::Arc;

use tracing::{debug, warn};

use crate::{
    authz::{
        decision::{self, Decision, HostMatch},
        limits::{Framing, Limits},
        policy::{Policies, RequestContext, Rules},
        reason::Reason,
    },
    fingerprint::Fingerprint,
    identity::{
        Authentication, Identity, Refusal,
        certificate::CertificateRule,
        credential::{Credential, Sources},
        evidence::{CredentialKind, Evidence},
        issuers::{Issuers, Outcome, Pending},
        profile::Authority,
        revocation::Revocations,
    },
    metrics::Metrics,
    request::{Request, cookie},
    sessions::{
        self, BrowserSessions, Session,
        flow::{Offer, Start},
    },
    sources::WatchedSource,
    time::{Moment, Timestamp},
    workspaces::{
        host::Host,
        pattern::{HostPatterns, Scratch, Target},
        reconcile::lookup::Lookup,
        registry::{Registry, Snapshot},
    },
};

pub mod live;
pub mod revalidate;

/// Everything a decision is made from.
pub struct Gate {
    /// Which hosts are workspaces.
    pub patterns: HostPatterns,
    /// Whose tokens count.
    pub issuers: Arc<Issuers>,
    /// Where tokens may be beside the Authorization header; nowhere unless configured.
    pub sources: Option<Arc<Sources>>,
    /// What clients are told of tokens for workspaces; nothing unless configured.
    pub metadata: Option<Arc<Metadata>>,
    /// Which client certificates count. Without a bearer token, the first rule that is about one
    /// decides; beside a token a certificate only proves that token.
    pub certificates: Vec<CertificateRule>,
    /// How people sign in with a browser; not at all unless configured.
    pub browser: Option<Arc<BrowserSessions>>,
    /// What was revoked.
    pub revocations: Arc<Revocations>,
    /// The workspaces.
    pub registry: Arc<Registry>,
    /// How each source is asked about one workspace, by their numbers; those that cannot be have none.
    pub lookups: Vec<Option<Lookup>>,
    /// The sources as the administrator sees them, by their numbers.
    pub watched: Vec<WatchedSource>,
    /// What the operator decided for all workspaces.
    pub policy: Limits,
    /// Policies beyond ownership; none unless configured.
    pub policies: Option<Arc<Policies>>,
    /// The fingerprints of what decides.
    pub versions: Versions,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// What came of a request.
pub enum Step {
    /// The response.
    Done(Response),
    /// The decision waits for keys or a workspace under way; decide again after it, with `may_wait` off.
    Wait(Pending),
}

/// Whom a session's cookie stands for.
enum Visitor {
    /// Nobody, as far as anybody can tell.
    Nobody,
    /// Somebody who signed in.
    SignedIn(Arc<Session>, Arc<Identity>),
    /// The store of sessions is asked.
    Wait(Pending),
    /// The store of sessions is away.
    Unsettled,
}

impl Gate {
    /// Decides about one request. Never waits: with `may_wait` it may ask the caller to.
    #[must_use]
    pub fn decide(
        &self,
        request: &Request<'_>,
        workspaces: &Snapshot,
        now: Timestamp,
        scratch: &mut Scratch,
        may_wait: bool,
    ) -> Step {
        let refuse = |reason| Step::Done(Response::refuse(reason));
        let place = self.match_host(request, scratch);
        let none = Sources::default();
        let sources = self.sources.as_deref().unwrap_or(&none);
        if let Some(response) = self.without_asking(request, &place, sources) {
            return Step::Done(response);
        }
        // Nobody's host: whatever was sent with it is not looked at.
        let credential = match &place {
            HostMatch::Matched(..) => Credential::of(request, sources),
            _ => Credential::Absent,
        };
        let mut by_session = None;
        let mut evidence = Evidence::default();
        let authentication = match (&credential, request.certificate) {
            (Credential::Several, _) => return refuse(Reason::CredentialRepeated),
            // What a browser sends by itself, a page elsewhere can make it send.
            (Credential::Bearer(_), _)
                if sources.is_in_cookie(request)
                    && self.is_foreign(request, &place, false, scratch) =>
            {
                return refuse(Reason::OriginForeign);
            }
            (Credential::Bearer(token), certificate) => {
                evidence.credential = CredentialKind::Bearer;
                let issuers = &self.issuers;
                match issuers.authenticate_noting(token, certificate, now, may_wait, &mut evidence)
                {
                    Outcome::Settled(authentication) => authentication,
                    Outcome::Wait(keys) => return Step::Wait(keys),
                }
            }
            (Credential::Dpop(token), certificate) => {
                evidence.credential = CredentialKind::Dpop;
                match self.issuers.authenticate(token, certificate, now, may_wait) {
                    Outcome::Settled(Authentication::Known(_)) => {
                        Authentication::Refused(Refusal::Bound)
                    }
                    Outcome::Settled(authentication) => authentication,
                    Outcome::Wait(keys) => return Step::Wait(keys),
                }
            }
            (Credential::Absent, certificate) => match self.session(request, &place, now, may_wait)
            {
                Visitor::SignedIn(..) if self.is_foreign(request, &place, true, scratch) => {
                    return refuse(Reason::OriginForeign);
                }
                Visitor::SignedIn(session, identity) => {
                    by_session = Some(session);
                    evidence.credential = CredentialKind::Session;
                    Authentication::Known(identity)
                }
                Visitor::Nobody => match certificate
                    .map_or(Authentication::Absent, |der| self.identify(der, now, &mut evidence))
                {
                    Authentication::Known(_)
                        if self.is_foreign(request, &place, false, scratch) =>
                    {
                        return refuse(Reason::OriginForeign);
                    }
                    found => found,
                },
                Visitor::Wait(answer) => return Step::Wait(answer),
                Visitor::Unsettled => Authentication::SessionsUnavailable,
            },
        };
        let authentication = match authentication {
            Authentication::Known(identity) if self.revocations.cover(&identity) => {
                debug!(user = identity.label(), "a revoked credential");
                Authentication::Refused(Refusal::Revoked)
            }
            other => other,
        };
        let (about, law, rules) = (context(request, now), &self.policy, self.rules());
        let is_ours =
            matches!(place, HostMatch::Matched(..)) && authentication.is_by_token_of_ours();
        let decision = decision::decide(&place, &about, authentication, workspaces, law, rules);
        if decision.reason == Reason::WorkspaceUnknown
            && may_wait
            && let HostMatch::Matched(_, target) = &place
            && let Some(ended) = self.look_up(target)
        {
            return Step::Wait(ended);
        }
        // An Authorization header that is no bearer token is the workspace's own.
        let header = request.authorization.map(Credential::from_authorization);
        let strip_authorization =
            is_ours && matches!(header, Some(Credential::Bearer(_) | Credential::Dpop(_)));
        let (sources, metadata) = (self.sources.clone(), self.metadata.clone());
        let mut response = Response {
            evidence,
            strip_authorization,
            sources,
            metadata,
            session: by_session,
            ..decision.into()
        };
        if response.decision.reason == Reason::CredentialMissing
            && let (Some(sign_in), HostMatch::Matched(host, _)) = (&self.browser, &place)
            && request.navigates()
        {
            response.offer = offer(sign_in, request, host, now);
        }
        Step::Done(response)
    }

    /// What needs no look at who asks.
    fn without_asking(
        &self,
        request: &Request<'_>,
        place: &HostMatch,
        sources: &Sources,
    ) -> Option<Response> {
        if let Some(reason) = unfit(request) {
            return Some(Response::refuse(reason));
        }
        if self.metadata.is_some()
            && matches!(place, HostMatch::Matched(..))
            && request.path == Some(Metadata::PATH.as_bytes())
        {
            let metadata = self.metadata.clone();
            return Some(Response { metadata, ..Response::refuse(Reason::ResourceMetadata) });
        }
        let lacking = self.lacks_arguments(request, sources);
        lacking.then(|| Response::refuse(Reason::MessageUnknown))
    }

    /// Whether HAProxy keeps something back that a decision needs.
    fn lacks_arguments(&self, request: &Request<'_>, sources: &Sources) -> bool {
        let sign_in = self.browser.is_some() && !request.passes.browser;
        if sign_in {
            warn!(
                "a request is refused: HAProxy does not pass the arguments that [sign_in] needs; add them to the args line as in haproxy/identity.spoe.cfg"
            );
        }
        let credentials = (sources.cookie.is_some() && !request.passes.browser)
            || (sources.query.is_some() && !request.passes.query)
            || (sources.subprotocol && !request.passes.protocols);
        if credentials {
            warn!(
                "a request is refused: HAProxy does not pass the place of tokens that [credentials] names; add the argument to the args line as in haproxy/identity.spoe.cfg"
            );
        }
        let policies = self.policies.is_some() && !request.passes.policies;
        if policies {
            warn!(
                "a request is refused: HAProxy does not pass the arguments that [policy] needs; add method, path and client to the args line as in haproxy/identity.spoe.cfg"
            );
        }
        sign_in || credentials || policies
    }

    /// What would come of opening a page, for the pages of sign-in. They do not know the client's address: where a
    /// policy looks at it, the answer is [`Reason::PolicyError`], and only the request itself tells.
    #[must_use]
    pub fn judge(
        &self,
        host: &Host,
        path: &[u8],
        identity: Arc<Identity>,
        now: Timestamp,
    ) -> Decision {
        let path = path.split(|byte| *byte == b'?').next();
        let method = Some(&b"GET"[..]);
        let context = RequestContext { method, path, now, ..RequestContext::default() };
        let workspaces = self.registry.snapshot();
        self.judge_in(&workspaces, host, &context, Some(identity), &mut Scratch::default())
    }

    /// What would come of a request of somebody whose credential was verified before, or of nobody. Policies that
    /// are only put on record are not asked.
    #[must_use]
    pub fn judge_in(
        &self,
        workspaces: &Snapshot,
        host: &Host,
        context: &RequestContext<'_>,
        identity: Option<Arc<Identity>>,
        scratch: &mut Scratch,
    ) -> Decision {
        let Some(target) = self.patterns.resolve(host, scratch) else {
            return Decision::refuse(Reason::HostUnmatched);
        };
        let place = HostMatch::Matched(host.clone(), target);
        let authentication = match identity.map(|identity| self.vouched(identity)) {
            None => Authentication::Absent,
            Some(None) => Authentication::Refused(Refusal::Issuer),
            Some(Some(identity)) if self.revocations.cover(&identity) => {
                Authentication::Refused(Refusal::Revoked)
            }
            Some(Some(identity)) => Authentication::Known(identity),
        };
        let (law, rules) = (&self.policy, self.rules().without_shadow());
        decision::decide(&place, context, authentication, workspaces, law, rules)
    }

    /// The policies that are asked; none is the default.
    fn rules(&self) -> Rules<'_> {
        self.policies.as_deref().map(Policies::rules).unwrap_or_default()
    }

    /// Whom the session's cookie of this very host stands for.
    fn session(
        &self,
        request: &Request<'_>,
        place: &HostMatch,
        now: Timestamp,
        may_wait: bool,
    ) -> Visitor {
        let (Some(sign_in), HostMatch::Matched(host, _)) = (&self.browser, place) else {
            return Visitor::Nobody;
        };
        let id = request.cookie.and_then(|all| cookie::only(all, sessions::COOKIE.as_bytes()));
        let Some(id) = id else { return Visitor::Nobody };
        let (sessions, host) = (&sign_in.sessions, host.as_str());
        match sessions.find(id, host, now) {
            // Whoever was only signed out may sign in again, and is sent to.
            Some(session) if self.revocations.cover(&session.identity.load()) => Visitor::Nobody,
            Some(_) if sessions.is_stale() => Visitor::Unsettled,
            // Nor is whoever signed in at a provider that is not configured any more somebody.
            Some(session) => match self.vouched(session.identity()) {
                Some(identity) => Visitor::SignedIn(session, identity),
                None => Visitor::Nobody,
            },
            None if !sessions.is_unsettled(id, host) => Visitor::Nobody,
            None => match sessions.ask(id, host).filter(|_| may_wait) {
                Some(answer) => Visitor::Wait(Pending::new(answer)),
                None => Visitor::Unsettled,
            },
        }
    }

    /// Whether a request is made by neither the person nor the workspace's own pages. Cookies and certificates come
    /// along from every page of a sibling host too, for which SameSite is no obstacle, and hostile code runs
    /// there: so what such a page does counts only where it is of the same workspace, at another port. A
    /// WebSocket must be of the very host (RFC 6455 section 10.2); `names_origin` says that only a browser has
    /// the credential, so that there is no WebSocket without an origin.
    fn is_foreign(
        &self,
        request: &Request<'_>,
        place: &HostMatch,
        names_origin: bool,
        scratch: &mut Scratch,
    ) -> bool {
        let HostMatch::Matched(host, target) = place else { return true };
        let set = |value: &&[u8]| !value.is_empty();
        let origin = request.browser.origin.filter(set);
        if origin.is_some_and(|origin| self.is_origin(origin, host, request)) {
            return false;
        }
        if request.browser.upgrade.is_some_and(|upgrade| !upgrade.is_empty()) {
            return names_origin || origin.is_some();
        }
        if request.is_framed_elsewhere() && !self.may_frame(request, target, scratch) {
            return true;
        }
        // A browser that says nothing of where a request comes from may still name the origin.
        let said = request.browser.site.is_some_and(|site| !site.is_empty());
        if request.is_asked_for() && (said || origin.is_none()) {
            return false;
        }
        origin.is_none_or(|origin| !self.is_of_workspace(origin, target, request, scratch))
    }

    /// Whether the page that shows a workspace in a frame may do so, as the operator decided. A browser names the
    /// page in Referer if it names it at all: a page can leave that out, and cannot change it.
    fn may_frame(&self, request: &Request<'_>, target: &Target, scratch: &mut Scratch) -> bool {
        match self.policy.framing {
            Framing::Any => true,
            Framing::Site => request.browser.site == Some(b"same-site"),
            Framing::Workspace => {
                let from = request.browser.referer.and_then(origin_of);
                from.is_some_and(|from| self.is_of_workspace(from, target, request, scratch))
            }
        }
    }

    /// Whether an origin is a host of a workspace.
    fn is_of_workspace(
        &self,
        origin: &[u8],
        target: &Target,
        request: &Request<'_>,
        scratch: &mut Scratch,
    ) -> bool {
        let from = authority_of(origin).and_then(|authority| Host::parse(authority).ok());
        let from = from.filter(|from| self.is_origin(origin, from, request));
        let from = from.and_then(|from| self.patterns.resolve(&from, scratch));
        from.is_some_and(|from| from.workspace == target.workspace && from.source == target.source)
    }

    /// Whether an origin is that host, at the port where people reach the gate: the configured one with sign-in,
    /// else the request's own. Without sign-in it may be of plain http, unless the browser calls it another site:
    /// a scheme other than the request's makes it one, and browsers say so of whatever they send by https (Fetch
    /// Metadata sections 2.3 and 3.1).
    fn is_origin(&self, origin: &[u8], host: &Host, request: &Request<'_>) -> bool {
        if let Some(sign_in) = &self.browser {
            return origin == sign_in.places.origin(host.as_str()).as_bytes();
        }
        let site = request.browser.site;
        let may_be_plain = matches!(site, None | Some(b"" | b"same-origin" | b"same-site"));
        if !may_be_plain && !origin.starts_with(b"https://") {
            return false;
        }
        let port = |authority: &[u8]| authority.split(|b| *b == b':').nth(1).map(<[u8]>::to_vec);
        authority_of(origin).is_some_and(|authority| {
            Host::parse(authority).is_ok_and(|from| from == *host)
                && port(authority) == request.host.and_then(port)
        })
    }

    /// Everybody who is trusted to say who somebody is.
    pub fn authorities(&self) -> impl Iterator<Item = &Arc<Authority>> {
        let issuers = self.issuers.profiles().map(|profile| &profile.authority);
        issuers.chain(self.certificates.iter().map(|rule| &rule.authority))
    }

    /// An identity that was verified under this configuration or one before it, as it counts now: whoever
    /// vouched for it must still be configured, under whatever name, and joins it to people as the configuration
    /// says now.
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

    /// What the request's host names.
    #[must_use]
    pub fn match_host(&self, request: &Request<'_>, scratch: &mut Scratch) -> HostMatch {
        let Some(raw) = request.host else { return HostMatch::Missing };
        match Host::parse(raw) {
            Err(error) => HostMatch::Invalid(error),
            Ok(host) => match self.patterns.resolve(&host, scratch) {
                Some(target) => HostMatch::Matched(host, target),
                None => HostMatch::Unmatched(host),
            },
        }
    }

    /// Asks for a workspace that somebody with an identity wants and nobody here knows: it may have
    /// started a moment ago. With several sources that can be asked, the host must name one.
    fn look_up(&self, target: &Target) -> Option<Pending> {
        let mut able = self.lookups.iter().enumerate().filter_map(|(number, lookup)| {
            let named = target.source.is_none_or(|source| source.index() == number);
            lookup.as_ref().filter(|_| named)
        });
        let (lookup, others) = (able.next()?, able.next());
        if others.is_some() {
            return None;
        }
        lookup.ask(&target.workspace, Moment::now()).map(Pending::new)
    }

    /// Who a certificate stands for. One that no rule is about is no credential of ours.
    fn identify(&self, der: &[u8], now: Timestamp, evidence: &mut Evidence) -> Authentication {
        let known = self.certificates.iter().find_map(|rule| rule.identify(der, now));
        let Some(identity) = known else { return Authentication::Absent };
        evidence.credential = CredentialKind::Certificate;
        Authentication::Known(Arc::new(identity))
    }
}

/// Host and port of an origin (RFC 6454 section 6.2).
fn authority_of(origin: &[u8]) -> Option<&[u8]> {
    origin.strip_prefix(b"https://").or_else(|| origin.strip_prefix(b"http://"))
}

/// The origin of an address.
fn origin_of(address: &[u8]) -> Option<&[u8]> {
    let start = address.len().checked_sub(authority_of(address)?.len())?;
    let rest = address.get(start..)?;
    let end = rest.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(rest.len());
    address.get(..start.checked_add(end)?)
}

/// What policies are told of a request.
const fn context<'a>(request: &Request<'a>, now: Timestamp) -> RequestContext<'a> {
    let Request { method, path, client, is_stream, .. } = *request;
    RequestContext { method, path, client, now, is_stream }
}

/// Where a browser without a session is sent.
fn offer(
    browser: &BrowserSessions,
    request: &Request<'_>,
    host: &Host,
    now: Timestamp,
) -> Option<Arc<Offer>> {
    let path = request.path.and_then(|path| std::str::from_utf8(path).ok()).unwrap_or("/");
    let query = request.query.and_then(|query| std::str::from_utf8(query).ok());
    let whole = match query.filter(|query| !query.is_empty()) {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let BrowserSessions { sealer, places, .. } = browser;
    let held = request.cookie.unwrap_or_default();
    Start::offer(sealer, places, host.as_str(), &whole, held, now).ok().map(Arc::new)
}

/// What is refused before it is read: CONNECT, and repeated headers. HAProxy passes the last of several headers: which
/// one the workspace would heed is unknown, so none counts.
fn unfit(request: &Request<'_>) -> Option<Reason> {
    if request.method.is_some_and(|method| method.eq_ignore_ascii_case(b"CONNECT")) {
        Some(Reason::MethodRefused)
    } else if request.hosts > 1 {
        Some(Reason::HostRepeated)
    } else if request.authorizations > 1 {
        Some(Reason::AuthorizationRepeated)
    } else if request.protocol_lines > 1 {
        Some(Reason::CredentialRepeated)
    } else if request.cookies > 1 {
        Some(Reason::CookieRepeated)
    } else {
        None
    }
}

/// What decides, by its fingerprints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    /// Of the configuration file: the first 8 bytes of its SHA-256.
    pub config: Option<Fingerprint>,
    /// Of the policy files, where there are any.
    pub policy: Option<Fingerprint>,
}

/// What clients are told of tokens for workspaces (RFC 9728).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// The issuer identifiers.
    pub authorization_servers: Vec<Box<str>>,
}

impl Metadata {
    /// Where each workspace's document is (RFC 9728 section 3).
    pub const PATH: &str = "/.well-known/oauth-protected-resource";
}

/// What a request is answered with: the decision, and what belongs to the credential and the browser that asked.
#[derive(Clone, Debug)]
pub struct Response {
    /// The decision.
    pub decision: Decision,
    /// What the identity rests on.
    pub evidence: Evidence,
    /// Whether the Authorization header holds a credential for the gate, which must not reach the workspace.
    pub strip_authorization: bool,
    /// Where else tokens may be, so that none reaches the workspace; nowhere by default.
    pub sources: Option<Arc<Sources>>,
    /// Which issuers' tokens workspaces accept, where clients are told.
    pub metadata: Option<Arc<Metadata>>,
    /// Where a browser is sent to sign in.
    pub offer: Option<Arc<Offer>>,
    /// The browser session that the identity is from, if it is from one.
    pub session: Option<Arc<Session>>,
}

impl Response {
    /// A refusal in which no workspace or identity has a part.
    #[must_use]
    pub fn refuse(reason: Reason) -> Self {
        Decision::refuse(reason).into()
    }
}

impl From<Decision> for Response {
    fn from(decision: Decision) -> Self {
        Self {
            decision,
            evidence: Evidence::default(),
            strip_authorization: false,
            sources: None,
            metadata: None,
            offer: None,
            session: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s15_an_origin_is_scheme_host_and_port_of_an_address() {
        for (address, origin) in [
            (&b"https://a.test/x?y"[..], Some(&b"https://a.test"[..])),
            (b"http://a.test:81", Some(b"http://a.test:81")),
            (b"https://a.test?https://b.test/", Some(b"https://a.test")),
            (b"https://a.test#/", Some(b"https://a.test")),
            (b"https://b.test@a.test/", Some(b"https://b.test@a.test")),
            (b"https://", Some(b"https://")),
            (b"ftp://a.test/", None),
            (b"/x", None),
            (b"", None),
        ] {
            assert_eq!(origin_of(address), origin, "{}", address.escape_ascii());
        }
    }
}
