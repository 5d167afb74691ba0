//! The operator's binary.

use std::process::ExitCode;

use clap::Parser as _;
use entra_postgres_operator::cli::Cli;

#[tokio::main]
async fn main() -> ExitCode {
    // Before any client is built: reqwest takes the process's provider and has no other. It only
    // fails if there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Cli::parse().execute().await
}
