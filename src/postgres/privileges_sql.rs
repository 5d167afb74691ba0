//! The one question about what is inside a database, and its answer: objects, what we may grant, and
//! what roles have. Pure; must not talk to a server.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::api::Privilege;
use crate::model::database::{Held, HeldColumn, Holding, ObjectFacts, On};
use crate::model::{DatabaseCatalog, DatabaseInterest, DefaultsOf, Group, Kind, Object, RoleName};

use super::connect::ADMINISTRATORS;
use super::message::Table;
use super::sql::literal;

/// The schemas that matter: those asked for, and all in which our roles have something; the server keeps
/// that by role, so that one role's question does not read what all others have. The server's own
/// schemas matter only when they are asked for.
const SPACES: &str = r"theirs AS MATERIALIZED (
  SELECT DISTINCT e.classid, e.objid FROM ours AS r CROSS JOIN LATERAL (
    SELECT d.classid, d.objid, d.dbid FROM pg_catalog.pg_shdepend AS d
    WHERE d.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND d.refobjid = r.oid OFFSET 0) AS e
  WHERE e.dbid = (SELECT b.oid FROM pg_catalog.pg_database AS b WHERE b.datname = pg_catalog.current_database())
), used (oid) AS MATERIALIZED (
  SELECT d.objid FROM theirs AS d WHERE d.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
  UNION SELECT c.relnamespace FROM theirs AS d JOIN pg_catalog.pg_class AS c ON c.oid = d.objid
    WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
  UNION SELECT p.pronamespace FROM theirs AS d JOIN pg_catalog.pg_proc AS p ON p.oid = d.objid
    WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
  UNION SELECT a.defaclnamespace FROM theirs AS d JOIN pg_catalog.pg_default_acl AS a ON a.oid = d.objid
    WHERE d.classid = 'pg_catalog.pg_default_acl'::pg_catalog.regclass
), spaces AS MATERIALIZED (
  SELECT n.oid, n.nspname::text AS name, n.nspowner AS owner, n.nspacl AS acl FROM pg_catalog.pg_namespace AS n
  WHERE n.nspname::text IN (SELECT w.name FROM wanted AS w) OR (n.oid IN (SELECT u.oid FROM used AS u)
    AND NOT pg_catalog.starts_with(n.nspname::text, 'pg_') AND n.nspname <> 'information_schema')
)";

/// Common table expressions over all objects that could matter. A function's name has its arguments: where
/// these are longer than anybody declares, only their hash. ACLs are taken apart only for our
/// roles, and put together again here, so that no row is sent for anything that is not ours. `us` is
/// also what decides for whom we can revoke: without GRANTED BY the server picks the owner if we have
/// its privileges, otherwise ourselves; for another grantor we must become it.
const WORLD: &str = r"us AS MATERIALIZED (
  SELECT r.oid, CASE WHEN pg_catalog.current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END AS become
  FROM pg_catalog.pg_roles AS r WHERE r.rolname = current_user
), kinds (kind, privileges) AS MATERIALIZED (
  VALUES ('schema', ARRAY['USAGE', 'CREATE']), ('sequence', ARRAY['USAGE', 'SELECT', 'UPDATE']), ('function', ARRAY['EXECUTE']),
    ('table', ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']
      || CASE WHEN pg_catalog.current_setting('server_version_num')::int >= 170000 THEN ARRAY['MAINTAIN'] ELSE ARRAY[]::text[] END)
), things AS MATERIALIZED (
  SELECT CASE c.relkind WHEN 'S' THEN 'sequence' ELSE 'table' END AS kind, s.name AS schema, c.oid, c.relname::text AS name,
    c.relowner AS owner, c.relacl AS acl
  FROM spaces AS s JOIN pg_catalog.pg_class AS c ON c.relnamespace = s.oid WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
  UNION ALL
  SELECT 'function', s.name, p.oid, p.proname::text || '(' || CASE WHEN octet_length(a.types) <= 1024 THEN a.types
    ELSE '#' || pg_catalog.md5(a.types) END || ')', p.proowner, p.proacl
  FROM spaces AS s JOIN pg_catalog.pg_proc AS p ON p.pronamespace = s.oid
  CROSS JOIN LATERAL (SELECT pg_catalog.oidvectortypes(p.proargtypes) AS types OFFSET 0) AS a
  UNION ALL
  SELECT 'schema', s.name, s.oid, s.name, s.owner, s.acl FROM spaces AS s
), owners AS MATERIALIZED (
  SELECT o.owner, pg_catalog.pg_has_role(o.owner, 'USAGE') AS mine,
    EXISTS (SELECT FROM pg_catalog.pg_roles AS r WHERE r.rolsuper AND r.oid = CASE pg_catalog.pg_get_userbyid(o.owner)
      WHEN 'pg_database_owner' THEN (SELECT d.datdba FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database()) ELSE o.owner END) AS super FROM (SELECT DISTINCT t.owner FROM things AS t) AS o
)";

/// Whether a GRANT of ours would be recorded under the grantor of entry `e` of object `t`: the server
/// takes the owner if we have its privileges, otherwise ourselves, or without a grant option of our own a
/// role that we inherit one from. What we gave before we got the owner's privileges is ours all the same.
/// `option` says whether we have a grant option of our own.
pub(super) fn ours(mine: &str, us: &str, owner: &str, option: &str) -> String {
    format!(
        "CASE WHEN {mine} THEN e.grantor IN ({owner}, {us}) ELSE e.grantor = {us} OR (pg_catalog.pg_has_role(e.grantor, 'USAGE') \
AND NOT {option}) END"
    )
}

/// Whether that grantor is one of the server's declared administrators: as any of them we may have given
/// it. The array is read once for each statement.
pub(super) fn by_admin(grantor: &str) -> String {
    format!(
        "{grantor} = ANY (ARRAY(SELECT a.oid FROM pg_catalog.pg_roles AS a \
WHERE pg_catalog.current_setting('{ADMINISTRATORS}', true)::jsonb ? a.rolname::text))"
    )
}

/// [`ours`] of objects, for which we take back as each grantor apart: also what we gave as another of the
/// declared administrators.
pub(super) fn ours_on_objects() -> String {
    let now = ours(
        "o.mine",
        "u.oid",
        "t.owner",
        "EXISTS (SELECT FROM pg_catalog.aclexplode(t.acl) AS g \
WHERE g.grantee = u.oid AND g.is_grantable AND g.privilege_type = e.privilege_type)",
    );
    format!("({now} OR {})", by_admin("e.grantor"))
}

/// The rest of the expressions of the question, each on top of those before.
const FACTS: &str = r"looked AS MATERIALIZED (
  SELECT t.*, pg_catalog.pg_get_userbyid(t.owner)::text AS owner_name, o.super, n.name IS NOT NULL AS named, g.kind IS NOT NULL AS whole,
    coalesce(pg_catalog.cardinality(t.acl), 0) AS grantees, k.privileges,
    CASE WHEN o.mine THEN k.privileges WHEN t.acl IS NULL OR t.acl::text NOT LIKE '%*%' THEN ARRAY[]::text[]
      ELSE ARRAY(SELECT DISTINCT e.privilege_type FROM pg_catalog.aclexplode(t.acl) AS e
        WHERE e.is_grantable AND pg_catalog.pg_has_role(e.grantee, 'USAGE')) END AS grantable
  FROM things AS t JOIN owners AS o USING (owner) JOIN kinds AS k USING (kind)
  LEFT JOIN named AS n ON n.schema = t.schema AND n.kind = t.kind AND n.name = t.name
  LEFT JOIN grouped AS g ON g.schema = t.schema AND g.kind = t.kind
  WHERE t.schema IN (SELECT w.name FROM wanted AS w) AND (t.kind = 'schema' OR n.name IS NOT NULL OR g.kind IS NOT NULL)
), refusing AS MATERIALIZED (
  SELECT x.schema, x.kind, x.missing, x.spared, x.owner_name, x.super, json_agg(x.name) AS names, sum(octet_length(x.name) + {EACH}) AS size
  FROM (
      SELECT l.schema, l.kind, l.name, l.owner_name, l.super,
        ARRAY(SELECT p FROM unnest(l.privileges) AS p WHERE p <> ALL (l.grantable)) AS missing,
        ARRAY(SELECT p FROM unnest(l.privileges) AS p WHERE l.super OR l.owner_name = 'azuresu' OR EXISTS (
            SELECT FROM pg_catalog.pg_depend AS d WHERE d.objid = l.oid AND d.objsubid = 0 AND d.deptype = 'e'
              AND d.classid = CASE l.kind WHEN 'function' THEN 'pg_catalog.pg_proc' ELSE 'pg_catalog.pg_class' END::pg_catalog.regclass)
          OR EXISTS (SELECT FROM pg_catalog.aclexplode(coalesce(l.acl, CASE l.kind WHEN 'function' THEN pg_catalog.acldefault('f', l.owner)
              WHEN 'sequence' THEN pg_catalog.acldefault('s', l.owner) ELSE pg_catalog.acldefault('r', l.owner) END)) AS e
            WHERE e.grantee = 0 AND e.privilege_type = p)) AS spared
      FROM looked AS l WHERE l.whole AND NOT l.privileges <@ l.grantable) AS x
  GROUP BY x.schema, x.kind, x.missing, x.spared, x.owner_name, x.super
), groups AS MATERIALIZED (
  SELECT x.schema, x.kind, x.size, sum(x.size) OVER (ORDER BY x.size, x.schema, x.kind) <= {MOST} AS fits
  FROM (SELECT r.schema, r.kind, sum(r.size) AS size FROM refusing AS r GROUP BY r.schema, r.kind) AS x
), entries AS MATERIALIZED (
  SELECT g.kind, g.schema, g.oid, g.name, g.grantee, g.privilege, bool_or(g.ours) AS ours,
    min(g.grantor) FILTER (WHERE g.fixed) AS fixed, min(g.grantor) FILTER (WHERE g.fixed AND g.ours) AS stuck
  FROM (SELECT t.kind, t.schema, t.oid, t.name, e.grantee, e.privilege_type AS privilege, e.grantor, {OURS} AS ours,
      CASE WHEN e.grantor = t.owner AND o.mine THEN false
        WHEN e.grantor = u.oid THEN o.mine ELSE NOT pg_catalog.pg_has_role(e.grantor, u.become) END AS fixed
    FROM things AS t JOIN owners AS o USING (owner) CROSS JOIN us AS u CROSS JOIN LATERAL pg_catalog.aclexplode(t.acl) AS e
    JOIN ours AS r ON r.oid = e.grantee
    WHERE t.acl IS NOT NULL AND e.grantee <> t.owner) AS g
  GROUP BY 1, 2, 3, 4, 5, 6
), columns AS MATERIALIZED (
  SELECT x.grantee, x.role, t.schema, t.name, a.attname::text AS column, e.privilege_type AS privilege,
    min(e.grantor) FILTER (WHERE CASE WHEN e.grantor = t.owner AND o.mine THEN false
      WHEN e.grantor = u.oid THEN o.mine ELSE NOT pg_catalog.pg_has_role(e.grantor, u.become) END) AS fixed
  FROM (SELECT r.oid AS grantee, r.name AS role, d.objid, d.objsubid FROM ours AS r CROSS JOIN LATERAL (
      SELECT d.classid, d.objid, d.objsubid, d.dbid FROM pg_catalog.pg_shdepend AS d
      WHERE d.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND d.refobjid = r.oid OFFSET 0) AS d
    WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objsubid > 0
      AND d.dbid = (SELECT b.oid FROM pg_catalog.pg_database AS b WHERE b.datname = pg_catalog.current_database())) AS x
  JOIN things AS t ON t.oid = x.objid AND t.kind = 'table' AND t.owner <> x.grantee JOIN owners AS o ON o.owner = t.owner
  JOIN pg_catalog.pg_attribute AS a ON a.attrelid = x.objid AND a.attnum = x.objsubid
  CROSS JOIN us AS u CROSS JOIN LATERAL pg_catalog.aclexplode(a.attacl) AS e
  WHERE e.grantee = x.grantee GROUP BY 1, 2, 3, 4, 5, 6
), totals AS MATERIALIZED (
  SELECT t.kind, t.schema, count(*) AS total FROM things AS t GROUP BY 1, 2
), owned AS MATERIALIZED (
  SELECT t.kind, t.schema, t.owner AS grantee, count(*) AS owned, json_agg(t.name) AS names FROM things AS t JOIN ours AS r ON r.oid = t.owner GROUP BY 1, 2, 3
), sums AS MATERIALIZED (
  SELECT s.kind, s.schema, s.grantee, s.privilege, f.fixed, f.stuck, f.others, coalesce(f.count, 0) AS apart,
    s.held + coalesce(w.owned, 0) = t.total AND (f.kind IS NULL OR s.kind = 'schema' OR g.kind IS NOT NULL) AS on_all
  FROM (SELECT e.kind, e.schema, e.grantee, e.privilege, count(*) AS held FROM entries AS e GROUP BY 1, 2, 3, 4) AS s
  LEFT JOIN (SELECT e.kind, e.schema, e.grantee, e.privilege, count(*), json_agg(e.name) FILTER (WHERE NOT e.ours) AS others,
      json_object_agg(e.name, pg_catalog.pg_get_userbyid(e.fixed)::text) FILTER (WHERE e.fixed IS NOT NULL) AS fixed,
      json_object_agg(e.name, pg_catalog.pg_get_userbyid(e.stuck)::text) FILTER (WHERE e.stuck IS NOT NULL) AS stuck
    FROM entries AS e WHERE e.fixed IS NOT NULL OR NOT e.ours GROUP BY 1, 2, 3, 4) AS f USING (kind, schema, grantee, privilege)
  JOIN totals AS t USING (kind, schema) LEFT JOIN owned AS w USING (kind, schema, grantee)
  LEFT JOIN grouped AS g USING (kind, schema)
), parts AS MATERIALIZED (
  SELECT p.kind, p.schema, p.grantee, p.privilege, json_agg(p.name) AS names, count(*) FROM (
    SELECT e.kind, e.schema, e.grantee, e.privilege, e.name
    FROM entries AS e JOIN sums AS s USING (kind, schema, grantee, privilege) WHERE NOT s.on_all
    UNION ALL
    SELECT t.kind, t.schema, s.grantee, s.privilege, t.name
    FROM sums AS s JOIN things AS t ON t.kind = s.kind AND t.schema = s.schema AND t.owner = s.grantee WHERE NOT s.on_all
  ) AS p GROUP BY 1, 2, 3, 4
), defaults AS MATERIALIZED (
  SELECT r.oid AS grantee, r.name AS role, pg_catalog.pg_get_userbyid(d.defaclrole)::text AS owner,
    CASE d.defaclobjtype WHEN 'r' THEN 'table' WHEN 'S' THEN 'sequence' ELSE 'function' END AS kind,
    s.name AS schema, json_agg(DISTINCT e.privilege_type) AS privileges
  FROM pg_catalog.pg_default_acl AS d JOIN spaces AS s ON s.oid = d.defaclnamespace
  CROSS JOIN LATERAL pg_catalog.aclexplode(d.defaclacl) AS e JOIN ours AS r ON r.oid = e.grantee
  WHERE d.defaclobjtype IN ('r', 'S', 'f') AND e.grantee <> d.defaclrole
  GROUP BY r.oid, r.name, d.defaclrole, d.defaclobjtype, s.name
), roles AS MATERIALIZED (
  SELECT x.grantee AS oid, x.size, sum(x.size) OVER (ORDER BY x.size, x.grantee) <= {MOST} AS fits
  FROM (SELECT c.grantee, sum(c.size) AS size FROM (
      SELECT s.grantee, {ROW} + coalesce(octet_length(p.names::text) + {EACH} * p.count, 0)
        + coalesce(octet_length(w.names::text) + {EACH} * w.owned, 0) + 3 * {EACH} * s.apart
        + coalesce(octet_length(s.fixed::text), 0) + coalesce(octet_length(s.stuck::text), 0) + coalesce(octet_length(s.others::text), 0) AS size
      FROM sums AS s LEFT JOIN parts AS p USING (kind, schema, grantee, privilege) LEFT JOIN owned AS w USING (kind, schema, grantee)
      UNION ALL
      SELECT c.grantee, 2 * {ROW} FROM columns AS c
      UNION ALL
      SELECT d.grantee, 2 * {ROW} FROM defaults AS d) AS c GROUP BY c.grantee) AS x
)
SELECT json_build_object('what', 'object', 'kind', l.kind, 'schema', l.schema, 'name', l.name, 'owner', l.owner_name, 'super', l.super,
  'grantable', l.grantable, 'grantees', l.grantees) AS fact
FROM looked AS l WHERE l.named OR l.kind = 'schema'
UNION ALL
SELECT json_build_object('what', 'group', 'kind', g.kind, 'schema', g.schema, 'total', coalesce(l.total, 0),
  'grantees', coalesce(l.grantees, 0), 'name', l.name)
FROM grouped AS g JOIN spaces AS s ON s.name = g.schema
LEFT JOIN (SELECT x.schema, x.kind, count(*) AS total, max(x.grantees) AS grantees,
    (array_agg(x.name ORDER BY x.grantees DESC, x.name) FILTER (WHERE x.grantees > 0))[1] AS name
  FROM looked AS x WHERE x.whole GROUP BY 1, 2) AS l ON l.schema = g.schema AND l.kind = g.kind
UNION ALL
SELECT json_build_object('what', 'refusing', 'kind', r.kind, 'schema', r.schema, 'privileges', r.missing,
  'spared', r.spared, 'names', r.names, 'owner', r.owner_name, 'super', r.super)
FROM refusing AS r JOIN groups AS g USING (schema, kind) WHERE g.fits
UNION ALL
SELECT json_build_object('what', 'largeGroup', 'kind', g.kind, 'schema', g.schema) FROM groups AS g WHERE NOT g.fits
UNION ALL
SELECT json_build_object('what', 'largeRole', 'role', r.name) FROM roles AS x JOIN ours AS r ON r.oid = x.oid WHERE NOT x.fits
UNION ALL
SELECT json_build_object('what', 'signatures', 'schema', n.schema, 'name', n.name, 'names', to_json((array_agg(t.name ORDER BY t.name))[:20]))
FROM named AS n JOIN things AS t ON t.schema = n.schema AND t.kind = 'function'
  AND split_part(t.name, '(', 1) = split_part(n.name, '(', 1)
WHERE n.kind = 'function' AND NOT EXISTS (SELECT FROM looked AS l WHERE l.schema = n.schema AND l.kind = 'function' AND l.name = n.name)
GROUP BY n.schema, n.name
UNION ALL
SELECT json_build_object('what', 'speaker', 'owner', r.rolname::text, 'mine', pg_catalog.pg_has_role(r.oid, 'USAGE'), 'super', r.rolsuper)
FROM pg_catalog.pg_roles AS r WHERE r.rolname IN (SELECT a.name FROM speakers AS a)
UNION ALL
SELECT json_build_object('what', 'owned', 'role', r.name, 'kind', w.kind, 'schema', w.schema)
FROM owned AS w JOIN totals AS t USING (kind, schema) JOIN grouped AS g USING (kind, schema) JOIN ours AS r ON r.oid = w.grantee
WHERE w.owned = t.total
UNION ALL
SELECT json_build_object('what', 'held', 'role', r.name, 'kind', s.kind, 'schema', s.schema, 'privilege', s.privilege,
  'names', p.names, 'fixed', s.fixed, 'stuck', s.stuck, 'others', s.others, 'owned', w.names)
FROM sums AS s JOIN ours AS r ON r.oid = s.grantee JOIN roles AS x ON x.oid = s.grantee AND x.fits LEFT JOIN parts AS p USING (kind, schema, grantee, privilege)
LEFT JOIN owned AS w USING (kind, schema, grantee)
UNION ALL
SELECT json_build_object('what', 'column', 'role', c.role, 'schema', c.schema, 'name', c.name, 'column', c.column,
  'privilege', c.privilege, 'fixed', CASE WHEN c.fixed IS NOT NULL THEN pg_catalog.pg_get_userbyid(c.fixed)::text END)
FROM columns AS c JOIN roles AS x ON x.oid = c.grantee AND x.fits
UNION ALL
SELECT json_build_object('what', 'default', 'role', d.role, 'owner', d.owner, 'kind', d.kind, 'schema', d.schema, 'privileges', d.privileges)
FROM defaults AS d JOIN roles AS x ON x.oid = d.grantee AND x.fits";

/// What roles have, and what keeps a group from being granted on, takes so many bytes each in the
/// operator's memory at most: the smallest come first, and of those for which nothing is left it is only
/// said that they are too large.
pub(super) const MOST: usize = 5 * 1024 * 1024;

/// What a name and a row cost beside their own bytes.
const EACH: usize = 48;
const ROW: usize = 200;

/// What is there of that interest, and what these roles have in all of the database.
pub fn facts(roles: &BTreeSet<RoleName>, interest: &DatabaseInterest) -> String {
    let groups: Vec<&Group> = interest
        .groups
        .iter()
        .filter(|group| group.kind != Kind::Schema)
        .collect();
    let objects = &interest.objects;
    let of_objects = objects.iter().map(|object| object.group.schema.as_str());
    let schemas = interest.schemas();
    let kinds = |groups: &mut dyn Iterator<Item = &Group>| {
        let kinds: Vec<String> = groups.map(|group| group.kind.to_string()).collect();
        texts(kinds.iter().map(String::as_str))
    };
    let grouped = format!(
        "grouped (schema, kind) AS MATERIALIZED (SELECT * FROM unnest({}, {}))",
        texts(groups.iter().map(|group| group.schema.as_str())),
        kinds(&mut groups.iter().copied()),
    );
    let named = format!(
        "named (schema, kind, name) AS MATERIALIZED (SELECT * FROM unnest({}, {}, {}))",
        texts(of_objects),
        kinds(&mut objects.iter().map(|object| &object.group)),
        texts(objects.iter().map(|object| object.name.as_str())),
    );
    let roles = texts(roles.iter().map(RoleName::as_str));
    let speakers = texts(interest.owners.iter().map(RoleName::as_str));
    format!(
        "WITH ours AS MATERIALIZED (
  SELECT r.oid, r.rolname::text AS name FROM pg_catalog.pg_roles AS r WHERE r.rolname = ANY ({roles}::name[])
), wanted (name) AS MATERIALIZED (SELECT unnest({wanted})), speakers (name) AS MATERIALIZED (SELECT unnest({speakers}::name[])),
{grouped},
{named},
{SPACES}, {WORLD}, {FACTS}",
        FACTS = FACTS
            .replace("{OURS}", &ours_on_objects())
            .replace("{MOST}", &MOST.to_string())
            .replace("{EACH}", &EACH.to_string())
            .replace("{ROW}", &ROW.to_string()),
        wanted = texts(schemas.into_iter()),
    )
}

/// The same objects, of one schema only: for changes.
pub(super) fn world_of(schema: &str) -> String {
    format!(
        r"spaces AS MATERIALIZED (
  SELECT n.oid, n.nspname::text AS name, n.nspowner AS owner, n.nspacl AS acl FROM pg_catalog.pg_namespace AS n
  WHERE n.nspname = {}::name
), {WORLD}",
        literal(schema)
    )
}

/// Texts as SQL reads them.
pub(super) fn texts<'a>(items: impl Iterator<Item = &'a str>) -> String {
    let items: Vec<String> = items.map(literal).collect();
    format!("ARRAY[{}]::text[]", items.join(", "))
}

/// One row of the answer.
#[derive(Debug, Deserialize)]
#[serde(tag = "what", rename_all = "camelCase")]
enum Fact {
    Object {
        kind: Kind,
        schema: String,
        name: String,
        owner: String,
        #[serde(rename = "super", default)]
        is_super: bool,
        grantable: BTreeSet<Privilege>,
        grantees: u32,
    },
    Group {
        kind: Kind,
        schema: String,
        total: u32,
        grantees: u32,
        name: Option<String>,
    },
    Refusing(RefusingRow),
    Signatures {
        schema: String,
        name: String,
        names: BTreeSet<String>,
    },
    Speaker {
        owner: String,
        mine: bool,
        #[serde(rename = "super", default)]
        is_super: bool,
    },
    Owned {
        role: String,
        kind: Kind,
        schema: String,
    },
    Held(HeldRow),
    Column(ColumnRow),
    LargeRole {
        role: String,
    },
    LargeGroup {
        kind: Kind,
        schema: String,
    },
    Default {
        role: String,
        owner: String,
        kind: Kind,
        schema: String,
        privileges: BTreeSet<Privilege>,
    },
}

#[derive(Debug, Deserialize)]
struct RefusingRow {
    kind: Kind,
    schema: String,
    privileges: BTreeSet<Privilege>,
    #[serde(default)]
    spared: BTreeSet<Privilege>,
    names: BTreeSet<String>,
    owner: String,
    #[serde(rename = "super", default)]
    is_super: bool,
}

#[derive(Debug, Deserialize)]
struct HeldRow {
    role: String,
    kind: Kind,
    schema: String,
    privilege: Privilege,
    names: Option<BTreeSet<String>>,
    fixed: Option<BTreeMap<String, String>>,
    stuck: Option<BTreeMap<String, String>>,
    others: Option<BTreeSet<String>>,
    owned: Option<BTreeSet<String>>,
}

#[derive(Debug, Deserialize)]
struct ColumnRow {
    role: String,
    schema: String,
    name: String,
    column: String,
    privilege: Privilege,
    fixed: Option<String>,
}

/// What there was too much of to be told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct TooLarge {
    roles: BTreeSet<RoleName>,
    groups: BTreeSet<Group>,
}

impl TooLarge {
    /// What of that role's interest is not known therefore, in words.
    pub fn of(&self, role: &RoleName, interest: &DatabaseInterest) -> Option<String> {
        if self.roles.contains(role) {
            return Some(format!(
                "role {:?} has privileges on too many single objects: grant on whole groups of objects instead (all: true), or have them revoked",
                role.as_str()
            ));
        }
        let group = self.groups.iter().find(|of| interest.groups.contains(of))?;
        Some(format!(
            "schema {:?} has too many {}s on which the operator's administrator may grant nothing: name the objects instead of all: true, or have their owners give it the grant option",
            group.schema, group.kind
        ))
    }
}

/// The answer to [`facts`]; `None` if a row is not what was asked for.
pub fn catalog(
    roles: BTreeSet<RoleName>,
    asked: DatabaseInterest,
    answer: &Table,
) -> Option<(DatabaseCatalog, TooLarge)> {
    let mut catalog = DatabaseCatalog {
        roles,
        asked,
        ..DatabaseCatalog::default()
    };
    let mut large = TooLarge::default();
    for row in answer.rows() {
        match serde_json::from_str(row.get("fact")?).ok()? {
            Fact::LargeRole { role } => {
                large.roles.insert(RoleName::parse(&role).ok()?);
            }
            Fact::LargeGroup { kind, schema } => {
                large.groups.insert(Group { schema, kind });
            }
            fact => take(&mut catalog, fact)?,
        }
    }
    Some((catalog, large))
}

fn take(catalog: &mut DatabaseCatalog, fact: Fact) -> Option<()> {
    let parse = |name: String| RoleName::parse(&name).ok();
    match fact {
        Fact::Object {
            kind,
            schema,
            name,
            owner,
            is_super,
            grantable,
            grantees,
        } => {
            let owner = parse(owner)?;
            catalog.superusers.extend(is_super.then(|| owner.clone()));
            let facts = ObjectFacts {
                owner,
                grantable,
                grantees,
            };
            if kind == Kind::Schema {
                catalog.schemas.insert(schema.clone(), facts.clone());
            }
            let group = Group { schema, kind };
            let object = Object { group, name };
            if catalog.asked.objects.contains(&object) {
                catalog.objects.insert(object, facts);
            }
        }
        Fact::Group {
            kind,
            schema,
            total,
            grantees,
            name,
        } => {
            let group = catalog.groups.entry(Group { schema, kind }).or_default();
            group.total = total;
            group.most_grantees = name.map(|name| (name, grantees));
        }
        Fact::Refusing(row) => refuse(catalog, row)?,
        Fact::Signatures {
            schema,
            name,
            names,
        } => {
            let kind = Kind::Function;
            let group = Group { schema, kind };
            catalog.signatures.insert(Object { group, name }, names);
        }
        Fact::Speaker {
            owner,
            mine,
            is_super,
        } => {
            let owner = parse(owner)?;
            catalog.superusers.extend(is_super.then(|| owner.clone()));
            catalog.owners.insert(owner, mine);
        }
        Fact::Owned { role, kind, schema } => {
            let held = catalog.held.entry(parse(role)?).or_default();
            held.owned.insert(Group { schema, kind });
        }
        // See catalog().
        Fact::LargeRole { .. } | Fact::LargeGroup { .. } => {}
        Fact::Held(row) => hold(catalog, row)?,
        Fact::Column(row) => hold_column(catalog, row)?,
        Fact::Default {
            role,
            owner,
            kind,
            schema,
            privileges,
        } => {
            let of = DefaultsOf {
                owner: parse(owner)?,
                group: Group { schema, kind },
            };
            let held: &mut Held = catalog.held.entry(parse(role)?).or_default();
            let each = privileges
                .into_iter()
                .map(|privilege| (of.clone(), privilege));
            held.defaults.extend(each);
        }
    }
    Some(())
}

fn refuse(catalog: &mut DatabaseCatalog, row: RefusingRow) -> Option<()> {
    let (schema, kind) = (row.schema, row.kind);
    let group = catalog.groups.entry(Group { schema, kind }).or_default();
    let owner = RoleName::parse(&row.owner).ok()?;
    let superuser = row.is_super.then(|| owner.clone());
    catalog.superusers.extend(superuser);
    for privilege in row.privileges {
        if row.spared.contains(&privilege) {
            let spared = group.spared.entry(privilege).or_default();
            spared.extend(row.names.iter().cloned());
        }
        let refused = group.ungrantable.entry(privilege).or_default();
        let names = row.names.iter().cloned();
        refused.entry(owner.clone()).or_default().extend(names);
    }
    Some(())
}

fn hold(catalog: &mut DatabaseCatalog, row: HeldRow) -> Option<()> {
    let by = |grantors: Option<BTreeMap<String, String>>| {
        let grantors = grantors.unwrap_or_default().into_iter();
        let parsed = grantors.map(|(name, by)| Some((name, RoleName::parse(&by).ok()?)));
        parsed.collect::<Option<_>>()
    };
    let holding = Holding {
        on: row.names.map_or(On::All, On::Some),
        fixed: by(row.fixed)?,
        stuck: by(row.stuck)?,
        others: row.others.unwrap_or_default(),
        owned: row.owned.unwrap_or_default(),
    };
    let HeldRow { kind, schema, .. } = row;
    let held = catalog.held.entry(RoleName::parse(&row.role).ok()?);
    let slot = (Group { schema, kind }, row.privilege);
    held.or_default().objects.insert(slot, holding);
    Some(())
}

fn hold_column(catalog: &mut DatabaseCatalog, row: ColumnRow) -> Option<()> {
    let (schema, kind, name) = (row.schema, Kind::Table, row.name);
    let group = Group { schema, kind };
    let fixed = match row.fixed {
        Some(by) => Some(RoleName::parse(&by).ok()?),
        None => None,
    };
    let held = catalog.held.entry(RoleName::parse(&row.role).ok()?);
    held.or_default().columns.insert(HeldColumn {
        table: Object { group, name },
        privilege: row.privilege,
        column: row.column,
        fixed,
    });
    Some(())
}
