//! Which claims of an issuer have which part of an identity, and which values claims must have.
//!
//! Everything here is compared byte for byte. A claim that is missing never fulfils a requirement.

use std::borrow::Cow;

use serde_json::{Map, Value};

/// The place of a claim: the name of a top-level claim, or a JSON Pointer (RFC 6901) if it starts with a slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPath(Box<str>);

/// The claims that have the parts of an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPaths {
    /// The subject; `sub` by default.
    pub subject: ClaimPath,
    /// The e-mail address, which is used only if the issuer vouches for it.
    pub email: ClaimPath,
    /// The login name.
    pub username: ClaimPath,
    /// The groups and roles.
    pub groups: Vec<GroupRule>,
    /// The organization.
    pub organization: Option<ClaimPath>,
}

/// A claim with groups, and how their names are changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRule {
    /// The claim.
    pub claim: ClaimPath,
    /// What of it are the names.
    pub names: GroupNames,
    /// Removed from the start of each name that has it.
    pub strip: Box<str>,
    /// Put before each name, so that a role and a group of the same name differ.
    pub prefix: Box<str>,
}

/// What of a claim are names of groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupNames {
    /// The claim is a text, or a list of texts.
    Values,
    /// The claim is an object, and the names are its keys (the roles of ZITADEL).
    Keys,
}

/// A claim that must have one of some values. If the claim is a list, one of its elements must.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The claim.
    pub claim: ClaimPath,
    /// The values, compared as texts byte for byte; `true` and `false` also match booleans.
    pub any_of: Vec<Box<str>>,
}

impl Default for ClaimPaths {
    fn default() -> Self {
        Self {
            subject: ClaimPath::named("sub"),
            email: ClaimPath::named("email"),
            username: ClaimPath::named("preferred_username"),
            groups: vec![GroupRule::plain("groups")],
            organization: None,
        }
    }
}

impl GroupRule {
    /// The groups of a top-level claim, unchanged.
    #[must_use]
    pub fn plain(claim: &'static str) -> Self {
        Self::of(ClaimPath::named(claim))
    }

    /// The groups of a claim, unchanged.
    #[must_use]
    pub fn of(claim: ClaimPath) -> Self {
        Self { claim, names: GroupNames::Values, strip: "".into(), prefix: "".into() }
    }
}

impl Requirement {
    /// Whether the claims fulfil the requirement.
    #[must_use]
    pub fn is_met(&self, claims: &Map<String, Value>) -> bool {
        let wanted = |value: &Value| match value {
            Value::String(text) => self.any_of.iter().any(|any| **any == **text),
            Value::Bool(flag) => self.any_of.iter().any(|any| **any == *flag.to_string()),
            _ => false,
        };
        // A list of lists or an object never fulfils a requirement: its meaning would be a guess.
        match self.claim.find(claims) {
            Some(Value::Array(several)) => several.iter().any(wanted),
            Some(one) => wanted(one),
            None => false,
        }
    }
}

impl ClaimPath {
    /// The top-level claim of this name.
    #[must_use]
    pub fn named(name: &'static str) -> Self {
        Self(name.into())
    }

    /// The claim of this name or JSON Pointer; `None` for the empty text.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self(text.into()))
    }

    /// The claim, if it is there.
    #[must_use]
    pub fn find<'c>(&self, claims: &'c Map<String, Value>) -> Option<&'c Value> {
        // A name may contain slashes (claims of Auth0 are named by URLs), so only a leading one makes a pointer.
        let Some(pointer) = self.0.strip_prefix('/') else { return claims.get(&*self.0) };
        let rest = pointer.find('/').map_or("", |slash| pointer.get(slash..).unwrap_or_default());
        claims.get(&*self.top_level())?.pointer(rest)
    }

    /// The name of the top-level claim that it is, or is part of.
    #[must_use]
    pub fn top_level(&self) -> Cow<'_, str> {
        let Some(pointer) = self.0.strip_prefix('/') else { return Cow::Borrowed(&self.0) };
        let first = pointer.split('/').next().unwrap_or_default();
        Cow::Owned(first.replace("~1", "/").replace("~0", "~"))
    }

    /// The claim as it is written in the configuration.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_is_found_by_name_or_pointer() {
        let claims = json!({"groups": 1, "https://x.example/groups": 2, "realm_access": {"roles": 3}, "a/b": {"~": 4}});
        let claims = claims.as_object().unwrap();
        let find = |path: &str| ClaimPath::new(path).unwrap().find(claims).and_then(Value::as_u64);
        assert_eq!(find("groups"), Some(1));
        assert_eq!(find("https://x.example/groups"), Some(2));
        assert_eq!(find("/realm_access/roles"), Some(3));
        assert_eq!(find("/a~1b/~0"), Some(4));
        assert_eq!(find("/groups"), Some(1));
        assert_eq!(find("/groups/0"), None);
        assert_eq!(find("realm_access/roles"), None);
    }

    #[test]
    fn a_requirement_wants_one_of_its_values_exactly() {
        let any_of = vec!["a.example".into(), "true".into()];
        let requirement = Requirement { claim: ClaimPath::named("hd"), any_of };
        for (claims, met) in [
            (json!({"hd": "a.example"}), true),
            (json!({"hd": ["x", "a.example"]}), true),
            (json!({"hd": true}), true),
            (json!({"hd": "A.example"}), false),
            (json!({"hd": "a.example "}), false),
            (json!({"hd": {"a.example": "a.example"}}), false),
            (json!({"hd": [["a.example"]]}), false),
            (json!({"hd": 1}), false),
            (json!({}), false),
        ] {
            assert_eq!(requirement.is_met(claims.as_object().unwrap()), met, "{claims}");
        }
    }
}
