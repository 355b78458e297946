//! `login`: a person at a terminal gets a token for curl and git.
//!
//! The provider signs the person in, in a browser on this machine (RFC 8252) or on another one with a code
//! (RFC 8628); the agent has no part in it, and neither has its configuration. The token goes to standard
//! output, everything else to standard error. Between calls the token is kept in a file of the person's own.

use std::{
    io::{Write as _, stderr, stdout},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use reqwest::{Client, redirect::Policy};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use tokio::runtime::Builder;
use url::Url;

use super::{LoginArgs, LoginFormat};
use crate::{gate::Metadata, identity::profile::secure_url, time::Timestamp};

mod cache;
mod device;
mod loopback;

use cache::Cache;

/// The longest answer that is read, in bytes.
const MAX_BODY: usize = 512 * 1024;
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(10);
/// A token that ends sooner is not worth being given to a program.
const LEFT: Duration = Duration::from_mins(1);

/// A provider, as its discovery document has it.
#[derive(Deserialize)]
struct Provider {
    issuer: String,
    token_endpoint: String,
    authorization_endpoint: Option<String>,
    device_authorization_endpoint: Option<String>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

/// What a token endpoint says (RFC 6749 section 5).
#[derive(Deserialize)]
struct Answer {
    access_token: Option<SecretString>,
    id_token: Option<SecretString>,
    refresh_token: Option<SecretString>,
    expires_in: Option<u64>,
    error: Option<String>,
}

/// What was asked for, ready to ask.
struct Login<'a> {
    args: &'a LoginArgs,
    http: Client,
    provider: Provider,
    /// Whether addresses without TLS are fine: a provider on this machine.
    plain: bool,
}

pub(super) fn login(args: &LoginArgs) -> anyhow::Result<ExitCode> {
    // Git asks its helpers to keep and to forget as well, which is not for us.
    if args.operation.as_deref().is_some_and(|operation| operation != "get") {
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let token = runtime.block_on(token(args))?;
    let (mut out, token) = (stdout().lock(), token.expose_secret());
    match args.format {
        LoginFormat::Token => writeln!(out, "{token}")?,
        LoginFormat::Header => writeln!(out, "Authorization: Bearer {token}")?,
        // git-credential(1), with Git 2.46 or later.
        LoginFormat::Git => {
            write!(out, "capability[]=authtype\nauthtype=Bearer\ncredential={token}\n\n")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn token(args: &LoginArgs) -> anyhow::Result<SecretString> {
    let mut builder = Client::builder().redirect(Policy::none()).timeout(ANSWER);
    if let Some(path) = &args.ca_file {
        let pem = std::fs::read(path)
            .with_context(|| format!("cannot read the --ca-file {}", path.display()))?;
        builder = builder.tls_certs_merge(reqwest::Certificate::from_pem_bundle(&pem)?);
    }
    let http = builder.build().context("cannot set up TLS")?;
    let issuer = match (&args.issuer, &args.gate) {
        (Some(issuer), _) => issuer.clone(),
        (None, Some(gate)) => issuer_of(&http, gate).await?,
        (None, None) => bail!("expected --issuer or --gate"),
    };
    let resource = args.resource.as_deref().unwrap_or_default();
    let name = format!("{issuer} {} {} {resource} {}", args.client_id, args.scope, args.id_token);
    let cache = Cache::open(args.cache.as_deref())?;
    let now = Timestamp::now();
    if let Some(token) = cache.token(&name, now.plus(LEFT)).filter(|_| !args.again) {
        return Ok(token);
    }
    let plain = Url::parse(&issuer).is_ok_and(|url| url.scheme() == "http");
    let provider = discover(&http, &issuer, plain).await?;
    let login = Login { args, http, provider, plain };
    let refreshed = match cache.refresh_token(&name).filter(|_| !args.again) {
        // One that counts no more is no reason not to ask the person.
        Some(token) => login.refresh(&token).await.ok().map(|answer| (answer, Some(token))),
        None => None,
    };
    let (answer, before) = match refreshed {
        Some((answer, before)) => (answer, before),
        None => (login.ask_person().await?, None),
    };
    let token = if args.id_token { answer.id_token } else { answer.access_token };
    let token = token.with_context(|| {
        format!("{issuer} gave no {} token", if args.id_token { "ID" } else { "access" })
    })?;
    let end = now.plus(Duration::from_secs(answer.expires_in.unwrap_or(0)));
    cache.keep(&name, &token, end, answer.refresh_token.or(before).as_ref());
    Ok(token)
}

/// Whose tokens a workspace's host takes (RFC 9728); `resource_metadata` must be on at the agent.
async fn issuer_of(http: &Client, gate: &str) -> anyhow::Result<String> {
    #[derive(Deserialize)]
    struct Document {
        authorization_servers: Vec<String>,
    }
    let base = secure_url(gate, true).with_context(|| format!("--gate {gate}"))?;
    let url = base.join(Metadata::PATH)?;
    let document: Document = get(http, &url).await.with_context(|| {
        format!("{url} does not say whose tokens count there: name the provider with --issuer")
    })?;
    match document.authorization_servers.as_slice() {
        [only] => Ok(only.clone()),
        several => bail!(
            "several providers' tokens count there, choose one with --issuer: {}",
            several.join(", ")
        ),
    }
}

async fn discover(http: &Client, issuer: &str, plain: bool) -> anyhow::Result<Provider> {
    let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    let url = secure_url(&url, plain).with_context(|| format!("the issuer {issuer}"))?;
    let provider: Provider = get(http, &url).await?;
    if provider.issuer != issuer {
        bail!("{url} is of the issuer {:?}, expected {issuer:?} to the letter", provider.issuer);
    }
    Ok(provider)
}

async fn get<T: serde::de::DeserializeOwned>(http: &Client, url: &Url) -> anyhow::Result<T> {
    let response = http.get(url.clone()).send().await.with_context(|| format!("{url}"))?;
    if !response.status().is_success() {
        bail!("{url}: status {}", response.status());
    }
    serde_json::from_slice(&body(response).await?)
        .with_context(|| format!("{url}: not the document that was expected"))
}

async fn body(mut response: reqwest::Response) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MAX_BODY {
            bail!("{}: the answer is too long", response.url());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

impl Login<'_> {
    /// Asks the person: here if there is a browser, else with a code.
    async fn ask_person(&self) -> anyhow::Result<Answer> {
        let screen =
            ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some());
        let here = screen || cfg!(target_os = "macos") || self.args.browser;
        match (&self.provider.device_authorization_endpoint, &self.provider.authorization_endpoint)
        {
            (Some(device), _) if self.args.device || !here => device::ask(self, device).await,
            (_, Some(page)) if !self.args.device => loopback::ask(self, page).await,
            _ => bail!(
                "{} has no device authorization endpoint: try without --device",
                self.provider.issuer
            ),
        }
    }

    async fn refresh(&self, token: &SecretString) -> anyhow::Result<Answer> {
        let pairs = [("grant_type", "refresh_token"), ("refresh_token", token.expose_secret())];
        let answer: Answer = self.post(&self.provider.token_endpoint, &pairs).await?;
        match answer.error {
            Some(error) => bail!("{}", error.escape_debug()),
            None => Ok(answer),
        }
    }

    /// Asks an endpoint as a client that has no secret to keep (RFC 8252 section 8.4).
    async fn post<T: serde::de::DeserializeOwned>(
        &self,
        endpoint: &str,
        pairs: &[(&str, &str)],
    ) -> anyhow::Result<T> {
        let url = self.url(endpoint)?;
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("client_id", &self.args.client_id).extend_pairs(pairs);
        if let Some(resource) = &self.args.resource {
            form.append_pair("resource", resource).append_pair("audience", resource);
        }
        let request = self
            .http
            .post(url.clone())
            .header("content-type", "application/x-www-form-urlencoded")
            .header("accept", "application/json")
            .body(form.finish());
        let response = request.send().await.with_context(|| format!("{url}"))?;
        let status = response.status();
        let bytes = body(response).await?;
        serde_json::from_slice(&bytes)
            .with_context(|| format!("{url}: status {status}, and no answer that can be read"))
    }

    fn url(&self, text: &str) -> anyhow::Result<Url> {
        secure_url(text, self.plain).with_context(|| format!("the provider names {text:?}"))
    }

    fn say(text: &str) {
        // Nobody may be listening.
        let _ = writeln!(stderr(), "{text}");
    }
}
