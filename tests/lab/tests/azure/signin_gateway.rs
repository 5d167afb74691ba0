//! The gateway between client and server: counters, cancelling, faults, cuts, restarts.

use std::time::{Duration, Instant};

use lab::stats::Connections;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_postgres::config::{SslMode, SslNegotiation};

use crate::signin_support::Lab;
use crate::sql_support::*;

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "still not: {what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn connections_statements_and_transactions_are_counted() {
    let lab = Lab::start().await;
    lab.create(&[APP, MANAGED]).await;
    lab.refused(APP, "no token").await;
    let client = lab.connect(APP, &lab.app_token(APP_ID)).await.unwrap();
    let second = lab
        .connect(MANAGED, &lab.app_token(MANAGED_ID))
        .await
        .unwrap();
    let before = lab.state.stats.snapshot();
    run(&client, "SELECT 1; SELECT 2").await;
    run(&client, "BEGIN").await;
    run(&client, "COMMIT").await;
    client
        .query_one("SELECT generate_series(1, 1)", &[])
        .await
        .unwrap();
    let after = lab.state.stats.snapshot();
    assert_eq!(after.statements - before.statements, 5);
    // The prepared query is two: parse, then execute.
    assert_eq!(after.transactions - before.transactions, 4);
    drop(second);
    until("closed", || {
        lab.state.stats.snapshot().connections.open == 1
    })
    .await;
    let Connections {
        total,
        peak,
        by_role,
        ..
    } = lab.state.stats.snapshot().connections;
    assert_eq!(
        (total, peak, by_role.get(APP), by_role.get(MANAGED)),
        (2, 2, Some(&1), Some(&1))
    );
}

#[tokio::test]
async fn large_answers_come_through_whole() {
    let lab = Lab::start().await;
    lab.create(&[APP]).await;
    let client = lab.connect(APP, &lab.app_token(APP_ID)).await.unwrap();
    let sql = "SELECT repeat('x', 1000000) FROM generate_series(1, 5)";
    let got = rows(&client, sql).await;
    assert!(got.len() == 5 && got.iter().all(|row| row[0].len() == 1_000_000));
    let long = "y".repeat(1_000_000);
    let length: i32 = client
        .query_one("SELECT length($1::text)", &[&long])
        .await
        .unwrap()
        .get(0);
    assert_eq!(length, 1_000_000);
}

#[tokio::test]
async fn a_running_statement_can_be_cancelled() {
    let lab = Lab::start().await;
    lab.create(&[APP]).await;
    let client = lab.connect(APP, &lab.app_token(APP_ID)).await.unwrap();
    let cancel = client.cancel_token();
    let service = lab.postgres.superuser().await.unwrap();
    let (refusal, ()) = tokio::join!(refused(&client, "SELECT pg_sleep(60)"), async {
        let sleeps = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'";
        while value(&service, sleeps).await == "0" {}
        cancel.cancel_query(lab.tls()).await.unwrap();
    });
    assert_eq!(refusal.0, "57014");
}

#[tokio::test]
async fn faults_delay_refuse_cut_and_answer_nonsense_to_the_role_they_name() {
    let lab = Lab::start().await;
    lab.create(&[APP, MANAGED]).await;
    let token = lab.app_token(APP_ID);
    for what in ["refuse", "cut", "garbage"] {
        lab.faults(&format!(r#"[{{"on": "gateway", "match": {{"role": "{APP}"}}, "do": {{"{what}": true}}, "times": 1}}]"#));
        lab.connect(MANAGED, &lab.app_token(MANAGED_ID))
            .await
            .unwrap();
        let error = lab.connect(APP, &token).await.err().unwrap();
        assert!(error.as_db_error().is_none(), "{what}: {error}");
        lab.connect(APP, &token).await.unwrap();
    }
    lab.faults(
        r#"[{"on": "gateway", "do": {"sqlState": "53300", "message": "too many"}, "times": 1},
                   {"on": "gateway", "do": {"delayMs": 200}, "times": 2}]"#,
    );
    let start = Instant::now();
    assert_refusal(lab.refused(APP, &token).await, "53300", "too many");
    lab.connect(APP, &token).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(400));
}

#[tokio::test]
async fn cut_connections_end_and_new_ones_are_taken() {
    let lab = Lab::start().await;
    lab.create(&[APP]).await;
    let token = lab.app_token(APP_ID);
    let client = lab.connect(APP, &token).await.unwrap();
    lab.gateway.cut_all();
    until("cut", || client.is_closed()).await;
    assert!(client.simple_query("SELECT 1").await.is_err());
    lab.connect(APP, &token).await.unwrap();
}

#[tokio::test]
async fn a_restart_of_the_server_is_told_to_clients_and_survived_by_the_gateway() {
    let lab = Lab::start().await;
    lab.create(&[APP]).await;
    let token = lab.app_token(APP_ID);
    let client = lab.connect(APP, &token).await.unwrap();
    lab.postgres.restart().await.unwrap();
    until("ended", || client.is_closed()).await;
    lab.connect(APP, &token).await.unwrap();
}

#[tokio::test]
async fn tls_may_begin_at_once_and_gss_is_declined_before_it() {
    let lab = Lab::start().await;
    lab.create(&[APP]).await;
    let mut direct = tokio_postgres::Config::new();
    direct
        .host("localhost")
        .port(lab.gateway.port())
        .user(APP)
        .password(lab.app_token(APP_ID))
        .dbname("orders")
        .ssl_mode(SslMode::Require)
        .ssl_negotiation(SslNegotiation::Direct);
    let (client, connection) = direct.connect(lab.tls_with_alpn()).await.unwrap();
    tokio::spawn(connection);
    assert_eq!(value(&client, "SELECT current_user").await, APP);
    let mut stream = TcpStream::connect(lab.gateway.address()).await.unwrap();
    for (request, answer) in [(80_877_104_u32, b'N'), (80_877_103, b'S')] {
        let packet = [8_u32.to_be_bytes(), request.to_be_bytes()].concat();
        stream.write_all(&packet).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), answer);
    }
}

#[tokio::test]
async fn clients_that_speak_nonsense_or_leave_harm_nobody() {
    let lab = Lab::start().await;
    lab.create(&[APP]).await;
    for nonsense in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0, 0, 0, 8, 4, 210, 22, 47],
        &[0, 0],
        &[0x16; 40],
        &[],
    ] {
        let mut stream = TcpStream::connect(lab.gateway.address()).await.unwrap();
        stream.write_all(nonsense).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // Whatever it answers, it hangs up.
        let _ = stream.read_to_end(&mut answer).await;
    }
    lab.connect(APP, &lab.app_token(APP_ID)).await.unwrap();
}
