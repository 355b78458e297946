//! Which claims of an issuer have which part of an identity, and which values claims must have.
//!
//! Everything here is compared byte for byte. A claim that is missing never fulfils a requirement.

use serde_json::{Map, Value};

/// The place of a claim: the name of a top-level claim, or a JSON Pointer (RFC 6901) if it starts with a slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPath(Box<str>);

/// The claims that have the parts of an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPaths {
    /// The subject; `sub` by default.
    pub subject: ClaimPath,
    /// The e-mail address, which is used only together with `email_verified: true`.
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
    /// Text, or a list of texts.
    pub claim: ClaimPath,
    /// Removed from the start of each name that has it.
    pub strip: Box<str>,
    /// Put before each name, so that a role and a group of the same name differ.
    pub prefix: Box<str>,
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
        Self { claim: ClaimPath::named(claim), strip: "".into(), prefix: "".into() }
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
        let (first, rest) = match pointer.find('/') {
            Some(slash) => pointer.split_at(slash),
            None => (pointer, ""),
        };
        claims.get(&first.replace("~1", "/").replace("~0", "~"))?.pointer(rest)
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
