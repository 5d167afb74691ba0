//! Which steps of a pass had no effect: one that is wanted again although what it is about is as it was
//! before. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::database::Held;
use super::observed::{Observed, RefusedStep};
use super::{DatabaseCatalog, Group, PrivilegeStep, RoleName};
use crate::api::Privilege;

/// The steps that were made in a pass.
#[derive(Debug, Default)]
pub struct Made(Vec<(RefusedStep, Option<Facts>)>);

/// What a step in a database is about: the objects there are, and what the role has on them.
#[derive(Debug, PartialEq)]
struct Facts {
    total: Option<u32>,
    ungrantable: BTreeMap<Privilege, BTreeMap<RoleName, BTreeSet<String>>>,
    held: Held,
}

impl Made {
    /// Whether no step was made.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes in that a step was made on what was seen before it.
    pub fn add(&mut self, step: RefusedStep, role: &RoleName, before: &Observed) {
        let facts = facts(&step, role, before);
        self.0.push((step, facts));
    }

    /// Whether that step, which is wanted now, was made already on just what is there: with all objects
    /// declared, the same step is wanted again as soon as somebody makes another one.
    pub fn had_no_effect(&self, step: &RefusedStep, role: &RoleName, now: &Observed) -> bool {
        let mut same = self.0.iter().filter(|(made, _)| made == step).peekable();
        same.peek().is_some() && {
            let now = facts(step, role, now);
            same.any(|(_, before)| *before == now)
        }
    }
}

fn facts(step: &RefusedStep, role: &RoleName, observed: &Observed) -> Option<Facts> {
    let RefusedStep::Inside(database, step) = step else {
        return None;
    };
    let catalog = observed.inside.get(database)?.as_ref().ok()?;
    Some(match step {
        PrivilegeStep::Grant {
            group, privileges, ..
        }
        | PrivilegeStep::Revoke {
            group, privileges, ..
        } => about(catalog, role, group, privileges),
        PrivilegeStep::RevokeColumns { group, columns, .. } => {
            about(catalog, role, group, &columns.keys().copied().collect())
        }
        PrivilegeStep::GrantDefault { of, privileges }
        | PrivilegeStep::RevokeDefault { of, privileges } => {
            about(catalog, role, &of.group, privileges)
        }
    })
}

fn about(
    catalog: &DatabaseCatalog,
    role: &RoleName,
    group: &Group,
    privileges: &BTreeSet<Privilege>,
) -> Facts {
    let is_it = |of: &Group, privilege: &Privilege| of == group && privileges.contains(privilege);
    let mut held = catalog.held.get(role).cloned().unwrap_or_default();
    held.objects
        .retain(|(of, privilege), _| is_it(of, privilege));
    held.owned.retain(|of| of == group);
    held.columns
        .retain(|column| is_it(&column.table.group, &column.privilege));
    held.defaults
        .retain(|(of, privilege)| is_it(&of.group, privilege));
    let objects = catalog.groups.get(group);
    Facts {
        total: objects.map(|objects| objects.total),
        ungrantable: objects.map(|it| it.ungrantable.clone()).unwrap_or_default(),
        held,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::database::{GroupFacts, Holding, On};
    use super::super::testing::{desired, observed};
    use super::super::{Kind, Names, RoleStep};
    use super::*;
    use crate::api::Privilege::{Insert, Select};

    fn tables() -> Group {
        Group {
            schema: "app".to_owned(),
            kind: Kind::Table,
        }
    }

    /// So many tables, on these of which the role has SELECT.
    fn seen(total: u32, held: &[&str]) -> Observed {
        let holding = Holding {
            on: On::Some(held.iter().map(|&name| name.to_owned()).collect()),
            fixed: BTreeMap::new(),
            stuck: BTreeMap::new(),
            others: BTreeSet::new(),
            owned: BTreeSet::new(),
        };
        let group = GroupFacts {
            total,
            ..GroupFacts::default()
        };
        let role = Held {
            objects: [((tables(), Select), holding)].into(),
            ..Held::default()
        };
        let catalog = DatabaseCatalog {
            groups: [(tables(), group)].into(),
            held: [(desired().role, role)].into(),
            ..DatabaseCatalog::default()
        };
        let mut observed = observed();
        observed
            .inside
            .insert("shop".to_owned(), Ok(Arc::new(catalog)));
        observed
    }

    fn grant(privilege: Privilege) -> RefusedStep {
        let step = PrivilegeStep::Grant {
            group: tables(),
            names: Names::AllBut(BTreeSet::new()),
            privileges: [privilege].into(),
        };
        RefusedStep::Inside("shop".to_owned(), step)
    }

    // Red when: a step that is planned again is called ineffective without a look at what is there: a
    // migration that makes table after table would be reported as a lack of rights.
    #[test]
    fn a_step_had_no_effect_only_if_what_it_is_about_is_as_it_was() {
        let role = desired().role;
        let mut made = Made::default();
        made.add(grant(Select), &role, &seen(2, &["a"]));
        let in_vain = |step: &RefusedStep, now| made.had_no_effect(step, &role, &now);
        assert!(in_vain(&grant(Select), seen(2, &["a"])));
        // It was given, and meanwhile there is one table more.
        assert!(!in_vain(&grant(Select), seen(3, &["a", "b"])));
        assert!(!in_vain(&grant(Select), seen(2, &["a", "b"])));
        // Another step is none that was made.
        assert!(!in_vain(&grant(Insert), seen(2, &["a"])));

        // What is in `postgres` is done or not: nobody makes more of it meanwhile.
        let open = RefusedStep::Role(RoleStep::Open);
        made.add(open.clone(), &role, &seen(2, &["a"]));
        assert!(made.had_no_effect(&open, &role, &seen(3, &[])));
    }
}
