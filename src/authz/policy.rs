//! Policy beyond ownership: reviewed files of rules over user, groups, workspace, endpoint, method, path,
//! client network and time, in the language Cedar.
//!
//! [`crate::authz::decision`] asks a [`PolicySet`] once it knows what somebody is to a workspace, and before it looks at the
//! workspace's phase and place. In the mode [`Mode::Narrow`] policies only forbid what ownership allows; in
//! [`Mode::Replace`] they may permit what it refuses, to somebody with an identity. A pure function: no I/O, no
//! clock. What cannot be evaluated, or lacks an input that a policy looks at, is refused. [`load`] reads the
//! files, [`reading`] says what a path may mean, [`cases`] runs the tests beside policies and [`replay`] a
//! recorded past.

use std::{collections::HashSet, fmt, net::IpAddr, sync::Arc};

use cedar_policy::{
    Authorizer, Context, Decision as Answer, Entities, Entity, EntityId, EntityTypeName, EntityUid,
    PolicySet as CedarPolicies, Request, RestrictedExpression,
};
use jiff::tz::TimeZone;
use tracing::debug;

use crate::{
    authz::{permission::Permission, reason::Reason},
    diagnostics::{Mistake, Mistakes},
    fingerprint::Fingerprint,
    identity::Identity,
    time::Timestamp,
    workspaces::{EndpointName, Workspace},
};
use std::path::PathBuf;

pub mod cases;
pub mod load;
mod looks;
pub mod reading;
pub mod replay;
#[cfg(test)]
mod tests;

pub use looks::Looks;

/// Where policies are, and what they may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySettings {
    /// The directory of the policies that are enforced.
    pub directory: Option<PathBuf>,
    /// What they may do.
    pub mode: Mode,
    /// The directory of policies that are only put on record.
    pub shadow: Option<PathBuf>,
    /// What they might do.
    pub shadow_mode: Mode,
    /// Where hours and weekdays are told.
    pub zone: TimeZone,
}

/// What policies can be about, as `identity-spoa policy schema` prints it.
pub const SCHEMA: &str = include_str!("policy/schema.cedarschema");

/// What policies may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Ownership decides first; policies may only forbid.
    #[default]
    Narrow,
    /// Policies may also permit what ownership refuses, to somebody with an identity.
    Replace,
}

/// The policies of the agent.
#[derive(Debug, Default)]
pub struct Policies {
    /// What is enforced.
    pub enforced: Option<PolicySet>,
    /// What is only put on record.
    pub shadow: Option<PolicySet>,
}

/// The sets that a decision asks; none is the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct PolicySets<'p> {
    /// Decides.
    pub enforced: Option<&'p PolicySet>,
    /// Is only put on record.
    pub shadow: Option<&'p PolicySet>,
}

/// What a request or stream is like, beside who wants what.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestContext<'a> {
    /// The method.
    pub method: Option<&'a [u8]>,
    /// The path, without query.
    pub path: Option<&'a [u8]>,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// When.
    pub now: Timestamp,
    /// Whether it is a TCP stream, which has neither method nor path.
    pub is_stream: bool,
}

/// Who asks, as policies see it.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
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

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Who asks; nobody at a public endpoint.
    pub who: Option<Who<'a>>,
    /// The workspace's id.
    pub workspace: &'a str,
    /// Its organization.
    pub organization: Option<&'a str>,
    /// The endpoint.
    pub endpoint: &'a EndpointName,
    /// Whether the workspace declares the endpoint.
    pub declared: bool,
    /// What ownership says.
    pub relation: Permission,
    /// The rest.
    pub context: RequestContext<'a>,
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Why it is allowed, or why not.
    pub permission: Permission,
    /// The policy that decided; none where ownership did.
    pub policy: Option<Arc<str>>,
}

/// What the shadow set would have decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shadow {
    /// The reason of the decision.
    pub reason: Reason,
    /// The policy that would have decided; none where ownership would.
    pub policy: Option<Arc<str>>,
    /// The set.
    pub set: Fingerprint,
}

/// What the policies themselves say.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ruling {
    /// None is about it.
    Silent,
    /// One permits it and none forbids it.
    Permitted(Arc<str>),
    /// One forbids it.
    Forbidden(Arc<str>),
    /// Nobody can tell; the policy that could not be evaluated, if it was one.
    Unknown(Option<Arc<str>>),
}

/// Policies that belong together.
pub struct PolicySet {
    mode: Mode,
    zone: TimeZone,
    policies: CedarPolicies,
    looks: Looks,
    /// The ids of policies that permit by names which any issuer may give.
    unbound: Vec<String>,
    names: Names,
    authorizer: Authorizer,
    hash: Fingerprint,
}

/// Names of the schema, parsed once.
struct Names {
    user: EntityTypeName,
    group: EntityTypeName,
    workspace: EntityTypeName,
    anonymous: EntityUid,
    request: EntityUid,
    stream: EntityUid,
}

impl Mode {
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
    /// The fingerprint of the files whose policies are enforced; none where none are.
    #[must_use]
    pub fn hash(&self) -> Option<Fingerprint> {
        self.enforced.as_ref().map(PolicySet::hash)
    }

    /// Everything there is.
    #[must_use]
    pub const fn sets(&self) -> PolicySets<'_> {
        PolicySets { enforced: self.enforced.as_ref(), shadow: self.shadow.as_ref() }
    }
}

impl Policies {
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
    /// The same without the set that is only put on record.
    #[must_use]
    pub const fn without_shadow(self) -> Self {
        Self { shadow: None, ..self }
    }
}

impl<'a> Who<'a> {
    /// An identity, as policies see it.
    #[must_use]
    pub fn of(identity: &'a Identity) -> Self {
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

impl<'a> Question<'a> {
    /// The question of an identity, or of nobody, about a workspace.
    #[must_use]
    pub fn new(
        identity: Option<&'a Identity>,
        workspace: &'a Workspace,
        endpoint: &'a EndpointName,
        relation: Permission,
        context: RequestContext<'a>,
    ) -> Self {
        Self {
            who: identity.map(Who::of),
            workspace: workspace.id.as_str(),
            organization: workspace.organization_name(),
            endpoint,
            declared: workspace.endpoint(endpoint).is_some(),
            relation,
            context,
        }
    }

    /// Whether policies may permit what ownership refuses here: to somebody it does not know, and only what
    /// the workspace offers. An account that is suspended stays out.
    const fn may_be_permitted(&self) -> bool {
        let stranger = matches!(
            self.relation,
            Permission::Denied(Reason::NotPermitted | Reason::GroupsOverage)
        );
        stranger && self.declared && self.who.is_some()
    }
}

impl PolicySet {
    /// How many policies there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.policies.num_of_policies()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// What policies may do.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// The fingerprint of the files.
    #[must_use]
    pub const fn hash(&self) -> Fingerprint {
        self.hash
    }

    /// What the policies look at.
    #[must_use]
    pub const fn looks(&self) -> &Looks {
        &self.looks
    }

    /// The ids of policies that permit by a subject, e-mail address, login name or organization without a look at
    /// the issuer. With several issuers each of them could give that name to someone else.
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

    /// Decides: what ownership says, unless a policy says otherwise and may.
    #[must_use]
    pub fn decide(&self, question: &Question<'_>) -> Outcome {
        let may_permit = self.mode == Mode::Replace && question.may_be_permitted();
        if self.is_empty() || (!question.relation.is_granted() && !may_permit) {
            return Outcome { permission: question.relation, policy: None };
        }
        match self.judge(question) {
            Ruling::Forbidden(id) => Outcome {
                permission: Permission::Denied(Reason::PolicyForbidden),
                policy: Some(id),
            },
            Ruling::Unknown(id) => {
                Outcome { permission: Permission::Denied(Reason::PolicyError), policy: id }
            }
            Ruling::Permitted(id) if may_permit => Outcome {
                permission: Permission::Granted(Reason::PolicyPermitted),
                policy: Some(id),
            },
            Ruling::Permitted(_) | Ruling::Silent => {
                Outcome { permission: question.relation, policy: None }
            }
        }
    }

    /// What the policies say in every reading of the path and the method: what one reading forbids is forbidden,
    /// and only what each permits is permitted.
    fn judge(&self, question: &Question<'_>) -> Ruling {
        let context = &question.context;
        let http = !context.is_stream;
        let (mut paths, mut methods) = (vec!["".into()], vec!["".into()]);
        if http && self.looks.at("path") {
            let Some(path) = context.path else { return lacking("path") };
            match reading::readings(path) {
                Ok(readings) => paths = readings,
                Err(error) => {
                    debug!(%error, "policies cannot be asked about a path");
                    return Ruling::Unknown(None);
                }
            }
        }
        if http && self.looks.at("method") {
            let method = context.method.and_then(|method| std::str::from_utf8(method).ok());
            let Some(method) = method else { return lacking("method") };
            let upper = method.to_ascii_uppercase();
            methods = vec![method.into()];
            // Methods are written in capitals (RFC 9110 section 9.1), but who heeds that?
            if upper != method {
                methods.push(std::borrow::Cow::Owned(upper));
            }
        }
        let Some((entities, principal, resource)) = self.entities(question) else {
            return lacking("groups");
        };
        let Some(context) = self.context(question) else { return lacking("client") };
        let action = if http { &self.names.request } else { &self.names.stream };
        let mut all: Option<Ruling> = None;
        for path in &paths {
            for method in &methods {
                let mut pairs = context.clone();
                if http {
                    pairs.extend(self.looked("path", || text(path)));
                    pairs.extend(self.looked("method", || text(method)));
                }
                let Ok(context) = Context::from_pairs(pairs) else { return Ruling::Unknown(None) };
                let (principal, resource) = (principal.clone(), resource.clone());
                let request = Request::new(principal, action.clone(), resource, context, None);
                let Ok(request) = request else { return Ruling::Unknown(None) };
                let one = self.answer(&request, &entities);
                all = Some(match all {
                    None => one,
                    Some(before) => before.and(one),
                });
                if matches!(all, Some(Ruling::Forbidden(_))) {
                    return all.unwrap_or(Ruling::Unknown(None));
                }
            }
        }
        all.unwrap_or(Ruling::Unknown(None))
    }

    fn answer(&self, request: &Request, entities: &Entities) -> Ruling {
        let response = self.authorizer.is_authorized(request, &self.policies, entities);
        let diagnostics = response.diagnostics();
        // The first by name, so that one request has one answer.
        let first = diagnostics.reason().map(AsRef::<str>::as_ref).min().map(Arc::<str>::from);
        let error = diagnostics.errors().next();
        match (response.decision(), first, error) {
            (Answer::Deny, Some(id), _) => Ruling::Forbidden(id),
            (_, _, Some(error)) => {
                debug!(%error, "a policy cannot be evaluated");
                let cedar_policy::AuthorizationError::PolicyEvaluationError(error) = error;
                Ruling::Unknown(Some(AsRef::<str>::as_ref(error.policy_id()).into()))
            }
            (Answer::Allow, Some(id), None) => Ruling::Permitted(id),
            (Answer::Deny, None, None) => Ruling::Silent,
            (Answer::Allow, None, None) => Ruling::Unknown(None),
        }
    }

    /// Who and what it is about, with the attributes that policies look at; `None` where the groups matter and
    /// are not known.
    fn entities(&self, question: &Question<'_>) -> Option<(Entities, EntityUid, EntityUid)> {
        let Names { user, group, workspace, anonymous, .. } = &self.names;
        let id = |kind: &EntityTypeName, id: &str| {
            EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
        };
        let (principal, attributes, groups) = match &question.who {
            None => (anonymous.clone(), vec![], HashSet::new()),
            Some(who) => {
                let Who { issuer, subject, email, username, organization, groups } = *who;
                let mut members = HashSet::new();
                if self.looks.at_groups() {
                    let named = |name: &str| id(group, &format!("{issuer}/{name}"));
                    let all = groups?.iter().map(|name| named(name));
                    members.extend(all.filter(|group| self.looks.at_group(group)));
                }
                let attributes = [
                    ("issuer", Some(issuer)),
                    ("subject", Some(subject)),
                    ("email", email),
                    ("username", username),
                    ("user_organization", organization),
                ];
                (id(user, &format!("{issuer}/{subject}")), attributes.to_vec(), members)
            }
        };
        let given = |attributes: &[(&str, Option<&str>)]| {
            let values = attributes.iter().filter_map(|(name, value)| Some((*name, (*value)?)));
            values.filter_map(|(name, value)| self.looked(name, || text(value))).collect()
        };
        let resource = id(workspace, question.workspace);
        let about = [("id", Some(question.workspace)), ("organization", question.organization)];
        let all = [
            Entity::new(principal.clone(), given(&attributes), groups).ok()?,
            Entity::new(resource.clone(), given(&about), HashSet::new()).ok()?,
        ];
        Some((Entities::from_entities(all, None).ok()?, principal, resource))
    }

    /// What policies look at of the context, but path and method; `None` where the client is not known.
    fn context(&self, question: &Question<'_>) -> Option<Vec<(String, RestrictedExpression)>> {
        let RequestContext { client, now, .. } = question.context;
        let mut pairs = Vec::new();
        let relation = match question.relation {
            Permission::Granted(reason) => reason.id(),
            Permission::Denied(_) => "none",
        };
        pairs.extend(self.looked("relation", || text(relation)));
        let endpoint = question.endpoint;
        pairs.extend(self.looked("endpoint", || text(&endpoint.to_string())));
        if let EndpointName::Port(port) = endpoint {
            pairs.extend(self.looked("port", || RestrictedExpression::new_long((*port).into())));
        }
        if self.looks.at("client") {
            let client = client?.to_canonical();
            pairs
                .extend(self.looked("client", || RestrictedExpression::new_ip(client.to_string())));
        }
        if self.looks.at_time() {
            let now =
                jiff::Timestamp::from_millisecond(i64::try_from(now.as_millis()).ok()?).ok()?;
            let local = now.to_zoned(self.zone.clone());
            let number = |n: i8| move || RestrictedExpression::new_long(n.into());
            let moment = || RestrictedExpression::new_datetime(format!("{now:.3}"));
            pairs.extend(self.looked("now", moment));
            pairs.extend(self.looked("hour", number(local.hour())));
            pairs.extend(self.looked("minute", number(local.minute())));
            pairs.extend(self.looked("weekday", || text(day(local.weekday()))));
        }
        Some(pairs)
    }

    fn looked(
        &self,
        name: &str,
        value: impl FnOnce() -> RestrictedExpression,
    ) -> Option<(String, RestrictedExpression)> {
        self.looks.at(name).then(|| (name.to_owned(), value()))
    }
}

impl Ruling {
    /// What both readings together come to.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (forbidden @ Self::Forbidden(_), _) | (_, forbidden @ Self::Forbidden(_)) => forbidden,
            (unknown @ Self::Unknown(_), _) | (_, unknown @ Self::Unknown(_)) => unknown,
            (permitted @ Self::Permitted(_), Self::Permitted(_)) => permitted,
            (Self::Silent, _) | (_, Self::Silent) => Self::Silent,
        }
    }
}

fn lacking(what: &str) -> Ruling {
    debug!(what, "policies look at something that is not known");
    Ruling::Unknown(None)
}

fn text(text: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(text.to_owned())
}

const fn day(day: jiff::civil::Weekday) -> &'static str {
    use jiff::civil::Weekday;
    match day {
        Weekday::Monday => "monday",
        Weekday::Tuesday => "tuesday",
        Weekday::Wednesday => "wednesday",
        Weekday::Thursday => "thursday",
        Weekday::Friday => "friday",
        Weekday::Saturday => "saturday",
        Weekday::Sunday => "sunday",
    }
}
