//! Exchanges against a real HTTPS server in this process: what is sent, how often, and what becomes
//! of each kind of answer.

mod certificates;
mod exchange;
mod failures;
mod hostile;
mod many;
mod network;
mod server;
mod sources;

use std::sync::Arc;

use jiff::Timestamp;

use super::error::Asked;
use super::{Broker, BrokerOptions, Network, OperatorEnvironment};
use crate::api::{
    ClientCertificateIdentity, ClientSecretIdentity, Identity, ManagedIdentity, OperatorIdentity,
    SecretKeyRef, SecretRef, ServiceAccountRef, WorkloadIdentity,
};
use crate::model::{Class, Cloud, Failure, Reason};
use crate::ports::{Clock, TokenOrder, Urgency};
use server::Server;
use sources::FakeCluster;

pub(super) const TENANT: &str = "aaaaaaaa-0000-0000-0000-00000000000a";
pub(super) const CLIENT: &str = "cccccccc-0000-0000-0000-00000000000c";

struct RealClock;

impl Clock for RealClock {
    fn now(&self) -> Timestamp {
        real_now()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "tokens of the test's server really end"
)]
fn real_now() -> Timestamp {
    Timestamp::now()
}

impl Asked {
    pub(super) fn for_test() -> Self {
        let public = Cloud::built_in().swap_remove(0);
        Self {
            whom: "service account orders/app".to_owned(),
            client: CLIENT.to_owned(),
            tenant: TENANT.to_owned(),
            cloud: Arc::new(public),
            managed: false,
            system_assigned: false,
            with_secret: false,
            thumbprint: None,
            subject: None,
        }
    }
}

/// A broker with the cluster it reads and the cloud it asks.
struct Scene {
    broker: Broker,
    cluster: Arc<FakeCluster>,
    cloud: Arc<Cloud>,
    server: Server,
}

impl Scene {
    async fn new() -> Self {
        Self::with(OperatorEnvironment::default()).await
    }

    async fn with(environment: OperatorEnvironment) -> Self {
        let server = Server::https().await;
        let cloud = Arc::new(server.cloud());
        Self::around(server, cloud, environment)
    }

    async fn imds() -> Self {
        let server = Server::http().await;
        let cloud = Arc::new(Cloud {
            imds_endpoint: Some(server.url.clone()),
            ..Cloud::built_in().swap_remove(0)
        });
        Self::around(server, cloud, OperatorEnvironment::default())
    }

    fn around(server: Server, cloud: Arc<Cloud>, environment: OperatorEnvironment) -> Self {
        Self::behind(server, cloud, environment, Network::default())
    }

    fn behind(
        server: Server,
        cloud: Arc<Cloud>,
        environment: OperatorEnvironment,
        network: Network,
    ) -> Self {
        let cluster = Arc::new(FakeCluster::default());
        let broker = Broker::new(BrokerOptions {
            credentials: Arc::clone(&cluster) as _,
            clock: Arc::new(RealClock),
            environment,
            network,
            concurrency: BrokerOptions::DEFAULT_CONCURRENCY,
        });
        Self {
            broker,
            cluster,
            cloud,
            server,
        }
    }

    fn order(&self, namespace: &str, identity: Identity) -> TokenOrder {
        TokenOrder {
            namespace: namespace.to_owned(),
            identity,
            cloud: Arc::clone(&self.cloud),
            urgency: Urgency::NeverIssued,
        }
    }
}

fn workload(name: &str) -> Identity {
    let service_account_ref = ServiceAccountRef {
        name: name.to_owned(),
    };
    Identity {
        workload_identity: Some(WorkloadIdentity {
            service_account_ref,
            client_id: None,
            tenant_id: None,
        }),
        ..Identity::default()
    }
}

fn secret() -> Identity {
    Identity {
        client_secret: Some(ClientSecretIdentity {
            tenant_id: TENANT.to_owned(),
            client_id: CLIENT.to_owned(),
            secret_ref: SecretKeyRef {
                name: "app".to_owned(),
                key: "password".to_owned(),
            },
        }),
        ..Identity::default()
    }
}

fn managed() -> Identity {
    Identity {
        managed_identity: Some(ManagedIdentity {
            client_id: Some(CLIENT.to_owned()),
            ..ManagedIdentity::default()
        }),
        ..Identity::default()
    }
}

fn operator() -> Identity {
    Identity {
        operator: Some(OperatorIdentity {}),
        ..Identity::default()
    }
}

fn certificate() -> Identity {
    Identity {
        client_certificate: Some(ClientCertificateIdentity {
            tenant_id: TENANT.to_owned(),
            client_id: CLIENT.to_owned(),
            secret_ref: SecretRef {
                name: "app".to_owned(),
            },
        }),
        ..Identity::default()
    }
}

/// A certificate of that RSA key, from the beginning of one year to the beginning of another.
pub(super) fn certified(key: &str, from: i32, until: i32) -> String {
    let key = rcgen::KeyPair::from_pem_and_sign_algo(key, &rcgen::PKCS_RSA_SHA256).expect("a key");
    let mut params = rcgen::CertificateParams::new(vec!["app".to_owned()]).expect("a name");
    params.not_before = rcgen::date_time_ymd(from, 1, 1);
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    params.self_signed(&key).expect("signed").pem()
}

fn is(failure: &Failure, class: Class, reason: Reason, word: &str) {
    assert_eq!(
        (failure.class, failure.reason),
        (class, reason),
        "{failure}"
    );
    assert!(failure.message.contains(word), "{failure}");
}
