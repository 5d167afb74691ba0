//! Reports, at the start and then every hour, whether the chart's admission policies are in force: a log
//! line, a metric, and an event on each server object. Changes nothing.

use std::time::Duration;

use kube::Resource as _;

use super::{Context, Never};
use crate::cluster::{EventType, Forbidden};

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(3600);
/// The same after the API server gave no answer.
const SOON: Duration = Duration::from_secs(60);

/// Reason of the event.
const REASON: &str = "AdmissionPolicyMissing";

/// Looks until it is dropped.
pub async fn watch(ctx: &Context) -> Never {
    loop {
        tokio::time::sleep(look(ctx).await).await;
    }
}

async fn look(ctx: &Context) -> Duration {
    let own = ctx.settings.lease.as_ref().map(|lease| &lease.namespace);
    let watched = ctx.settings.watch_namespaces.iter();
    let anywhere = "default".to_owned();
    let namespaces = own.into_iter().chain(watched).chain([&anywhere]);
    let namespaces: Vec<String> = namespaces.cloned().collect();
    match ctx.cluster.not_forbidden(&namespaces).await {
        Ok(open) => {
            for rule in Forbidden::ALL {
                let enforced = !open.contains(&rule);
                ctx.reporter.metrics.policy_enforced(rule.into(), enforced);
            }
            if !open.is_empty() {
                report(&missing(&open), ctx).await;
            }
            EVERY
        }
        Err(failure) => {
            tracing::warn!("could not look whether the admission policies are in force: {failure}");
            SOON
        }
    }
}

fn missing(open: &[Forbidden]) -> String {
    let open: Vec<String> = open.iter().map(ToString::to_string).collect();
    format!(
        "the admission policies of the chart are not in force for the operator's service account: whoever \
         steals its token may have {}. Install them (admissionPolicy.create), with their bindings, and look \
         at what renamed or moved the service account",
        open.join("; ")
    )
}

async fn report(note: &str, ctx: &Context) {
    tracing::warn!(reason = REASON, "{note}");
    for server in ctx.index.server_objects() {
        let reference = server.object_ref(&());
        let events = &ctx.reporter.events;
        events
            .publish(&reference, EventType::Warning, REASON, "Check", note)
            .await;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::testing::Answer;
    use crate::controller::testing::{add_server, context};

    // Red when: look() leaves out the event or the metric.
    #[tokio::test]
    async fn policies_that_are_not_in_force_are_reported_on_every_server() {
        let policy = "is forbidden: ValidatingAdmissionPolicy 'x' denied request";
        for (held, events, gauge) in [
            (true, 0, "rule=\"audience\"} 1"),
            (false, 1, "rule=\"audience\"} 0"),
        ] {
            let (mut ctx, seen) = context(move |asked| {
                let event = asked.path.ends_with("/events");
                if held && !event {
                    return Answer::refusal(403, "Forbidden", policy);
                }
                Answer::ok(json!({"metadata": {}, "spec": {"audiences": []}}))
            });
            let mut settings = (*ctx.settings).clone();
            settings.watch_namespaces = vec!["orders".to_owned()];
            ctx.settings = std::sync::Arc::new(settings);
            add_server(&ctx.index);
            look(&ctx).await;
            let told = seen.requests();
            let told = told.iter().filter(|asked| asked.path.ends_with("/events"));
            assert_eq!(told.count(), events);
            let text = ctx.reporter.metrics.text();
            assert!(text.contains(gauge), "{text}");
        }
    }
}
