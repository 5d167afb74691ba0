//! The world that is searched: one server with one role, three objects that may want it, and what each may
//! do. The role carries what the rules are about and no operator can see.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::json;

use super::super::super::plan;
use crate::api::{Adoption, EntraPostgresServer};
use crate::model::marker::{Marker, OBJECT_ID_PLACEHOLDER, ROLE_OID_PLACEHOLDER};
use crate::model::observed::{MarkerOwner, Observed, Record};
use crate::model::plan::RoleWork;
use crate::model::tenancy::{self, Allowance};
use crate::model::testing::{desired, observed};
use crate::model::*;

pub(super) const RULES: [&str; 6] = [
    "a role is bound to another identity only by who made it, or where any may be",
    "a role that another object left is taken over only by adoption",
    "a role that a database administrator closed is opened only by who the server's owner lets",
    "multifactor authentication that a database administrator requires stays",
    "what was given is remembered and in the end taken back",
    "a role whose marker cannot be read is not touched",
];

const X: &str = "aaaaaaaa-0000-0000-0000-000000000001";
const Y: &str = "bbbbbbbb-0000-0000-0000-000000000002";

/// The objects that there may be: two of one namespace, one of another.
const KEYS: [(&str, &str); 3] = [("orders", "api"), ("orders", "heir"), ("thieves", "api")];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Spec {
    id: &'static str,
    adoption: usize,
    readers: bool,
    restore: bool,
}

const ADOPTIONS: [Adoption; 3] = [Adoption::Refuse, Adoption::SameIdentity, Adoption::Any];

/// What an object may declare: the identity, adoption, a membership, annotation `restore`.
const SPECS: [(&str, usize, bool, bool); 7] = [
    (X, 0, false, false),
    (X, 0, true, false),
    (X, 0, false, true),
    (X, 1, false, false),
    (Y, 0, false, false),
    (Y, 2, false, false),
    (X, 2, true, false),
];

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Object {
    uid: u8,
    spec: Spec,
    /// `status.role`: the object id, and whether it was adopted.
    recorded: Option<(String, bool)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "what a role is, one by one")]
struct Role {
    oid: u32,
    id: String,
    mfa: bool,
    login: bool,
    readers: bool,
    comment: Option<String>,
    /// The uid of the object that made it; `None`: a database administrator did.
    maker: Option<u8>,
    /// The identity that it is for, by the word of who made it or may bind any.
    rightful: String,
    /// The uid and the place of the object that has it.
    owner: Option<(u8, usize)>,
    /// A database administrator closed it, or requires multifactor authentication.
    shut: bool,
    strict: bool,
    /// The membership was given by an operator, and nobody took the marker away.
    given: bool,
    /// The marker has a field of another version.
    field: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    tenants: usize,
    objects: [Option<Object>; 3],
    role: Option<Role>,
    made: u8,
    by_hand: u8,
    pub(super) broken: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Act {
    /// An object is made or changed.
    Apply(usize, Spec),
    /// It is deleted with Retain.
    Delete(usize),
    Reconcile(usize),
    /// A database administrator: NOLOGIN.
    Close,
    /// And multifactor authentication.
    Require,
    /// The comment is taken away.
    Unmark,
    /// It is cut.
    Cut,
    /// It is of a newer version.
    Newer,
    /// It has a field that we do not know.
    Field,
}

/// What the server's owner gives an object, as it stands in [`servers`]: not as the code under test reads it.
#[derive(Clone, Copy)]
struct Entry {
    any: bool,
    literal: bool,
    restore: bool,
}

impl Entry {
    fn of(tenants: usize, at: usize) -> Self {
        let ours = KEYS[at].0 == "orders";
        Self {
            any: tenants == 1 && ours,
            literal: tenants == 2 && !ours,
            restore: tenants == 3 && ours,
        }
    }
}

fn servers() -> &'static [DesiredServer] {
    static SERVERS: LazyLock<Vec<DesiredServer>> = LazyLock::new(|| {
        let entry = |namespace: &str, more: &serde_json::Value| {
            let mut entry = json!({
                "namespaces": {"names": [namespace]}, "principalTypes": ["ManagedIdentity"],
                "roleNames": ["orders-*"], "memberOf": [{"role": "readers"}],
            });
            for (field, value) in more.as_object().into_iter().flatten() {
                entry[field] = value.clone();
            }
            entry
        };
        let plain = json!({});
        let any = json!({"adoption": ["SameIdentity", "Any"]});
        let literal = json!({"roleNames": ["orders-api"]});
        let restore = json!({"restore": true});
        let of = [
            (&plain, &plain),
            (&any, &plain),
            (&plain, &literal),
            (&restore, &plain),
        ];
        of.into_iter()
            .map(|(ours, theirs)| server(&json!([entry("orders", ours), entry("thieves", theirs)])))
            .collect()
    });
    &SERVERS
}

fn server(tenants: &serde_json::Value) -> DesiredServer {
    let object: EntraPostgresServer = serde_json::from_value(json!({
        "apiVersion": "entrapostgres.io/v1alpha1", "kind": "EntraPostgresServer",
        "metadata": {"name": "server", "namespace": "lab", "uid": "s"},
        "spec": {
            "host": "orders.postgres.database.azure.com",
            "admins": [{"roleName": "pg-operators", "identity": {"operator": {}}}],
            "tenants": tenants,
        },
    }))
    .expect("a server");
    let clouds = Cloud::built_in().into_iter();
    let clouds = clouds.map(|cloud| (cloud.name.clone(), cloud.into()));
    DesiredServer::parse(&object, &clouds.collect()).expect("parses")
}

fn readers() -> RoleName {
    RoleName::parse("readers").expect("a name")
}

fn id(text: &str) -> ObjectId {
    ObjectId::parse(text).expect("a GUID")
}

fn key(at: usize) -> ObjectKey {
    let (namespace, name) = KEYS[at];
    ObjectKey::new(namespace, name)
}

impl World {
    pub(super) fn first() -> Vec<Self> {
        let foreign = Role {
            oid: 1,
            id: X.to_owned(),
            mfa: false,
            login: true,
            readers: false,
            comment: None,
            maker: None,
            rightful: X.to_owned(),
            owner: None,
            shut: false,
            strict: false,
            given: false,
            field: false,
        };
        let world = |tenants: usize, role: Option<Role>| Self {
            tenants,
            objects: [None, None, None],
            role,
            made: 0,
            by_hand: 0,
            broken: None,
        };
        // What an object has made already is two acts further on.
        let made = |tenants: usize| {
            let mut made = world(tenants, None);
            let (id, adoption, readers, restore) = SPECS[0];
            let spec = Spec {
                id,
                adoption,
                readers,
                restore,
            };
            made.take(Act::Apply(0, spec));
            made.take(Act::Reconcile(0));
            made
        };
        let all = 0..servers().len();
        all.flat_map(|n| [world(n, None), world(n, Some(foreign.clone())), made(n)])
            .collect()
    }

    pub(super) fn acts(&self, made: u8, by_hand: u8) -> Vec<Act> {
        if self.broken.is_some() {
            return Vec::new();
        }
        let mut acts = Vec::new();
        for (at, object) in self.objects.iter().enumerate() {
            for (id, adoption, readers, restore) in SPECS {
                let spec = Spec {
                    id,
                    adoption,
                    readers,
                    restore,
                };
                let wanted = Self::desired(at, 0, spec);
                let may = object.is_some() || self.made < made;
                if may && self.allowance(&wanted).is_ok() {
                    acts.push(Act::Apply(at, spec));
                }
            }
            if object.is_some() {
                acts.extend([Act::Delete(at), Act::Reconcile(at)]);
            }
        }
        if self.by_hand < by_hand && self.role.is_some() {
            acts.extend([
                Act::Close,
                Act::Require,
                Act::Unmark,
                Act::Cut,
                Act::Newer,
                Act::Field,
            ]);
        }
        acts
    }

    pub(super) fn take(&mut self, act: Act) {
        match act {
            Act::Apply(at, spec) => {
                if let Some(object) = &mut self.objects[at] {
                    object.spec = spec;
                } else {
                    self.made += 1;
                    self.objects[at] = Some(Object {
                        uid: self.made,
                        spec,
                        recorded: None,
                    });
                }
            }
            Act::Delete(at) => self.objects[at] = None,
            Act::Reconcile(at) => self.reconcile(at),
            by_hand => {
                self.by_hand += 1;
                if let Some(role) = &mut self.role {
                    role.by_hand(by_hand);
                }
            }
        }
    }

    fn desired(at: usize, uid: u8, spec: Spec) -> Desired {
        let join = MembershipOptions {
            inherit: true,
            set: true,
            admin: false,
        };
        Desired {
            key: key(at),
            uid: format!("uid-{uid}"),
            object_id: Some(id(spec.id)),
            adoption: ADOPTIONS[spec.adoption],
            restore: spec.restore.then(|| "word".to_owned()),
            member_of: spec
                .readers
                .then(|| (readers(), join))
                .into_iter()
                .collect(),
            ..desired()
        }
    }

    fn allowance(&self, desired: &Desired) -> Result<Allowance, Failure> {
        tenancy::check(&servers()[self.tenants], desired, &BTreeMap::new())
    }

    fn observed(&self, object: &Object, desired: &Desired) -> Observed {
        let facts = self.role.as_ref().map(Role::facts);
        let marker = facts
            .as_ref()
            .and_then(|facts| facts.marker().ok().flatten());
        let target = TargetFacts {
            grantable: true,
            ..TargetFacts::default()
        };
        Observed {
            allowance: self.allowance(desired),
            marker_owner: marker.map(|marker| self.owner_of(&marker, desired)),
            role: Look::Known(facts),
            targets: [(readers(), target)].into(),
            record: Record {
                object_id: object.recorded.as_ref().map(|(recorded, _)| id(recorded)),
                adopted: object
                    .recorded
                    .as_ref()
                    .is_some_and(|(_, adopted)| *adopted),
            },
            ..observed()
        }
    }

    fn owner_of(&self, marker: &Marker, us: &Desired) -> MarkerOwner {
        if marker.uid == us.uid {
            return MarkerOwner::Us;
        }
        let lives = self.objects.iter().enumerate().any(|(at, object)| {
            let uid = object.as_ref().map(|object| format!("uid-{}", object.uid));
            uid.as_ref() == Some(&marker.uid) && key(at) == marker.key()
        });
        if lives {
            MarkerOwner::Other
        } else {
            MarkerOwner::Gone
        }
    }

    /// As the controller does: plans and makes, until nothing is left.
    fn reconcile(&mut self, at: usize) {
        let Some(object) = self.objects[at].clone() else {
            return;
        };
        let desired = Self::desired(at, object.uid, object.spec);
        let mut adopted = object
            .recorded
            .as_ref()
            .is_some_and(|(_, adopted)| *adopted);
        for _ in 0..4 {
            let seen = self.observed(&object, &desired);
            let Ok(RoleWork::Steps(steps)) =
                plan(&desired, &seen, super::super::noon(), super::super::CLUSTER).role
            else {
                return;
            };
            for step in &steps.role {
                adopted = match step {
                    RoleStep::Create(_) => false,
                    RoleStep::ForgetPassword => true,
                    _ => adopted,
                };
                self.make(step, at, &object);
            }
            self.is_remembered();
            let Some(role) = &self.role else { return };
            let marker = role.comment.as_deref().and_then(Marker::parse);
            let came = marker
                .and_then(|marker| marker.came)
                .is_some_and(|came| !came.is_recorded());
            let recorded = Some((role.id.clone(), adopted || came));
            let is_done = steps.is_empty();
            if is_done && role.given && !object.spec.readers {
                self.broken = Some(RULES[4]);
            }
            if let Some(object) = &mut self.objects[at] {
                object.recorded = recorded;
            }
            if is_done || self.broken.is_some() {
                return;
            }
        }
    }

    fn is_remembered(&mut self) {
        let Some(role) = &self.role else { return };
        let marker = role.comment.as_deref().map(Marker::read);
        let forgotten = match marker {
            Some(Ok(Some(marker))) => !marker.asked.member_of.contains("readers"),
            Some(Err(_)) => false,
            _ => true,
        };
        if role.given && forgotten {
            self.broken = Some(RULES[4]);
        }
    }

    fn make(&mut self, step: &RoleStep, at: usize, object: &Object) {
        let entry = Entry::of(self.tenants, at);
        let Some(role) = &mut self.role else {
            if let RoleStep::Create(new) = step {
                self.role = Some(Role::new(new, at, object.uid));
            }
            return;
        };
        let unreadable = role
            .comment
            .as_deref()
            .is_some_and(|text| Marker::read(text).is_err());
        let broken = if unreadable {
            Some(RULES[5])
        } else {
            role.make(step, at, object, entry)
        };
        self.broken = self.broken.or(broken);
    }
}

impl Role {
    fn new(new: &NewRole, at: usize, uid: u8) -> Self {
        let id = new
            .object_id
            .as_ref()
            .map_or_else(|| X.to_owned(), ObjectId::to_string);
        let marker = new.marker.replace(OBJECT_ID_PLACEHOLDER, &id);
        Self {
            oid: 2,
            mfa: new.mfa,
            login: true,
            readers: false,
            comment: Some(marker.replace(ROLE_OID_PLACEHOLDER, "2")),
            maker: Some(uid),
            rightful: id.clone(),
            id,
            owner: Some((uid, at)),
            shut: false,
            strict: false,
            given: false,
            field: false,
        }
    }

    fn facts(&self) -> RoleFacts {
        let own = MembershipOptions {
            inherit: true,
            set: true,
            admin: false,
        };
        let membership = Membership {
            grantor: RoleName::parse("pg-operators").expect("a name"),
            revocable: true,
            ours: true,
            by_admin: true,
            by_server: false,
            options: own,
        };
        RoleFacts {
            oid: self.oid,
            can_login: self.login,
            label: Some(EntraLabel {
                object_id: id(&self.id),
                entra_type: "service".to_owned(),
                admin: false,
                mfa: self.mfa,
            }),
            comment: self.comment.clone(),
            memberships: self
                .readers
                .then(|| (readers(), [membership].into()))
                .into_iter()
                .collect(),
            ..RoleFacts::default()
        }
    }

    /// Writes into the marker.
    fn write(&mut self, what: &str) {
        let written = |text: &String| text.replacen('{', &format!("{{{what}"), 1);
        self.comment = self.comment.as_ref().map(written);
    }

    fn by_hand(&mut self, act: Act) {
        match act {
            Act::Close if self.login => {
                self.login = false;
                self.shut = true;
            }
            Act::Require => {
                self.mfa = true;
                self.strict = true;
            }
            Act::Unmark => {
                self.comment = None;
                self.given = false;
                self.field = false;
            }
            Act::Cut => {
                let half = self
                    .comment
                    .as_ref()
                    .map(|text| text[..text.len() - 10].to_owned());
                self.comment = half;
            }
            Act::Newer => self.write("\"version\":7,"),
            Act::Field if self.comment.is_some() => {
                self.field = true;
                self.write("\"field\":1,");
            }
            _ => {}
        }
    }

    /// Makes a step, and says which rule that broke.
    fn make(
        &mut self,
        step: &RoleStep,
        at: usize,
        object: &Object,
        entry: Entry,
    ) -> Option<&'static str> {
        let mut broken = None;
        match step {
            RoleStep::Label { object_id, mfa, .. } => {
                let to = object_id.to_string();
                let may = self.maker == Some(object.uid) || entry.any || entry.literal;
                if may {
                    self.rightful.clone_from(&to);
                } else if to != self.rightful {
                    broken = Some(RULES[0]);
                }
                if self.strict && !mfa && !entry.literal {
                    broken = Some(RULES[3]);
                }
                self.id = to;
                self.mfa = *mfa;
            }
            RoleStep::Mark(text) => {
                let mut owner = self.owner.iter();
                // A status that knows the role, when a database administrator took its marker away.
                let known = self.comment.is_none() && object.recorded.is_some();
                let again = known || owner.any(|(uid, from)| *uid == object.uid || *from == at);
                if !again && ADOPTIONS[object.spec.adoption] == Adoption::Refuse {
                    broken = Some(RULES[1]);
                }
                if self.field && !text.contains("\"field\":1") {
                    broken = Some(RULES[4]);
                }
                self.owner = Some((object.uid, at));
                self.comment = Some(text.clone());
            }
            RoleStep::Open => {
                if self.shut && !(entry.restore && object.spec.restore) {
                    broken = Some(RULES[2]);
                }
                self.login = true;
                self.shut = false;
            }
            RoleStep::Alter(attributes) if attributes.contains(&Attribute::Login(true)) => {
                broken = self.shut.then_some(RULES[2]);
                self.login = true;
            }
            RoleStep::Join { .. } => {
                self.given |= !self.readers;
                self.readers = true;
            }
            RoleStep::Leave { .. } => {
                self.readers = false;
                self.given = false;
            }
            _ => {}
        }
        broken
    }
}
