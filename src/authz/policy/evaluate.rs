//! One request evaluated by a set of policies.
//!
//! Cedar gets only the entities and attributes that some policy reads, so that an input which no policy reads may be
//! missing. A path has several readings and a method may have two; each combination is evaluated by itself. The
//! invariant: what one combination forbids is forbidden, and only what all of them permit is permitted.

use std::{borrow::Cow, collections::HashSet, sync::Arc};

use cedar_policy::{
    Context, Decision as CedarDecision, Entities, Entity, EntityId, EntityTypeName, EntityUid,
    Request, RestrictedExpression,
};
use jiff::civil::Weekday;
use tracing::debug;

use super::{
    PolicyMode, PolicyOutcome, PolicyRequest, PolicySet, Principal, RequestContext, SchemaNames,
    reading,
};
use crate::{
    authz::{permission::Permission, reason::Reason},
    workspaces::EndpointName,
};

/// What the policies alone say.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ruling {
    /// No policy applies.
    Silent,
    /// This policy permits the request, and none forbids it.
    Permitted(Arc<str>),
    /// This policy forbids the request.
    Forbidden(Arc<str>),
    /// The policies could not be evaluated; where a single one is the cause, its id.
    Unknown(Option<Arc<str>>),
}

impl PolicySet {
    /// Decides about a request: as ownership does, unless a policy decides otherwise and may do so.
    #[must_use]
    pub fn decide(&self, request: &PolicyRequest<'_>) -> PolicyOutcome {
        let may_permit = self.mode == PolicyMode::Replace && request.may_be_permitted();
        if self.is_empty() || (!request.relation.is_granted() && !may_permit) {
            return PolicyOutcome { permission: request.relation, policy: None };
        }
        match self.ruling(request) {
            Ruling::Forbidden(id) => PolicyOutcome {
                permission: Permission::Denied(Reason::PolicyForbidden),
                policy: Some(id),
            },
            Ruling::Unknown(id) => {
                PolicyOutcome { permission: Permission::Denied(Reason::PolicyError), policy: id }
            }
            Ruling::Permitted(id) if may_permit => PolicyOutcome {
                permission: Permission::Granted(Reason::PolicyPermitted),
                policy: Some(id),
            },
            Ruling::Permitted(_) | Ruling::Silent => {
                PolicyOutcome { permission: request.relation, policy: None }
            }
        }
    }

    /// What the policies say about every reading of the path and the method together.
    fn ruling(&self, request: &PolicyRequest<'_>) -> Ruling {
        let context = &request.context;
        let http = !context.is_stream;
        let (mut paths, mut methods) = (vec!["".into()], vec!["".into()]);
        if http && self.inputs.reads("path") {
            let Some(path) = context.path else { return missing("path") };
            match reading::readings(path) {
                Ok(readings) => paths = readings,
                Err(error) => {
                    debug!(%error, "policies cannot be evaluated: the path is not readable");
                    return Ruling::Unknown(None);
                }
            }
        }
        if http && self.inputs.reads("method") {
            let method = context.method.and_then(|method| std::str::from_utf8(method).ok());
            let Some(method) = method else { return missing("method") };
            let upper = method.to_ascii_uppercase();
            methods = vec![method.into()];
            // Method names are case-sensitive (RFC 9110 section 9.1), but many servers ignore the case: a rule about
            // POST must hold for "post" too.
            if upper != method {
                methods.push(Cow::Owned(upper));
            }
        }
        let Some((entities, principal, resource)) = self.entities(request) else {
            return missing("groups");
        };
        let Some(context) = self.context(request) else { return missing("client") };
        let action = if http { &self.names.request } else { &self.names.stream };
        // None until the first combination is evaluated; there is always one.
        let mut all: Option<Ruling> = None;
        for path in &paths {
            for method in &methods {
                let mut pairs = context.clone();
                if http {
                    pairs.extend(self.if_read("path", || text(path)));
                    pairs.extend(self.if_read("method", || text(method)));
                }
                let Ok(context) = Context::from_pairs(pairs) else { return Ruling::Unknown(None) };
                let (principal, resource) = (principal.clone(), resource.clone());
                // The policies were validated when they were read, so the request needs no schema.
                let request = Request::new(principal, action.clone(), resource, context, None);
                let Ok(request) = request else { return Ruling::Unknown(None) };
                let one = self.evaluate(&request, &entities);
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

    /// The ruling about one combination of readings.
    fn evaluate(&self, request: &Request, entities: &Entities) -> Ruling {
        let response = self.authorizer.is_authorized(request, &self.policies, entities);
        let diagnostics = response.diagnostics();
        // Of several policies the first by name, so that equal requests have equal records.
        let first = diagnostics.reason().map(AsRef::<str>::as_ref).min().map(Arc::<str>::from);
        let error = diagnostics.errors().next();
        match (response.decision(), first, error) {
            (CedarDecision::Deny, Some(id), _) => Ruling::Forbidden(id),
            (_, _, Some(error)) => {
                debug!(%error, "a policy cannot be evaluated");
                let cedar_policy::AuthorizationError::PolicyEvaluationError(error) = error;
                Ruling::Unknown(Some(AsRef::<str>::as_ref(error.policy_id()).into()))
            }
            (CedarDecision::Allow, Some(id), None) => Ruling::Permitted(id),
            (CedarDecision::Deny, None, None) => Ruling::Silent,
            (CedarDecision::Allow, None, None) => Ruling::Unknown(None),
        }
    }

    /// The person and the workspace, with the attributes that policies read. `None` where policies read groups and the
    /// groups are not known.
    pub(super) fn entities(
        &self,
        request: &PolicyRequest<'_>,
    ) -> Option<(Entities, EntityUid, EntityUid)> {
        let SchemaNames { user, group, workspace, anonymous, .. } = &self.names;
        let id = |kind: &EntityTypeName, id: &str| {
            EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
        };
        let (principal, attributes, groups) = match &request.principal {
            None => (anonymous.clone(), vec![], HashSet::new()),
            Some(person) => {
                let Principal { issuer, subject, email, username, organization, groups } = *person;
                let mut members = HashSet::new();
                // Only groups that some policy names: a person may be in hundreds.
                if self.inputs.reads_groups() {
                    let named = |name: &str| id(group, &format!("{issuer}/{name}"));
                    let all = groups?.iter().map(|name| named(name));
                    members.extend(all.filter(|group| self.inputs.reads_group(group)));
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
            values.filter_map(|(name, value)| self.if_read(name, || text(value))).collect()
        };
        let resource = id(workspace, request.workspace);
        let about = [("id", Some(request.workspace)), ("organization", request.organization)];
        let all = [
            Entity::new(principal.clone(), given(&attributes), groups).ok()?,
            Entity::new(resource.clone(), given(&about), HashSet::new()).ok()?,
        ];
        Some((Entities::from_entities(all, None).ok()?, principal, resource))
    }

    /// The context, as far as policies read it, without path and method. `None` where they read the client's address and
    /// it is not known.
    pub(super) fn context(
        &self,
        request: &PolicyRequest<'_>,
    ) -> Option<Vec<(String, RestrictedExpression)>> {
        let RequestContext { client, now, .. } = request.context;
        let mut pairs = Vec::new();
        let relation = match request.relation {
            Permission::Granted(reason) => reason.id(),
            Permission::Denied(_) => "none",
        };
        pairs.extend(self.if_read("relation", || text(relation)));
        let endpoint = request.endpoint;
        pairs.extend(self.if_read("endpoint", || text(&endpoint.to_string())));
        if let EndpointName::Port(port) = endpoint {
            pairs.extend(self.if_read("port", || RestrictedExpression::new_long((*port).into())));
        }
        if self.inputs.reads("client") {
            let client = client?.to_canonical();
            pairs.extend(
                self.if_read("client", || RestrictedExpression::new_ip(client.to_string())),
            );
        }
        if self.inputs.reads_time() {
            let now =
                jiff::Timestamp::from_millisecond(i64::try_from(now.as_millis()).ok()?).ok()?;
            let local = now.to_zoned(self.zone.clone());
            let number = |n: i8| move || RestrictedExpression::new_long(n.into());
            let moment = || RestrictedExpression::new_datetime(format!("{now:.3}"));
            pairs.extend(self.if_read("now", moment));
            pairs.extend(self.if_read("hour", number(local.hour())));
            pairs.extend(self.if_read("minute", number(local.minute())));
            pairs.extend(self.if_read("weekday", || text(weekday(local.weekday()))));
        }
        Some(pairs)
    }

    /// An attribute, where a policy reads it.
    fn if_read(
        &self,
        name: &str,
        value: impl FnOnce() -> RestrictedExpression,
    ) -> Option<(String, RestrictedExpression)> {
        self.inputs.reads(name).then(|| (name.to_owned(), value()))
    }
}

impl Ruling {
    /// The ruling about two readings together: the stricter one.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (forbidden @ Self::Forbidden(_), _) | (_, forbidden @ Self::Forbidden(_)) => forbidden,
            (unknown @ Self::Unknown(_), _) | (_, unknown @ Self::Unknown(_)) => unknown,
            (permitted @ Self::Permitted(_), Self::Permitted(_)) => permitted,
            (Self::Silent, _) | (_, Self::Silent) => Self::Silent,
        }
    }
}

fn missing(what: &str) -> Ruling {
    debug!(what, "policies cannot be evaluated: an input that they read is missing");
    Ruling::Unknown(None)
}

pub(super) fn text(text: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(text.to_owned())
}

/// The word for a weekday in the schema.
const fn weekday(day: Weekday) -> &'static str {
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
