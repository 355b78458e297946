//! The tables `[workspaces]` and `[destinations]`: what holds for the workspaces of all sources.

use std::path::{Path, PathBuf};

use ipnet::IpNet;
use toml_span::{DeserError, Value};

use super::{
    Source, SourceKind,
    key::{Kind, Shape},
    kinds::{At, Choice, Form, List, Words, words_of},
    section::{Report, Section, table},
};
use crate::{
    authz::limits::{Framing, Limits},
    diagnostics::{Format, mistake},
    workspaces::{
        Admission,
        destination::{AllowedBackends, DestinationLimits},
        registry::{SourceRules, UndeclaredPorts},
    },
};

/// The name of the source that `[workspaces]` stands for.
const FILE: &str = "file";

table! {
    /// What holds for all workspaces, and a list of them in a file.
    WorkspacesTable = "workspaces";
    /// The list: `.yaml`, `.toml` or `.json`. Read the moment it changes.
    file: optional ListFile, used("\"workspaces.yaml\"");
    /// Whether the owner reaches ports that the list does not have.
    undeclared_ports: default Choice<UndeclaredPorts> = UndeclaredPorts::default();
    /// No endpoint of any source admits more.
    max_admission: default Choice<Admission> = Admission::Public;
    /// Which pages may show a workspace in a frame with its visitor's cookie or certificate, beside those of its own host: those of the workspace's other hosts, those of its site (registrable domain), or any.
    framing: default Choice<Framing> = Framing::default();
}

/// What holds for all workspaces, and the list of them if there is one.
pub(super) struct AllWorkspaces {
    pub(super) file: Option<Source>,
    max_admission: Admission,
    framing: Framing,
}

impl Default for AllWorkspaces {
    fn default() -> Self {
        Self { file: None, max_admission: Admission::Public, framing: Framing::default() }
    }
}

impl AllWorkspaces {
    pub(super) fn limits(&self, ranges: DestinationLimits) -> Limits {
        Limits { max_admission: self.max_admission, ranges, framing: self.framing }
    }
}

impl Section for WorkspacesTable {
    type Value = AllWorkspaces;

    fn build(self, _: &mut Report) -> Option<AllWorkspaces> {
        let Self { file, undeclared_ports, max_admission, framing } = self;
        let rules = SourceRules { undeclared_ports, ..SourceRules::default() };
        let file = file.map(|path| Source {
            name: FILE.into(),
            rules: rules.never_stale(),
            kind: SourceKind::File(path),
        });
        Some(AllWorkspaces { file, max_admission, framing })
    }
}

/// A list of workspaces, by the name of its file.
pub(super) struct ListFile;

impl Kind for ListFile {
    type Value = PathBuf;

    fn shape() -> Shape {
        Shape::Path
    }

    fn read(value: &mut Value<'_>, base: &Path) -> Result<PathBuf, DeserError> {
        let text = value.take_string(None)?;
        if Format::of(text.as_ref().as_ref()).is_none() {
            let message = format!(
                "expected a file name that ends in .toml, .yaml, .yml or .json, found {text:?}"
            );
            return Err(mistake(value.span, message).into());
        }
        Ok(base.join(&*text))
    }
}

words_of!(UndeclaredPorts);

impl Words for Framing {
    fn words() -> Vec<(&'static str, Self)> {
        vec![("workspace", Self::Workspace), ("site", Self::Site), ("any", Self::Any)]
    }
}

words_of!(Admission);

table! {
    /// Where requests may be sent. This machine, link-local and multicast addresses and cloud metadata are forbidden.
    DestinationsTable = "destinations";
    /// Exceptions: addresses or ranges; the metadata of a cloud only by its very address.
    allow: optional List<Net>, example("[\"127.0.0.1\"]");
    /// Nowhere else than there.
    only: optional List<Net>, example("[\"10.0.0.0/8\"]");
    /// The backends of haproxy.cfg that a destination `backend:NAME` may name; `ws-*` stands for all that begin so. Never the gate's own.
    backends: optional List<At<String>>, note("none"), example("[\"ws-*\"]");
}

impl Section for DestinationsTable {
    type Value = DestinationLimits;

    fn build(self, report: &mut Report) -> Option<DestinationLimits> {
        let backends = self.backends.unwrap_or_default();
        for name in &backends {
            if let Err(error) = AllowedBackends::parse([name.value.as_str()]) {
                report.mistake_at(name.span, error.to_string());
            }
        }
        let names = backends.iter().map(|name| name.value.as_str());
        let (allow, only) = (self.allow.unwrap_or_default(), self.only.unwrap_or_default());
        Some(DestinationLimits::new(allow, only).with_backends(AllowedBackends::parse(names).ok()?))
    }
}

/// An address, or a range of them.
struct Net;

impl Form for Net {
    type Value = IpNet;

    fn parse(text: &str) -> Result<IpNet, String> {
        let net = text.parse().or_else(|_| text.parse().map(|ip: std::net::IpAddr| ip.into()));
        net.map_err(|_| {
            format!("expected an address or a range such as \"10.0.0.0/8\", found {text:?}")
        })
    }
}
