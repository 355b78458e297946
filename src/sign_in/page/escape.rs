//! How askama escapes values in the pages: as `askama.toml` configures it, for every `{{ … }}` of an HTML template.

use std::fmt::{self, Write};

use askama::filters::Escaper;

/// Escapes text for HTML, in an attribute or outside of one. It differs from askama's own escaper only in writing named
/// entities, as the pages have always had them.
#[derive(Clone, Copy, Debug, Default)]
pub struct HtmlEscaper;

impl Escaper for HtmlEscaper {
    fn write_escaped_str<W: Write>(&self, mut to: W, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(['&', '<', '>', '"', '\'']) {
            let (plain, special) = rest.split_at(at);
            let mut chars = special.chars();
            to.write_str(plain)?;
            to.write_str(match chars.next() {
                Some('&') => "&amp;",
                Some('<') => "&lt;",
                Some('>') => "&gt;",
                Some('"') => "&quot;",
                _ => "&#39;",
            })?;
            rest = chars.as_str();
        }
        to.write_str(rest)
    }
}
