use super::{browser::MAX_HEADERS, *};

#[test]
fn a_request_of_a_page_of_another_site_is_told_from_one_of_the_user() {
    let asked = |method: &'static [u8], site: &'static [u8], mode: &'static [u8]| {
        let dest = Some(if mode == b"navigate" { &b"document"[..] } else { b"empty" });
        let browser = Browser { site: Some(site), mode: Some(mode), dest, ..Browser::default() };
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
