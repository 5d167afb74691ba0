//! Serves orders for tokens: one exchange each, when the limiter of its authority gives it a place. Keeps no token, and does not decide who may use which identity.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt as _;
use tokio::sync::Semaphore;

use super::breaker::Signal;
use super::claims::{self, Subject};
use super::credential::{self, Proof};
use super::error::{self, Asked};
use super::flights::Flights;
use super::lane::{Lane, Lanes};
use super::limiter::Priority;
use super::network::Network;
use super::resolve::{self, Applicant, OperatorEnvironment, Source};
use super::stats::{Outcome, Stats};
use super::transport::{Problem, Record};
use crate::model::{Class, Failure, Reason};
use crate::ports::{AccessToken, Clock, CredentialSource, TokenOrder, TokenSource};

/// How many orders read their service account or Secret at the same time.
const MOST_READS: usize = 16;

/// What a broker is made of.
pub struct BrokerOptions {
    /// Reads service accounts and Secrets.
    pub credentials: Arc<dyn CredentialSource>,
    /// Tells whether a token is alive.
    pub clock: Arc<dyn Clock>,
    /// The operator's own identity.
    pub environment: OperatorEnvironment,
    /// The way to the authorities.
    pub network: Network,
    /// Exchanges at the same time with one authority at most; IMDS has its own, smaller limit.
    pub concurrency: usize,
}

impl BrokerOptions {
    /// Exchanges at the same time with one authority, unless configured.
    pub const DEFAULT_CONCURRENCY: usize = 16;
}

/// Gets tokens from Entra and IMDS.
pub struct Broker {
    desk: Arc<Desk>,
    lanes: Lanes,
    pub(super) flights: Arc<Flights>,
}

/// What an exchange needs of the broker while it runs.
struct Desk {
    credentials: Arc<dyn CredentialSource>,
    clock: Arc<dyn Clock>,
    environment: OperatorEnvironment,
    reads: Semaphore,
    stats: Arc<Stats>,
}

impl Broker {
    /// Makes a broker. Nothing is opened before the first order.
    pub fn new(options: BrokerOptions) -> Self {
        let BrokerOptions {
            credentials,
            clock,
            environment,
            network,
            concurrency,
        } = options;
        // The HTTP client panics without a provider; an error means that there is one already.
        let _already = rustls::crypto::ring::default_provider().install_default();
        Self {
            desk: Arc::new(Desk {
                credentials,
                clock,
                environment,
                reads: Semaphore::new(MOST_READS),
                stats: Arc::default(),
            }),
            lanes: Lanes::new(concurrency, network),
            flights: Arc::default(),
        }
    }

    /// The counters of exchanges.
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.desk.stats)
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker")
            .field("lanes", &self.lanes)
            .field("stats", &self.desk.stats)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl TokenSource for Broker {
    async fn token(&self, order: TokenOrder) -> Result<AccessToken, Failure> {
        let desk = Arc::clone(&self.desk);
        let kind = resolve::kind(&order.identity, &desk.environment);
        let lane = self.lanes.of(kind, &order.cloud);
        let (priority, rank) = Priority::of(order.urgency, desk.clock.now());
        lane.limiter.check(&order.namespace, priority)?;
        let applicant = desk.resolve(&order).await?;
        let (key, version) = (applicant.key(&order), applicant.version());
        let serve = || desk.serve(lane, (priority, rank), order, applicant).boxed();
        let flight = self.flights.join_or_start(key, serve);
        flight.await.map_err(|failure| Failure {
            proof: version.filter(|_| failure.class == Class::Denied),
            ..failure
        })
    }
}

impl Desk {
    /// Reads what the order names, few at a time: a crowd must not hold all of Kubernetes' attention.
    async fn resolve(&self, order: &TokenOrder) -> Result<Applicant, Failure> {
        // An error cannot happen: the semaphore is never closed.
        let _read = self.reads.acquire().await.ok();
        resolve::resolve(order, self.credentials.as_ref(), &self.environment).await
    }

    /// One exchange, from the queue to the checked token.
    async fn serve(
        self: Arc<Self>,
        lane: Arc<Lane>,
        (priority, rank): (Priority, i64),
        order: TokenOrder,
        applicant: Applicant,
    ) -> Result<AccessToken, Failure> {
        let mut asked = applicant.asked(&order);
        let caller = applicant.caller(&order.namespace);
        let place = lane.limiter.enter(caller, (priority, rank)).await?;
        let tenant = applicant.tenant.clone();
        let proof = self.proof(&order, applicant, &mut asked).await?;
        if let Some(pace) = &lane.pace {
            pace.turn().await;
        }
        place.begin();
        let answer = self.exchange(&lane, &order, proof, &asked).await;
        place.end(answer.as_ref().err().map_or(Signal::Answered, |it| it.1));
        let checked = answer.map_err(|(failure, _)| failure).and_then(|text| {
            let tenant = Some(tenant.as_str());
            claims::check(
                text,
                order.cloud.resource(),
                tenant,
                self.clock.now(),
                &asked,
            )
        });
        self.stats.count(lane.kind, outcome(&checked));
        checked
    }

    async fn exchange(
        &self,
        lane: &Lane,
        order: &TokenOrder,
        proof: Proof,
        asked: &Asked,
    ) -> Result<String, (Failure, Signal)> {
        let answer = match lane.client.one_shot() {
            Ok(transport) => credential::exchange(transport, &order.cloud, proof).await,
            Err(problem) => Err(Record::Failed(problem)),
        };
        if let Err(Record::Failed(Problem::Certificate(_))) = answer {
            lane.client.forget();
        }
        answer.map_err(|record| {
            let failure = error::failure(asked, &record, self.clock.now());
            let signal = error::signal(&record, &failure, asked.managed);
            (failure, signal)
        })
    }

    /// Fetches what proves the identity, as late as can be.
    async fn proof(
        &self,
        order: &TokenOrder,
        applicant: Applicant,
        asked: &mut Asked,
    ) -> Result<Proof, Failure> {
        let Applicant {
            source,
            tenant,
            client,
        } = applicant;
        let jwt = match source {
            Source::ServiceAccount { name, .. } => {
                let audience = &order.cloud.federated_audience;
                let credentials = &self.credentials;
                credentials
                    .service_account_token(&order.namespace, &name, audience)
                    .await?
            }
            Source::TokenFile(path) => {
                let text = std::fs::read_to_string(&path).map_err(|error| {
                    let message = format!(
                        "AZURE_FEDERATED_TOKEN_FILE {} cannot be read ({error}): compare the \
                         operator's workload identity",
                        path.display()
                    );
                    Failure::new(Class::Denied, Reason::IdentityIncomplete, message)
                })?;
                text.trim().to_owned()
            }
            Source::Secret { text: secret, .. } | Source::OperatorSecret(secret) => {
                return Ok(Proof::Secret {
                    tenant,
                    client,
                    secret,
                });
            }
            Source::Certificate {
                name, certificate, ..
            } => {
                let bad =
                    |problem: String| resolve::bad_certificate(&order.namespace, &name, &problem);
                let now = self.clock.now();
                if let Some(problem) = certificate.expired(now) {
                    return Err(bad(problem));
                }
                let authority = order.cloud.authority.trim_end_matches('/');
                let endpoint = format!("{authority}/{tenant}/oauth2/v2.0/token");
                let jwt = certificate.assertion(&client, &endpoint, now);
                return Ok(Proof::Assertion {
                    jwt: jwt.map_err(bad)?,
                    tenant,
                    client,
                });
            }
            Source::Node(id) => return Ok(Proof::Node(id)),
        };
        asked.subject = Subject::read(&jwt);
        Ok(Proof::Assertion {
            tenant,
            client,
            jwt,
        })
    }
}

fn outcome(result: &Result<AccessToken, Failure>) -> Outcome {
    match result {
        Ok(_) => Outcome::Ok,
        Err(failure) => match (failure.reason, failure.class) {
            (Reason::TokenInvalid, _) => Outcome::Invalid,
            (Reason::EntraThrottled, _) => Outcome::Throttled,
            (_, Class::Transient) => Outcome::Unavailable,
            (_, Class::Invalid | Class::Denied | Class::Waiting) => Outcome::Refused,
        },
    }
}
