//! The pages that people see: plain HTML without scripts, light and dark, in the operator's words.
//!
//! [`texts`] has what they say; their look is `haproxy/pages/style.css`, which HAProxy's own page shares.

use std::{fmt::Write as _, io, path::Path};

use axum::{
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, REFRESH,
            RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
        },
    },
    response::{IntoResponse, Response},
};
use thiserror::Error;

use crate::{authz::reason::Reason, diagnostics::Mistakes, sessions::flow::PATHS};

pub mod texts;

use std::path::PathBuf;
use texts::{Text, Texts};

/// The style of all pages.
const STYLE: &str = include_str!("../../haproxy/pages/style.css");
/// Nothing but our own style and logo, in no frame (RFC 9700 section 4.16). Signing out leads on to the
/// provider, wherever it is.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self' https:; base-uri 'none'; frame-ancestors 'none'";
/// An image that is opened by itself runs nothing.
const LOGO_POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; sandbox; frame-ancestors 'none'";
/// The largest logo, in bytes.
const MAX_LOGO: u64 = 256 * 1024;

/// The pages, as the operator wants them.
pub struct Pages {
    about: PageSettings,
    texts: Texts,
    logo: Option<Logo>,
    /// What people call the issuers at which they sign in, by their configured names.
    labels: Vec<(Box<str>, Box<str>)>,
}

struct Logo {
    kind: &'static str,
    bytes: Vec<u8>,
}

/// Why there are no such pages.
#[derive(Debug, Error)]
pub enum PagesError {
    /// The logo cannot be read.
    #[error("the logo_file cannot be read: {0}")]
    Logo(#[from] io::Error),
    /// The logo is something else.
    #[error("the logo_file is neither a PNG nor an SVG: expected .png or .svg, and such a file")]
    LogoKind,
    /// Everybody would have to load it.
    #[error("the logo_file is larger than {} KiB", MAX_LOGO / 1024)]
    LogoSize,
    /// What is wrong in the file of texts.
    #[error("{0}")]
    Texts(#[from] Mistakes),
}

/// Somebody who may not go on, or not now.
pub(crate) struct Refused<'a> {
    pub(crate) reason: Reason,
    pub(crate) decision: &'a str,
    /// Who, if that is known.
    pub(crate) user: Option<&'a str>,
    /// The workspace's host.
    pub(crate) host: &'a str,
    pub(crate) owner: Option<&'a str>,
    /// Where to sign in as somebody else.
    pub(crate) switch: &'a str,
    pub(crate) sign_out: &'a str,
}

/// A session's cookie on its way to a workspace's host.
pub(crate) struct HandOver<'a> {
    /// The workspace's host.
    pub(crate) host: &'a str,
    /// Its origin.
    pub(crate) origin: &'a str,
    /// The address that takes the ticket, with the ticket.
    pub(crate) ticket: &'a str,
    /// Where the browser goes on once that is loaded.
    pub(crate) next: &'a str,
}

/// A page that is being written.
struct Page<'a> {
    pages: &'a Pages,
    status: StatusCode,
    title: String,
    /// What stands in `<main>` below the title, as HTML.
    body: String,
    actions: String,
    facts: String,
    has_form: bool,
}

impl Pages {
    /// Reads what the operator's pages are made of. `labels` are what people call the
    /// issuers at which they sign in.
    ///
    /// # Errors
    /// See [`PagesError`].
    pub fn load(
        about: PageSettings,
        labels: Vec<(Box<str>, Box<str>)>,
    ) -> Result<Self, PagesError> {
        let texts = about.texts.as_deref().map(Texts::load).transpose()?.unwrap_or_default();
        let logo = about.logo.as_deref().map(Logo::load).transpose()?;
        Ok(Self { about, texts, logo, labels })
    }

    fn say(&self, text: Text, values: &[(&str, &str)]) -> String {
        self.texts.say(text, values)
    }

    fn page(
        &self,
        status: StatusCode,
        title: Text,
        text: Text,
        values: &[(&str, &str)],
    ) -> Page<'_> {
        let title = self.say(title, values);
        let (body, actions, facts) = <(String, String, String)>::default();
        let mut page = Page { pages: self, status, title, body, actions, facts, has_form: false };
        page.text(text, values);
        page
    }

    fn label<'a>(&'a self, issuer: &'a str) -> &'a str {
        let known = self.labels.iter().find(|(name, _)| **name == *issuer);
        known.map_or(issuer, |(_, label)| label)
    }

    /// What a person is called: where there are several issuers, there may be two of a name.
    pub(crate) fn person(&self, user: &str, issuer: Option<&str>) -> String {
        match issuer {
            Some(issuer) if self.labels.len() > 1 => {
                let provider = self.label(issuer);
                self.say(Text::UserOf, &[("user", user), ("provider", provider)])
            }
            _ => user.to_owned(),
        }
    }

    /// To choose an issuer from: each with its address. `host` is where the person wants to go.
    pub(crate) fn choose(&self, host: Option<&str>, issuers: &[(String, &str)]) -> Response {
        let text = host.map_or(Text::ChooseText, |_| Text::ChooseFor);
        let values = [("host", host.unwrap_or_default())];
        let mut page = self.page(StatusCode::OK, Text::ChooseTitle, text, &values);
        for (address, issuer) in issuers {
            page.link(address, Text::ChooseLink, &[("provider", self.label(issuer))], true);
        }
        page.into_response()
    }

    /// The login host itself, for somebody who is signed in.
    pub(crate) fn home(&self, user: &str) -> Response {
        let values = [("user", user)];
        let mut page = self.page(StatusCode::OK, Text::HomeTitle, Text::HomeText, &values);
        page.form(&format!("{PATHS}sign-out"), Text::SignOut);
        page.link(&format!("{PATHS}start?ask=1"), Text::Switch, &[], false);
        page.into_response()
    }

    pub(crate) fn ask_sign_out(&self) -> Response {
        let mut page = self.page(StatusCode::OK, Text::SignOutTitle, Text::SignOutText, &[]);
        page.form(&format!("{PATHS}sign-out"), Text::SignOut);
        page.into_response()
    }

    /// `login` is the login host's own page.
    pub(crate) fn signed_out(&self, login: &str) -> Response {
        let mut page = self.page(StatusCode::OK, Text::SignedOutTitle, Text::SignedOutText, &[]);
        page.link(login, Text::SignInAgain, &[], true);
        page.into_response()
    }

    /// Tells a person why they cannot go on, and what they can do.
    pub(crate) fn refused(&self, refused: &Refused<'_>) -> Response {
        let Refused { reason, decision, user, host, owner, switch, sign_out } = *refused;
        let owner = owner.filter(|owner| self.about.show_owner && !owner.is_empty());
        let (title, why) = Text::of(reason);
        let status = StatusCode::from_u16(reason.status()).ok();
        let status = status.filter(|status| !status.is_success());
        let status = match status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE) {
            // There is no challenge to answer: who it is, is known.
            StatusCode::UNAUTHORIZED => StatusCode::FORBIDDEN,
            status => status,
        };
        let values = [("user", user.unwrap_or_default()), ("host", host)];
        let mut page = self.page(status, title, why, &values);
        match reason {
            Reason::NotPermitted | Reason::GroupsOverage => match owner {
                Some(owner) => page.text(Text::AskNamedOwner, &[("owner", owner)]),
                None => page.text(Text::AskOwner, &[]),
            },
            Reason::OriginForeign => {}
            _ if status == StatusCode::FORBIDDEN => page.text(Text::AskAdministrator, &[]),
            _ => {}
        }
        let is_about_them = status == StatusCode::FORBIDDEN && reason != Reason::OriginForeign;
        if is_about_them {
            page.link(switch, Text::Switch, &[], true);
            if user.is_some() {
                page.link(sign_out, Text::SignOut, &[], false);
            }
        } else if reason != Reason::HostUnmatched {
            // The address of the page itself.
            page.link("", Text::TryAgain, &[], true);
            if user.is_some() && status == StatusCode::NOT_FOUND {
                page.link(switch, Text::Switch, &[], false);
            }
        }
        if let Some(user) = user {
            page.fact(Text::FactUser, user, None);
        }
        page.fact(Text::FactHost, host, None);
        if let Some(owner) = owner.filter(|_| is_about_them) {
            page.fact(Text::FactOwner, owner, None);
        }
        page.fact(Text::FactReason, reason.id(), Some("reason"));
        page.fact(Text::FactDecision, decision, Some("decision"));
        let mut response = page.into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }

    /// Delivers a ticket and goes on. The ticket is the address of an image: the one kind of request that works
    /// without scripts, carries the cookies of the workspace's host and is seen by none of its pages and service
    /// workers. The browser goes on when the page and its images are loaded (HTML section 4.2.5.3).
    pub(crate) fn hand_over(&self, hand_over: &HandOver<'_>) -> Response {
        let HandOver { host, origin, ticket, next } = *hand_over;
        let values = [("host", host)];
        let mut page = self.page(StatusCode::OK, Text::HandOverTitle, Text::HandOverText, &values);
        let address = escape(ticket);
        let _ = writeln!(
            page.body,
            "<img src=\"{address}\" crossorigin=\"use-credentials\" alt=\"\" hidden>"
        );
        page.link(next, Text::Continue, &[], true);
        let mut response = page.into_response();
        let policy = POLICY.replace("img-src 'self'", &format!("img-src 'self' {origin}"));
        let refresh = HeaderValue::try_from(format!("0; url={next}"));
        let (Ok(policy), Ok(refresh)) = (HeaderValue::try_from(policy), refresh) else {
            return self.unavailable();
        };
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
        response.headers_mut().insert(REFRESH, refresh);
        response
    }

    /// The way to the workspace was used, or took too long; it begins again at `again`.
    pub(crate) fn late(&self, again: &str) -> Response {
        let mut page = self.page(StatusCode::BAD_REQUEST, Text::LateTitle, Text::LateText, &[]);
        page.link(again, Text::TryAgain, &[], true);
        page.into_response()
    }

    /// An answer that belongs to no attempt. It never leads on by itself, so that nothing can go round in
    /// circles.
    pub(crate) fn failed(&self) -> Response {
        self.page(StatusCode::BAD_REQUEST, Text::FailedTitle, Text::FailedText, &[]).into_response()
    }

    /// An issuer signed nobody in, or (`verified`) what it says cannot be believed.
    pub(crate) fn not_signed_in(&self, issuer: &str, verified: bool, again: &str) -> Response {
        let text = if verified { Text::RefusedText } else { Text::UnverifiedText };
        let values = [("provider", self.label(issuer))];
        let mut page = self.page(StatusCode::BAD_REQUEST, Text::FailedTitle, text, &values);
        page.link(again, Text::TryAgain, &[], true);
        page.into_response()
    }

    /// Nobody can tell at the moment; opening the same page again may help.
    pub(crate) fn unavailable(&self) -> Response {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let mut page = self.page(status, Text::UnavailableTitle, Text::UnavailableText, &[]);
        page.link("", Text::TryAgain, &[], true);
        page.into_response()
    }

    pub(crate) fn nothing(&self) -> Response {
        self.page(StatusCode::NOT_FOUND, Text::NothingTitle, Text::NothingText, &[]).into_response()
    }

    /// The operator's logo.
    pub(crate) fn logo(&self) -> Option<Response> {
        let Logo { kind, bytes } = self.logo.as_ref()?;
        let mut response = bytes.clone().into_response();
        let headers = response.headers_mut();
        protect(headers);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=3600"));
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(LOGO_POLICY));
        Some(response)
    }
}

impl Logo {
    fn load(path: &Path) -> Result<Self, PagesError> {
        if std::fs::metadata(path)?.len() > MAX_LOGO {
            return Err(PagesError::LogoSize);
        }
        let bytes = std::fs::read(path)?;
        let kind = match path.extension().and_then(|extension| extension.to_str()) {
            Some("png") if bytes.starts_with(b"\x89PNG\r\n\x1a\n") => "image/png",
            Some("svg") if std::str::from_utf8(&bytes).is_ok_and(|text| text.contains("<svg")) => {
                "image/svg+xml"
            }
            _ => return Err(PagesError::LogoKind),
        };
        Ok(Self { kind, bytes })
    }
}

// Writing to a String cannot fail.
impl Page<'_> {
    fn text(&mut self, text: Text, values: &[(&str, &str)]) {
        let _ = writeln!(self.body, "<p>{}</p>", escape(&self.pages.say(text, values)));
    }

    fn link(&mut self, address: &str, text: Text, values: &[(&str, &str)], first: bool) {
        let says = escape(&self.pages.say(text, values));
        let class = if first { "button" } else { "button second" };
        let address = escape(address);
        let _ = writeln!(self.actions, "<a class=\"{class}\" href=\"{address}\">{says}</a>");
    }

    fn form(&mut self, address: &str, text: Text) {
        self.has_form = true;
        let (address, says) = (escape(address), escape(&self.pages.say(text, &[])));
        let _ = writeln!(
            self.actions,
            "<form method=\"post\" action=\"{address}\"><button class=\"button\">{says}</button></form>"
        );
    }

    /// With `code`, something to copy for whoever looks into it.
    fn fact(&mut self, text: Text, value: &str, code: Option<&str>) {
        let (name, value) = (escape(&self.pages.say(text, &[])), escape(value));
        let _ = match code {
            Some(class) => {
                writeln!(
                    self.facts,
                    "<dt>{name}</dt><dd><code class=\"{class}\">{value}</code></dd>"
                )
            }
            None => writeln!(self.facts, "<dt>{name}</dt><dd>{value}</dd>"),
        };
    }
}

impl IntoResponse for Page<'_> {
    fn into_response(self) -> Response {
        let Self { pages, status, title, body, actions, facts, has_form } = self;
        let PageSettings { title: brand, language, help_text, contact, .. } = &pages.about;
        let (title, language) = (escape(&title), escape(language));
        let brand = brand.as_deref().map(escape);
        let mut html = format!(
            "<!doctype html>\n<html lang=\"{language}\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"robots\" content=\"noindex\">\n<title>{title}{}</title>\n\
             <link rel=\"stylesheet\" href=\"{PATHS}style.css\">\n",
            brand.as_ref().map(|brand| format!(" · {brand}")).unwrap_or_default(),
        );
        if pages.logo.is_some() {
            let _ = writeln!(html, "<link rel=\"icon\" href=\"{PATHS}logo\">");
        }
        html.push_str("</head>\n<body>\n<main>\n");
        if pages.logo.is_some() || brand.is_some() {
            html.push_str("<p class=\"brand\">");
            if pages.logo.is_some() {
                // Its name stands beside it, if it has one.
                let _ = write!(html, "<img src=\"{PATHS}logo\" alt=\"\">");
            }
            let _ = writeln!(html, "{}</p>", brand.unwrap_or_default());
        }
        let _ = write!(html, "<h1>{title}</h1>\n{body}");
        if !actions.is_empty() {
            let _ = write!(html, "<div class=\"actions\">\n{actions}</div>\n");
        }
        if !facts.is_empty() {
            let _ = write!(html, "<dl>\n{facts}</dl>\n");
        }
        if help_text.is_some() || contact.is_some() {
            html.push_str("<footer>");
            if let Some(help) = help_text {
                let _ = write!(html, "<p>{}</p>", escape(help));
            }
            if let Some(contact) = contact {
                let (address, says) = (escape(contact), escape(&pages.say(Text::Contact, &[])));
                let _ = write!(html, "<p><a href=\"{address}\">{says}</a></p>");
            }
            html.push_str("</footer>\n");
        }
        html.push_str("</main>\n</body>\n</html>\n");
        let mut response = (status, html).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        protect(headers);
        if has_form {
            // Else browsers would not say that it is ours (Fetch section 3.1.1).
            headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
        }
        response
    }
}

/// The style, where HAProxy does not serve it itself.
pub(crate) fn style() -> Response {
    let mut response = STYLE.into_response();
    protect(response.headers_mut());
    let kind = HeaderValue::from_static("text/css; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// What every answer of ours says: it is not stored or framed, and the next page does not learn its address
/// (RFC 9700 sections 4.2 and 4.16). A page that opened it in a window of its own loses hold of the window (HTML
/// section 7.1.3), and other origins cannot load it as a part of theirs (Fetch section 3.7).
pub(crate) fn protect(headers: &mut HeaderMap) {
    for (name, value) in [
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// Text as part of HTML, in an attribute or outside.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

impl Default for PageSettings {
    fn default() -> Self {
        Self {
            title: None,
            language: "en".into(),
            logo: None,
            help_text: None,
            contact: None,
            texts: None,
            show_owner: false,
        }
    }
}

#[cfg(test)]
mod tests;

/// What the pages of sign-in show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageSettings {
    /// Whose workspaces they are, above everything else.
    pub title: Option<Box<str>>,
    /// The language of the texts (RFC 5646).
    pub language: Box<str>,
    /// An image, PNG or SVG.
    pub logo: Option<PathBuf>,
    /// What stands below everything else.
    pub help_text: Option<Box<str>>,
    /// Where people get help: an address of `mailto:` or `https:`.
    pub contact: Option<Box<str>>,
    /// The operator's own texts.
    pub texts: Option<PathBuf>,
    /// Whether who is denied is told whose workspace it is.
    pub show_owner: bool,
}
