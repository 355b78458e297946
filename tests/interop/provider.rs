//! A provider as a process: code of another project, on a port that the system chose.

use std::{
    fs::File,
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;
use url::form_urlencoded;

use crate::until;

/// A running provider; killed when dropped. It ends by itself too when its standard input does.
pub(crate) struct Provider {
    child: Child,
    directory: TempDir,
    http: reqwest::Client,
    /// The issuer identifier, which is where it answers.
    pub issuer: String,
}

impl Provider {
    /// Starts it and waits until it says `listening ISSUER`.
    pub(crate) async fn start(mut command: Command) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log = File::create(directory.path().join("log")).unwrap();
        let child = command
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}: start it by 'make interop'"));
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut provider = Self { child, directory, http, issuer: String::new() };
        provider.issuer = until("the provider to listen", async || {
            let log = provider.log();
            assert!(provider.child.try_wait().unwrap().is_none(), "{log}");
            // A line that ends: half a port is another one.
            let (_, rest) = log.split_once("listening ")?;
            rest.split_once('\n').map(|(issuer, _)| issuer.to_owned())
        })
        .await;
        provider
    }

    /// Posts a form and reads JSON.
    pub(crate) async fn post(
        &self,
        path: &str,
        form: &[(&str, &str)],
        headers: &[(&str, &str)],
    ) -> Value {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let mut request = self
            .http
            .post(format!("{}{path}", self.issuer))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {text}\n{}", self.log());
        serde_json::from_str(&text).unwrap()
    }

    /// The access token of a token endpoint.
    pub(crate) async fn token(
        &self,
        path: &str,
        form: &[(&str, &str)],
        headers: &[(&str, &str)],
    ) -> String {
        let answer = self.post(path, form, headers).await;
        answer["access_token"].as_str().unwrap().to_owned()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        // A provider that ended already is not an error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
