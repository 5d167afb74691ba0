//! The operator, driven from outside on the lab: real API server, real PostgreSQL, real TLS.
//! Each module is one chapter of the promise; `fixture` is what they stand on.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "here a panic is a failed test"
)]

mod chaos;
mod chart;
mod chart_cluster;
mod clients;
mod deletion;
mod fixture;
mod fleet;
mod flux;
mod kubectl;
mod layers;
mod on_a_node;
mod process;
mod refused;
mod rights;
mod roles;
mod secrets;
mod servers;
mod servers_connect;
mod servers_large;
mod servers_lost;
mod servers_settings;
mod sizes;
mod skew;
mod steady;
mod story;
mod tenants;
mod tokens;
