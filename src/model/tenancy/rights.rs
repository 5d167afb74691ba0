//! What a principal declares and the entries that are for it do not give, each in words that name the
//! field to extend and with what. Must not decide whom an entry is for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::glob;
use crate::api::{Adoption, DeletionPolicy, Privilege, RoleAttribute, Tenant, TenantGrant};
use crate::model::{Desired, RoleName};

/// All that none of these entries gives.
pub(super) fn missing(tenants: &[&Tenant], desired: &Desired) -> Vec<String> {
    let mut missing = attributes(tenants, desired);
    missing.extend(memberships(tenants, desired));
    missing.extend(privileges(tenants, desired));
    let adoption = desired.adoption;
    if adoption != Adoption::Refuse && !any(tenants, |t| t.adoption.contains(&adoption)) {
        missing.push(format!("tenants.adoption has no {adoption}"));
    }
    missing.extend(missing_for_deletion(tenants, desired));
    missing
}

/// Of what is declared for the deletion, all that none of these entries gives.
pub(super) fn missing_for_deletion(tenants: &[&Tenant], desired: &Desired) -> Vec<String> {
    let mut missing = Vec::new();
    let policy = desired.deletion;
    let given = any(tenants, |t| t.deletion_policies.contains(&policy));
    if policy != DeletionPolicy::Retain && !given {
        missing.push(format!("tenants.deletionPolicies has no {policy}"));
    }
    // What is given to a role that has more rights can run with them: a function with SECURITY
    // DEFINER, a view, a trigger.
    let target = desired.reassign_to.as_ref().map(RoleName::as_str);
    if let Some(role) = target.filter(|role| !lists(tenants, role, false)) {
        missing.push(format!(
            "tenants.memberOf does not list {role:?}, the role of reassignOwnedTo"
        ));
    }
    missing
}

fn any(tenants: &[&Tenant], gives: impl Fn(&Tenant) -> bool) -> bool {
    tenants.iter().any(|tenant| gives(tenant))
}

fn attributes(tenants: &[&Tenant], desired: &Desired) -> Vec<String> {
    let wanted = [
        (desired.attributes.create_db, RoleAttribute::CreateDb),
        (desired.attributes.create_role, RoleAttribute::CreateRole),
    ];
    let wanted = wanted.into_iter().filter(|(value, _)| *value == Some(true));
    wanted
        .filter(|(_, attribute)| !any(tenants, |t| t.attributes.contains(attribute)))
        .map(|(_, attribute)| format!("tenants.attributes has no {attribute}"))
        .collect()
}

fn memberships(tenants: &[&Tenant], desired: &Desired) -> Vec<String> {
    let mut missing = Vec::new();
    for (role, options) in &desired.member_of {
        let role = role.as_str();
        if !lists(tenants, role, options.admin) {
            let how = if options.admin {
                " with admin: true"
            } else {
                ""
            };
            missing.push(format!("tenants.memberOf does not list {role:?}{how}"));
        }
    }
    missing
}

fn lists(tenants: &[&Tenant], role: &str, admin: bool) -> bool {
    let fits = |t: &Tenant| {
        let mut listed = t.member_of.iter();
        listed.any(|member| member.role == role && (member.admin || !admin))
    };
    any(tenants, fits)
}

/// What a privilege is on, as far as entries tell it apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Scope<'a> {
    database: &'a str,
    /// The schema itself, or objects in it; `None`: the database itself.
    schema: Option<&'a str>,
}

impl fmt::Display for Scope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = self.schema {
            write!(f, "schema {} of ", shown(schema))?;
        }
        write!(f, "database {}", shown(self.database))
    }
}

fn privileges(tenants: &[&Tenant], desired: &Desired) -> Vec<String> {
    let wanted = &desired.privileges;
    let on_databases = wanted.databases.iter().map(|ask| {
        let database = ask.database.as_str();
        let scope = Scope {
            database,
            schema: None,
        };
        (scope, ask.privilege)
    });
    let on_objects = (wanted.objects.iter())
        .flat_map(|ask| {
            let privileges = ask.privileges.iter();
            privileges.map(|privilege| (&ask.database, &ask.group.schema, *privilege))
        })
        .chain(
            (wanted.defaults.iter())
                .map(|ask| (&ask.database, &ask.of.group.schema, ask.privilege)),
        )
        .map(|(database, schema, privilege)| {
            let schema = Some(schema.as_str());
            (Scope { database, schema }, privilege)
        });
    // A template may name hundreds of objects of one schema: entries tell them not apart.
    let wanted: BTreeSet<(Scope<'_>, Privilege)> = on_databases.chain(on_objects).collect();
    let mut missing: BTreeMap<Scope<'_>, Vec<String>> = BTreeMap::new();
    for (scope, privilege) in wanted {
        let gives = |t: &Tenant| t.grants.iter().any(|grant| gives(grant, scope, privilege));
        if !any(tenants, gives) {
            let privileges = missing.entry(scope).or_default();
            privileges.push(privilege.to_string());
        }
    }
    let missing = missing.into_iter();
    missing
        .map(|(scope, privileges)| {
            format!(
                "tenants.grants gives no {} on {scope}",
                privileges.join(", ")
            )
        })
        .collect()
}

fn gives(grant: &TenantGrant, scope: Scope<'_>, privilege: Privilege) -> bool {
    let reaches = match (scope.schema, &grant.schemas) {
        (Some(schema), Some(globs)) => glob(globs, schema),
        (None, None) => true,
        // Without these nobody gets at the schemas. CREATE makes new ones: that is more.
        (None, Some(_)) => matches!(privilege, Privilege::Connect | Privilege::Temporary),
        (Some(_), None) => false,
    };
    reaches
        && glob(std::slice::from_ref(&grant.database), scope.database)
        && grant.privileges.contains(&privilege)
}

/// A name as it is, or quoted if it could be misread.
fn shown(name: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || ['_', '-', '.'].contains(&c);
    if !name.is_empty() && name.chars().all(plain) {
        name.to_owned()
    } else {
        format!("{name:?}")
    }
}
