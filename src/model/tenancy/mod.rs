//! Whether a server lets a namespace have a principal: whom an entry of `spec.tenants` is for. A
//! principal has the union of the entries that are for it; [`rights`] compares that with what it
//! declares. Knows only the two objects: what a role is on the server is judged elsewhere.

mod rights;

use std::collections::BTreeMap;

use kube::core::{Selector, SelectorExt};
use wildmatch::WildMatch;

use super::server::DesiredServer;
use super::{Class, Desired, Failure, Reason, RoleName};
use crate::api::{Adoption, Tenant};

/// What a server gives to a principal that it allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    /// The role is named literally, not only by a glob: only then may it be a privileged one.
    pub literal: bool,
    /// Any role may be bound to any identity (`tenants.adoption` has Any), so that one which the object did
    /// not make may be, too.
    pub any: bool,
    /// A value that was not obeyed yet lets the role sign in that a database administrator closed: the
    /// server's annotation, or the principal's own where the server's owner leaves it to that.
    pub restore: Option<String>,
    /// A comment with this MD5 counts as one without a marker if its marker cannot be read.
    pub discard: Option<String>,
}

/// Azure's own superuser.
const AZURESU: &str = "azuresu";

/// Whether any entry looks at the labels of namespaces.
pub fn needs_labels(server: &DesiredServer) -> bool {
    server
        .tenants
        .iter()
        .any(|tenant| tenant.namespaces.selector.is_some())
}

/// Whether the entries that are for the principal give all that it declares.
///
/// # Errors
/// `RoleProtected` for the role of an administrator in `spec.admins`, as the role itself, as one to be
/// a member of or to leave things to, whatever an entry says; `NamespaceNotAllowed` and
/// `NotAllowedByServer`, naming each field that the server's owner would have to extend.
pub fn check(
    server: &DesiredServer,
    desired: &Desired,
    labels: &BTreeMap<String, String>,
) -> Result<Allowance, Failure> {
    never_managed(server, desired)?;
    never_a_target(server, desired)?;
    let entries = Entries::of(server, desired, labels)?;
    let mut missing = entries.mismatches.clone();
    missing.extend(rights::missing(&entries.tenants, desired));
    refuse(server, desired, &missing)?;
    Ok(entries.allowance(server, desired))
}

/// Whether the entries that are for the principal give what it declares for its deletion. The rest may
/// have been tightened meanwhile: that keeps nobody from giving a role up.
///
/// # Errors
/// As [`check`].
pub fn check_deletion(
    server: &DesiredServer,
    desired: &Desired,
    labels: &BTreeMap<String, String>,
) -> Result<Allowance, Failure> {
    never_managed(server, desired)?;
    never_a_target(server, desired)?;
    let entries = Entries::of(server, desired, labels)?;
    let mut missing = entries.mismatches.clone();
    missing.extend(rights::missing_for_deletion(&entries.tenants, desired));
    refuse(server, desired, &missing)?;
    Ok(entries.allowance(server, desired))
}

fn never_managed(server: &DesiredServer, desired: &Desired) -> Result<(), Failure> {
    if !is_administrator(server, &desired.role) {
        return Ok(());
    }
    let message = format!(
        "role {:?} is an administrator of EntraPostgresServer {} (spec.admins) and is never \
         managed; choose another roleName",
        desired.role.as_str(),
        server.key
    );
    Err(Failure::new(Class::Denied, Reason::RoleProtected, message))
}

/// Whoever is a member of an administrator is one; and what an administrator owns, a function with
/// SECURITY DEFINER for one, runs with its rights.
fn never_a_target(server: &DesiredServer, desired: &Desired) -> Result<(), Failure> {
    let memberships = desired.member_of.keys().map(|role| ("memberOf", role));
    let reassigned = desired.reassign_to.iter();
    let targets = memberships.chain(reassigned.map(|role| ("reassignOwnedTo", role)));
    let protected: Vec<String> = targets
        .filter(|(_, role)| role.as_str() == AZURESU || is_administrator(server, role))
        .map(|(field, role)| format!("{field} {:?}", role.as_str()))
        .collect();
    if protected.is_empty() {
        return Ok(());
    }
    let message = format!(
        "{}: an administrator of EntraPostgresServer {} is never granted, nor given what others own, \
         whatever its tenants say; choose another role",
        protected.join(", "),
        server.key
    );
    Err(Failure::new(Class::Denied, Reason::RoleProtected, message))
}

fn is_administrator(server: &DesiredServer, role: &RoleName) -> bool {
    let mut administrators = server.administrators.iter();
    administrators.any(|(administrator, _)| administrator == role)
}

/// The entries of a server that are for a principal.
struct Entries<'a> {
    tenants: Vec<&'a Tenant>,
    /// Empty when some entry is for the principal. Otherwise what keeps each entry for its namespace
    /// from being so, and `tenants` has those: what even they do not give is missing too.
    mismatches: Vec<String>,
}

impl<'a> Entries<'a> {
    fn allowance(&self, server: &DesiredServer, desired: &Desired) -> Allowance {
        let any = |gives: fn(&Tenant) -> bool| self.tenants.iter().any(|tenant| gives(tenant));
        let mut tenants = self.tenants.iter();
        let own = any(|tenant| tenant.restore == Some(true)).then(|| desired.restore.clone());
        let restore = server.restore.get(&desired.key).cloned();
        Allowance {
            literal: tenants.any(|tenant| names_literally(tenant, &desired.role)),
            any: any(|tenant| tenant.adoption.contains(&Adoption::Any)),
            restore: restore.or(own.flatten()),
            discard: server.discard.get(&desired.key).cloned(),
        }
    }

    fn of(
        server: &'a DesiredServer,
        desired: &Desired,
        labels: &BTreeMap<String, String>,
    ) -> Result<Self, Failure> {
        let namespace = &desired.key.namespace;
        let here = server.tenants.iter();
        let here: Vec<&Tenant> = here
            .filter(|tenant| is_for(tenant, namespace, labels))
            .collect();
        if here.is_empty() {
            let message = format!(
                "EntraPostgresServer {} has no entry in spec.tenants for namespace {namespace}: ask \
                 its owner to add one",
                server.key
            );
            let reason = Reason::NamespaceNotAllowed;
            return Err(Failure::new(Class::Denied, reason, message));
        }
        let matches = |tenant: &&Tenant| mismatches(tenant, desired).is_empty();
        let fitting: Vec<&Tenant> = here.iter().copied().filter(matches).collect();
        if !fitting.is_empty() {
            return Ok(Self {
                tenants: fitting,
                mismatches: Vec::new(),
            });
        }
        let mut all: Vec<String> = Vec::new();
        for mismatch in here.iter().flat_map(|tenant| mismatches(tenant, desired)) {
            if !all.contains(&mismatch) {
                all.push(mismatch);
            }
        }
        Ok(Self {
            tenants: here,
            mismatches: all,
        })
    }
}

fn refuse(server: &DesiredServer, desired: &Desired, missing: &[String]) -> Result<(), Failure> {
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!(
        "EntraPostgresServer {} does not allow this in namespace {}: {}; ask its owner to extend the \
         entry",
        server.key,
        desired.key.namespace,
        missing.join("; ")
    );
    let reason = Reason::NotAllowedByServer;
    Err(Failure::new(Class::Denied, reason, message))
}

fn is_for(tenant: &Tenant, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
    if let Some(names) = &tenant.namespaces.names {
        return names.iter().any(|name| name == namespace);
    }
    let selector = tenant.namespaces.selector.clone().map(Selector::try_from);
    matches!(selector, Some(Ok(selector)) if selector.matches(labels))
}

/// Why an entry for the namespace is not for this principal.
fn mismatches(tenant: &Tenant, desired: &Desired) -> Vec<String> {
    let mut mismatches = Vec::new();
    if !tenant.principal_types.contains(&desired.kind) {
        mismatches.push(format!("tenants.principalTypes has no {}", desired.kind));
    }
    let role = desired.role.as_str();
    if !glob(&tenant.role_names, role) {
        mismatches.push(format!("tenants.roleNames does not match {role:?}"));
    }
    if desired.admin && !tenant.admin {
        mismatches.push("tenants.admin is not true".to_owned());
    }
    mismatches
}

/// Whether one of the globs matches the whole name.
fn glob(globs: &[String], name: &str) -> bool {
    let mut globs = globs.iter();
    globs.any(|glob| WildMatch::new(glob).matches(name))
}

fn names_literally(tenant: &Tenant, role: &RoleName) -> bool {
    tenant
        .role_names
        .iter()
        .any(|name| name == role.as_str() && !name.contains(['*', '?']))
}

#[cfg(test)]
mod tests;
