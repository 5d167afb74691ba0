//! What a role may do: attributes, settings, memberships, privileges. Compares what is declared, what
//! was asked for before and what is there; says what to change, what to remember, and what cannot be.

mod attributes;
mod memberships;
mod messages;
mod objects;
mod privileges;
mod record;
pub mod settings;
mod slot;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod simulator;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use messages::ident;

use super::observed::Observed;
use super::{Asked, Desired, Failure, Interest, PrivilegeStep, RoleFacts, RoleStep};

/// What is to be done about a role's rights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rights {
    /// What the role's comment shall remember from now on; written before anything is given.
    pub asked: Asked,
    /// Changes in database `postgres`.
    pub steps: Vec<RoleStep>,
    /// Changes in each database.
    pub inside: BTreeMap<String, Vec<PrivilegeStep>>,
    /// What is declared and cannot be, and why; all the rest is done.
    pub problems: Vec<Failure>,
    /// What people should know although all is as declared.
    pub notes: Vec<String>,
}

/// What must be known of a server to plan a principal's rights: what is declared, and what was asked
/// for before.
pub fn interest(desired: &Desired, asked: &Asked) -> Interest {
    let mut interest = Interest::default();
    memberships::interest(desired, asked, &mut interest);
    privileges::interest(desired, asked, &mut interest);
    interest
}

/// Plans the rights of a role that is ours, or becomes it; `facts` is `None` while it is not there.
pub fn plan(
    desired: &Desired,
    asked: &Asked,
    facts: Option<&RoleFacts>,
    observed: &Observed,
) -> Rights {
    let absent = RoleFacts {
        can_login: true,
        ..RoleFacts::default()
    };
    let facts = facts.unwrap_or(&absent);
    let mut rights = Rights::default();
    rights.asked.others.clone_from(&asked.others);
    attributes::plan(desired, asked, facts, &mut rights);
    settings::plan(desired, asked, facts, observed, &mut rights);
    memberships::plan(desired, asked, facts, observed, &mut rights);
    privileges::plan(desired, asked, facts, observed, &mut rights);
    rights
}
