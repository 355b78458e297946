//! The running agent, asked over its admin socket.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use reqwest::{Client, Method};
use serde::de::DeserializeOwned;
use tokio::runtime::{Builder, Runtime};

use crate::config::Config;

pub(super) struct Agent {
    socket: PathBuf,
    client: Client,
    runtime: Runtime,
}

impl Agent {
    /// The agent that runs with this configuration.
    pub(super) fn of(config: &Path) -> anyhow::Result<Self> {
        let config = Config::load(config)?;
        let Some(admin) = config.admin else {
            bail!("the configuration has no [admin] table: the agent cannot be asked");
        };
        let client = Client::builder().unix_socket(admin.socket.clone()).build()?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Self { socket: admin.socket, client, runtime })
    }

    pub(super) fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> anyhow::Result<T> {
        let socket = self.socket.display();
        let mut request = self.client.request(method, format!("http://agent{path}"));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let answered = self.runtime.block_on(async {
            let reply = request.send().await?;
            reply.bytes().await
        });
        let answered =
            answered.with_context(|| format!("no answer at {socket}: is the agent running?"))?;
        serde_json::from_slice(&answered)
            .with_context(|| format!("what answers at {socket} is no agent of this version"))
    }
}
