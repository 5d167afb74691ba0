//! The statements that change roles in database `postgres`, where the `pgaadauth_*` functions are, and
//! the quoting that all statements are built with. Must not send anything.

use postgres_protocol::escape::{escape_identifier, escape_literal};

use crate::model::{Basis, ObjectId, RoleName, marker};

use super::questions::BINDINGS;

/// SQLSTATE of our own: the server resolved another type of principal than declared.
pub const WRONG_TYPE: &str = "EP001";
/// SQLSTATE of our own: the object id is on another role too; DETAIL names it.
pub const ID_IN_USE: &str = "EP002";
/// SQLSTATE of our own: the server did not bind the new role to an identity, or to another one.
pub const NOT_BOUND: &str = "EP003";
/// SQLSTATE of our own: the role's comment lacks the text that makes it ours.
pub const NOT_OURS: &str = "EP004";

/// SQLSTATE of our own: the role's comment is not the one that the change was decided on.
pub const COMMENT_CHANGED: &str = "EP008";

/// Makes a role by the principal's name.
pub fn create_by_name(role: &RoleName, admin: bool, mfa: bool) -> String {
    let role = literal(role.as_str());
    format!("SELECT pg_catalog.pgaadauth_create_principal({role}, {admin}, {mfa})")
}

/// Makes a role for an object id.
pub fn create_by_id(role: &RoleName, id: &ObjectId, kind: &str, admin: bool, mfa: bool) -> String {
    let (role, id, kind) = (literal(role.as_str()), literal(id.as_str()), literal(kind));
    format!(
        "SELECT pg_catalog.pgaadauth_create_principal_with_oid({role}, {id}, {kind}, {admin}, {mfa})"
    )
}

/// After a creation, in the same transaction: rolls back unless the role is bound to the declared
/// type of principal (and to `id`, if that was given) and to nothing that another role has;
/// writes the marker with the resolved object id and the role's oid; and, from version 16 on, lets the server's
/// other administrators manage the role, without making them members that inherit.
pub fn settle(role: &RoleName, id: Option<&ObjectId>, kind: &str, marker: &str) -> String {
    let role = literal(role.as_str());
    let expected = id.map_or_else(|| "NULL".to_owned(), |id| literal(id.as_str()));
    // The whole pair: a name in the marker may read like the placeholder, but has its quotes escaped.
    let pair = |key: &str, value: &str| literal(&format!(r#""{key}":"{value}""#));
    let (kind, marker) = (literal(kind), literal(marker));
    let id_place = pair("objectId", marker::OBJECT_ID_PLACEHOLDER);
    let oid_place = pair("roleOid", marker::ROLE_OID_PLACEHOLDER);
    let (with_id, with_number) = (pair("objectId", "%s"), pair("roleOid", "%s"));
    do_block(&format!(
        r"DECLARE
  v_role constant text := {role};
  v_expected constant text := {expected};
  v_id text; v_kind text; v_other text; v_admins text[]; v_oid oid;
BEGIN
  WITH {BINDINGS} SELECT b.oid, b.id, b.kind,
    (SELECT o.name FROM bound AS o WHERE o.id = b.id AND o.oid <> b.oid LIMIT 1),
    (SELECT array_agg(o.name) FROM bound AS o WHERE o.admin AND o.name NOT IN (v_role, session_user::text))
    INTO v_oid, v_id, v_kind, v_other, v_admins FROM bound AS b WHERE b.name = v_role;
  IF v_id IS NULL OR v_id <> coalesce(v_expected, v_id) THEN
    RAISE EXCEPTION USING ERRCODE = '{NOT_BOUND}',
      MESSAGE = 'the new role was bound to ' || coalesce('object id ' || v_id, 'no identity');
  END IF;
  IF v_kind <> {kind} THEN
    RAISE EXCEPTION USING ERRCODE = '{WRONG_TYPE}', MESSAGE = 'the principal is of another type', DETAIL = v_kind;
  END IF;
  IF v_other IS NOT NULL THEN
    RAISE EXCEPTION USING ERRCODE = '{ID_IN_USE}', MESSAGE = 'object id ' || v_id || ' is already used', DETAIL = v_other;
  END IF;
  EXECUTE format('COMMENT ON ROLE %I IS %L', v_role, 
    replace(replace({marker}, {id_place}, format({with_id}, v_id)), {oid_place}, format({with_number}, v_oid)));
  IF pg_catalog.current_setting('server_version_num')::int >= 160000 THEN
    FOREACH v_other IN ARRAY coalesce(v_admins, ARRAY[]::text[]) LOOP
      BEGIN
        EXECUTE format('GRANT %I TO %I WITH ADMIN TRUE, INHERIT FALSE, SET FALSE', v_role, v_other);
      EXCEPTION WHEN OTHERS THEN
        RAISE NOTICE 'not manageable by %: %', v_other, SQLERRM;
      END;
    END LOOP;
  END IF;
END"
    ))
}

/// Binds a role to an identity; `None` takes the binding away.
pub fn label(role: &RoleName, label: Option<&str>) -> String {
    let role = identifier(role);
    let label = label.map_or_else(|| "NULL".to_owned(), literal);
    format!("SECURITY LABEL FOR \"pgaadauth\" ON ROLE {role} IS {label}")
}

/// The text of a label, as the documentation writes it.
pub fn label_text(id: &ObjectId, kind: &str, admin: bool, mfa: bool) -> String {
    let admin = if admin { ",admin" } else { "" };
    let mfa = if mfa { ",mfa" } else { "" };
    format!("aadauth,oid={id},type={kind}{admin}{mfa}")
}

/// Sets a role's comment.
pub fn comment(role: &RoleName, text: &str) -> String {
    format!("COMMENT ON ROLE {} IS {}", identifier(role), literal(text))
}

/// Takes a role's password away.
pub fn forget_password(role: &RoleName) -> String {
    format!("ALTER ROLE {} PASSWORD NULL", identifier(role))
}

/// Lets a role sign in.
pub fn open(role: &RoleName) -> String {
    format!("ALTER ROLE {} LOGIN", identifier(role))
}

/// Closes a role to sign-ins and notes in its marker that we did, if it exists and its comment has
/// `ours`; raises if it is not ours. One that somebody else closed stays theirs.
pub fn close(role: &RoleName, ours: &str) -> String {
    let closed = literal(marker::CLOSED);
    // A blank at the end does not end a marker.
    let action = format!(
        "IF v_login THEN
    EXECUTE format('ALTER ROLE %I NOLOGIN', v_role);
    v_comment := rtrim(v_comment, E' \\t\\r\\n');
    IF right(v_comment, length({closed})) <> {closed} THEN
      EXECUTE format('COMMENT ON ROLE %I IS %L', v_role, left(v_comment, -1) || {closed});
    END IF;
  END IF;"
    );
    only_if_ours(role, ours, &action)
}

/// Drops a role, if it exists and its comment has `ours`; raises if it is not ours.
pub fn drop_role(role: &RoleName, ours: &str) -> String {
    only_if_ours(role, ours, "EXECUTE format('DROP ROLE %I', v_role);")
}

/// An action on the role `v_role`, if its comment has `ours`; raises if it is not ours.
pub(super) fn only_if_ours(role: &RoleName, ours: &str, action: &str) -> String {
    let (role, ours) = (literal(role.as_str()), literal(ours));
    do_block(&format!(
        r"DECLARE
  v_role constant text := {role};
  v_login boolean; v_comment text;
BEGIN
  SELECT r.rolcanlogin, coalesce(d.description, '') INTO v_login, v_comment FROM pg_catalog.pg_roles AS r
  LEFT JOIN pg_catalog.pg_shdescription AS d
    ON d.objoid = r.oid AND d.classoid = 'pg_catalog.pg_authid'::pg_catalog.regclass
  WHERE r.rolname = v_role::name;
  IF NOT FOUND THEN RETURN; END IF;
  IF pg_catalog.strpos(v_comment, {ours}) = 0 THEN
    RAISE EXCEPTION USING ERRCODE = '{NOT_OURS}', MESSAGE = 'the comment of the role is not our marker';
  END IF;
  {action}
END"
    ))
}

/// Raises if the comment of a role is not the one that what follows was decided on. Works in each database.
pub fn only_on(role: &RoleName, basis: &Basis) -> Option<String> {
    let Basis::Comment(md5) = basis else {
        return None;
    };
    let role = literal(role.as_str());
    let expected = md5
        .as_ref()
        .map_or_else(|| "NULL".to_owned(), |md5| literal(md5));
    Some(do_block(&format!(
        r"BEGIN
  IF (SELECT pg_catalog.md5(d.description) FROM pg_catalog.pg_roles AS r JOIN pg_catalog.pg_shdescription AS d
      ON d.objoid = r.oid AND d.classoid = 'pg_catalog.pg_authid'::pg_catalog.regclass
      WHERE r.rolname = {role}::name) IS DISTINCT FROM {expected} THEN
    RAISE EXCEPTION USING ERRCODE = '{COMMENT_CHANGED}', MESSAGE = 'the comment of the role was changed meanwhile';
  END IF;
END"
    )))
}

/// How many sessions a role has: one row.
pub fn sessions(role: &RoleName) -> String {
    let role = literal(role.as_str());
    format!(
        "SELECT count(*) AS sessions FROM pg_catalog.pg_stat_activity AS a \
JOIN pg_catalog.pg_roles AS r ON r.oid = a.usesysid WHERE r.rolname = {role}::name"
    )
}

/// What hangs on a role, by database: one row for each database and sort. Default privileges and user
/// mappings are no data, though the role counts as their owner.
pub fn dependencies(role: &RoleName) -> String {
    let role = literal(role.as_str());
    format!(
        "SELECT coalesce(db.datname::text, '') AS database, s.deptype = 'o' AND s.classid NOT IN \
('pg_catalog.pg_default_acl'::pg_catalog.regclass, 'pg_catalog.pg_user_mapping'::pg_catalog.regclass) AS owned, count(*) AS objects \
FROM pg_catalog.pg_shdepend AS s JOIN pg_catalog.pg_roles AS r ON r.oid = s.refobjid \
LEFT JOIN pg_catalog.pg_database AS db ON db.oid = s.dbid \
WHERE s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND r.rolname = {role}::name \
GROUP BY 1, 2 ORDER BY 2 DESC, 1"
    )
}

/// One message, which is one transaction.
pub fn message(statements: &[String]) -> String {
    statements.join(";\n")
}

/// A name as SQL reads it.
pub fn identifier(role: &RoleName) -> String {
    escape_identifier(role.as_str())
}

/// A text as SQL reads it, whatever `standard_conforming_strings` says.
pub fn literal(text: &str) -> String {
    // Where there is a backslash, escape_literal begins with a space before its E.
    escape_literal(text).trim_start().to_owned()
}

fn do_block(body: &str) -> String {
    format!("DO {}", literal(body))
}

/// An array of texts as SQL reads it.
pub fn array<'a>(items: impl Iterator<Item = &'a str>, of: &str) -> String {
    let items: Vec<String> = items.map(literal).collect();
    format!("ARRAY[{}]::{of}[]", items.join(", "))
}
