//! The pages that people see during a sign-in or when they are denied: what each says, and its HTML.
//!
//! [`super::web`] asks for a page by what happened ([`Pages::unavailable`] and others; [`refused`] has those of a denial). The
//! markup is one template, `page.html`, written by askama, which escapes every value: a value from a request, a
//! provider or the operator is always text. [`texts`] has the words, which an operator may replace; [`logo`] serves the
//! operator's image. The look is `haproxy/pages/style.css`, which HAProxy's own page shares.
//!
//! Pages are plain HTML without scripts. Invariants: every response is protected by [`protect`]; every page with status
//! 503 says what is unavailable and shows an id that is in the audit log or in the agent's log.

use std::{io, path::PathBuf};

use askama::Template;
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

use crate::{diagnostics::Mistakes, sessions::flow::PATHS};

pub mod escape;
pub mod logo;
mod refused;
pub mod texts;

use logo::Logo;
pub(crate) use refused::{PageLoad, Refused};
use texts::{Text, Texts};

/// The style of all pages.
const STYLE: &str = include_str!("../../haproxy/pages/style.css");
/// A page loads nothing but our style and logo, and is shown in no frame (RFC 9700 section 4.16). Its forms may lead to
/// any https address, since signing out continues at the provider.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self' https:; base-uri 'none'; frame-ancestors 'none'";

/// The same for a page that may be shown in a frame. No value of `frame-ancestors` would admit the pages of editors that are programs,
/// which have schemes of their own (CSP Level 3 section 6.7.2.6).
const FRAMED_POLICY: &str =
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'none'; base-uri 'none'";

/// What the operator configures about the pages (`[sign_in.pages]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageSettings {
    /// The name above everything else, such as the company's.
    pub title: Option<Box<str>>,
    /// The language of the texts (RFC 5646).
    pub language: Box<str>,
    /// An image, PNG or SVG.
    pub logo: Option<PathBuf>,
    /// A text below everything else.
    pub help_text: Option<Box<str>>,
    /// Where people get help: a `mailto:` or `https:` address.
    pub contact: Option<Box<str>>,
    /// A file with the operator's own texts.
    pub texts: Option<PathBuf>,
    /// Whether a person who is denied is told who owns the workspace.
    pub show_owner: bool,
}

/// The pages in the operator's words.
pub struct Pages {
    settings: PageSettings,
    texts: Texts,
    logo: Option<Logo>,
    /// What people call the issuers at which they sign in, by their configured names.
    labels: Vec<(Box<str>, Box<str>)>,
}

/// Why the pages cannot be built.
#[derive(Debug, Error)]
pub enum PagesError {
    /// The logo cannot be read.
    #[error("the logo_file cannot be read: {0}")]
    LogoFile(#[from] io::Error),
    /// The logo is neither PNG nor SVG.
    #[error("the logo_file is neither a PNG nor an SVG: expected .png or .svg, and such a file")]
    LogoKind,
    /// The logo is so large that pages would load slowly.
    #[error("the logo_file is larger than {} KiB", logo::MAX_LOGO / 1024)]
    LogoSize,
    /// The file of texts has mistakes.
    #[error("{0}")]
    Texts(#[from] Mistakes),
}

/// The delivery of a ticket, for [`Pages::hand_over`].
pub(crate) struct HandOver<'a> {
    /// The workspace's host.
    pub(crate) host: &'a str,
    /// The origins of the hosts that get tickets.
    pub(crate) origins: &'a [String],
    /// The addresses that take the tickets, with the tickets; that of the host itself first.
    pub(crate) tickets: &'a [String],
    /// Where the browser goes when the ticket is delivered.
    pub(crate) next: &'a str,
}

/// What is unavailable when a sign-in cannot go on, for [`Pages::unavailable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outage<'a> {
    /// The provider of this configured name does not answer.
    Provider(&'a str),
    /// The session store does not answer.
    SessionStore,
    /// The sign-in cannot be recorded.
    AuditLog,
    /// Too many people sign in, or one person too often.
    TooManySignIns,
    /// An error of this program, such as missing random numbers.
    Internal,
}

/// What a person can do on a page.
enum Action {
    Link { address: String, text: String, look: Look, tab: Tab },
    Form { address: String, text: String },
}

/// How a link looks.
#[derive(Clone, Copy)]
enum Look {
    /// What most people want to do.
    Main,
    /// Anything else.
    Other,
}

/// Where a link opens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tab {
    /// In place of the page.
    Same,
    /// In a new tab, which has no hold of this one.
    New,
}

/// A line of the list of facts.
struct Fact {
    name: String,
    value: String,
    /// The class of a value that people copy, such as an id.
    class: Option<&'static str>,
}

/// A page that is being put together.
struct Page<'a> {
    pages: &'a Pages,
    status: StatusCode,
    title: String,
    paragraphs: Vec<String>,
    /// The addresses that take tickets.
    tickets: &'a [String],
    actions: Vec<Action>,
    facts: Vec<Fact>,
}

/// The values of `page.html`.
#[derive(Template)]
#[template(path = "page.html")]
struct PageTemplate<'a> {
    language: &'a str,
    title: &'a str,
    brand: Option<&'a str>,
    has_logo: bool,
    files: &'static str,
    paragraphs: &'a [String],
    tickets: &'a [String],
    actions: &'a [Action],
    facts: &'a [Fact],
    help_text: Option<&'a str>,
    contact: Option<&'a str>,
    contact_text: String,
}

impl Pages {
    /// Reads the operator's files. `labels` are what people call the issuers at which they sign in.
    ///
    /// # Errors
    /// See [`PagesError`].
    pub fn load(
        settings: PageSettings,
        labels: Vec<(Box<str>, Box<str>)>,
    ) -> Result<Self, PagesError> {
        let texts = settings.texts.as_deref().map(Texts::load).transpose()?.unwrap_or_default();
        let logo = settings.logo.as_deref().map(Logo::load).transpose()?;
        Ok(Self { settings, texts, logo, labels })
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
        Page {
            pages: self,
            status,
            title: self.say(title, values),
            paragraphs: vec![self.say(text, values)],
            tickets: &[],
            actions: vec![],
            facts: vec![],
        }
    }

    fn label<'a>(&'a self, issuer: &'a str) -> &'a str {
        let known = self.labels.iter().find(|(name, _)| **name == *issuer);
        known.map_or(issuer, |(_, label)| label)
    }

    /// What a person is called on pages: with the provider if there are several, since each may have a person of that
    /// name.
    pub(crate) fn person(&self, user: &str, issuer: Option<&str>) -> String {
        match issuer {
            Some(issuer) if self.labels.len() > 1 => {
                let provider = self.label(issuer);
                self.say(Text::UserOf, &[("user", user), ("provider", provider)])
            }
            _ => user.to_owned(),
        }
    }

    /// A choice of providers, each with the address that starts a sign-in there. `host` is where the person wants to go.
    pub(crate) fn choose(&self, host: Option<&str>, issuers: &[(String, &str)]) -> Response {
        let text = host.map_or(Text::ChooseText, |_| Text::ChooseFor);
        let values = [("host", host.unwrap_or_default())];
        let mut page = self.page(StatusCode::OK, Text::ChooseTitle, text, &values);
        for (address, issuer) in issuers {
            let values = [("provider", self.label(issuer))];
            page.link(address, Text::ChooseLink, &values, Look::Main);
        }
        page.into_response()
    }

    /// The start page of the login host, for a person who is signed in.
    pub(crate) fn home(&self, user: &str) -> Response {
        let values = [("user", user)];
        let mut page = self.page(StatusCode::OK, Text::HomeTitle, Text::HomeText, &values);
        page.form(&format!("{PATHS}sign-out"), Text::SignOut);
        page.link(&format!("{PATHS}start?ask=1"), Text::Switch, &[], Look::Other);
        page.into_response()
    }

    /// Asks whether to sign out.
    pub(crate) fn ask_sign_out(&self) -> Response {
        let mut page = self.page(StatusCode::OK, Text::SignOutTitle, Text::SignOutText, &[]);
        page.form(&format!("{PATHS}sign-out"), Text::SignOut);
        page.into_response()
    }

    /// Confirms that the session has ended. `login` is the start page of the login host.
    pub(crate) fn signed_out(&self, login: &str) -> Response {
        let mut page = self.page(StatusCode::OK, Text::SignedOutTitle, Text::SignedOutText, &[]);
        page.link(login, Text::SignInAgain, &[], Look::Main);
        page.into_response()
    }

    /// Delivers tickets and goes on. A ticket is the address of an image: that is the one kind of request which works
    /// without scripts, carries the cookies of the workspace's host, and is seen by none of its pages and service
    /// workers. The browser goes on when the page and its images are loaded (HTML section 4.2.5.3).
    pub(crate) fn hand_over(&self, hand_over: &HandOver<'_>) -> Option<Response> {
        let HandOver { host, origins, tickets, next } = *hand_over;
        let values = [("host", host)];
        let mut page = self.page(StatusCode::OK, Text::HandOverTitle, Text::HandOverText, &values);
        page.link(next, Text::Continue, &[], Look::Main);
        let mut response = Page { tickets, ..page }.into_response();
        let policy =
            POLICY.replace("img-src 'self'", &format!("img-src 'self' {}", origins.join(" ")));
        let policy = HeaderValue::try_from(policy).ok()?;
        let refresh = HeaderValue::try_from(format!("0; url={next}")).ok()?;
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
        response.headers_mut().insert(REFRESH, refresh);
        Some(response)
    }

    /// The way to the workspace was used before, or took too long. `again` is where it begins.
    pub(crate) fn late(&self, again: &str) -> Response {
        let mut page = self.page(StatusCode::BAD_REQUEST, Text::LateTitle, Text::LateText, &[]);
        page.link(again, Text::TryAgain, &[], Look::Main);
        page.into_response()
    }

    /// A provider's response that belongs to no attempt of this browser. The page does not lead on by itself, so that a
    /// browser cannot go round in circles.
    pub(crate) fn failed(&self) -> Response {
        self.page(StatusCode::BAD_REQUEST, Text::FailedTitle, Text::FailedText, &[]).into_response()
    }

    /// The provider said that it did not sign the person in.
    pub(crate) fn refused_by_provider(&self, issuer: &str, again: &str) -> Response {
        self.not_signed_in(Text::RefusedText, issuer, again)
    }

    /// What the provider said cannot be verified.
    pub(crate) fn unverified(&self, issuer: &str, again: &str) -> Response {
        self.not_signed_in(Text::UnverifiedText, issuer, again)
    }

    fn not_signed_in(&self, text: Text, issuer: &str, again: &str) -> Response {
        let values = [("provider", self.label(issuer))];
        let mut page = self.page(StatusCode::BAD_REQUEST, Text::FailedTitle, text, &values);
        page.link(again, Text::TryAgain, &[], Look::Main);
        page.into_response()
    }

    /// A sign-in cannot go on now. `error_id` is in the agent's log. `again` is where the person begins again; empty for
    /// the page itself.
    pub(crate) fn unavailable(&self, outage: Outage<'_>, error_id: &str, again: &str) -> Response {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let (title, text) = outage.texts();
        let provider = match outage {
            Outage::Provider(issuer) => self.label(issuer),
            _ => "",
        };
        let mut page = self.page(status, title, text, &[("provider", provider)]);
        page.link(again, Text::TryAgain, &[], Look::Main);
        page.fact(Text::FactReason, outage.id(), Some("reason"));
        page.fact(Text::FactError, error_id, Some("decision"));
        page.into_response()
    }

    /// There is no such page.
    pub(crate) fn nothing(&self) -> Response {
        self.page(StatusCode::NOT_FOUND, Text::NothingTitle, Text::NothingText, &[]).into_response()
    }

    /// The operator's logo.
    pub(crate) fn logo(&self) -> Option<Response> {
        self.logo.as_ref().map(Logo::response)
    }
}

impl Outage<'_> {
    /// The stable id, on the page and in the log.
    pub(crate) const fn id(self) -> &'static str {
        match self {
            Self::Provider(_) => "provider_unreachable",
            Self::SessionStore => "session_store_unreachable",
            Self::AuditLog => "audit_unavailable",
            Self::TooManySignIns => "too_many_sign_ins",
            Self::Internal => "internal",
        }
    }

    /// The title and the text of the page.
    const fn texts(self) -> (Text, Text) {
        match self {
            Self::Provider(_) => (Text::ProviderAwayTitle, Text::ProviderAwayText),
            Self::SessionStore => (Text::StoreAwayTitle, Text::StoreAwayText),
            Self::AuditLog => (Text::NotRecordedTitle, Text::NotRecordedText),
            Self::TooManySignIns => (Text::TooManyTitle, Text::TooManyText),
            Self::Internal => (Text::InternalTitle, Text::InternalText),
        }
    }
}

impl Look {
    const fn class(self) -> &'static str {
        match self {
            Self::Main => "button",
            Self::Other => "button second",
        }
    }
}

impl Tab {
    fn is_new(self) -> bool {
        self == Self::New
    }
}

impl Page<'_> {
    fn text(&mut self, text: Text, values: &[(&str, &str)]) {
        self.paragraphs.push(self.pages.say(text, values));
    }

    fn link(&mut self, address: &str, text: Text, values: &[(&str, &str)], look: Look) {
        let text = self.pages.say(text, values);
        self.actions.push(Action::Link { address: address.into(), text, look, tab: Tab::Same });
    }

    /// The main link of a page, in a tab.
    fn link_in(&mut self, tab: Tab, address: &str, text: Text) {
        let text = self.pages.say(text, &[]);
        self.actions.push(Action::Link { address: address.into(), text, look: Look::Main, tab });
    }

    /// A link that opens the address of this page again.
    fn try_again(&mut self) {
        self.link("", Text::TryAgain, &[], Look::Main);
    }

    fn form(&mut self, address: &str, text: Text) {
        let text = self.pages.say(text, &[]);
        self.actions.push(Action::Form { address: address.into(), text });
    }

    /// With a class, the value is something that people copy.
    fn fact(&mut self, name: Text, value: &str, class: Option<&'static str>) {
        let name = self.pages.say(name, &[]);
        self.facts.push(Fact { name, value: value.into(), class });
    }

    fn template(&self) -> PageTemplate<'_> {
        let PageSettings { title: brand, language, help_text, contact, .. } = &self.pages.settings;
        PageTemplate {
            language,
            title: &self.title,
            brand: brand.as_deref(),
            has_logo: self.pages.logo.is_some(),
            files: PATHS,
            paragraphs: &self.paragraphs,
            tickets: self.tickets,
            actions: &self.actions,
            facts: &self.facts,
            help_text: help_text.as_deref(),
            contact: contact.as_deref(),
            contact_text: self.pages.say(Text::Contact, &[]),
        }
    }
}

impl IntoResponse for Page<'_> {
    fn into_response(self) -> Response {
        // Writing to memory does not fail, and no value of the template can.
        let html = self.template().render().unwrap_or_default();
        let mut response = (self.status, html + "\n").into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        protect(headers);
        if self.actions.iter().any(|action| matches!(action, Action::Form { .. })) {
            // With "no-referrer" a browser would send a form with the origin "null" (Fetch section 3.1.1), and it could
            // not be told from one of another site.
            headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// The style, for a gate whose HAProxy does not serve it itself.
pub(crate) fn style() -> Response {
    let mut response = STYLE.into_response();
    protect(response.headers_mut());
    let kind = HeaderValue::from_static("text/css; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// Headers of every response: it is not stored or framed, and the next page does not learn its address (RFC 9700
/// sections 4.2 and 4.16). A page that opened it in a new window loses hold of that window (HTML section 7.1.3), and
/// pages of other origins cannot load it as a part of themselves (Fetch section 3.7).
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
