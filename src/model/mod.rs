//! What is decided: pure functions over plain values. Nothing here awaits, logs or asks the clock.

pub mod attribute;
pub mod backoff;
pub mod catalog;
pub mod cloud;
pub mod database;
pub mod desired;
pub mod effect;
pub mod ending;
pub mod failure;
pub mod fair_queue;
pub mod login;
pub mod marker;
pub mod names;
pub mod observed;
pub mod plan;
pub mod privilege;
pub mod publish;
pub mod quote;
pub mod refresh;
pub mod report;
pub mod rights;
pub mod secret;
pub mod server;
pub mod sizes;
pub mod step;
pub mod tenancy;
pub mod tries;
pub mod written;

#[cfg(test)]
pub(crate) mod testing;

pub use attribute::{
    Attribute, Attributes, DatabaseEntry, DesiredAttributes, Membership, MembershipOptions,
    Memberships, TargetFacts,
};
pub use catalog::{
    Catalog, EntraLabel, Facts, Holder, Holders, Interest, OfOthers, Parameters, RoleFacts,
    RoleView, ServerFacts, Subjects, Unmanaged,
};
pub use cloud::Cloud;
pub use database::DatabaseCatalog;
pub use desired::{Desired, DesiredToken};
pub use failure::{Class, Failure, Reason, SourceVersion};
pub use fair_queue::{FairQueue, Popped, Ticket};
pub use names::{ObjectId, ObjectKey, RoleName};
pub use privilege::{
    Ask, Asked, DatabaseAsk, DatabaseInterest, DefaultAsk, DefaultsOf, DesiredPrivileges, Group,
    Kind, Names, Object, PrivilegeStep,
};
pub use server::DesiredServer;
pub use step::{Basis, NewRole, RoleStep, entra_type};

/// The answer to a question about the outside: *absent* and *unknown* never merge.
#[derive(Clone, Debug, PartialEq)]
pub enum Look<T> {
    /// The answer is known: there, or not there.
    Known(Option<T>),
    /// The question could not be answered, and why.
    Unknown(Failure),
}

/// A fraction in `[0, 1)` that is always the same for one object: spreads what would meet.
pub(crate) fn spread(uid: &str) -> f64 {
    let digest = ring::digest::digest(&ring::digest::SHA256, uid.as_bytes());
    let first = digest.as_ref().iter().take(4);
    let number = first.fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
    f64::from(number) / (f64::from(u32::MAX) + 1.0)
}
