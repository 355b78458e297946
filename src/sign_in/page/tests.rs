use super::*;
use crate::{authz::reason::Reason, identity::TokenError, sign_in::page::logo::MAX_LOGO};

fn pages(about: PageSettings) -> Pages {
    Pages::load(about, vec![("corp".into(), "Example Corp".into())]).unwrap()
}

async fn html(response: Response) -> String {
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

const EVIL: &str = "<script>alert('1')</script>\"'&";

fn refused(reason: Reason) -> Refused<'static> {
    Refused {
        reason,
        decision: "web-1",
        user: Some(EVIL),
        host: EVIL,
        owner: Some("owner-name"),
        switch: "/switch?a=1&b=\"",
        sign_out: "/out",
        load: PageLoad::Opened,
        origin: "https://a.test",
        path: "/x?\"<script>",
    }
}

#[tokio::test]
async fn what_others_say_is_text_and_not_markup() {
    let about = PageSettings {
        title: Some(EVIL.into()),
        help_text: Some(EVIL.into()),
        contact: Some(EVIL.into()),
        show_owner: true,
        ..PageSettings::default()
    };
    let pages = pages(about);
    for reason in Reason::ALL.into_iter().chain(TokenError::ALL.map(Reason::Refused)) {
        let response = pages.refused(&Refused { owner: Some(EVIL), ..refused(reason) });
        assert!(!response.status().is_success(), "{reason}");
        let html = html(response).await;
        assert!(!html.contains("<script") && !html.contains("b=\"\""), "{html}");
        assert!(html.contains("<html lang=\"en\">") && html.contains("<h1>"), "{html}");
        assert!(html.contains("<code class=\"decision\">web-1</code>"), "{html}");
        assert!(html.contains(reason.id()), "{html}");
    }
    let chosen = html(pages.choose(Some(EVIL), &[("/x?\"".into(), EVIL)])).await;
    assert!(!chosen.contains("<script"), "{chosen}");
}

/// [`EVIL`] as it must be in a page.
const ESCAPED: &str = "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&quot;&#39;&amp;";

/// A page with the same value in every slot of the template.
fn with_value_in_every_slot(value: &'static str) -> String {
    let text = || value.to_owned();
    let actions = [
        Action::Link { address: text(), text: text(), look: Look::Other, tab: Tab::New },
        Action::Form { address: text(), text: text() },
    ];
    let facts = [
        Fact { name: text(), value: text(), class: None },
        Fact { name: text(), value: text(), class: Some(value) },
    ];
    let template = PageTemplate {
        language: value,
        title: value,
        brand: Some(value),
        has_logo: true,
        files: value,
        paragraphs: &[text()],
        tickets: &[text()],
        actions: &actions,
        facts: &facts,
        help_text: Some(value),
        contact: Some(value),
        contact_text: text(),
    };
    template.render().unwrap()
}

#[test]
fn a_hostile_value_in_every_slot_of_the_template_comes_out_escaped() {
    let html = with_value_in_every_slot(EVIL);
    assert!(!html.contains("<script"), "{html}");
    // All that differs from a page with harmless values is the escaped text.
    assert_eq!(html.replace(ESCAPED, "harmless"), with_value_in_every_slot("harmless"));
    assert_eq!(html.matches(ESCAPED).count(), 22, "{html}");
}

#[tokio::test]
async fn a_hostile_text_of_the_operator_or_of_a_request_comes_out_escaped_on_every_page() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("texts.toml");
    let texts: Vec<_> =
        Text::ALL.iter().map(|text| format!("{} = {EVIL:?}\n", text.id())).collect();
    std::fs::write(&path, texts.concat()).unwrap();
    let settings = PageSettings { texts: Some(path), ..PageSettings::default() };
    let pages = Pages::load(settings, vec![("corp".into(), EVIL.into())]).unwrap();
    let (origins, tickets) = (["https://a.test".to_owned()], [EVIL.to_owned()]);
    let hand_over = HandOver { host: EVIL, origins: &origins, tickets: &tickets, next: "/next?\"" };
    for response in [
        pages.choose(Some(EVIL), &[(EVIL.into(), "corp")]),
        pages.home(EVIL),
        pages.ask_sign_out(),
        pages.signed_out(EVIL),
        pages.refused(&refused(Reason::NotPermitted)),
        pages.refused(&Refused { load: PageLoad::Submitted, ..refused(Reason::NotPermitted) }),
        pages.refused(&Refused { load: PageLoad::Framed, ..refused(Reason::NotPermitted) }),
        pages.hand_over(&hand_over).unwrap(),
        pages.late(EVIL),
        pages.failed(),
        pages.refused_by_provider(EVIL, EVIL),
        pages.unverified("corp", EVIL),
        pages.unavailable(Outage::Provider("corp"), EVIL, EVIL),
        pages.nothing(),
    ] {
        let html = html(response).await;
        assert!(html.contains(ESCAPED) && !html.contains(EVIL), "{html}");
        assert!(!html.contains("<script") && !html.contains("?\""), "{html}");
    }
}

#[tokio::test]
async fn each_503_says_what_is_away_and_shows_the_id_that_leads_to_its_record() {
    let pages = pages(PageSettings::default());
    let mut seen = std::collections::BTreeSet::new();
    for outage in [
        Outage::Provider("corp"),
        Outage::SessionStore,
        Outage::AuditLog,
        Outage::TooManySignIns,
        Outage::Internal,
    ] {
        let response = pages.unavailable(outage, "web-1", "/again");
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        let html = html(response).await;
        let id = format!("<code class=\"reason\">{}</code>", outage.id());
        assert!(html.contains(&id) && html.contains(">web-1</code>"), "{html}");
        assert!(html.contains("<a class=\"button\" href=\"/again\">Try again</a>"), "{html}");
        let title = html.split("<h1>").nth(1).unwrap().split('<').next().unwrap().to_owned();
        assert!(seen.insert(title), "{outage:?} looks like another one");
    }
    // Those of the agent's decisions have a title of their own, and a text for each kind of reason.
    let html = html(pages.refused(&refused(Reason::SessionsUnavailable))).await;
    assert!(html.contains("<h1>Your access cannot be checked</h1>"), "{html}");
    assert!(html.contains("The session store does not answer"), "{html}");
    assert!(html.contains("sessions_unavailable") && html.contains(">web-1</code>"), "{html}");
    assert!(seen.insert("Your access cannot be checked".into()));
    // HAProxy's own page, when the agent does not answer.
    let haproxy = include_str!("../../../haproxy/pages/unavailable.html");
    let title = haproxy.split("<h1>").nth(1).unwrap().split('<').next().unwrap();
    assert!(haproxy.contains("%[unique-id]") && seen.insert(title.into()), "{title}");
}

#[tokio::test]
async fn the_owner_is_named_only_where_the_operator_says_so() {
    for (show_owner, reason, is_named) in [
        (false, Reason::NotPermitted, false),
        (true, Reason::NotPermitted, true),
        (true, Reason::EndpointUndeclared, true),
        (true, Reason::WorkspaceStopped, false),
        (true, Reason::HostUnmatched, false),
    ] {
        let pages = pages(PageSettings { show_owner, ..PageSettings::default() });
        let html = html(pages.refused(&refused(reason))).await;
        assert_eq!(html.contains("owner-name"), is_named, "{reason} {html}");
    }
}

#[tokio::test]
async fn issuers_have_the_names_that_people_know() {
    let pages = pages(PageSettings::default());
    let html = html(pages.choose(None, &[("/a".into(), "corp"), ("/b".into(), "other")])).await;
    assert!(html.contains(">Sign in with Example Corp</a>"), "{html}");
    assert!(html.contains(">Sign in with other</a>"), "{html}");
}

#[test]
fn a_logo_is_what_its_name_says_and_runs_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let load = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        Pages::load(PageSettings { logo: Some(path), ..PageSettings::default() }, vec![])
    };
    for (name, bytes, kind) in [
        ("a.png", &b"\x89PNG\r\n\x1a\nrest"[..], "image/png"),
        ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"),
    ] {
        let response = load(name, bytes).unwrap().logo().unwrap();
        let headers = response.headers();
        assert_eq!(headers[CONTENT_TYPE], kind);
        assert_eq!(headers[X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert!(headers[CONTENT_SECURITY_POLICY].to_str().unwrap().contains("sandbox"));
    }
    for (name, bytes) in [
        ("b.png", &b"<svg/>"[..]),
        ("b.svg", b"\x89PNG\r\n\x1a\n"),
        ("b.html", b"<svg/>"),
        ("b.svg", b"\xff<svg"),
        ("c.svg", &vec![b' '; usize::try_from(MAX_LOGO).unwrap() + 1]),
    ] {
        assert!(load(name, bytes).is_err(), "{name}");
    }
}
