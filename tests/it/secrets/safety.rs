//! The token is nowhere but in its Secret, and never older there than it was.

use std::time::Duration;

use anyhow::Result;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{Event, Secret};
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use lab::directory::Directory;
use lab::operator::OperatorProcess;
use serde_json::{Value, json};

use crate::fixture::{API_CLIENT, SOON, Setup, TENANT, World, condition};

const IMPORTER_CLIENT: &str = "c11e4700-0000-4000-8000-000000000004";
const IMPORTER_SECRET: &str = "the-lab-has-no-real-secrets~importer";

// Red when: Target::create traces token.expose().
#[tokio::test(flavor = "multi_thread")]
async fn the_token_and_the_client_secret_are_nowhere_but_in_secrets() -> Result<()> {
    let mut world = World::with(
        "nowhere",
        Setup {
            directory: Box::new(|directory, _| {
                lifetime(directory, API_CLIENT, 63);
                lifetime(directory, IMPORTER_CLIENT, 63);
            }),
            operator: false,
            ..Setup::default()
        },
    )
    .await?;
    world
        .options
        .args
        .extend(["--log-level".to_owned(), "trace".to_owned()]);
    world.start_operator().await?;
    let mut api = world.api();
    api["spec"]["token"]["renewBefore"] = json!("60s");
    world.apply(&api).await?;
    world
        .apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "importer", "namespace": world.names.team},
                       "stringData": {"secret": IMPORTER_SECRET, "wrong": "a-mistaken-client-secret"}}))
        .await?;
    for (name, role, key) in [
        ("importer-db", "orders-importer", "secret"),
        ("wrong", "wrong", "wrong"),
    ] {
        let mut object = world.principal(name, role, json!({"type": "ServicePrincipal"}));
        object["spec"]["token"] = json!({"renewBefore": "60s", "identity": {"clientSecret": {
            "tenantId": TENANT, "clientId": IMPORTER_CLIENT, "secretRef": {"name": "importer", "key": key}}}});
        world.apply(&object).await?;
    }
    let mut needles = vec![
        IMPORTER_SECRET.to_owned(),
        "a-mistaken-client-secret".to_owned(),
    ];
    world
        .not_ready("principal", "wrong", "ClientSecretInvalid")
        .await?;
    for name in ["api", "importer-db"] {
        world.ready("principal", name).await?;
        let first = world.secret(name).await?["password"].clone();
        world
            .wait("secret", name, "renewed", |o| {
                let now = o["metadata"]["annotations"]["entrapostgres.io/token-sha256"]
                    .as_str()
                    .unwrap_or_default();
                now != sha256(&first)
            })
            .await?;
        needles.extend([first, world.secret(name).await?["password"].clone()]);
    }
    // Also what goes wrong says nothing: a token that is refused, and a server that is away.
    world.faults(json!([{"on": "token", "match": {"clientId": API_CLIENT}, "do": {"claims": {"aud": "https://other"}}},
                        {"on": "gateway", "do": {"refuse": true}}])).await?;
    world
        .sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'pg-operators'",
        )
        .await?;
    world
        .wait("principal", "api", "both halves fail", |o| {
            condition(o, "TokenIssued").reason == "TokenInvalid"
                && condition(o, "RoleSynced").reason == "ServerUnreachable"
        })
        .await?;
    look_for(&needles, &everything_shown(&world).await?);
    Ok(())
}

/// Everything that others can read, with where it was found.
async fn everything_shown(world: &World) -> Result<Vec<(&'static str, String)>> {
    let metrics = world.operator.as_ref().expect("it runs").metrics().await?;
    let log = std::fs::read_to_string(world.options.log_file())?;
    assert!(
        log.contains("\"TRACE\"") || log.contains("\"DEBUG\""),
        "the log level was not taken"
    );
    let mut places = vec![("metrics", metrics), ("log", log)];
    let events: Api<Event> = Api::all(world.client.clone());
    for namespace in world.names.all() {
        let events: Api<Event> = Api::namespaced(events.clone().into_client(), &namespace);
        places.push((
            "events",
            serde_json::to_string(&events.list(&ListParams::default()).await?.items)?,
        ));
    }
    for name in ["api", "importer-db", "wrong"] {
        places.push((
            "status",
            world
                .get("principal", name)
                .await?
                .unwrap_or_default()
                .to_string(),
        ));
    }
    places.push((
        "status",
        world
            .get("server", "server")
            .await?
            .unwrap_or_default()
            .to_string(),
    ));
    Ok(places)
}

fn look_for(needles: &[String], places: &[(&str, String)]) {
    for (place, text) in places {
        for needle in needles {
            // Of a token its signature alone would not do harm; look for each part.
            for part in needle
                .split('.')
                .filter(|part| part.len() > 20 && !is_header(part))
            {
                let Some(at) = text.find(part) else { continue };
                let near: String = text[..at]
                    .chars()
                    .rev()
                    .take(300)
                    .collect::<Vec<_>>()
                    .into_iter()
                    .rev()
                    .collect();
                panic!("{place} has a token or client secret after: {near}");
            }
        }
    }
}

// Red when: Target::after_conflict leaves out `record.expires_at >= token.expires_at`.
#[tokio::test(flavor = "multi_thread")]
async fn two_operators_at_once_never_put_an_older_token_over_a_newer_one() -> Result<()> {
    let mut world = World::with(
        "two_operators",
        Setup {
            directory: Box::new(|directory, _| lifetime(directory, API_CLIENT, 75)),
            ..Setup::default()
        },
    )
    .await?;
    let mut options = world.options.clone();
    options.name = "second".to_owned();
    let second = OperatorProcess::start_ready(&options, SOON).await?;
    let mut api = world.api();
    api["spec"]["token"]["renewBefore"] = json!("70s");
    world.apply(&api).await?;
    world.ready("principal", "api").await?;
    // Just renewed: at the next renewal one of the two gets, slowly, a token that ends after the
    // present one and before the other's.
    let end = |o: &Value| {
        o["status"]["token"]["expiresAt"]
            .as_str()
            .and_then(|end| end.parse::<jiff::Timestamp>().ok())
    };
    let first = world.get("principal", "api").await?.unwrap_or_default();
    let object = world
        .wait("principal", "api", "renewed", |o| end(o) > end(&first))
        .await?;
    let early = end(&object).map_or(0, |end| end.as_second() + 1);
    let slow = json!({"delayMs": 2500, "claims": {"exp": early}});
    world
        .faults(json!([{"on": "token", "match": {"clientId": API_CLIENT}, "do": slow, "times": 1}]))
        .await?;
    let ends = follow(&world, 3).await?;
    assert!(
        ends.windows(2).all(|pair| pair[0] <= pair[1]),
        "a token was put over a later one: {ends:?}"
    );
    let asked = world.token_requests(Some(API_CLIENT));
    assert!(asked >= 4, "both asked: {asked}");
    let secret = world.secret("api").await?;
    assert_eq!(
        world
            .login(
                &secret["username"],
                &secret["password"],
                &secret["database"]
            )
            .await?,
        "orders-api"
    );
    second.stop().await?;
    world.kill_operator();
    Ok(())
}

/// The ends of the tokens that the Secret `api` has, as the watch brings them, until so many changes
/// of token were seen.
async fn follow(world: &World, changes: usize) -> Result<Vec<String>> {
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), &world.names.team);
    let params = WatchParams::default()
        .fields("metadata.name=api")
        .timeout(60);
    let mut events = secrets.watch(&params, "0").await?.boxed();
    let mut ends: Vec<String> = Vec::new();
    let seen = async {
        while ends.len() <= changes {
            if let Some(WatchEvent::Added(secret) | WatchEvent::Modified(secret)) =
                events.try_next().await?
            {
                let annotations = secret.metadata.annotations.unwrap_or_default();
                let end = annotations
                    .get("entrapostgres.io/expires-at")
                    .cloned()
                    .unwrap_or_default();
                if ends.last() != Some(&end) {
                    ends.push(end);
                }
            }
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(60), seen).await??;
    Ok(ends)
}

fn lifetime(directory: &mut Directory, client: &str, seconds: u64) {
    let services = directory.service_principals.iter_mut();
    for service in services.filter(|service| service.client_id.to_string() == client) {
        service.token_lifetime_seconds = Some(seconds);
    }
}

/// The header is the same for all tokens of a key.
fn is_header(part: &str) -> bool {
    part.starts_with("eyJ") && part.len() < 120
}

fn sha256(text: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    let bytes = digest.as_ref().iter();
    bytes.fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}
