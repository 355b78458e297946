//! A development OpenID provider as a program; see [`dev_idp`]. FOR TESTS AND THE DEMO ONLY.

use std::net::SocketAddr;

use clap::Parser;

/// A development OpenID provider. It gives a token to every client.
#[derive(Parser)]
struct Args {
    /// Where to listen, on loopback
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The path of the issuer
    #[arg(long, default_value = "")]
    issuer_path: String,
}

#[tokio::main(flavor = "current_thread")]
#[allow(clippy::print_stdout, reason = "the line that says it is ready")]
async fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let idp = dev_idp::DevIdp::start_at(args.listen, &args.issuer_path).await?;
    println!("{}", serde_json::json!({"ready": true, "issuer": idp.issuer()}));
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(())
}
