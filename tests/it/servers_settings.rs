//! The settings of a connection belong to others too: whatever they are, the operator works as ever.

use anyhow::Result;
use lab::process::until;
use serde_json::{Value, json};

use crate::fixture::{ADMIN_CLIENT, SOON, Setup, World};
use crate::servers_connect::sign_ins;

/// Every parameter that a role may set for itself, with a value that is not its default: the other one of
/// a switch, another word, the smallest number above nothing. What is left out ends sign-ins for everybody,
/// or only the speed depends on it.
const HOSTILE: &str = "SELECT s.name, CASE
    WHEN s.name = 'search_path' THEN '\"$user\", public'
    WHEN s.vartype = 'bool' THEN CASE s.boot_val WHEN 'on' THEN 'off' ELSE 'on' END
    WHEN s.vartype = 'enum' THEN (SELECT v FROM unnest(s.enumvals) AS v WHERE v <> s.boot_val ORDER BY v <> 'error', v LIMIT 1)
    -- In force until our first message is over: it can be set only once the server's version is known.
    WHEN s.name = 'transaction_timeout' THEN '10'
    WHEN s.name ~ '_timeout$' THEN '1' END AS value
  FROM pg_settings AS s
  WHERE s.context = 'user' AND (s.name = 'search_path' OR s.vartype IN ('bool', 'enum') OR s.name ~ '_timeout$')
    AND s.name !~ '^(enable_|debug_|trace_|log_|geqo|jit|force_|tcp_|ssl_|transaction_|default_toast|xml|authentication)'
    OR s.name IN ('transaction_timeout')";

// Red when: one of `pinned::FIXED` or `pinned::LATER` is left out and matters.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_role_or_database_sets_by_default_the_operator_works() -> Result<()> {
    let world = World::start("settings").await?;
    world.apply(&world.api()).await?;
    world.ready("principal", "api").await?;
    let hostile = world
        .ask(&format!(
            "SELECT string_agg(format('ALTER ROLE \"pg-operators\" SET %I = %s', h.name,
               CASE h.name WHEN 'search_path' THEN h.value ELSE quote_literal(h.value) END), '; ')
             FROM ({HOSTILE}) AS h WHERE h.value IS NOT NULL"
        ))
        .await?
        .expect("parameters");
    let hostile = format!("{hostile}; ALTER ROLE \"pg-operators\" SET role = azure_pg_admin");
    for name in [
        "idle_session_timeout",
        "exit_on_error",
        "quote_all_identifiers",
        "role",
    ] {
        assert!(hostile.contains(name), "{hostile}");
    }
    for statement in hostile.split("; ") {
        world.sql(statement).await?;
    }
    world
        .sql("CREATE SCHEMA \"Odd\"; ALTER DATABASE orders SET default_transaction_read_only = on")
        .await?;
    world.azure.gateway()?.cut_all();
    let mut group = world.principal("group", "Prod DB Readonly", json!({"type": "Group"}));
    group["spec"]["role"] = json!({"connectionLimit": 5, "settings": {"work_mem": "5MB"}});
    group["spec"]["grants"] = json!([
        {"database": "orders", "privileges": ["CONNECT"]},
        {"database": "orders", "schema": "public", "privileges": ["USAGE"]},
    ]);
    world.apply(&group).await?;
    for (kind, name) in [
        ("principal", "group"),
        ("principal", "api"),
        ("server", "server"),
    ] {
        world.ready(kind, name).await?;
    }
    Ok(())
}

// Red when: a connection that is closed while it is idle is told as a loss, or costs an exchange.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_closed_while_idle_is_no_news() -> Result<()> {
    let setup = Setup {
        server: Some(Box::new(|server| {
            server["spec"]["resyncInterval"] = json!("1h");
        })),
        ..Setup::default()
    };
    let world = World::with("idle", setup).await?;
    world.apply(&world.api()).await?;
    world.ready("principal", "api").await?;
    let server = world.ready("server", "server").await?;
    let asked = world.token_requests(Some(ADMIN_CLIENT));
    // The server's own idle time-out ends none of them.
    world
        .sql("ALTER SYSTEM SET idle_session_timeout = '1s'")
        .await?;
    world.sql("SELECT pg_reload_conf()").await?;
    let idle = "SELECT count(*) > 0 AND bool_and(state = 'idle' AND state_change < now() - interval '1 second') \
                FROM pg_stat_activity WHERE usename = 'pg-operators'";
    for _ in 0..2 {
        // What is cut while something is under way is lost.
        world.wait_sql(idle, Some("t")).await?;
        let before = sign_ins(&world);
        world.azure.gateway()?.cut_all();
        until("connected again", SOON, async || {
            Ok(sign_ins(&world) > before)
        })
        .await?;
    }
    let open = "SELECT count(*) > 0 FROM pg_stat_activity WHERE usename = 'pg-operators' AND state = 'idle' \
                AND state_change < now() - interval '3 seconds'";
    world.wait_sql(open, Some("t")).await?;
    world.ready("principal", "api").await?;
    let now = world.get("server", "server").await?.expect("server");
    let since = |object: &Value| {
        let conditions = object["status"]["conditions"].as_array().cloned();
        let mut conditions = conditions.unwrap_or_default().into_iter();
        let ready = conditions.find(|condition| condition["type"] == "Ready");
        ready.map(|ready| ready["lastTransitionTime"].clone())
    };
    assert_eq!(since(&now), since(&server), "Ready all the time");
    assert_eq!(world.token_requests(Some(ADMIN_CLIENT)), asked);
    Ok(())
}
