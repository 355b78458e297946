//! What the headers of a browser say about a request: whether a person opened a page, which page made the request, and
//! what a CORS preflight asks for.
//!
//! Browsers set these headers themselves, and pages cannot change them; programs can send what they like. So they
//! only ever narrow what a credential that a browser attaches by itself is good for.

use super::{Request, trim};

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
pub(super) const MAX_HEADERS: usize = 1024;

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
