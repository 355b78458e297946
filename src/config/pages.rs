//! The table `[sign_in.pages]`: the words and the look of the pages that people see when they sign in or are denied.

use std::path::PathBuf;

use url::Url;

use super::{
    key::Shown,
    kinds::Form,
    section::{Report, Section, table},
};
use crate::{diagnostics::Word, sign_in::page::PageSettings};

table! {
    /// What the pages of sign-in say and show: see docs/pages.md.
    PagesTable = "sign_in.pages";
    /// The title above everything else, such as the name of the company.
    title: optional Word, example("\"Example Workspaces\"");
    /// The language of the texts, a tag such as `en` or `pt-BR` (RFC 5646).
    language: default Language = PageSettings::default().language;
    /// An image, PNG or SVG.
    logo_file: optional PathBuf, example("\"logo.svg\"");
    /// A text below everything else.
    help_text: optional String, example("\"Ask the platform team.\"");
    /// An address at which people get help: `mailto:` or `https:`.
    contact: optional Contact, example("\"mailto:help@example.com\"");
    /// A file with texts of your own: see docs/texts.toml.
    texts_file: optional PathBuf, example("\"texts.toml\"");
    /// Whether a person who is denied sees who owns the workspace.
    show_owner: default bool = PageSettings::default().show_owner;
}

impl Section for PagesTable {
    type Value = PageSettings;

    fn build(self, _: &mut Report) -> Option<PageSettings> {
        Some(PageSettings {
            title: self.title,
            language: self.language,
            logo: self.logo_file,
            help_text: self.help_text.map(Into::into),
            contact: self.contact,
            texts: self.texts_file,
            show_owner: self.show_owner,
        })
    }
}

/// A language tag (RFC 5646 section 2.1), without its rarest forms.
struct Language;

impl Form for Language {
    type Value = Box<str>;

    fn parse(text: &str) -> Result<Box<str>, String> {
        let mut parts = text.split('-');
        let plain = |part: &str| part.bytes().all(|b| b.is_ascii_alphanumeric());
        let first = parts.next().is_some_and(|part| (2..=3).contains(&part.len()) && plain(part));
        if first && parts.all(|part| (1..=8).contains(&part.len()) && plain(part)) {
            return Ok(text.into());
        }
        Err(format!("expected a language tag such as \"en\" or \"pt-BR\", found {text:?}"))
    }
}

impl Shown for Language {
    fn show(value: &Box<str>) -> String {
        format!("{value:?}")
    }
}

/// An address that a link on a page may have: others, such as `javascript:`, would run code there.
struct Contact;

impl Form for Contact {
    type Value = Box<str>;

    fn parse(text: &str) -> Result<Box<str>, String> {
        if text.parse::<Url>().is_ok_and(|url| ["mailto", "https"].contains(&url.scheme())) {
            return Ok(text.into());
        }
        Err(format!(
            "expected an address such as \"mailto:help@example.com\" or \"https://help.example.com\", found {text:?}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostics::Format;

    fn read(text: &str) -> Result<PageSettings, String> {
        super::super::read::<PagesTable>("agent.toml", text, Format::Toml, "".as_ref())
            .map_err(|mistakes| mistakes.to_string())
    }

    #[test]
    fn keys_that_are_not_set_have_their_defaults() {
        assert_eq!(read("").unwrap(), PageSettings::default());
        let pages = read("language = 'pt-BR'\ncontact = 'https://help.test/'\nshow_owner = true");
        let pages = pages.unwrap();
        assert_eq!((&*pages.language, pages.show_owner), ("pt-BR", true));
    }

    #[test]
    fn each_mistake_is_reported_with_its_line() {
        let error =
            read("language = 'e\"n'\ncontact = 'javascript:alert(1)'\nlogo = 'x'\ntitle = ''")
                .unwrap_err();
        for part in [
            "agent.toml:1:13: expected a language tag",
            "agent.toml:2:12: expected an address such as",
            "agent.toml:3:1: unknown key 'logo'",
            "agent.toml:4:",
        ] {
            assert!(error.contains(part), "{error}");
        }
        for contact in ["http://help.test", "data:text/html,x", "help@example.com", "//x"] {
            assert!(read(&format!("contact = '{contact}'")).is_err(), "{contact}");
        }
    }
}
