//! The tables `[issuer.claims]`, `[[issuer.claims.groups]]` and `[[issuer.require]]`: how the claims of a token are read.

use std::path::Path;

use toml_span::{DeserError, Value};

use crate::{
    config::{
        key::{Kind, Shape},
        kinds::{Choice, Form, List, Words},
        section::{Report, Section, table},
    },
    diagnostics::Word,
    identity::profile::{ClaimPath, ClaimPaths, GroupNames, GroupRule, Requirement},
};

table! {
    /// Which claim of a token each field of the identity is read from. A claim is named, or found by a JSON Pointer such as `/realm_access/roles`.
    ClaimsTable = "issuer.claims";
    /// The issuer's id of the person.
    subject: optional ClaimPath, note("that of the preset, or else `\"sub\"`"), example("\"sub\"");
    /// The e-mail address. It is used only if the issuer vouches for it: see `email_verified_claim` and `managed_email_domains`.
    email: optional ClaimPath, note("`\"email\"`"), example("\"email\"");
    /// The login name.
    username: optional ClaimPath, note("that of the preset, or else `\"preferred_username\"`"), example("\"preferred_username\"");
    /// The groups: a claim, or rules that change the names of groups.
    groups: optional Groups, note("those of the preset, or else `\"groups\"`"), example("\"groups\"");
    /// The organization of the person.
    organization: optional ClaimPath, note("that of the preset, or else none"), example("\"org_id\"");
}

impl Section for ClaimsTable {
    type Value = Self;

    fn build(self, _: &mut Report) -> Option<Self> {
        Some(self)
    }
}

impl ClaimsTable {
    /// The claims that are set in the file; the others are those of `defaults`.
    pub(super) fn over(self, defaults: ClaimPaths) -> ClaimPaths {
        ClaimPaths {
            subject: self.subject.unwrap_or(defaults.subject),
            email: self.email.unwrap_or(defaults.email),
            username: self.username.unwrap_or(defaults.username),
            groups: self.groups.unwrap_or(defaults.groups),
            organization: self.organization.or(defaults.organization),
        }
    }
}

impl Form for ClaimPath {
    type Value = Self;

    fn parse(text: &str) -> Result<Self, String> {
        Self::new(text).ok_or_else(|| "expected a claim's name or \"/a/json/pointer\"".into())
    }
}

/// One claim by its name, or a list of rules for several.
struct Groups;

impl Kind for Groups {
    type Value = Vec<GroupRule>;

    fn shape() -> Shape {
        Shape::TextOr(Box::new(List::<GroupTable>::shape()))
    }

    fn read(value: &mut Value<'_>, base: &Path) -> Result<Vec<GroupRule>, DeserError> {
        if value.as_str().is_some() {
            let claim = ClaimPath::read(value, base)?;
            return Ok(vec![GroupRule::of(claim)]);
        }
        List::<GroupTable>::read(value, base)
    }
}

table! {
    /// A claim with names of groups, and how these names are changed.
    GroupTable = "issuer.claims.groups", repeated;
    /// The claim.
    claim: required ClaimPath, example("\"groups\"");
    /// What of the claim are the names: its `values`, a text or a list of texts, or the `keys` of the object that it is.
    names: default Choice<GroupNames> = GroupNames::Values;
    /// A text that is removed from the beginning of each name.
    strip: optional Word, example("\"/\"");
    /// A text that is put before each name.
    prefix: optional Word, example("\"idp:\"");
}

impl Section for GroupTable {
    type Value = GroupRule;

    fn build(self, _: &mut Report) -> Option<GroupRule> {
        let (strip, prefix) = (self.strip.unwrap_or_default(), self.prefix.unwrap_or_default());
        Some(GroupRule { claim: self.claim?, names: self.names, strip, prefix })
    }
}

impl Words for GroupNames {
    fn words() -> Vec<(&'static str, Self)> {
        vec![("values", Self::Values), ("keys", Self::Keys)]
    }
}

table! {
    /// A claim that must have one of some values; a token without it is refused.
    RequireTable = "issuer.require", repeated;
    /// The claim.
    claim: required ClaimPath, example("\"hd\"");
    /// The values that are accepted; at least one.
    any_of: required List<Word>, example("[\"example.com\"]");
}

impl Section for RequireTable {
    type Value = Requirement;

    fn build(self, report: &mut Report) -> Option<Requirement> {
        if self.any_of.as_ref().is_some_and(Vec::is_empty) {
            report.mistake("expected at least one value in 'any_of'");
        }
        Some(Requirement { claim: self.claim?, any_of: self.any_of? })
    }
}
