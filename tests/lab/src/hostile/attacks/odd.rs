//! Identities of every odd kind: what is missing, too long, not what it says, somebody else's.

use anyhow::{Result, ensure};
use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::{Attack, Running, pick};
use crate::hostile::identities::{evil, evil_client};
use crate::hostile::world::{PRINCIPAL, SHARED, World, principal};

const OURS: Attack = Attack::Odd;
/// The fewest that the schema must let through.
const FEWEST: usize = 10;

fn secret(name: &str, data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": name, "namespace": OURS.namespace()}, "stringData": data})
}

fn by_secret(tenant: &str, client: &str, name: &str) -> Value {
    json!({"clientSecret": {"tenantId": tenant, "clientId": client,
        "secretRef": {"name": name, "key": "s"}}})
}

fn identities(world: &World, random: &mut StdRng) -> Vec<Value> {
    let (tenant, client) = (&world.tenant, evil_client(OURS, 0));
    let somewhere = "22222222-2222-4222-8222-222222222222";
    let long = "t".repeat(253);
    let mut all = vec![
        json!({"workloadIdentity": {"serviceAccountRef": {"name": "not-there"}}}),
        json!({"workloadIdentity": {"serviceAccountRef": {"name": "default"}}}),
        json!({"managedIdentity": {}}),
        json!({"managedIdentity": {"clientId": client}}),
        json!({"managedIdentity": {"resourceId": format!("/subscriptions/{}", "x/".repeat(500))}}),
        json!({"operatorIdentity": {}}),
        json!({"clientCertificate": {"tenantId": tenant, "clientId": client, "secretRef": {"name": "nonsense"}}}),
        json!({"clientCertificate": {"tenantId": tenant, "clientId": client, "secretRef": {"name": "not-there"}}}),
    ];
    let tenants = [
        tenant,
        somewhere,
        &long,
        "..",
        "a/../../b",
        "contoso.example",
    ];
    for tenant in tenants {
        for (client, name) in [
            (client.as_str(), "huge"),
            (&*"c".repeat(64), "empty"),
            ("x", "nonsense"),
        ] {
            if random.random_bool(0.7) {
                all.push(by_secret(tenant, client, name));
            }
        }
    }
    all
}

pub(super) async fn begin(world: &World, mut random: StdRng) -> Result<Running> {
    let huge = "s".repeat(1_000_000);
    let block = format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        "QUJD".repeat(50_000)
    );
    for object in [
        secret("huge", &json!({"s": huge})),
        secret("empty", &json!({"s": ""})),
        secret(
            "nonsense",
            &json!({"s": "\u{1}\u{7f}%00&client_id=x", "tls.crt": "no PEM", "tls.key": block}),
        ),
    ] {
        world.create(object).await?;
    }
    let names = [
        "evil-",
        "evil-\u{202e}",
        "evil-\"; DROP ROLE x; --",
        "evil-%s$1\\",
    ];
    let mut refused = 0;
    let identities = identities(world, &mut random);
    let count = identities.len();
    for (n, identity) in identities.into_iter().enumerate() {
        let kind = pick(&["ManagedIdentity", "ServicePrincipal", "User"], n);
        let mut object = principal(
            &OURS.namespace(),
            &evil(OURS, n),
            SHARED,
            &json!({"type": kind}),
        );
        if let Some(spec) = object.get_mut("spec") {
            let head = pick(&names, n);
            spec["roleName"] = json!(format!("{head}{n}"));
            spec["token"] = json!({"identity": identity});
        }
        // What the schema refuses is no harm.
        refused += usize::from(world.create(object).await.is_err());
    }
    eprintln!("       the schema refuses {refused} of {count} odd principals");
    Ok(Running::default())
}

pub(super) async fn proof(world: &World) -> Result<String> {
    let (there, seen) = world.seen(PRINCIPAL, &OURS.namespace()).await?;
    ensure!(there >= FEWEST, "{there} principals");
    ensure!(seen == there, "{seen} of {there} have a status");
    Ok(format!("{there} principals with odd identities"))
}
