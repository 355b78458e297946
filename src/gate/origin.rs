//! Decides which pages may use the credentials that a browser adds by itself.
//!
//! Cookies and client certificates come with every request that a page makes, also with those of
//! another workspace's page, whose code may be hostile. SameSite does not prevent this, since
//! workspaces are hosts of one site. So such a request counts only if its page may use the endpoint
//! (by default those of the same workspace), or if it only opens a page.

use super::{Check, Gate};
use crate::{
    authz::{decision::HostMatch, limits::Framing},
    request::Request,
    workspaces::{
        host::Host,
        pattern::{PatternMatch, Scratch},
    },
};

/// Which clients can have a credential that is added automatically.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CredentialHolder {
    /// Only browsers: the cookie of a session.
    Browser,
    /// Programs too: a certificate, or a token in a cookie.
    AnyClient,
}

impl Gate {
    /// Whether a request comes from a page that must not use the credential.
    ///
    /// The page may be of the same host, or of an origin that may use the endpoint: by default another
    /// endpoint of the same workspace. This holds for WebSockets too, which browsers do not protect by
    /// CORS (RFC 6455 section 10.2). They must name their origin if only browsers have the credential.
    /// A request that opens a page, or a frame where the policy allows it, may come from anywhere.
    pub(super) fn is_foreign(
        &self,
        check: &Check<'_>,
        holder: CredentialHolder,
        scratch: &mut Scratch,
    ) -> bool {
        let HostMatch::Matched(host, target) = &check.host else { return true };
        let request = check.request;
        let origin = request.origin();
        if origin.is_some_and(|origin| self.is_origin(origin, host, request)) {
            return false;
        }
        if request.browser.upgrade.is_some_and(|upgrade| !upgrade.is_empty()) {
            return match origin {
                Some(origin) => !self.may_use(origin, check, scratch),
                None => holder == CredentialHolder::Browser,
            };
        }
        if request.is_framed_by_other_origin() && !self.may_frame(request, target, scratch) {
            return true;
        }
        // Browsers without Fetch Metadata still send Origin with most requests from other pages.
        let said = request.browser.site.is_some_and(|site| !site.is_empty());
        if request.is_intended_by_user() && (said || origin.is_none()) {
            return false;
        }
        let page = match origin {
            Some(origin) => Some(origin),
            // Browsers name the page of an image or a script in Referer only. The page can suppress the header but
            // not change it; a page of the very host is of the same origin, which the browser would have said.
            None if request.is_part_of_page() => request
                .browser
                .referer
                .and_then(origin_of)
                .filter(|page| !self.is_origin(page, host, request)),
            None => None,
        };
        page.is_none_or(|page| !self.may_use(page, check, scratch))
    }

    /// Whether the page that shows the workspace in a frame may do so by `[policy] framing`.
    /// Browsers name the page in Referer. A page can suppress the header but not change it.
    fn may_frame(
        &self,
        request: &Request<'_>,
        target: &PatternMatch,
        scratch: &mut Scratch,
    ) -> bool {
        match self.limits.framing {
            Framing::Any => true,
            Framing::Site => request.browser.site == Some(b"same-site"),
            Framing::Workspace => {
                let from = request.browser.referer.and_then(origin_of);
                from.is_some_and(|from| self.is_of_workspace(from, target, request, scratch))
            }
        }
    }

    /// Whether an origin is another host of the same workspace.
    pub(super) fn is_sibling(
        &self,
        origin: &[u8],
        host: &Host,
        target: &PatternMatch,
        request: &Request<'_>,
        scratch: &mut Scratch,
    ) -> bool {
        !self.is_origin(origin, host, request)
            && self.is_of_workspace(origin, target, request, scratch)
    }

    /// Whether an origin is a host of the same workspace.
    fn is_of_workspace(
        &self,
        origin: &[u8],
        target: &PatternMatch,
        request: &Request<'_>,
        scratch: &mut Scratch,
    ) -> bool {
        let from = authority_of(origin).and_then(|authority| Host::parse(authority).ok());
        let from = from.filter(|from| self.is_origin(origin, from, request));
        let from = from.and_then(|from| self.patterns.resolve(&from, scratch));
        from.is_some_and(|from| from.workspace == target.workspace && from.source == target.source)
    }

    /// Whether an origin is this host, at the port where people reach the gate. With sign-in that
    /// is the configured port, else the port of the request.
    ///
    /// Without sign-in the origin may be plain http, unless the browser calls it another site. With
    /// a request by https, browsers do so for an origin of http (Fetch Metadata sections 2.3 and
    /// 3.1).
    fn is_origin(&self, origin: &[u8], host: &Host, request: &Request<'_>) -> bool {
        if let Some(sign_in) = &self.browser {
            return origin == sign_in.urls.origin(host.as_str()).as_bytes();
        }
        let site = request.browser.site;
        let may_be_plain = matches!(site, None | Some(b"" | b"same-origin" | b"same-site"));
        if !may_be_plain && !origin.starts_with(b"https://") {
            return false;
        }
        let port = |authority: &[u8]| authority.split(|b| *b == b':').nth(1).map(<[u8]>::to_vec);
        authority_of(origin).is_some_and(|authority| {
            Host::parse(authority).is_ok_and(|from| from == *host)
                && port(authority) == request.host.and_then(port)
        })
    }
}

/// The host and port of an origin (RFC 6454 section 6.2).
fn authority_of(origin: &[u8]) -> Option<&[u8]> {
    origin.strip_prefix(b"https://").or_else(|| origin.strip_prefix(b"http://"))
}

/// The origin of a URL.
fn origin_of(address: &[u8]) -> Option<&[u8]> {
    let start = address.len().checked_sub(authority_of(address)?.len())?;
    let rest = address.get(start..)?;
    let end = rest.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(rest.len());
    address.get(..start.checked_add(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s15_an_origin_is_scheme_host_and_port_of_an_address() {
        for (address, origin) in [
            (&b"https://a.test/x?y"[..], Some(&b"https://a.test"[..])),
            (b"http://a.test:81", Some(b"http://a.test:81")),
            (b"https://a.test?https://b.test/", Some(b"https://a.test")),
            (b"https://a.test#/", Some(b"https://a.test")),
            (b"https://b.test@a.test/", Some(b"https://b.test@a.test")),
            (b"https://", Some(b"https://")),
            (b"ftp://a.test/", None),
            (b"/x", None),
            (b"", None),
        ] {
            assert_eq!(origin_of(address), origin, "{}", address.escape_ascii());
        }
    }
}
