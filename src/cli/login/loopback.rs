//! Sign-in with a browser on this machine, which returns to a port of loopback (RFC 8252 section 7.3).
//!
//! PKCE, `state` and the issuer (RFC 9207) are checked, since any page can send requests to that port.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, bail};
use aws_lc_rs::{digest, rand};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use url::Url;

use super::{Login, TokenAnswer};

/// How long the person may take to sign in.
const SIGN_IN_TIMEOUT: Duration = Duration::from_mins(5);
/// How long a browser may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest request that is read, in bytes.
const MAX_REQUEST: usize = 16 * 1024;

/// Opens the browser, waits for the code, and exchanges it for a token.
pub(super) async fn ask(login: &Login<'_>, page: &str) -> anyhow::Result<TokenAnswer> {
    let listener = TcpListener::bind(("127.0.0.1", login.args.port)).await;
    let listener = listener.context("cannot listen on loopback, where the browser returns")?;
    let back = format!("http://127.0.0.1:{}/callback", listener.local_addr()?.port());
    let (state, verifier) = (random()?, random()?);
    let challenge = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, verifier.as_bytes()));
    let mut url = login.url(page)?;
    url.query_pairs_mut()
        .append_pair("response_type", "code")
        .append_pair("client_id", &login.args.client_id)
        .append_pair("redirect_uri", &back)
        .append_pair("scope", &login.args.scope)
        .append_pair("state", &state)
        .append_pair("code_challenge", &challenge)
        .append_pair("code_challenge_method", "S256");
    if let Some(resource) = &login.args.resource {
        url.query_pairs_mut().append_pair("resource", resource).append_pair("audience", resource);
    }
    Login::say(&format!("Sign in at\n{url}"));
    open(&url);
    let code = timeout(SIGN_IN_TIMEOUT, answer(&listener, login, &state)).await;
    let code = code.context("the time to sign in is over")??;
    let pairs = [
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("redirect_uri", &back),
        ("code_verifier", &verifier),
    ];
    let answer: TokenAnswer = login.post(&login.provider.token_endpoint, &pairs).await?;
    match answer.error {
        Some(error) => bail!("not signed in: {}", error.escape_debug()),
        None => Ok(answer),
    }
}

/// Waits for the browser with the code. Any page can send requests here, so those without the state are refused.
async fn answer(listener: &TcpListener, login: &Login<'_>, state: &str) -> anyhow::Result<String> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        let Some(target) = timeout(REQUEST_TIMEOUT, target(&mut stream)).await.ok().flatten()
        else {
            continue;
        };
        let Ok(url) = Url::parse("http://127.0.0.1/").and_then(|base| base.join(&target)) else {
            continue;
        };
        let parameter = |name: &str| {
            let mut pairs = url.query_pairs();
            pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
        };
        if url.path() != "/callback" || parameter("state").as_deref() != Some(state) {
            reply(&mut stream, "404 Not Found", "There is nothing here.").await;
            continue;
        }
        let issuer = parameter("iss");
        let is_foreign = match &issuer {
            Some(issuer) => *issuer != login.provider.issuer,
            None => login.provider.authorization_response_iss_parameter_supported,
        };
        if is_foreign {
            reply(
                &mut stream,
                "400 Bad Request",
                "This is not the provider at which you began to sign in.",
            )
            .await;
            bail!("the answer is not from {}", login.provider.issuer);
        }
        if let Some(error) = parameter("error") {
            reply(&mut stream, "200 OK", "You are not signed in. You can close this window.").await;
            bail!("not signed in: {}", error.escape_debug());
        }
        let Some(code) = parameter("code") else {
            reply(&mut stream, "400 Bad Request", "There is no code.").await;
            continue;
        };
        reply(&mut stream, "200 OK", "You are signed in. You can close this window.").await;
        return Ok(code);
    }
}

/// The target of a GET request.
async fn target(stream: &mut TcpStream) -> Option<String> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if request.len() >= MAX_REQUEST || stream.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
    }
    let line = std::str::from_utf8(request.split(|b| *b == b'\r').next()?).ok()?;
    let mut words = line.split(' ');
    (words.next() == Some("GET")).then(|| words.next().map(str::to_owned)).flatten()
}

/// Answers the browser with a line of text.
async fn reply(stream: &mut TcpStream, status: &str, text: &str) {
    let length = text.len();
    let reply = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nReferrer-Policy: no-referrer\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n{text}"
    );
    // A browser that has closed the connection needs no answer.
    let _ = stream.write_all(reply.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// Opens the person's browser. If that fails, the person can use the printed address.
fn open(url: &Url) {
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let mut command = std::process::Command::new(program);
    let command = command.arg(url.as_str()).stdin(Stdio::null()).stdout(Stdio::null());
    drop(command.stderr(Stdio::null()).spawn());
}

/// A random text for state and verifier.
fn random() -> anyhow::Result<String> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).ok().context("the system gives no random numbers")?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}
