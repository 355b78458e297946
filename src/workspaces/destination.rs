//! Where HAProxy sends an allowed request.
//!
//! A destination is an address, a backend of haproxy.cfg, or a host name that the [`resolver`]
//! looks up in the background. The record of a workspace is not trusted about it: a destination in
//! a forbidden range would turn the gate into a tunnel to internal services. [`DestinationLimits::permits`] is
//! therefore checked for every request, whatever source the destination came from.
//!
//! Invariant: no request waits for a name to be resolved.

use std::{fmt, net::SocketAddr, sync::Arc};

use arc_swap::ArcSwapOption;
use thiserror::Error;
use url::Url;

use super::{AppName, EndpointName, WorkspaceId, host::Host};

pub mod address;
pub mod backends;
pub mod limits;
pub mod resolver;

pub use address::{Address, Server};
pub use backends::AllowedBackends;
pub use limits::DestinationLimits;

/// Where HAProxy sends an allowed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// An address that only this workspace uses. HAProxy applies it with `http-request set-dst`.
    Address(Server),
    /// The name of a backend in haproxy.cfg.
    Backend(Arc<str>),
    /// A host name that is resolved in the background. Several workspaces may share it.
    NamedServer(Arc<NamedServer>),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Backend(name) => write!(f, "backend:{name}"),
            Self::NamedServer(server) => server.fmt(f),
        }
    }
}

/// A server known by its host name.
#[derive(Debug)]
pub struct NamedServer {
    /// The host name, which is resolved and is also the server name in TLS.
    pub host: Host,
    /// The port.
    pub port: u16,
    /// Whether HAProxy connects with TLS.
    pub tls: bool,
    /// Whether the Host header is replaced by the host name. By default the client's Host header is
    /// sent.
    pub sets_host_header: bool,
    address: ArcSwapOption<Address>,
}

/// The reason why a text is not a [`NamedServer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NamedServerError {
    /// The text is not a URL.
    #[error("expected a URL such as http://name:8080")]
    Url,
    /// The scheme is neither http nor https.
    #[error("expected http:// or https://")]
    Scheme,
    /// The URL has a path, a query or user information, which a destination cannot keep.
    #[error("the URL must end after the port: a path, query or user name would be lost")]
    Rest,
    /// The URL has an IP address instead of a host name.
    #[error("expected a name, not an address")]
    Name,
}

impl NamedServer {
    /// Parses a URL. The host name is not resolved yet.
    ///
    /// # Errors
    /// See [`NamedServerError`].
    pub fn parse(text: &str) -> Result<Self, NamedServerError> {
        let url: Url = text.parse().map_err(|_| NamedServerError::Url)?;
        let tls = match url.scheme() {
            "http" => false,
            "https" => true,
            _ => return Err(NamedServerError::Scheme),
        };
        let bare =
            matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        if !bare || !url.username().is_empty() || url.password().is_some() {
            return Err(NamedServerError::Rest);
        }
        let Some(url::Host::Domain(name)) = url.host() else { return Err(NamedServerError::Name) };
        let host = Host::parse(name.as_bytes()).map_err(|_| NamedServerError::Name)?;
        let port =
            url.port_or_known_default().filter(|port| *port != 0).ok_or(NamedServerError::Url)?;
        Ok(Self { host, port, tls, sets_host_header: false, address: ArcSwapOption::empty() })
    }

    /// The same server, with the Host header replaced by its name.
    #[must_use]
    pub fn with_own_host_header(self) -> Self {
        Self { sets_host_header: true, ..self }
    }

    /// The address, if the name is resolved.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.address.load().as_deref().map(|at| SocketAddr::new(at.ip(), self.port))
    }

    /// Sets the address that the name resolves to; `None` if it does not resolve any more.
    pub fn set_address(&self, address: Option<Address>) {
        self.address.store(address.map(Arc::new));
    }
}

impl PartialEq for NamedServer {
    fn eq(&self, other: &Self) -> bool {
        self.host == other.host
            && (self.port, self.tls, self.sets_host_header)
                == (other.port, other.tls, other.sets_host_header)
    }
}

impl Eq for NamedServer {}

impl fmt::Display for NamedServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

/// A destination with the placeholders `{workspace}`, `{port}` and `{app}`, as the operator
/// configures it for a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationTemplate(Box<str>);

/// What a template says about the name of a backend before the workspace is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendName<'t> {
    /// The complete name.
    Whole(&'t str),
    /// The beginning of the name.
    Prefix(&'t str),
}

/// The error of parsing a [`DestinationTemplate`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "expected \"http://{{workspace}}.example:{{port}}\", \"https://…\" or \"backend:NAME\", with {{workspace}}, {{port}} and {{app}} where they belong, found {0:?}"
)]
pub struct DestinationTemplateError(String);

impl DestinationTemplate {
    /// Parses a template, and tries it with a made-up workspace.
    ///
    /// # Errors
    /// The result would not be a destination.
    pub fn parse(text: &str) -> Result<Self, DestinationTemplateError> {
        let template = Self(text.into());
        let error = || DestinationTemplateError(text.into());
        let id: WorkspaceId = "w".parse().map_err(|_| error())?;
        let app = AppName::new("a").ok_or_else(error)?;
        let name =
            if text.contains("{app}") { EndpointName::App(app) } else { EndpointName::Port(80) };
        // Without `{workspace}` all workspaces would share one server. Only a backend can
        // distinguish them again, by host.
        let distinguishes = text.contains("{workspace}") || text.starts_with("backend:");
        template
            .render_in(&id, &name, "n")
            .filter(|_| distinguishes)
            .map(|_| template.clone())
            .ok_or_else(error)
    }

    /// The backend that the template names, or the beginning of its name. `None` if the template is
    /// a URL.
    #[must_use]
    pub fn backend(&self) -> Option<BackendName<'_>> {
        let name = self.0.strip_prefix("backend:")?;
        Some(match name.split_once('{') {
            None => BackendName::Whole(name),
            Some((prefix, _)) => BackendName::Prefix(prefix),
        })
    }

    /// Returns the destination of an endpoint. `None` if the template has a placeholder that the
    /// endpoint cannot fill.
    #[must_use]
    pub fn render(&self, workspace: &WorkspaceId, endpoint: &EndpointName) -> Option<Destination> {
        self.render_in(workspace, endpoint, "")
    }

    /// Like [`Self::render`], but only for backends. A host name would have to be resolved first,
    /// and a request does not wait for that.
    #[must_use]
    pub fn render_backend(
        &self,
        workspace: &WorkspaceId,
        endpoint: &EndpointName,
    ) -> Option<Destination> {
        self.render(workspace, endpoint).filter(|d| matches!(d, Destination::Backend(_)))
    }

    /// Like [`Self::render`], with the Kubernetes namespace for `{namespace}`.
    #[must_use]
    pub fn render_in(
        &self,
        workspace: &WorkspaceId,
        endpoint: &EndpointName,
        namespace: &str,
    ) -> Option<Destination> {
        // An id with a dot would name a host in another DNS zone.
        if workspace.as_str().contains('.') && !self.0.starts_with("backend:") {
            return None;
        }
        let mut text = self.0.replace("{workspace}", workspace.as_str());
        if text.contains("{namespace}") {
            // A namespace is an RFC 1123 label.
            let clean = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            if namespace.is_empty() || !namespace.bytes().all(clean) {
                return None;
            }
            text = text.replace("{namespace}", namespace);
        }
        if text.contains("{port}") {
            let EndpointName::Port(port) = endpoint else { return None };
            text = text.replace("{port}", &port.to_string());
        }
        if text.contains("{app}") {
            let EndpointName::App(app) = endpoint else { return None };
            text = text.replace("{app}", app.as_str());
        }
        if let Some(name) = text.strip_prefix("backend:") {
            return is_backend(name).then(|| Destination::Backend(name.into()));
        }
        NamedServer::parse(&text).ok().map(|server| Destination::NamedServer(Arc::new(server)))
    }
}

/// Returns whether HAProxy accepts a backend with this name (configuration manual, section 2.1).
#[must_use]
pub fn is_backend(name: &str) -> bool {
    let clean = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b':');
    !name.is_empty() && name.bytes().all(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_says_where_each_workspace_is() {
        let template = DestinationTemplate::parse("http://{workspace}.svc:{port}").unwrap();
        let id: WorkspaceId = "w1".parse().unwrap();
        let at = template.render(&id, &EndpointName::Port(3000)).unwrap();
        assert_eq!(at.to_string(), "http://w1.svc:3000");
        assert_eq!(template.render(&id, &EndpointName::Main), None);
        // An id cannot leave its label.
        for odd in ["w.kube-system", "w-", "w_x"] {
            assert_eq!(template.render(&odd.parse().unwrap(), &EndpointName::Port(1)), None);
        }
        let backend = DestinationTemplate::parse("backend:ws-{workspace}").unwrap();
        let at = backend.render(&id, &EndpointName::Main).unwrap();
        assert_eq!(at.to_string(), "backend:ws-w1");
        for text in ["", "http://fixed:80", "{workspace}", "http://{workspace}/x", "http://{w}:80"]
        {
            assert!(DestinationTemplate::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_gateway_is_a_scheme_a_name_and_a_port() {
        let server = NamedServer::parse("https://3000--x.eu.gitpod.dev").unwrap();
        assert_eq!(
            (server.host.as_str(), server.port, server.tls),
            ("3000--x.eu.gitpod.dev", 443, true)
        );
        assert_eq!(
            NamedServer::parse("http://w.svc:8080/").unwrap().to_string(),
            "http://w.svc:8080"
        );
        for (text, error) in [
            ("w.svc:8080", NamedServerError::Scheme),
            ("nonsense", NamedServerError::Url),
            ("ftp://w.svc", NamedServerError::Scheme),
            ("http://w.svc/path", NamedServerError::Rest),
            ("http://w.svc/?q", NamedServerError::Rest),
            ("http://me@w.svc/", NamedServerError::Rest),
            ("http://127.0.0.1:80", NamedServerError::Name),
            ("http://0x7f.1/", NamedServerError::Name),
            ("http://[::1]/", NamedServerError::Name),
            ("http://w.svc:0/", NamedServerError::Url),
        ] {
            assert_eq!(NamedServer::parse(text).unwrap_err(), error, "{text}");
        }
    }
}
