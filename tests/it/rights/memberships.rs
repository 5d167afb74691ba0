//! How a role is a member of another: INHERIT and SET are given, changed, put back and taken away from
//! PostgreSQL 16 on, and said to be impossible before.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::shrink::BARE;
use super::{
    ADMINISTRATOR, control, declared, furnished, has_exactly, improved, ledger, made, major,
    noticed, says, set, setup,
};
use crate::fixture::Setup;
use crate::fleet;

/// What is declared, and the lines that it is on the server.
const STAGES: [(&str, &[&str]); 6] = [
    (
        r#"[{"role": "readers", "inherit": false}, {"role": "writers", "set": false}]"#,
        &[
            "member of readers without inherit",
            "member of writers without set",
        ],
    ),
    (
        r#"[{"role": "readers"}, {"role": "writers", "inherit": false, "set": true}]"#,
        &["member of readers", "member of writers without inherit"],
    ),
    (
        r#"[{"role": "readers", "inherit": false, "set": false, "admin": true}, {"role": "writers"}]"#,
        &[
            "member of readers with admin without inherit without set",
            "member of writers",
        ],
    ),
    (
        r#"[{"role": "readers", "inherit": false}]"#,
        &["member of readers without inherit"],
    ),
    (r#"[{"role": "readers"}]"#, &["member of readers"]),
    ("[]", &[]),
];

/// What a database administrator does to a membership in the name of whoever gave it.
const DRIFT: [&str; 5] = [
    "GRANT readers TO \"ROLE\" WITH INHERIT TRUE GRANTED BY \"GRANTOR\"",
    "GRANT readers TO \"ROLE\" WITH INHERIT FALSE GRANTED BY \"GRANTOR\"",
    "GRANT readers TO \"ROLE\" WITH SET TRUE, ADMIN FALSE GRANTED BY \"GRANTOR\"",
    "GRANT readers TO \"ROLE\" WITH SET FALSE GRANTED BY \"GRANTOR\"",
    "REVOKE readers FROM \"ROLE\" GRANTED BY \"GRANTOR\"",
];

fn stage(text: &str) -> Result<Value> {
    Ok(json!({"memberOf": serde_json::from_str::<Value>(text)?}))
}

async fn options(test: &str, setup: Setup, grantor: &str) -> Result<()> {
    let world = furnished(test, setup, &[]).await?;
    made(&world, 0, &control()).await?;
    let name = fleet::name(1);
    let bare = set(&[BARE]);
    if major(&world).await? < 16 {
        world
            .apply(&declared(&world, 1, &stage(STAGES[0].0)?))
            .await?;
        let ready = says(&world, 1, &["readers", "writers", "PostgreSQL 16"]).await?;
        assert_eq!(ready.reason, "NotSupportedByVersion", "{ready:?}");
        has_exactly(&world, &name, &[], &bare, "nothing").await?;
    }
    let possible = if major(&world).await? < 16 { 4 } else { 0 };
    for (text, expected) in STAGES.into_iter().skip(possible) {
        made(&world, 1, &stage(text)?).await?;
        let mut held = bare.clone();
        held.extend(set(expected));
        has_exactly(&world, &name, &[], &held, text).await?;
        if !text.contains("readers") {
            continue;
        }
        // The last one is all that there is before.
        for drift in DRIFT.into_iter().skip(possible) {
            let drift = drift.replace("ROLE", &name).replace("GRANTOR", grantor);
            ledger::run(&world, "orders", &drift).await?;
            noticed(&world, 0).await?;
            has_exactly(&world, &name, &[], &held, &drift).await?;
        }
    }
    let rows = format!("SELECT count(*) FROM pg_auth_members WHERE member = '\"{name}\"'::regrole");
    ensure!(
        world.ask(&rows).await?.as_deref() == Some("0"),
        "all is gone"
    );
    Ok(())
}

// Red when: `join` in rights/memberships looks at ADMIN only, or `join` in postgres/statements leaves INHERIT
// or SET to the server.
#[tokio::test(flavor = "multi_thread")]
async fn options_of_memberships_are_as_declared_from_16_on() -> Result<()> {
    options("options", setup(2, |_| ()), ADMINISTRATOR).await
}

// Red when: what the server's superuser granted for us does not count as ours.
#[tokio::test(flavor = "multi_thread")]
async fn also_where_the_server_gives_them_in_its_own_name() -> Result<()> {
    options("options_improved", improved(2), lab::postgres::SUPERUSER).await
}
