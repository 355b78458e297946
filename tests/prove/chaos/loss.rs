//! Packets of the loopback device that are lost on their way to and from chosen ports.

use std::process::{Command, Stdio};

/// Which share of the packets is lost.
const SHARE: &str = "0.05";

/// Loses packets until dropped.
pub struct Loss(Vec<Vec<String>>);

impl Loss {
    /// Begins to lose packets of these ports; `None` where the packet filter cannot be used.
    pub fn begin(ports: &[u16]) -> Option<Self> {
        let mut loss = Self(vec![]);
        for port in ports {
            for end in ["--dport", "--sport"] {
                let port = port.to_string();
                let rule =
                    ["INPUT", "-i", "lo", "-p", "tcp", end, &port, "-m", "statistic", "--mode"];
                let rule = rule.into_iter().chain(["random", "--probability", SHARE, "-j", "DROP"]);
                let rule: Vec<String> = rule.map(str::to_owned).collect();
                if !filter("-A", &rule) {
                    return None;
                }
                loss.0.push(rule);
            }
        }
        Some(loss)
    }

    /// Whether packets can be lost here.
    pub fn is_possible() -> bool {
        // A port without a server.
        Self::begin(&[1]).is_some()
    }
}

impl Drop for Loss {
    fn drop(&mut self) {
        for rule in &self.0 {
            filter("-D", rule);
        }
    }
}

fn filter(what: &str, rule: &[String]) -> bool {
    let status = Command::new("iptables")
        .arg(what)
        .args(rule)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}
