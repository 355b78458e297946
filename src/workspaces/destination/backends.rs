//! The backends of haproxy.cfg that lists and platforms may name.
//!
//! HAProxy uses whatever backend the agent returns. Some backends must not be reachable that way:
//! the gate's own would lead a request back to the gate, to the agent or to its pages, and others
//! may serve internal systems. By default none may be named, and the gate's own can never be
//! permitted.

use thiserror::Error;

use super::is_backend;

/// The backends and front ends of the files in `haproxy/`, which belong to the gate.
pub const GATE_BACKENDS: [&str; 9] = [
    "gate",
    "gate-tcp",
    "identity-agent",
    "identity-web",
    "nowhere",
    "reused",
    "workspace",
    "workspace-tcp",
    "workspace-tls",
];

/// The backends that may be named. By default there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedBackends(Vec<BackendPattern>);

/// One entry of `[destinations] backends`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum BackendPattern {
    Name(Box<str>),
    Prefix(Box<str>),
}

/// The reason why a backend must not be named.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BackendError {
    /// HAProxy does not accept this name.
    #[error("expected the name of a backend, or how names begin such as \"ws-*\", found {0:?}")]
    Name(Box<str>),
    /// The backend belongs to the gate.
    #[error(
        "the backend {0:?} is the gate's own: a request would be led back into the gate; name a backend of your own"
    )]
    OfGate(Box<str>),
    /// The operator has not permitted it.
    #[error(
        "the backend {0:?} is not permitted: add it to the configuration, [destinations] backends = [{0:?}]"
    )]
    NotPermitted(Box<str>),
}

impl AllowedBackends {
    /// Parses the entries of `backends`. An entry that ends in `*` permits all names with that
    /// prefix.
    ///
    /// # Errors
    /// The first entry that is not a name or belongs to the gate.
    pub fn parse<'t>(texts: impl IntoIterator<Item = &'t str>) -> Result<Self, BackendError> {
        let entry = |text: &'t str| match text.strip_suffix('*') {
            Some(prefix) if prefix.is_empty() || is_backend(prefix) => {
                Ok(BackendPattern::Prefix(prefix.into()))
            }
            // Refused here already, so that 'check' reports it.
            None if GATE_BACKENDS.contains(&text) => Err(BackendError::OfGate(text.into())),
            None if is_backend(text) => Ok(BackendPattern::Name(text.into())),
            _ => Err(BackendError::Name(text.into())),
        };
        texts.into_iter().map(entry).collect::<Result<_, _>>().map(Self)
    }

    /// Checks that requests may be sent to this backend.
    ///
    /// # Errors
    /// The backend belongs to the gate, or is not permitted.
    pub fn check(&self, name: &str) -> Result<(), BackendError> {
        // Checked first: not even the entry "*" permits them.
        if GATE_BACKENDS.contains(&name) {
            return Err(BackendError::OfGate(name.into()));
        }
        let fits = |entry: &BackendPattern| match entry {
            BackendPattern::Name(known) => **known == *name,
            BackendPattern::Prefix(prefix) => name.starts_with(&**prefix),
        };
        if self.0.iter().any(fits) { Ok(()) } else { Err(BackendError::NotPermitted(name.into())) }
    }

    /// Checks that every backend with this prefix is permitted.
    ///
    /// # Errors
    /// Not all of them are.
    pub fn check_prefix(&self, prefix: &str) -> Result<(), BackendError> {
        let fits = |entry: &BackendPattern| match entry {
            // A single name never covers a prefix.
            BackendPattern::Name(_) => false,
            BackendPattern::Prefix(known) => prefix.starts_with(&**known),
        };
        if self.0.iter().any(fits) {
            Ok(())
        } else {
            Err(BackendError::NotPermitted(format!("{prefix}*").into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s14_only_permitted_backends_are_named_and_never_the_gates_own() {
        let none = AllowedBackends::default();
        assert_eq!(none.check("named"), Err(BackendError::NotPermitted("named".into())));
        let some = AllowedBackends::parse(["named", "ws-*"]).unwrap();
        for name in ["named", "ws-", "ws-1"] {
            assert_eq!(some.check(name), Ok(()), "{name}");
        }
        for name in ["named2", "Named", "ws", "other", ""] {
            assert_eq!(some.check(name), Err(BackendError::NotPermitted(name.into())), "{name}");
        }
        let all = AllowedBackends::parse(["*"]).unwrap();
        assert_eq!(all.check("anything"), Ok(()));
        for own in GATE_BACKENDS {
            assert_eq!(all.check(own), Err(BackendError::OfGate(own.into())));
            assert_eq!(AllowedBackends::parse([own]), Err(BackendError::OfGate(own.into())));
        }
        for text in ["", "a b", "a*b", "**", "#1", "%[path]"] {
            assert_eq!(
                AllowedBackends::parse([text]),
                Err(BackendError::Name(text.into())),
                "{text}"
            );
        }
    }

    #[test]
    fn s14_what_begins_so_is_permitted_as_a_whole_or_not_at_all() {
        let some = AllowedBackends::parse(["named", "ws-*"]).unwrap();
        assert_eq!(some.check_prefix("ws-"), Ok(()));
        assert_eq!(some.check_prefix("ws-eu-"), Ok(()));
        for prefix in ["", "w", "named"] {
            assert!(some.check_prefix(prefix).is_err(), "{prefix}");
        }
    }

    #[test]
    fn s14_every_section_of_the_shipped_files_but_the_example_is_the_gates_own() {
        let shipped = [
            include_str!("../../../haproxy/haproxy.cfg"),
            include_str!("../../../haproxy/tcp.cfg"),
        ];
        let names: Vec<_> = shipped
            .iter()
            .flat_map(|text| text.lines())
            .filter_map(|line| {
                let (kind, rest) = line.split_once(' ')?;
                let name = rest.split(' ').next()?;
                ["backend", "frontend", "listen"].contains(&kind).then_some(name)
            })
            .collect();
        assert!(names.len() > 9, "{names:?}");
        for name in names {
            assert!(GATE_BACKENDS.contains(&name) || name == "named", "{name}");
        }
    }
}
