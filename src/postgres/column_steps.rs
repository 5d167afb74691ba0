//! Privileges on single columns as statements: kept by a REVOKE on their table, and revoked. Must not send
//! anything, nor decide what changes.

use crate::model::{Group, Kind, RoleName};

use super::privilege_steps::{TARGET, block};
use super::privileges_sql::world_of;
use super::sql::{identifier, literal};

/// What there is on columns of the tables of a REVOKE: that takes it, too. `$role` and `$name`: the role as
/// a literal, and as an identifier in a literal.
const COLUMNS: &str = "SELECT a.attrelid AS rel, a.attnum::int AS num, e.grantor, e.privilege_type AS privilege, e.is_grantable AS option,
        pg_catalog.format('%I.%I', n.nspname, k.relname) AS target, pg_catalog.quote_ident(a.attname) AS name
      FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_class AS k ON k.oid = a.attrelid
      JOIN pg_catalog.pg_namespace AS n ON n.oid = k.relnamespace CROSS JOIN LATERAL pg_catalog.aclexplode(a.attacl) AS e
      JOIN pg_catalog.pg_roles AS r ON r.oid = e.grantee AND r.rolname = $role::name
      WHERE a.attrelid = ANY (v.oids) AND a.attacl IS NOT NULL";

/// What a REVOKE on tables does before and after, so that it takes nothing on columns: gives that back,
/// as the same grantor and in the same transaction, or fails.
pub(super) fn kept(kind: Kind, role: &str, name: &str) -> [String; 3] {
    if kind != Kind::Table {
        return [const { String::new() }; 3];
    }
    let columns = COLUMNS.replace("$role", role);
    let lost = format!(
        "SELECT x.* FROM pg_catalog.jsonb_to_recordset(v_columns)
      AS x(rel oid, num int, grantor oid, privilege text, option boolean, target text, name text)
      WHERE NOT EXISTS (SELECT FROM ({columns}) AS y WHERE (y.rel, y.num, y.grantor, y.privilege) = (x.rel, x.num, x.grantor, x.privilege)
        AND y.option >= x.option)"
    );
    let before = format!(
        "SELECT pg_catalog.jsonb_agg(pg_catalog.to_jsonb(x)) INTO v_columns FROM ({columns}) AS x;\n    "
    );
    let after = format!(
        r"    FOR v_lost IN {lost} LOOP
      EXECUTE pg_catalog.format('GRANT %s (%s) ON TABLE %s TO ', v_lost.privilege, v_lost.name, v_lost.target) || {name}
        || CASE WHEN v_lost.option THEN ' WITH GRANT OPTION' ELSE '' END;
    END LOOP;
    IF EXISTS ({lost}) THEN
      RAISE EXCEPTION USING ERRCODE = '42501',
        MESSAGE = 'privileges on columns that others granted would go with those on the table, and cannot be given back';
    END IF;
"
    );
    [" v_columns jsonb; v_lost record;".to_owned(), before, after]
}

/// Revokes all that there is on columns of one table, as each grantor for whom we can.
pub(super) fn revoke_columns(role: &RoleName, group: &Group, table: &str) -> String {
    let (world, text) = (world_of(&group.schema), literal(role.as_str()));
    let (table, name) = (literal(table), literal(&identifier(role)));
    block(&format!(
        r"DECLARE v record; v_us constant name := current_user;
BEGIN
  FOR v IN WITH {world}, given AS MATERIALIZED (
    SELECT {TARGET}, e.privilege_type || ' (' || pg_catalog.quote_ident(a.attname) || ')' AS what, e.grantor,
      (e.grantor = t.owner AND o.mine) OR (e.grantor = u.oid AND NOT o.mine) AS plain,
      e.grantor <> u.oid AND pg_catalog.pg_has_role(e.grantor, u.become) AS possible
    FROM things AS t JOIN owners AS o USING (owner) CROSS JOIN us AS u
    JOIN pg_catalog.pg_roles AS r ON r.rolname = {text}::name
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = t.oid
    CROSS JOIN LATERAL pg_catalog.aclexplode(a.attacl) AS e
    WHERE t.kind = 'table' AND t.name = {table} AND t.owner <> r.oid AND e.grantee = r.oid AND a.attacl IS NOT NULL
  )
  SELECT CASE WHEN NOT g.plain THEN pg_catalog.pg_get_userbyid(g.grantor) END AS grantor, g.target, string_agg(g.what, ', ') AS what
  FROM given AS g WHERE g.plain OR g.possible GROUP BY 1, 2
  LOOP
    IF v.grantor IS NOT NULL THEN EXECUTE pg_catalog.format('SET LOCAL ROLE %I', v.grantor); END IF;
    EXECUTE 'REVOKE ' || v.what || ' ON TABLE ' || v.target || ' FROM ' || {name};
    IF v.grantor IS NOT NULL THEN EXECUTE pg_catalog.format('SET LOCAL ROLE %I', v_us); END IF;
  END LOOP;
END"
    ))
}
