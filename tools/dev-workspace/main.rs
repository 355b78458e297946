//! A tiny workspace as a program; see [`dev_workspace`]. FOR TESTS AND THE DEMO ONLY.

use std::net::SocketAddr;

use clap::Parser;

/// A tiny workspace that answers with what reached it.
#[derive(Parser)]
struct Args {
    /// Where to listen, on loopback
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The name it answers with
    #[arg(long, default_value = "demo")]
    name: String,
}

#[tokio::main(flavor = "current_thread")]
#[allow(clippy::print_stdout, reason = "the line that says it is ready")]
async fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let workspace = dev_workspace::DevWorkspace::start_at(args.listen, &args.name).await?;
    println!("{}", serde_json::json!({"ready": true, "address": workspace.address()}));
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(())
}
