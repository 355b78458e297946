//! What policies read: the names of attributes and groups. What no policy reads is not given to Cedar, and may be
//! missing from a request.
//!
//! The names come from the policies' JSON form: every attribute that is read or asked for, whatever it is read from.
//! The list may have too many names but never too few, and the schema gives each name to one thing only.

use std::collections::{BTreeSet, HashSet};

use cedar_policy::{EntityUid, Policy};
use serde_json::Value;

/// The attributes and groups that policies read.
#[derive(Debug, Default)]
pub struct PolicyInputs {
    attributes: BTreeSet<String>,
    /// Whether a policy compares or keeps the context as a whole, and so reads every attribute.
    everything: bool,
    groups: HashSet<EntityUid>,
    /// Whether a policy names a person.
    people: bool,
}

impl PolicyInputs {
    /// Adds what a policy reads.
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
                        // The names in a record are the policy's own, so only its values are searched.
                        "Record" => inner.as_object().into_iter().for_each(|record| {
                            record.values().for_each(|value| self.walk(value));
                        }),
                        // A literal reads nothing.
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
            // An unknown form of access: the safe answer is that it reads everything.
            _ => self.everything = true,
        }
        let left = access.get("left").unwrap_or(&Value::Null);
        // `context.x` reads x alone, although the variable `context` stands in it.
        if left.get("Var").is_none() {
            self.walk(left);
        }
    }

    /// Whether a policy reads the attribute of this name.
    #[must_use]
    pub fn reads(&self, name: &str) -> bool {
        self.everything || self.attributes.contains(name)
    }

    /// Whether a policy reads the groups of a person.
    #[must_use]
    pub fn reads_groups(&self) -> bool {
        !self.groups.is_empty()
    }

    /// Whether a policy refers to the issuer of a person: by the attribute, or because the ids of people and groups
    /// contain it.
    #[must_use]
    pub fn reads_issuer(&self) -> bool {
        self.people || self.reads_groups() || self.reads("issuer")
    }

    /// Whether a policy reads a name that an issuer gives, and not which issuer gives it.
    pub(super) fn reads_names_of_any_issuer(&self) -> bool {
        let names = ["subject", "email", "username", "user_organization"];
        names.into_iter().any(|name| self.reads(name)) && !self.reads_issuer()
    }

    /// Whether a policy reads the time.
    #[must_use]
    pub fn reads_time(&self) -> bool {
        ["now", "hour", "minute", "weekday"].into_iter().any(|name| self.reads(name))
    }

    /// Whether a policy names this group.
    pub(super) fn reads_group(&self, group: &EntityUid) -> bool {
        self.groups.contains(group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(when: &str) -> PolicyInputs {
        let text = format!("forbid(principal, action, resource) when {{ {when} }};");
        let mut inputs = PolicyInputs::default();
        inputs.add(&text.parse().unwrap()).unwrap();
        inputs
    }

    #[test]
    fn every_way_to_read_an_attribute_is_seen() {
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
            assert!(inputs(when).reads("path"), "{when}");
        }
        for when in [
            "context.method == \"path\"",
            "principal == User::\"path\"",
            "{ \"path\": 1 } == { \"path\": 2 }",
            "principal in Group::\"path\"",
        ] {
            assert!(!inputs(when).reads("path"), "{when}");
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
            let mut inputs = PolicyInputs::default();
            inputs.add(&text.parse().unwrap()).unwrap();
            assert!(inputs.reads_groups() && inputs.reads_group(&"Group::\"a\"".parse().unwrap()));
        }
        assert!(!inputs("principal is User").reads_groups());
    }
}
