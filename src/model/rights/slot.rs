//! One privilege on one group of objects: what to give, what to take back, what to remember.

use std::collections::BTreeSet;

use super::objects::{Database, Findings, object};
use super::record::{Recorded, Slot, Wanted};
use crate::model::database::{Holding, ObjectFacts, On};
use crate::model::{Group, Kind, Names, RoleName};

/// A slot with all that is known of it; its schema exists, or nothing is declared in it.
pub(super) struct SlotWork<'a> {
    pub database: &'a Database<'a>,
    pub slot: &'a Slot,
    pub wanted: &'a Wanted,
    pub recorded: &'a Recorded,
    pub holding: Option<&'a Holding>,
}

impl SlotWork<'_> {
    /// Plans it; says what of it is remembered from now on.
    pub(super) fn plan(&self, found: &mut Findings) -> Recorded {
        let mut next = self.recorded.clone();
        let given = self.give_named(&mut next, found);
        if !given.is_empty() {
            found.grant(self.slot, Names::Only(given));
        }
        if self.wanted.all {
            self.give_all(&mut next, found);
        } else {
            self.take_back(&mut next, found);
        }
        next
    }

    /// The named objects that are to be given; with all of them declared they are only looked at.
    fn give_named(&self, next: &mut Recorded, found: &mut Findings) -> BTreeSet<String> {
        let mut given = BTreeSet::new();
        for name in &self.wanted.names {
            let Some(facts) = self.facts(name) else {
                let signatures = &self.database.catalog.signatures;
                let others = signatures.get(&object(self.group(), name));
                found.absent(self.group(), name, others.cloned().unwrap_or_default());
                continue;
            };
            found.crowd(self.group(), name, facts.grantees);
            if self.wanted.all || self.owns(name) {
                continue;
            }
            if self.has(name) {
                if self.recorded.covers(name) {
                    next.names.insert(name.clone());
                }
            } else if facts.grantable.contains(&self.slot.1) {
                next.names.insert(name.clone());
                given.insert(name.clone());
            } else {
                found.ungrantable(self.slot, name, &facts.owner);
            }
        }
        given
    }

    fn give_all(&self, next: &mut Recorded, found: &mut Findings) {
        let Some(group) = self.database.catalog.groups.get(self.group()) else {
            return;
        };
        if let Some((name, grantees)) = &group.most_grantees {
            found.crowd(self.group(), name, *grantees);
        }
        let none = BTreeSet::new();
        let has = match self.holding.map(|holding| &holding.on) {
            Some(On::All) => return,
            Some(On::Some(names)) => names,
            None if self.database.held.owned.contains(self.group()) => return,
            None => &none,
        };
        let spared = group.spared.get(&self.slot.1);
        let mut refused = BTreeSet::new();
        for (owner, names) in group.ungrantable.get(&self.slot.1).into_iter().flatten() {
            refused.extend(names.iter().cloned());
            // On what is its own it needs nothing.
            if owner != self.database.place.role {
                for name in names.difference(has) {
                    if spared.is_some_and(|spared| spared.contains(name)) {
                        found.spared(self.slot, name);
                    } else {
                        found.ungrantable(self.slot, name, owner);
                    }
                }
            }
        }
        if count(group.total) <= has.union(&refused).count() {
            return;
        }
        // What lost it meanwhile, and is given it now, is ours from now on.
        let kept =
            |name: &&String| has.contains(*name) || refused.contains(*name) || !self.exists(name);
        let except = match &self.recorded.all_but {
            Some(except) => except.iter().filter(kept).cloned().collect(),
            None => has.clone(),
        };
        let except = except.difference(&next.names).cloned().collect();
        next.all_but = Some(except);
        next.names.clear();
        found.grant(self.slot, Names::AllBut(BTreeSet::new()));
    }

    fn take_back(&self, next: &mut Recorded, found: &mut Findings) {
        let dropped: BTreeSet<String> = (self.recorded.names)
            .difference(&self.wanted.names)
            .cloned()
            .collect();
        next.names
            .retain(|name| !dropped.contains(name) || self.is_granted(name));
        let all_but = if self.database.exclusive {
            Some(BTreeSet::new())
        } else {
            let except = self.recorded.all_but.as_ref();
            except.map(|except| except.difference(&dropped).cloned().collect())
        };
        let left = match all_but {
            Some(except) => self.revoke_all_but(&except | &self.wanted.names, found),
            None => self.revoke_only(dropped, found),
        };
        if !left {
            next.all_but = None;
        }
    }

    /// Revokes from all objects but some; says whether there is any.
    fn revoke_all_but(&self, mut stays: BTreeSet<String>, found: &mut Findings) -> bool {
        let Some(holding) = self.holding else {
            return false;
        };
        let fixed = self.fixed(|name| !stays.contains(name), found);
        let any_fixed = !fixed.is_empty();
        stays.extend(fixed);
        if !self.database.exclusive {
            stays.extend(holding.others.iter().cloned());
        }
        stays.extend(holding.owned.iter().cloned());
        let any = match (&holding.on, self.total()) {
            (On::Some(names), _) => names.difference(&stays).next().is_some(),
            (On::All, Some(total)) => total > stays.iter().filter(|name| self.exists(name)).count(),
            // Not asked for, so nothing of it is declared; see `On::All`.
            (On::All, None) => !any_fixed,
        };
        if any {
            found.revoke(self.slot, Names::AllBut(stays));
        }
        any || any_fixed
    }

    /// Revokes from these objects; says whether there is any.
    fn revoke_only(&self, names: BTreeSet<String>, found: &mut Findings) -> bool {
        let mut names = names;
        names.retain(|name| self.is_granted(name));
        let any = !names.is_empty();
        for fixed in self.fixed(|name| names.contains(name), found) {
            names.remove(&fixed);
        }
        if !names.is_empty() {
            found.revoke(self.slot, Names::Only(names));
        }
        any
    }

    /// Reports those objects on which a grant would have to go that we cannot revoke; what others gave
    /// has to go only where the policy is exclusive.
    fn fixed(&self, goes: impl Fn(&str) -> bool, found: &mut Findings) -> Vec<String> {
        let fixed: Vec<(&String, &RoleName)> = (self.holding.into_iter())
            .flat_map(|holding| {
                if self.database.exclusive {
                    &holding.fixed
                } else {
                    &holding.stuck
                }
            })
            .filter(|(name, _)| goes(name))
            .collect();
        for (name, grantor) in &fixed {
            found.fixed(self.slot, name, grantor);
        }
        fixed.into_iter().map(|(name, _)| name.clone()).collect()
    }

    fn group(&self) -> &Group {
        &self.slot.0
    }

    /// How many objects there are, if that was asked for.
    fn total(&self) -> Option<usize> {
        if self.group().kind == Kind::Schema {
            return Some(1);
        }
        let group = self.database.catalog.groups.get(self.group());
        group.map(|group| count(group.total))
    }

    fn facts(&self, name: &str) -> Option<&ObjectFacts> {
        self.database.facts(self.group(), name)
    }

    /// Whether that object exists, as far as it was asked for, or the role has the privilege on it.
    fn exists(&self, name: &str) -> bool {
        let listed = self.holding.is_some_and(|holding| {
            let on_it = matches!(&holding.on, On::Some(names) if names.contains(name));
            let named = holding.fixed.contains_key(name) || holding.others.contains(name);
            on_it || named || holding.owned.contains(name)
        });
        listed || self.facts(name).is_some()
    }

    /// Whether the role owns that object: then it needs nothing there, and nothing is taken.
    fn owns(&self, name: &str) -> bool {
        let owner = self.facts(name).map(|facts| &facts.owner);
        let listed = self
            .holding
            .is_some_and(|holding| holding.owned.contains(name));
        listed || owner == Some(self.database.place.role)
    }

    /// Whether the role has the privilege on that object by a grant that may have to go.
    fn is_granted(&self, name: &str) -> bool {
        let others = self
            .holding
            .is_some_and(|holding| holding.others.contains(name));
        self.has(name) && !self.owns(name) && (self.database.exclusive || !others)
    }

    /// Whether the role has the privilege on that object, and that exists.
    fn has(&self, name: &str) -> bool {
        self.holding.is_some_and(|holding| holding.on.has(name)) && self.exists(name)
    }
}

fn count(objects: u32) -> usize {
    usize::try_from(objects).unwrap_or(usize::MAX)
}
