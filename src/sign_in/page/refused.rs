//! The page of a refusal: why a person cannot open a workspace, and what they can do.
//!
//! What the page may offer depends on how the browser came to it ([`PageLoad`]). A window gets links. A page in a frame
//! cannot sign a person in, so it has one link, which opens a window, and any page may show it: it says nothing about the
//! person. A page that answers a form has no link that leads away in its window, because reloading the page sends the
//! form again.

use axum::{
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{CONTENT_SECURITY_POLICY, WWW_AUTHENTICATE},
    },
    response::{IntoResponse as _, Response},
};

use super::{FRAMED_POLICY, Look, Page, Pages, Tab, texts::Text};
use crate::authz::reason::Reason;

/// A decision against a person, for [`Pages::refused`].
pub(crate) struct Refused<'a> {
    pub(crate) reason: Reason,
    pub(crate) decision: &'a str,
    /// The person, if known.
    pub(crate) user: Option<&'a str>,
    /// The workspace's host.
    pub(crate) host: &'a str,
    pub(crate) owner: Option<&'a str>,
    /// The address at which another person can sign in.
    pub(crate) switch: &'a str,
    pub(crate) sign_out: &'a str,
    pub(crate) load: PageLoad,
    /// The origin of the workspace's host.
    pub(crate) origin: &'a str,
    /// The path and query of the page that the person wanted.
    pub(crate) path: &'a str,
}

/// How a browser came to a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageLoad {
    /// It opened an address in a window.
    Opened,
    /// It sent a form.
    Submitted,
    /// It shows the page in a frame of another page.
    Framed,
}

impl Pages {
    /// Says why a person cannot open a workspace, and what they can do.
    pub(crate) fn refused(&self, refused: &Refused<'_>) -> Response {
        match refused.load {
            PageLoad::Opened => self.refused_in_window(refused),
            PageLoad::Submitted => self.refused_form(refused),
            PageLoad::Framed => self.refused_in_frame(refused),
        }
    }

    fn refused_in_window(&self, refused: &Refused<'_>) -> Response {
        let Refused { reason, user, host, owner, switch, sign_out, .. } = *refused;
        let owner = owner.filter(|owner| self.settings.show_owner && !owner.is_empty());
        let status = match status(reason) {
            // The browser has no challenge to answer: the person is known, and is refused.
            StatusCode::UNAUTHORIZED => StatusCode::FORBIDDEN,
            status => status,
        };
        let mut page = self.why(refused, status);
        match reason {
            Reason::NotPermitted | Reason::GroupsOverage => match owner {
                Some(owner) => page.text(Text::AskNamedOwner, &[("owner", owner)]),
                None => page.text(Text::AskOwner, &[]),
            },
            Reason::OriginForeign => {}
            _ if status == StatusCode::FORBIDDEN => page.text(Text::AskAdministrator, &[]),
            _ => {}
        }
        let is_about_person = is_about_person(reason, status);
        if is_about_person {
            page.link(switch, Text::Switch, &[], Look::Main);
            if user.is_some() {
                page.link(sign_out, Text::SignOut, &[], Look::Other);
            }
        } else if reason != Reason::HostUnmatched {
            page.try_again();
            if user.is_some() && status == StatusCode::NOT_FOUND {
                page.link(switch, Text::Switch, &[], Look::Other);
            }
        }
        if let Some(user) = user {
            page.fact(Text::FactUser, user, None);
        }
        page.fact(Text::FactHost, host, None);
        if let Some(owner) = owner.filter(|_| is_about_person) {
            page.fact(Text::FactOwner, owner, None);
        }
        page.identified(refused)
    }

    /// The page after a form was sent. Its content is still in the browser, and a reload sends it again.
    fn refused_form(&self, refused: &Refused<'_>) -> Response {
        let Refused { reason, user, host, switch, origin, .. } = *refused;
        let status = status(reason);
        if status == StatusCode::UNAUTHORIZED {
            let mut page = self.page(status, Text::UnsentTitle, Text::UnsentSignIn, &[]);
            page.link_in(Tab::New, &format!("{origin}/"), Text::SignInTab);
            page.fact(Text::FactHost, host, None);
            return challenged(page.identified(refused));
        }
        let mut page = self.why(refused, status);
        if is_about_person(reason, status) {
            page.text(Text::Unsent, &[]);
            page.link_in(Tab::New, switch, Text::Switch);
        } else if reason == Reason::OriginForeign {
            page.text(Text::Unsent, &[]);
        } else {
            page.text(Text::UnsentReload, &[]);
        }
        if let Some(user) = user {
            page.fact(Text::FactUser, user, None);
        }
        page.fact(Text::FactHost, host, None);
        page.identified(refused)
    }

    /// The page in a frame: it does not name the person, and its one link opens a window.
    fn refused_in_frame(&self, refused: &Refused<'_>) -> Response {
        let Refused { reason, origin, path, .. } = *refused;
        let status = status(reason);
        let address = format!("{origin}{path}");
        let mut page = if status == StatusCode::UNAUTHORIZED {
            self.page(status, Text::FrameTitle, Text::FrameSignIn, &[])
        } else {
            self.why(refused, status)
        };
        page.link_in(Tab::New, &address, Text::OpenInTab);
        // A frame may be forbidden to open windows: then the address can be copied.
        page.fact(Text::FactAddress, &address, Some("address"));
        let mut response = page.identified(refused);
        show_in_frames(response.headers_mut());
        if status == StatusCode::UNAUTHORIZED { challenged(response) } else { response }
    }

    /// A page with the title and the text of a reason.
    fn why(&self, refused: &Refused<'_>, status: StatusCode) -> Page<'_> {
        let (title, why) = Text::for_reason(refused.reason);
        let values = [("user", refused.user.unwrap_or_default()), ("host", refused.host)];
        self.page(status, title, why, &values)
    }
}

impl Page<'_> {
    /// The page with what identifies the decision.
    fn identified(mut self, refused: &Refused<'_>) -> Response {
        self.fact(Text::FactReason, refused.reason.id(), Some("reason"));
        self.fact(Text::FactDecision, refused.decision, Some("decision"));
        self.into_response()
    }
}

/// The status of the page of a reason; never a success.
fn status(reason: Reason) -> StatusCode {
    let status = StatusCode::from_u16(reason.status()).ok();
    status.filter(|status| !status.is_success()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
}

/// Whether another person would get another answer. A foreign origin is refused to everyone.
fn is_about_person(reason: Reason, status: StatusCode) -> bool {
    status == StatusCode::FORBIDDEN && reason != Reason::OriginForeign
}

/// The response with the challenge that belongs to its status (RFC 9110 section 15.5.2).
fn challenged(mut response: Response) -> Response {
    let challenge = HeaderValue::from_static("Bearer realm=\"workspaces\"");
    response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    response
}

/// Lets any page show a response in a frame, also one that demands it of everything that it loads
/// (`Cross-Origin-Embedder-Policy: require-corp`, HTML section 7.1.4).
fn show_in_frames(headers: &mut HeaderMap) {
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, FRAMED_POLICY),
        (HeaderName::from_static("cross-origin-resource-policy"), "cross-origin"),
        (HeaderName::from_static("cross-origin-embedder-policy"), "require-corp"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}
