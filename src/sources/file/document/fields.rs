//! The fields of a record: people, grants, endpoints and destinations as they are typed.
//!
//! Each type parses one value and reports what was expected where. What needs the whole record, such as the
//! address that ports inherit, is done by [`super`].

use std::sync::Arc;

use toml_span::{DeserError, Deserialize, Span, Value, de_helpers::TableHelper, value::ValueInner};

use super::IssuerRef;
use crate::{
    diagnostics::{self, Choice, mistake},
    sources::{cross_origin::CrossOriginKey, issuer_key::IssuerKey},
    workspaces::{
        Admission, AppName, CorsAnswers, Destination, Endpoint, EndpointName, EndpointOrigins,
        Grant, Grantee, IssuerNames, NamedServer, Person, Protocol, WorkspaceId,
        destination::{Address, Server, is_backend},
        pattern::parse_port,
    },
};

/// A person, with the issuer that is named.
pub(super) struct RawPerson {
    pub(super) person: Person,
    pub(super) issuer_ref: IssuerRef,
}

impl<'de> Deserialize<'de> for RawPerson {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let span = value.span;
        let mut table = TableHelper::new(value)?;
        let issuer = table.optional::<IssuerKey>("issuer");
        let mut text = |key| table.optional::<PlainText>(key).map(|t| t.0);
        let person = Person {
            account: None,
            issuers: IssuerNames::default(),
            subject: text("subject"),
            // Lower case, since addresses are compared without regard to the case of ASCII letters.
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
        Ok(Self { person, issuer_ref: IssuerRef { issuer, span } })
    }
}

/// A grant, with the issuer that is named.
pub(super) struct RawGrant {
    pub(super) to: Grantee,
    pub(super) endpoints: Option<Vec<RawEndpointName>>,
    pub(super) issuer_ref: IssuerRef,
    pub(super) span: Span,
}

impl RawGrant {
    pub(super) fn split(self) -> (Grant, IssuerRef) {
        let names = |all: Vec<RawEndpointName>| all.into_iter().map(|raw| raw.name).collect();
        (Grant { to: self.to, endpoints: self.endpoints.map(names) }, self.issuer_ref)
    }
}

impl<'de> Deserialize<'de> for RawGrant {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let span = value.span;
        let mut table = TableHelper::new(value)?;
        let user = table.optional::<RawPerson>("user");
        let group = table.optional::<PlainText>("group");
        let issuer = table.optional::<IssuerKey>("issuer");
        let endpoints = table.optional::<Vec<RawEndpointName>>("endpoints");
        let to = match (user, group) {
            // The issuer of a person stands in the table 'user', next to the name that it belongs
            // to.
            (Some(user), None) if issuer.is_none() => {
                Some((Grantee::User(user.person), user.issuer_ref))
            }
            (None, Some(group)) => {
                let to = Grantee::Group { issuers: IssuerNames::default(), name: group.0 };
                Some((to, IssuerRef { issuer, span }))
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
        let (to, issuer_ref) = to;
        Ok(Self { to, endpoints, issuer_ref, span })
    }
}

/// An entry of `ports` or `apps`, before it inherits from its workspace.
pub(super) struct RawEndpoint {
    pub(super) name: EndpointName,
    pub(super) protocol: Protocol,
    pub(super) admission: Option<Admission>,
    pub(super) destination: Option<Destination>,
    pub(super) origins: EndpointOrigins,
    /// The backend that it names, and where.
    pub(super) backend: Option<(Arc<str>, Span)>,
    pub(super) span: Span,
}

impl RawEndpoint {
    pub(super) fn endpoint(
        self,
        inherited: Admission,
        origins: &EndpointOrigins,
        address: Option<Address>,
    ) -> Result<Endpoint, String> {
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
        let origins = EndpointOrigins {
            cross_origin: self.origins.cross_origin.or_else(|| origins.cross_origin.clone()),
            cors_answers: self.origins.cors_answers.or(origins.cors_answers),
        };
        let Self { name, protocol, .. } = self;
        with_address(Endpoint { name, protocol, admission, destination, origins })
    }

    pub(super) fn read<'de, N>(
        value: &mut Value<'de>,
        key: &'static str,
    ) -> Result<Self, DeserError>
    where
        N: Deserialize<'de> + Into<EndpointName>,
    {
        let span = value.span;
        let mut table = TableHelper::new(value)?;
        let name = table.required::<N>(key);
        let admission = table.optional::<Choice<Admission>>("admission").map(|a| a.0);
        let destination = table.optional_s::<RawDestination>("destination");
        let backend = destination.as_ref().and_then(|d| d.value.backend(d.span));
        let destination = destination.map(|d| d.value.0);
        let protocol =
            table.optional::<Choice<Protocol>>("protocol").map(|p| p.0).unwrap_or_default();
        let origins = origins(&mut table);
        table.finalize(None)?;
        Ok(Self { name: name?.into(), protocol, admission, destination, origins, backend, span })
    }
}

/// The keys about pages of other origins.
pub(super) fn origins(table: &mut TableHelper<'_>) -> EndpointOrigins {
    EndpointOrigins {
        cross_origin: table.optional::<CrossOriginKey>("cross_origin").map(|key| key.0),
        cors_answers: table.optional::<Choice<CorsAnswers>>("cors_answers").map(|c| c.0),
    }
}

/// Checks that a TCP endpoint has an address. A backend or a host name serves several workspaces
/// and cannot tell their streams apart.
pub(super) fn with_address(endpoint: Endpoint) -> Result<Endpoint, String> {
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

pub(super) struct RawApp(pub(super) RawEndpoint);

impl<'de> Deserialize<'de> for RawApp {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        RawEndpoint::read::<App>(value, "app").map(Self)
    }
}

pub(super) struct Port(pub(super) u16);

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

pub(super) struct App(pub(super) AppName);

impl<'de> Deserialize<'de> for App {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let text = value.take_string(None)?;
        let clean = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        match AppName::new(&text) {
            // An app's name is part of a host name.
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

/// An endpoint in a grant: `main`, a port number, `port:NUMBER` or `app:NAME`.
pub(super) struct RawEndpointName {
    pub(super) name: EndpointName,
    pub(super) span: Span,
}

impl<'de> Deserialize<'de> for RawEndpointName {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        const EXPECTED: &str = "a port number, \"port:NUMBER\", \"main\" or \"app:NAME\"";
        let span = value.span;
        let named = |name| Self { name, span };
        // A number is a port, as under 'ports'.
        if value.as_integer().is_some() {
            return Port::deserialize(value).map(|port| named(port.into()));
        }
        let text = value.take_string(Some(EXPECTED))?;
        let name = match text.split_once(':') {
            None if text == "main" => EndpointName::Main,
            // As `explain`, logs and HAProxy's variables spell a port.
            Some(("port", digits)) => {
                let message = || format!("expected a port from 1 to 65535, found {digits:?}");
                EndpointName::Port(parse_port(digits).ok_or_else(|| mistake(span, message()))?)
            }
            Some(("app", app)) => {
                let app = ValueInner::String(app.to_owned().into());
                App::deserialize(&mut Value::with_span(app, span))?.into()
            }
            _ => {
                let message = format!("expected {EXPECTED}, found {text:?}");
                return Err(mistake(span, message).into());
            }
        };
        Ok(named(name))
    }
}

pub(super) struct RawDestination(pub(super) Destination);

impl RawDestination {
    /// The backend that the destination names, with its place in the text.
    pub(super) fn backend(&self, span: Span) -> Option<(Arc<str>, Span)> {
        match &self.0 {
            Destination::Backend(name) => Some((Arc::clone(name), span)),
            Destination::Address(_) | Destination::NamedServer(_) => None,
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
            let server = NamedServer::parse(&text)
                .map_err(|error| mistake(value.span, format!("{error}, found {text:?}")))?;
            return Ok(Self(Destination::NamedServer(Arc::new(server))));
        } else if let Ok(server) = text.parse::<Server>()
            // The unspecified address would be this machine.
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
pub(super) struct PlainText(pub(super) Box<str>);

impl<'de> Deserialize<'de> for PlainText {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let text = value.take_string(None)?;
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(mistake(value.span, "expected text without control characters").into());
        }
        Ok(Self(text.into()))
    }
}

pub(super) struct RawId(pub(super) WorkspaceId);

impl<'de> Deserialize<'de> for RawId {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        diagnostics::parsed(value).map(Self)
    }
}
