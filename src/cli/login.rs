//! `login`: gets a token for curl and git for a person at a terminal.
//!
//! The provider signs the person in, with a browser on this machine (RFC 8252) or with a code in a browser elsewhere
//! (RFC 8628). Neither the agent nor its configuration takes part. The token goes to standard output, everything else to
//! standard error. Between calls tokens are stored in a file that only this person can read.

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
use crate::{gate::Metadata, identity::profile::secure_url, outbound::HttpClient, time::Timestamp};

mod cache;
mod device;
mod loopback;

use cache::Cache;

/// The longest answer of a provider that is read, in bytes.
const MAX_BODY: usize = 512 * 1024;
/// How long a provider may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A stored token that expires sooner is not used: the program that gets it needs some time.
const MIN_LIFETIME: Duration = Duration::from_mins(1);

/// The parts of a discovery document that are needed here (OIDC Discovery section 3).
#[derive(Deserialize)]
struct Provider {
    issuer: String,
    token_endpoint: String,
    authorization_endpoint: Option<String>,
    device_authorization_endpoint: Option<String>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

/// The answer of a token endpoint (RFC 6749 section 5).
#[derive(Deserialize)]
struct TokenAnswer {
    access_token: Option<SecretString>,
    id_token: Option<SecretString>,
    refresh_token: Option<SecretString>,
    expires_in: Option<u64>,
    error: Option<String>,
}

/// A sign-in that is about to begin.
struct Login<'a> {
    args: &'a LoginArgs,
    http: HttpClient,
    provider: Provider,
    /// Whether addresses without TLS are accepted: the provider is on this machine.
    plain: bool,
}

pub(super) fn login(args: &LoginArgs) -> anyhow::Result<ExitCode> {
    // Git also asks its helpers to store and to erase credentials; this one stores its own.
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

/// The token: a stored one, one for a stored refresh token, or one for a new sign-in.
async fn token(args: &LoginArgs) -> anyhow::Result<SecretString> {
    let certificates = match &args.ca_file {
        Some(path) => {
            let pem = std::fs::read(path)
                .with_context(|| format!("cannot read the --ca-file {}", path.display()))?;
            reqwest::Certificate::from_pem_bundle(&pem)?
        }
        None => vec![],
    };
    let http = HttpClient::build(|| {
        let builder = Client::builder().redirect(Policy::none()).timeout(ANSWER_TIMEOUT);
        builder.tls_certs_merge(certificates.clone())
    });
    let http = http.context("cannot set up TLS")?;
    let issuer = match (&args.issuer, &args.gate) {
        (Some(issuer), _) => issuer.clone(),
        (None, Some(gate)) => issuer_of(&http, gate).await?,
        (None, None) => bail!("expected --issuer or --gate"),
    };
    let resource = args.resource.as_deref().unwrap_or_default();
    let name = format!("{issuer} {} {} {resource} {}", args.client_id, args.scope, args.id_token);
    let cache = Cache::open(args.cache.as_deref())?;
    let now = Timestamp::now();
    if let Some(token) = cache.token(&name, now.plus(MIN_LIFETIME)).filter(|_| !args.fresh) {
        return Ok(token);
    }
    let plain = Url::parse(&issuer).is_ok_and(|url| url.scheme() == "http");
    let provider = discover(&http, &issuer, plain).await?;
    let login = Login { args, http, provider, plain };
    let refreshed = match cache.refresh_token(&name).filter(|_| !args.fresh) {
        // If the refresh token is no longer valid, the person signs in again.
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
    cache.store(&name, &token, end, answer.refresh_token.or(before).as_ref());
    Ok(token)
}

/// The issuer whose tokens a workspace's host accepts (RFC 9728); needs `resource_metadata` at the agent.
async fn issuer_of(http: &HttpClient, gate: &str) -> anyhow::Result<String> {
    #[derive(Deserialize)]
    struct Document {
        authorization_servers: Vec<String>,
    }
    let base = secure_url(gate, true).with_context(|| format!("--gate {gate}"))?;
    let url = base.join(Metadata::PATH)?;
    let document: Document = get(http, &url)
        .await
        .with_context(|| format!("{url} does not name the provider: name it with --issuer"))?;
    match document.authorization_servers.as_slice() {
        [only] => Ok(only.clone()),
        several => bail!(
            "the tokens of several providers are accepted there, choose one with --issuer: {}",
            several.join(", ")
        ),
    }
}

/// Reads the discovery document of an issuer.
async fn discover(http: &HttpClient, issuer: &str, plain: bool) -> anyhow::Result<Provider> {
    let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    let url = secure_url(&url, plain).with_context(|| format!("the issuer {issuer}"))?;
    let provider: Provider = get(http, &url).await?;
    if provider.issuer != issuer {
        bail!(
            "{url} is the document of the issuer {:?}, expected exactly {issuer:?}",
            provider.issuer
        );
    }
    Ok(provider)
}

/// Reads a JSON document.
async fn get<T: serde::de::DeserializeOwned>(http: &HttpClient, url: &Url) -> anyhow::Result<T> {
    let response = http.of(url).get(url.clone()).send().await.with_context(|| format!("{url}"))?;
    if !response.status().is_success() {
        bail!("{url}: status {}", response.status());
    }
    serde_json::from_slice(&body(response).await?)
        .with_context(|| format!("{url}: the answer is not the expected document"))
}

/// The body of an answer, up to [`MAX_BODY`].
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
    /// Signs the person in: with a browser on this machine if there is one, or else with a code.
    async fn ask_person(&self) -> anyhow::Result<TokenAnswer> {
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

    /// Gets a new token for a stored refresh token.
    async fn refresh(&self, token: &SecretString) -> anyhow::Result<TokenAnswer> {
        let pairs = [("grant_type", "refresh_token"), ("refresh_token", token.expose_secret())];
        let answer: TokenAnswer = self.post(&self.provider.token_endpoint, &pairs).await?;
        match answer.error {
            Some(error) => bail!("{}", error.escape_debug()),
            None => Ok(answer),
        }
    }

    /// Sends a form to an endpoint as a public client (RFC 8252 section 8.4).
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
            .of(&url)
            .post(url.clone())
            .header("content-type", "application/x-www-form-urlencoded")
            .header("accept", "application/json")
            .body(form.finish());
        let response = request.send().await.with_context(|| format!("{url}"))?;
        let status = response.status();
        let bytes = body(response).await?;
        serde_json::from_slice(&bytes)
            .with_context(|| format!("{url}: status {status}, and the answer cannot be read"))
    }

    /// An address that the provider names, if it is safe to use.
    fn url(&self, text: &str) -> anyhow::Result<Url> {
        secure_url(text, self.plain).with_context(|| format!("the provider names {text:?}"))
    }

    /// Tells the person something on standard error.
    fn say(text: &str) {
        // With standard error closed, the command can still succeed.
        let _ = writeln!(stderr(), "{text}");
    }
}
