//! Reuse between the streams of one HTTP/2 connection.

use std::collections::BTreeSet;

use super::stage;
use crate::support::{ALICES, Stage, Version, host};

/// A browser's connection to alice's workspace.
struct Browser {
    client: reqwest::Client,
    url: String,
}

impl Browser {
    fn new(stage: &Stage) -> Self {
        let https = stage.haproxy.https;
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_danger_accept_invalid_certs(true)
            .resolve(&host(ALICES), https)
            .build()
            .unwrap();
        Self { client, url: format!("https://{}:{}/", host(ALICES), https.port()) }
    }

    /// The id of the decision by which a request passed.
    async fn decision(&self, token: &str, cookie: &str) -> String {
        let request = self.client.get(&self.url).bearer_auth(token).header("cookie", cookie);
        let reply = request.send().await.unwrap();
        assert_eq!(reply.version(), reqwest::Version::HTTP_2);
        let status = reply.status();
        let text = reply.text().await.unwrap();
        assert_eq!(status, 200, "{text}");
        let line = text.lines().find(|line| line.starts_with("x-identity-decision-id"));
        line.unwrap().to_owned()
    }

    /// The ids of the decisions by which this many requests passed that are sent together.
    async fn decisions(&self, token: &str, cookie: &str, count: usize) -> BTreeSet<String> {
        let all = (0..count).map(|_| self.decision(token, cookie));
        futures_util::future::join_all(all).await.into_iter().collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_follow_each_other_are_reused() {
    for version in Version::all() {
        let stage = stage(version, 60_000, true).await;
        let alice = stage.idp.token_of("alice");
        let browser = Browser::new(&stage);
        let first = browser.decision(&alice, "a=b").await;
        for _ in 0..20 {
            assert_eq!(browser.decision(&alice, "a=b").await, first, "{version:?}");
        }
        // Nor does it matter that they come at once, where they are like the one that was asked about.
        let burst = browser.decisions(&alice, "a=b", 24).await;
        assert_eq!(burst, BTreeSet::from([first]), "{version:?}");
    }
}

/// HAProxy 3.2 and 3.4 lose a connection to the agent if more responses arrive together than fit
/// their buffer of 16 kB; each request on it then times out.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_whose_answers_fill_haproxys_buffer_is_answered() {
    for version in Version::all() {
        let reusing = stage(version, 60_000, true).await;
        let plain = Stage::start(version).await;
        // Without ours, the cookies are part of the answer.
        let cookies = format!("__Host-identity=x; a={}", "c".repeat(1500));
        for (stage, cookies) in [(&reusing, "a=b"), (&reusing, &cookies), (&plain, &cookies)] {
            let carol = stage.idp.token_of("carol");
            for _ in 0..3 {
                // A new connection: nothing of it was asked about yet.
                let burst = Browser::new(stage).decisions(&carol, cookies, 40).await;
                assert!(!burst.is_empty(), "{version:?}");
            }
        }
    }
}
