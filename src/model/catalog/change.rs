//! How a catalog changes: what is newer wins, and who hears of it.

use std::collections::BTreeSet;

use super::{Catalog, Facts, Holder, Holders, Interest, Subjects, of};
use crate::model::{DatabaseEntry, RoleName};

impl Catalog {
    /// Takes in facts that are newer than this catalog: what we changed, or asked for since.
    pub fn fold(&mut self, facts: Facts) {
        let Facts {
            names,
            ids,
            target_names,
            database_names,
            roles,
            holders,
            targets,
            databases,
        } = facts;
        let stale = |holder: &Holder| names.contains(&holder.role);
        for held in self.holders.values_mut() {
            held.retain(|holder| !stale(holder));
        }
        for id in &ids {
            self.holders.remove(id);
        }
        self.holders.retain(|_, held| !held.is_empty());
        for (id, held) in holders {
            self.covers_ids.insert(id.clone());
            self.holders.entry(id).or_default().extend(held);
        }
        for name in &names {
            self.roles.remove(name);
        }
        self.roles.extend(roles);
        self.covers.extend(names);
        self.covers_ids.extend(ids);
        for name in &target_names {
            self.targets.remove(name);
        }
        self.targets.extend(targets);
        self.covers_targets.extend(target_names);
        for name in &database_names {
            self.databases.remove(name);
        }
        self.databases.extend(databases);
        self.covers_databases.extend(database_names);
    }

    /// The targets that these newer facts show otherwise than this catalog does.
    pub fn retargeted(&self, facts: &Facts) -> BTreeSet<RoleName> {
        let known = facts.target_names.intersection(&self.covers_targets);
        known
            .filter(|name| facts.targets.get(*name) != self.targets.get(*name))
            .cloned()
            .collect()
    }

    /// Forgets what is known of a role, because it may have changed and nobody said how.
    pub fn doubt(&mut self, name: &RoleName) {
        self.covers.remove(name);
        self.covers_targets.remove(name);
    }

    /// This snapshot with what `newer` knows of these: we changed them, or asked for them, after the
    /// snapshot had begun.
    #[must_use]
    pub fn overlaid(mut self, newer: &Self, touched: &Subjects) -> Self {
        let Subjects {
            names,
            ids,
            targets,
            databases,
        } = touched;
        let mut holders = Holders::new();
        for (id, held) in &newer.holders {
            let whole = ids.contains(id);
            let held = held
                .iter()
                .filter(|holder| whole || names.contains(&holder.role));
            let held: BTreeSet<Holder> = held.cloned().collect();
            if !held.is_empty() {
                holders.insert(id.clone(), held);
            }
        }
        self.fold(Facts {
            names: names & &newer.covers,
            ids: ids & &newer.covers_ids,
            target_names: targets & &newer.covers_targets,
            database_names: databases & &newer.covers_databases,
            roles: of(&newer.roles, names),
            holders,
            targets: of(&newer.targets, targets),
            databases: of(&newer.databases, databases),
        });
        for name in names.difference(&newer.covers) {
            self.covers.remove(name);
        }
        for target in targets.difference(&newer.covers_targets) {
            self.covers_targets.remove(target);
        }
        self
    }

    /// The roles whose principals must look again: changed since `old`, appeared or gone, or whose
    /// object id changed hands.
    pub fn diff(&self, old: &Self) -> BTreeSet<RoleName> {
        let names = self.roles.keys().chain(old.roles.keys());
        let mut changed: BTreeSet<RoleName> = names
            .filter(|name| self.roles.get(*name) != old.roles.get(*name))
            .cloned()
            .collect();
        for (id, held) in self.holders.iter().chain(&old.holders) {
            if self.holders.get(id) != old.holders.get(id) {
                changed.extend(held.iter().map(|holder| holder.role.clone()));
            }
        }
        changed
    }

    /// Those of the interested whose targets or databases are others than in `old`, as far as both
    /// catalogs know them. How many roles have privileges on a database is nobody's news.
    pub fn news<'a>(
        &self,
        old: &Self,
        interests: impl IntoIterator<Item = (&'a RoleName, &'a Interest)>,
    ) -> BTreeSet<RoleName> {
        let control = self.improved_control != old.improved_control;
        let known = self.covers_targets.iter();
        let targets: BTreeSet<&RoleName> = known
            .filter(|name| old.covers_targets.contains(*name))
            .filter(|name| {
                let facts = self.targets.get(*name);
                let tried = control && facts.is_some_and(|facts| !facts.grantable);
                tried || facts != old.targets.get(*name)
            })
            .collect();
        let known = self.covers_databases.iter();
        let databases: BTreeSet<&String> = known
            .filter(|name| old.covers_databases.contains(*name))
            .filter(|name| {
                let seen = |catalog: &Self| catalog.databases.get(*name).map(uncounted);
                seen(self) != seen(old)
            })
            .collect();
        if targets.is_empty() && databases.is_empty() {
            return BTreeSet::new();
        }
        let interested = interests.into_iter().filter(|(_, interest)| {
            let mut named = interest.databases.keys();
            interest
                .targets
                .iter()
                .any(|target| targets.contains(target))
                || named.any(|database| databases.contains(database))
        });
        interested.map(|(role, _)| role.clone()).collect()
    }
}

fn uncounted(entry: &DatabaseEntry) -> DatabaseEntry {
    DatabaseEntry {
        grantees: 0,
        ..entry.clone()
    }
}
