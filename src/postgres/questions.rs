//! The questions to database `postgres` about the server, its roles and its databases from outside.
//! Their rows do not grow with what is not ours. Must not send anything.

use crate::model::{ObjectId, RoleName, Subjects, marker};

use super::privileges_sql::{by_admin, ours};
use super::sql::{array, literal, message};

/// Facts of the server itself: one row.
pub const SERVER: &str = "SELECT pg_catalog.current_setting('server_version') AS version, \
pg_catalog.current_setting('server_version_num') AS version_num, \
session_user::text AS administrator, \
(pg_catalog.pg_is_in_recovery() OR pg_catalog.current_setting('transaction_read_only') = 'on') AS read_only, \
pg_catalog.lower(coalesce(pg_catalog.current_setting('pgaadauth.enable_group_sync', true), 'off')) \
IN ('on', 'true', 'yes', '1') AS group_sync, \
(SELECT jsonb_build_object('free', coalesce(jsonb_agg(lower(s.name)) FILTER (WHERE s.context = 'user'), '[]'), \
'bound', coalesce(jsonb_agg(lower(s.name)) FILTER (WHERE s.context <> 'user'), '[]')) \
FROM pg_catalog.pg_settings AS s) AS parameters";

/// The server's Entra administrators: one row each. With [`SERVER`] and [`unmanaged`] all that is asked
/// before a session serves: what it costs does not depend on what roles have.
pub fn administrators() -> String {
    format!(
        "WITH {BINDINGS} SELECT b.name AS administrator_name, b.id AS administrator_id FROM bound AS b WHERE b.admin"
    )
}

/// Common table expressions that end in `bound`: every role with an Entra binding. The listing is
/// the truth; a labelled role that it misses is taken from its labels. The listing's columns are
/// renamed by position, because servers call the first one `rolname` or `rolename`.
pub const BINDINGS: &str = r"listed AS MATERIALIZED (
  SELECT p.name::text AS name, pg_catalog.lower(p.kind::text) AS kind, pg_catalog.lower(p.oid::text) AS id,
    p.mfa::text IN ('1', 't', 'true') AS mfa, p.admin::text IN ('1', 't', 'true') AS admin
  FROM pg_catalog.pgaadauth_list_principals(false) AS p(name, kind, oid, tenant, mfa, admin)
), labels AS MATERIALIZED (
  SELECT l.objoid AS oid, max(l.label) FILTER (WHERE l.provider = 'pgaadauth') AS given,
    max(l.label) FILTER (WHERE l.provider = 'pgaadauth-int') AS resolved
  FROM pg_catalog.pg_shseclabel AS l
  WHERE l.classoid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND l.provider IN ('pgaadauth', 'pgaadauth-int')
  GROUP BY l.objoid HAVING bool_or(l.provider = 'pgaadauth')
), bound AS MATERIALIZED (
  SELECT r.oid, r.rolname::text AS name,
    coalesce(nullif(p.id, ''), pg_catalog.lower(substring(l.resolved FROM 'oid=([0-9A-Fa-f-]{36})')),
      pg_catalog.lower(substring(l.given FROM 'oid=([0-9A-Fa-f-]{36})'))) AS id,
    coalesce(nullif(p.kind, ''), substring(l.resolved FROM 'type=([a-z]+)'),
      substring(l.given FROM 'type=([a-z]+)'), '') AS kind,
    coalesce(p.admin, l.given ~ '(^|,)admin(,|$)', false) AS admin,
    coalesce(p.mfa, l.given ~ '(^|,)mfa(,|$)', false) AS mfa
  FROM pg_catalog.pg_roles AS r
  LEFT JOIN listed AS p ON p.name = r.rolname::text
  LEFT JOIN labels AS l ON l.oid = r.oid
  WHERE p.name IS NOT NULL OR l.given IS NOT NULL
)";

/// Up to version 15 a membership has one row, CREATEROLE manages it, and only ADMIN is an option.
const OLD_MEMBERSHIPS: &str = "pg_catalog.current_setting('server_version_num')::int < 160000";

/// No setting that the schema allows is longer: 1,024 characters of up to 4 bytes. A role may give itself
/// settings of many megabytes, and what all roles have comes in one answer.
const LONGEST_SETTING: usize = 4 * 1024;

/// Stands for a longer value. It has more characters than the schema allows, so that it equals no value
/// that is declared.
const LONG_SETTING: &str = "pg_catalog.repeat('.', 1025)";

/// So many settings of a role are read. An object declares up to 64.
const MOST_SETTINGS: usize = 1_000;

/// Of a longer comment only the beginning is read. One of ours has what its object names, and the names of
/// the objects on which a privilege was there before.
const LONGEST_COMMENT: usize = 1024 * 1024;

/// The same for a role that no principal wants: only whose it is matters.
const LONGEST_FOREIGN_COMMENT: usize = 64 * 1024;

/// So many characters of a longer one: enough to see that it is a marker, and whose.
const CUT_COMMENT: usize = 600;

/// All comments of one answer together, and all that roles have (memberships, settings, privileges on
/// databases), have so many bytes at most: the roles that have least come first, and of those for whom
/// nothing is left it is only said how much they have.
pub(super) const MOST: usize = 5 * 1024 * 1024;

/// So many pairs of a target and a role that it is a member of are looked at; a loop that is not seen is
/// refused by the server.
const MOST_PAIRS: usize = 20_000;

/// Everything about these subjects: roles always, the rest where there are any.
pub fn facts(subjects: &Subjects) -> String {
    let mut questions = vec![roles(subjects)];
    if !subjects.targets.is_empty() {
        questions.push(targets(subjects));
    }
    if !subjects.databases.is_empty() {
        questions.push(databases(subjects));
    }
    message(&questions)
}

/// The facts of one role, and of those that share its object id.
pub fn facts_of(role: &RoleName) -> String {
    roles(&Subjects::role(role))
}

/// The facts of the roles in question, and of all roles that share an object id with them or are Entra
/// administrators. Which roles are
/// administrative is found from above, once: each role below one of the server's own is looked at once,
/// however many ways lead to it.
fn roles(subjects: &Subjects) -> String {
    let names = array(subjects.names.iter().map(RoleName::as_str), "name");
    let ids = array(subjects.ids.iter().map(ObjectId::as_str), "text");
    format!(
        r"WITH RECURSIVE {BINDINGS}, wanted AS MATERIALIZED (
  SELECT r.oid FROM pg_catalog.pg_roles AS r WHERE r.rolname = ANY ({names})
), ids AS MATERIALIZED (
  SELECT unnest({ids}) AS id UNION SELECT b.id FROM bound AS b JOIN wanted AS w ON w.oid = b.oid
), chosen AS MATERIALIZED (
  SELECT w.oid, true AS wanted FROM wanted AS w
  UNION ALL
  SELECT b.oid, false FROM bound AS b
  WHERE (b.admin OR b.id IN (SELECT i.id FROM ids AS i)) AND b.oid NOT IN (SELECT w.oid FROM wanted AS w)
), below (oid) AS (
  SELECT r.oid FROM pg_catalog.pg_roles AS r
  WHERE r.rolname IN ('azure_pg_admin', 'azuresu') OR pg_catalog.starts_with(r.rolname::text, 'pg_')
  UNION
  SELECT m.member FROM below JOIN pg_catalog.pg_auth_members AS m ON m.roleid = below.oid
), administrative AS MATERIALIZED (
  SELECT m.member AS oid, jsonb_agg(DISTINCT g.rolname) AS items
  FROM pg_catalog.pg_auth_members AS m JOIN wanted AS w ON w.oid = m.member JOIN below ON below.oid = m.roleid
  JOIN pg_catalog.pg_roles AS g ON g.oid = m.roleid GROUP BY m.member
), {RIGHTS}, sized AS MATERIALIZED (
  SELECT c.oid, c.wanted, administrative.items AS administrative, settings.items AS settings,
    memberships.items AS memberships, held.items AS databases, held.others AS others,
    octet_length(d.description) AS commented,
    octet_length(d.description) <= CASE WHEN c.wanted THEN {LONGEST_COMMENT} ELSE {LONGEST_FOREIGN_COMMENT} END AS short,
    coalesce(octet_length(administrative.items::text), 0) + coalesce(octet_length(settings.items::text), 0)
      + coalesce(octet_length(memberships.items::text), 0) + coalesce(octet_length(held.items::text), 0)
      + coalesce(octet_length(held.others::text), 0) AS size
  FROM chosen AS c
  LEFT JOIN administrative ON administrative.oid = c.oid
  LEFT JOIN settings ON settings.oid = c.oid
  LEFT JOIN memberships ON memberships.oid = c.oid
  LEFT JOIN held ON held.oid = c.oid
  LEFT JOIN pg_catalog.pg_shdescription AS d
    ON d.objoid = c.oid AND d.classoid = 'pg_catalog.pg_authid'::pg_catalog.regclass
), limited AS MATERIALIZED (
  SELECT s.*, s.short AND sum(s.commented) OVER (ORDER BY NOT s.short, s.commented, s.oid) <= {MOST} AS whole,
    sum(s.size) OVER (ORDER BY s.size, s.oid) <= {MOST} AS fits
  FROM sized AS s
)
SELECT r.rolname AS name, r.oid, r.rolcanlogin AS can_login, c.wanted,
  (r.rolsuper OR r.rolreplication OR r.rolbypassrls) AS privileged,
  r.rolconnlimit AS connection_limit, r.rolcreatedb AS create_db, r.rolcreaterole AS create_role, r.rolinherit AS inherit,
  CASE WHEN c.fits THEN c.administrative END AS administrative, CASE WHEN c.fits THEN c.settings END AS settings,
  CASE WHEN c.fits THEN c.memberships END AS memberships, CASE WHEN c.fits THEN c.databases END AS databases,
  CASE WHEN c.fits THEN c.others END AS databases_of_others, CASE WHEN NOT c.fits THEN c.size END AS too_large,
  CASE WHEN c.whole THEN d.description ELSE pg_catalog.substr(d.description, 1, {CUT_COMMENT}) END AS comment,
  CASE WHEN NOT c.whole THEN c.commented END AS comment_cut,
  CASE WHEN c.wanted AND c.whole THEN pg_catalog.md5(d.description) END AS comment_md5,
  b.id, b.kind, b.admin, b.mfa
FROM limited AS c
JOIN pg_catalog.pg_roles AS r ON r.oid = c.oid
LEFT JOIN bound AS b ON b.oid = c.oid
LEFT JOIN pg_catalog.pg_shdescription AS d
  ON d.objoid = r.oid AND d.classoid = 'pg_catalog.pg_authid'::pg_catalog.regclass",
        RIGHTS = rights(),
    )
}

/// Common table expressions about the roles in `wanted`, each role's in one JSON text: its settings for
/// all databases, its memberships, and what it has directly on databases themselves.
fn rights() -> String {
    format!(
        r"me AS MATERIALIZED (
  SELECT r.oid FROM pg_catalog.pg_roles AS r WHERE r.rolname = session_user::name
), administered AS MATERIALIZED (
  SELECT a.roleid FROM pg_catalog.pg_auth_members AS a JOIN me ON me.oid = a.member WHERE a.admin_option
), given_on AS MATERIALIZED (
  SELECT d.oid, e.privilege_type FROM pg_catalog.pg_database AS d CROSS JOIN LATERAL pg_catalog.aclexplode(d.datacl) AS e
  JOIN me ON me.oid = e.grantee WHERE e.is_grantable
), settings AS MATERIALIZED (
  SELECT s.setrole AS oid,
    jsonb_object_agg(lower(split_part(c, '=', 1)), CASE WHEN octet_length(c) - strpos(c, '=') > {LONGEST_SETTING}
      THEN {LONG_SETTING} ELSE substr(c, strpos(c, '=') + 1) END) AS items
  FROM pg_catalog.pg_db_role_setting AS s JOIN wanted AS w ON w.oid = s.setrole,
    unnest(s.setconfig[:{MOST_SETTINGS}]) AS c
  WHERE s.setdatabase = 0 GROUP BY s.setrole
), memberships AS MATERIALIZED (
  SELECT m.member AS oid, jsonb_agg(jsonb_build_object(
    'role', g.rolname, 'grantor', pg_catalog.pg_get_userbyid(m.grantor), 'admin', m.admin_option,
    'inherit', coalesce((to_jsonb(m) ->> 'inherit_option')::boolean, true),
    'set', coalesce((to_jsonb(m) ->> 'set_option')::boolean, true),
    'revocable', {OLD_MEMBERSHIPS} OR pg_catalog.pg_has_role(m.grantor, 'USAGE'),
    'ours', {OLD_MEMBERSHIPS} OR m.grantor = (SELECT me.oid FROM me) OR (pg_catalog.pg_has_role(m.grantor, 'USAGE')
      AND m.roleid NOT IN (SELECT a.roleid FROM administered AS a)),
    'by_admin', {by_admin}, 'by_server', m.grantor = 10)) AS items
  FROM pg_catalog.pg_auth_members AS m JOIN wanted AS w ON w.oid = m.member
  JOIN pg_catalog.pg_roles AS g ON g.oid = m.roleid GROUP BY m.member
), held AS MATERIALIZED (
  SELECT x.oid, jsonb_object_agg(x.name, x.items) AS items,
    jsonb_object_agg(x.name, x.others) FILTER (WHERE x.others IS NOT NULL) AS others FROM (
    SELECT g.oid, g.name, jsonb_agg(g.privilege) AS items,
      jsonb_object_agg(g.privilege, jsonb_build_object('grantor', g.other, 'only', NOT g.ours, 'admin', g.admin)) FILTER (WHERE g.other IS NOT NULL) AS others
    FROM (SELECT e.grantee AS oid, d.datname AS name, e.privilege_type AS privilege, bool_or(c.ours) AS ours,
        min(pg_catalog.pg_get_userbyid(e.grantor)::text) FILTER (WHERE NOT c.ours) AS other,
        min(pg_catalog.pg_get_userbyid(e.grantor)::text) FILTER (WHERE NOT c.ours AND {admin_gave}) AS admin
      FROM pg_catalog.pg_database AS d
      CROSS JOIN LATERAL pg_catalog.aclexplode(coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))) AS e
      JOIN wanted AS w ON w.oid = e.grantee
      CROSS JOIN LATERAL (SELECT e.grantee = d.datdba OR {ours} AS ours) AS c
      GROUP BY 1, 2, 3) AS g GROUP BY g.oid, g.name) AS x GROUP BY x.oid
)",
        ours = ours(
            "pg_catalog.pg_has_role(d.datdba, 'USAGE')",
            "(SELECT me.oid FROM me)",
            "d.datdba",
            "(d.oid, e.privilege_type) IN (SELECT g.oid, g.privilege_type FROM given_on AS g)"
        ),
        by_admin = by_admin("m.grantor"),
        admin_gave = by_admin("e.grantor"),
    )
}

/// Roles that others may become members of. On whose behalf the server would grant from version 16 on
/// is decided as it does itself: the ADMIN OPTION of a role whose privileges we have. Of what they are
/// members of only the roles in question matter.
fn targets(subjects: &Subjects) -> String {
    let names = array(subjects.targets.iter().map(RoleName::as_str), "name");
    let asking = array(subjects.names.iter().map(RoleName::as_str), "name");
    format!(
        r"WITH RECURSIVE wanted AS MATERIALIZED (
  SELECT r.oid, r.rolname, r.rolsuper FROM pg_catalog.pg_roles AS r WHERE r.rolname = ANY ({names})
), reach (member, granted) AS (
  SELECT m.member, m.roleid FROM pg_catalog.pg_auth_members AS m JOIN wanted AS w ON w.oid = m.member
  UNION
  SELECT reach.member, m.roleid FROM reach JOIN pg_catalog.pg_auth_members AS m ON m.member = reach.granted
), loops AS MATERIALIZED (
  SELECT x.member AS oid, jsonb_agg(DISTINCT up.rolname) AS items
  FROM (SELECT reach.member, reach.granted FROM reach LIMIT {MOST_PAIRS}) AS x
  JOIN pg_catalog.pg_roles AS up ON up.oid = x.granted WHERE up.rolname = ANY ({asking}) GROUP BY x.member
), admins AS MATERIALIZED (
  SELECT p.name::text AS name FROM pg_catalog.pgaadauth_list_principals(true) AS p(name, kind, oid, tenant, mfa, admin)
), labelled AS MATERIALIZED (
  SELECT l.objoid AS oid FROM pg_catalog.pg_shseclabel AS l
  WHERE l.classoid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND l.provider = 'pgaadauth' AND l.label ~ '(^|,)admin(,|$)'
), giving AS MATERIALIZED (
  SELECT DISTINCT a.roleid AS oid FROM pg_catalog.pg_auth_members AS a JOIN wanted AS w ON w.oid = a.roleid
  WHERE a.admin_option AND pg_catalog.pg_has_role(a.member, 'USAGE')
)
SELECT w.rolname AS target,
  (w.rolsuper OR w.rolname = 'azuresu' OR w.rolname = session_user::name OR w.rolname::text IN (SELECT a.name FROM admins AS a)
    OR w.oid IN (SELECT l.oid FROM labelled AS l)) AS administrator,
  (w.rolname NOT IN ('azure_pg_admin', 'azuresu') AND (me.rolsuper OR (NOT w.rolsuper AND
    ({OLD_MEMBERSHIPS} AND me.rolcreaterole OR w.oid IN (SELECT g.oid FROM giving AS g))))) AS grantable,
  loops.items AS member_of
FROM wanted AS w JOIN pg_catalog.pg_roles AS me ON me.rolname = session_user::name
LEFT JOIN loops ON loops.oid = w.oid"
    )
}

/// Databases as they look from outside.
fn databases(subjects: &Subjects) -> String {
    let names = array(subjects.databases.iter().map(String::as_str), "name");
    format!(
        r"SELECT d.datname AS database, pg_catalog.pg_get_userbyid(d.datdba) AS owner,
  (d.datallowconn AND d.datconnlimit <> -2 AND pg_catalog.has_database_privilege(d.oid, 'CONNECT')) AS connectable,
  d.datallowconn AS open,
  pg_catalog.has_database_privilege(d.oid, 'CREATE WITH GRANT OPTION') AS grants_create,
  pg_catalog.has_database_privilege(d.oid, 'CONNECT WITH GRANT OPTION') AS grants_connect,
  pg_catalog.has_database_privilege(d.oid, 'TEMPORARY WITH GRANT OPTION') AS grants_temporary,
  (SELECT count(DISTINCT a.grantee) FROM pg_catalog.aclexplode(d.datacl) AS a WHERE a.grantee <> 0) AS grantees
FROM pg_catalog.pg_database AS d WHERE d.datname = ANY ({names})"
    )
}

/// Roles that no operator manages: one row. While group sync is on, those that are members of a group's
/// role are taken for the ones that the server makes: nothing else tells them apart.
pub fn unmanaged() -> String {
    let prefix = literal(marker::PREFIX);
    format!(
        r"WITH {BINDINGS}, loose AS MATERIALIZED (
  SELECT b.name, b.kind <> 'group' AND pg_catalog.lower(coalesce(
      pg_catalog.current_setting('pgaadauth.enable_group_sync', true), 'off')) IN ('on', 'true', 'yes', '1')
    AND EXISTS (SELECT FROM pg_catalog.pg_auth_members AS m JOIN bound AS g ON g.oid = m.roleid
      WHERE m.member = b.oid AND g.kind = 'group') AS synced
  FROM bound AS b LEFT JOIN pg_catalog.pg_shdescription AS d
    ON d.objoid = b.oid AND d.classoid = 'pg_catalog.pg_authid'::pg_catalog.regclass
  WHERE NOT b.admin AND b.name <> session_user::text
    AND NOT coalesce(pg_catalog.starts_with(pg_catalog.substr(d.description, 1, {CUT_COMMENT}), {prefix}), false)
)
SELECT count(*) FILTER (WHERE NOT synced) AS unmanaged, count(*) FILTER (WHERE synced) AS group_members,
  (SELECT jsonb_agg(f.name ORDER BY f.name) FROM (
    SELECT name FROM loose WHERE NOT synced ORDER BY name LIMIT 20) AS f) AS names
FROM loose"
    )
}
