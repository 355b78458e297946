use super::*;
use crate::{identity::TokenError, sign_in::page::logo::MAX_LOGO};

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
        Action::Link { address: text(), text: text(), look: Look::Other },
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
        ticket: Some(value),
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
    let texts: String =
        Text::ALL.iter().map(|text| format!("{} = {EVIL:?}\n", text.id())).collect();
    std::fs::write(&path, texts).unwrap();
    let settings = PageSettings { texts: Some(path), ..PageSettings::default() };
    let pages = Pages::load(settings, vec![("corp".into(), EVIL.into())]).unwrap();
    let hand_over =
        HandOver { host: EVIL, origin: "https://a.test", ticket: EVIL, next: "/next?\"" };
    for response in [
        pages.choose(Some(EVIL), &[(EVIL.into(), "corp")]),
        pages.home(EVIL),
        pages.ask_sign_out(),
        pages.signed_out(EVIL),
        pages.refused(&refused(Reason::NotPermitted)),
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

fn old_bytes(t: &PageTemplate<'_>) -> String {
    use std::fmt::Write as _;
    fn escape(text: &str) -> String {
        let mut safe = String::new();
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
    let (mut body, mut actions, mut facts) = (String::new(), String::new(), String::new());
    for text in t.paragraphs {
        let _ = writeln!(body, "<p>{}</p>", escape(text));
    }
    if let Some(ticket) = t.ticket {
        let address = escape(ticket);
        let _ = writeln!(
            body,
            "<img src=\"{address}\" crossorigin=\"use-credentials\" alt=\"\" hidden>"
        );
    }
    for action in t.actions {
        let _ = match action {
            Action::Link { address, text, look } => {
                let (says, class, address) = (escape(text), look.class(), escape(address));
                writeln!(actions, "<a class=\"{class}\" href=\"{address}\">{says}</a>")
            }
            Action::Form { address, text } => {
                let (address, says) = (escape(address), escape(text));
                writeln!(
                    actions,
                    "<form method=\"post\" action=\"{address}\"><button class=\"button\">{says}</button></form>"
                )
            }
        };
    }
    for fact in t.facts {
        let (name, value) = (escape(&fact.name), escape(&fact.value));
        let _ = match fact.class {
            Some(class) => {
                writeln!(facts, "<dt>{name}</dt><dd><code class=\"{class}\">{value}</code></dd>")
            }
            None => writeln!(facts, "<dt>{name}</dt><dd>{value}</dd>"),
        };
    }
    let (title, language) = (escape(t.title), escape(t.language));
    let brand = t.brand.map(escape);
    let mut html = format!(
        "<!doctype html>\n<html lang=\"{language}\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"robots\" content=\"noindex\">\n<title>{title}{}</title>\n\
         <link rel=\"stylesheet\" href=\"{PATHS}style.css\">\n",
        brand.as_ref().map(|brand| format!(" · {brand}")).unwrap_or_default(),
    );
    if t.has_logo {
        let _ = writeln!(html, "<link rel=\"icon\" href=\"{PATHS}logo\">");
    }
    html.push_str("</head>\n<body>\n<main>\n");
    if t.has_logo || brand.is_some() {
        html.push_str("<p class=\"brand\">");
        if t.has_logo {
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
    if t.help_text.is_some() || t.contact.is_some() {
        html.push_str("<footer>");
        if let Some(help) = t.help_text {
            let _ = write!(html, "<p>{}</p>", escape(help));
        }
        if let Some(contact) = t.contact {
            let (address, says) = (escape(contact), escape(&t.contact_text));
            let _ = write!(html, "<p><a href=\"{address}\">{says}</a></p>");
        }
        html.push_str("</footer>\n");
    }
    html.push_str("</main>\n</body>\n</html>\n");
    html
}

#[test]
fn the_bytes_are_those_of_before() {
    for bits in 0..512_u32 {
        let on = |bit: u32| bits & (1 << bit) != 0;
        let actions = [
            Action::Link { address: "/a?b=1&c".into(), text: "x'y".into(), look: Look::Main },
            Action::Link { address: String::new(), text: "<b>".into(), look: Look::Other },
            Action::Form { address: "/f\"".into(), text: "t".into() },
        ];
        let facts = [
            Fact { name: "n".into(), value: "v&".into(), class: None },
            Fact { name: "m".into(), value: "w".into(), class: Some("decision") },
        ];
        let paragraphs = ["one".to_owned(), "two\nlines".to_owned()];
        let template = PageTemplate {
            language: "en",
            title: "T & t",
            brand: on(0).then_some("Brand <x>"),
            has_logo: on(1),
            files: PATHS,
            paragraphs: if on(2) { &paragraphs } else { &paragraphs[..1] },
            ticket: on(3).then_some("https://a/?t=1&x"),
            actions: if on(4) { &actions } else { &actions[..usize::from(on(5))] },
            facts: if on(6) { &facts } else { &facts[..0] },
            help_text: on(7).then_some("help\nme"),
            contact: on(8).then_some("mailto:a@b"),
            contact_text: "Get help".into(),
        };
        assert_eq!(template.render().unwrap() + "\n", old_bytes(&template), "{bits}");
    }
}
