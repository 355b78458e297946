//! A browser at the gate: keeps the cookies of each host apart, follows where it is sent.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use reqwest::{
    Method,
    header::{LOCATION, REFRESH, SET_COOKIE},
};

use test_stage::LOGIN;

/// One browser. Speaks to HAProxy's plain listener, as behind a terminator of TLS.
pub struct Browser {
    gate: SocketAddr,
    port: u16,
    http: reqwest::Client,
    cookies: BTreeMap<String, BTreeMap<String, String>>,
}

struct Page {
    status: u16,
    location: Option<String>,
    /// The address of the ticket that this page delivers before the browser goes on.
    ticket: Option<String>,
    body: String,
}

impl Browser {
    /// `port` is what the agent believes to be the port of https.
    pub fn new(gate: SocketAddr, port: u16) -> Self {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(10))
            .build()
            .unwrap();
        Self { gate, port, http, cookies: BTreeMap::new() }
    }

    async fn ask(
        &mut self,
        method: Method,
        host: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Page, String> {
        let host_and_port = format!("{host}:{}", self.port);
        let mut request = self
            .http
            .request(method, format!("http://{}{path}", self.gate))
            .header("host", host_and_port);
        let jar = self.cookies.entry(host.into()).or_default();
        if !jar.is_empty() {
            let pairs: Vec<_> = jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
            request = request.header("cookie", pairs.join("; "));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.map_err(|error| format!("{error:?}"))?;
        for cookie in response.headers().get_all(SET_COOKIE) {
            let Some((name, rest)) = cookie.to_str().unwrap_or_default().split_once('=') else {
                continue;
            };
            if rest.contains("Max-Age=0") {
                jar.remove(name);
            } else {
                jar.insert(name.into(), rest.split(';').next().unwrap_or_default().into());
            }
        }
        let headers = response.headers();
        let text = |name| headers.get(name).and_then(|l| l.to_str().ok()).map(str::to_owned);
        let refresh = text(REFRESH).and_then(|text| Some(text.split_once("url=")?.1.to_owned()));
        let location = text(LOCATION).or_else(|| refresh.clone());
        let status = response.status().as_u16();
        let body = response.text().await.map_err(|error| error.to_string())?;
        let ticket = refresh.and_then(|_| {
            let image = body.split("<img src=\"").find(|image| image.contains("/finish?t="))?;
            Some(image.split('"').next()?.to_owned())
        });
        Ok(Page { status, location, ticket, body })
    }

    async fn get(&mut self, host: &str, path: &str) -> Result<Page, String> {
        let html = [
            ("accept", "text/html"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
        ];
        self.ask(Method::GET, host, path, &html).await
    }

    /// Opens a workspace's address and signs in on the way, as the person who is signed in at the provider. Returns
    /// the cookie of that host.
    ///
    /// # Errors
    /// Where it ended instead.
    pub async fn sign_in(&mut self, host: &str) -> Result<String, String> {
        let mut page = self.get(host, "/").await?;
        for _ in 0..10 {
            let Some(location) = page.location.clone() else { break };
            if let Some(ticket) = &page.ticket {
                let (host, path) = parts(ticket.strip_prefix("https://").unwrap_or_default());
                let origin = format!("https://{LOGIN}:{}", self.port);
                self.ask(Method::GET, &host, &path, &[("origin", &origin)]).await?;
            }
            page = if let Some(rest) = location.strip_prefix("https://") {
                let (host, path) = parts(rest);
                self.get(&host, &path).await?
            } else {
                let response = self.http.get(&location).send().await;
                let response = response.map_err(|error| error.to_string())?;
                let location = response.headers().get(LOCATION);
                let location = location.and_then(|l| l.to_str().ok()).map(str::to_owned);
                Page {
                    status: response.status().as_u16(),
                    location,
                    ticket: None,
                    body: String::new(),
                }
            };
        }
        let jar = self.cookies.get(host);
        match jar.and_then(|jar| jar.iter().find(|(name, _)| name.starts_with("__Host-identity"))) {
            Some((name, value)) if page.status == 200 => Ok(format!("{name}={value}")),
            _ => Err({
                // A page says its reason in the middle of it.
                let reason = page.body.split("\"reason\">").nth(1).unwrap_or(&page.body);
                format!("{} {}", page.status, reason.chars().take(80).collect::<String>())
            }),
        }
    }

    /// Signs out at the login host.
    ///
    /// # Errors
    /// It did not work.
    pub async fn sign_out(&mut self) -> Result<(), String> {
        let path = "/.well-known/identity-spoa/sign-out";
        let headers = [
            ("content-type", "application/x-www-form-urlencoded"),
            ("origin", "null"),
            ("sec-fetch-site", "same-origin"),
        ];
        let page = self.ask(Method::POST, LOGIN, path, &headers).await?;
        if page.status == 303 { Ok(()) } else { Err(format!("{} {}", page.status, page.body)) }
    }
}

/// Host and path of an address without its scheme.
fn parts(rest: &str) -> (String, String) {
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    (authority.split(':').next().unwrap_or_default().to_owned(), format!("/{path}"))
}
