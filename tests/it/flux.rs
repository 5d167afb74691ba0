//! What `GitOps` tools make of our objects: Flux's own engine applies the examples, waits and deletes.

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use lab::control_plane::assets::{self, workspace};
use serde_json::json;
use tokio::process::{Child, Command};

use crate::fixture::{SOON, Setup, World, plane};
use lab::process::until;

/// Flux's engine, as `tests/flux` has it; to be run by `tokio::process`.
async fn flux(arguments: &[&str], files: &[PathBuf]) -> Result<Command> {
    let folder = tokio::task::spawn_blocking(|| assets::find(assets::Set::Flux)).await??;
    let mut command = Command::new(folder.join("flux"));
    command.args(arguments).args(files).kill_on_drop(true);
    Ok(command)
}

struct Flux {
    kubeconfig: String,
    files: Vec<PathBuf>,
}

impl Flux {
    /// The examples as they are for this world's namespaces, with its server.
    fn new(world: &World) -> Result<Self> {
        let names = &world.names;
        let mut files = Vec::new();
        for entry in fs::read_dir(workspace().join("deploy/examples"))? {
            let from = entry?.path();
            let name = from.file_name().unwrap_or_default().to_owned();
            if from.extension().is_none_or(|end| end != "yaml") || name == "0-namespace.yaml" {
                continue;
            }
            let text = fs::read_to_string(&from)?
                .replace("namespace: orders", &format!("namespace: {}", names.team))
                .replace(
                    "{name: lab, namespace: lab}",
                    &format!("{{name: server, namespace: {}}}", names.platform),
                );
            let to = world.dir.path().join(name);
            fs::write(&to, text)?;
            files.push(to);
        }
        ensure!(files.len() == 7, "{files:?}");
        files.sort();
        let server = world.dir.path().join("server.yaml");
        let mut object = world.server("server")?;
        // What a manifest says; the rest is for other tests.
        object["spec"]["tenants"] = json!([{
            "namespaces": {"names": [names.team]},
            "principalTypes": ["User", "Group", "ServicePrincipal", "ManagedIdentity"],
            "roleNames": ["*"],
            "memberOf": [{"role": "Prod DB Readonly"}],
            "grants": [
                {"database": "orders", "privileges": ["CONNECT"]},
                {"database": "orders", "schemas": ["*"],
                 "privileges": ["USAGE", "SELECT", "INSERT", "UPDATE", "DELETE"]},
            ],
        }]);
        fs::write(&server, object.to_string())?;
        files.push(server);
        let kubeconfig = plane().kubeconfig().display().to_string();
        Ok(Self { kubeconfig, files })
    }

    fn principals(&self) -> &[PathBuf] {
        self.files
            .split_last()
            .map_or(&[], |(_, principals)| principals)
    }

    async fn run(&self, command: &str, files: &[PathBuf]) -> Result<String> {
        let output = flux(&[command, &self.kubeconfig], files)
            .await?
            .output()
            .await?;
        said(command, &output)
    }

    async fn waits(&self) -> Result<Child> {
        let mut command = flux(&["wait", &self.kubeconfig], &self.files).await?;
        command.stderr(std::process::Stdio::piped());
        Ok(command.spawn()?)
    }
}

fn said(command: &str, output: &Output) -> Result<String> {
    let problem = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "flux {command}: {problem}");
    Ok(String::from_utf8(output.stdout.clone())?)
}

async fn without_server(name: &str) -> Result<World> {
    let setup = Setup {
        server: None,
        ..Setup::default()
    };
    World::with(name, setup).await
}

// Red when: ServerNotFound is Stalled, as on 6b177e6; or an item of a list has a default.
#[tokio::test(flavor = "multi_thread")]
async fn flux_applies_the_examples_with_their_server_waits_and_finds_no_difference() -> Result<()> {
    let world = without_server("flux").await?;
    let flux = Flux::new(&world)?;
    let made = flux.run("apply", &flux.files).await?;
    let mut ours = made
        .lines()
        .filter(|line| line.starts_with("EntraPostgres"));
    ensure!(ours.all(|line| line.ends_with(" created")), "{made}");
    let waits = flux.waits().await?.wait_with_output().await?;
    said("wait", &waits)?;
    let again = flux.run("apply", &flux.files).await?;
    ensure!(
        again.lines().all(|line| line.ends_with(" unchanged")),
        "{again}"
    );
    let ended = flux.run("delete", &flux.files).await?;
    ensure!(
        ended.lines().all(|line| line.ends_with(" deleted")),
        "{ended}"
    );
    Ok(())
}

// Red when: what heals by itself is Stalled: Flux gives up at the first object that is.
#[tokio::test(flavor = "multi_thread")]
async fn flux_waits_for_a_server_that_comes_after_its_principals() -> Result<()> {
    let world = without_server("flux_late").await?;
    let flux = Flux::new(&world)?;
    flux.run("apply", flux.principals()).await?;
    let in_progress = async || {
        let status = flux.run("status", flux.principals()).await?;
        ensure!(!status.contains("Failed"), "{status}");
        let mut ours = (status.lines()).filter(|line| line.starts_with("EntraPostgresPrincipal/"));
        Ok(ours.all(|line| line.ends_with(" InProgress")))
    };
    until("all principals are in progress", SOON, in_progress).await?;
    for name in [
        "orders-api",
        "prod-db-readonly",
        "alice",
        "bob",
        "orders-batch",
    ] {
        world.not_ready("principal", name, "ServerNotFound").await?;
    }
    // The server is part of what is waited for, and comes five seconds later.
    let waits = flux.waits().await?;
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    let server = flux.files.last().context("the server")?;
    flux.run("apply", std::slice::from_ref(server)).await?;
    said("wait", &waits.wait_with_output().await?)?;
    flux.run("delete", &flux.files).await?;
    Ok(())
}

// Red when: suspended() makes Ready Unknown or planned() makes it False, as on 6b177e6.
#[tokio::test(flavor = "multi_thread")]
async fn flux_finds_what_is_suspended_or_only_planned_current() -> Result<()> {
    let world = World::start("flux_paused").await?;
    world.apply(&world.api()).await?;
    world.ready("principal", "api").await?;
    let name = world.dir.path().join("api.yaml");
    let paused = |change: serde_json::Value| {
        let mut object = world.api();
        for (key, value) in change.as_object().into_iter().flatten() {
            object["spec"][key] = value.clone();
        }
        fs::write(&name, object.to_string())
    };
    let flux = Flux {
        kubeconfig: plane().kubeconfig().display().to_string(),
        files: vec![name.clone()],
    };
    for change in [json!({"mode": "Plan"}), json!({"suspend": true}), json!({})] {
        paused(change)?;
        flux.run("apply", &flux.files).await?;
        said("wait", &flux.waits().await?.wait_with_output().await?)?;
    }
    Ok(())
}
