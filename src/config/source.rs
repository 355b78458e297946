//! Where workspaces come from: the tables `[workspaces]`, `[[source]]` and `[destinations]`.

use std::path::PathBuf;

use ipnet::IpNet;
use toml_span::{DeserError, Deserialize, Value, de_helpers::TableHelper};

use super::{
    Format, Source, SourceKind,
    document::{choice, mistake},
};
use crate::{
    decision::Policy,
    workspace::{
        Admission,
        destination::Ranges,
        registry::{SourceRules, UndeclaredPorts},
    },
};

/// The name of the source that `[workspaces]` stands for.
pub(super) const FILE: &str = "file";

/// What holds for all sources, and the list of workspaces if there is one.
pub(super) struct RawWorkspaces {
    pub(super) file: Option<Source>,
    pub(super) undeclared_ports: UndeclaredPorts,
    pub(super) max_admission: Admission,
}

impl Default for RawWorkspaces {
    fn default() -> Self {
        Self {
            file: None,
            undeclared_ports: UndeclaredPorts::Deny,
            max_admission: Admission::Public,
        }
    }
}

impl RawWorkspaces {
    pub(super) fn policy(&self, ranges: Ranges) -> Policy {
        Policy { max_admission: self.max_admission, ranges }
    }
}

impl<'de> Deserialize<'de> for RawWorkspaces {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let mut table = TableHelper::new(value)?;
        let file = table.optional::<ListFile>("file").map(|file| file.0);
        let undeclared = table.optional::<RawUndeclared>("undeclared_ports");
        let max_admission = table.optional::<RawAdmission>("max_admission");
        table.finalize(None)?;
        let undeclared_ports = undeclared.map(|u| u.0).unwrap_or_default();
        let rules = SourceRules { undeclared_ports, ..SourceRules::default() };
        let file = file.map(|path| Source {
            name: FILE.into(),
            rules: rules.never_stale(),
            kind: SourceKind::File(path),
        });
        let max_admission = max_admission.map_or(Admission::Public, |a| a.0);
        Ok(Self { file, undeclared_ports, max_admission })
    }
}

/// A list of workspaces, by the name of its file.
struct ListFile(PathBuf);

impl<'de> Deserialize<'de> for ListFile {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let text = value.take_string(None)?;
        if Format::of(text.as_ref().as_ref()).is_none() {
            let message = format!(
                "expected a file name that ends in .toml, .yaml, .yml or .json, found {text:?}"
            );
            return Err(mistake(value.span, message).into());
        }
        Ok(Self(text.into_owned().into()))
    }
}

struct RawUndeclared(UndeclaredPorts);

impl<'de> Deserialize<'de> for RawUndeclared {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        choice(value, &[("deny", UndeclaredPorts::Deny), ("owner", UndeclaredPorts::Owner)])
            .map(Self)
    }
}

/// The words for admission.
pub(crate) struct RawAdmission(pub(crate) Admission);

impl<'de> Deserialize<'de> for RawAdmission {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        choice(
            value,
            &[
                ("owner", Admission::Owner),
                ("grants", Admission::Grants),
                ("organization", Admission::Organization),
                ("authenticated", Admission::Authenticated),
                ("public", Admission::Public),
            ],
        )
        .map(Self)
    }
}

impl<'de> Deserialize<'de> for Ranges {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let mut table = TableHelper::new(value)?;
        let mut nets = |key| -> Vec<IpNet> {
            let nets = table.optional::<Vec<Net>>(key).unwrap_or_default();
            nets.into_iter().map(|net| net.0).collect()
        };
        let (allow, only) = (nets("allow"), nets("only"));
        table.finalize(None)?;
        Ok(Self { allow, only })
    }
}

struct Net(IpNet);

impl<'de> Deserialize<'de> for Net {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let text = value.take_string(None)?;
        let net = text.parse().or_else(|_| text.parse().map(|ip: std::net::IpAddr| ip.into()));
        net.map(Self).map_err(|_| {
            let message =
                format!("expected an address or a range such as \"10.0.0.0/8\", found {text:?}");
            mistake(value.span, message).into()
        })
    }
}
