//! The story, chapter by chapter: each does something, checks that it was so, and tells it.
//! Must not hold anything that has to be stopped.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Value, json};

use super::cluster::{Cluster, Principal};
use super::psql::{self, Login};
use crate::control_plane::assets::workspace;
use crate::process::until;
use crate::up::Facts;

const RENEWED: Duration = Duration::from_secs(60);
const REPAIRED: Duration = Duration::from_secs(60);
const ROLES: &str = "SELECT * FROM pgaadauth_list_principals(false)";

struct Story<'a> {
    facts: &'a Facts,
    cluster: Cluster,
    principals: Vec<Principal>,
}

/// Tells everything, in a lab that runs.
pub(super) async fn tell(facts: &Facts, kubeconfig: &Path, started: Duration) -> Result<()> {
    if facts.operator.pid.is_none() {
        bail!("the operator did not start: see above");
    }
    println!(
        "1. Started in {:.1} s, on this machine: an Azure in small (PostgreSQL {}, Microsoft Entra), a",
        started.as_secs_f64(),
        facts.postgres.version
    );
    println!("   Kubernetes API server, and the operator with the rights that the chart gives it.");
    let cluster = Cluster::connect(kubeconfig).await?;
    let mut story = Story {
        facts,
        cluster,
        principals: Vec::new(),
    };
    story.apply().await?;
    story.list_roles().await?;
    story.sign_in().await?;
    story.renew().await?;
    story.repair().await
}

/// Told when everything has been stopped.
pub(super) fn end() {
    println!("7. Everything is stopped.");
}

impl Story<'_> {
    async fn apply(&mut self) -> Result<()> {
        let begin = Instant::now();
        self.cluster.apply(&self.facts.server_manifest).await?;
        self.principals = self
            .cluster
            .apply(&workspace().join("deploy/examples"))
            .await?;
        self.cluster.ready(&self.principals).await?;
        println!(
            "2. kubectl apply -f deploy/examples: Ready after {:.1} s are",
            begin.elapsed().as_secs_f64()
        );
        for Principal {
            namespace,
            name,
            kind,
            ..
        } in &self.principals
        {
            println!("     {:<26} {kind}", format!("{namespace}/{name}"));
        }
        Ok(())
    }

    async fn list_roles(&self) -> Result<()> {
        let listed = psql::superuser(&self.facts.postgres, ROLES).await?;
        println!("3. The server lists their roles (pgaadauth_list_principals):");
        for principal in &self.principals {
            let mut rows = listed.lines().map(|line| line.split('\t'));
            let role = rows.find_map(|mut row| {
                (row.next()? == principal.role).then_some((row.next()?, row.next()?))
            });
            let (kind, object_id) =
                role.with_context(|| format!("the server lists no role {:?}", principal.role))?;
            let wanted = match principal.kind.as_str() {
                "User" => "user",
                "Group" => "group",
                _ => "service",
            };
            if kind != wanted {
                bail!(
                    "role {:?} is listed as {kind}, not {wanted}",
                    principal.role
                );
            }
            let recorded = self.cluster.object_id(principal).await?;
            if object_id != recorded {
                bail!(
                    "role {:?} has object id {object_id}, status says {recorded}",
                    principal.role
                );
            }
            println!("     {:<52} {kind:<8} {object_id}", principal.role);
        }
        Ok(())
    }

    async fn sign_in(&self) -> Result<()> {
        println!("4. They sign in with psql; what it prints as current_user:");
        for principal in &self.principals {
            let (user, whence) = if principal.kind == "User" {
                (
                    self.sign_in_as_person(principal).await?,
                    "a token as az gives it".to_owned(),
                )
            } else {
                self.sign_in_from_secret(principal).await?
            };
            if user != principal.role {
                bail!("role {:?} signed in as {user:?}", principal.role);
            }
            println!("     {user:<52} with {whence}");
        }
        Ok(())
    }

    /// Host, user and password are what the Secret says, and nothing else.
    async fn sign_in_from_secret(&self, principal: &Principal) -> Result<(String, String)> {
        let written = self.cluster.written(principal).await?;
        let login = Login {
            host: written.get("host")?,
            port: written.get("port")?,
            database: written.get("database")?,
            user: written.get("username")?,
            password: written.get("password")?,
        };
        let user = psql::current_user(&self.facts.postgres, &login).await?;
        Ok((user, format!("Secret {}", written.name)))
    }

    async fn sign_in_as_person(&self, principal: &Principal) -> Result<String> {
        let object_id = self.cluster.object_id(principal).await?;
        let order = json!({"objectId": object_id});
        let client = reqwest::Client::builder().no_proxy().build()?;
        let url = format!("{}/lab/tokens", self.facts.entra.api);
        let answer = client
            .post(&url)
            .json(&order)
            .send()
            .await?
            .error_for_status()?;
        let answer: Value = answer.json().await?;
        let token = answer.get("accessToken").and_then(Value::as_str);
        let server = &self.facts.postgres;
        let login = Login {
            host: &server.host,
            port: &server.port.to_string(),
            database: "postgres",
            user: &principal.role,
            password: token.context("/lab/tokens gave no accessToken")?,
        };
        psql::current_user(server, &login).await
    }

    fn of_kind(&self, kind: &str) -> Result<&Principal> {
        let found = self
            .principals
            .iter()
            .find(|principal| principal.kind == kind);
        found.with_context(|| format!("deploy/examples has no {kind}"))
    }

    /// Asks for a renewal instead of waiting for most of a day.
    async fn renew(&self) -> Result<()> {
        let principal = self.of_kind("ManagedIdentity")?;
        let before = self.cluster.written(principal).await?;
        let begin = Instant::now();
        let what = format!("the token in Secret {} is renewed", before.name);
        until(&what, RENEWED, async || {
            // Within the second in which the first was issued, Entra gives the same again.
            self.cluster.renew(principal).await?;
            Ok(self.cluster.written(principal).await?.expires_at > before.expires_at)
        })
        .await?;
        let took = begin.elapsed();
        let after = self.cluster.written(principal).await?;
        if after.get("password")? == before.get("password")? {
            bail!(
                "Secret {} has another expiry, but the same token",
                after.name
            );
        }
        let (user, _) = self.sign_in_from_secret(principal).await?;
        println!(
            "5. A renewal, asked for by annotation entrapostgres.io/renew, took {:.1} s. Secret {}:",
            took.as_secs_f64(),
            after.name
        );
        println!(
            "     the token ended at {}, the new one ends at {}; psql with it says {user}",
            clock(before.expires_at),
            clock(after.expires_at)
        );
        Ok(())
    }

    async fn repair(&self) -> Result<()> {
        let principal = self.of_kind("ServicePrincipal")?;
        let server = &self.facts.postgres;
        let quoted = principal.role.replace('"', "\"\"");
        let object_id = self.cluster.object_id(principal).await?;
        psql::superuser(server, &format!("DROP ROLE \"{quoted}\"")).await?;
        let begin = Instant::now();
        let listed = async || Ok(psql::superuser(server, ROLES).await?.contains(&object_id));
        let what = format!("role {:?}, dropped by hand, is back", principal.role);
        until(&what, REPAIRED, listed).await?;
        let took = begin.elapsed();
        let (user, whence) = self.sign_in_from_secret(principal).await?;
        println!(
            "6. Somebody dropped role {user} by hand; it was back {:.1} s later, with the same object id.",
            took.as_secs_f64()
        );
        println!("     psql with {whence} says {user}");
        Ok(())
    }
}

/// UTC.
fn clock(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC).strftime("%F %T").to_string()
}
