//! Policies beyond ownership: reviewed files in the language Cedar, with rules about user, groups, workspace, endpoint,
//! method, path, client network and time.
//!
//! [`crate::authz::decision`] asks a [`PolicySet`] when it knows what ownership permits, and before it looks at the
//! phase and the destination of the workspace. In the mode [`PolicyMode::Narrow`] policies only forbid what ownership
//! permits; in [`PolicyMode::Replace`] they may also permit what it denies, to a person with an identity.
//!
//! Evaluation is a pure function without I/O or clock. The invariant: what cannot be evaluated, or lacks an input that
//! a policy reads, is refused. [`load`] reads the files, `inputs` finds out what they read, [`evaluate`] asks Cedar,
//! [`reading`] lists what a path may mean, [`cases`] runs the tests next to the policies, and [`replay`] evaluates
//! policies over a recorded past.

use std::{fmt, net::IpAddr, path::PathBuf, sync::Arc};

use cedar_policy::{Authorizer, EntityTypeName, EntityUid, PolicySet as CedarPolicies};
use jiff::tz::TimeZone;

use crate::{
    authz::{permission::Permission, reason::Reason},
    diagnostics::{Mistake, Mistakes},
    fingerprint::Fingerprint,
    identity::Identity,
    time::Timestamp,
    workspaces::{EndpointName, Workspace},
};

pub mod cases;
pub mod evaluate;
mod inputs;
pub mod load;
pub mod reading;
pub mod replay;
#[cfg(test)]
mod tests;

pub use inputs::PolicyInputs;

/// The settings of policies: where their files are, and what they may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySettings {
    /// The directory of the policies that are enforced.
    pub directory: Option<PathBuf>,
    /// What the enforced policies may do.
    pub mode: PolicyMode,
    /// The directory of the shadow policies, which are evaluated and recorded, and not enforced.
    pub shadow: Option<PathBuf>,
    /// What the shadow policies could do if they were enforced.
    pub shadow_mode: PolicyMode,
    /// The time zone of the hours and weekdays that policies read.
    pub zone: TimeZone,
}

/// The schema of policies, as `identity-spoa policy schema` prints it.
pub const SCHEMA: &str = include_str!("policy/schema.cedarschema");

/// What policies may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PolicyMode {
    /// Ownership decides first; policies may only forbid.
    #[default]
    Narrow,
    /// Policies may also permit what ownership denies, to a person with an identity.
    Replace,
}

/// The policies of the agent.
#[derive(Debug, Default)]
pub struct Policies {
    /// The policies that are enforced.
    pub enforced: Option<PolicySet>,
    /// The policies that are evaluated and recorded, and not enforced.
    pub shadow: Option<PolicySet>,
}

/// The policies that a decision evaluates; none by default.
#[derive(Clone, Copy, Debug, Default)]
pub struct PolicySets<'p> {
    /// The policies that are enforced.
    pub enforced: Option<&'p PolicySet>,
    /// The policies that are only recorded.
    pub shadow: Option<&'p PolicySet>,
}

/// The properties of a request or stream that policies can read, other than person and workspace.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestContext<'a> {
    /// The method.
    pub method: Option<&'a [u8]>,
    /// The path, without the query.
    pub path: Option<&'a [u8]>,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// The time of the request.
    pub now: Timestamp,
    /// Whether it is a TCP stream, which has neither method nor path.
    pub is_stream: bool,
}

/// The person who makes a request, as policies see them.
#[derive(Clone, Copy, Debug)]
pub struct Principal<'a> {
    /// The configured name of the issuer or certificate rule.
    pub issuer: &'a str,
    /// The issuer's id of the person.
    pub subject: &'a str,
    /// The verified e-mail address.
    pub email: Option<&'a str>,
    /// The login name.
    pub username: Option<&'a str>,
    /// The organization.
    pub organization: Option<&'a str>,
    /// The groups; `None` when the issuer left them out.
    pub groups: Option<&'a [Box<str>]>,
}

/// One request for policies to decide about.
#[derive(Clone, Copy, Debug)]
pub struct PolicyRequest<'a> {
    /// The person; `None` for a request without an identity at a public endpoint.
    pub principal: Option<Principal<'a>>,
    /// The workspace's id.
    pub workspace: &'a str,
    /// The workspace's organization.
    pub organization: Option<&'a str>,
    /// The endpoint.
    pub endpoint: &'a EndpointName,
    /// Whether the workspace declares the endpoint.
    pub declared: bool,
    /// What ownership permits; policies read it as `context.relation`.
    pub relation: Permission,
    /// The other properties of the request.
    pub context: RequestContext<'a>,
}

/// What ownership and policies together permit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyOutcome {
    /// Whether the request is permitted, and why.
    pub permission: Permission,
    /// The policy that decided; `None` where ownership did.
    pub policy: Option<Arc<str>>,
}

/// What would have been decided if the shadow policies were enforced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShadowDecision {
    /// The reason of that decision.
    pub reason: Reason,
    /// The policy that would have decided; `None` where ownership would.
    pub policy: Option<Arc<str>>,
    /// The fingerprint of the shadow policies.
    pub set: Fingerprint,
}

/// The policies of one directory, ready for evaluation.
pub struct PolicySet {
    mode: PolicyMode,
    zone: TimeZone,
    policies: CedarPolicies,
    inputs: PolicyInputs,
    /// The ids of policies that permit by names which any issuer may give.
    unbound: Vec<String>,
    names: SchemaNames,
    authorizer: Authorizer,
    hash: Fingerprint,
}

/// Names of the schema, parsed once.
struct SchemaNames {
    user: EntityTypeName,
    group: EntityTypeName,
    workspace: EntityTypeName,
    anonymous: EntityUid,
    request: EntityUid,
    stream: EntityUid,
}

impl PolicyMode {
    /// The word for it in the configuration.
    #[must_use]
    pub const fn id(self) -> &'static str {
        match self {
            Self::Narrow => "narrow",
            Self::Replace => "replace",
        }
    }
}

impl fmt::Debug for PolicySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicySet")
            .field("mode", &self.mode)
            .field("policies", &self.len())
            .field("hash", &self.hash)
            .finish_non_exhaustive()
    }
}

impl Policies {
    /// The fingerprint of the enforced files; `None` where no policies are enforced.
    #[must_use]
    pub fn hash(&self) -> Option<Fingerprint> {
        self.enforced.as_ref().map(PolicySet::hash)
    }

    /// The policies, for a decision.
    #[must_use]
    pub const fn sets(&self) -> PolicySets<'_> {
        PolicySets { enforced: self.enforced.as_ref(), shadow: self.shadow.as_ref() }
    }

    /// Refuses policies that permit by names which any issuer may give.
    ///
    /// # Errors
    /// One mistake for each such policy.
    pub fn bound_to_issuers(&self) -> Result<(), Mistakes> {
        let sets = [&self.enforced, &self.shadow].into_iter().flatten();
        let mistakes: Vec<_> = sets
            .flat_map(PolicySet::unbound)
            .map(|id| Mistake {
                file: format!("policy {id:?}"),
                place: None,
                message: "add a condition such as principal.issuer == \"NAME\": several issuers are configured, and \
                          the same subject, e-mail address, login name or organization can belong to different \
                          people at each"
                    .into(),
            })
            .collect();
        if mistakes.is_empty() { Ok(()) } else { Err(mistakes.into()) }
    }
}

impl PolicySets<'_> {
    /// The enforced policies alone.
    #[must_use]
    pub const fn without_shadow(self) -> Self {
        Self { shadow: None, ..self }
    }
}

impl<'a> From<&'a Identity> for Principal<'a> {
    fn from(identity: &'a Identity) -> Self {
        Self {
            issuer: &identity.authority.name,
            subject: &identity.subject,
            email: identity.email.as_deref(),
            username: identity.username.as_deref(),
            organization: identity.organization.as_deref(),
            groups: (!identity.groups_overage).then_some(&identity.groups),
        }
    }
}

impl<'a> PolicyRequest<'a> {
    /// The request of an identity, or of a visitor without one, for an endpoint of a workspace.
    #[must_use]
    pub fn new(
        identity: Option<&'a Identity>,
        workspace: &'a Workspace,
        endpoint: &'a EndpointName,
        relation: Permission,
        context: RequestContext<'a>,
    ) -> Self {
        Self {
            principal: identity.map(Principal::from),
            workspace: workspace.id.as_str(),
            organization: workspace.organization_name(),
            endpoint,
            declared: workspace.endpoint(endpoint).is_some(),
            relation,
            context,
        }
    }

    /// Whether a policy may permit what ownership denies here: only to a person without a right of their own, and only
    /// an endpoint that the workspace declares. A suspended account stays out.
    const fn may_be_permitted(&self) -> bool {
        let has_no_right = matches!(
            self.relation,
            Permission::Denied(Reason::NotPermitted | Reason::GroupsOverage)
        );
        has_no_right && self.declared && self.principal.is_some()
    }
}

impl PolicySet {
    /// How many policies there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.policies.num_of_policies()
    }

    /// Whether there are none, as in a directory whose files have only comments.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// What the policies may do.
    #[must_use]
    pub const fn mode(&self) -> PolicyMode {
        self.mode
    }

    /// The fingerprint of the files.
    #[must_use]
    pub const fn hash(&self) -> Fingerprint {
        self.hash
    }

    /// What the policies read.
    #[must_use]
    pub const fn inputs(&self) -> &PolicyInputs {
        &self.inputs
    }

    /// The ids of policies that permit by a subject, e-mail address, login name or organization without reading the
    /// issuer. With several issuers each of them could give that name to another person.
    #[must_use]
    pub fn unbound(&self) -> &[String] {
        &self.unbound
    }

    /// The ids of the policies, sorted.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        let mut ids: Vec<_> = self.policies.policies().map(|p| p.id().to_string()).collect();
        ids.sort();
        ids
    }
}
