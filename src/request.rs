//! The arguments of a NOTIFY message, which describe one request or TCP stream: for the gate and the agent.
//!
//! [`Request`] borrows them from the frame. It also tells a browser from a program, and a request that a person made
//! from one that a page of another site made, since only the request's own headers are needed for that. [`cookie`] reads
//! and writes cookies; [`token_location`] finds tokens outside the Authorization header.
//!
//! Nothing is decided here, and values stay bytes: no text is decoded, so that the workspace and the gate cannot
//! read the same value differently. A message is refused when an argument is missing without which a repeated header
//! would look like a single one.

use std::net::{IpAddr, SocketAddr};

use thiserror::Error;

use crate::spop::Value;

pub mod cookie;
pub mod token_location;

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

/// Headers that tell a person who opens a page from a program or script that fetches something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Browser<'a> {
    /// Sec-Fetch-Mode.
    pub mode: Option<&'a [u8]>,
    /// Sec-Fetch-Site.
    pub site: Option<&'a [u8]>,
    /// Sec-Fetch-Dest.
    pub dest: Option<&'a [u8]>,
    /// Accept.
    pub accept: Option<&'a [u8]>,
    /// Upgrade.
    pub upgrade: Option<&'a [u8]>,
    /// X-Requested-With.
    pub requested_with: Option<&'a [u8]>,
    /// Origin.
    pub origin: Option<&'a [u8]>,
    /// Referer.
    pub referer: Option<&'a [u8]>,
}

/// What a CORS preflight asks for (the Fetch standard, "CORS-preflight fetch").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AskedFor<'a> {
    /// Access-Control-Request-Method.
    pub method: Option<&'a [u8]>,
    /// Access-Control-Request-Headers.
    pub headers: Option<&'a [u8]>,
}

/// A CORS preflight: a browser asks whether a page of another origin may send a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preflight<'a> {
    /// The origin of the page.
    pub origin: &'a [u8],
    /// The method of the request, a token.
    pub method: &'a [u8],
    /// The names of its headers, tokens separated by commas; `None` if there are none, or if they are anything else.
    pub headers: Option<&'a [u8]>,
}

/// The longest method that a preflight may ask for, in bytes.
const MAX_METHOD: usize = 32;
/// The longest list of names of headers that a preflight may ask for, in bytes.
const MAX_HEADERS: usize = 1024;

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

impl Request<'_> {
    /// Whether a person opens a page in a browser, which can be redirected to sign in and come back. Programs,
    /// WebSockets and scripts cannot, and get a status code instead.
    #[must_use]
    pub fn navigates(&self) -> bool {
        let Browser { mode, dest, accept, upgrade, requested_with, .. } = self.browser;
        let set = |value: Option<&[u8]>| value.is_some_and(|value| !value.is_empty());
        if !matches!(self.method, Some(b"GET" | b"HEAD")) || set(upgrade) {
            return false;
        }
        // Fetch Metadata says it exactly; the other headers are for browsers before 2023.
        if let Some(mode) = mode.filter(|mode| !mode.is_empty()) {
            return mode == b"navigate" && dest.is_some_and(is_page);
        }
        let script = requested_with.is_some_and(|by| by.eq_ignore_ascii_case(b"XMLHttpRequest"));
        let program = set(self.authorization) || set(self.token);
        !script && !program && accept.is_some_and(prefers_html)
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

impl Request<'_> {
    /// Whether the request comes from the user or from a page of the same origin, or opens a page. False for any other
    /// request that a page of another origin makes with the user's cookies (Fetch Metadata section 2.4). True for
    /// browsers that do not send Fetch Metadata.
    #[must_use]
    pub fn is_intended_by_user(&self) -> bool {
        let Browser { mode, site, dest, .. } = self.browser;
        match site {
            None | Some(b"" | b"none" | b"same-origin") => true,
            Some(_) => {
                matches!(self.method, Some(b"GET" | b"HEAD"))
                    && mode == Some(b"navigate")
                    && dest.is_some_and(is_page)
            }
        }
    }
}

impl<'a> Request<'a> {
    /// The origin of the page that makes the request, where the browser names it.
    #[must_use]
    pub fn origin(&self) -> Option<&'a [u8]> {
        self.browser.origin.filter(|origin| !origin.is_empty())
    }

    /// The CORS preflight that this request is; `None` if it is another request.
    #[must_use]
    pub fn preflight(&self) -> Option<Preflight<'a>> {
        let upgrades = self.upgrades > 0 || self.browser.upgrade.is_some_and(|up| !up.is_empty());
        let is_token = |text: &[u8]| text.iter().all(|byte| is_token_byte(*byte));
        let method = self
            .asked_for
            .method
            .filter(|method| (1..=MAX_METHOD).contains(&method.len()) && is_token(method));
        if self.is_stream || upgrades || self.method != Some(b"OPTIONS") {
            return None;
        }
        // Echoed into a header of the response: no byte may mean anything else there.
        let is_list = |list: &[u8]| {
            list.len() <= MAX_HEADERS
                && list.split(|byte| *byte == b',').map(trim).all(|n| !n.is_empty() && is_token(n))
        };
        let headers = self.asked_for.headers.filter(|headers| is_list(headers));
        Some(Preflight { origin: self.origin()?, method: method?, headers })
    }

    /// Whether a browser opens a page in a tab of its own. Only Fetch Metadata says so, and a service worker that forwards the
    /// request is not one: it could not be led elsewhere.
    #[must_use]
    pub fn opens_tab(&self) -> bool {
        let Browser { mode, dest, upgrade, .. } = self.browser;
        self.method == Some(b"GET")
            && mode == Some(b"navigate")
            && dest == Some(b"document")
            && upgrade.is_none_or(<[u8]>::is_empty)
    }

    /// Whether a page loads a part of itself, such as an image or a script, in a way that changes nothing and that names no
    /// origin (the Fetch standard, "append a request `Origin` header").
    #[must_use]
    pub fn is_part_of_page(&self) -> bool {
        let Browser { mode, site, .. } = self.browser;
        matches!(self.method, Some(b"GET" | b"HEAD"))
            && mode == Some(b"no-cors")
            && site == Some(b"same-site")
    }
}

impl Request<'_> {
    /// Whether a page of another origin shows the response in a frame.
    #[must_use]
    pub fn is_framed_by_other_origin(&self) -> bool {
        self.is_framed()
            && !matches!(self.browser.site, None | Some(b"" | b"none" | b"same-origin"))
    }

    /// Whether a page shows the response in a frame.
    #[must_use]
    pub fn is_framed(&self) -> bool {
        self.browser.dest.is_some_and(is_frame)
    }
}

/// Whether the destination of a request (Fetch section 2.2.5) is a frame in a page.
#[must_use]
pub fn is_frame(dest: &[u8]) -> bool {
    matches!(dest, b"iframe" | b"frame" | b"embed" | b"object" | b"fencedframe")
}

/// Whether the destination of a navigation is a page that a person sees. A service worker that forwards a navigation
/// sends "empty".
fn is_page(dest: &[u8]) -> bool {
    matches!(dest, b"document" | b"iframe" | b"empty")
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

/// Whether a byte may be part of a method or of the name of a header (tchar, RFC 9110 section 5.6.2).
const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// Whether an Accept header prefers HTML, or weighs it as high as anything else (RFC 9110 section 12.5.1).
fn prefers_html(accept: &[u8]) -> bool {
    let (mut html, mut most) = (0.0_f32, 0.0_f32);
    for range in accept.split(|byte| *byte == b',') {
        let mut parts = range.split(|byte| *byte == b';').map(trim);
        let kind = parts.next().unwrap_or_default();
        let quality = parts.find_map(|part| part.strip_prefix(b"q="));
        let quality = quality.map_or(Some(1.0), |q| std::str::from_utf8(q).ok()?.parse().ok());
        let quality: f32 = quality.filter(|q| (0.0..=1.0).contains(q)).unwrap_or(0.0);
        if kind.eq_ignore_ascii_case(b"text/html") {
            html = quality;
        } else {
            most = most.max(quality);
        }
    }
    html > 0.0 && html >= most
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
mod tests {
    use super::*;

    #[test]
    fn a_request_of_a_page_of_another_site_is_told_from_one_of_the_user() {
        let asked = |method: &'static [u8], site: &'static [u8], mode: &'static [u8]| {
            let dest = Some(if mode == b"navigate" { &b"document"[..] } else { b"empty" });
            let browser =
                Browser { site: Some(site), mode: Some(mode), dest, ..Browser::default() };
            Request { method: Some(method), browser, ..Request::default() }.is_intended_by_user()
        };
        assert!(Request::default().is_intended_by_user());
        for site in [&b"none"[..], b"same-origin"] {
            for (method, mode) in [(&b"POST"[..], &b"cors"[..]), (b"GET", b"navigate")] {
                assert!(asked(method, site, mode));
            }
        }
        for site in [&b"same-site"[..], b"cross-site", b"something"] {
            assert!(asked(b"GET", site, b"navigate"), "a link");
            for (method, mode) in
                [(&b"POST"[..], &b"navigate"[..]), (b"GET", b"no-cors"), (b"POST", b"cors")]
            {
                assert!(!asked(method, site, mode));
            }
        }
    }

    #[test]
    fn s15_a_frame_of_another_origin_is_told_from_a_window_and_from_ones_own_frame() {
        let framed = |site: &'static [u8], dest: &'static [u8]| {
            let (site, dest) = (Some(site), Some(dest));
            let browser = Browser { site, dest, mode: Some(b"navigate"), ..Browser::default() };
            Request { browser, ..Request::default() }.is_framed_by_other_origin()
        };
        for dest in [&b"iframe"[..], b"frame", b"embed", b"object", b"fencedframe"] {
            for site in [&b"same-site"[..], b"cross-site", b"something"] {
                assert!(framed(site, dest));
            }
            for site in [&b"same-origin"[..], b"none", b""] {
                assert!(!framed(site, dest));
            }
        }
        assert!(!framed(b"cross-site", b"document") && !framed(b"cross-site", b"empty"));
    }

    #[test]
    fn q2_a_preflight_is_an_options_request_with_origin_and_method_and_names_only_tokens() {
        let whole = Request {
            method: Some(b"OPTIONS"),
            browser: Browser { origin: Some(b"https://a.test"), ..Browser::default() },
            asked_for: AskedFor { method: Some(b"PUT"), headers: Some(b"content-type, x-a") },
            ..Request::default()
        };
        let found = whole.preflight().unwrap();
        assert_eq!((found.origin, found.method), (&b"https://a.test"[..], &b"PUT"[..]));
        assert_eq!(found.headers, Some(&b"content-type, x-a"[..]));
        let none: [fn(&mut Request<'_>); 10] = [
            |r| r.method = Some(b"GET"),
            |r| r.method = Some(b"options"),
            |r| r.method = None,
            |r| r.browser.origin = None,
            |r| r.browser.origin = Some(b""),
            |r| r.asked_for.method = None,
            |r| r.asked_for.method = Some(b"PUT\r\nX: y"),
            |r| r.asked_for.method = Some(b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
            |r| r.browser.upgrade = Some(b"websocket"),
            |r| r.is_stream = true,
        ];
        for (number, change) in none.into_iter().enumerate() {
            let mut request = whole;
            change(&mut request);
            assert_eq!(request.preflight(), None, "{number}");
        }
        let long = [b'a'; MAX_HEADERS + 1];
        for headers in [&b"a\r\nb"[..], b"a b", b"a,,b", b"\xff", b"a\0", b"", b"a:1", &long] {
            let asked_for = AskedFor { headers: Some(headers), ..whole.asked_for };
            let request = Request { asked_for, ..whole };
            assert_eq!(request.preflight().unwrap().headers, None, "{}", headers.escape_ascii());
        }
    }

    #[test]
    fn q3_only_parts_of_a_page_of_the_same_site_are_told_by_their_referer() {
        let part = |method: &'static [u8], site: &'static [u8], mode: &'static [u8]| {
            let browser = Browser { site: Some(site), mode: Some(mode), ..Browser::default() };
            Request { method: Some(method), browser, ..Request::default() }.is_part_of_page()
        };
        assert!(part(b"GET", b"same-site", b"no-cors") && part(b"HEAD", b"same-site", b"no-cors"));
        for (method, site, mode) in [
            (&b"POST"[..], &b"same-site"[..], &b"no-cors"[..]),
            (b"GET", b"cross-site", b"no-cors"),
            (b"GET", b"same-site", b"cors"),
            (b"GET", b"same-site", b"navigate"),
            (b"GET", b"same-site", b"websocket"),
            (b"GET", b"", b"no-cors"),
        ] {
            assert!(!part(method, site, mode), "{}", mode.escape_ascii());
        }
        assert!(!Request::default().is_part_of_page());
    }

    #[test]
    fn a_person_who_opens_a_page_is_told_from_programs_and_scripts() {
        let request = |change: fn(&mut Request<'_>)| {
            let mut request = Request { method: Some(b"GET"), ..Request::default() };
            request.browser.accept = Some(b"text/html,application/xhtml+xml,*/*;q=0.8");
            change(&mut request);
            request.navigates()
        };
        assert!(request(|_| ()));
        assert!(request(|r| r.method = Some(b"HEAD")));
        assert!(request(|r| {
            r.browser = Browser { mode: Some(b"navigate"), dest: Some(b"document"), ..r.browser };
        }));
        assert!(request(|r| {
            r.browser = Browser { mode: Some(b"navigate"), dest: Some(b"empty"), ..r.browser };
        }));
        let programs: [fn(&mut Request<'_>); 12] = [
            |r| r.method = Some(b"POST"),
            |r| r.method = None,
            |r| r.browser.upgrade = Some(b"websocket"),
            |r| r.browser.mode = Some(b"cors"),
            |r| r.browser.mode = Some(b"websocket"),
            |r| r.browser = Browser { mode: Some(b"navigate"), dest: Some(b"image"), ..r.browser },
            |r| r.browser.requested_with = Some(b"XMLHttpRequest"),
            |r| r.authorization = Some(b"Basic x"),
            |r| r.token = Some(b"x"),
            |r| r.browser.accept = None,
            |r| r.browser.accept = Some(b"*/*"),
            |r| r.browser.accept = Some(b"application/json, text/html;q=0.5"),
        ];
        for (number, change) in programs.into_iter().enumerate() {
            assert!(!request(change), "{number}");
        }
    }
}
