//! `lab up` and `lab down` as a person runs them: twice, on nothing, and killed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use lab::control_plane::client_of;
use lab::process::{signal, until};
use lab::up::{Facts, Home};
use rustix::process::Signal;

const SOON: Duration = Duration::from_secs(20);

fn lab(home: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
    command
        .args(args)
        .env("LAB_HOME", home)
        .env("LAB_OPERATOR", "none")
        .output()
        .unwrap()
}

/// The output of a command that must succeed.
pub fn succeed(home: &Path, args: &[&str]) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = lab(home, args);
    let text = String::from_utf8(stdout).unwrap();
    assert!(
        status.success(),
        "{args:?}: {text}{}",
        String::from_utf8_lossy(&stderr)
    );
    text
}

/// All processes that work in a folder, or were told of one of these paths.
pub fn processes(home: &Path, facts: &Facts) -> Vec<String> {
    let marks = [
        home.display().to_string(),
        facts.postgres.socket_dir.display().to_string(),
    ];
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let path = entry.path();
        let command = fs::read_to_string(path.join("cmdline")).unwrap_or_default();
        let dir = fs::read_link(path.join("cwd")).unwrap_or_default();
        let ours = marks.iter().any(|mark| command.contains(mark)) || dir.starts_with(home);
        // A process that has ended, but was not waited for, has no command line.
        if ours && !command.is_empty() {
            found.push(command.replace('\0', " "));
        }
    }
    found
}

#[tokio::test]
async fn up_twice_and_down_twice_succeed_and_leave_no_process() {
    let dir = tempfile::tempdir().unwrap();
    // Deeper than a Unix socket's path may be long.
    let home = dir.path().canonicalize().unwrap().join("deep/".repeat(30));
    assert!(succeed(&home, &["down"]).contains("No lab is running"));

    assert!(succeed(&home, &["up"]).contains("The lab is ready"));
    let facts = Home::new(home.clone()).facts().unwrap();
    assert!(facts.operator.pid.is_none());
    assert!(facts.server_manifest.exists() && facts.entra.ca_file.exists());
    assert!(
        processes(&home, &facts).len() >= 5,
        "{:?}",
        processes(&home, &facts)
    );
    let client = client_of(&home.join("kubeconfig")).await.unwrap();
    assert_eq!(
        client.apiserver_version().await.unwrap().git_version,
        "v1.37.2"
    );

    assert!(succeed(&home, &["up"]).contains("already running"));
    assert_eq!(
        Home::new(home.clone()).facts().unwrap().entra.api,
        facts.entra.api
    );
    assert!(succeed(&home, &["operator", "stop"]).contains("was not running"));

    assert!(succeed(&home, &["down"]).contains("The lab is stopped"));
    assert_eq!(processes(&home, &facts), Vec::<String>::new());
    assert!(!home.join("lab.json").exists());
    assert!(succeed(&home, &["down"]).contains("No lab is running"));
    let refused = lab(&home, &["operator", "start"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no lab runs here"));
}

#[test]
fn lab_outside_its_repository_touches_nothing_there_and_names_lab_home() {
    let elsewhere = tempfile::tempdir().unwrap();
    for args in [&["down"][..], &["operator", "stop"]] {
        let refused = Command::new(env!("CARGO_BIN_EXE_lab"))
            .args(args)
            .env_remove("LAB_HOME")
            .current_dir(elsewhere.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(
            !refused.status.success() && said.contains("LAB_HOME"),
            "{args:?}: {said}"
        );
    }
    // With a folder it works from anywhere.
    let home = elsewhere.path().join("lab");
    let stopped = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["down", "--home"])
        .arg(&home)
        .current_dir(elsewhere.path())
        .output()
        .unwrap();
    assert!(stopped.status.success());
}

/// A directory that has all that the lab needs, and no identity at IMDS.
const PLAIN: &str = "
    tenantId: 11111111-1111-4111-8111-111111111111
    servicePrincipals:
    - name: dba-app
      objectId: 5e41ce00-0000-4000-8000-000000000001
      clientId: c11e4700-0000-4000-8000-000000000001
      kind: Application
      secrets: [the-lab-has-no-real-secrets]
    administrators: [dba-app]";

#[test]
fn up_starts_the_operator_for_a_directory_without_identities_at_imds() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().canonicalize().unwrap();
    fs::write(home.join("tenant.yaml"), PLAIN).unwrap();
    let up = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["up", "--directory"])
        .arg(home.join("tenant.yaml"))
        .env("LAB_HOME", &home)
        .output()
        .unwrap();
    let facts = Home::new(home.clone()).facts();
    succeed(&home, &["down"]);
    let said = String::from_utf8_lossy(&up.stderr);
    assert!(up.status.success(), "{said}");
    assert!(facts.unwrap().operator.pid.is_some(), "{said}");
}

#[test]
fn up_fails_and_leaves_nothing_when_the_operator_ends() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().canonicalize().unwrap();
    let program = home.join("operator");
    fs::write(&program, "#!/bin/sh\necho no such flag >&2; exit 2\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let up = Command::new(env!("CARGO_BIN_EXE_lab"))
        .arg("up")
        .env("LAB_HOME", &home)
        .env("LAB_OPERATOR", &program)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&up.stderr);
    assert!(!up.status.success(), "{said}");
    for part in ["no such flag", "exit status: 2", "LAB_OPERATOR=none"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!home.join("lab.json").exists());
    assert!(succeed(&home, &["down"]).contains("No lab is running"));
}

#[tokio::test]
async fn killed_lab_takes_all_its_processes_with_it_and_can_start_again() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().canonicalize().unwrap();
    succeed(&home, &["up"]);
    let facts = Home::new(home.clone()).facts().unwrap();
    let daemon = Home::new(home.clone()).daemon().unwrap().unwrap();
    assert!(signal(daemon, Signal::KILL));
    let gone = async || Ok(processes(&home, &facts).is_empty());
    until("all processes are gone", SOON, gone).await.unwrap();
    assert!(succeed(&home, &["down"]).contains("No lab is running"));

    assert!(succeed(&home, &["up"]).contains("The lab is ready"));
    succeed(&home, &["down"]);
}

#[test]
fn directory_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let refused = lab(dir.path(), &["up", "--directory", "/nowhere/tenant.yaml"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("/nowhere/tenant.yaml"));
    assert!(succeed(dir.path(), &["down"]).contains("No lab is running"));
}
