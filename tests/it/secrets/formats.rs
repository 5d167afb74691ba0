//! Every format, read by psql from mounted files, and what a change of what is declared costs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use lab::directory::{Directory, Group};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::fixture::{API_CLIENT, REPORTS_ID, Setup, World, condition, plane, workload_identity};

/// Names as the issue has them: a group's with spaces, a guest's, and one with everything that quotes.
pub(super) const NAMES: [&str; 3] = [
    "Prod DB Readonly",
    "guest_user_example.com#EXT#@tenant.onmicrosoft.com",
    "o'brien \"x\" \\ ü",
];
/// Keys that clients read who know none of the formats.
const TEMPLATE: [(&str, &str); 3] = [
    (
        "db.properties",
        "user={{ user | properties }}\npassword={{ token }}\nsslmode=verify-full\nsslrootcert={{ caFile | properties }}\n",
    ),
    (
        "jdbc-url",
        "jdbc:postgresql://{{ host }}:{{ port }}/{{ database | urlencode }}?user={{ user | urlencode }}&password={{ token }}&sslmode=verify-full&sslrootcert={{ caFile | urlencode }}",
    ),
    (
        "env.sh",
        "export PGHOST={{ host }} PGPORT={{ port }} PGUSER={{ user | shell }} PGPASSWORD={{ token }} PGDATABASE={{ database | shell }} PGSSLMODE=verify-full PGSSLROOTCERT={{ caFile | shell }}\n",
    ),
];

/// A world with a group of each name, whose member is the identity of `orders-reports`.
pub(super) async fn world(test: &str) -> Result<World> {
    let setup = Setup {
        directory: Box::new(|directory, _| with_groups(directory)),
        ..Setup::default()
    };
    World::with(test, setup).await
}

fn with_groups(directory: &mut Directory) {
    let member = directory.groups.iter().flat_map(|group| &group.members);
    let member = member.copied().find(|id| id.to_string() == REPORTS_ID);
    let member = member.expect("orders-reports is in a group");
    for (name, index) in NAMES.iter().zip(0..) {
        directory.groups.retain(|group| group.name != *name);
        directory.groups.push(Group {
            name: (*name).to_owned(),
            object_id: uuid::Uuid::from_u128(0xf0f0_0000 + index),
            members: vec![member],
        });
    }
}

/// Asks for all formats under each name, mounted at folders below `to`; returns name and folder.
pub(super) async fn mounted(
    world: &World,
    to: &Path,
) -> Result<Vec<(&'static str, std::path::PathBuf)>> {
    let mut mounts = Vec::new();
    for (index, role) in NAMES.into_iter().enumerate() {
        let (name, folder) = (format!("n{index}"), to.join(format!("n{index}")));
        let mut object = world.principal(&name, role, json!({"type": "Group"}));
        object["spec"]["token"] = json!({
            "identity": workload_identity("orders-reports"),
            "secret": {
                "formats": ["ServiceBinding", "Env", "PgPass", "Uri", "Conninfo", "Json"],
                "mountPath": folder,
                "template": {"data": BTreeMap::from(TEMPLATE)},
            },
        });
        world.apply(&object).await?;
        world.ready("principal", &name).await?;
        mount(&world.secret(&name).await?, &folder)?;
        mounts.push((role, folder));
    }
    Ok(mounts)
}

/// Writes files as kubelet does with `defaultMode: 0600`.
fn mount(data: &BTreeMap<String, String>, folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::create_dir_all(folder)?;
    for (key, text) in data {
        let file = folder.join(key);
        std::fs::write(&file, text)?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

fn psql(folder: &Path) -> Command {
    let mut psql = Command::new("psql");
    psql.args(["-X", "-w", "-A", "-t", "-c", "SELECT current_user"])
        .env("PGCONNECT_TIMEOUT", "10")
        // No password or root certificate of whoever runs the test.
        .env("HOME", folder)
        .env_remove("PGPASSWORD");
    psql
}

/// What a command prints, without the last line break.
pub(super) async fn said(mut command: Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().await?;
    let error = String::from_utf8_lossy(&output.stderr);
    // Not the arguments and variables: they have the token.
    let program = command.as_std().get_program();
    ensure!(
        output.status.success(),
        "{}: {}",
        program.display(),
        error.trim()
    );
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}

// Red when: escape::conninfo leaves spaces alone, escape::pgpass backslashes, escape::percent '#';
// Values::names_ca is false (the CA's file is not named and verify-full not asked for).
#[tokio::test(flavor = "multi_thread")]
async fn psql_signs_in_with_nothing_but_the_mounted_files_whatever_the_name() -> Result<()> {
    let world = world("formats_psql").await?;
    let dir = tempfile::tempdir()?;
    for (role, folder) in mounted(&world, dir.path()).await? {
        let read =
            |key: &str| std::fs::read_to_string(folder.join(key)).with_context(|| key.to_owned());
        for string in ["uri", "conninfo"] {
            let text = read(string)?;
            ensure!(text.contains("sslmode=verify-full"), "{string} of {role}");
            let mut psql = psql(&folder);
            psql.arg(text);
            assert_eq!(said(psql).await.context(string)?, role, "{string}");
        }

        let mut from_environment = psql(&folder);
        for key in [
            "PGHOST",
            "PGPORT",
            "PGDATABASE",
            "PGUSER",
            "PGPASSWORD",
            "PGSSLMODE",
            "PGSSLROOTCERT",
        ] {
            from_environment.env(key, read(key)?);
        }
        assert_eq!(said(from_environment).await.context("Env")?, role);

        let mut from_password_file = psql(&folder);
        from_password_file
            .args([
                "-h",
                &read("host")?,
                "-p",
                &read("port")?,
                "-U",
                &read("username")?,
                "-d",
                &read("database")?,
            ])
            .env("PGPASSFILE", folder.join("pgpass"))
            .env("PGSSLMODE", "verify-full")
            .env("PGSSLROOTCERT", folder.join("certificates"));
        assert_eq!(said(from_password_file).await.context("PgPass")?, role);

        let mut from_shell = Command::new("sh");
        from_shell
            .args([
                "-c",
                r#". "$0"/env.sh && exec psql -X -w -A -t -c 'SELECT current_user'"#,
            ])
            .arg(&folder)
            .env("HOME", &folder);
        assert_eq!(
            said(from_shell).await.context("the template's env.sh")?,
            role
        );

        let json: Value = serde_json::from_str(&read("token.json")?)?;
        assert_eq!(json["accessToken"], read("password")?.as_str());
        assert_eq!(json["tenant"], crate::fixture::TENANT);
        assert_eq!(json["tokenType"], "Bearer");
        let expires = jiff::civil::DateTime::strptime(
            "%Y-%m-%d %H:%M:%S%.f",
            json["expiresOn"].as_str().unwrap_or_default(),
        )?;
        let expires = expires.to_zoned(jiff::tz::TimeZone::UTC)?.timestamp();
        assert_eq!(json["expires_on"], expires.as_second());
        let object = world
            .get(
                "secret",
                folder
                    .file_name()
                    .and_then(|name| name.to_str())
                    .unwrap_or_default(),
            )
            .await?;
        let object = object.unwrap_or_default();
        assert_eq!(
            object["metadata"]["annotations"]["entrapostgres.io/expires-at"],
            expires.to_string()
        );
    }
    Ok(())
}

/// Waits until the Secret `api` has these keys and no other, and the object is Ready.
async fn keys(world: &World, wanted: &[&str]) -> Result<BTreeMap<String, String>> {
    let wanted: BTreeSet<&str> = wanted.iter().copied().collect();
    let has = |secret: &Value| {
        let keys = secret["data"].as_object().into_iter();
        let keys = keys.flat_map(|data| data.keys().map(String::as_str));
        keys.collect::<BTreeSet<_>>() == wanted
    };
    world
        .wait("secret", "api", &format!("has {wanted:?}"), has)
        .await?;
    world.ready("principal", "api").await?;
    world.secret("api").await
}

async fn change(world: &World, token: Value) -> Result<()> {
    let change = json!({"spec": {"token": token}});
    world.patch("principal", "api", &change).await
}

// Red when: Layout::token_in looks only under keys of its own formats (a new token is asked for);
// Present::is_as_declared leaves out what is ours and declared no more; `inputs` leaves out the layout.
#[tokio::test(flavor = "multi_thread")]
async fn another_format_template_or_endpoint_is_written_with_the_token_that_is_there() -> Result<()>
{
    let world = World::start("formats_changed").await?;
    world.apply(&world.api()).await?;
    world.ready("principal", "api").await?;
    let token = world.secret("api").await?["password"].clone();
    let mut mark = plane().audit().mark()?;
    let mut cost = async |world: &World| -> Result<usize> {
        world.ready("principal", "api").await?;
        let writes = world.writes_since(mark)?;
        mark = plane().audit().mark()?;
        Ok(writes
            .iter()
            .filter(|write| write.contains("secrets"))
            .count())
    };

    cost(&world).await?;
    change(&world, json!({"secret": {"formats": ["PgPass"]}})).await?;
    assert!(keys(&world, &["pgpass"]).await?["pgpass"].ends_with(&format!(":{token}\n")));
    // What the POST brought is removed by a request of its own, once.
    assert_eq!(cost(&world).await?, 2);

    change(&world, json!({"secret": {"formats": ["Uri"]}})).await?;
    let data = keys(&world, &["uri", "ca.crt"]).await?;
    assert!(data["uri"].contains(&token));
    assert_eq!(cost(&world).await?, 1);

    let template = json!({
        "labels": {"team": "a"}, "annotations": {"example.com/x": "y"},
        "data": {"dsn": "{{ host }}|{{ port }}|{{ token }}|{{ ca }}"},
    });
    change(
        &world,
        json!({"secret": {"formats": [], "template": template}}),
    )
    .await?;
    let data = keys(&world, &["dsn"]).await?;
    let port = world.azure.gateway()?.port();
    assert!(
        data["dsn"].starts_with(&format!("localhost|{port}|{token}|-----BEGIN CERT")),
        "{}",
        data["dsn"]
    );
    assert_eq!(cost(&world).await?, 1);
    let object = world.get("secret", "api").await?.unwrap_or_default();
    assert_eq!(object["metadata"]["labels"]["team"], "a");
    assert_eq!(object["metadata"]["annotations"]["example.com/x"], "y");

    // A label by hand is put right; one that is declared no more goes.
    world
        .patch(
            "secret",
            "api",
            &json!({"metadata": {"labels": {"team": "b"}}}),
        )
        .await?;
    world
        .wait("secret", "api", "label put right", |o| {
            o["metadata"]["labels"]["team"] == "a"
        })
        .await?;
    change(
        &world,
        json!({"secret": {"template": {"labels": null, "annotations": null}}}),
    )
    .await?;
    let bare = |o: &Value| {
        o["metadata"]["labels"]["team"].is_null()
            && o["metadata"]["annotations"]["example.com/x"].is_null()
    };
    world
        .wait("secret", "api", "no label or annotation left", bare)
        .await?;

    assert_eq!(
        world.token_requests(Some(API_CLIENT)),
        1,
        "one token for all of it"
    );
    Ok(())
}

// Red when: `connection` leaves out the endpoint, or a restarted operator does not compare what is there.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_only_text_and_what_changed_while_no_operator_ran_is_written() -> Result<()>
{
    let mut world = World::start("formats_endpoint").await?;
    world.apply(&world.api()).await?;
    world.ready("principal", "api").await?;
    let token = world.secret("api").await?["password"].clone();
    world.kill_operator();
    let endpoint = json!({"host": "replica.example.com", "port": 6432});
    change(&world, json!({"endpoint": endpoint, "secret": {"formats": ["ServiceBinding", "Conninfo", "PgPass"], "template": null}})).await?;
    world.start_operator().await?;
    let binding = [
        "type",
        "provider",
        "host",
        "port",
        "database",
        "username",
        "password",
        "uri",
        "certificates",
    ];
    let wanted: Vec<&str> = binding
        .into_iter()
        .chain(["ca.crt", "conninfo", "pgpass"])
        .collect();
    let data = keys(&world, &wanted).await?;
    assert_eq!(
        (data["host"].as_str(), data["port"].as_str()),
        ("replica.example.com", "6432")
    );
    assert!(data["uri"].contains("@replica.example.com:6432/"));
    assert!(data["conninfo"].starts_with("host=replica.example.com port=6432 "));
    assert!(data["pgpass"].starts_with("replica.example.com:6432:"));
    assert_eq!(data["password"], token);
    assert_eq!(
        world.token_requests(Some(API_CLIENT)),
        1,
        "one token for all of it"
    );
    Ok(())
}

// Red when: `connection` leaves the CA out of what is compared, or renewals wait for a CA that cannot
// be read (Layout::ca_in says Unknown).
#[tokio::test(flavor = "multi_thread")]
async fn another_ca_is_written_and_one_that_is_gone_stays_and_stops_no_renewal() -> Result<()> {
    let setup = Setup {
        directory: Box::new(|directory, _| {
            let mut services = directory.service_principals.iter_mut();
            let api = services.find(|service| service.client_id.to_string() == API_CLIENT);
            api.expect("it is there").token_lifetime_seconds = Some(120);
        }),
        ..Setup::default()
    };
    let mut world = World::with("formats_ca", setup).await?;
    world.apply(&world.api()).await?;
    world.ready("principal", "api").await?;
    let before = world.secret("api").await?;
    assert_eq!(
        before["certificates"].matches("BEGIN CERTIFICATE").count(),
        1
    );
    let platform = world.names.platform.clone();
    let ca = |text: Option<String>| {
        json!({"apiVersion": "v1", "kind": "ConfigMap",
               "metadata": {"name": "ca", "namespace": platform},
               "data": text.map(|text| json!({"ca.crt": text})).unwrap_or_default()})
    };
    let pem = world.azure.ca_pem();
    world
        .apply(&ca(Some(format!("a comment\n{pem}{pem}"))))
        .await?;
    let look =
        |value: &str| json!({"metadata": {"annotations": {"entrapostgres.io/reconcile": value}}});
    world.patch("server", "server", &look("1")).await?;
    let two = |o: &Value| {
        decoded(&o["data"]["certificates"])
            .matches("BEGIN CERTIFICATE")
            .count()
            == 2
    };
    world
        .wait("secret", "api", "has both certificates", two)
        .await?;
    let after = world.secret("api").await?;
    assert!(!after["certificates"].contains("comment"));
    assert_eq!(after["password"], before["password"]);
    assert_eq!(world.token_requests(Some(API_CLIENT)), 1);

    // The CA is away, and the operator knows nothing any more.
    world.kill_operator();
    world.apply(&ca(None)).await?;
    world.start_operator().await?;
    world.not_ready("server", "server", "CaInvalid").await?;
    let soon = json!({"spec": {"token": {"renewBefore": "115s", "secret": {"formats": ["ServiceBinding", "Uri"]}}}});
    world.patch("principal", "api", &soon).await?;
    let renewed = |o: &Value| {
        let data = &o["data"];
        data["ca.crt"].is_string() && decoded(&data["password"]) != before["password"]
    };
    world
        .wait("secret", "api", "renewed without the CA", renewed)
        .await?;
    assert_eq!(
        world.secret("api").await?["certificates"],
        after["certificates"]
    );
    Ok(())
}

fn decoded(value: &Value) -> String {
    use base64::Engine as _;
    let text = value.as_str().unwrap_or_default();
    let bytes = base64::engine::general_purpose::STANDARD.decode(text);
    String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
}

// Red when: Desired::parse fails as a whole for a template, or Settings::names_allowed says yes.
#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_cannot_be_is_refused_by_field_and_line_and_the_role_is_kept() -> Result<()>
{
    let setup = Setup {
        configuration: Box::new(|configuration, _| {
            configuration.reserved_prefixes = vec!["argoproj.io".to_owned()];
        }),
        ..Setup::default()
    };
    let world = World::with("formats_bad", setup).await?;
    let object = |template: Value| {
        let mut object = world.api();
        object["spec"]["token"]["secret"] = json!({"formats": ["Uri"], "template": template});
        object
    };
    let loops = "{% for a in '123456789' %}".repeat(4);
    let ends = "{% endfor %}".repeat(4);
    let heavy = format!("{loops}{}{ends}", "x".repeat(9000));
    for (template, words) in [
        (
            json!({"data": {"a": "ok\n{{ token "}}),
            "data[\"a\"], line 2: syntax error",
        ),
        (
            json!({"data": {"a": "{{ password }}"}}),
            "line 1: there is no placeholder \"password\"",
        ),
        (json!({"data": {"a": heavy}}), "too much work or memory"),
        (
            json!({"annotations": {"x.argoproj.io/y": "z"}}),
            "reservedPrefixes",
        ),
    ] {
        world.apply(&object(template)).await?;
        let refused = |object: &Value| {
            let ready = condition(object, "Ready");
            ready.is("False")
                && ready.reason == "TemplateInvalid"
                && ready.message.contains(words)
                && ready.message.contains("token.secret.template.")
        };
        world.wait("principal", "api", words, refused).await?;
        assert_eq!(world.get("secret", "api").await?, None);
    }
    // The token says whose role it is; a role with an id of its own is not kept waiting.
    assert_eq!(world.token_requests(Some(API_CLIENT)), 0);
    world
        .apply(&object(json!({"labels": {"team": "a"}})))
        .await?;
    world.ready("principal", "api").await?;
    world
        .apply(&object(json!({"data": {"a": "{{ nothing }}"}})))
        .await?;
    world
        .not_ready("principal", "api", "TemplateInvalid")
        .await?;
    world.sql("COMMENT ON ROLE \"orders-api\" IS NULL").await?;
    let comment = "SELECT shobj_description(oid, 'pg_authid') LIKE 'Managed by%' FROM pg_roles WHERE rolname = 'orders-api'";
    world.wait_sql(comment, Some("t")).await?;
    let kept = world.get("principal", "api").await?.unwrap_or_default();
    assert!(condition(&kept, "RoleSynced").is("True"), "{kept:#}");
    Ok(())
}
