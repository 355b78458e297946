//! What policies look at. What none of them looks at is not handed over, and may be missing.
//!
//! Told from the policies' JSON form: the names of all attributes that are read or asked for, whatever they
//! are read from, so rather too many than too few. The schema gives each name to one thing only.

use std::collections::{BTreeSet, HashSet};

use cedar_policy::{EntityUid, Policy};
use serde_json::Value;

/// Names of attributes and groups.
#[derive(Debug, Default)]
pub struct Looks {
    attributes: BTreeSet<String>,
    /// The context as a whole is compared or kept.
    everything: bool,
    groups: HashSet<EntityUid>,
    /// People are named.
    people: bool,
}

impl Looks {
    /// Adds what a policy looks at.
    ///
    /// # Errors
    /// The policy has no JSON form.
    pub(super) fn add(&mut self, policy: &Policy) -> Result<(), String> {
        let json = policy.to_json().map_err(|error| error.to_string())?;
        if let Some(conditions) = json.get("conditions") {
            self.walk(conditions);
        }
        for uid in policy.entity_literals() {
            match uid.type_name().basename() {
                "Group" => _ = self.groups.insert(uid),
                "User" => self.people = true,
                _ => {}
            }
        }
        Ok(())
    }

    fn walk(&mut self, node: &Value) {
        match node {
            Value::Array(nodes) => nodes.iter().for_each(|node| self.walk(node)),
            Value::Object(members) => {
                for (name, inner) in members {
                    match name.as_str() {
                        "." | "has" => self.attribute(inner),
                        "Var" => self.everything |= inner == "context",
                        // Names in it are the policy's own.
                        "Record" => inner.as_object().into_iter().for_each(|record| {
                            record.values().for_each(|value| self.walk(value));
                        }),
                        "Value" => {}
                        _ => self.walk(inner),
                    }
                }
            }
            _ => {}
        }
    }

    fn attribute(&mut self, access: &Value) {
        match access.get("attr") {
            Some(Value::String(name)) => {
                self.attributes.insert(name.clone());
            }
            Some(Value::Array(names)) => {
                self.attributes.extend(names.iter().filter_map(Value::as_str).map(str::to_owned));
            }
            _ => self.everything = true,
        }
        let left = access.get("left").unwrap_or(&Value::Null);
        if left.get("Var").is_none() {
            self.walk(left);
        }
    }

    /// Whether an attribute of this name is looked at.
    #[must_use]
    pub fn at(&self, name: &str) -> bool {
        self.everything || self.attributes.contains(name)
    }

    /// Whether it matters in which groups somebody is.
    #[must_use]
    pub fn at_groups(&self) -> bool {
        !self.groups.is_empty()
    }

    /// Whether it matters at which issuer somebody is who.
    #[must_use]
    pub fn at_people(&self) -> bool {
        self.people || self.at_groups() || self.at("issuer")
    }

    /// Whether people are told apart by names that an issuer gives, whichever issuer that is.
    pub(super) fn at_names_of_any_issuer(&self) -> bool {
        let names = ["subject", "email", "username", "user_organization"];
        names.into_iter().any(|name| self.at(name)) && !self.at_people()
    }

    /// Whether the time matters.
    #[must_use]
    pub fn at_time(&self) -> bool {
        ["now", "hour", "minute", "weekday"].into_iter().any(|name| self.at(name))
    }

    /// Whether it matters whether somebody is in this group.
    pub(super) fn at_group(&self, group: &EntityUid) -> bool {
        self.groups.contains(group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(when: &str) -> Looks {
        let text = format!("forbid(principal, action, resource) when {{ {when} }};");
        let mut looks = Looks::default();
        looks.add(&text.parse().unwrap()).unwrap();
        looks
    }

    #[test]
    fn every_way_to_look_at_an_attribute_is_seen() {
        for when in [
            "context.path == \"/\"",
            "context[\"path\"] like \"/*\"",
            "context has path",
            "!(context has path)",
            "(if true then context else context).path == \"/\"",
            "{ \"a\": context.path } == { \"a\": \"/\" }",
            "[context.path].contains(\"/\")",
            "context == { \"path\": \"/\" }",
            "context.a.path == 1",
            "context has path.b",
            "{ \".\": context } has path",
        ] {
            assert!(looks(when).at("path"), "{when}");
        }
        for when in [
            "context.method == \"path\"",
            "principal == User::\"path\"",
            "{ \"path\": 1 } == { \"path\": 2 }",
            "principal in Group::\"path\"",
        ] {
            assert!(!looks(when).at("path"), "{when}");
        }
    }

    #[test]
    fn groups_are_seen_wherever_they_stand() {
        for text in [
            "forbid(principal in Group::\"a\", action, resource);",
            "forbid(principal is User in Group::\"a\", action, resource);",
            "forbid(principal, action, resource) when { principal in [Group::\"b\", Group::\"a\"] };",
            "forbid(principal, action, resource) unless { principal is User in Group::\"a\" };",
        ] {
            let mut looks = Looks::default();
            looks.add(&text.parse().unwrap()).unwrap();
            assert!(looks.at_groups() && looks.at_group(&"Group::\"a\"".parse().unwrap()));
        }
        assert!(!looks("principal is User").at_groups());
    }
}
