//! The running agent as commands reach it: over the unix socket of `[admin]`, with HTTP and JSON.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use reqwest::{Client, Method};
use serde::de::DeserializeOwned;
use tokio::runtime::{Builder, Runtime};

use crate::config::Config;

/// The admin API of the agent that runs with a configuration.
pub(super) struct AdminClient {
    socket: PathBuf,
    client: Client,
    runtime: Runtime,
}

impl AdminClient {
    /// The client for the agent that runs with this configuration file. Nothing is sent yet.
    pub(super) fn new(config: &Path) -> anyhow::Result<Self> {
        let config = Config::load(config)?;
        let Some(admin) = config.admin else {
            bail!("the configuration has no table [admin], so that the agent has no admin socket");
        };
        let client = Client::builder().unix_socket(admin.socket.clone()).no_proxy().build()?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Self { socket: admin.socket, client, runtime })
    }

    /// Sends a request, and reads the answer whatever its status: the API describes errors in the answer.
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
        let answered = answered.with_context(|| {
            format!(
                "no answer at {socket}: is the agent running, and may you write to this socket?"
            )
        })?;
        serde_json::from_slice(&answered).with_context(|| {
            format!("the answer at {socket} is not that of an agent of this version")
        })
    }
}
