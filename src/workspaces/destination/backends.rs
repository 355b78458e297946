//! Which backends of haproxy.cfg lists and platforms may name.
//!
//! HAProxy goes to whatever backend the agent names. Some of a configuration are not for workspaces: the gate's
//! own would lead a request back to itself, to the agent or to our pages, and others may be for the inside.

use thiserror::Error;

use super::is_backend;

/// The backends of the files in `haproxy/` that are the gate's own, and its front ends.
pub const OWN: [&str; 10] = [
    "gate",
    "gate-tcp",
    "identity-agent",
    "identity-web",
    "nowhere",
    "reused",
    "reused-tls",
    "workspace",
    "workspace-tcp",
    "workspace-tls",
];

/// The backends that may be named; none is the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backends(Vec<Entry>);

/// A name, or how names begin.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Name(Box<str>),
    Prefix(Box<str>),
}

/// Why a backend must not be named.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BackendError {
    /// Not a name that HAProxy takes.
    #[error("expected the name of a backend, or how names begin such as \"ws-*\", found {0:?}")]
    Name(Box<str>),
    /// The gate's own.
    #[error(
        "the backend {0:?} is the gate's own: a request would be led back into the gate; name a backend of your own"
    )]
    Own(Box<str>),
    /// Not permitted.
    #[error(
        "the backend {0:?} is not permitted: add it to the configuration, [destinations] backends = [{0:?}]"
    )]
    NotPermitted(Box<str>),
}

impl Backends {
    /// Reads the names; one that ends in `*` stands for all that begin so.
    ///
    /// # Errors
    /// The first that is no name, or is the gate's own.
    pub fn parse<'t>(texts: impl IntoIterator<Item = &'t str>) -> Result<Self, BackendError> {
        let entry = |text: &'t str| match text.strip_suffix('*') {
            Some(prefix) if prefix.is_empty() || is_backend(prefix) => {
                Ok(Entry::Prefix(prefix.into()))
            }
            None if OWN.contains(&text) => Err(BackendError::Own(text.into())),
            None if is_backend(text) => Ok(Entry::Name(text.into())),
            _ => Err(BackendError::Name(text.into())),
        };
        texts.into_iter().map(entry).collect::<Result<_, _>>().map(Self)
    }

    /// Whether requests may be sent to the backend. Never to one of the gate's own.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, name: &str) -> Result<(), BackendError> {
        if OWN.contains(&name) {
            return Err(BackendError::Own(name.into()));
        }
        let fits = |entry: &Entry| match entry {
            Entry::Name(known) => **known == *name,
            Entry::Prefix(prefix) => name.starts_with(&**prefix),
        };
        if self.0.iter().any(fits) { Ok(()) } else { Err(BackendError::NotPermitted(name.into())) }
    }

    /// As [`Self::check`] for all names that begin so.
    ///
    /// # Errors
    /// Why not.
    pub fn check_prefix(&self, prefix: &str) -> Result<(), BackendError> {
        let fits = |entry: &Entry| match entry {
            Entry::Name(_) => false,
            Entry::Prefix(known) => prefix.starts_with(&**known),
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
        let none = Backends::default();
        assert_eq!(none.check("named"), Err(BackendError::NotPermitted("named".into())));
        let some = Backends::parse(["named", "ws-*"]).unwrap();
        for name in ["named", "ws-", "ws-1"] {
            assert_eq!(some.check(name), Ok(()), "{name}");
        }
        for name in ["named2", "Named", "ws", "other", ""] {
            assert_eq!(some.check(name), Err(BackendError::NotPermitted(name.into())), "{name}");
        }
        let all = Backends::parse(["*"]).unwrap();
        assert_eq!(all.check("anything"), Ok(()));
        for own in OWN {
            assert_eq!(all.check(own), Err(BackendError::Own(own.into())));
            assert_eq!(Backends::parse([own]), Err(BackendError::Own(own.into())));
        }
        for text in ["", "a b", "a*b", "**", "#1", "%[path]"] {
            assert_eq!(Backends::parse([text]), Err(BackendError::Name(text.into())), "{text}");
        }
    }

    #[test]
    fn s14_what_begins_so_is_permitted_as_a_whole_or_not_at_all() {
        let some = Backends::parse(["named", "ws-*"]).unwrap();
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
            assert!(OWN.contains(&name) || name == "named", "{name}");
        }
    }
}
