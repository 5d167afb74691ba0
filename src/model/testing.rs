//! What tests of the pure part start from: a principal and an empty server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::observed::{Login, Observed, Record};
use super::tenancy::Allowance;
use super::{
    Desired, DesiredAttributes, DesiredPrivileges, Look, ObjectId, ObjectKey, Parameters, RoleName,
    ServerFacts,
};
use crate::api::{Adoption, DeletionPolicy, PrincipalType};

/// What work costs in memory, in bytes: a measure of its time, too, that does not depend on the machine.
pub struct Cost {
    /// The most that was held at once.
    pub peak: u64,
    /// All that was taken, one after the other.
    pub total: u64,
}

/// Does the work, and says what it cost.
pub fn cost(work: impl FnOnce()) -> Cost {
    let info = allocation_counter::measure(work);
    Cost {
        peak: info.bytes_max,
        total: info.bytes_total,
    }
}

/// The identity of [`desired`].
pub const OURS: &str = "11111111-1111-1111-1111-111111111111";

/// A managed identity with role `orders-api` and nothing else.
pub fn desired() -> Desired {
    Desired {
        key: ObjectKey::new("orders", "api"),
        uid: "uid-1".to_owned(),
        generation: 1,
        created: None,
        server: ObjectKey::new("lab", "server"),
        role: RoleName::parse("orders-api").expect("a name"),
        kind: PrincipalType::ManagedIdentity,
        object_id: ObjectId::parse(OURS),
        object_id_from: None,
        rebind: None,
        restore: None,
        reconcile: None,
        renew: None,
        admin: false,
        mfa: false,
        rights: Ok(()),
        attributes: DesiredAttributes::default(),
        settings: BTreeMap::new(),
        member_of: BTreeMap::new(),
        privileges: DesiredPrivileges::default(),
        adoption: Adoption::Refuse,
        deletion: DeletionPolicy::Retain,
        reassign_to: None,
        plan_only: false,
        suspend: false,
        token: None,
    }
}

/// A server that allows it, where the role is not there.
pub fn observed() -> Observed {
    Observed {
        allowance: Ok(Allowance {
            literal: false,
            ..Allowance::default()
        }),
        server_ends: None,
        identity_allowed: Ok(()),
        role: Look::Known(None),
        marker_owner: None,
        holders: Some(BTreeMap::new()),
        made_for: BTreeMap::new(),
        source: None,
        targets: BTreeMap::new(),
        databases: BTreeMap::new(),
        inside: BTreeMap::new(),
        server: ServerFacts {
            version_num: 160_004,
            administrator: "pg-operators".to_owned(),
            improved_control: Some(false),
            parameters: Arc::new(Parameters {
                free: ["a", "b", "c", "lock_timeout", "search_path", "work_mem"]
                    .map(str::to_owned)
                    .into(),
                bound: ["auto_explain.log_analyze".to_owned()].into(),
            }),
        },
        secret: Look::Known(None),
        secrets: BTreeSet::new(),
        record: Record::default(),
        token_object_id: None,
        role_hold: None,
        token_hold: None,
        login: Login::default(),
    }
}
