//! The lab itself, tried with psql and an HTTP client alone.
#![allow(
    clippy::needless_pass_by_value,
    reason = "helpers take what `json!` makes"
)]

#[cfg(test)]
mod entra_api;
#[cfg(test)]
mod entra_assertions;
#[cfg(test)]
mod entra_faults;
#[cfg(test)]
mod entra_fixture;
#[cfg(test)]
mod entra_grants;
#[cfg(test)]
mod entra_imds;
#[cfg(test)]
mod entra_whole;
#[cfg(test)]
mod signin_gateway;
#[cfg(test)]
mod signin_psql;
#[cfg(test)]
mod signin_refusals;
#[cfg(test)]
mod signin_support;
#[cfg(test)]
mod sql_control;
#[cfg(test)]
mod sql_create;
#[cfg(test)]
mod sql_server;
#[cfg(test)]
mod sql_support;
