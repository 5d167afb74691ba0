//! Whether the API server holds the operator to the chart's admission policies. Each question is a dry run
//! of something that they forbid; what an answer brings is dropped.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;

use super::service_accounts::LIFE_SECONDS;
use super::{Call, Cluster};
use crate::model::Failure;

/// Nobody's.
const FORBIDDEN: &str = "https://entrapostgres.io/forbidden";
/// Every cloud's policy has it, or refuses for that reason.
const ALLOWED: &str = "api://AzureADTokenExchange";
/// Every namespace has it.
const ACCOUNT: &str = "default";

/// Something that the policies forbid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "camelCase")]
pub enum Forbidden {
    /// A token of a service account for anybody but Entra.
    Audience,
    /// A token that lives longer than the operator needs one.
    Lifetime,
    /// A Secret of another type than ours; the same policy protects all other Secrets and our kinds.
    SecretType,
}

impl Forbidden {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Audience, Self::Lifetime, Self::SecretType];
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Audience => "service account tokens for any audience",
            Self::Lifetime => "service account tokens of any lifetime",
            Self::SecretType => "Secrets of any type, and changes of Secrets and objects of others",
        })
    }
}

/// What the API server said to one question.
enum Answer {
    Refused,
    Given,
    /// RBAC gives the operator nothing of the kind there, or there is no such service account.
    NotHere,
}

impl Cluster {
    /// What the policies should forbid and the API server would do for the operator, asked in the first of
    /// these namespaces in which RBAC lets the operator ask.
    pub async fn not_forbidden(&self, namespaces: &[String]) -> Result<Vec<Forbidden>, Failure> {
        let mut open = Vec::new();
        for what in Forbidden::ALL {
            for namespace in namespaces {
                match self.try_it(what, namespace).await? {
                    Answer::NotHere => {}
                    Answer::Refused => break,
                    Answer::Given => {
                        open.push(what);
                        break;
                    }
                }
            }
        }
        Ok(open)
    }

    async fn try_it(&self, what: Forbidden, namespace: &str) -> Result<Answer, Failure> {
        let dry_run = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let (outcome, call) = match what {
            Forbidden::Audience | Forbidden::Lifetime => {
                let request = match what {
                    Forbidden::Audience => token(FORBIDDEN, LIFE_SECONDS),
                    _ => token(ALLOWED, LIFE_SECONDS + 1),
                };
                let api = self.api::<ServiceAccount>(namespace);
                let asked = api.create_token_request(ACCOUNT, &dry_run, &request).await;
                let call = Call::on::<ServiceAccount>("create", namespace, ACCOUNT);
                (asked.map(|_| ()), call.subresource("token"))
            }
            Forbidden::SecretType => {
                let secret = token_secret();
                let name = secret.metadata.name.clone().unwrap_or_default();
                let asked = self
                    .api::<Secret>(namespace)
                    .create(&dry_run, &secret)
                    .await;
                let call = Call::on::<Secret>("create", namespace, &name);
                (asked.map(|_| ()), call)
            }
        };
        match outcome {
            Ok(()) => Ok(Answer::Given),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(Answer::NotHere),
            Err(kube::Error::Api(status)) if status.is_forbidden() => {
                let by_rbac = status.message.contains("cannot create resource");
                Ok(if by_rbac {
                    Answer::NotHere
                } else {
                    Answer::Refused
                })
            }
            Err(error) => Err(call.failure(&error)),
        }
    }
}

fn token(audience: &str, seconds: i64) -> TokenRequest {
    TokenRequest {
        spec: TokenRequestSpec {
            audiences: vec![audience.to_owned()],
            expiration_seconds: Some(seconds),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    }
}

fn token_secret() -> Secret {
    let account = ("kubernetes.io/service-account.name", ACCOUNT);
    Secret {
        metadata: ObjectMeta {
            name: Some("entra-postgres-operator-forbidden".to_owned()),
            annotations: Some(BTreeMap::from(
                [account].map(|(k, v)| (k.to_owned(), v.to_owned())),
            )),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/service-account-token".to_owned()),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{self, cluster};
    use super::*;

    const BY_POLICY: &str = "serviceaccounts \"default\" is forbidden: ValidatingAdmissionPolicy 'x' with \
        binding 'x' denied request: for these audiences only";
    const BY_RBAC: &str =
        "secrets is forbidden: User \"u\" cannot create resource \"secrets\" in API group";

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    // Red when: a refusal by RBAC in one namespace counts as the policies' own.
    #[tokio::test]
    async fn what_the_policies_let_through_is_found_where_rbac_lets_the_operator_ask() {
        let open = Forbidden::ALL.to_vec();
        let made = || testing::Answer::ok(json!({"metadata": {}, "spec": {"audiences": []}}));
        for (own, watched, found) in [
            (Some(BY_POLICY), None, vec![]),
            (Some(BY_RBAC), Some(BY_POLICY), vec![]),
            (Some(BY_RBAC), Some(BY_RBAC), vec![]),
            (Some(BY_RBAC), None, open.clone()),
            (None, Some(BY_POLICY), open.clone()),
        ] {
            let (cluster, seen) = cluster(move |asked| {
                let own_namespace = asked.path.contains("/namespaces/own/");
                let refusal = if own_namespace { own } else { watched };
                refusal.map_or_else(made, |why| testing::Answer::refusal(403, "Forbidden", why))
            });
            let asked = cluster.not_forbidden(&names(&["own", "orders"])).await;
            assert_eq!(asked, Ok(found), "{own:?} {watched:?}");
            for request in seen.requests() {
                assert!(request.query.contains("dryRun=All"), "{request:?}");
            }
        }
    }

    #[tokio::test]
    async fn an_api_server_that_is_away_says_nothing() {
        for (code, reason, known) in [(503, "ServiceUnavailable", false), (404, "NotFound", true)] {
            let (cluster, _) = cluster(move |_| testing::Answer::refusal(code, reason, "no"));
            let asked = cluster.not_forbidden(&names(&["own"])).await;
            assert_eq!(asked.ok(), known.then(Vec::new), "{code}");
        }
    }
}
