//! The table `[traces]`: where spans of decisions go.

use toml_span::{DeserError, Deserialize, Value, de_helpers::TableHelper};
use url::Url;

use crate::{
    config::values::{Parsed, number},
    diagnostics::mistake,
    traces::Settings,
};

impl<'de> Deserialize<'de> for Settings {
    fn deserialize(value: &mut Value<'de>) -> Result<Self, DeserError> {
        let mut table = TableHelper::new(value)?;
        let endpoint = table.required_s::<Parsed<Url>>("endpoint");
        let one_in = number(&mut table, "one_in", 1..=1_000_000).unwrap_or(100);
        let user = table.optional::<bool>("user").unwrap_or_default();
        if let Ok(endpoint) = &endpoint
            && !is_safe(&endpoint.value.0)
        {
            let message = "expected https://…, or http:// at an address of this machine such as \
                           http://127.0.0.1:4318/v1/traces";
            table.errors.push(mistake(endpoint.span, message));
        }
        table.finalize(None)?;
        Ok(Self { endpoint: endpoint?.value.0, one_in, user })
    }
}

/// What spans say is for nobody on the way.
fn is_safe(url: &Url) -> bool {
    let here = match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    };
    let bare = url.username().is_empty() && url.password().is_none();
    bare && (url.scheme() == "https" || url.scheme() == "http" && here)
}
