//! The handle of an operator's process, with programs that end in all the wrong ways.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use lab::operator::{OperatorOptions, OperatorProcess};

const SOON: Duration = Duration::from_secs(10);

fn options(dir: &Path, script: &str) -> OperatorOptions {
    let binary = dir.join("program");
    fs::write(&binary, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    OperatorOptions {
        binary,
        ..OperatorOptions::new(dir, dir.join("kubeconfig"), String::new())
    }
}

#[tokio::test]
async fn operator_that_ends_at_once_is_reported_with_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path(), "echo \"bad flag in: $*\" >&2; exit 3");
    let error = OperatorProcess::start_ready(&options, SOON)
        .await
        .err()
        .unwrap();
    let text = format!("{error:#}");
    assert!(text.contains("exit status: 3"), "{text}");
    assert!(text.contains("bad flag in: run --config"), "{text}");
}

#[tokio::test]
async fn operator_that_fails_on_sigterm_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    // Says in its log when it listens for the signal.
    let script = "trap 'exit 7' TERM; echo trapped; while :; do sleep 0.05; done";
    let operator = OperatorProcess::start(&options(dir.path(), script)).unwrap();
    let log = operator.log().to_path_buf();
    let trapped = async || Ok(fs::read_to_string(&log)?.contains("trapped"));
    lab::process::until("the trap is set", SOON, trapped)
        .await
        .unwrap();
    let error = operator.stop().await.unwrap_err().to_string();
    assert!(error.contains("exit status: 7"), "{error}");
}

#[test]
fn operator_that_is_not_built_is_an_error_that_says_what_to_run() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = OperatorOptions::new(dir.path(), "kubeconfig", String::new());
    options.binary = dir.path().join("nothing");
    let error = OperatorProcess::start(&options).err().unwrap().to_string();
    assert!(
        error.contains("cargo build -p entra-postgres-operator"),
        "{error}"
    );
}
