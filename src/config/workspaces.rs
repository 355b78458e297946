//! The tables `[workspaces]` and `[destinations]`: what the operator allows for the workspaces of all sources.

use std::path::{Path, PathBuf};

use ipnet::IpNet;
use toml_span::{DeserError, Value};

use super::{
    key::{Kind, Shape},
    kinds::{At, Choice, Form, List, Words, words_of},
    section::{Report, Section, table},
};
use crate::{
    authz::limits::{Framing, Limits},
    diagnostics::{Format, mistake},
    sources::{
        cross_origin::CrossOriginKey,
        settings::{SourceKind, SourceSettings},
    },
    workspaces::{
        Admission, CorsAnswers,
        destination::{AllowedBackends, DestinationLimits},
        registry::{SourceRules, UndeclaredPorts},
    },
};

/// The name of the source that the list of `[workspaces]` becomes.
const FILE: &str = "file";

table! {
    /// What holds for the workspaces of all sources, and a list of workspaces in a file.
    WorkspacesTable = "workspaces";
    /// The list of workspaces: `.yaml`, `.toml` or `.json`. It is read again as soon as it changes.
    file: optional ListFile, used("\"workspaces.yaml\"");
    /// Whether owners may reach ports that the list does not contain.
    undeclared_ports: default Choice<UndeclaredPorts> = UndeclaredPorts::default();
    /// Which pages of other origins may use the endpoints of the list with the cookie or certificate of their visitor: none, those of the same workspace's other endpoints, or a list of origins, which may contain `same-workspace`.
    cross_origin: optional CrossOriginKey, note("`same-workspace`"), example("[\"same-workspace\", \"https://dashboard.example.com\"]");
    /// Who answers CORS to these pages, preflights included: the gate, or the workspace itself. Preflights then reach the workspace without a sign-in.
    cors_answers: default Choice<CorsAnswers> = CorsAnswers::default();
    /// The widest admission of the endpoints of all sources: a wider one is lowered to this.
    max_admission: default Choice<Admission> = Admission::Public;
    /// Which pages may show a workspace in a frame with the visitor's cookie or certificate, besides pages of its own host: those of the workspace's other hosts (`workspace`), of its registrable domain (`site`), or any.
    framing: default Choice<Framing> = Framing::default();
}

/// The values of `[workspaces]`, with the list as a source if one is named.
pub(super) struct AllWorkspaces {
    pub(super) file: Option<SourceSettings>,
    max_admission: Admission,
    framing: Framing,
}

impl Default for AllWorkspaces {
    fn default() -> Self {
        Self { file: None, max_admission: Admission::Public, framing: Framing::default() }
    }
}

impl AllWorkspaces {
    /// What the operator allows for all workspaces.
    pub(super) fn limits(&self, ranges: DestinationLimits) -> Limits {
        Limits { max_admission: self.max_admission, ranges, framing: self.framing }
    }
}

impl Section for WorkspacesTable {
    type Value = AllWorkspaces;

    fn build(self, _: &mut Report) -> Option<AllWorkspaces> {
        let Self { file, undeclared_ports, cross_origin, cors_answers, max_admission, framing } =
            self;
        let cross_origin = cross_origin.unwrap_or_default();
        let rules =
            SourceRules { undeclared_ports, cross_origin, cors_answers, ..SourceRules::default() };
        let file = file.map(|path| SourceSettings {
            name: FILE.into(),
            rules: rules.never_stale(),
            kind: SourceKind::File(path),
        });
        Some(AllWorkspaces { file, max_admission, framing })
    }
}

/// The path of a list of workspaces, whose ending says its format.
pub(super) struct ListFile;

impl Kind for ListFile {
    type Value = PathBuf;

    fn shape() -> Shape {
        Shape::Path
    }

    fn read(value: &mut Value<'_>, base: &Path) -> Result<PathBuf, DeserError> {
        let text = value.take_string(None)?;
        if Format::from_path(text.as_ref().as_ref()).is_none() {
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
    /// Where requests may be sent. This machine, link-local and multicast addresses and cloud metadata services are forbidden by default.
    DestinationsTable = "destinations";
    /// Addresses or ranges that are allowed although they are forbidden by default. A cloud metadata service must be named by its exact address.
    allow: optional List<Net>, note("none"), example("[\"127.0.0.1\"]");
    /// If set, only these addresses or ranges are allowed.
    only: optional List<Net>, note("no restriction"), example("[\"10.0.0.0/8\"]");
    /// The backends of haproxy.cfg that a destination `backend:NAME` may name; `ws-*` stands for all names that begin with `ws-`. The gate's own backends are never allowed.
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

/// An address or a range of addresses.
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
