//! What a collector gets, and what it must not get.

use std::sync::{Arc, Mutex};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest, common::v1::any_value::Value, trace::v1::Span,
};
use prost::Message as _;

use dev_idp::DevIdp;
use test_stage::{ALICES, Client, Haproxy, Stage, Version, haproxy::root, host, until};

/// Loads a configuration with this table.
fn load(table: &str) -> Result<identity_spoa::config::Config, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.toml");
    let text = test_stage::config("http://127.0.0.1:1");
    std::fs::write(&path, format!("{text}\n{table}")).unwrap();
    identity_spoa::config::Config::load(&path).map_err(|m| m.to_string())
}

#[test]
fn spans_leave_this_machine_by_https_alone() {
    for good in
        ["http://127.0.0.1:4318/v1/traces", "http://[::1]:1/", "https://otel.example/v1/traces"]
    {
        assert!(load(&format!("[traces]\nendpoint = '{good}'")).is_ok(), "{good}");
    }
    for bad in [
        "http://otel.example/v1/traces",
        "http://10.0.0.1/",
        "https://user:secret@otel.example/",
        "ftp://127.0.0.1/",
        "unix:/run/x",
    ] {
        assert!(load(&format!("[traces]\nendpoint = '{bad}'")).is_err(), "{bad}");
    }
}

/// A collector that keeps what it gets.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

impl Collector {
    async fn start(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let take = async |State(collector): State<Self>, body: Bytes| {
            let request = ExportTraceServiceRequest::decode(body).unwrap();
            collector.0.lock().unwrap().push(request);
            StatusCode::OK
        };
        let router = Router::new().route("/v1/traces", post(take)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        format!("http://{address}/v1/traces")
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.0.lock().unwrap();
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        resources.flat_map(|r| &r.scope_spans).flat_map(|s| s.spans.clone()).collect()
    }
}

fn text(span: &Span, name: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == name)?;
    match found.value.clone()?.value? {
        Value::StringValue(text) => Some(text),
        Value::BoolValue(value) => Some(value.to_string()),
        other => panic!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_span_of_a_request_through_haproxy_joins_its_unique_id_or_its_trace() {
    let collector = Collector::default();
    let endpoint = collector.start().await;
    let stage = Stage::changed(Version::newest(), DevIdp::start().await, |_, config, _| {
        *config += &format!("\n[traces]\nendpoint = \"{endpoint}\"\nsample_ratio = 1.0\n");
    })
    .await;
    // The shipped configuration with the argument that docs/monitoring names.
    let copy = tempfile::tempdir_in(stage.directory.path()).unwrap();
    let copied = std::process::Command::new("cp")
        .arg("-r")
        .arg(root().join("haproxy/."))
        .arg(copy.path())
        .status()
        .unwrap();
    assert!(copied.success());
    let engine = copy.path().join("identity.spoe.cfg");
    let given = std::fs::read_to_string(&engine).unwrap();
    let argument = "args unique_id=unique-id method=";
    assert!(given.contains(argument));
    let added = "args traceparent=req.fhdr(traceparent) unique_id=unique-id method=";
    std::fs::write(&engine, given.replacen(argument, added, 1)).unwrap();
    let (directory, socket) = (stage.directory.path(), stage.agent.socket());
    let (version, named) = (Version::newest(), stage.alice.address());
    let haproxy = Haproxy::start_from(copy.path(), version, directory, &socket, named).await;
    let token = stage.idp.token_of("alice");
    until("the second gate to open", async || {
        let reply = Client::connect(haproxy.http).await.get(&host(ALICES), Some(&token)).await;
        (reply.status == 200).then_some(())
    })
    .await;

    // Without a parent, the trace is the unique id.
    let id = until("the span without a parent", async || {
        let spans = collector.spans();
        let span = spans.iter().find(|span| {
            text(span, "identity.verdict").as_deref() == Some("allow")
                && span.parent_span_id.is_empty()
        })?;
        assert_eq!(span.name, "authorize");
        let unique = text(span, "haproxy.unique_id").unwrap();
        assert_eq!(unique.replace('-', ""), hex(&span.trace_id));
        assert_eq!(text(span, "identity.workspace").as_deref(), Some(ALICES));
        assert_eq!(text(span, "enduser.id"), None);
        assert!(text(span, "identity.cache_hit").is_some());
        text(span, "identity.decision_id")
    })
    .await;
    until("the record of the decision", async || {
        stage.audit().iter().any(|record| record["decision_id"] == *id).then_some(())
    })
    .await;

    // With one that says "not sampled", it is the parent's; what the client says moves nothing else.
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    let lines = format!("Authorization: Bearer {token}\r\ntraceparent: {parent}\r\n");
    let reply = Client::connect(haproxy.http).await.send(&host(ALICES), lines.as_bytes()).await;
    assert_eq!(reply.status, 200);
    until("the span with a parent", async || {
        let spans = collector.spans();
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let span = spans.iter().find(|span| hex(&span.trace_id) == trace)?;
        (hex(&span.parent_span_id) == "00f067aa0ba902b7" && text(span, "identity.reason").is_some())
            .then_some(())
    })
    .await;
    // A refusal has one too, whatever its traceparent is.
    let lines = "traceparent: 00-nonsense\r\n";
    let reply = Client::connect(haproxy.http).await.send(&host(ALICES), lines.as_bytes()).await;
    assert_eq!(reply.status, 401);
    until("the span of the refusal", async || {
        let spans = collector.spans();
        let deny =
            |span: &&Span| text(span, "identity.reason").as_deref() == Some("credential_missing");
        spans.iter().find(deny).map(drop)
    })
    .await;
    // Keys are fetched in spans of their own, and no span says anything of a token.
    until("the fetch of keys", async || {
        collector.spans().iter().any(|span| span.name == "jwks").then_some(())
    })
    .await;
    let all = format!("{:?}", collector.spans());
    assert!(!all.contains(token.rsplit('.').next().unwrap()) && !all.contains(&token[..20]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_moves_no_decision() {
    let closed = test_stage::haproxy::free_port();
    let stage = Stage::changed(Version::newest(), DevIdp::start().await, |_, config, _| {
        *config += &format!(
            "\n[traces]\nendpoint = \"http://{closed}/\"\nsample_ratio = 1.0\nuser = true\n"
        );
    })
    .await;
    until("the log to say so", async || {
        assert_eq!(stage.get(&host(ALICES), Some("alice")).await.status, 200);
        assert_eq!(stage.get(&host(ALICES), None).await.status, 401);
        stage.agent.log().contains("sending spans failed").then_some(())
    })
    .await;
}
