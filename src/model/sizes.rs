//! How large an object may be. What is over a limit costs its owner the half that it is part of, before
//! anything is made of it, and nobody else anything. The schema has the same limits: these are for objects
//! that are older than it.

use serde::Serialize;

use super::{Class, Failure, Reason};
use crate::api::{EntraPostgresPrincipalSpec, EntraPostgresServerSpec, Grant, TokenSecret};

/// So many objects the grants of one principal may name; an entry without names counts as one.
pub const MOST_NAMES: usize = 2_048;
/// So many bytes, as JSON, may have what a principal declares of its role's rights.
pub const LARGEST_RIGHTS: usize = 96 * 1024;
/// So many bytes may have the template of its Secret.
pub const LARGEST_TEMPLATE: usize = 64 * 1024;
/// So many bytes may have the spec of a server.
pub const LARGEST_SERVER: usize = 256 * 1024;

/// Whether the rights that a principal declares are small enough.
///
/// # Errors
/// `TooLarge`, with the field, the number, the limit and the way out.
pub fn rights(spec: &EntraPostgresPrincipalSpec) -> Result<(), Failure> {
    let count = |grant: &Grant| grant.names.as_ref().map_or(1, Vec::len);
    let names: usize = spec.grants.iter().map(count).sum();
    if names > MOST_NAMES {
        return Err(too_large(&format!(
            "grants names {names} objects, and at most {MOST_NAMES} are allowed: give all: true for a \
             schema, or grant to a role without sign-in and list that in memberOf"
        )));
    }
    let settings = spec.role.as_ref().map(|role| &role.settings);
    let parts = [
        ("grants", bytes(&spec.grants)),
        ("defaultPrivileges", bytes(&spec.default_privileges)),
        ("memberOf", bytes(&spec.member_of)),
        ("role.settings", bytes(&settings)),
    ];
    let total: usize = parts.iter().map(|(_, bytes)| bytes).sum();
    let largest = parts.iter().max_by_key(|(_, bytes)| bytes);
    match largest {
        Some((field, _)) if total > LARGEST_RIGHTS => Err(too_large(&format!(
            "grants, defaultPrivileges, memberOf and role.settings have {total} bytes, and at most \
             {LARGEST_RIGHTS} are allowed: shorten {field}, for example by all: true for a schema, or by \
             granting to a role without sign-in that memberOf lists"
        ))),
        _ => Ok(()),
    }
}

/// Whether the template of a Secret is small enough.
///
/// # Errors
/// `TooLarge`, as [`rights`].
pub fn template(secret: &TokenSecret) -> Result<(), Failure> {
    match bytes(&secret.template) {
        total if total > LARGEST_TEMPLATE => Err(too_large(&format!(
            "token.secret.template has {total} bytes, and at most {LARGEST_TEMPLATE} are allowed: put what \
             has no placeholder into a ConfigMap"
        ))),
        _ => Ok(()),
    }
}

/// Whether a server's spec is small enough.
///
/// # Errors
/// `TooLarge`, as [`rights`].
pub fn server(spec: &EntraPostgresServerSpec) -> Result<(), Failure> {
    match bytes(spec) {
        total if total > LARGEST_SERVER => Err(too_large(&format!(
            "the spec has {total} bytes, {} of them in tenants, and at most {LARGEST_SERVER} are allowed: \
             use patterns and namespaces.selector in tenants instead of long lists",
            bytes(&spec.tenants)
        ))),
        _ => Ok(()),
    }
}

/// How large a principal's spec is, for what a pass over it may cost.
pub fn principal(spec: &EntraPostgresPrincipalSpec) -> usize {
    bytes(spec)
}

/// The failure; `what` names field, number, limit and the way out.
pub fn too_large(what: &str) -> Failure {
    Failure::new(Class::Invalid, Reason::TooLarge, what)
}

/// How long something is as JSON. It is counted and not kept.
fn bytes(part: &impl Serialize) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, part: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.saturating_add(part.len());
            Ok(part.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // What is no JSON came from nowhere.
    serde_json::to_writer(&mut count, part).map_or(usize::MAX, |()| count.0)
}
