//! A real Redis, on a unix socket of its own.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use redis::Client;

use super::until;

/// A running store, empty at its start; killed when dropped.
pub struct Redis {
    socket: PathBuf,
    child: Option<Child>,
}

impl Redis {
    /// Starts one with its socket in the directory.
    pub async fn start(directory: &Path) -> Self {
        let mut redis = Self { socket: directory.join("redis.sock"), child: None };
        redis.restart().await;
        redis
    }

    /// Starts it again, with nothing in it.
    pub async fn restart(&mut self) {
        self.kill();
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--requirepass", "p4ss&+"])
            .arg("--unixsocket")
            .arg(&self.socket)
            .arg("--dir")
            .arg(self.socket.parent().unwrap())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        until("redis to answer", async || {
            let mut connection = self.connect().await.ok()?;
            redis::cmd("PING").query_async::<String>(&mut connection).await.ok()
        })
        .await;
    }

    async fn connect(&self) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
        let client = Client::open(format!("unix://{}?pass=p4ss%26%2B", self.socket.display()))?;
        client.get_multiplexed_async_connection().await
    }

    /// Its table `[redis]`.
    pub fn table(&self, more: &str) -> String {
        let socket = self.socket.display();
        std::fs::write(self.socket.with_file_name("redis-password"), "p4ss&+\n").unwrap();
        let password = self.socket.with_file_name("redis-password");
        let password = password.display();
        format!("[redis]\nurl = 'redis+unix://{socket}'\npassword_file = '{password}'\n{more}\n")
    }

    /// Does one command.
    pub async fn ask<T: redis::FromRedisValue>(&self, command: &str) -> T {
        let mut words = command.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        words.for_each(|word| {
            command.arg(word);
        });
        command.query_async(&mut self.connect().await.unwrap()).await.unwrap()
    }

    pub fn signal(&self, signal: &str) {
        let kill = format!("kill {signal} {}", self.child.as_ref().unwrap().id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
