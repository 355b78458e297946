//! Tracks the variables of the environment that the files set themselves (`setenv`, `presetenv`), line by line, as
//! HAProxy does.
//!
//! A variable has a value here only if every outcome of the conditions gives it the same one.

use std::collections::BTreeSet;

use crate::haproxy_config::line::Environment;

/// What is known of the environment at the current line.
#[derive(Debug, Default)]
pub(super) struct KnownEnvironment {
    /// The variables with one known value.
    pub(super) values: Environment,
    /// The variables that were set inside a condition: in other branches they may have no value, or another one.
    conditional: BTreeSet<String>,
}

impl KnownEnvironment {
    /// Follows a line of `global`. `depth` is the number of open conditions.
    pub(super) fn follow(&mut self, words: &[String], depth: usize) {
        match words {
            [keyword, name, value] if keyword == "setenv" => self.set(name, value, depth),
            [keyword, name, value] if keyword == "presetenv" => {
                // `presetenv` keeps a value that is set already, which is known only in some branches here.
                let disagrees = self.conditional.contains(name)
                    && self.values.get(name).is_some_and(|known| known != value);
                if disagrees {
                    self.values.remove(name);
                } else if !self.values.contains_key(name) && !self.conditional.contains(name) {
                    self.set(name, value, depth);
                }
            }
            [keyword, names @ ..] if keyword == "unsetenv" => {
                self.values.retain(|name, _| !names.contains(name));
            }
            [keyword, names @ ..] if keyword == "resetenv" => {
                self.values.retain(|name, _| names.contains(name));
            }
            _ => {}
        }
    }

    fn set(&mut self, name: &str, value: &str, depth: usize) {
        let before = self.values.get(name);
        if depth > 0 {
            // With two possible values none is known, and the name stays as it is written.
            let disagrees = before.is_some_and(|before| before != value)
                || (before.is_none() && self.conditional.contains(name));
            self.conditional.insert(name.to_owned());
            if disagrees {
                self.values.remove(name);
                return;
            }
        } else {
            // Outside of conditions the new value holds in every branch.
            self.conditional.remove(name);
        }
        self.values.insert(name.to_owned(), value.to_owned());
    }

    /// Whether the files set a variable in any case, whatever the environment has.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.values.contains_key(name) && !self.conditional.contains(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_has_the_value_of_its_line_or_none_where_branches_disagree() {
        let mut reading = KnownEnvironment::default();
        let mut follow = |line: &str, depth| {
            let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
            reading.follow(&words, depth);
            (reading.values.get("A").cloned(), reading.is_set("A"))
        };
        assert_eq!(follow("presetenv A x", 0), (Some("x".into()), true));
        assert_eq!(follow("presetenv A y", 0), (Some("x".into()), true));
        assert_eq!(follow("setenv A y", 0), (Some("y".into()), true));
        assert_eq!(follow("setenv A z", 1), (None, false));
        assert_eq!(follow("setenv A y", 0), (Some("y".into()), true));
        assert_eq!(follow("unsetenv B A", 0), (None, false));
        assert_eq!(follow("presetenv A x", 1), (Some("x".into()), false));
        assert_eq!(follow("presetenv A y", 1), (None, false));
        assert_eq!(follow("setenv A y", 0), (Some("y".into()), true));
        assert_eq!(follow("resetenv B", 0), (None, false));
    }
}
