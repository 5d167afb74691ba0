//! The decision as a table: every row of ownership, binding and renewal that may not go wrong.

mod made;
mod marker;
mod monotone;
mod properties;
mod search;
mod token;
mod whose;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::{Evidence, Plan, RoleWork, Steps, TokenStep, evidence, not_ours, plan};
use crate::api::{Adoption, Identity, PrincipalType, TokenSecret, VerifyLogin};
use crate::model::marker::{CLOSED, Came, Marker};
use crate::model::observed::{Hold, Login, MarkerOwner, Observed, Record};
use crate::model::publish::{Publication, check, could_publish, is_newer};
use crate::model::refresh::Renew;
use crate::model::secret::{Content, Layout, SecretFacts, TokenRecord};
use crate::model::tenancy::Allowance;
use crate::model::testing::{OURS, desired, observed};
use crate::model::*;

const OTHER: &str = "22222222-2222-2222-2222-222222222222";
const CLUSTER: &str = "cluster";

fn id(text: &str) -> ObjectId {
    ObjectId::parse(text).expect("a GUID")
}

fn name(text: &str) -> RoleName {
    RoleName::parse(text).expect("a name")
}

fn noon() -> Timestamp {
    "2026-11-24T12:00:00Z".parse().expect("a time")
}

fn minutes(n: i64) -> SignedDuration {
    SignedDuration::from_mins(n)
}

fn with_token(desired: Desired) -> Desired {
    let token = DesiredToken {
        identity: Identity::default(),
        secret: "api".to_owned(),
        layout: Layout::parse(&TokenSecret::default(), "api", "orders-api", "postgres"),
        host: None,
        port: None,
        database: "postgres".to_owned(),
        renew: Renew::Percentage(33),
        verify: VerifyLogin::Never,
    };
    Desired {
        token: Some(token),
        ..desired
    }
}

fn label(object: &str) -> EntraLabel {
    EntraLabel {
        object_id: id(object),
        entra_type: "service".to_owned(),
        admin: false,
        mfa: false,
    }
}

fn facts() -> RoleFacts {
    let marker = Marker {
        role_oid: "1".to_owned(),
        ..Marker::new(CLUSTER, &desired().key, "uid-1", Some(&id(OURS)))
    };
    RoleFacts {
        oid: 1,
        can_login: true,
        label: Some(label(OURS)),
        comment: Some(marker.to_comment()),
        ..RoleFacts::default()
    }
}

/// A role with a marker of that owner; this object's own was reported in its status.
fn there(mut facts: RoleFacts, owner: Option<MarkerOwner>) -> Observed {
    let us = owner == Some(MarkerOwner::Us);
    if !us {
        facts.comment = facts.comment.map(|text| text.replace("uid-1", "uid-0"));
    }
    Observed {
        role: Look::Known(Some(facts)),
        marker_owner: owner,
        record: Record {
            object_id: us.then(|| id(OURS)),
            adopted: false,
        },
        ..observed()
    }
}

/// The same before any status was written.
fn unreported(facts: RoleFacts) -> Observed {
    Observed {
        record: Record::default(),
        ..there(facts, Some(MarkerOwner::Us))
    }
}

fn role(desired: &Desired, observed: &Observed) -> Result<RoleWork, Reason> {
    plan(desired, observed, noon(), CLUSTER)
        .role
        .map_err(|failure| failure.reason)
}

fn steps(desired: &Desired, observed: &Observed) -> Vec<RoleStep> {
    match role(desired, observed) {
        Ok(RoleWork::Steps(steps)) => steps.role,
        other => panic!("expected steps, not {other:?}"),
    }
}

/// What is done about a role, and the reasons of what is not as declared.
fn steps_and_problems(desired: &Desired, observed: &Observed) -> (Vec<RoleStep>, Vec<Reason>) {
    match role(desired, observed) {
        Ok(RoleWork::Steps(steps)) => {
            let problems = steps.problems.into_iter();
            (steps.role, problems.map(|problem| problem.reason).collect())
        }
        other => panic!("expected steps, not {other:?}"),
    }
}

fn secret(content: Content) -> Look<SecretFacts> {
    Look::Known(Some(SecretFacts {
        uid: "secret".to_owned(),
        resource_version: "1".to_owned(),
        controller: Some("uid-1".to_owned()),
        holder: Some("EntraPostgresPrincipal api".to_owned()),
        namesake: true,
        orphan: false,
        content,
    }))
}

fn record(issued: i64, expires: i64) -> TokenRecord {
    TokenRecord {
        issued_at: noon() + minutes(issued),
        expires_at: noon() + minutes(expires),
        sha256: String::new(),
        object_id: id(OURS),
        identity: crate::model::secret::identity_of(&Identity::default()),
        renewed: None,
        lives: None,
    }
}
