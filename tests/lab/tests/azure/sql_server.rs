//! The server's life, the live directory and the faults of `on: sql`.

use std::path::Path;
use std::time::{Duration, Instant};

use lab::directory::Directory;
use lab::faults::Fault;

use crate::sql_support::*;

#[tokio::test]
async fn a_new_directory_is_seen_at_once_and_drops_nothing() {
    let server = server().await;
    let admin = admin(&server).await;
    run(
        &admin,
        &format!("SELECT pgaadauth_create_principal('{MANAGED}', false, false)"),
    )
    .await;
    let again = "5e41ce00-0000-4000-8000-0000000000ff";
    let text = directory_text()
        .replace(MANAGED_ID, again)
        .replace(
            "administrators: [pg-operators]",
            "administrators: [operator]",
        )
        .replace("databases: [orders]", "databases: [billing]");
    server
        .write_directory(&Directory::parse(&text).unwrap())
        .await
        .unwrap();
    let databases =
        "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database WHERE NOT datistemplate";
    assert_eq!(value(&admin, databases).await, "billing orders postgres");
    let administrators = "SELECT string_agg(rolename, ' ') FROM pgaadauth_list_principals(true)";
    assert_eq!(value(&admin, administrators).await, "operator pg-operators");
    // The role is still bound to the identity that was deleted; a new label finds the new one.
    assert!(labels(&admin, MANAGED).await[1].1.contains(MANAGED_ID));
    run(
        &admin,
        &format!("SECURITY LABEL FOR pgaadauth ON ROLE \"{MANAGED}\" IS 'aadauth'"),
    )
    .await;
    assert!(labels(&admin, MANAGED).await[1].1.contains(again));
    let gone = format!(
        "SELECT pgaadauth_create_principal_with_oid('x', '{MANAGED_ID}', 'service', false, false)"
    );
    assert_refusal(
        refused(&admin, &gone).await,
        "XX000",
        "not found in the tenant",
    );
}

#[tokio::test]
async fn directory_calls_are_slow_fail_and_recover_as_ordered() {
    let server = server().await;
    let admin = admin(&server).await;
    let order = |json: &str| {
        let faults: Vec<Fault> = serde_json::from_str(json).unwrap();
        server.write_faults(&faults).unwrap();
    };
    let create = |name: &str| format!("SELECT pgaadauth_create_principal('{name}', false, false)");
    order(
        r#"[{"on": "sql", "match": {"role": "orders-api"}, "do": {"delayMs": 600000}, "times": 1}]"#,
    );
    let sql = create(MANAGED);
    let created = tokio::time::timeout(Duration::from_secs(60), run(&admin, &sql));
    created.await.expect("the delay is for another role");
    order(
        r#"[{"on": "sql", "match": {"role": "orders-api"}, "do": {"delayMs": 300}, "times": 1}]"#,
    );
    let start = Instant::now();
    run(&admin, &create(APP)).await;
    assert!(start.elapsed() >= Duration::from_millis(300));
    run(&admin, &format!("DROP ROLE \"{APP}\"")).await;
    order(r#"[{"on": "sql", "do": {"delayMs": 60000}}]"#);
    run(&admin, "SET statement_timeout = '50ms'").await;
    assert_eq!(refused(&admin, &create(APP)).await.0, "57014");
    order(
        r#"[{"on": "sql", "do": {"refuse": true}, "times": 1},
              {"on": "sql", "do": {"sqlState": "53300", "message": "too many"}, "times": 1}]"#,
    );
    let refusal = refused(&admin, &create(APP)).await;
    assert_refusal(
        refusal,
        "0LP01",
        "An unexpected error occurred while trying to validate user.",
    );
    assert_refusal(refused(&admin, &create(APP)).await, "53300", "too many");
    run(&admin, &create(APP)).await;
}

#[tokio::test]
async fn a_restart_keeps_data_and_address_and_a_stop_leaves_nothing() {
    let server = server().await;
    run(&admin(&server).await, "CREATE ROLE kept").await;
    let (port, sockets, data) = (
        server.port(),
        server.socket_dir().to_owned(),
        server.data_dir(),
    );
    server.restart().await.unwrap();
    assert_eq!(server.port(), port);
    let client = admin(&server).await;
    assert!(role_exists(&client, "kept").await);
    let pid = server.pid().unwrap();
    server.stop().await.unwrap();
    assert!(!data.exists() && !sockets.exists());
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert!(client.simple_query("SELECT 1").await.is_err());
}

#[tokio::test]
async fn a_dropped_server_is_gone() {
    let server = server().await;
    let (pid, data) = (server.pid().unwrap(), server.data_dir());
    drop(server);
    assert!(!data.exists() && !Path::new(&format!("/proc/{pid}")).exists());
}

const CHILD: &str = "LAB_TEST_CHILD";

/// Part of the next test: a lab of its own process, which is killed.
#[tokio::test]
async fn lab_that_waits_to_be_killed() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let server = server().await;
    println!("pid {}", server.pid().unwrap());
    std::future::pending::<()>().await;
}

#[test]
fn a_killed_lab_takes_its_server_along() {
    use std::io::{BufRead as _, BufReader};
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "sql_server::lab_that_waits_to_be_killed",
            "--nocapture",
        ])
        .env(CHILD, "1")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let pid = lines
        .map_while(Result::ok)
        .find_map(|line| Some(line.split_once("pid ")?.1.to_owned()))
        .unwrap();
    let server = format!("/proc/{pid}");
    assert!(Path::new(&server).exists());
    child.kill().unwrap();
    child.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while Path::new(&server).exists() {
        assert!(Instant::now() < deadline, "the server outlives its lab");
        std::thread::yield_now();
    }
}
