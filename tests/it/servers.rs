//! Servers that principals may not use as they are declared: not there, not allowed, of no cloud,
//! with an identity that is not theirs. Nothing is touched and no token is asked for.

use anyhow::Result;
use lab::operator::ManagedIdentities;
use serde_json::{Value, json};

use crate::fixture::{ADMIN_CLIENT, API_CLIENT, API_ID, Setup, TENANT, World, condition, plane};

const FEDERATED_AUDIENCE: &str = "api://AzureADTokenExchange";

/// A further server object, changed.
pub async fn server(world: &World, name: &str, change: impl FnOnce(&mut Value)) -> Result<()> {
    let mut server = world.server(name)?;
    change(&mut server["spec"]);
    world.apply(&server).await
}

/// Waits until Ready is not True for that reason, in these words.
pub async fn fails(
    world: &World,
    (kind, name): (&str, &str),
    reason: &str,
    words: &[&str],
) -> Result<()> {
    let what = format!("not Ready because of {reason}, with the words {words:?}");
    let failed = |object: &Value| {
        let ready = condition(object, "Ready");
        let told = words.iter().all(|word| ready.message.contains(word));
        ready.current && !ready.is("True") && ready.reason == reason && told
    };
    world.wait(kind, name, &what, failed).await?;
    Ok(())
}

/// Neither role nor Secret of `World::api` is there, and nobody asked for its token.
async fn untouched(world: &World) -> Result<()> {
    assert_eq!(world.bound_to("orders-api").await?, None);
    assert_eq!(world.get("secret", "api").await?, None);
    assert_eq!(world.token_requests(Some(API_CLIENT)), 0);
    Ok(())
}

// Red when: `Index::remove_server` wakes nobody, or `report::last_seen` knows nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_principal_waits_for_its_server_and_keeps_all_when_it_goes() -> Result<()> {
    let setup = Setup {
        server: None,
        ..Setup::default()
    };
    let world = World::with("server_not_found", setup).await?;
    world.apply(&world.api()).await?;
    let server = format!("EntraPostgresServer {}/server", world.names.platform);
    let words = [server.as_str(), "make it", "spec.serverRef"];
    fails(&world, ("principal", "api"), "ServerNotFound", &words).await?;
    untouched(&world).await?;
    assert_eq!(world.token_requests(None), 0);

    world.apply(&world.server("server")?).await?;
    let ready = world.ready("principal", "api").await?;
    let secret = world.secret("api").await?;
    let asked = world.token_requests(Some(API_CLIENT));

    world.delete("server", "server").await?;
    fails(&world, ("principal", "api"), "ServerNotFound", &words).await?;
    // Workloads that follow status.binding keep what they have, and status says until when.
    let waiting = world.get("principal", "api").await?.expect("api");
    assert_eq!(waiting["status"]["binding"], ready["status"]["binding"]);
    assert_eq!(waiting["status"]["token"], ready["status"]["token"]);
    let token = condition(&waiting, "TokenIssued").message;
    assert!(token.contains("is good until"), "{token}");
    assert_eq!(world.bound_to("orders-api").await?.as_deref(), Some(API_ID));
    assert_eq!(world.secret("api").await?, secret);

    world.apply(&world.server("server")?).await?;
    world.ready("principal", "api").await?;
    assert_eq!(world.secret("api").await?, secret);
    assert_eq!(world.token_requests(Some(API_CLIENT)), asked);
    Ok(())
}

// Red when: `tenancy::check` answers `Ok` at once.
#[tokio::test(flavor = "multi_thread")]
async fn what_no_tenant_entry_gives_is_not_done_and_the_missing_field_is_named() -> Result<()> {
    let world = World::start("tenants").await?;
    let team = world.names.team.clone();
    plane()
        .apply_text(
            &json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": team, "labels": {"tier": "gold"}},
            })
            .to_string(),
        )
        .await?;
    let tenant = |change: Value| {
        let mut tenant = json!({
            "namespaces": {"names": [team]},
            "principalTypes": ["ManagedIdentity", "User"], "roleNames": ["*"],
        });
        let members = change.as_object().expect("an object").clone();
        tenant.as_object_mut().expect("an object").extend(members);
        json!({"spec": {"tenants": [tenant]}})
    };
    let allow = async |change: Value| world.patch("server", "server", &tenant(change)).await;

    let nobody = json!({"spec": {"tenants": null}});
    world.patch("server", "server", &nobody).await?;
    world.apply(&world.api()).await?;
    let cases = [
        (
            json!({"principalTypes": ["Group"]}),
            "NotAllowedByServer",
            "tenants.principalTypes has no ManagedIdentity",
        ),
        (
            json!({"namespaces": {"names": [world.names.other]}}),
            "NamespaceNotAllowed",
            team.as_str(),
        ),
        (
            json!({"roleNames": ["Orders-*", "reports"]}),
            "NotAllowedByServer",
            "tenants.roleNames does not match \"orders-api\"",
        ),
        (
            json!({"namespaces": {"selector": {"matchLabels": {"tier": "silver"}}}}),
            "NamespaceNotAllowed",
            "no entry in spec.tenants",
        ),
    ];
    fails(
        &world,
        ("principal", "api"),
        "NamespaceNotAllowed",
        &[&team, "ask its owner"],
    )
    .await?;
    for (change, reason, words) in cases {
        allow(change).await?;
        fails(
            &world,
            ("principal", "api"),
            reason,
            &[words, "ask its owner"],
        )
        .await?;
    }
    untouched(&world).await?;

    let gold = json!({"namespaces": {"selector": {"matchLabels": {"tier": "gold"}}}});
    allow(gold).await?;
    world.ready("principal", "api").await?;

    let dba = json!({"type": "User", "admin": true});
    let role = "dba@contoso.onmicrosoft.com";
    world.apply(&world.principal("dba", role, dba)).await?;
    fails(
        &world,
        ("principal", "dba"),
        "NotAllowedByServer",
        &["tenants.admin is not true"],
    )
    .await?;
    assert_eq!(world.bound_to(role).await?, None);
    allow(json!({"admin": true})).await?;
    world.ready("principal", "dba").await?;

    // What was given stays when it is given no more: nothing is taken away by surprise.
    let silver = json!({"namespaces": {"selector": {"matchLabels": {"tier": "silver"}}}});
    allow(silver).await?;
    fails(
        &world,
        ("principal", "api"),
        "NamespaceNotAllowed",
        &["ask its owner"],
    )
    .await?;
    assert_eq!(world.bound_to("orders-api").await?.as_deref(), Some(API_ID));
    Ok(())
}

// Red when: `Cloud::has_host` compares with `ends_with` alone.
#[tokio::test(flavor = "multi_thread")]
async fn no_token_is_asked_for_a_host_outside_its_cloud() -> Result<()> {
    let setup = Setup {
        server: None,
        ..Setup::default()
    };
    let world = World::with("hosts", setup).await?;
    let cases = [
        ("below", "localhost.evil", "Lab", "HostNotInCloud"),
        ("glued", "evillocalhost", "Lab", "HostNotInCloud"),
        ("hyphen", "evil-localhost", "Lab", "HostNotInCloud"),
        ("address", "127.0.0.1", "Lab", "HostNotInCloud"),
        (
            "azure",
            "db.postgres.database.azure.com",
            "Lab",
            "HostNotInCloud",
        ),
        ("public", "localhost", "Public", "HostNotInCloud"),
        ("moon", "localhost", "Moon", "UnknownCloud"),
    ];
    for (name, host, cloud, _) in cases {
        server(&world, name, |spec| {
            spec["host"] = json!(host);
            spec["cloud"] = json!(cloud);
        })
        .await?;
    }
    let mut lost = world.api();
    lost["spec"]["serverRef"]["name"] = json!("below");
    world.apply(&lost).await?;
    for (name, host, cloud, reason) in cases {
        let words: &[&str] = match reason {
            "UnknownCloud" => &[
                cloud,
                "China, Lab, Public, USGovernment",
                "operator's configuration",
            ],
            _ => &[host, cloud, "no token was asked for", "serverSuffixes"],
        };
        fails(&world, ("server", name), reason, words).await?;
    }
    let words = ["HostNotInCloud", "/below is not usable", "localhost.evil"];
    fails(&world, ("principal", "api"), "ServerNotReady", &words).await?;
    untouched(&world).await?;
    assert_eq!(world.token_requests(None), 0);

    // The host cannot be changed, the cloud can.
    let lab = json!({"spec": {"cloud": "Lab"}});
    world.patch("server", "moon", &lab).await?;
    world.ready("server", "moon").await?;
    assert_eq!(world.token_requests(None), 1);
    Ok(())
}

// Red when: `Settings::identity_allowed` answers `Ok` at once.
#[tokio::test(flavor = "multi_thread")]
async fn identities_of_operator_and_node_work_only_where_they_are_listed() -> Result<()> {
    let importer = "c11e4700-0000-4000-8000-000000000004";
    let node = "c11e4700-0000-4000-8000-000000000006";
    let setup = Setup {
        server: None,
        directory: Box::new(|directory, _| {
            // Both are members of the administrators' group.
            let members: Vec<_> = directory
                .service_principals
                .iter()
                .filter(|service| ["orders-importer", "lab-node"].contains(&service.name.as_str()))
                .map(|service| service.object_id)
                .collect();
            let mut groups = directory.groups.iter_mut();
            let admins = groups.find(|group| group.name == "pg-operators");
            admins.expect("pg-operators").members.extend(members);
        }),
        ..Setup::default()
    };
    let mut world = World::with("listed", setup).await?;
    let as_whom = |identity: Value| json!([{"roleName": "pg-operators", "identity": identity}]);
    let own = as_whom(json!({"operator": {}}));
    let nodes = as_whom(json!({"managedIdentity": {"clientId": node}}));
    server(&world, "own", |spec| spec["admins"] = own).await?;
    server(&world, "node", |spec| spec["admins"] = nodes).await?;
    server(&world, "server", |_| ()).await?;

    let platform = world.names.platform.clone();
    let words = [platform.as_str(), "operatorIdentityNamespaces"];
    fails(&world, ("server", "own"), "IdentityNotAllowed", &words).await?;
    let words = [platform.as_str(), node, "managedIdentities"];
    fails(&world, ("server", "node"), "IdentityNotAllowed", &words).await?;
    for client in [importer, node] {
        assert_eq!(world.token_requests(Some(client)), 0);
    }

    // Listed, and the operator has an identity of its own: an application with a secret.
    world.kill_operator();
    let mut file: serde_yaml::Value = serde_yaml::from_str(&world.options.config)?;
    file["operatorIdentityNamespaces"] = serde_yaml::to_value([&platform])?;
    let listed = ManagedIdentities {
        namespaces: vec![platform.clone()],
        client_ids: vec![node.to_owned()],
        ..ManagedIdentities::default()
    };
    file["managedIdentities"] = serde_yaml::to_value([listed])?;
    world.options.config = serde_yaml::to_string(&file)?;
    let secret = "the-lab-has-no-real-secrets~importer";
    let environment = world.options.envs.clone();
    world
        .options
        .envs
        .extend(azure(importer, ("AZURE_CLIENT_SECRET", secret)));
    world.start_operator().await?;
    for name in ["own", "node"] {
        world.ready("server", name).await?;
    }
    assert!(world.token_requests(Some(importer)) > 0);
    assert!(world.token_requests(Some(node)) > 0);

    // The same as an installation with workload identity has it.
    world.kill_operator();
    let token = plane()
        .service_account_token(&platform, "pg-operator", FEDERATED_AUDIENCE)
        .await?;
    let file = world.dir.path().join("token");
    std::fs::write(&file, token)?;
    let before = world.token_requests(Some(ADMIN_CLIENT));
    let file = file.to_str().expect("UTF-8");
    world.options.envs = environment;
    world
        .options
        .envs
        .extend(azure(ADMIN_CLIENT, ("AZURE_FEDERATED_TOKEN_FILE", file)));
    world.delete("server", "server").await?;
    server(&world, "own-2", |spec| {
        spec["admins"] = as_whom(json!({"operator": {}}));
    })
    .await?;
    world.start_operator().await?;
    world.ready("server", "own-2").await?;
    assert!(world.token_requests(Some(ADMIN_CLIENT)) > before);
    Ok(())
}

fn azure(client: &str, (proof, value): (&str, &str)) -> [(String, String); 3] {
    [
        ("AZURE_CLIENT_ID", client),
        ("AZURE_TENANT_ID", TENANT),
        (proof, value),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
}
