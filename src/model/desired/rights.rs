//! What a principal declares of its role's rights, parsed once: settings, memberships, privileges, and who
//! gets what it owns. It costs what the spec costs. Must not ask whether it is allowed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::invalid;
use crate::api::{
    DefaultPrivilege, EntraPostgresPrincipalSpec, Grant, ObjectType, PrivilegePolicy,
};
use crate::model::{
    Ask, DatabaseAsk, DefaultAsk, DefaultsOf, DesiredPrivileges, Failure, Group, Kind,
    MembershipOptions, RoleName, sizes,
};

/// `PostgreSQL` cuts longer names.
const LONGEST_NAME: usize = 63;
/// So much of a wrong text is shown.
const SHOWN: usize = 80;

#[derive(Default)]
pub(super) struct Rights {
    pub(super) settings: BTreeMap<String, String>,
    pub(super) member_of: BTreeMap<RoleName, MembershipOptions>,
    pub(super) privileges: DesiredPrivileges,
    pub(super) reassign_to: Option<RoleName>,
}

impl Rights {
    pub(super) fn parse(spec: &EntraPostgresPrincipalSpec) -> Result<Self, Failure> {
        sizes::rights(spec)?;
        let settings = spec.role.iter();
        let settings = settings.flat_map(|role| role.settings.iter().flatten());
        let settings = settings.map(|(name, value)| {
            possible("role.settings: name", name)?;
            without_nul("role.settings: value", value)?;
            Ok((name.to_lowercase(), value.clone()))
        });
        let member_of = spec.member_of.iter().map(|member| {
            let options = MembershipOptions {
                inherit: member.inherit,
                set: member.set,
                admin: member.admin,
            };
            Ok((role("memberOf: role", &member.role)?, options))
        });
        let heir = spec.reassign_owned_to.as_deref();
        let heir = heir.map(|heir| role("reassignOwnedTo", heir));
        Ok(Self {
            settings: settings.collect::<Result<_, Failure>>()?,
            member_of: member_of.collect::<Result<_, Failure>>()?,
            privileges: privileges(
                &spec.grants,
                &spec.default_privileges,
                spec.privilege_policy,
            )?,
            reassign_to: heir.transpose()?,
        })
    }
}

/// Takes a name of something on a server.
pub(super) fn possible(field: &str, name: &str) -> Result<(), Failure> {
    without_nul(field, name)?;
    short(field, name, name)
}

/// One message for many cannot be sent at all if one text in it has a NUL.
fn without_nul(field: &str, text: &str) -> Result<(), Failure> {
    if !text.contains('\0') {
        return Ok(());
    }
    Err(invalid(format!(
        "{field} {:?} contains a NUL character, which no name on a server has: correct it",
        shown(text)
    )))
}

/// `counted`: what of the text is the name itself.
fn short(field: &str, text: &str, counted: &str) -> Result<(), Failure> {
    if counted.len() <= LONGEST_NAME {
        return Ok(());
    }
    Err(invalid(format!(
        "{field} {:?} has {} bytes, and no name in PostgreSQL has more than {LONGEST_NAME}: correct it",
        shown(text),
        counted.len()
    )))
}

fn role(field: &str, name: &str) -> Result<RoleName, Failure> {
    possible(field, name)?;
    RoleName::parse(name)
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

/// A name in an entry; of a function without its arguments, which follow in brackets.
fn name_in(grant: &Grant, name: &str) -> Result<(), Failure> {
    let own = match grant.objects {
        Some(ObjectType::Functions) => name.split_once('(').map_or(name, |(own, _)| own),
        _ => name,
    };
    without_nul("grants: name", name)?;
    short("grants: name", name, own)
}

fn privileges(
    grants: &[Grant],
    defaults: &[DefaultPrivilege],
    policy: PrivilegePolicy,
) -> Result<DesiredPrivileges, Failure> {
    let mut desired = DesiredPrivileges {
        exclusive: policy == PrivilegePolicy::Exclusive,
        ..DesiredPrivileges::default()
    };
    for grant in grants {
        possible("grants: database", &grant.database)?;
        let Some(schema) = &grant.schema else {
            let asks = grant.privileges.iter().map(|privilege| DatabaseAsk {
                database: grant.database.clone(),
                privilege: *privilege,
            });
            desired.databases.extend(asks);
            continue;
        };
        possible("grants: schema", schema)?;
        desired.objects.insert(ask(grant, schema)?);
    }
    for default in defaults {
        possible("defaultPrivileges: database", &default.database)?;
        possible("defaultPrivileges: schema", &default.schema)?;
        let of = DefaultsOf {
            owner: role("defaultPrivileges: owner", &default.owner)?,
            group: Group {
                schema: default.schema.clone(),
                kind: default.objects.into(),
            },
        };
        let asks = default.privileges.iter().map(|privilege| DefaultAsk {
            database: default.database.clone(),
            of: of.clone(),
            privilege: *privilege,
        });
        desired.defaults.extend(asks);
    }
    Ok(desired)
}

fn ask(grant: &Grant, schema: &str) -> Result<Ask, Failure> {
    let names = match (&grant.names, grant.all) {
        (Some(names), None) => {
            names.iter().try_for_each(|name| name_in(grant, name))?;
            Some(Arc::new(names.iter().cloned().collect()))
        }
        (None, Some(true)) => None,
        (None, None) if grant.objects.is_none() => Some(Arc::new([schema.to_owned()].into())),
        _ => {
            return Err(invalid(format!(
                "grants: an entry for schema {schema:?} of database {:?} has to give exactly one of names \
                 and all: true",
                grant.database
            )));
        }
    };
    Ok(Ask {
        database: grant.database.clone(),
        group: Group {
            schema: schema.to_owned(),
            kind: grant.objects.map_or(Kind::Schema, Kind::from),
        },
        names,
        privileges: grant.privileges.iter().copied().collect(),
    })
}
