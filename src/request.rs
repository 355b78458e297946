//! The arguments of a NOTIFY message, which describe one request or TCP stream: for the gate and the agent.
//!
//! [`Request`] borrows them from the frame. [`browser`] tells a browser from a program, and a request that a person made
//! from one that a page of another site made, since only the request's own headers are needed for that. [`cookie`] reads
//! and writes cookies; [`token_location`] finds tokens outside the Authorization header.
//!
//! Nothing is decided here, and values stay bytes: no text is decoded, so that the workspace and the gate cannot
//! read the same value differently. A message is refused when an argument is missing without which a repeated header
//! would look like a single one.

use std::net::{IpAddr, SocketAddr};

use thiserror::Error;

use crate::spop::Value;

pub mod browser;
pub mod cookie;
pub mod token_location;

pub use browser::{AskedFor, Browser, Preflight, is_frame};

/// The name of the message for HTTP requests.
pub const AUTHORIZE: &[u8] = b"authorize";
/// The name of the message for TCP streams.
pub const AUTHORIZE_TCP: &[u8] = b"authorize-tcp";

/// One request, as the shipped `identity.spoe.cfg` describes it. An absent argument and NULL are the same.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request<'a> {
    /// HAProxy's unique id of the request.
    pub unique_id: Option<&'a [u8]>,
    /// The method.
    pub method: Option<&'a [u8]>,
    /// The last Host header, or the TLS server name of a TCP stream.
    pub host: Option<&'a [u8]>,
    /// How many Host headers there are.
    pub hosts: u64,
    /// The path, without query.
    pub path: Option<&'a [u8]>,
    /// The last Authorization header.
    pub authorization: Option<&'a [u8]>,
    /// How many Authorization headers there are.
    pub authorizations: u64,
    /// The last header in which programs may send a token for the gate. HAProxy sends it only where `[credentials]` names one.
    pub token: Option<&'a [u8]>,
    /// How many of these headers there are.
    pub tokens: u64,
    /// The last Cookie header.
    pub cookie: Option<&'a [u8]>,
    /// How many Cookie headers there are.
    pub cookies: u64,
    /// The query string. HAProxy sends it only where tokens may be in it.
    pub query: Option<&'a [u8]>,
    /// The last Sec-WebSocket-Protocol header. HAProxy sends it only where tokens may be in it.
    pub protocols: Option<&'a [u8]>,
    /// How many Sec-WebSocket-Protocol headers there are.
    pub protocol_lines: u64,
    /// The optional arguments that HAProxy passes. Where one is not passed, a token in it cannot be seen, and would
    /// reach the workspace.
    pub passed: PassedArguments,
    /// The headers that tell a person's browser from a program.
    pub browser: Browser<'a>,
    /// The headers of a CORS preflight. HAProxy sends them only with those of browsers.
    pub asked_for: AskedFor<'a>,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// The client's certificate, DER; absent unless HAProxy verified it.
    pub certificate: Option<&'a [u8]>,
    /// How many Upgrade headers there are. HAProxy sends the count only where tunnels are tracked.
    pub upgrades: u64,
    /// Whether this is a TCP stream.
    pub is_stream: bool,
    /// Where the stream is found in HAProxy.
    pub location: StreamLocation<'a>,
    /// The last traceparent header (W3C Trace Context), where HAProxy passes it. The client chose it.
    pub traceparent: Option<&'a [u8]>,
    /// What HAProxy says about reuse, where it reuses allows (docs/reuse.md).
    pub reuse: Reuse<'a>,
}

/// The arguments about reuse (docs/reuse.md), where HAProxy's rules pass them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reuse<'a> {
    /// The unique name of this authorization request; without one, the response cannot be reused.
    pub id: Option<&'a [u8]>,
    /// When HAProxy sent it, in milliseconds since the Unix epoch by HAProxy's clock.
    pub now: Option<u64>,
    /// The last epoch that the HAProxy process was told of; absent before the first.
    pub epoch: Option<&'a [u8]>,
    /// How often the last allow of the connection was reused since the last authorization request.
    pub times: u64,
    /// The id of the decision that was reused.
    pub last: Option<&'a [u8]>,
}

/// What identifies a stream in HAProxy, so that the runtime API can find it again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamLocation<'a> {
    /// The frontend.
    pub frontend: Option<&'a [u8]>,
    /// HAProxy's number of the stream (`txn.id32`). It counts from zero in each process.
    pub stream: Option<u32>,
    /// When the stream began, in microseconds since the Unix epoch by HAProxy's clock.
    pub started: Option<u64>,
    /// The process id of HAProxy, as HAProxy sees it.
    pub process: Option<u32>,
    /// The peer address of the client's connection, even where rules set another client address.
    pub source: Option<IpAddr>,
    /// The peer's port.
    pub port: Option<u16>,
}

/// Which of the arguments that an operator adds are passed by HAProxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is an argument of its own")]
pub struct PassedArguments {
    /// `token` and `tokens`.
    pub token: bool,
    /// `query`.
    pub query: bool,
    /// `protocols` and `protocol_lines`.
    pub protocols: bool,
    /// `origin` and `fetch_site`, without which a browser cannot be told from a program.
    pub browser: bool,
    /// `frontend`, and for HTTP `upgrades`: they say which streams are tunnels and where they are.
    pub tunnels: bool,
    /// `method`, `path` and `client`, which policies read.
    pub policies: bool,
}

/// Why a message cannot be read. The cause is an SPOE configuration that differs from the shipped one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// A message this agent does not know.
    #[error("unknown message '{}': expected 'authorize' or 'authorize-tcp'", .0.escape_ascii())]
    Message(Vec<u8>),
    /// An argument of the wrong type.
    #[error(
        "the argument '{0}' has the wrong type: compare the args line with haproxy/identity.spoe.cfg"
    )]
    Type(&'static str),
    /// A required argument is missing.
    #[error("the argument '{0}' is missing: compare the args line with haproxy/identity.spoe.cfg")]
    Missing(&'static str),
}

/// The required arguments. Without them a repeated header would look like a single one, and a missing argument like a
/// request without a credential.
const REQUIRED: [&str; 5] = ["host", "hosts", "authorization", "authorizations", "cookies"];

impl<'a> Request<'a> {
    /// Reads the arguments of a message. Unknown arguments are ignored. Of two arguments with the same name the last one
    /// is used, as in HAProxy.
    ///
    /// # Errors
    /// The message is unknown, an argument has the wrong type, or a required one is missing.
    pub fn read(
        message: &[u8],
        args: impl Iterator<Item = (&'a [u8], Value<'a>)>,
    ) -> Result<Self, RequestError> {
        match message {
            AUTHORIZE => Self::read_http(args),
            AUTHORIZE_TCP => Self::read_tcp(args),
            other => Err(RequestError::Message(other.iter().copied().take(64).collect())),
        }
    }

    fn read_http(args: impl Iterator<Item = (&'a [u8], Value<'a>)>) -> Result<Self, RequestError> {
        let mut request = Self::default();
        let mut seen = [false; REQUIRED.len()];
        let (mut origin, mut site) = (false, false);
        let (mut method, mut path, mut client) = (false, false, false);
        let mut certificate = CertificateArguments::default();
        for (name, value) in args {
            for (seen, required) in seen.iter_mut().zip(REQUIRED) {
                *seen |= required.as_bytes() == name;
            }
            match name {
                b"unique_id" => request.unique_id = text(value, "unique_id")?,
                b"method" => {
                    request.method = text(value, "method")?;
                    method = true;
                }
                b"traceparent" => request.traceparent = text(value, "traceparent")?,
                b"host" => request.host = text(value, "host")?,
                b"hosts" => request.hosts = count(value, "hosts")?,
                b"path" => {
                    request.path = text(value, "path")?;
                    path = true;
                }
                b"authorization" => request.authorization = text(value, "authorization")?,
                b"authorizations" => request.authorizations = count(value, "authorizations")?,
                b"token" => request.token = text(value, "token")?,
                b"tokens" => {
                    request.tokens = count(value, "tokens")?;
                    request.passed.token = true;
                }
                b"cookie" => request.cookie = text(value, "cookie")?,
                b"cookies" => request.cookies = count(value, "cookies")?,
                b"query" => {
                    request.query = text(value, "query")?;
                    request.passed.query = true;
                }
                b"protocols" => request.protocols = text(value, "protocols")?,
                b"protocol_lines" => {
                    request.protocol_lines = count(value, "protocol_lines")?;
                    request.passed.protocols = true;
                }
                b"client" => {
                    request.client = address(value, "client")?;
                    client = true;
                }
                b"fetch_mode" => request.browser.mode = text(value, "fetch_mode")?,
                b"fetch_dest" => request.browser.dest = text(value, "fetch_dest")?,
                b"accept" => request.browser.accept = text(value, "accept")?,
                b"upgrade" => request.browser.upgrade = text(value, "upgrade")?,
                b"requested_with" => {
                    request.browser.requested_with = text(value, "requested_with")?;
                }
                b"origin" => {
                    request.browser.origin = text(value, "origin")?;
                    origin = true;
                }
                b"referer" => request.browser.referer = text(value, "referer")?,
                b"preflight_method" => request.asked_for.method = text(value, "preflight_method")?,
                b"preflight_headers" => {
                    request.asked_for.headers = text(value, "preflight_headers")?;
                }
                b"fetch_site" => {
                    request.browser.site = text(value, "fetch_site")?;
                    site = true;
                }
                b"upgrades" => {
                    request.upgrades = count(value, "upgrades")?;
                    request.passed.tunnels = true;
                }
                _ if request.reuse.read(name, value) => {}
                _ if request.location.read(name, value)? => {}
                _ => certificate.read(name, value)?,
            }
        }
        request.certificate = certificate.verified();
        request.passed.tunnels &= request.location.frontend.is_some();
        request.passed.browser = origin && site;
        request.passed.policies = method && path && client;
        match seen.iter().zip(REQUIRED).find(|(seen, _)| !**seen) {
            Some((_, name)) => Err(RequestError::Missing(name)),
            None => Ok(request),
        }
    }

    fn read_tcp(args: impl Iterator<Item = (&'a [u8], Value<'a>)>) -> Result<Self, RequestError> {
        let mut request = Self::default();
        let mut certificate = CertificateArguments::default();
        let mut policies = false;
        for (name, value) in args {
            match name {
                b"unique_id" => request.unique_id = text(value, "unique_id")?,
                b"sni" => request.host = text(value, "sni")?,
                b"client" => {
                    request.client = address(value, "client")?;
                    policies = true;
                }
                _ if request.location.read(name, value)? => {}
                _ => certificate.read(name, value)?,
            }
        }
        request.certificate = certificate.verified();
        request.is_stream = true;
        // A TCP stream has no query, headers or cookies, so nothing of them can be missing.
        let tunnels = request.location.frontend.is_some();
        request.passed = PassedArguments {
            token: true,
            query: true,
            protocols: true,
            browser: true,
            tunnels,
            policies,
        };
        request.hosts = u64::from(request.host.is_some());
        Ok(request)
    }
}

impl<'a> Reuse<'a> {
    /// Reads an argument. Returns whether it is one of these. A value of the wrong type counts as absent: then the
    /// response cannot be reused, and the request is decided as usual.
    fn read(&mut self, name: &[u8], value: Value<'a>) -> bool {
        match name {
            b"reuse_id" => self.id = text(value, "reuse_id").ok().flatten(),
            b"reuse_now" => self.now = number(value, "reuse_now").ok().flatten(),
            b"reuse_epoch" => self.epoch = text(value, "reuse_epoch").ok().flatten(),
            b"reused" => self.times = count(value, "reused").unwrap_or_default(),
            b"reused_of" => self.last = text(value, "reused_of").ok().flatten(),
            _ => return false,
        }
        true
    }
}

impl<'a> StreamLocation<'a> {
    /// The peer address and port of the client's connection.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.source.zip(self.port).map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port))
    }

    /// Whether the arguments identify the stream.
    #[must_use]
    pub fn can_be_found(&self) -> bool {
        self.stream.is_some() || self.address().is_some()
    }

    /// Reads an argument. Returns whether it is one of these.
    fn read(&mut self, name: &[u8], value: Value<'a>) -> Result<bool, RequestError> {
        match name {
            b"frontend" => self.frontend = text(value, "frontend")?,
            b"stream" => self.stream = number(value, "stream")?,
            b"started" => self.started = number(value, "started")?,
            b"process" => self.process = number(value, "process")?,
            b"source" => self.source = address(value, "source")?,
            b"source_port" => self.port = number(value, "source_port")?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Bytes without the optional whitespace around header values (OWS, RFC 9110 section 5.6.3): space and tab.
fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// A client certificate with the result of HAProxy's verification.
#[derive(Default)]
struct CertificateArguments<'a> {
    der: Option<&'a [u8]>,
    result: Option<u64>,
}

impl<'a> CertificateArguments<'a> {
    fn read(&mut self, name: &[u8], value: Value<'a>) -> Result<(), RequestError> {
        match name {
            b"certificate" => self.der = text(value, "certificate")?,
            b"certificate_result" if value != Value::Null => {
                self.result = Some(count(value, "certificate_result")?);
            }
            _ => {}
        }
        Ok(())
    }

    /// The certificate if HAProxy verified it. HAProxy can be configured to accept certificates that it could not
    /// verify; then the result is not 0 (X509_V_OK). Without a result, the certificate is not trusted.
    fn verified(self) -> Option<&'a [u8]> {
        self.der.filter(|der| !der.is_empty() && self.result == Some(0))
    }
}

fn text<'a>(value: Value<'a>, name: &'static str) -> Result<Option<&'a [u8]>, RequestError> {
    match value {
        Value::Null => Ok(None),
        Value::Str(bytes) | Value::Bin(bytes) => Ok(Some(bytes)),
        _ => Err(RequestError::Type(name)),
    }
}

fn count(value: Value<'_>, name: &'static str) -> Result<u64, RequestError> {
    let number = match value {
        Value::Null => Some(0),
        Value::Int32(n) => u64::try_from(n).ok(),
        Value::Int64(n) => u64::try_from(n).ok(),
        Value::Uint32(n) => Some(u64::from(n)),
        Value::Uint64(n) => Some(n),
        _ => None,
    };
    number.ok_or(RequestError::Type(name))
}

/// Reads a number that may be absent.
fn number<T: TryFrom<u64>>(
    value: Value<'_>,
    name: &'static str,
) -> Result<Option<T>, RequestError> {
    if value == Value::Null {
        return Ok(None);
    }
    T::try_from(count(value, name)?).map(Some).map_err(|_| RequestError::Type(name))
}

fn address(value: Value<'_>, name: &'static str) -> Result<Option<IpAddr>, RequestError> {
    match value {
        Value::Null => Ok(None),
        Value::Ipv4(ip) => Ok(Some(ip.into())),
        Value::Ipv6(ip) => Ok(Some(ip.into())),
        _ => Err(RequestError::Type(name)),
    }
}

#[cfg(test)]
mod tests;
