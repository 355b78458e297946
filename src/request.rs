//! What HAProxy says of one request: the arguments of a NOTIFY message, borrowed.
//!
//! Only reads: bytes stay bytes, nothing is decoded, nothing decided.

use std::net::{IpAddr, SocketAddr};

use thiserror::Error;

use crate::spop::Value;

pub mod cookie;
pub mod place;

/// The name of the message for HTTP requests.
pub const AUTHORIZE: &[u8] = b"authorize";
/// The name of the message for TCP streams.
pub const AUTHORIZE_TCP: &[u8] = b"authorize-tcp";

/// One request, as the shipped `identity.spoe.cfg` describes it. Absent and NULL are the same.
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
    /// The last Cookie header.
    pub cookie: Option<&'a [u8]>,
    /// How many Cookie headers there are.
    pub cookies: u64,
    /// The query string; sent only where tokens may be in it.
    pub query: Option<&'a [u8]>,
    /// The last Sec-WebSocket-Protocol header; sent only where tokens may be in it.
    pub protocols: Option<&'a [u8]>,
    /// How many Sec-WebSocket-Protocol headers there are.
    pub protocol_lines: u64,
    /// Whether HAProxy passes the query and the subprotocols at all: without them nobody would see a token
    /// there, and it would travel on.
    pub passes: Passes,
    /// What tells a person's browser from a program.
    pub browser: Browser<'a>,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// The client's certificate, DER. Only one that HAProxy verified is ever here.
    pub certificate: Option<&'a [u8]>,
    /// How many Upgrade headers there are; sent only where tunnels are tracked.
    pub upgrades: u64,
    /// Whether this is a TCP stream.
    pub is_stream: bool,
    /// Where HAProxy has it.
    pub spot: Spot<'a>,
    /// The last traceparent header, where HAProxy passes it: a name for traces, of the client's choice.
    pub traceparent: Option<&'a [u8]>,
    /// What HAProxy says of reuse, where it reuses allows.
    pub reuse: Reuse<'a>,
}

/// What HAProxy says of reuse (docs/reuse.md), where its rules know of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reuse<'a> {
    /// The name of this question, which no other has; without one, the answer cannot be reused.
    pub id: Option<&'a [u8]>,
    /// When it was asked, in milliseconds since the Unix epoch by HAProxy's clock.
    pub now: Option<u64>,
    /// What the process was last told of what ended; nothing, if it was not told yet.
    pub epoch: Option<&'a [u8]>,
    /// How often the last allow of the connection was reused since HAProxy asked.
    pub times: u64,
    /// The id of the decision that was.
    pub last: Option<&'a [u8]>,
}

/// Where HAProxy has a stream, so that it can be found again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spot<'a> {
    /// The frontend.
    pub frontend: Option<&'a [u8]>,
    /// HAProxy's number of the stream (`txn.id32`), which counts from zero in each process.
    pub stream: Option<u32>,
    /// When it began, in microseconds since the Unix epoch by HAProxy's clock.
    pub started: Option<u64>,
    /// The process id of HAProxy, as HAProxy sees it.
    pub process: Option<u32>,
    /// The other end of the client's connection, whatever the rules say the client's address is.
    pub source: Option<IpAddr>,
    /// Its port.
    pub port: Option<u16>,
}

/// Arguments that HAProxy passes only where the operator added them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is an argument of its own")]
pub struct Passes {
    /// `query`.
    pub query: bool,
    /// `protocols` and `protocol_lines`.
    pub protocols: bool,
    /// `origin`, `fetch_site` and the others that tell browsers from programs.
    pub browser: bool,
    /// `frontend`, and for HTTP `upgrades`: what is, and where, a tunnel.
    pub tunnels: bool,
    /// `method`, `path` and `client`, which policies are about.
    pub policies: bool,
}

/// Headers that tell a person who opens a page from a program that fetches something.
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

/// Why a message cannot be read. Its cause is an SPOE configuration other than the shipped one.
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
    /// An argument without which duplicates could not be seen.
    #[error("the argument '{0}' is missing: compare the args line with haproxy/identity.spoe.cfg")]
    Missing(&'static str),
}

/// Without these, a repeated header could not be told from a single one, nor a missing credential
/// from an argument that nobody passed.
const NEEDED: [&str; 5] = ["host", "hosts", "authorization", "authorizations", "cookies"];

impl<'a> Request<'a> {
    /// Reads the arguments of a message. Arguments that are not known are passed over; of two with
    /// one name the last counts, as it would in HAProxy.
    ///
    /// # Errors
    /// An unknown message, an argument of the wrong type, or a missing one that matters.
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
        let mut seen = [false; NEEDED.len()];
        let (mut origin, mut site) = (false, false);
        let (mut method, mut path, mut client) = (false, false, false);
        let mut certificate = Presented::default();
        for (name, value) in args {
            for (seen, needed) in seen.iter_mut().zip(NEEDED) {
                *seen |= needed.as_bytes() == name;
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
                b"cookie" => request.cookie = text(value, "cookie")?,
                b"cookies" => request.cookies = count(value, "cookies")?,
                b"query" => {
                    request.query = text(value, "query")?;
                    request.passes.query = true;
                }
                b"protocols" => request.protocols = text(value, "protocols")?,
                b"protocol_lines" => {
                    request.protocol_lines = count(value, "protocol_lines")?;
                    request.passes.protocols = true;
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
                b"fetch_site" => {
                    request.browser.site = text(value, "fetch_site")?;
                    site = true;
                }
                b"upgrades" => {
                    request.upgrades = count(value, "upgrades")?;
                    request.passes.tunnels = true;
                }
                _ if request.reuse.read(name, value) => {}
                _ if request.spot.read(name, value)? => {}
                _ => certificate.read(name, value)?,
            }
        }
        request.certificate = certificate.verified();
        request.passes.tunnels &= request.spot.frontend.is_some();
        request.passes.browser = origin && site;
        request.passes.policies = method && path && client;
        match seen.iter().zip(NEEDED).find(|(seen, _)| !**seen) {
            Some((_, name)) => Err(RequestError::Missing(name)),
            None => Ok(request),
        }
    }

    fn read_tcp(args: impl Iterator<Item = (&'a [u8], Value<'a>)>) -> Result<Self, RequestError> {
        let mut request = Self::default();
        let mut certificate = Presented::default();
        let mut policies = false;
        for (name, value) in args {
            match name {
                b"unique_id" => request.unique_id = text(value, "unique_id")?,
                b"sni" => request.host = text(value, "sni")?,
                b"client" => {
                    request.client = address(value, "client")?;
                    policies = true;
                }
                _ if request.spot.read(name, value)? => {}
                _ => certificate.read(name, value)?,
            }
        }
        request.certificate = certificate.verified();
        request.is_stream = true;
        // A stream has none of the others.
        let tunnels = request.spot.frontend.is_some();
        request.passes = Passes { query: true, protocols: true, browser: true, tunnels, policies };
        request.hosts = u64::from(request.host.is_some());
        Ok(request)
    }
}

impl Request<'_> {
    /// Whether a person opens a page: somebody who can be sent elsewhere to sign in and come back. A
    /// program, a WebSocket or a script gets an answer instead.
    #[must_use]
    pub fn navigates(&self) -> bool {
        let Browser { mode, dest, accept, upgrade, requested_with, .. } = self.browser;
        let set = |value: Option<&[u8]>| value.is_some_and(|value| !value.is_empty());
        if !matches!(self.method, Some(b"GET" | b"HEAD")) || set(upgrade) {
            return false;
        }
        if let Some(mode) = mode.filter(|mode| !mode.is_empty()) {
            return mode == b"navigate" && dest.is_some_and(is_page);
        }
        let script = requested_with.is_some_and(|by| by.eq_ignore_ascii_case(b"XMLHttpRequest"));
        !script && !set(self.authorization) && accept.is_some_and(prefers_html)
    }
}

impl<'a> Reuse<'a> {
    /// Takes in an argument; returns whether it is one of these. Nobody is refused for what they say: what
    /// cannot be read is not there.
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

impl<'a> Spot<'a> {
    /// The other end of the client's connection, with its port.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.source.zip(self.port).map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port))
    }

    /// Whether its stream can be told from others at all.
    #[must_use]
    pub fn can_be_found(&self) -> bool {
        self.stream.is_some() || self.address().is_some()
    }

    /// Takes in an argument; returns whether it is one of these.
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
    /// Whether the browser does what its user asked for, or a page of this very host: all but a request that
    /// a page elsewhere makes in the user's name, beside opening this one (Fetch Metadata section 2.4).
    /// Where the browser does not say, it is too old to be asked.
    #[must_use]
    pub fn is_asked_for(&self) -> bool {
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

impl Request<'_> {
    /// Whether a page of another origin shows what comes of it as a part of itself.
    #[must_use]
    pub fn is_framed_elsewhere(&self) -> bool {
        let Browser { site, dest, .. } = self.browser;
        let frames = [&b"iframe"[..], b"frame", b"embed", b"object", b"fencedframe"];
        dest.is_some_and(|dest| frames.contains(&dest))
            && !matches!(site, None | Some(b"" | b"none" | b"same-origin"))
    }
}

/// Whether a navigation shows what comes of it to a person. A service worker that passes one on says "empty".
fn is_page(dest: &[u8]) -> bool {
    matches!(dest, b"document" | b"iframe" | b"empty")
}

/// Bytes without the white space around them that headers may have (OWS, RFC 9110 section 5.6.3): space and tab.
fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// Whether HTML is asked for, and nothing rather than it (RFC 9110 section 12.5.1).
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

/// A client certificate and what HAProxy found when it verified it.
#[derive(Default)]
struct Presented<'a> {
    der: Option<&'a [u8]>,
    result: Option<u64>,
}

impl<'a> Presented<'a> {
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

    /// HAProxy may be told to let certificates pass that it could not verify; then the result is not 0
    /// (X509_V_OK). Without a result nobody knows.
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

/// A number that may be absent.
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
    fn what_a_page_elsewhere_does_is_told_from_what_a_person_does() {
        let asked = |method: &'static [u8], site: &'static [u8], mode: &'static [u8]| {
            let dest = Some(if mode == b"navigate" { &b"document"[..] } else { b"empty" });
            let browser =
                Browser { site: Some(site), mode: Some(mode), dest, ..Browser::default() };
            Request { method: Some(method), browser, ..Request::default() }.is_asked_for()
        };
        assert!(Request::default().is_asked_for());
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
            Request { browser, ..Request::default() }.is_framed_elsewhere()
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
        let programs: [fn(&mut Request<'_>); 11] = [
            |r| r.method = Some(b"POST"),
            |r| r.method = None,
            |r| r.browser.upgrade = Some(b"websocket"),
            |r| r.browser.mode = Some(b"cors"),
            |r| r.browser.mode = Some(b"websocket"),
            |r| r.browser = Browser { mode: Some(b"navigate"), dest: Some(b"image"), ..r.browser },
            |r| r.browser.requested_with = Some(b"XMLHttpRequest"),
            |r| r.authorization = Some(b"Basic x"),
            |r| r.browser.accept = None,
            |r| r.browser.accept = Some(b"*/*"),
            |r| r.browser.accept = Some(b"application/json, text/html;q=0.5"),
        ];
        for (number, change) in programs.into_iter().enumerate() {
            assert!(!request(change), "{number}");
        }
    }
}
