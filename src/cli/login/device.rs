//! Sign-in with a code in a browser on any machine: the device authorization grant (RFC 8628).

use std::time::Duration;

use anyhow::bail;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::{Login, TokenAnswer};

/// The answer of the device authorization endpoint (section 3.2).
#[derive(Deserialize)]
struct DeviceAuthorization {
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

/// Shows the code, and asks the token endpoint until the person has signed in.
pub(super) async fn ask(login: &Login<'_>, endpoint: &str) -> anyhow::Result<TokenAnswer> {
    let begun: DeviceAuthorization = login.post(endpoint, &[("scope", &login.args.scope)]).await?;
    let (Some(device), Some(code), Some(address)) =
        (begun.device_code, begun.user_code, begun.verification_uri)
    else {
        let error = begun.error.unwrap_or_else(|| "no code".into());
        bail!("{} gave no code for signing in: {}", login.provider.issuer, error.escape_debug());
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
            bail!("the time to sign in is over");
        }
        let answer: TokenAnswer = login.post(&login.provider.token_endpoint, &pairs).await?;
        match answer.error.as_deref() {
            None => return Ok(answer),
            Some("authorization_pending") => {}
            // The provider asks for longer pauses (section 3.5).
            Some("slow_down") => pause += Duration::from_secs(5),
            Some(error) => bail!("not signed in: {}", error.escape_debug()),
        }
    }
}
