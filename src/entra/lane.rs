//! The way to one authority or IMDS endpoint: its HTTP client, its limiter, and for IMDS the pace.
//! Must not know identities.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::limiter::Limiter;
use super::locked;
use super::network::Network;
use super::pace::Pace;
use super::stats::ExchangeKind;
use super::transport::{Client, Target};
use crate::model::Cloud;

/// Where IMDS is on every Azure node.
pub(super) const IMDS_ENDPOINT: &str = "http://169.254.169.254";
/// IMDS takes 20 requests for tokens a second, 5 at once.
const IMDS_PLACES: usize = 5;
const IMDS_INTERVAL: Duration = Duration::from_millis(50);

/// The way to one authority, so that a slow one holds back only its own orders.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) kind: ExchangeKind,
    pub(super) limiter: Arc<Limiter>,
    pub(super) pace: Option<Pace>,
    pub(super) client: Client,
}

/// All lanes, each made when first needed.
#[derive(Debug)]
pub(super) struct Lanes {
    places: usize,
    network: Network,
    open: Mutex<HashMap<Target, Arc<Lane>>>,
}

impl Lanes {
    pub(super) fn new(places: usize, network: Network) -> Self {
        Self {
            places,
            network,
            open: Mutex::new(HashMap::new()),
        }
    }

    /// The lane for tokens of that cloud.
    pub(super) fn of(&self, kind: ExchangeKind, cloud: &Cloud) -> Arc<Lane> {
        let target = target(kind, cloud);
        let mut open = locked(&self.open);
        let lane = open.entry(target).or_insert_with_key(|target| {
            let client = Client::new(target.clone(), self.network.clone());
            Arc::new(Lane::new(kind, target, client, self.places))
        });
        Arc::clone(lane)
    }
}

impl Lane {
    fn new(kind: ExchangeKind, target: &Target, client: Client, places: usize) -> Self {
        let name = match target {
            Target::Authority { url, ca_file: _ } => format!("Entra at {url}"),
            Target::Imds { endpoint } => format!("IMDS at {endpoint}"),
        };
        let (places, pace) = match kind {
            ExchangeKind::Token => (places, None),
            ExchangeKind::Imds => (places.min(IMDS_PLACES), Some(Pace::new(IMDS_INTERVAL))),
        };
        Self {
            kind,
            limiter: Limiter::new(name, places),
            pace,
            client,
        }
    }
}

fn target(kind: ExchangeKind, cloud: &Cloud) -> Target {
    match kind {
        ExchangeKind::Token => Target::Authority {
            url: cloud.authority.trim_end_matches('/').to_owned(),
            ca_file: cloud.ca_file.clone(),
        },
        ExchangeKind::Imds => Target::Imds {
            endpoint: cloud
                .imds_endpoint
                .as_deref()
                .unwrap_or(IMDS_ENDPOINT)
                .to_owned(),
        },
    }
}
