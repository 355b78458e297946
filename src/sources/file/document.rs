//! The text of a list of workspaces, in TOML, YAML or JSON.
//!
//! It turns text into [`Workspace`]s and reports every mistake with its line. [`super`] follows the
//! file, and the admin API uses [`parse_one`] for a single record. Names of people, groups and
//! organizations are resolved to issuers here, so a record that exists names only configured
//! issuers.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use toml_span::{
    DeserError, Deserialize, Error, Span, Value, de_helpers::TableHelper, value::ValueInner,
};

use crate::{
    diagnostics::{self, Format, Mistakes, choice, mistake},
    sources::words::{Named, RawAdmission},
    workspaces::{
        Admission, AppName, Destination, Endpoint, EndpointName, Gateway, Grant, Grantee,
        IssuerNames, Organization, Person, Phase, Protocol, Revision, Workspace, WorkspaceId,
        destination::{Address, Backends, Server, is_backend},
    },
};

/// Parses a list of workspaces.
///
/// `issuers` are the configured names of the issuers. If there are several, every person, group and
/// organization must name its issuer.
///
/// # Errors All mistakes in the text, each with its line.
pub fn parse(
    file: &str,
    text: &str,
    format: Format,
    issuers: &BTreeSet<&str>,
    backends: &Backends,
) -> Result<Vec<Workspace>, Mistakes> {
    let list = diagnostics::read::<List>(file, text, format)?;
    let mut errors = Vec::new();
    let mut seen = HashSet::new();
    let mut workspaces = Vec::with_capacity(list.0.len());
    for record in list.0 {
        let span = record.span;
        errors.extend(record.forbidden(backends));
        let workspace = record.join(issuers, &mut errors);
        if !seen.insert(workspace.id.clone()) {
            let id = &workspace.id;
            errors.push(mistake(span, format!("the workspace '{id}' is listed twice")));
        }
        workspaces.push(workspace);
    }
    if errors.is_empty() {
        Ok(workspaces)
    } else {
        Err(diagnostics::mistakes(file, text, DeserError { errors }))
    }
}

/// Parses one record of such a list, in JSON or YAML.
///
/// # Errors All mistakes in the text, each with its line.
pub fn parse_one(
    name: &str,
    text: &str,
    issuers: &BTreeSet<&str>,
    backends: &Backends,
) -> Result<Workspace, Mistakes> {
    let record = diagnostics::read::<Record>(name, text, Format::Yaml)?;
    let mut errors = Vec::new();
    errors.extend(record.forbidden(backends));
    let workspace = record.join(issuers, &mut errors);
    if errors.is_empty() {
        Ok(workspace)
    } else {
        Err(diagnostics::mistakes(name, text, DeserError { errors }))
    }
}

struct List(Vec<Record>);

impl<'de> Deserialize<'de> for List {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let mut table = TableHelper::new(value)?;
        let list = table.required("workspaces");
        table.finalize(None)?;
        Ok(Self(list?))
    }
}

/// A workspace before the issuers of its people are resolved.
struct Record {
    workspace: Workspace,
    span: Span,
    /// The default for the owner, grants and organization that name no issuer.
    issuer: Option<Named>,
    owner: Said,
    /// The issuer of each grant, in the order of the workspace's grants.
    grants: Vec<Said>,
    organization: Option<Box<str>>,
    /// The backends that the record names, and where.
    backends: Vec<(Arc<str>, Span)>,
}

/// The issuer that a part of a record names, and where that part is.
struct Said {
    issuer: Option<Named>,
    span: Span,
}

impl Record {
    /// The mistakes about backends that the record must not name.
    fn forbidden(&self, backends: &Backends) -> Vec<Error> {
        let check = |(name, span): &(Arc<str>, Span)| {
            backends.check(name).err().map(|error| mistake(*span, error.to_string()))
        };
        self.backends.iter().filter_map(check).collect()
    }

    /// Resolves the issuers of all people and groups in the record.
    fn join(self, configured: &BTreeSet<&str>, errors: &mut Vec<Error>) -> Workspace {
        let Self { mut workspace, span, issuer, owner, grants, organization, .. } = self;
        let mut resolve = |named: Option<&Named>, at| {
            Named::resolve(named, at, configured).unwrap_or_else(|error| {
                errors.push(error);
                IssuerNames::default()
            })
        };
        let default = issuer.map(|named| resolve(Some(&named), span));
        let mut of = |said: &Said| match (&said.issuer, &default) {
            (None, Some(default)) => default.clone(),
            (named, _) => resolve(named.as_ref(), said.span),
        };
        workspace.owner.issuers = of(&owner);
        for (grant, said) in workspace.grants.iter_mut().zip(&grants) {
            match &mut grant.to {
                Grantee::User(Person { issuers, .. }) | Grantee::Group { issuers, .. } => {
                    *issuers = of(said);
                }
                Grantee::Team(_) => {}
            }
        }
        // Without an issuer of its own, the organization belongs to the owner's issuers.
        workspace.organization = organization.map(|name| {
            let issuers = default.unwrap_or_else(|| workspace.owner.issuers.clone());
            Organization { issuers, name }
        });
        workspace
    }
}

impl<'de> Deserialize<'de> for Record {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let span = value.span;
        let mut table = TableHelper::new(value)?;
        let id = table.required::<RawId>("id");
        let issuer = table.optional::<Named>("issuer");
        let owner = table.required::<RawPerson>("owner");
        let organization = table.optional::<Filled>("organization");
        let phase = table.required::<RawPhase>("phase");
        let admission =
            table.optional::<RawAdmission>("admission").map_or(Admission::Grants, |a| a.0);
        let destination = table.optional_s::<RawDestination>("destination");
        let protocol = table.optional_s::<RawProtocol>("protocol");
        let grants = table.optional::<Vec<RawGrant>>("grants").unwrap_or_default();
        let mut raw_endpoints = table.optional::<Vec<RawEndpoint>>("ports").unwrap_or_default();
        raw_endpoints.extend(
            table.optional::<Vec<RawApp>>("apps").unwrap_or_default().into_iter().map(|a| a.0),
        );

        let of_main = destination.iter().filter_map(|d| d.value.backend(d.span));
        let of_others = raw_endpoints.iter().filter_map(|raw| raw.backend.clone());
        let backends = of_main.chain(of_others).collect();
        let mut endpoints = Vec::new();
        let mut address = None;
        match (destination, &protocol) {
            (Some(destination), protocol) => {
                if let Destination::Address(at) = &destination.value.0 {
                    address = Some(at.address);
                }
                let endpoint = Endpoint {
                    name: EndpointName::Main,
                    protocol: protocol.as_ref().map_or(Protocol::Http, |p| p.value.0),
                    admission,
                    destination: destination.value.0,
                };
                let checked = with_address(endpoint).map_err(|m| mistake(destination.span, m));
                match checked {
                    Ok(endpoint) => endpoints.push(endpoint),
                    Err(error) => table.errors.push(error),
                }
            }
            (None, Some(protocol)) => table.errors.push(mistake(
                protocol.span,
                "'protocol' is that of 'destination', which is missing: each entry of 'ports' and 'apps' has its own",
            )),
            (None, None) => {}
        }
        for raw in raw_endpoints {
            let span = raw.span;
            match raw.endpoint(admission, address) {
                Err(message) => table.errors.push(mistake(span, message)),
                Ok(endpoint) if endpoints.iter().any(|e| e.name == endpoint.name) => {
                    table.errors.push(mistake(span, format!("{} is listed twice", endpoint.name)));
                }
                Ok(endpoint) => endpoints.push(endpoint),
            }
        }
        if endpoints.is_empty() && table.errors.is_empty() {
            table.errors.push(mistake(
                span,
                "the workspace has no way in: expected 'destination', or 'ports' with destinations",
            ));
        }
        table.finalize(None)?;

        let RawPerson { person: owner, said } = owner?;
        let (grants, said_of_grants) = grants.into_iter().map(|g| (g.grant, g.said)).unzip();
        Ok(Self {
            workspace: Workspace {
                id: id?.0,
                instance: None,
                revision: Revision::default(),
                organization: None,
                owner_label: owner.to_string().into(),
                owner,
                grants,
                phase: phase?.0,
                address,
                template: None,
                endpoints,
                paths: vec![],
            },
            span,
            issuer,
            owner: said,
            grants: said_of_grants,
            organization: organization.map(|o| o.0),
            backends,
        })
    }
}

/// A person, with the issuer that is named.
struct RawPerson {
    person: Person,
    said: Said,
}

impl<'de> Deserialize<'de> for RawPerson {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let span = value.span;
        let mut table = TableHelper::new(value)?;
        let issuer = table.optional::<Named>("issuer");
        let mut text = |key| table.optional::<Filled>(key).map(|t| t.0);
        let person = Person {
            account: None,
            issuers: IssuerNames::default(),
            subject: text("subject"),
            email: text("email").map(|e| e.to_ascii_lowercase().into()),
            username: text("username"),
        };
        if table.errors.is_empty()
            && person.subject.is_none()
            && person.email.is_none()
            && person.username.is_none()
        {
            table.errors.push(mistake(
                span,
                "a person is named by at least one of 'subject', 'email' and 'username'",
            ));
        }
        table.finalize(None)?;
        Ok(Self { person, said: Said { issuer, span } })
    }
}

/// A grant, with the issuer that is named.
struct RawGrant {
    grant: Grant,
    said: Said,
}

impl<'de> Deserialize<'de> for RawGrant {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let span = value.span;
        let mut table = TableHelper::new(value)?;
        let user = table.optional::<RawPerson>("user");
        let group = table.optional::<Filled>("group");
        let issuer = table.optional::<Named>("issuer");
        let endpoints = table
            .optional::<Vec<RawEndpointName>>("endpoints")
            .map(|names| names.into_iter().map(|n| n.0).collect());
        let to = match (user, group) {
            (Some(user), None) if issuer.is_none() => Some((Grantee::User(user.person), user.said)),
            (None, Some(group)) => {
                let to = Grantee::Group { issuers: IssuerNames::default(), name: group.0 };
                Some((to, Said { issuer, span }))
            }
            _ if !table.errors.is_empty() => None,
            (Some(_), None) => {
                table.errors.push(mistake(span, "put 'issuer' into the 'user' table"));
                None
            }
            _ => {
                table.errors.push(mistake(span, "a grant has either 'user' or 'group'"));
                None
            }
        };
        table.finalize(None)?;
        let to = to.ok_or_else(|| mistake(span, "a grant has either 'user' or 'group'"))?;
        let (to, said) = to;
        Ok(Self { grant: Grant { to, endpoints }, said })
    }
}

/// An entry of `ports` or `apps`, before it inherits from its workspace.
struct RawEndpoint {
    name: EndpointName,
    protocol: Protocol,
    admission: Option<Admission>,
    destination: Option<Destination>,
    /// The backend that it names, and where.
    backend: Option<(Arc<str>, Span)>,
    span: Span,
}

impl RawEndpoint {
    fn endpoint(self, inherited: Admission, address: Option<Address>) -> Result<Endpoint, String> {
        let destination = match (self.destination, &self.name, address) {
            (Some(destination), _, _) => destination,
            (None, EndpointName::Port(port), Some(address)) => {
                let server = Server::new(address, *port);
                Destination::Address(server.ok_or("expected a port from 1 to 65535, found 0")?)
            }
            (None, name, _) => {
                return Err(format!(
                    "{name} needs a 'destination': the workspace's own gives it no address"
                ));
            }
        };
        let admission = self.admission.unwrap_or(inherited);
        with_address(Endpoint { name: self.name, protocol: self.protocol, admission, destination })
    }

    fn read<'de, N>(value: &mut Value<'de>, key: &'static str) -> Result<Self, DeserError>
    where
        N: Deserialize<'de> + Into<EndpointName>,
    {
        let span = value.span;
        let mut table = TableHelper::new(value)?;
        let name = table.required::<N>(key);
        let admission = table.optional::<RawAdmission>("admission").map(|a| a.0);
        let destination = table.optional_s::<RawDestination>("destination");
        let backend = destination.as_ref().and_then(|d| d.value.backend(d.span));
        let destination = destination.map(|d| d.value.0);
        let protocol = table.optional::<RawProtocol>("protocol").map(|p| p.0).unwrap_or_default();
        table.finalize(None)?;
        Ok(Self { name: name?.into(), protocol, admission, destination, backend, span })
    }
}

/// Checks that a TCP endpoint has an address. A backend or a host name serves several workspaces
/// and cannot tell their streams apart.
fn with_address(endpoint: Endpoint) -> Result<Endpoint, String> {
    match (endpoint.protocol, &endpoint.destination) {
        (Protocol::Http, _) | (Protocol::Tcp, Destination::Address(_)) => Ok(endpoint),
        (Protocol::Tcp, elsewhere) => Err(format!(
            "{} is 'protocol: tcp', so its 'destination' must be an address of its own, \"IP:PORT\" or \"[IPv6]:PORT\", found \"{elsewhere}\": a backend or a name tells workspaces apart by the Host header, which a stream does not have",
            endpoint.name
        )),
    }
}

impl<'de> Deserialize<'de> for RawEndpoint {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        Self::read::<Port>(value, "port")
    }
}

struct RawApp(RawEndpoint);

impl<'de> Deserialize<'de> for RawApp {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        RawEndpoint::read::<App>(value, "app").map(Self)
    }
}

struct Port(u16);

impl<'de> Deserialize<'de> for Port {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        match u16::deserialize(value)? {
            0 => Err(mistake(value.span, "expected a port from 1 to 65535, found 0").into()),
            port => Ok(Self(port)),
        }
    }
}

impl From<Port> for EndpointName {
    fn from(port: Port) -> Self {
        Self::Port(port.0)
    }
}

struct App(AppName);

impl<'de> Deserialize<'de> for App {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let text = value.take_string(None)?;
        let clean = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        match AppName::new(&text) {
            Some(name) if text.bytes().all(clean) => Ok(Self(name)),
            _ => Err(mistake(
                value.span,
                "expected an app name: 1 to 63 lower-case letters, digits or '-'",
            )
            .into()),
        }
    }
}

impl From<App> for EndpointName {
    fn from(app: App) -> Self {
        Self::App(app.0)
    }
}

/// An endpoint in a grant: `main`, a port number, or `app:NAME`.
struct RawEndpointName(EndpointName);

impl<'de> Deserialize<'de> for RawEndpointName {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        if value.as_integer().is_some() {
            return Port::deserialize(value).map(|port| Self(port.into()));
        }
        let text = value.take_string(Some("a port number, \"main\" or \"app:NAME\""))?;
        if text == "main" {
            return Ok(Self(EndpointName::Main));
        }
        let Some(app) = text.strip_prefix("app:") else {
            return Err(mistake(
                value.span,
                format!("expected a port number, \"main\" or \"app:NAME\", found {text:?}"),
            )
            .into());
        };
        let mut app = Value::with_span(ValueInner::String(app.to_owned().into()), value.span);
        App::deserialize(&mut app).map(|app| Self(app.into()))
    }
}

struct RawPhase(Phase);

impl<'de> Deserialize<'de> for RawPhase {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        choice(
            value,
            &[
                ("unknown", Phase::Unknown),
                ("provisioning", Phase::Provisioning),
                ("running", Phase::Running),
                ("updating", Phase::Updating),
                ("interrupted", Phase::Interrupted),
                ("stopping", Phase::Stopping),
                ("stopped", Phase::Stopped),
                ("deleted", Phase::Deleted),
                ("failed", Phase::Failed),
            ],
        )
        .map(Self)
    }
}

struct RawProtocol(Protocol);

impl<'de> Deserialize<'de> for RawProtocol {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        choice(value, &[("http", Protocol::Http), ("tcp", Protocol::Tcp)]).map(Self)
    }
}

struct RawDestination(Destination);

impl RawDestination {
    /// The backend that the destination names, with its place in the text.
    fn backend(&self, span: Span) -> Option<(Arc<str>, Span)> {
        match &self.0 {
            Destination::Backend(name) => Some((Arc::clone(name), span)),
            Destination::Address(_) | Destination::Gateway(_) => None,
        }
    }
}

impl<'de> Deserialize<'de> for RawDestination {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let text = value.take_string(None)?;
        if let Some(name) = text.strip_prefix("backend:") {
            if is_backend(name) {
                return Ok(Self(Destination::Backend(name.into())));
            }
        } else if text.contains("://") {
            let gateway = Gateway::parse(&text)
                .map_err(|error| mistake(value.span, format!("{error}, found {text:?}")))?;
            return Ok(Self(Destination::Gateway(Arc::new(gateway))));
        } else if let Ok(server) = text.parse::<Server>()
            && !server.address.ip().is_unspecified()
        {
            return Ok(Self(Destination::Address(server)));
        }
        Err(mistake(
            value.span,
            format!(
                "expected \"IP:PORT\", \"[IPv6]:PORT\", \"http://NAME:PORT\", \"https://NAME:PORT\" or \"backend:NAME\", found {text:?}"
            ),
        )
        .into())
    }
}

/// Text that is not empty and has no control characters, since it can reach headers and logs.
struct Filled(Box<str>);

impl<'de> Deserialize<'de> for Filled {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let text = value.take_string(None)?;
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(mistake(value.span, "expected text without control characters").into());
        }
        Ok(Self(text.into()))
    }
}

struct RawId(WorkspaceId);

impl<'de> Deserialize<'de> for RawId {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        diagnostics::parsed(value).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
workspaces:
  - id: pinkpanda-demo-ns35kd21abc
    owner: { subject: "00u1", email: Alice@Example.com }
    organization: acme
    phase: running
    destination: 10.1.2.3:23000
    grants:
      - user: { email: bob@example.com }
        endpoints: [3000, main, "app:web"]
      - group: devs
    ports:
      - port: 3000
        admission: public
      - { port: 4000, destination: "backend:shared" }
    apps:
      - { app: web, admission: owner, destination: "[2001:db8::1]:80" }
"#;

    fn yaml(text: &str, issuers: &[&str]) -> Result<Vec<Workspace>, Mistakes> {
        let backends = Backends::parse(["shared", "ssh", "b"]).unwrap();
        parse("w.yaml", text, Format::Yaml, &issuers.iter().copied().collect(), &backends)
    }

    fn messages(result: Result<Vec<Workspace>, Mistakes>) -> Vec<String> {
        result.unwrap_err().as_slice().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_whole_record_is_read() {
        let workspaces = yaml(WHOLE, &["corp"]).unwrap();
        let [workspace] = workspaces.as_slice() else { panic!("{workspaces:?}") };
        assert_eq!(workspace.owner.email.as_deref(), Some("alice@example.com"));
        assert_eq!(&*workspace.owner_label, "alice@example.com");
        let endpoints: Vec<_> = workspace
            .endpoints
            .iter()
            .map(|e| format!("{} {} {}", e.name, e.admission, e.destination))
            .collect();
        assert_eq!(
            endpoints,
            [
                "main grants 10.1.2.3:23000",
                "port:3000 public 10.1.2.3:3000",
                "port:4000 grants backend:shared",
                "app:web owner [2001:db8::1]:80",
            ]
        );
        assert_eq!(workspace.grants[0].endpoints.as_ref().unwrap().len(), 3);
        assert_eq!(workspace.grants[1].endpoints, None);
    }

    #[test]
    fn toml_says_the_same() {
        let text = "[[workspaces]]\nid = 'a'\nowner = { username = 'alice' }\nphase = 'running'\ndestination = '10.0.0.1:80'\n";
        let workspaces =
            parse("w.toml", text, Format::Toml, &BTreeSet::from(["corp"]), &Backends::default())
                .unwrap();
        assert_eq!(workspaces[0].id.as_str(), "a");
    }

    #[test]
    fn an_empty_list_is_a_list_and_an_empty_file_is_not() {
        assert_eq!(yaml("workspaces: []\n", &[]).unwrap(), []);
        assert!(yaml("", &[]).is_err());
        assert!(yaml("workspaces:\n", &[]).is_err());
    }

    #[test]
    fn every_mistake_in_the_list_is_reported() {
        let text = "\
workspaces:
  - id: A
    owner: {}
    phase: runing
    destination: somewhere
  - id: b
    owner: { subject: 123 }
    phase: running
    ports: [{ port: 0 }]
";
        assert_eq!(
            messages(yaml(text, &["corp"])),
            [
                "w.yaml:2:9: a workspace id has 1 to 128 lower-case letters, digits, '-', '_' or '.', found \"A\"",
                "w.yaml:3:12: a person is named by at least one of 'subject', 'email' and 'username'",
                "w.yaml:4:12: expected one of unknown, provisioning, running, updating, interrupted, stopping, stopped, deleted, failed; found \"runing\"",
                "w.yaml:5:18: expected \"IP:PORT\", \"[IPv6]:PORT\", \"http://NAME:PORT\", \"https://NAME:PORT\" or \"backend:NAME\", found \"somewhere\"",
                "w.yaml:7:23: expected a string, found integer: put it in quotes",
                "w.yaml:9:21: expected a port from 1 to 65535, found 0",
            ]
        );
    }

    #[test]
    fn with_several_issuers_a_subject_must_say_whose_it_is() {
        let text = "\
workspaces:
  - id: a
    owner: { subject: x }
    phase: running
    destination: 10.0.0.1:80
    grants:
      - group: devs
      - { group: devs, issuer: nobody }
      - user: { email: a@example.com }
";
        assert!(yaml(text, &["corp"]).unwrap_err().as_slice().len() == 1);
        let found = messages(yaml(text, &["corp", "partner"]));
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found[0].starts_with("w.yaml:3:12: add 'issuer'"), "{found:?}");
        assert!(found[1].starts_with("w.yaml:7:9: add 'issuer'"), "{found:?}");
        assert!(found[2].contains("'nobody' is not configured"), "{found:?}");
        assert!(found[3].starts_with("w.yaml:9:15: add 'issuer'"), "{found:?}");
    }

    #[test]
    fn s12_an_email_address_and_an_organization_are_those_of_an_issuer() {
        let record = |issuer: &str, owner: &str, grant: &str| {
            format!(
                "workspaces:\n  - {{ {issuer} id: a, owner: {{ {owner} email: a@x.test }}, organization: acme,\n\
                 \x20     phase: running, destination: '10.0.0.1:80', grants: [{{ user: {{ {grant} email: b@x.test }} }}] }}\n"
            )
        };
        let several = ["corp", "partner", "test"];
        let issuers = |workspace: &Workspace| {
            let Grantee::User(user) = &workspace.grants[0].to else { panic!("{workspace:?}") };
            let organization = workspace.organization.clone().unwrap().issuers;
            [workspace.owner.issuers.clone(), organization, user.issuers.clone()]
        };
        let (corp, partner) = (IssuerNames::one("corp"), IssuerNames::one("partner"));
        let both: IssuerNames = ["corp", "partner"].map(Box::from).into_iter().collect();
        for (issuer, owner, grant, expected) in [
            ("", "issuer: corp,", "issuer: partner,", [&corp, &corp, &partner]),
            ("issuer: corp,", "", "", [&corp, &corp, &corp]),
            ("issuer: corp,", "issuer: partner,", "", [&partner, &corp, &corp]),
            ("", "issuer: [corp, partner],", "issuer: corp,", [&both, &both, &corp]),
        ] {
            let workspaces = yaml(&record(issuer, owner, grant), &several).unwrap();
            assert_eq!(issuers(&workspaces[0]).each_ref(), expected);
        }
        for (issuer, owner, grant, count) in [
            ("", "issuer: corp,", "", 1),
            ("", "", "issuer: corp,", 1),
            ("", "", "", 2),
            ("issuer: crop,", "", "", 1),
        ] {
            let found = messages(yaml(&record(issuer, owner, grant), &several));
            assert_eq!(found.len(), count, "{found:?}");
        }
        // With one issuer, all names belong to it.
        let workspaces = yaml(&record("", "", ""), &["corp"]).unwrap();
        assert_eq!(issuers(&workspaces[0]).each_ref(), [&corp; 3]);
    }

    #[test]
    fn a_workspace_listed_twice_is_refused() {
        let one =
            "  - { id: a, owner: { subject: x }, phase: running, destination: 10.0.0.1:80 }\n";
        let found = messages(yaml(&format!("workspaces:\n{one}{one}"), &["corp"]));
        assert_eq!(found, ["w.yaml:3:5: the workspace 'a' is listed twice"]);
    }

    #[test]
    fn s1_an_endpoint_says_that_it_is_tcp_and_is_http_otherwise() {
        let text = "\
workspaces:
  - id: a
    owner: { subject: x }
    phase: running
    destination: 10.0.0.1:80
    ports:
      - { port: 2222, protocol: tcp }
      - { port: 3000, protocol: http }
    apps:
      - { app: db, protocol: tcp, destination: \"10.0.0.1:5432\" }
  - { id: b, owner: { subject: x }, phase: running, destination: 10.0.0.2:22, protocol: tcp, ports: [{ port: 80 }] }
";
        let workspaces = yaml(text, &["corp"]).unwrap();
        let protocols: Vec<_> = workspaces
            .iter()
            .flat_map(|w| &w.endpoints)
            .map(|e| format!("{} {}", e.name, e.protocol))
            .collect();
        let want = [
            "main http",
            "port:2222 tcp",
            "port:3000 http",
            "app:db tcp",
            "main tcp",
            "port:80 http",
        ];
        assert_eq!(protocols, want);
    }

    #[test]
    fn s1_a_tcp_endpoint_without_an_address_of_its_own_is_refused_with_its_line() {
        let record = |rest: &str| {
            format!(
                "workspaces:\n  - id: a\n    owner: {{ subject: x }}\n    phase: running\n{rest}"
            )
        };
        for (rest, want) in [
            (
                "    destination: backend:ssh\n    protocol: tcp\n",
                "w.yaml:5:18: main is 'protocol: tcp', so its 'destination' must be an address of its own",
            ),
            (
                "    ports:\n      - { port: 22, protocol: tcp, destination: \"http://gateway:22\" }\n",
                "w.yaml:6:9: port:22 is 'protocol: tcp', so its 'destination' must be an address of its own",
            ),
            (
                "    apps:\n      - { app: x, protocol: tcp, destination: \"https://gateway\" }\n",
                "w.yaml:6:9: app:x is 'protocol: tcp', so its 'destination' must be an address of its own",
            ),
            (
                "    protocol: tcp\n    ports:\n      - { port: 22, destination: \"10.0.0.1:22\" }\n",
                "w.yaml:5:15: 'protocol' is that of 'destination', which is missing",
            ),
            (
                "    destination: 10.0.0.1:22\n    protocol: ssh\n",
                "w.yaml:6:15: expected one of http, tcp; found \"ssh\"",
            ),
        ] {
            let found = messages(yaml(&record(rest), &["corp"]));
            assert!(found.len() == 1 && found[0].starts_with(want), "{found:?}");
        }
    }

    #[test]
    fn s14_a_backend_that_is_not_permitted_is_refused_with_its_line() {
        let text = "\
workspaces:
  - id: a
    owner: { subject: x }
    phase: running
    destination: backend:workspace
    ports:
      - { port: 80, destination: \"backend:shared\" }
      - { port: 81, destination: \"backend:stats\" }
    apps:
      - { app: x, destination: \"backend:identity-agent\" }
";
        let found = messages(yaml(text, &["corp"]));
        let want = [
            "w.yaml:5:18: the backend \"workspace\" is the gate's own",
            "w.yaml:8:34: the backend \"stats\" is not permitted: add it to the configuration, [destinations] backends = [\"stats\"]",
            "w.yaml:10:32: the backend \"identity-agent\" is the gate's own",
        ];
        assert_eq!(found.len(), want.len(), "{found:?}");
        for (found, want) in found.iter().zip(want) {
            assert!(found.starts_with(want), "{found}");
        }
        let one =
            "{ id: a, owner: { subject: x }, phase: running, destination: \"backend:nowhere\" }";
        let all = Backends::parse(["*"]).unwrap();
        let error = parse_one("body", one, &BTreeSet::from(["corp"]), &all).unwrap_err();
        assert!(error.to_string().contains("the gate's own"), "{error}");
    }

    #[test]
    fn unspecified_destinations_are_refused() {
        for destination in [
            "0.0.0.0:80",
            "10.0.0.1:0",
            "backend:",
            "backend:a b",
            "[::]:80",
            "[::ffff:0.0.0.0]:80",
            "[2001:db8::1%1]:80",
        ] {
            let text = format!(
                "workspaces:\n  - {{ id: a, owner: {{ subject: x }}, phase: running, destination: {destination:?} }}\n"
            );
            assert!(yaml(&text, &["corp"]).is_err(), "{destination}");
        }
    }
}
