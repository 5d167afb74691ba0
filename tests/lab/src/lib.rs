//! A whole Azure and Kubernetes cluster on one machine.

mod api;
pub mod azure;
pub mod cli;
pub mod confined;
pub mod control_plane;
pub mod demo;
pub mod directory;
pub mod entra;
pub mod faults;
pub mod gateway;
pub mod hostile;
pub mod http;
pub mod imds;
pub mod node;
pub mod operator;
pub mod postgres;
pub mod process;
pub mod rsa_key;
pub mod soak;
pub mod state;
pub mod stats;
pub mod tls;
pub mod tokens;
pub mod up;

/// Chooses ring for TLS, once per process: reqwest panics where nobody has chosen.
pub fn crypto() {
    // The second call fails, and the choice is the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
