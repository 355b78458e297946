//! The response to an authorization request: the decision, and what HAProxy and the browser need
//! with it.

use std::sync::Arc;

use super::{Check, Cors, Gate};
use crate::{
    authz::{
        decision::{Decision, HostMatch},
        reason::Reason,
    },
    fingerprint::Fingerprint,
    identity::{credential::TokenLocations, evidence::Evidence},
    request::Request,
    sessions::{
        BrowserSessions, Session,
        flow::{Aim, SignInRedirect, Start},
    },
    time::Timestamp,
    workspaces::host::Host,
};

/// The fingerprints of what decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    /// The configuration file: the first 8 bytes of its SHA-256.
    pub config: Option<Fingerprint>,
    /// The policy files, where there are any.
    pub policy: Option<Fingerprint>,
}

/// What clients are told about tokens for workspaces (RFC 9728).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// The identifiers of the issuers.
    pub authorization_servers: Vec<Box<str>>,
}

impl Metadata {
    /// The path of the document at each workspace (RFC 9728 section 3).
    pub const PATH: &str = "/.well-known/oauth-protected-resource";
}

/// Whose the Authorization header of a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorizationHeader {
    /// It has a credential for the gate, or may have one. It must not reach the workspace.
    Gates,
    /// It belongs to the workspace, and travels on.
    Workspaces,
}

/// The response to an authorization request.
#[derive(Clone, Debug)]
pub struct Response {
    /// The decision.
    pub decision: Decision,
    /// The credential that the identity is based on.
    pub evidence: Evidence,
    /// Whose the Authorization header is.
    pub authorization: AuthorizationHeader,
    /// Where else tokens may be, so that none reaches the workspace; nowhere by default.
    pub token_locations: Option<Arc<TokenLocations>>,
    /// The issuers whose tokens workspaces accept, where clients are told.
    pub metadata: Option<Arc<Metadata>>,
    /// The redirect of a browser to the login host.
    pub sign_in_redirect: Option<Arc<SignInRedirect>>,
    /// The browser session of the identity, if there is one.
    pub session: Option<Arc<Session>>,
    /// What a page of another origin is told by CORS.
    pub cors: Option<Cors>,
}

impl Response {
    /// A refusal without workspace and identity.
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
            authorization: AuthorizationHeader::Gates,
            token_locations: None,
            metadata: None,
            sign_in_redirect: None,
            session: None,
            cors: None,
        }
    }
}

impl Gate {
    /// Adds to a decision what HAProxy and the browser need with it.
    pub(super) fn decorate(&self, check: &Check<'_>, response: Response) -> Response {
        let sign_in_redirect = match (response.decision.reason, &self.browser, &check.host) {
            (Reason::CredentialMissing, Some(sign_in), HostMatch::Matched(host, _))
                // Only a page that is opened can be redirected: a script would get the login page
                // as its data. Nor a frame: the login host's pages are shown in none.
                if check.request.navigates() && !check.request.is_framed() =>
            {
                sign_in_redirect(sign_in, check.request, host, check.now)
            }
            _ => None,
        };
        let (token_locations, metadata) = (self.token_locations.clone(), self.metadata.clone());
        Response { token_locations, metadata, sign_in_redirect, ..response }
    }

    /// The response to a request for the metadata document of a workspace.
    pub(super) fn metadata_document(&self) -> Response {
        let metadata = self.metadata.clone();
        Response { metadata, ..Response::refuse(Reason::ResourceMetadata) }
    }
}

/// The redirect of a browser without a session; `None` if it cannot be encrypted.
fn sign_in_redirect(
    browser: &BrowserSessions,
    request: &Request<'_>,
    host: &Host,
    now: Timestamp,
) -> Option<Arc<SignInRedirect>> {
    redirect(browser, request, host, Aim::SignIn, now).map(Arc::new)
}

/// The redirect of a browser with a session, for cookies of the workspace's other hosts.
pub(super) fn way_round(
    browser: &BrowserSessions,
    request: &Request<'_>,
    host: &Host,
    now: Timestamp,
) -> Option<SignInRedirect> {
    redirect(browser, request, host, Aim::OtherHosts, now)
}

/// A redirect to the login host, from which the browser returns to this very address.
fn redirect(
    browser: &BrowserSessions,
    request: &Request<'_>,
    host: &Host,
    aim: Aim,
    now: Timestamp,
) -> Option<SignInRedirect> {
    let path = request.path.and_then(|path| std::str::from_utf8(path).ok()).unwrap_or("/");
    let query = request.query.and_then(|query| std::str::from_utf8(query).ok());
    let whole = match query.filter(|query| !query.is_empty()) {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let BrowserSessions { keyring, urls, .. } = browser;
    let held = request.cookie.unwrap_or_default();
    Start::redirect(keyring, urls, host.as_str(), &whole, held, aim, now).ok()
}
