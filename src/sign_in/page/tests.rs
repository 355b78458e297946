use super::*;
use crate::identity::TokenError;

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
async fn what_others_say_is_text_and_no_markup() {
    assert_eq!(escape("<a href='x'>\"&"), "&lt;a href=&#39;x&#39;&gt;&quot;&amp;");
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
async fn issuers_are_called_what_people_call_them() {
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
        ("c.svg", &vec![b' '; 300_000]),
    ] {
        assert!(load(name, bytes).is_err(), "{name}");
    }
}
