//! The pods of the cluster: each has an address of loopback of its own, all have the same ports.

use std::net::{IpAddr, Ipv4Addr};

use tokio::net::TcpListener;

/// Where the pods are.
pub struct Pods {
    net: [u8; 2],
    pub main_port: u16,
    pub public_port: u16,
}

impl Pods {
    /// Starts so many.
    pub async fn start(count: usize) -> Self {
        let [a, b, ..] = std::process::id().to_le_bytes();
        // No other program uses these addresses.
        let net = [64 + a % 64, b];
        let mut pods = Self { net, main_port: 0, public_port: 0 };
        let free = async |address| {
            TcpListener::bind((address, 0)).await.unwrap().local_addr().unwrap().port()
        };
        pods.main_port = free(pods.address(0)).await;
        pods.public_port = free(pods.address(0)).await;
        for slot in 0..count {
            for port in [pods.main_port, pods.public_port] {
                let listener = TcpListener::bind((pods.address(slot), port)).await.unwrap();
                crate::upstream::serve(listener, slot);
            }
        }
        pods
    }

    pub fn address(&self, slot: usize) -> IpAddr {
        let [a, b] = self.net;
        IpAddr::V4(Ipv4Addr::new(127, a, b, u8::try_from(slot + 1).unwrap()))
    }
}
