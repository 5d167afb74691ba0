//! What people see through kubectl: columns, waits, the manual, and why something failed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, ensure};
use lab::control_plane::assets;
use lab::process::until;
use serde_json::{Value, json};

use crate::fixture::{ALICE, SOON, World, condition, plane};

/// kubectl, from PATH or built.
fn program() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| {
        let built = assets::find(assets::Set::Kubectl).expect("kubectl is found or built");
        let built = built.join("kubectl");
        // It is built only where PATH has none.
        let program = built.exists().then_some(built);
        program.unwrap_or_else(|| PathBuf::from("kubectl"))
    })
}

/// Runs kubectl as the cluster's administrator; an error if it fails.
async fn kubectl(args: &[&str]) -> Result<String> {
    let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
    let kubeconfig = plane().kubeconfig();
    let output = tokio::task::spawn_blocking(move || {
        let mut command = Command::new(program());
        let cache = kubeconfig.with_file_name("kubectl-cache");
        command.args(&args).arg("--cache-dir").arg(cache);
        command.env("KUBECONFIG", &kubeconfig).output()
    });
    let output = output.await??;
    let (out, err) = (output.stdout, output.stderr);
    let text = String::from_utf8(out)?;
    ensure!(
        output.status.success(),
        "kubectl: {}{text}",
        String::from_utf8_lossy(&err)
    );
    Ok(text)
}

/// The words of one line that begins with these columns.
fn line<'a>(text: &'a str, begins: &[&str]) -> Result<Vec<&'a str>> {
    let split = |line: &'a str| line.split_whitespace().collect::<Vec<_>>();
    let mut lines = text.lines().map(split);
    let found = lines.find(|words| words.starts_with(begins));
    found.with_context(|| format!("no line that begins with {begins:?} in\n{text}"))
}

/// The text with all white space as single blanks: kubectl wraps.
fn flowing(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

// Red when: a printer column is renamed in src/api/principal.rs, or the category left out.
#[tokio::test(flavor = "multi_thread")]
async fn kubectl_lists_waits_for_and_describes_principals() -> Result<()> {
    let world = World::start("kubectl").await?;
    let team = world.names.team.as_str();
    world.apply(&world.api()).await?;
    let nobody = world.principal("nobody", "nobody", json!({"type": "Group"}));
    world.apply(&nobody).await?;
    kubectl(&[
        "wait",
        "--for=condition=Ready",
        "epgp/api",
        "-n",
        team,
        "--timeout=30s",
    ])
    .await?;
    let server = [
        "wait",
        "--for=condition=Ready",
        "epgs/server",
        "--timeout=30s",
        "-n",
    ];
    kubectl(&[&server[..], &[&world.names.platform]].concat()).await?;
    world
        .not_ready("principal", "nobody", "PrincipalNotFound")
        .await?;

    let text = kubectl(&["get", "epgp", "-A"]).await?;
    let head = flowing(text.lines().next().unwrap_or_default());
    assert_eq!(
        head,
        "NAMESPACE NAME ROLE SERVER TYPE READY REASON TOKEN EXPIRES AGE"
    );
    let object = world.ready("principal", "api").await?;
    let expires = object["status"]["token"]["expiresAt"]
        .as_str()
        .context("a time")?;
    let words = line(&text, &[team, "api"])?;
    let wanted = [
        "orders-api",
        "server",
        "ManagedIdentity",
        "True",
        "Ready",
        expires,
    ];
    assert_eq!(words.get(2..8), Some(&wanted[..]), "{text}");
    let words = line(&text, &[team, "nobody"])?;
    let wanted = ["nobody", "server", "Group", "False", "PrincipalNotFound"];
    assert_eq!(words.get(2..7), Some(&wanted[..]), "{text}");
    let text = kubectl(&["get", "entra", "-n", team]).await?;
    line(&text, &["entrapostgresprincipal.entrapostgres.io/api"])?;
    let text = kubectl(&["get", "entra", "-A"]).await?;
    let server = "entrapostgresserver.entrapostgres.io/server";
    line(&text, &[&world.names.platform, server])?;

    // The sentence and the event say the same, so that either is enough.
    let text = kubectl(&["describe", "epgp", "nobody", "-n", team]).await?;
    let message = world
        .not_ready("principal", "nobody", "PrincipalNotFound")
        .await?;
    ensure!(message.contains("nobody"), "{message}");
    ensure!(
        flowing(&text).contains(&flowing(&message)),
        "no {message} in\n{text}"
    );
    let events = text.split("Events:").nth(1).unwrap_or_default();
    line(events, &["Warning", "PrincipalNotFound"])?;
    ensure!(text.contains("Reconciling"), "{text}");
    Ok(())
}

// Red when: a doc comment of src/api is taken away.
#[tokio::test(flavor = "multi_thread")]
async fn kubectl_explain_reads_as_a_manual() -> Result<()> {
    let cases: [(&str, &[&str]); 12] = [
        (
            "epgp",
            &[
                "A Microsoft Entra principal (user, group, service principal, managed identity) that is a role",
            ],
        ),
        (
            "epgp.spec",
            &[
                "What becomes of the role when this object is deleted.",
                "What to do when a role of that name is there already and was not made for this object.",
            ],
        ),
        (
            "epgp.spec.role",
            &["annotation `entrapostgres.io/restore` of the EntraPostgresServer"],
        ),
        (
            "epgp.spec.memberOf",
            &["Only memberships that this object gave are ever taken away."],
        ),
        (
            "epgp.spec.grants",
            &[
                "What is removed here is taken away if this object had given it.",
                "they are caught within the server's `resyncInterval`",
            ],
        ),
        (
            "epgp.spec.principal.objectIdFrom",
            &["annotation `entrapostgres.io/rebind` with the new object id is the consent"],
        ),
        (
            "epgs.spec.tenants.grants",
            &["CREATE on the database itself needs an entry without schemas."],
        ),
        (
            "epgp.spec.token",
            &[
                "The Secret with a fresh access token, for workloads.",
                "Whose token it is: the principal's own, or for a group any member's.",
                "The database in the Secret's connection keys.",
                "How long before its end the token is renewed, for example 90s, 20m, 1h30m.",
                "kubelet takes up to 2 minutes to hand a changed Secret to pods.",
                "The Secret that is written. It belongs to this object and goes with it.",
            ],
        ),
        (
            "epgp.spec.token.secret.formats",
            &["Only what is asked for is written"],
        ),
        (
            "epgp.spec.token.identity",
            &["Exactly one member is set.", "Recommended on AKS."],
        ),
        (
            "epgs.spec",
            &[
                "Host name of the server, for example `orders.postgres.database.azure.com`.",
                "The Entra administrators as whom the operator may work, tried in order.",
                "what no entry gives is forbidden",
                "there is no way to turn that off",
                "a role dropped or relabelled by hand is put back within this time",
            ],
        ),
        (
            "epgs.spec.tenants",
            &[
                "The namespaces this entry is for.",
                "`*` stands for any text",
            ],
        ),
    ];
    // The API server tells of a kind a moment after it has taken it.
    for kind in ["epgp", "epgs"] {
        let told = async || Ok(kubectl(&["explain", kind]).await.is_ok());
        until("kubectl knows the kind", SOON, told).await?;
    }
    for (path, sentences) in cases {
        let text = kubectl(&["explain", path]).await?;
        let flowing = flowing(&text);
        for sentence in sentences {
            ensure!(flowing.contains(sentence), "no {sentence:?} in\n{text}");
        }
        ensure!(
            !text.contains("<no description>") && !text.contains("[`"),
            "{text}"
        );
    }
    Ok(())
}

/// Every condition type of an object's status, sorted.
fn types(object: &Value) -> Vec<&str> {
    let conditions = object["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten();
    let mut types: Vec<&str> = conditions.filter_map(|c| c["type"].as_str()).collect();
    types.sort_unstable();
    types
}

// Red when: a status is written with the generation that the API server has, not the one that was
// worked on.
#[tokio::test(flavor = "multi_thread")]
async fn a_status_never_speaks_of_a_generation_that_was_not_seen() -> Result<()> {
    let setup = crate::fixture::Setup {
        operator: false,
        ..crate::fixture::Setup::default()
    };
    let mut world = World::with("kstatus", setup).await?;
    world.apply(&world.api()).await?;
    let object = world
        .get("principal", "api")
        .await?
        .context("it is there")?;
    assert_eq!(
        object["status"]["observedGeneration"], -1,
        "nobody has looked yet"
    );
    world.start_operator().await?;
    let object = world.ready("principal", "api").await?;
    assert_eq!(
        types(&object),
        ["LoginVerified", "Ready", "RoleSynced", "TokenIssued"]
    );
    assert_eq!(
        object["status"]["observedGeneration"],
        object["metadata"]["generation"]
    );

    // A renewal of the spec that takes a while: until it is done, the status speaks of before.
    let client = crate::fixture::API_CLIENT;
    world.sql("DROP ROLE \"orders-api\"").await?;
    world
        .faults(json!([{"on": "sql", "match": {"role": "orders-api"}, "do": {"delayMs": 1500}}]))
        .await?;
    world
        .patch(
            "principal",
            "api",
            &json!({"spec": {"token": {"database": "orders"}}}),
        )
        .await?;
    let done = |object: &Value| {
        let status = &object["status"];
        let speaks = &status["observedGeneration"];
        if status["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|c| c["observedGeneration"] != *speaks)
        {
            return true;
        }
        condition(object, "Ready").is("True")
    };
    let object = world.wait("principal", "api", "Ready again", done).await?;
    ensure!(
        condition(&object, "Ready").is("True"),
        "{:#}",
        object["status"]
    );
    assert_eq!(object["status"]["observedGeneration"], 2);
    assert_eq!(
        world.secret("api").await?["database"],
        "orders",
        "what it claims is so"
    );
    assert_eq!(
        world.token_requests(Some(client)),
        1,
        "only the keys changed"
    );
    Ok(())
}

// Red when: `put_kstatus` in src/model/report.rs puts a condition that is not true.
#[tokio::test(flavor = "multi_thread")]
async fn stalled_and_reconciling_are_there_only_while_true() -> Result<()> {
    let world = World::start("stalled").await?;
    // Stalled: somebody must change something. Reconciling: it may pass, or what is missing may arrive.
    let nobody = world.principal("nobody", "nobody", json!({"type": "Group"}));
    world.sql("CREATE ROLE plain").await?;
    let id = json!({"type": "ServicePrincipal", "objectId": crate::fixture::REPORTS_ID});
    let plain = world.principal("plain", "plain", id);
    for (object, reason, kind) in [
        (nobody, "PrincipalNotFound", "Reconciling"),
        (plain, "RoleExists", "Stalled"),
    ] {
        let name = object["metadata"]["name"].as_str().context("a name")?;
        world.apply(&object).await?;
        world.not_ready("principal", name, reason).await?;
        let object = world.get("principal", name).await?.context("it is there")?;
        let mut wanted = ["Ready", "RoleSynced", kind];
        wanted.sort_unstable();
        assert_eq!(types(&object), wanted);
    }
    world.faults(json!([{"on": "token", "match": {"clientId": crate::fixture::REPORTS_CLIENT}, "do": {"status": 503}}])).await?;
    let mut reports = world.principal(
        "reports",
        "orders-reports",
        json!({"type": "ManagedIdentity"}),
    );
    reports["spec"]["token"] =
        json!({"identity": crate::fixture::workload_identity("orders-reports")});
    world.apply(&reports).await?;
    let passing = world.wait_for("principal", "reports", "Reconciling", SOON, |object| {
        types(object).contains(&"Reconciling")
    });
    let object = passing.await?;
    assert_eq!(
        types(&object),
        [
            "LoginVerified",
            "Ready",
            "Reconciling",
            "RoleSynced",
            "TokenIssued"
        ]
    );
    assert_eq!(condition(&object, "Ready").status, "Unknown");
    world.faults(json!([])).await?;
    let object = world.ready("principal", "reports").await?;
    assert_eq!(
        types(&object),
        ["LoginVerified", "Ready", "RoleSynced", "TokenIssued"]
    );
    world
        .apply(&world.principal("alice", ALICE, json!({"type": "User"})))
        .await?;
    let object = world.ready("principal", "alice").await?;
    assert_eq!(types(&object), ["Ready", "RoleSynced"]);
    Ok(())
}
