//! Role names that break careless quoting: in SQL, Secret, marker and messages.

use anyhow::Result;
use lab::directory::Group;
use serde_json::{Value, json};

use crate::fixture::{REPORTS_ID, Setup, World, condition, workload_identity};

use super::{comment_of, quoted};

const NAMES: [&str; 13] = [
    "o'brien'; DROP ROLE lab; --",
    "say \"hi\"",
    r"back\slash\' E'\n",
    "  spaces   all around  ",
    "100%_sure %I %L %s",
    "a $$ b $do$ c $1",
    "Grüße 数据库 🐘",
    "guest2_example.com#EXT#@contoso.onmicrosoft.com",
    "{objectId}",
    "{{ braces }} ${HOME} $(HOME)",
    "a:b@c/d?e=f&g#h",
    "tab\tand\nline",
    // 63 bytes.
    "ümlaut0123456789-0123456789-0123456789-0123456789-0123456789-Z",
];

/// A second name of at most 63 bytes, for the same trouble by object id.
fn other(name: &str) -> String {
    let mut name = name.to_owned();
    if name.len() >= 63 {
        name.pop();
    }
    format!("@{name}")
}

fn group_id(index: usize, by_id: bool) -> String {
    format!(
        "9409b0aa-0000-4000-8000-0000000000{}{index:x}",
        u8::from(by_id)
    )
}

fn with_groups(directory: &mut lab::directory::Directory) {
    for (index, name) in NAMES.iter().enumerate() {
        for (by_id, name) in [
            (false, (*name).to_owned()),
            (true, format!("group {index}")),
        ] {
            directory.groups.push(Group {
                name,
                object_id: group_id(index, by_id).parse().expect("a GUID"),
                members: vec![REPORTS_ID.parse().expect("a GUID")],
            });
        }
    }
}

fn objects(world: &World) -> Vec<(String, String, String, Value)> {
    let all = NAMES.iter().enumerate().flat_map(|(index, name)| {
        [
            (index, (*name).to_owned(), false),
            (index, other(name), true),
        ]
    });
    all.map(|(index, role, by_id)| {
        let id = group_id(index, by_id);
        let principal = if by_id {
            json!({"type": "Group", "objectId": id})
        } else {
            json!({"type": "Group"})
        };
        let name = format!("n{index}-{by_id}");
        let mut object = world.principal(&name, &role, principal);
        object["spec"]["token"] = json!({"identity": workload_identity("orders-reports")});
        (name, role, id, object)
    })
    .collect()
}

// Red when: sql::identifier wraps in plain quotes (names with a quote fail), sql::literal drops the E,
// secret::uri does not percent-encode, or do_block writes its body between $$.
#[tokio::test(flavor = "multi_thread")]
async fn every_name_is_quoted_right_wherever_it_stands() -> Result<()> {
    let world = World::with(
        "names",
        Setup {
            directory: Box::new(|directory, _| with_groups(directory)),
            ..Setup::default()
        },
    )
    .await?;
    assert_eq!(NAMES.iter().map(|name| name.len()).max(), Some(63));
    let objects = objects(&world);
    for (.., object) in &objects {
        world.apply(object).await?;
    }
    for (name, role, id, _) in &objects {
        let object = world.ready("principal", name).await?;
        assert_eq!(object["status"]["role"]["name"], role.as_str());
        let said = condition(&object, "RoleSynced").message;
        assert_eq!(said, format!("role {role:?} is bound to object id {id}"));
        assert_eq!(world.bound_to(role).await?.as_deref(), Some(id.as_str()));
        let marker = comment_of(&world, role).await?.unwrap_or_default();
        assert!(marker.contains(&format!("/{name};")), "{role}: {marker}");
        assert!(marker.contains(id.as_str()), "{role}: {marker}");
        let secret = world.secret(name).await?;
        assert_eq!(&secret["username"], role);
        let uri: tokio_postgres::Config = secret["uri"].parse()?;
        assert_eq!(uri.get_user(), Some(role.as_str()));
        assert_eq!(uri.get_password(), Some(secret["password"].as_bytes()));
        let user = world
            .login(role, &secret["password"], &secret["database"])
            .await?;
        assert_eq!(&user, role);
    }
    drift_is_put_back(&world, objects.len()).await?;
    roles_are_dropped(&world, &objects).await
}

/// Markers and labels are taken away by hand and come back.
async fn drift_is_put_back(world: &World, count: usize) -> Result<()> {
    world
        .sql(
            "DO $do$ DECLARE r text; BEGIN FOR r IN SELECT rolname FROM pg_roles \
             WHERE shobj_description(oid, 'pg_authid') LIKE 'Managed by %' LOOP \
             IF r LIKE '@%' THEN EXECUTE format('SECURITY LABEL FOR pgaadauth ON ROLE %I IS NULL', r); \
             ELSE EXECUTE format('COMMENT ON ROLE %I IS NULL', r); END IF; END LOOP; END $do$",
        )
        .await?;
    let whole = "SELECT count(*) FROM pg_roles r JOIN pgaadauth_list_principals(false) AS p(name, kind, oid) \
                 ON p.name = r.rolname WHERE shobj_description(r.oid, 'pg_authid') LIKE '%' || p.oid || '%'";
    world.wait_sql(whole, Some(&count.to_string())).await
}

async fn roles_are_dropped(
    world: &World,
    objects: &[(String, String, String, Value)],
) -> Result<()> {
    for (name, ..) in objects {
        let policy = json!({"spec": {"deletionPolicy": "Drop"}});
        world.patch("principal", name, &policy).await?;
    }
    for (name, ..) in objects {
        world
            .wait("principal", name, "has the finalizer", |object| {
                !object["metadata"]["finalizers"].is_null()
            })
            .await?;
        world.delete("principal", name).await?;
    }
    let roles: Vec<String> = objects.iter().map(|(_, role, ..)| quoted(role)).collect();
    let left = format!(
        "SELECT count(*) FROM pg_roles WHERE rolname IN ({})",
        roles.join(", ")
    );
    world.wait_sql(&left, Some("0")).await
}
