//! The pages that people see: plain HTML without scripts, light and dark.

use std::fmt::Write as _;

use axum::{
    http::{
        HeaderValue, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
    response::{IntoResponse, Response},
};

/// The style of all pages; colours have a contrast of at least 7 to 1 in both schemes.
pub(super) const STYLE: &str = "\
:root { color-scheme: light dark; }
body { font: 1.1rem/1.5 system-ui, sans-serif; margin: 0; display: grid; min-height: 100vh;
  place-items: center; background: #f6f7f9; color: #1b1f24; }
main { max-width: 30rem; margin: 1rem; padding: 2rem; background: #fff; border-radius: .75rem;
  box-shadow: 0 1px 4px rgb(0 0 0 / 15%); }
h1 { font-size: 1.4rem; margin: 0 0 1rem; }
a.button, button { display: block; width: 100%; box-sizing: border-box; margin-top: .75rem;
  padding: .7rem 1rem; border: 0; border-radius: .5rem; background: #0b4f9e; color: #fff;
  font: inherit; text-align: center; text-decoration: none; cursor: pointer; }
a.button:focus, button:focus { outline: 3px solid #8ab8f0; }
@media (prefers-color-scheme: dark) {
  body { background: #14171a; color: #e8eaed; }
  main { background: #1f2327; }
  a.button, button { background: #9cc7ff; color: #0b1a2b; }
}
";

/// A page.
pub(super) struct Page<'a> {
    pub(super) status: StatusCode,
    pub(super) title: &'a str,
    pub(super) text: &'a str,
    /// Links, with what they say.
    pub(super) links: &'a [(String, String)],
    /// The address of a form with one button, and what it says.
    pub(super) form: Option<(&'a str, &'a str)>,
}

impl IntoResponse for Page<'_> {
    fn into_response(self) -> Response {
        let mut body = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{title}</title>\n\
             <link rel=\"stylesheet\" href=\"/.well-known/identity-spoa/style.css\">\n</head>\n\
             <body>\n<main>\n<h1>{title}</h1>\n<p>{text}</p>\n",
            title = escape(self.title),
            text = escape(self.text),
        );
        for (address, says) in self.links {
            let (address, says) = (escape(address), escape(says));
            // Writing to a String cannot fail.
            let _ = writeln!(body, "<a class=\"button\" href=\"{address}\">{says}</a>");
        }
        if let Some((address, says)) = self.form {
            let (address, says) = (escape(address), escape(says));
            let _ = writeln!(
                body,
                "<form method=\"post\" action=\"{address}\"><button>{says}</button></form>"
            );
        }
        body.push_str("</main>\n</body>\n</html>\n");
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        protect(headers);
        response
    }
}

/// What every answer of ours says: nobody keeps it, frames it, or learns where it led
/// (RFC 9700 sections 4.2 and 4.16).
pub(super) fn protect(headers: &mut axum::http::HeaderMap) {
    for (name, value) in [
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (
            CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'self'; form-action 'self' https:; base-uri 'none'; frame-ancestors 'none'",
        ),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_is_text_and_no_markup() {
        assert_eq!(escape("<a href='x'>\"&"), "&lt;a href=&#39;x&#39;&gt;&quot;&amp;");
    }
}
