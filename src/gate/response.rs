//! What a request is answered with: the decision, and what belongs to the credential and the browser.

use std::sync::Arc;

use super::{Check, Gate};
use crate::{
    authz::{
        decision::{Decision, HostMatch},
        reason::Reason,
    },
    fingerprint::Fingerprint,
    identity::{
        Authentication,
        credential::{Credential, Sources},
        evidence::Evidence,
    },
    request::Request,
    sessions::{
        BrowserSessions, Session,
        flow::{Offer, Start},
    },
    time::Timestamp,
    workspaces::host::Host,
};

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

impl Gate {
    /// Adds to a decision what HAProxy and the browser need beside it.
    pub(super) fn decorate(&self, check: &Check<'_>, response: Response) -> Response {
        let offer = match (response.decision.reason, &self.browser, &check.host) {
            (Reason::CredentialMissing, Some(sign_in), HostMatch::Matched(host, _))
                if check.request.navigates() =>
            {
                offer(sign_in, check.request, host, check.now)
            }
            _ => None,
        };
        let (sources, metadata) = (self.sources.clone(), self.metadata.clone());
        Response { sources, metadata, offer, ..response }
    }

    /// The response to a request for the metadata of a workspace.
    pub(super) fn metadata_document(&self) -> Response {
        let metadata = self.metadata.clone();
        Response { metadata, ..Response::refuse(Reason::ResourceMetadata) }
    }
}

/// Whether the Authorization header holds a credential for the gate. One that is no bearer token is the workspace's
/// own.
pub(super) fn strips_authorization(check: &Check<'_>, authentication: &Authentication) -> bool {
    let header = check.request.authorization.map(Credential::from_authorization);
    check.is_for_workspace()
        && authentication.is_by_token_of_ours()
        && matches!(header, Some(Credential::Bearer(_) | Credential::Dpop(_)))
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
