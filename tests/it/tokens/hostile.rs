//! A tenant that may write principals, servers, service accounts and Secrets in its own namespace,
//! and wants the token of somebody else.

use std::sync::{Arc, Mutex};

use anyhow::{Result, ensure};
use lab::operator::ManagedIdentities;
use lab::process::until;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{IMPORTER_CLIENT, client_secret, quick, service, short_lived, untouched};
use crate::fixture::{
    ADMIN_CLIENT, API_CLIENT, SOON, Setup, TENANT, World, condition, plane, service_account,
    workload_identity,
};

const ADMIN_ID: &str = "5e41ce00-0000-4000-8000-000000000001";
const ADMIN_RESOURCE: &str = "/subscriptions/00000000-0000-4000-8000-000000000000/resourceGroups/lab/providers/Microsoft.ManagedIdentity/userAssignedIdentities/entra-postgres-operator";

/// Where the tenant would like tokens to be sent: it takes every connection, agrees to TLS, and
/// keeps what it hears.
struct Trap {
    port: u16,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Trap {
    async fn set() -> Result<Self> {
        let tcp = TcpListener::bind("127.0.0.1:0").await?;
        let port = tcp.local_addr()?.port();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = tcp.accept().await {
                let kept = Arc::clone(&kept);
                tokio::spawn(async move {
                    let mut bytes = [0; 4096];
                    while let Ok(n @ 1..) = client.read(&mut bytes).await {
                        kept.lock().expect("no panic").extend(&bytes[..n]);
                        // Whoever asks for TLS gets it promised, whoever starts without is let in.
                        let _ = client.write_all(b"S").await;
                    }
                });
            }
        });
        Ok(Self { port, heard })
    }

    fn heard(&self) -> Vec<u8> {
        self.heard.lock().expect("no panic").clone()
    }
}

/// The operator may use the administrator's identity by IMDS, for the platform's namespace; and it
/// is the operator's own.
async fn platform(test: &str) -> Result<World> {
    let mut world = World::with(
        test,
        Setup {
            directory: Box::new(|directory, _| service(directory, ADMIN_CLIENT).imds = true),
            configuration: Box::new(|configuration, names| {
                configuration.operator_identity_namespaces = Some(vec![names.platform.clone()]);
                configuration.managed_identities.push(ManagedIdentities {
                    namespaces: vec![names.platform.clone()],
                    client_ids: vec![ADMIN_CLIENT.to_owned()],
                    object_ids: vec![ADMIN_ID.to_owned()],
                    resource_ids: vec![ADMIN_RESOURCE.to_owned()],
                    system_assigned: true,
                });
            }),
            operator: false,
            ..Setup::default()
        },
    )
    .await?;
    let own = ("AZURE_CLIENT_ID".to_owned(), ADMIN_CLIENT.to_owned());
    world.options.envs.push(own);
    world.start_operator().await?;
    world.ready("server", "server").await?;
    Ok(world)
}

/// How many token requests were answered with that status.
fn answered(world: &World, status: &str) -> u64 {
    let counters = world.stats();
    let count = &counters["tokenRequests"]["byStatus"][status];
    count.as_u64().unwrap_or_default()
}

// Red when: Settings::identity_allowed, Cluster's use of the object's own namespace, or the tenant
// entry of the server is left out.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_gets_no_token_of_anybody_else() -> Result<()> {
    let world = platform("hostile_token").await?;
    let (team, other) = (world.names.team.clone(), world.names.other.clone());
    // What it would like to use is there, next door.
    let mut secret = client_secret(
        &world,
        "importer",
        json!({"secret": "the-lab-has-no-real-secrets~importer"}),
    );
    secret["metadata"]["namespace"] = json!(world.names.platform);
    world.apply(&secret).await?;
    world
        .apply(&service_account(&team, "stranger", ADMIN_CLIENT))
        .await?;
    let granted = answered(&world, "200");
    let mark = plane().audit().mark()?;

    let managed = |id: Value| json!({"managedIdentity": id});
    let named = |id: &str| json!({"tenantId": TENANT, "clientId": id});
    let mut by_secret = named(IMPORTER_CLIENT);
    by_secret["secretRef"] = json!({"name": "importer", "key": "secret"});
    let mut by_certificate = named(IMPORTER_CLIENT);
    by_certificate["secretRef"] = json!({"name": "importer"});
    let cases = [
        (
            "identity",
            workload_identity("stranger"),
            "FederatedCredentialMissing",
        ),
        (
            "account",
            workload_identity("pg-operator"),
            "ServiceAccountNotFound",
        ),
        (
            "secret",
            json!({"clientSecret": by_secret}),
            "ClientSecretNotFound",
        ),
        (
            "pair",
            json!({"clientCertificate": by_certificate}),
            "ClientCertificateNotFound",
        ),
        (
            "node-client",
            managed(json!({"clientId": ADMIN_CLIENT})),
            "IdentityNotAllowed",
        ),
        (
            "node-object",
            managed(json!({"objectId": ADMIN_ID})),
            "IdentityNotAllowed",
        ),
        (
            "node-resource",
            managed(json!({"resourceId": ADMIN_RESOURCE})),
            "IdentityNotAllowed",
        ),
        ("node", managed(json!({})), "IdentityNotAllowed"),
    ];
    for (name, identity, reason) in cases {
        let mut object = world.principal(name, name, json!({"type": "ServicePrincipal"}));
        object["spec"]["token"] = json!({"identity": identity});
        world.apply(&object).await?;
        world.not_ready("principal", name, reason).await?;
        untouched(&world, name, name).await?;
    }
    // From a namespace that the server's owner does not know, not even with an identity of its own.
    let mut outside = world.principal("outside", "outside", json!({"type": "ManagedIdentity"}));
    outside["metadata"]["namespace"] = json!(other);
    outside["spec"]["token"] = json!({"identity": workload_identity("orders-api")});
    world.apply(&outside).await?;
    world
        .not_ready("other-principal", "outside", "NamespaceNotAllowed")
        .await?;
    let mut tenant = world.principal("tenant", "tenant", json!({"type": "ServicePrincipal"}));
    tenant["spec"]["token"] = json!({"identity": {"clientSecret": {
        "tenantId": "..%2f..%2fevil.example", "clientId": IMPORTER_CLIENT,
        "secretRef": {"name": "mine", "key": "secret"},
    }}});
    world
        .apply(&client_secret(&world, "mine", json!({"secret": "mine"})))
        .await?;
    world.apply(&tenant).await?;
    world
        .not_ready("principal", "tenant", "IdentityIncomplete")
        .await?;

    assert_eq!(answered(&world, "200"), granted, "{}", world.stats());
    assert_eq!(world.token_requests(Some(IMPORTER_CLIENT)), 0);
    let entries = plane().audit().since(mark)?;
    let next_door = entries.iter().filter(|entry| {
        entry.user == World::operator_user()
            && entry.namespace == world.names.platform
            && ["serviceaccounts/token", "secrets"].contains(&entry.target().as_str())
    });
    assert_eq!(next_door.count(), 0, "nothing next door was touched");
    Ok(())
}

// Red when: names in references may have slashes, or fields that are unknown are taken.
#[tokio::test(flavor = "multi_thread")]
async fn what_leads_out_of_the_namespace_is_no_name() -> Result<()> {
    let world = World::with(
        "hostile_names",
        Setup {
            operator: false,
            server: None,
            ..Setup::default()
        },
    )
    .await?;
    // What would lead out of the namespace, or to another authority, is no name at all.
    for (name, identity) in [
        (
            "path",
            workload_identity("../../platform/serviceaccounts/pg-operator"),
        ),
        ("slash", workload_identity("platform/pg-operator")),
        (
            "authority",
            json!({"workloadIdentity": {"serviceAccountRef": {"name": "a"}, "authority": "https://evil.example"}}),
        ),
        (
            "namespace",
            json!({"workloadIdentity": {"serviceAccountRef": {"name": "a", "namespace": "b"}}}),
        ),
    ] {
        let mut object = world.principal(name, name, json!({"type": "ServicePrincipal"}));
        object["spec"]["token"] = json!({"identity": identity});
        ensure!(world.apply(&object).await.is_err(), "{name} was taken");
    }
    Ok(())
}

// Red when: Cloud::has_host compares ends of text, server::spec does not ask identity_allowed, or a
// sign-in goes on without TLS.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_the_tenants_own_gets_no_token_but_the_tenants() -> Result<()> {
    let world = platform("hostile_server").await?;
    let trap = Trap::set().await?;
    let granted = answered(&world, "200");
    let theirs = |name: &str, host: &str, identity: Value| -> Result<Value> {
        let mut server = world.server(name)?;
        server["metadata"]["namespace"] = json!(world.names.team);
        server["spec"]["host"] = json!(host);
        server["spec"]["port"] = json!(trap.port);
        server["spec"]["admins"][0]["identity"] = identity;
        if let Some(spec) = server["spec"].as_object_mut() {
            spec.remove("tls");
        }
        Ok(server)
    };
    let own = || json!({"operator": {}});
    let managed = |id: Value| json!({"managedIdentity": id});
    let mut unknown = theirs("cloud", "localhost", own())?;
    unknown["spec"]["cloud"] = json!("Evil");
    for (server, reason) in [
        (
            theirs("elsewhere", "evil.example.com", own())?,
            "HostNotInCloud",
        ),
        (
            theirs("suffix", "localhost.evil.example.com", own())?,
            "HostNotInCloud",
        ),
        (theirs("prefix", "evillocalhost", own())?, "HostNotInCloud"),
        (unknown, "UnknownCloud"),
        (
            theirs("operator", "localhost", own())?,
            "IdentityNotAllowed",
        ),
        (
            theirs(
                "client",
                "localhost",
                managed(json!({"clientId": ADMIN_CLIENT})),
            )?,
            "IdentityNotAllowed",
        ),
        (
            theirs(
                "object",
                "localhost",
                managed(json!({"objectId": ADMIN_ID})),
            )?,
            "IdentityNotAllowed",
        ),
        (
            theirs("node", "localhost", managed(json!({})))?,
            "IdentityNotAllowed",
        ),
        (
            theirs("account", "localhost", workload_identity("pg-operator"))?,
            "ServiceAccountNotFound",
        ),
    ] {
        let name = server["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        world.apply(&server).await?;
        world
            .wait("team-server", &name, reason, |object| {
                let ready = condition(object, "Ready");
                ready.reason == reason && !ready.is("True")
            })
            .await?;
    }
    assert_eq!(answered(&world, "200"), granted, "{}", world.stats());
    assert!(trap.heard().is_empty(), "nobody has called");
    // Its own identity is its own affair; even so, nothing is said to whom TLS does not vouch for.
    let mine = theirs("mine", "localhost", workload_identity("orders-api"))?;
    world.apply(&mine).await?;
    world
        .wait("team-server", "mine", "refused", |object| {
            let ready = condition(object, "Ready");
            ["CertificateNotTrusted", "ServerUnreachable"].contains(&ready.reason.as_str())
        })
        .await?;
    let heard = trap.heard();
    assert!(!heard.is_empty(), "it has called");
    let token = |part: &[u8]| heard.windows(part.len()).any(|window| window == part);
    assert!(!token(b"eyJ"), "a token was sent in clear text");
    assert!(
        !token(b"pg-operators"),
        "a user name was sent in clear text"
    );
    assert!(world.token_requests(Some(API_CLIENT)) >= 1);
    // A principal of the tenant cannot bring others' tokens there either.
    let mut object = world.principal("lure", "lure", json!({"type": "ServicePrincipal"}));
    object["spec"]["serverRef"] = json!({"name": "mine"});
    object["spec"]["token"] = json!({"identity": {"managedIdentity": {"clientId": ADMIN_CLIENT}}});
    world.apply(&object).await?;
    let object = world
        .wait("principal", "lure", "refused", |object| {
            condition(object, "TokenIssued").reason == "IdentityNotAllowed"
        })
        .await?;
    assert!(!condition(&object, "Ready").is("True"));
    untouched(&world, "lure", "lure").await
}

// Red when: the sign-in that tries a token goes where the Secret points, and not to the server's own host.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_tried_at_the_server_and_not_where_its_secret_points() -> Result<()> {
    let world = short_lived("hostile_endpoint", API_CLIENT).await?;
    let trap = Trap::set().await?;
    let mut object = quick(&world);
    object["spec"]["token"]["endpoint"] = json!({"host": "localhost", "port": trap.port});
    object["spec"]["token"]["verifyLogin"] = json!("Always");
    world.apply(&object).await?;
    let verified = |object: &Value| condition(object, "LoginVerified").is("True");
    let first = world.ready("principal", "api").await?;
    ensure!(verified(&first), "{first:#}");
    until("the next token is tried", SOON, async || {
        let signed_in = &world.stats()["connections"]["byRole"]["orders-api"];
        Ok(signed_in.as_u64() >= Some(2))
    })
    .await?;
    world.wait("principal", "api", "verified", verified).await?;
    assert_eq!(world.secret("api").await?["port"], trap.port.to_string());
    assert!(trap.heard().is_empty(), "somebody has called");
    Ok(())
}

// Red when: observe() takes the object id of a role from the Secret's annotations.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_does_not_say_whose_role_is_made() -> Result<()> {
    let mut world = World::start("secret_says").await?;
    world.apply(&world.api()).await?;
    world.ready("principal", "api").await?;
    world.kill_operator();
    // Nothing but the Secret is left, and that somebody may write.
    world.sql("DROP ROLE \"orders-api\"").await?;
    let forgotten = json!({"status": {"role": null, "conditions": null, "token": null}});
    world.patch_status("principal", "api", &forgotten).await?;
    let said = json!({"metadata": {"annotations": {"entrapostgres.io/token-object-id": crate::fixture::REPORTS_ID}}});
    world.patch("secret", "api", &said).await?;
    world.start_operator().await?;
    world.ready("principal", "api").await?;
    let bound = world.bound_to("orders-api").await?;
    assert_eq!(bound.as_deref(), Some(crate::fixture::API_ID));
    Ok(())
}
