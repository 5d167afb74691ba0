//! Kubernetes operator for Microsoft Entra principals on Azure Database for `PostgreSQL`.
//!
//! See ARCHITECTURE.md for the map. Imports go one way: api ← model ← ports ← {postgres, entra,
//! cluster} ← controller ← run.

#![deny(clippy::expect_used, clippy::unreachable)]

pub mod api;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod controller;
pub mod entra;
pub mod http;
pub mod leader;
pub mod model;
pub mod ports;
pub mod postgres;
pub mod run;
pub mod settings;
pub mod telemetry;
