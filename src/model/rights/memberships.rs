//! Memberships: given as declared, taken back only where they were asked for.

use std::collections::BTreeSet;

use super::Rights;
use super::messages::{DATABASE_OWNER, failure, ident};
use crate::model::observed::Observed;
use crate::model::{
    Asked, Desired, Failure, Interest, Membership, MembershipOptions, Reason, RoleFacts, RoleName,
    RoleStep,
};

/// The first version whose memberships have options of their own, and one row per grantor.
const WITH_OPTIONS: u32 = 160_000;

/// Adds what must be known.
pub(super) fn interest(desired: &Desired, asked: &Asked, interest: &mut Interest) {
    let recorded = asked
        .member_of
        .iter()
        .filter_map(|name| RoleName::parse(name).ok());
    interest.targets.extend(recorded);
    interest.targets.extend(desired.member_of.keys().cloned());
    interest.targets.extend(desired.reassign_to.clone());
}

/// Adds what is to be done.
pub(super) fn plan(
    desired: &Desired,
    asked: &Asked,
    facts: &RoleFacts,
    observed: &Observed,
    rights: &mut Rights,
) {
    let mut work = Work {
        desired,
        asked,
        facts,
        observed,
        rights,
    };
    for name in &asked.member_of {
        match RoleName::parse(name) {
            Ok(target) if !desired.member_of.contains_key(&target) => work.leave(&target),
            _ => {}
        }
    }
    for (target, options) in &desired.member_of {
        if let Err(problem) = work.join(target, *options) {
            work.rights.problems.push(problem);
            work.still(target);
        }
    }
}

struct Work<'a> {
    desired: &'a Desired,
    asked: &'a Asked,
    facts: &'a RoleFacts,
    observed: &'a Observed,
    rights: &'a mut Rights,
}

impl Work<'_> {
    fn join(&mut self, target: &RoleName, options: MembershipOptions) -> Result<(), Failure> {
        self.possible(target)?;
        let recorded = self.asked.member_of.contains(target.as_str());
        let there = self.facts.memberships.get(target);
        let enough = |membership: &Membership| {
            membership.options == options
                // One row only, and more than we were asked for is not ours to take.
                || (!self.has_options() && !recorded && membership.options.admin && !options.admin)
        };
        if there.is_some_and(|rows| rows.iter().any(enough)) {
            self.tighten(target, options);
            self.still(target);
            return Ok(());
        }
        self.permitted(target, options)?;
        if recorded {
            self.still(target);
        } else {
            self.remember_as_new(target);
        }
        self.rights.steps.push(RoleStep::Join {
            role: target.clone(),
            options,
        });
        Ok(())
    }

    /// Whether the role may ever be a member of that one.
    fn possible(&self, target: &RoleName) -> Result<(), Failure> {
        let role = &self.desired.role;
        let say = |reason, what: &str| Err(failure(reason, self.about(target, what)));
        if target == role {
            return say(
                Reason::MembershipLoop,
                "a role cannot be a member of itself: remove it from memberOf",
            );
        }
        if target.as_str() == DATABASE_OWNER {
            return say(
                Reason::RoleProtected,
                "PostgreSQL lets nobody be a member of it: whoever owns a database has its privileges there. \
                 Remove it from memberOf; a role that has to do what the database's owner does can be a member \
                 of that owner",
            );
        }
        let Some(facts) = self.observed.targets.get(target) else {
            return say(
                Reason::ObjectNotFound,
                "there is no such role; the membership is given when there is",
            );
        };
        if facts.administrator {
            return say(
                Reason::RoleProtected,
                "it is an administrator of the server, and its memberships are never given: remove it \
                 from memberOf",
            );
        }
        if facts.member_of.contains(role) {
            return say(
                Reason::MembershipLoop,
                "that role is, directly or through others, a member of this one already: remove either \
                 membership",
            );
        }
        Ok(())
    }

    /// Whether we can give it, with these options.
    fn permitted(&self, target: &RoleName, options: MembershipOptions) -> Result<(), Failure> {
        let server = &self.observed.server;
        let plain = options.inherit && options.set;
        if !plain && !self.has_options() {
            let what = format!(
                "inherit: false and set: false need PostgreSQL 16, the server has {}; nothing is given, \
                 since it would be more than declared",
                server.version_num / 10_000
            );
            let message = self.about(target, &what);
            return Err(failure(Reason::NotSupportedByVersion, message));
        }
        let grantable = self.observed.targets.get(target);
        let grantable = grantable.is_some_and(|facts| facts.grantable);
        // Whether the server asks for ADMIN OPTION at all is only known after the first try.
        if grantable || server.improved_control != Some(false) {
            return Ok(());
        }
        let what = format!(
            "the operator's administrator {} has no ADMIN OPTION on it; a database administrator can \
             give it: GRANT {} TO {} WITH ADMIN OPTION",
            ident(&server.administrator),
            ident(target.as_str()),
            ident(&server.administrator)
        );
        let message = self.about(target, &what);
        Err(failure(Reason::MissingAdminOption, message))
    }

    /// Takes a membership back that was asked for.
    fn leave(&mut self, target: &RoleName) {
        let rows = self.given(target);
        if !rows.is_empty() {
            self.take(target, &rows, "is declared no more");
            self.still(target);
        }
    }

    /// Takes back what we gave with more options than are declared now: as another administrator, whose
    /// grant a new one of ours does not replace.
    fn tighten(&mut self, target: &RoleName, options: MembershipOptions) {
        let MembershipOptions {
            inherit,
            set,
            admin,
        } = options;
        let recorded = self.asked.member_of.contains(target.as_str());
        if !recorded || !self.has_options() {
            return;
        }
        let mut rows = self.given(target);
        rows.retain(|row| {
            let has = row.options;
            (has.inherit && !inherit) || (has.set && !set) || (has.admin && !admin)
        });
        if !rows.is_empty() {
            self.take(target, &rows, "has more options than are declared");
        }
    }

    /// The grants of a membership that was asked for, but for those by others, and those that were there
    /// before.
    fn given(&self, target: &RoleName) -> Vec<Membership> {
        let before = self.asked.granted_before.get(target.as_str());
        let is_ours = |row: &&Membership| {
            (row.ours || row.by_admin)
                && !before.is_some_and(|grantors| grantors.contains(row.grantor.as_str()))
        };
        let rows = self.facts.memberships.get(target).into_iter().flatten();
        rows.filter(is_ours).cloned().collect()
    }

    /// Takes these grants back, or says who can.
    fn take(&mut self, target: &RoleName, rows: &[Membership], why: &str) {
        let (ours, fixed): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.revocable);
        if ours.is_empty() {
            let revoke = |row: &Membership| {
                format!(
                    "REVOKE {} FROM {} GRANTED BY {}",
                    ident(target.as_str()),
                    ident(self.desired.role.as_str()),
                    ident(row.grantor.as_str())
                )
            };
            let statements: Vec<String> = fixed.into_iter().map(revoke).collect();
            let what = format!(
                "it {why}, was granted by somebody else and cannot be taken back by the operator's \
                 administrator {}; a database administrator can: {}",
                ident(&self.observed.server.administrator),
                statements.join("; ")
            );
            let message = self.about(target, &what);
            self.rights
                .problems
                .push(failure(Reason::NotRevocable, message));
        } else {
            let grantors: BTreeSet<RoleName> =
                ours.into_iter().map(|row| row.grantor.clone()).collect();
            self.rights.steps.push(RoleStep::Leave {
                role: target.clone(),
                grantors,
            });
        }
    }

    /// What was recorded of it stays so.
    fn still(&mut self, target: &RoleName) {
        let name = target.as_str();
        let asked = &mut self.rights.asked;
        if self.asked.member_of.contains(name) {
            asked.member_of.insert(name.to_owned());
            if let Some(before) = self.asked.granted_before.get(name) {
                asked.granted_before.insert(name.to_owned(), before.clone());
            }
        }
    }

    /// Records it, and whose grants there were before: those are not taken back with ours.
    fn remember_as_new(&mut self, target: &RoleName) {
        let name = target.as_str().to_owned();
        let administrator = &self.observed.server.administrator;
        let rows = self.facts.memberships.get(target).into_iter().flatten();
        let others = rows
            .map(|row| row.grantor.as_str().to_owned())
            .filter(|grantor| grantor != administrator);
        let others: BTreeSet<String> = others.collect();
        let apart = self.has_options();
        let asked = &mut self.rights.asked;
        // Up to PostgreSQL 15 there is one row: ours replaces it.
        if apart && !others.is_empty() {
            asked.granted_before.insert(name.clone(), others);
        }
        asked.member_of.insert(name);
    }

    fn has_options(&self) -> bool {
        self.observed.server.version_num >= WITH_OPTIONS
    }

    fn about(&self, target: &RoleName, what: &str) -> String {
        let Desired { role, server, .. } = self.desired;
        format!(
            "membership of role {:?} in role {:?} on server {server}: {what}",
            role.as_str(),
            target.as_str()
        )
    }
}
