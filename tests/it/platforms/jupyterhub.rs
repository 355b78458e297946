//! A real JupyterHub with real single-user servers, behind a real HAProxy whose agent is the hub's
//! proxy.

use std::{
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest as _},
};

use super::{Program, file, free_port, python, secret};
use crate::support::{
    AgentProcess, Client, Haproxy, PATIENCE, Reply, Version, agent::program, until,
};
use dev_idp::DevIdp;
use test_stage::{AgentToml, Setup};

const AGENT_TOKEN: &str = "agent-0123456789abcdef";
const ADMIN_TOKEN: &str = "admin-0123456789abcdef";
const PROXY_TOKEN: &str = "proxy-0123456789abcdef";

struct Stage {
    haproxy: Haproxy,
    agent: AgentProcess,
    idp: DevIdp,
    hub: Program,
    hub_address: SocketAddr,
    http: reqwest::Client,
    directory: TempDir,
}

fn config(issuer: &str, hub: SocketAddr, routes: SocketAddr) -> AgentToml {
    AgentToml::new(issuer)
        .lines("[[issuer]]", "match = [\"username\"]")
        // The Authorization header is free for the hub's own tokens then.
        .table("[credentials]", "cookie = \"gate\"")
        .table("[[host]]", r"pattern = '(?<workspace>[a-z0-9-]+)\.hub\.test'")
        .table("[[host]]", r"pattern = '(?<workspace>hub)\.test'")
        .table(
            "[[source]]",
            &format!(
                "name = \"hub\"\nkind = \"jupyterhub\"\nhost = \"hub.test\"\nurl = \"http://{hub}/hub/api\"\n\
                 token_file = \"agent-token\"\nroutes_listen = \"{routes}\"\nroutes_token_file = \"proxy-token\"\n\
                 resync_seconds = 1"
            ),
        )
        .table("[destinations]", "allow = [\"127.0.0.0/8\"]")
        .admin()
        .audit()
        .table("[haproxy]", "sockets = [\"unix:master.sock\"]")
}

impl Stage {
    async fn start(version: &Version) -> Self {
        let idp = DevIdp::start().await;
        // A token in a cookie is one that browsers send by themselves.
        let setup = Setup::new().with_browser_args();
        let path = setup.path();
        let (hub_address, routes) = (free_port(), free_port());
        secret(path, "agent-token", AGENT_TOKEN);
        secret(path, "proxy-token", PROXY_TOKEN);
        let agent = setup.agent(config(idp.issuer(), hub_address, routes)).await;
        let haproxy = setup.haproxy(version, hub_address).await;
        let home = path.join("hub");
        std::fs::create_dir(&home).unwrap();
        let python = python("jupyterhub");
        let mut command = Command::new(&python);
        command
            .args(["-m", "jupyterhub", "-f"])
            .arg(file("jupyterhub", "jupyterhub_config.py"))
            .current_dir(&home)
            .env("HUB_STATE", &home)
            .env("HUB_BIND", hub_address.to_string())
            .env("HUB_PUBLIC", format!("http://hub.test:{}", haproxy.http.port()))
            .env("HUB_PROXY_API", format!("http://{routes}"))
            .env("HUB_PROXY_TOKEN", PROXY_TOKEN)
            .env("HUB_AGENT_TOKEN", AGENT_TOKEN)
            .env("HUB_ADMIN_TOKEN", ADMIN_TOKEN);
        let hub = Program::start(&mut command, path.join("hub.log"));
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let directory = setup.directory;
        let stage = Self { haproxy, agent, idp, hub, hub_address, http, directory };
        until("the hub to be reached through the gate", async || {
            (stage.get("hub.test", "/hub/api", Some("alice")).await.status == 200).then_some(())
        })
        .await;
        stage
    }

    /// A request to the hub itself, past the gate.
    async fn admin(&self, method: &str, path: &str, body: Value) -> Value {
        let url = format!("http://{}/hub/api/{path}", self.hub_address);
        let request = self.http.request(method.parse().unwrap(), url);
        let request = request.header("authorization", format!("token {ADMIN_TOKEN}"));
        let response = request.body(body.to_string()).send().await.unwrap();
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert!(status.is_success(), "{method} {path}: {status} {text}\n{}", self.hub.log());
        serde_json::from_str(&text).unwrap_or_default()
    }

    async fn request(
        &self,
        method: &str,
        host: &str,
        path: &str,
        user: Option<&str>,
        hub_token: Option<&str>,
    ) -> Reply {
        let reply = self.request_unless_closed(method, host, path, user, hub_token).await;
        reply.unwrap_or_else(|read| panic!("the connection was closed: {}", read.escape_ascii()))
    }

    /// The same, while access ends: a request under way is ended with it.
    async fn request_unless_closed(
        &self,
        method: &str,
        host: &str,
        path: &str,
        user: Option<&str>,
        hub_token: Option<&str>,
    ) -> Result<Reply, Vec<u8>> {
        let gate = user.map(|user| format!("Cookie: gate={}\r\n", self.idp.token_of(user)));
        let hub = hub_token.map(|token| format!("Authorization: token {token}\r\n"));
        let (gate, hub) = (gate.unwrap_or_default(), hub.unwrap_or_default());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n{gate}{hub}\r\n"
        );
        Client::connect(self.haproxy.http).await.raw_unless_closed(request.as_bytes()).await
    }

    async fn get(&self, host: &str, path: &str, user: Option<&str>) -> Reply {
        self.request("GET", host, path, user, None).await
    }

    /// Starts a user's server and waits until the gate leads to it.
    async fn start_server(&self, user: &str) -> String {
        self.admin("POST", &format!("users/{user}/server"), json!({})).await;
        let host = format!("{user}.hub.test");
        until("the server to be routed to", async || {
            let reply = self.get(&host, &format!("/user/{user}/api"), Some(user)).await;
            (reply.status == 200).then_some(())
        })
        .await;
        host
    }

    /// A token of the hub's own for a user, which the single-user server asks for.
    async fn hub_token(&self, user: &str) -> String {
        let answer = self.admin("POST", &format!("users/{user}/tokens"), json!({})).await;
        answer["token"].as_str().unwrap().to_owned()
    }

    async fn websocket(
        &self,
        host: &str,
        path: &str,
        user: &str,
        hub_token: &str,
    ) -> Result<WebSocketStream<TcpStream>, Error> {
        let stream = TcpStream::connect(self.haproxy.http).await.unwrap();
        let url = format!("ws://{host}:{}{path}", self.haproxy.http.port());
        let mut request = url.into_client_request().unwrap();
        let cookie = format!("gate={}", self.idp.token_of(user)).parse().unwrap();
        request.headers_mut().insert("cookie", cookie);
        let value = format!("token {hub_token}").parse().unwrap();
        request.headers_mut().insert("authorization", value);
        client_async(request, stream).await.map(|(socket, _)| socket)
    }

    /// A terminal of a user's server that is running, and has answered.
    async fn terminal(&self, user: &str) -> WebSocketStream<TcpStream> {
        let (host, token) = (self.start_server(user).await, self.hub_token(user).await);
        let path = format!("/user/{user}/api/terminals");
        let created = self.request("POST", &host, &path, Some(user), Some(&token)).await;
        assert_eq!(created.status, 200, "{}", created.body);
        let name: Value = serde_json::from_str(&created.body).unwrap();
        let path = format!("/user/{user}/terminals/websocket/{}", name["name"].as_str().unwrap());
        let mut socket = self.websocket(&host, &path, user, &token).await.unwrap();
        typed(&mut socket, 40).await;
        socket
    }

    /// The records of terminated tunnels: who, and why.
    fn terminations(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(self.directory.path().join("audit.jsonl")).unwrap();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let all = whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let terminations = all.filter(|record| record["event"] == "tunnel_terminate");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        terminations.map(|record| (text(&record["user"]), text(&record["cause"]))).collect()
    }

    async fn end(mut self) {
        self.hub.terminate();
        assert!(self.agent.end().await);
        drop(self.directory);
    }
}

/// Lets the shell of a terminal add two to a number.
async fn typed(socket: &mut WebSocketStream<TcpStream>, number: u32) {
    let line = json!(["stdin", format!("echo $(({number}+2))=\r")]);
    socket.send(Message::text(line.to_string())).await.unwrap();
    let mut written = String::new();
    until("the shell's answer", async || {
        let Ok(Some(Ok(Message::Text(text)))) = timeout(PATIENCE, socket.next()).await else {
            return None;
        };
        let message: Value = serde_json::from_str(&text).unwrap();
        if message[0] == "stdout" {
            written += message[1].as_str().unwrap();
        }
        written.contains(&format!("{}=", number + 2)).then_some(())
    })
    .await;
}

/// Waits for the end of a terminal; returns when it was.
async fn ended(mut socket: WebSocketStream<TcpStream>) -> Instant {
    let rest = async { while let Some(Ok(_)) = socket.next().await {} };
    timeout(PATIENCE, rest).await.expect("the terminal is still open");
    Instant::now()
}

/// Runs a line of Python in a kernel over its WebSocket.
async fn compute(socket: &mut WebSocketStream<TcpStream>, code: &str) -> String {
    let message = json!({
        "header": {
            "msg_id": "1", "msg_type": "execute_request", "session": "s", "username": "",
            "date": "", "version": "5.4",
        },
        "parent_header": {}, "metadata": {}, "channel": "shell", "buffers": [],
        "content": {
            "code": code, "silent": false, "store_history": false, "user_expressions": {},
            "allow_stdin": false, "stop_on_error": true,
        },
    });
    socket.send(Message::text(message.to_string())).await.unwrap();
    loop {
        let message = socket.next().await.unwrap().unwrap();
        let Message::Text(text) = message else { continue };
        let message: Value = serde_json::from_str(&text).unwrap();
        if let Some(result) = message.pointer("/content/data/text~1plain") {
            return result.as_str().unwrap().to_owned();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs JupyterHub: make platforms"]
async fn a_notebook_server_is_its_owners_and_gone_when_it_stops() {
    for version in Version::all() {
        let stage = Stage::start(version).await;
        let host = stage.start_server("alice").await;
        let path = "/user/alice/api";
        for (user, status, reason) in
            [(None, 401, "credential_missing"), (Some("bob"), 403, "not_permitted")]
        {
            let reply = stage.get(&host, path, user).await;
            assert_eq!(reply.status, status, "{version:?}");
            assert!(reply.body.contains(reason), "{}", reply.body);
        }
        let token = stage.hub_token("alice").await;
        let kernels = "/user/alice/api/kernels";
        let created = stage.request("POST", &host, kernels, Some("alice"), Some(&token)).await;
        assert_eq!(created.status, 201, "{}", created.body);
        let kernel: Value = serde_json::from_str(&created.body).unwrap();
        let channels = format!("{kernels}/{}/channels", kernel["id"].as_str().unwrap());
        let refused = stage.websocket(&host, &channels, "bob", &token).await.unwrap_err();
        assert!(refused.to_string().contains("403"), "{refused}");
        let mut socket = stage.websocket(&host, &channels, "alice", &token).await.unwrap();
        assert_eq!(compute(&mut socket, "6 * 7").await, "42");

        // The hub tells its proxy first and ends the server then, so that from the first refusal on,
        // and before the hub says that it is done, everything is refused.
        let start = Instant::now();
        let stopping = stage.admin("DELETE", "users/alice/server", json!({}));
        let refused = async {
            until("the refusal", async || {
                let asked = stage.request_unless_closed("GET", &host, path, Some("alice"), None);
                asked.await.ok().filter(|reply| reply.status == 404)
            })
            .await;
            start.elapsed()
        };
        let (_, refused) = tokio::join!(stopping, refused);
        println!(
            "{version:?}: refused {refused:?} after the stop was asked for; the server ended after {:?}",
            start.elapsed()
        );
        let reply = stage.get(&host, path, Some("alice")).await;
        assert!(reply.body.contains("workspace_unknown"), "{}", reply.body);
        stage.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs JupyterHub: make platforms"]
async fn a_terminal_is_terminated_when_its_user_is_logged_out_and_when_its_server_stops() {
    for version in
        Version::all().iter().filter(|v| !matches!(v, Version::Container(t) if t == "2.6"))
    {
        let stage = Stage::start(version).await;
        let alices = stage.terminal("alice").await;
        let mut bobs = stage.terminal("bob").await;
        // Everything that alice was given so far is refused from now on.
        let start = Instant::now();
        let revoked = Command::new(program())
            .args(["revoke", "--subject", "sub-alice", "--before", "now", "--config"])
            .arg(stage.directory.path().join("agent.toml"))
            .output()
            .unwrap();
        assert!(revoked.status.success(), "{revoked:?}");
        let took = ended(alices).await - start;
        println!("{version:?}: logged out, terminated after {took:?}");
        assert!(took < Duration::from_secs(1), "{took:?}");
        typed(&mut bobs, 50).await;
        // The hub takes the route away before it ends the server: the terminal is terminated, and not by that.
        let start = Instant::now();
        let (_, end) =
            tokio::join!(stage.admin("DELETE", "users/bob/server", json!({})), ended(bobs),);
        println!("{version:?}: server stopped, terminated after {:?}", end - start);
        assert!(end - start < Duration::from_secs(1), "{:?}", end - start);
        let terminations = until("the records", async || {
            let terminations = stage.terminations();
            (terminations.len() == 2).then_some(terminations)
        })
        .await;
        let want = [("alice", "token_revoked"), ("bob", "workspace_unknown")];
        assert_eq!(terminations, want.map(|(user, cause)| (user.to_owned(), cause.to_owned())));
        stage.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs JupyterHub: make platforms"]
async fn a_server_that_is_shared_is_open_to_whom_it_is_shared_with() {
    let stage = Stage::start(Version::newest()).await;
    let host = stage.start_server("alice").await;
    let path = "/user/alice/api";
    assert_eq!(stage.get(&host, path, Some("carol")).await.status, 403);
    stage.admin("POST", "shares/alice/", json!({ "user": "carol" })).await;
    until("carol to get in", async || {
        (stage.get(&host, path, Some("carol")).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(stage.get(&host, path, Some("bob")).await.status, 403);
    // dave is of the team.
    stage.admin("POST", "shares/alice/", json!({ "group": "team" })).await;
    until("dave to get in", async || {
        (stage.get(&host, path, Some("dave")).await.status == 200).then_some(())
    })
    .await;
    stage.admin("DELETE", "shares/alice/", json!({})).await;
    until("both to be out", async || {
        let carol = stage.get(&host, path, Some("carol")).await;
        let dave = stage.get(&host, path, Some("dave")).await;
        (carol.status == 403 && dave.status == 403).then_some(())
    })
    .await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs JupyterHub: make platforms"]
async fn an_agent_that_starts_again_gets_every_route_back_from_the_hub() {
    let mut stage = Stage::start(Version::newest()).await;
    let host = stage.start_server("alice").await;
    // A second server of the same user, below a path of the same host.
    stage.admin("POST", "users/alice/servers/gpu", json!({})).await;
    let named = "/user/alice/gpu/api";
    until("the named server", async || {
        (stage.get(&host, named, Some("alice")).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(stage.get(&host, named, Some("bob")).await.status, 403);
    stage.agent.kill();
    let directory = stage.directory.path().to_owned();
    stage.agent = AgentProcess::start(&directory).await;
    for path in ["/user/alice/api", named] {
        until("the route to be back", async || {
            (stage.get(&host, path, Some("alice")).await.status == 200).then_some(())
        })
        .await;
    }
    // Only the hub may write routes.
    let text = std::fs::read_to_string(directory.join("agent.toml")).unwrap();
    let routes = text.split("routes_listen = \"").nth(1).unwrap().split('"').next().unwrap();
    for token in ["", "token ", "token wrong", "Bearer proxy-0123456789abcdef"] {
        let url = format!("http://{routes}/api/routes/bob.hub.test/user/bob");
        let request = stage.http.post(url).header("authorization", token);
        let reply = request.body(r#"{"target":"http://127.0.0.1:1"}"#).send().await.unwrap();
        assert_eq!(reply.status(), 403, "{token:?}");
    }
    stage.admin("DELETE", "users/alice/servers/gpu", json!({})).await;
    let reply = stage.get(&host, named, Some("alice")).await;
    // The default server answers now: the path is below its own.
    assert_eq!(reply.status, 404, "{}", reply.body);
    stage.end().await;
}
