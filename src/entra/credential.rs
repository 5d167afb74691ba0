//! Runs one exchange through a new credential of the Azure SDK, made for it and dropped after it:
//! a credential that lives longer would hand out its cached token until shortly before its end.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::cloud::CustomConfiguration;
use azure_core::credentials::{Secret, TokenCredential};
use azure_core::http::{ClientMethodOptions, ClientOptions, RetryOptions, Transport};
use azure_identity::{
    ClientAssertion, ClientAssertionCredential, ClientAssertionCredentialOptions,
    ClientSecretCredential, ClientSecretCredentialOptions, ManagedIdentityCredential,
    ManagedIdentityCredentialOptions, UserAssignedId,
};

use super::transport::{OneShot, Problem, Record, is_success};
use crate::model::Cloud;

/// Above the client's own limits; it is there in case the SDK waits somewhere itself.
const TIMEOUT: Duration = Duration::from_secs(20);

/// What proves an identity.
pub(super) enum Proof {
    /// A token of Kubernetes for the federated audience, or what a client certificate signed.
    Assertion {
        tenant: String,
        client: String,
        jwt: String,
    },
    /// A client secret.
    Secret {
        tenant: String,
        client: String,
        secret: String,
    },
    /// Being on the node; without an id its system-assigned identity.
    Node(Option<UserAssignedId>),
}

/// Asks once. The token, still unchecked and perhaps empty; or how far the exchange got.
pub(super) async fn exchange(
    transport: OneShot,
    cloud: &Cloud,
    proof: Proof,
) -> Result<String, Record> {
    let transport = Arc::new(transport);
    let options = options(&transport, cloud);
    let asking = async {
        let credential = credential(proof, options)?;
        credential.get_token(&[cloud.scope.as_str()], None).await
    };
    let Ok(answer) = tokio::time::timeout(TIMEOUT, asking).await else {
        return Err(Record::Failed(Problem::Timeout));
    };
    match (answer, transport.record()) {
        (Ok(token), _) => Ok(token.token.secret().to_owned()),
        // The SDK's own message may quote the answer: it goes no further.
        (Err(_), Record::Answered(answer)) if is_success(answer.status) => {
            Err(Record::Failed(Problem::Garbled))
        }
        (Err(_), record) => Err(record),
    }
}

fn options(transport: &Arc<OneShot>, cloud: &Cloud) -> ClientOptions {
    let mut configuration = CustomConfiguration::default();
    configuration.authority_host.clone_from(&cloud.authority);
    ClientOptions {
        transport: Some(Transport::new(Arc::clone(transport) as _)),
        cloud: Some(Arc::new(configuration.into())),
        retry: RetryOptions::none(),
        ..ClientOptions::default()
    }
}

fn credential(
    proof: Proof,
    client_options: ClientOptions,
) -> azure_core::Result<Arc<dyn TokenCredential>> {
    Ok(match proof {
        Proof::Assertion {
            tenant,
            client,
            jwt,
        } => {
            let options = ClientAssertionCredentialOptions { client_options };
            ClientAssertionCredential::new(tenant, client, Jwt(jwt), Some(options))?
        }
        Proof::Secret {
            tenant,
            client,
            secret,
        } => {
            let options = ClientSecretCredentialOptions { client_options };
            ClientSecretCredential::new(&tenant, client, Secret::new(secret), Some(options))?
        }
        Proof::Node(id) => {
            ManagedIdentityCredential::new(Some(ManagedIdentityCredentialOptions {
                user_assigned_id: id,
                client_options,
            }))?
        }
    })
}

/// An assertion that was fetched before.
struct Jwt(String);

impl fmt::Debug for Jwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Jwt")
    }
}

#[async_trait]
impl ClientAssertion for Jwt {
    async fn secret(&self, _: Option<ClientMethodOptions<'_>>) -> azure_core::Result<String> {
        Ok(self.0.clone())
    }
}
