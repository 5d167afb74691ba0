//! Changes of privileges inside a database as statements. Must not send anything, nor decide what
//! changes.

use std::collections::BTreeSet;

use postgres_protocol::escape::escape_identifier;

use crate::api::Privilege;
use crate::model::written::{self, sort};
use crate::model::{DefaultsOf, Group, Kind, Names, PrivilegeStep, RoleName};

use super::column_steps::{kept, revoke_columns};
use super::privileges_sql::{ours_on_objects, texts, world_of};
use super::sql::{identifier, literal};

/// Objects named in one statement that the server puts together at most.
const CHUNK: u32 = 200;

/// What a person would write for these steps.
pub fn show_privilege_steps(role: &RoleName, steps: &[PrivilegeStep]) -> Vec<String> {
    steps.iter().map(|step| shown(role, step)).collect()
}

/// A step as one statement.
pub(super) fn statement(role: &RoleName, step: &PrivilegeStep) -> String {
    match step {
        PrivilegeStep::Grant {
            group,
            names,
            privileges,
        } => match (group.kind, names) {
            (Kind::Schema, _) => plain("GRANT", privileges, &whole(group), "TO", role),
            (Kind::Table | Kind::Sequence, Names::Only(only)) => match named(group, only) {
                Some(on) => plain("GRANT", privileges, &on, "TO", role),
                None => grant_found(role, group, names, privileges),
            },
            _ => grant_found(role, group, names, privileges),
        },
        PrivilegeStep::Revoke {
            group,
            names,
            privileges,
            of_others,
        } => revoke_found(role, group, names, privileges, *of_others),
        PrivilegeStep::RevokeColumns { group, name, .. } => revoke_columns(role, group, name),
        PrivilegeStep::GrantDefault { of, privileges } => {
            default(of, "GRANT", privileges, "TO", role)
        }
        PrivilegeStep::RevokeDefault { of, privileges } => {
            default(of, "REVOKE", privileges, "FROM", role)
        }
    }
}

fn shown(role: &RoleName, step: &PrivilegeStep) -> String {
    let (verb, group, names, privileges, to) = match step {
        PrivilegeStep::Grant {
            group,
            names,
            privileges,
        } => ("GRANT", group, names, privileges, "TO"),
        PrivilegeStep::Revoke {
            group,
            names,
            privileges,
            of_others: _,
        } => ("REVOKE", group, names, privileges, "FROM"),
        PrivilegeStep::RevokeColumns {
            group,
            name,
            columns,
        } => {
            let table = BTreeSet::from([name.clone()]);
            let on = named(group, &table).unwrap_or_default();
            let (what, role) = (written::columns(columns), identifier(role));
            return format!("REVOKE {what} ON {on} FROM {role}");
        }
        PrivilegeStep::GrantDefault { .. } | PrivilegeStep::RevokeDefault { .. } => {
            return statement(role, step);
        }
    };
    match names {
        _ if group.kind == Kind::Schema => plain(verb, privileges, &whole(group), to, role),
        Names::Only(names) => match named(group, names) {
            Some(on) => plain(verb, privileges, &on, to, role),
            None => format!(
                "-- {verb} {} on {}s {names:?}",
                words(privileges),
                group.kind
            ),
        },
        Names::AllBut(except) => {
            let statement = plain(verb, privileges, &whole(group), to, role);
            if except.is_empty() {
                return statement;
            }
            let except: Vec<&str> = except.iter().map(String::as_str).collect();
            // A comment ends with its line.
            let except = except.join(", ").replace(['\n', '\r'], " ");
            format!("{statement} -- but not on {except}")
        }
    }
}

fn plain(
    verb: &str,
    privileges: &BTreeSet<Privilege>,
    on: &str,
    to: &str,
    role: &RoleName,
) -> String {
    let (privileges, role) = (words(privileges), identifier(role));
    format!("{verb} {privileges} ON {on} {to} {role}")
}

fn default(
    of: &DefaultsOf,
    verb: &str,
    privileges: &BTreeSet<Privilege>,
    to: &str,
    role: &RoleName,
) -> String {
    let DefaultsOf { owner, group } = of;
    format!(
        "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} {verb} {privileges} ON {sort}S {to} {role}",
        owner = identifier(owner),
        schema = escape_identifier(&group.schema),
        privileges = words(privileges),
        sort = sort(group.kind),
        role = identifier(role),
    )
}

/// All objects of a group; a schema is its own.
fn whole(group: &Group) -> String {
    let schema = escape_identifier(&group.schema);
    match group.kind {
        Kind::Schema => format!("SCHEMA {schema}"),
        kind => format!("ALL {}S IN SCHEMA {schema}", sort(kind)),
    }
}

/// Objects by name; `None`: a name among them cannot be written.
fn named(group: &Group, names: &BTreeSet<String>) -> Option<String> {
    let names = names.iter().map(|name| written::object(group, name));
    let names: Vec<String> = names.collect::<Option<_>>()?;
    Some(format!("{} {}", sort(group.kind), names.join(", ")))
}

fn words(privileges: &BTreeSet<Privilege>) -> String {
    let words: Vec<String> = privileges.iter().map(Privilege::to_string).collect();
    words.join(", ")
}

/// The objects meant, and the privileges, as conditions and an array. What the role owns is never
/// meant.
struct Meant {
    world: String,
    role: String,
    condition: String,
    privileges: String,
}

fn meant(role: &RoleName, group: &Group, names: &Names, privileges: &BTreeSet<Privilege>) -> Meant {
    let array = |names: &BTreeSet<String>| texts(names.iter().map(String::as_str));
    let among = match names {
        Names::Only(names) => format!("t.name = ANY ({})", array(names)),
        Names::AllBut(except) => format!("t.name <> ALL ({})", array(except)),
    };
    let privileges: Vec<String> = privileges.iter().map(Privilege::to_string).collect();
    Meant {
        world: world_of(&group.schema),
        role: literal(role.as_str()),
        condition: format!("t.kind = '{}' AND t.owner <> r.oid AND {among}", group.kind),
        privileges: texts(privileges.iter().map(String::as_str)),
    }
}

/// How an object is written in a statement: by the server, so that everything is quoted rightly, and
/// that no other object's name can be taken for it. FUNCTION looks at input arguments only, and no two
/// functions or procedures of a schema share them; ROUTINE would not know a function from a procedure with
/// OUT arguments, and PROCEDURE only does so where each argument has its mode.
pub(super) const TARGET: &str = "CASE t.kind WHEN 'function' THEN (
      SELECT CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END FROM pg_catalog.pg_proc AS p WHERE p.oid = t.oid)
      ELSE pg_catalog.upper(t.kind) END AS sort,
    CASE t.kind WHEN 'function' THEN (
      SELECT CASE p.prokind WHEN 'p' THEN pg_catalog.format('%I.%I(%s)', t.schema, p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid))
        ELSE p.oid::pg_catalog.regprocedure::text END FROM pg_catalog.pg_proc AS p WHERE p.oid = t.oid)
      WHEN 'schema' THEN pg_catalog.quote_ident(t.schema) ELSE pg_catalog.format('%I.%I', t.schema, t.name) END AS target";

/// Grants on those objects that lack the privilege and on which we may grant it. Functions that are
/// named are granted on in any case, so that the server says why not.
fn grant_found(
    role: &RoleName,
    group: &Group,
    names: &Names,
    privileges: &BTreeSet<Privilege>,
) -> String {
    let may = match names {
        Names::Only(_) => "",
        Names::AllBut(_) => {
            " AND (o.mine OR EXISTS (SELECT FROM pg_catalog.aclexplode(t.acl) AS e \
WHERE e.is_grantable AND e.privilege_type = p AND pg_catalog.pg_has_role(e.grantee, 'USAGE')))"
        }
    };
    let Meant {
        world,
        role: text,
        condition,
        privileges,
    } = meant(role, group, names, privileges);
    let name = literal(&identifier(role));
    block(&format!(
        r"DECLARE v record;
BEGIN
  FOR v IN WITH {world}, found AS MATERIALIZED (
    SELECT t.oid, {TARGET}, ARRAY(SELECT p FROM unnest({privileges}) AS p
      WHERE NOT EXISTS (SELECT FROM pg_catalog.aclexplode(t.acl) AS e WHERE e.grantee = r.oid AND e.privilege_type = p){may}) AS privileges
    FROM things AS t JOIN owners AS o USING (owner) JOIN pg_catalog.pg_roles AS r ON r.rolname = {text}::name
    WHERE {condition}
  ), chunks AS (
    SELECT f.*, (row_number() OVER (PARTITION BY f.sort, f.privileges ORDER BY f.oid) - 1) / {CHUNK} AS chunk FROM found AS f
    WHERE f.privileges <> ARRAY[]::text[]
  )
  SELECT c.sort, array_to_string(c.privileges, ', ') AS privileges, string_agg(c.target, ', ' ORDER BY c.oid) AS targets
  FROM chunks AS c GROUP BY c.sort, c.privileges, c.chunk
  LOOP
    EXECUTE 'GRANT ' || v.privileges || ' ON ' || v.sort || ' ' || v.targets || ' TO ' || {name};
  END LOOP;
END"
    ))
}

/// Revokes on those objects that have the privilege, as each grantor for whom we can and who is meant:
/// the server would only take back what one of them gave.
fn revoke_found(
    role: &RoleName,
    group: &Group,
    names: &Names,
    privileges: &BTreeSet<Privilege>,
    of_others: bool,
) -> String {
    let whose = if of_others { "true" } else { "g.ours" };
    let ours = ours_on_objects();
    let Meant {
        world,
        role: text,
        condition,
        privileges,
    } = meant(role, group, names, privileges);
    let name = literal(&identifier(role));
    let [declared, before, after] = kept(group.kind, &text, &name);
    block(&format!(
        r"DECLARE v record; v_us constant name := current_user;{declared}
BEGIN
  FOR v IN WITH {world}, given AS MATERIALIZED (
    SELECT t.oid, {TARGET}, e.privilege_type AS privilege, e.grantor, {ours} AS ours,
      (e.grantor = t.owner AND o.mine) OR (e.grantor = u.oid AND NOT o.mine) AS plain,
      e.grantor <> u.oid AND pg_catalog.pg_has_role(e.grantor, u.become) AS possible
    FROM things AS t JOIN owners AS o USING (owner) CROSS JOIN us AS u
    JOIN pg_catalog.pg_roles AS r ON r.rolname = {text}::name
    CROSS JOIN LATERAL pg_catalog.aclexplode(t.acl) AS e
    WHERE {condition} AND e.grantee = r.oid AND e.privilege_type = ANY ({privileges})
  ), found AS MATERIALIZED (
    SELECT g.oid, g.sort, g.target, CASE WHEN NOT g.plain THEN g.grantor END AS grantor,
      array_agg(DISTINCT g.privilege) AS privileges
    FROM given AS g WHERE (g.plain OR g.possible) AND {whose} GROUP BY 1, 2, 3, 4
  ), chunks AS (
    SELECT f.*, (row_number() OVER (PARTITION BY f.grantor, f.sort, f.privileges ORDER BY f.oid) - 1) / {CHUNK} AS chunk FROM found AS f
  )
  SELECT CASE WHEN c.grantor IS NOT NULL THEN pg_catalog.pg_get_userbyid(c.grantor) END AS grantor,
    c.sort, array_to_string(c.privileges, ', ') AS privileges, string_agg(c.target, ', ' ORDER BY c.oid) AS targets,
    array_agg(c.oid) AS oids
  FROM chunks AS c GROUP BY c.grantor, c.sort, c.privileges, c.chunk
  LOOP
    IF v.grantor IS NOT NULL THEN EXECUTE pg_catalog.format('SET LOCAL ROLE %I', v.grantor); END IF;
    {before}EXECUTE 'REVOKE ' || v.privileges || ' ON ' || v.sort || ' ' || v.targets || ' FROM ' || {name};
{after}    IF v.grantor IS NOT NULL THEN EXECUTE pg_catalog.format('SET LOCAL ROLE %I', v_us); END IF;
  END LOOP;
END"
    ))
}

pub(super) fn block(body: &str) -> String {
    format!("DO {}", literal(body))
}
