use std::{io, sync::Mutex as StdMutex};

use axum::{Router, http::HeaderName, response::IntoResponse as _, routing::get};
use dev_idp::keys::Keys;
use serde_json::json;

use super::*;

/// Serves a discovery document and a key set with these headers; returns the issuer.
async fn serve(jwks: Vec<u8>, headers: &[(&'static str, &'static str)]) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = format!("http://{}", listener.local_addr().unwrap());
    let document = json!({ "issuer": issuer, "jwks_uri": format!("{issuer}/jwks") }).to_string();
    let headers: axum::http::HeaderMap = headers
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
        .collect();
    let answer = move |body: Vec<u8>| {
        let headers = headers.clone();
        get(move || async move {
            let mut response = body.into_response();
            response.headers_mut().remove("content-type");
            response.headers_mut().extend(headers);
            response
        })
    };
    let router = Router::new()
        .route("/.well-known/openid-configuration", answer(document.into_bytes()))
        .route("/jwks", answer(jwks));
    tokio::spawn(async move { axum::serve(listener, router).await });
    issuer
}

fn provider(issuer: &str) -> Provider {
    let profile = Profile::new("corp", issuer.parse().unwrap(), vec![]);
    let fetcher = Fetcher::new(None, None).unwrap();
    Provider::new(Arc::new(profile), FetchSchedule::default(), fetcher)
}

#[tokio::test]
async fn q11_keys_are_read_whatever_type_the_server_calls_them() {
    let jwks = json!({ "keys": Keys::generate(1).jwks() }).to_string().into_bytes();
    for headers in [
        &[][..],
        &[("content-type", "application/jwk-set+json")],
        &[("content-type", "text/html; charset=iso-8859-1")],
        &[("content-type", "application/octet-stream")],
        &[("content-type", "binary"), ("content-disposition", "attachment")],
        &[("content-encoding", "identity")],
    ] {
        let issuer = serve(jwks.clone(), headers).await;
        let provider = provider(&issuer);
        provider.fetch().await.unwrap();
        assert_eq!(provider.latest().unwrap().set.len(), 4, "{headers:?}");
    }
    let marked = serve([b"\xef\xbb\xbf", &jwks[..]].concat(), &[]).await;
    provider(&marked).fetch().await.unwrap();
}

#[tokio::test]
async fn q11_a_compressed_response_is_named_as_such() {
    for encoding in ["gzip", "br", "GZIP", "deflate, gzip"] {
        let issuer = serve(vec![0x1f, 0x8b, 8, 0], &[("content-encoding", encoding)]).await;
        let error = provider(&issuer).fetch().await.unwrap_err();
        assert!(matches!(error, FetchError::Encoded { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(encoding) && text.contains("Accept-Encoding: identity"), "{text}");
        assert!(text.contains(&issuer), "{text}");
    }
}

/// The lines that a thread logs.
#[derive(Clone, Default)]
struct Lines(Arc<StdMutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn q11_the_log_names_the_keys_that_are_not_used_once() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber =
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let mut keys = Keys::generate(1).jwks();
    keys[0]["n"] = json!("AQAB");
    let mut encryption = keys[1].clone();
    (encryption["use"], encryption["kid"]) = (json!("enc"), json!("for-encryption"));
    keys.push(encryption);
    let keys = json!({ "keys": keys }).to_string();
    tracing::subscriber::with_default(subscriber, || {
        let provider = provider("https://idp.example.com");
        for _ in 0..3 {
            provider.adopt(KeySet::parse(keys.as_bytes()).unwrap(), Timestamp::now());
        }
    });
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let named: Vec<_> = text.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(named.len(), 1, "{text}");
    assert!(named[0].contains("rsa-1") && named[0].contains("modulus has 17 bits"), "{text}");
    assert!(!text.contains("for-encryption"), "each set may have such keys: {text}");
}

#[test]
fn k7_keys_are_fetched_again_as_the_response_says_within_bounds() {
    let schedule = FetchSchedule::default();
    for (max_age, next) in [(0, 60), (59, 60), (600, 600), (3600, 3600), (1_000_000, 3600)] {
        let next = Duration::from_secs(next);
        assert_eq!(schedule.next(Duration::from_secs(max_age)), next);
        for _ in 0..100 {
            let jittered = with_jitter(next);
            assert!(jittered <= next && jittered >= next.mul_f64(0.79), "{jittered:?}");
        }
    }
}

#[tokio::test]
async fn k4_a_fetch_that_is_dropped_does_not_block_a_later_one() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = format!("http://{}", silent.local_addr().unwrap()).parse().unwrap();
    let profile = Arc::new(Profile::new("corp", issuer, vec![]));
    let fetcher = Fetcher::new(None, None).unwrap();
    let provider = Provider::new(profile, FetchSchedule::default(), fetcher);
    tokio::select! {
        _ = provider.fetch() => panic!("the server is silent"),
        accepted = silent.accept() => drop(accepted.unwrap()),
    }
    assert!(!provider.fetching.load(Ordering::Acquire));
    assert!(provider.refetch().is_some());
}
