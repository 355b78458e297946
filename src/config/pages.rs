//! The table `[sign_in.pages]`.

use std::path::PathBuf;

use toml_span::{DeserError, Deserialize, Spanned, Value, de_helpers::TableHelper};
use url::Url;

use crate::{
    diagnostics::{Word, mistake},
    sign_in::page::PageSettings,
};

impl<'de> Deserialize<'de> for PageSettings {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let mut table = TableHelper::new(value)?;
        let title = table.optional::<Word>("title").map(|title| title.0);
        let language = table.optional_s::<String>("language");
        let logo = table.optional::<String>("logo_file").map(PathBuf::from);
        let help_text = table.optional::<String>("help_text").map(Into::into);
        let contact = table.optional_s::<String>("contact");
        let texts = table.optional::<String>("texts_file").map(PathBuf::from);
        let show_owner = table.optional::<bool>("show_owner").unwrap_or(false);
        if let Some(Spanned { value, span }) = &language
            && !is_language(value)
        {
            let message =
                format!("expected a language tag such as \"en\" or \"pt-BR\", found {value:?}");
            table.errors.push(mistake(*span, message));
        }
        if let Some(Spanned { value, span }) = &contact
            && !value.parse::<Url>().is_ok_and(|url| ["mailto", "https"].contains(&url.scheme()))
        {
            let message = format!(
                "expected an address such as \"mailto:help@example.com\" or \"https://help.example.com\", found {value:?}"
            );
            table.errors.push(mistake(*span, message));
        }
        table.finalize(None)?;
        Ok(Self {
            title,
            language: language.map_or_else(|| "en".into(), |language| language.value.into()),
            logo,
            help_text,
            contact: contact.map(|contact| contact.value.into()),
            texts,
            show_owner,
        })
    }
}

/// Whether a text has the form of a language tag (RFC 5646 section 2.1), as far as anybody uses it.
fn is_language(text: &str) -> bool {
    let mut parts = text.split('-');
    let plain = |part: &str| part.bytes().all(|b| b.is_ascii_alphanumeric());
    parts.next().is_some_and(|part| (2..=3).contains(&part.len()) && plain(part))
        && parts.all(|part| (1..=8).contains(&part.len()) && plain(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostics::{self, Format};

    fn read(text: &str) -> Result<PageSettings, String> {
        diagnostics::read("agent.toml", text, Format::Toml).map_err(|mistakes| mistakes.to_string())
    }

    #[test]
    fn what_is_not_said_is_as_it_was_built() {
        assert_eq!(read("").unwrap(), PageSettings::default());
        let pages = read("language = 'pt-BR'\ncontact = 'https://help.test/'\nshow_owner = true");
        let pages = pages.unwrap();
        assert_eq!((&*pages.language, pages.show_owner), ("pt-BR", true));
    }

    #[test]
    fn each_mistake_is_told_with_its_line() {
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
