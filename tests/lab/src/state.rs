//! What the lab's parts share: the directory in force, keys, faults, counters, the cluster's issuer.
//! It holds; it serves nobody.

use std::sync::{Arc, PoisonError, RwLock};

use serde_json::Value;

use crate::directory::Directory;
use crate::faults::Faults;
use crate::stats::Stats;
use crate::tokens::{Claims, Expected, RESOURCE, TokenError, TokenKeys};

#[derive(Debug)]
pub struct LabState {
    pub keys: TokenKeys,
    pub faults: Faults,
    pub stats: Arc<Stats>,
    directory: RwLock<Arc<Directory>>,
    cluster: RwLock<Option<Arc<ClusterIssuer>>>,
}

/// The cluster whose service accounts `issuer: cluster` means.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterIssuer {
    pub issuer: String,
    /// The body of the API server's `/openid/v1/jwks`.
    pub jwks: Value,
}

impl LabState {
    pub fn new(directory: Directory, keys: TokenKeys) -> Self {
        Self {
            keys,
            faults: Faults::default(),
            stats: Arc::default(),
            directory: RwLock::new(Arc::new(directory)),
            cluster: RwLock::default(),
        }
    }

    /// The directory as it is now; take it once for each request.
    pub fn directory(&self) -> Arc<Directory> {
        Arc::clone(
            &self
                .directory
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    pub fn set_directory(&self, directory: Directory) {
        *self
            .directory
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(directory);
    }

    pub fn cluster_issuer(&self) -> Option<Arc<ClusterIssuer>> {
        self.cluster
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub fn set_cluster_issuer(&self, issuer: impl Into<String>, jwks: Value) {
        let cluster = ClusterIssuer {
            issuer: issuer.into(),
            jwks,
        };
        *self.cluster.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(cluster));
    }

    /// Checks a token as PostgreSQL does, by a clock that is that far ahead.
    pub fn check_token(&self, token: &str, clock_skew_seconds: i64) -> Result<Claims, TokenError> {
        let tenant = self.directory().tenant_id;
        let now = unix_now() + clock_skew_seconds;
        self.keys.verify(
            token,
            Expected {
                audience: RESOURCE,
                tenant,
                now,
            },
        )
    }
}

/// Seconds since 1970.
pub fn unix_now() -> i64 {
    jiff::Timestamp::now().as_second()
}
