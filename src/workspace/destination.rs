//! Where HAProxy sends an allowed request, and where it never sends one.
//!
//! What a workspace's record says of its place is not trusted: a place in a forbidden range would turn
//! the gate into a tunnel to the inside. [`Ranges::permits`] is asked for every request, whatever the
//! destination came from. Names are resolved by [`resolver`], never on the way of a request.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use arc_swap::ArcSwapOption;
use ipnet::IpNet;
use thiserror::Error;
use url::Url;

use super::{AppName, EndpointName, WorkspaceId, host::Host};

pub mod resolver;

/// Where HAProxy sends an allowed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// An address that is the workspace's alone, set by `http-request set-dst`.
    Address(SocketAddr),
    /// A backend of haproxy.cfg, by name.
    Backend(Arc<str>),
    /// A name that is resolved beside the request; others may be reached there too.
    Gateway(Arc<Gateway>),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Backend(name) => write!(f, "backend:{name}"),
            Self::Gateway(gateway) => gateway.fmt(f),
        }
    }
}

/// A named place.
#[derive(Debug)]
pub struct Gateway {
    /// The name: what is resolved, and the server name in TLS.
    pub host: Host,
    /// The port.
    pub port: u16,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Whether the name is the Host header there; the client's own unless said.
    pub renames: bool,
    address: ArcSwapOption<IpAddr>,
}

/// Why a text is not a named place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GatewayError {
    /// Not a URL.
    #[error("expected a URL such as http://name:8080")]
    Url,
    /// Neither http nor https.
    #[error("expected http:// or https://")]
    Scheme,
    /// A path, a query or user information, none of which can be kept.
    #[error("the URL must end after the port: a path, query or user name would be lost")]
    Rest,
    /// An address instead of a name.
    #[error("expected a name, not an address")]
    Name,
}

impl Gateway {
    /// A place that is not resolved yet.
    ///
    /// # Errors
    /// See [`GatewayError`].
    pub fn parse(text: &str) -> Result<Self, GatewayError> {
        let url: Url = text.parse().map_err(|_| GatewayError::Url)?;
        let tls = match url.scheme() {
            "http" => false,
            "https" => true,
            _ => return Err(GatewayError::Scheme),
        };
        let bare =
            matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        if !bare || !url.username().is_empty() || url.password().is_some() {
            return Err(GatewayError::Rest);
        }
        let Some(url::Host::Domain(name)) = url.host() else { return Err(GatewayError::Name) };
        let host = Host::parse(name.as_bytes()).map_err(|_| GatewayError::Name)?;
        let port =
            url.port_or_known_default().filter(|port| *port != 0).ok_or(GatewayError::Url)?;
        Ok(Self { host, port, tls, renames: false, address: ArcSwapOption::empty() })
    }

    /// The same place, which tells workspaces apart by their names there.
    #[must_use]
    pub fn renaming(self) -> Self {
        Self { renames: true, ..self }
    }

    /// Where it is, if that is known.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.address.load().as_deref().map(|ip| SocketAddr::new(*ip, self.port))
    }

    /// Learns where it is; `None` when nobody can tell any more.
    pub fn learn(&self, address: Option<IpAddr>) {
        self.address.store(address.map(Arc::new));
    }
}

impl PartialEq for Gateway {
    fn eq(&self, other: &Self) -> bool {
        self.host == other.host
            && (self.port, self.tls, self.renames) == (other.port, other.tls, other.renames)
    }
}

impl Eq for Gateway {}

impl fmt::Display for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

/// Where the endpoints of a source's workspaces are, in the operator's words: a destination with
/// `{workspace}`, `{port}` and `{app}` in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Box<str>);

/// Why a text is not a template.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "expected \"http://{{workspace}}.example:{{port}}\", \"https://…\" or \"backend:NAME\", with {{workspace}}, {{port}} and {{app}} where they belong, found {0:?}"
)]
pub struct TemplateError(String);

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// What comes of it is no destination.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let template = Self(text.into());
        let error = || TemplateError(text.into());
        let id: WorkspaceId = "w".parse().map_err(|_| error())?;
        let app = AppName::new("a").ok_or_else(error)?;
        let name =
            if text.contains("{app}") { EndpointName::App(app) } else { EndpointName::Port(80) };
        // A template without the workspace sends everybody's requests to one place, which only a
        // backend that tells them apart by host can mean.
        let told_apart = text.contains("{workspace}") || text.starts_with("backend:");
        template
            .render_in(&id, &name, "n")
            .filter(|_| told_apart)
            .map(|_| template.clone())
            .ok_or_else(error)
    }

    /// Where that endpoint is; `None` for one that the template has no place for.
    #[must_use]
    pub fn render(&self, workspace: &WorkspaceId, endpoint: &EndpointName) -> Option<Destination> {
        self.render_in(workspace, endpoint, "")
    }

    /// As [`Self::render`], if that is a backend: a name would have to be resolved first, which a
    /// request does not wait for.
    #[must_use]
    pub fn render_backend(
        &self,
        workspace: &WorkspaceId,
        endpoint: &EndpointName,
    ) -> Option<Destination> {
        self.render(workspace, endpoint).filter(|d| matches!(d, Destination::Backend(_)))
    }

    /// As [`Self::render`], with `{namespace}` standing for that one.
    #[must_use]
    pub fn render_in(
        &self,
        workspace: &WorkspaceId,
        endpoint: &EndpointName,
        namespace: &str,
    ) -> Option<Destination> {
        // With a dot in it, an id would name something in another zone.
        if workspace.as_str().contains('.') && !self.0.starts_with("backend:") {
            return None;
        }
        let mut text = self.0.replace("{workspace}", workspace.as_str());
        if text.contains("{namespace}") {
            // As Kubernetes has them (RFC 1123 label).
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
        Gateway::parse(&text).ok().map(|gateway| Destination::Gateway(Arc::new(gateway)))
    }
}

/// Whether HAProxy can have a backend of that name (its manual, section 2.1).
#[must_use]
pub fn is_backend(name: &str) -> bool {
    let clean = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b':');
    !name.is_empty() && name.bytes().all(clean)
}

/// Which addresses requests may be sent to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// Exceptions from what is forbidden by default.
    pub allow: Vec<IpNet>,
    /// If there is any, nothing else is permitted.
    pub only: Vec<IpNet>,
}

impl Ranges {
    /// Whether requests may be sent to the address.
    ///
    /// Unless `allow` has it, none to this machine (loopback, unspecified), to link-local and multicast
    /// ranges, nor to the addresses at which clouds keep metadata and credentials.
    #[must_use]
    pub fn permits(&self, ip: IpAddr) -> bool {
        let ip = plain(ip);
        let within = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&ip));
        (within(&self.allow) || !is_forbidden(ip)) && (self.only.is_empty() || within(&self.only))
    }
}

/// The IPv4 address that an IPv6 one stands for: mapped (RFC 4291 section 2.5.5.2), translated
/// (RFC 6052 section 2.1) or in a 6to4 tunnel (RFC 3056 section 2).
fn plain(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] if high != 0 => v4(high, low),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => v4(high, low),
        _ => ip,
    }
}

/// Where the metadata of cloud machines is, beside the link-local 169.254.169.254.
const METADATA: [IpAddr; 4] = [
    // Alibaba
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    // Azure
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    // Oracle
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    // AWS
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

fn is_forbidden(ip: IpAddr) -> bool {
    let special = match ip {
        IpAddr::V4(v4) => {
            // "This network" (RFC 791 section 3.2) reaches this machine on many systems.
            v4.octets().first() == Some(&0) || v4.is_link_local() || v4.is_broadcast()
        }
        IpAddr::V6(v6) => {
            let first = v6.segments().first().copied().unwrap_or_default();
            // Link-local (RFC 4291 section 2.5.6) and the deprecated site-local (RFC 3879).
            matches!(first & 0xffc0, 0xfe80 | 0xfec0)
        }
    };
    special
        || ip.is_loopback()
        || ip.is_unspecified()
        || ip.is_multicast()
        || METADATA.contains(&ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(allow: &[&str], only: &[&str]) -> Ranges {
        let nets = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect();
        Ranges { allow: nets(allow), only: nets(only) }
    }

    #[test]
    fn the_inside_of_the_machine_and_of_the_cloud_is_forbidden_in_every_spelling() {
        let ranges = Ranges::default();
        for ip in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "::",
            "::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "fd00:ec2::254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
        ] {
            assert!(!ranges.permits(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["10.0.0.1", "192.168.1.1", "172.16.0.9", "203.0.113.9", "2001:db8::1", "fd12::1"]
        {
            assert!(ranges.permits(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn exceptions_and_limits_are_the_operators() {
        let open = ranges(&["127.0.0.0/8"], &[]);
        assert!(open.permits("127.0.0.1".parse().unwrap()));
        assert!(open.permits("::ffff:127.0.0.1".parse().unwrap()));
        assert!(!open.permits("169.254.169.254".parse().unwrap()));
        let narrow = ranges(&[], &["10.1.0.0/16"]);
        assert!(narrow.permits("10.1.2.3".parse().unwrap()));
        assert!(!narrow.permits("10.2.2.3".parse().unwrap()));
        // Within the limit is no exception.
        assert!(!ranges(&[], &["127.0.0.0/8"]).permits("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn a_template_says_where_each_workspace_is() {
        let template = Template::parse("http://{workspace}.svc:{port}").unwrap();
        let id: WorkspaceId = "w1".parse().unwrap();
        let at = template.render(&id, &EndpointName::Port(3000)).unwrap();
        assert_eq!(at.to_string(), "http://w1.svc:3000");
        assert_eq!(template.render(&id, &EndpointName::Main), None);
        // An id cannot break out of its place.
        for odd in ["w.kube-system", "w-", "w_x"] {
            assert_eq!(template.render(&odd.parse().unwrap(), &EndpointName::Port(1)), None);
        }
        let backend = Template::parse("backend:ws-{workspace}").unwrap();
        let at = backend.render(&id, &EndpointName::Main).unwrap();
        assert_eq!(at.to_string(), "backend:ws-w1");
        for text in ["", "http://fixed:80", "{workspace}", "http://{workspace}/x", "http://{w}:80"]
        {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_gateway_is_a_scheme_a_name_and_a_port() {
        let gateway = Gateway::parse("https://3000--x.eu.gitpod.dev").unwrap();
        assert_eq!(
            (gateway.host.as_str(), gateway.port, gateway.tls),
            ("3000--x.eu.gitpod.dev", 443, true)
        );
        assert_eq!(Gateway::parse("http://w.svc:8080/").unwrap().to_string(), "http://w.svc:8080");
        for (text, error) in [
            ("w.svc:8080", GatewayError::Scheme),
            ("nonsense", GatewayError::Url),
            ("ftp://w.svc", GatewayError::Scheme),
            ("http://w.svc/path", GatewayError::Rest),
            ("http://w.svc/?q", GatewayError::Rest),
            ("http://me@w.svc/", GatewayError::Rest),
            ("http://127.0.0.1:80", GatewayError::Name),
            ("http://0x7f.1/", GatewayError::Name),
            ("http://[::1]/", GatewayError::Name),
            ("http://w.svc:0/", GatewayError::Url),
        ] {
            assert_eq!(Gateway::parse(text).unwrap_err(), error, "{text}");
        }
    }
}
