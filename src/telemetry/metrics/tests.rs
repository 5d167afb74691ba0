//! The names of the series are a contract with dashboards and alerts.

use super::*;

fn told() -> (Metrics, ObjectKey) {
    let (metrics, key) = (Metrics::new(), ObjectKey::new("orders", "app"));
    let at = |second| Timestamp::from_second(second).expect("in range");
    metrics.token(&key, at(2000), at(1000));
    metrics.token_failures(&key, 4);
    metrics.condition(ObjectKind::Principal, &key, "Ready", ConditionStatus::False);
    metrics.paused(ObjectKind::Principal, &key, true);
    let counts = ServerCounts {
        last_snapshot: Some(at(500)),
        snapshot_failures: 2,
        connections_opened: 1,
        messages: 3,
    };
    metrics.server(&key, counts);
    metrics.entra_requests("token", "ok", 1);
    let took = Duration::from_millis(7);
    metrics.reconciled(ObjectKind::Principal, ReconcileResult::Settled, took);
    metrics.leading(true);
    metrics.event_failed();
    (metrics, key)
}

#[test]
fn every_series_has_its_documented_name() {
    let (metrics, _) = told();
    let text = metrics.text();
    let app = r#"{namespace="orders",name="app"}"#;
    let condition = |status: &str| {
        format!(
            r#"entra_postgres_condition{{kind="EntraPostgresPrincipal",namespace="orders",name="app",condition="Ready",status="{status}"}}"#
        )
    };
    for line in [
        format!("entra_postgres_token_expiration_timestamp_seconds{app} 2000"),
        format!("entra_postgres_token_renewal_timestamp_seconds{app} 1000"),
        format!("entra_postgres_token_renewal_failures{app} 4"),
        format!("entra_postgres_server_snapshot_timestamp_seconds{app} 500"),
        format!("entra_postgres_server_snapshot_failures_total{app} 2"),
        format!("entra_postgres_server_connections_opened_total{app} 1"),
        format!("entra_postgres_server_messages_total{app} 3"),
        format!("{} 1", condition("False")),
        format!("{} 0", condition("True")),
        format!("{} 0", condition("Unknown")),
        r#"entra_postgres_paused{kind="EntraPostgresPrincipal",namespace="orders",name="app"} 1"#
            .to_owned(),
        format!(
            r#"entra_postgres_build_info{{version="{}"}} 1"#,
            env!("CARGO_PKG_VERSION")
        ),
        r#"entra_postgres_entra_requests_total{kind="token",outcome="ok"} 1"#.to_owned(),
        r#"entra_postgres_reconcile_total{kind="EntraPostgresPrincipal",result="settled"} 1"#
            .to_owned(),
        r#"entra_postgres_reconcile_duration_seconds_count{kind="EntraPostgresPrincipal"} 1"#
            .to_owned(),
        "entra_postgres_leader 1".to_owned(),
        "entra_postgres_events_failed_total 1".to_owned(),
    ] {
        assert!(text.lines().any(|l| l == line), "no {line:?} in\n{text}");
    }
}

#[test]
fn series_of_a_deleted_object_are_removed() {
    let (metrics, key) = told();
    metrics.forget(ObjectKind::Principal, &key);
    metrics.forget(ObjectKind::Server, &key);
    assert!(!metrics.text().contains("orders"), "{}", metrics.text());
}

// Red when: an alert of the page fires for what is suspended, or at a bound that short tokens never keep.
#[test]
fn no_documented_alert_fires_for_what_is_paused_or_for_short_lived_tokens() {
    let page = include_str!("../../../docs/operations.md");
    let alerts: Vec<&str> = page.split("- alert: ").skip(1).collect();
    assert!(alerts.len() >= 8, "{}", alerts.len());
    for alert in alerts {
        let alert = alert.split("```").next().unwrap_or_default();
        let name = alert.lines().next().unwrap_or_default();
        let of_objects = ["entra_postgres_token_", "entra_postgres_condition"];
        if of_objects.iter().any(|series| alert.contains(series)) {
            assert!(alert.contains("unless on ("), "{name}");
            assert!(alert.contains("entra_postgres_paused"), "{name}");
        }
        let bound = alert.contains("expiration_timestamp_seconds - time() <");
        assert!(!bound, "{name} has a fixed bound");
    }
}
