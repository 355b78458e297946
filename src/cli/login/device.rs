//! Signing in with a browser somewhere else (RFC 8628).

use std::time::Duration;

use anyhow::bail;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::{Answer, Login};

/// What the provider says to begin with (section 3.2).
#[derive(Deserialize)]
struct Begun {
    device_code: Option<SecretString>,
    user_code: Option<String>,
    verification_uri: Option<String>,
    verification_uri_complete: Option<String>,
    #[serde(default = "ten_minutes")]
    expires_in: u64,
    #[serde(default = "five")]
    interval: u64,
    error: Option<String>,
}

const fn ten_minutes() -> u64 {
    600
}

const fn five() -> u64 {
    5
}

pub(super) async fn ask(login: &Login<'_>, endpoint: &str) -> anyhow::Result<Answer> {
    let begun: Begun = login.post(endpoint, &[("scope", &login.args.scope)]).await?;
    let (Some(device), Some(code), Some(address)) =
        (begun.device_code, begun.user_code, begun.verification_uri)
    else {
        let error = begun.error.unwrap_or_else(|| "no code".into());
        bail!("{} gives no code to sign in with: {}", login.provider.issuer, error.escape_debug());
    };
    Login::say(&format!(
        "Open {} in any browser and enter the code {}",
        address.escape_debug(),
        code.escape_debug()
    ));
    if let Some(complete) = begun.verification_uri_complete {
        Login::say(&format!("or open {}", complete.escape_debug()));
    }
    let deadline = Instant::now() + Duration::from_secs(begun.expires_in.min(1800));
    let mut pause = Duration::from_secs(begun.interval.clamp(1, 60));
    let pairs = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
        ("device_code", device.expose_secret()),
    ];
    loop {
        sleep(pause).await;
        if Instant::now() >= deadline {
            bail!("nobody signed in in time");
        }
        let answer: Answer = login.post(&login.provider.token_endpoint, &pairs).await?;
        match answer.error.as_deref() {
            None => return Ok(answer),
            Some("authorization_pending") => {}
            // Section 3.5.
            Some("slow_down") => pause += Duration::from_secs(5),
            Some(error) => bail!("not signed in: {}", error.escape_debug()),
        }
    }
}
