//! The statements that clear a role out of a database. They are driven by what `pg_shdepend` names,
//! so they read nothing else. Must not send anything; no statement here drops anything.

use crate::model::RoleName;

use super::sql::{literal, only_if_ours};

/// SQLSTATE of our own: who shall get what the role owns does not exist; DETAIL names it.
pub const NO_HEIR: &str = "EP005";
/// SQLSTATE of our own: we cannot make ourselves a member of a role; DETAIL names it, HINT names us.
pub const NO_MEMBERSHIP: &str = "EP006";

/// SQLSTATE of our own: one portion of what the role owns needs more locks than the server has.
pub const TOO_MANY_LOCKS: &str = "EP007";

/// What the server said to each REVOKE that it refused, kept for the transaction.
const REFUSED: &str = "entrapostgres.refused";

/// Objects in one statement at most.
const CHUNK: u32 = 200;

/// What hangs on the role here, and in the first database also what all databases share.
fn here(role: &RoleName) -> String {
    let role = literal(role.as_str());
    format!(
        "hangs AS MATERIALIZED (
  SELECT s.classid, s.objid, s.objsubid, s.deptype, r.oid AS role FROM pg_catalog.pg_shdepend AS s
  JOIN pg_catalog.pg_roles AS r ON r.oid = s.refobjid AND r.rolname = {role}::name
  WHERE s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass
    AND s.dbid IN (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database()
      UNION ALL SELECT 0::oid WHERE pg_catalog.current_database() = 'postgres')
)"
    )
}

/// What has privileges of its own and hangs on the role, as it is written in a statement.
const THINGS: &str = "things AS MATERIALIZED (
  SELECT h.*, CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS sort, c.oid::pg_catalog.regclass::text AS target,
    c.relowner AS owner, CASE h.objsubid WHEN 0 THEN c.relacl ELSE a.attacl END AS acl
  FROM hangs AS h JOIN pg_catalog.pg_class AS c ON c.oid = h.objid
  LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = h.objid AND a.attnum = h.objsubid
  WHERE h.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
  UNION ALL
  -- A procedure is found by the modes of its arguments too, a function by what goes in only.
  SELECT h.*, CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END, CASE p.prokind
    WHEN 'p' THEN format('%I.%I(%s)', n.nspname, p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid))
    ELSE p.oid::pg_catalog.regprocedure::text END, p.proowner, p.proacl
  FROM hangs AS h JOIN pg_catalog.pg_proc AS p ON p.oid = h.objid JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
  WHERE h.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
  UNION ALL
  SELECT h.*, 'SCHEMA', pg_catalog.quote_ident(n.nspname), n.nspowner, n.nspacl
  FROM hangs AS h JOIN pg_catalog.pg_namespace AS n ON n.oid = h.objid WHERE h.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
  UNION ALL
  SELECT h.*, 'TYPE', t.oid::pg_catalog.regtype::text, t.typowner, t.typacl
  FROM hangs AS h JOIN pg_catalog.pg_type AS t ON t.oid = h.objid WHERE h.classid = 'pg_catalog.pg_type'::pg_catalog.regclass
  UNION ALL
  SELECT h.*, 'LANGUAGE', pg_catalog.quote_ident(l.lanname), l.lanowner, l.lanacl
  FROM hangs AS h JOIN pg_catalog.pg_language AS l ON l.oid = h.objid WHERE h.classid = 'pg_catalog.pg_language'::pg_catalog.regclass
  UNION ALL
  SELECT h.*, 'FOREIGN DATA WRAPPER', pg_catalog.quote_ident(f.fdwname), f.fdwowner, f.fdwacl
  FROM hangs AS h JOIN pg_catalog.pg_foreign_data_wrapper AS f ON f.oid = h.objid
  WHERE h.classid = 'pg_catalog.pg_foreign_data_wrapper'::pg_catalog.regclass
  UNION ALL
  SELECT h.*, 'FOREIGN SERVER', pg_catalog.quote_ident(f.srvname), f.srvowner, f.srvacl
  FROM hangs AS h JOIN pg_catalog.pg_foreign_server AS f ON f.oid = h.objid
  WHERE h.classid = 'pg_catalog.pg_foreign_server'::pg_catalog.regclass
  UNION ALL
  SELECT h.*, 'LARGE OBJECT', l.oid::text, l.lomowner, l.lomacl
  FROM hangs AS h JOIN pg_catalog.pg_largeobject_metadata AS l ON l.oid = h.objid
  WHERE h.classid = 'pg_catalog.pg_largeobject'::pg_catalog.regclass
  UNION ALL
  SELECT h.*, 'DATABASE', pg_catalog.quote_ident(d.datname), d.datdba, d.datacl
  FROM hangs AS h JOIN pg_catalog.pg_database AS d ON d.oid = h.objid WHERE h.classid = 'pg_catalog.pg_database'::pg_catalog.regclass
  UNION ALL
  SELECT h.*, 'TABLESPACE', pg_catalog.quote_ident(t.spcname), t.spcowner, t.spcacl
  FROM hangs AS h JOIN pg_catalog.pg_tablespace AS t ON t.oid = h.objid
  WHERE h.classid = 'pg_catalog.pg_tablespace'::pg_catalog.regclass
)";

/// Entries for the role that we can take away: as the object's owner, or as who gave them.
const GIVEN: &str = "us AS MATERIALIZED (
  SELECT u.oid, CASE WHEN pg_catalog.current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END AS become
  FROM pg_catalog.pg_roles AS u WHERE u.rolname = current_user
), owners AS MATERIALIZED (
  SELECT o.owner, pg_catalog.pg_has_role(o.owner, 'USAGE') AS mine FROM (SELECT DISTINCT t.owner FROM things AS t) AS o
), given AS MATERIALIZED (
  SELECT DISTINCT t.sort, t.target,
    CASE WHEN (e.grantor = t.owner AND o.mine) OR (e.grantor = u.oid AND NOT o.mine) THEN NULL ELSE e.grantor END AS grantor, u.become
  FROM things AS t JOIN owners AS o USING (owner) CROSS JOIN us AS u CROSS JOIN LATERAL pg_catalog.aclexplode(t.acl) AS e
  WHERE t.deptype = 'a' AND e.grantee = t.role AND t.owner <> t.role
)";

/// Clears the role out, in the order that each part needs. A privilege that we may not take away stays
/// and is told by [`left`].
pub fn clear(role: &RoleName, ours: &str, reassign_to: Option<&RoleName>) -> String {
    let heir = reassign_to.map_or_else(|| "NULL".to_owned(), |heir| literal(heir.as_str()));
    let here = here(role);
    let (reassign, put_back) = (reassign(), put_back());
    let (give_back, parameters) = (give_back(&here), parameters(&here));
    let body = format!(
        r"DECLARE
  v_us constant name := current_user; v_heir constant text := {heir}; v_version constant int := pg_catalog.current_setting('server_version_num');
  v_before text; v_after text; v_member text; v record; v_entry record; v_owns boolean; v_speaks boolean; v_gave boolean; v_options text;
  v_parts text[]; v_part text; v_again boolean; v_refused jsonb := '{{}}'; v_locks bigint; v_most bigint; v_context text;
BEGIN
  SELECT bool_or(h.deptype = 'o' AND v_heir IS NOT NULL), bool_or(h.deptype = 'o' AND h.classid = 'pg_catalog.pg_default_acl'::pg_catalog.regclass),
    bool_or(h.classid = 'pg_catalog.pg_auth_members'::pg_catalog.regclass)
    INTO v_owns, v_speaks, v_gave FROM (WITH {here} SELECT * FROM hangs) AS h;
  IF v_owns AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles AS r WHERE r.rolname = v_heir::name) THEN
    RAISE EXCEPTION USING ERRCODE = '{NO_HEIR}', MESSAGE = 'no such role', DETAIL = v_heir;
  END IF;
  {MEMBERSHIPS} INTO v_before;
  FOR v_member IN SELECT m FROM unnest(ARRAY[CASE WHEN v_owns OR v_speaks OR v_gave THEN v_role END, CASE WHEN v_owns THEN v_heir END]) AS m WHERE m IS NOT NULL LOOP
    CONTINUE WHEN pg_catalog.pg_has_role(v_member::name, 'USAGE')
      AND pg_catalog.pg_has_role(v_member::name, CASE WHEN v_version < 160000 THEN 'USAGE' ELSE 'SET' END);
    BEGIN
      EXECUTE format('GRANT %I TO %I', v_member, v_us) || CASE WHEN v_version >= 160000 THEN ' WITH INHERIT TRUE, SET TRUE' ELSE '' END;
    EXCEPTION WHEN insufficient_privilege THEN
      RAISE EXCEPTION USING ERRCODE = '{NO_MEMBERSHIP}', MESSAGE = SQLERRM, DETAIL = v_member, HINT = pg_catalog.quote_ident(v_us::text);
    END;
  END LOOP;
  {reassign}
  -- Default privileges: what others give the role, and what the role itself gives.
  FOR v IN WITH {here} SELECT a.defaclrole AS owner, a.defaclrole = h.role AS own, a.defaclobjtype AS sort, a.defaclacl AS acl,
      CASE a.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'ROUTINES' WHEN 'T' THEN 'TYPES' WHEN 'n' THEN 'SCHEMAS'
        ELSE 'LARGE OBJECTS' END AS objects,
      CASE WHEN a.defaclnamespace = 0 THEN '' ELSE (SELECT format('IN SCHEMA %I ', n.nspname) FROM pg_catalog.pg_namespace AS n WHERE n.oid = a.defaclnamespace) END AS place
    FROM (SELECT DISTINCT i.objid, i.role FROM hangs AS i WHERE i.classid = 'pg_catalog.pg_default_acl'::pg_catalog.regclass) AS h
    JOIN pg_catalog.pg_default_acl AS a ON a.oid = h.objid WHERE pg_catalog.pg_has_role(a.defaclrole, 'USAGE')
  LOOP
    v_options := format('ALTER DEFAULT PRIVILEGES FOR ROLE %I ', pg_catalog.pg_get_userbyid(v.owner)) || v.place;
    FOR v_entry IN SELECT DISTINCT CASE e.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(e.grantee)) END AS grantee
      FROM pg_catalog.aclexplode(v.acl) AS e WHERE v.own OR pg_catalog.pg_get_userbyid(e.grantee) = v_role::name
    LOOP
      EXECUTE v_options || 'REVOKE ALL ON ' || v.objects || ' FROM ' || v_entry.grantee;
    END LOOP;
    -- The built-in defaults again, which need no entry.
    IF v.own AND v.place = '' THEN
      EXECUTE v_options || format('GRANT ALL ON %s TO %I', v.objects, v_role);
      IF v.sort IN ('f', 'T') THEN EXECUTE v_options || format('GRANT ALL ON %s TO PUBLIC', v.objects); END IF;
    END IF;
  END LOOP;
  {give_back}
  FOR v IN WITH {here}, {THINGS}, {GIVEN}, chunks AS (
      SELECT g.*, (row_number() OVER (PARTITION BY g.grantor, g.sort ORDER BY g.target) - 1) / {CHUNK} AS chunk FROM given AS g
      WHERE g.grantor IS NULL OR pg_catalog.pg_has_role(g.grantor, g.become)
    )
    SELECT pg_catalog.pg_get_userbyid(c.grantor) AS grantor, c.sort, array_agg(c.target ORDER BY c.target) AS targets
    FROM chunks AS c GROUP BY c.grantor, c.sort, c.chunk
  LOOP
    -- All at once; if one is refused, each alone.
    v_parts := ARRAY[array_to_string(v.targets, ', ')];
    LOOP
      v_again := false;
      FOREACH v_part IN ARRAY v_parts LOOP
        BEGIN
          IF v.grantor IS NOT NULL THEN EXECUTE format('SET LOCAL ROLE %I', v.grantor); END IF;
          EXECUTE 'REVOKE ALL ON ' || v.sort || ' ' || v_part || format(' FROM %I', v_role);
          IF v.grantor IS NOT NULL THEN EXECUTE format('SET LOCAL ROLE %I', v_us); END IF;
        EXCEPTION WHEN insufficient_privilege OR dependent_objects_still_exist OR undefined_object OR undefined_table OR undefined_function THEN
          v_again := cardinality(v.targets) > cardinality(v_parts);
          IF NOT v_again THEN
            -- The words of an event trigger's function alone would speak of something else.
            GET STACKED DIAGNOSTICS v_context = PG_EXCEPTION_CONTEXT;
            SELECT ' in ' || line INTO v_context FROM pg_catalog.unnest(pg_catalog.string_to_array(v_context, E'\n')) AS line
              WHERE line LIKE '%PL/%' AND line NOT LIKE '%inline_code_block%' LIMIT 1;
            v_refused := v_refused || jsonb_build_object(v.sort || ' ' || v_part, pg_catalog.left(SQLERRM || coalesce(v_context, ''), 300));
          END IF;
        END;
      END LOOP;
      EXIT WHEN NOT v_again;
      v_parts := v.targets;
    END LOOP;
  END LOOP;
  {parameters}
  PERFORM pg_catalog.set_config('{REFUSED}', v_refused::text, true);
  {put_back}
  {MEMBERSHIPS} INTO v_after;
  IF v_after <> v_before THEN
    RAISE EXCEPTION 'the memberships of % could not be put back', v_us;
  END IF;
END;"
    );
    only_if_ours(role, ours, &body)
}

/// Gives away what the role owns, all of it in one transaction: each relation is locked until its end.
fn reassign() -> String {
    format!(
        "IF v_owns THEN
    SELECT count(*) INTO v_locks FROM pg_catalog.pg_class AS c WHERE c.relowner = (SELECT r.oid FROM pg_catalog.pg_roles AS r WHERE r.rolname = v_role::name);
    SELECT pg_catalog.current_setting('max_locks_per_transaction')::bigint
      * (pg_catalog.current_setting('max_connections')::bigint + pg_catalog.current_setting('max_prepared_transactions')::bigint) INTO v_most;
    IF v_locks > v_most THEN
      RAISE EXCEPTION USING ERRCODE = '{TOO_MANY_LOCKS}', MESSAGE = format('%s relations to give away, and room for %s locks', v_locks, v_most);
    END IF;
    EXECUTE format('REASSIGN OWNED BY %I TO %I', v_role, v_heir);
  END IF;"
    )
}

/// Our memberships as they were.
fn put_back() -> String {
    format!(
        "FOR v IN WITH old AS (SELECT * FROM pg_catalog.json_to_recordset(v_before::json) AS o({COLUMNS})),
      now AS (SELECT * FROM pg_catalog.json_to_recordset(({MEMBERSHIPS})::json) AS o({COLUMNS}))
    SELECT n.role, n.grantor, o.role IS NULL AS added, o.inherits, o.sets FROM now AS n LEFT JOIN old AS o USING (role, grantor)
    WHERE o.role IS NULL OR (o.inherits, o.sets) IS DISTINCT FROM (n.inherits, n.sets)
  LOOP
    v_options := CASE WHEN v_version < 160000 THEN '' ELSE format(' GRANTED BY %I', v.grantor) END;
    IF v.added THEN
      EXECUTE format('REVOKE %I FROM %I', v.role, v_us) || v_options;
    ELSE
      EXECUTE format('GRANT %I TO %I WITH INHERIT %s, SET %s', v.role, v_us, v.inherits, v.sets) || v_options;
    END IF;
  END LOOP;"
    )
}

/// Takes back the memberships that the role granted on: from version 16 on they have an oid, and hang on
/// their grantor. What was granted on further stays, and is told.
fn give_back(here: &str) -> String {
    format!(
        "IF v_gave THEN
    FOR v IN WITH {here} SELECT g.rolname AS granted, u.rolname AS member FROM hangs AS h JOIN pg_catalog.pg_auth_members AS m ON m.oid = h.objid
      JOIN pg_catalog.pg_roles AS g ON g.oid = m.roleid JOIN pg_catalog.pg_roles AS u ON u.oid = m.member
      WHERE h.classid = 'pg_catalog.pg_auth_members'::pg_catalog.regclass
    LOOP
      BEGIN
        EXECUTE format('REVOKE %I FROM %I GRANTED BY %I', v.granted, v.member, v_role);
      EXCEPTION WHEN insufficient_privilege OR dependent_objects_still_exist THEN NULL;
      END;
    END LOOP;
  END IF;"
    )
}

/// Takes back what the role may SET and ALTER SYSTEM of parameters, as whoever granted it and we can be. Before
/// version 15 there is no such table: in a block it is only looked for where it is.
fn parameters(here: &str) -> String {
    format!(
        "IF v_version >= 150000 THEN
    FOR v IN WITH {here} SELECT DISTINCT p.parname, pg_catalog.pg_get_userbyid(e.grantor) AS grantor, pg_catalog.pg_describe_object(h.classid, h.objid, 0) AS thing,
        e.grantor = (SELECT u.oid FROM pg_catalog.pg_roles AS u WHERE u.rolname = v_us) AS mine,
        pg_catalog.pg_has_role(e.grantor, CASE WHEN v_version < 160000 THEN 'MEMBER' ELSE 'SET' END) AS possible
      FROM hangs AS h JOIN pg_catalog.pg_parameter_acl AS p ON p.oid = h.objid CROSS JOIN LATERAL pg_catalog.aclexplode(p.paracl) AS e
      WHERE h.classid = pg_catalog.to_regclass('pg_catalog.pg_parameter_acl') AND e.grantee = h.role
    LOOP
      v_part := format('REVOKE ALL ON PARAMETER %s FROM %I', v.parname, v_role);
      v_options := format('given by %I; as a database administrator: SET ROLE %I; %s; RESET ROLE', v.grantor, v.grantor, v_part);
      BEGIN
        IF NOT v.possible THEN RAISE insufficient_privilege; END IF;
        IF NOT v.mine THEN EXECUTE format('SET LOCAL ROLE %I', v.grantor); END IF;
        EXECUTE v_part;
        IF NOT v.mine THEN EXECUTE format('SET LOCAL ROLE %I', v_us); END IF;
      EXCEPTION WHEN insufficient_privilege OR dependent_objects_still_exist THEN
        v_refused := v_refused || jsonb_build_object(v.thing, pg_catalog.left(v_options, 600));
      END;
    END LOOP;
  END IF;"
    )
}

/// What takes away what is no privilege on an object, for people.
const BY_HAND: &str = "CASE WHEN o.deptype = 'i' THEN ' (an initial privilege of an extension: as a superuser DROP OWNED BY the role, once it owns nothing)'
    WHEN o.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass THEN ' (it names the role: ALTER POLICY ... TO others, or DROP POLICY)'
    WHEN o.classid = 'pg_catalog.pg_user_mapping'::pg_catalog.regclass THEN ' (DROP USER MAPPING FOR the role SERVER ...)' END";

/// Our own memberships in the role and in its heir, as JSON.
const MEMBERSHIPS: &str = "SELECT coalesce(json_agg(json_build_object('role', g.rolname::text, 'grantor', pg_catalog.pg_get_userbyid(m.grantor)::text,
  'admin', m.admin_option, 'inherits', coalesce(to_jsonb(m) ->> 'inherit_option', 'true'), 'sets', coalesce(to_jsonb(m) ->> 'set_option', 'true'))
  ORDER BY g.rolname, m.grantor), '[]')::text
FROM pg_catalog.pg_auth_members AS m JOIN pg_catalog.pg_roles AS g ON g.oid = m.roleid
WHERE m.member = (SELECT u.oid FROM pg_catalog.pg_roles AS u WHERE u.rolname = v_us) AND g.rolname IN (v_role::name, v_heir::name)";

const COLUMNS: &str = "role text, grantor text, admin boolean, inherits text, sets text";

/// How many objects the role owns here, and how much else still hangs on it: one row.
pub fn totals(role: &RoleName) -> String {
    format!(
        "WITH {here}, {OWNED} SELECT count(*) FILTER (WHERE o.owned) AS owned, count(*) FILTER (WHERE NOT o.owned) AS remaining FROM owned AS o",
        here = here(role)
    )
}

/// What else still hangs on the role here, in words: the first `most`.
pub fn left(role: &RoleName, most: usize) -> String {
    format!(
        "WITH {here}, {OWNED}, {THINGS} SELECT DISTINCT pg_catalog.pg_describe_object(o.classid, o.objid, o.objsubid)
  || coalesce(' of ' || pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(t.owner)), '')
  || coalesce(', given by ' || (SELECT string_agg(DISTINCT pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(e.grantor)), ', ')
    FROM pg_catalog.aclexplode(t.acl) AS e WHERE e.grantee = o.role), '')
  || coalesce(', given on to ' || (SELECT string_agg(DISTINCT CASE e.grantee WHEN 0 THEN 'PUBLIC'
      ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(e.grantee)) END, ', ')
    FROM pg_catalog.aclexplode(t.acl) AS e WHERE e.grantor = o.role AND e.grantee <> o.role), '')
  || coalesce(' (' || (r.said ->> coalesce(t.sort || ' ' || t.target, pg_catalog.pg_describe_object(o.classid, o.objid, o.objsubid))) || ')', {BY_HAND}, '') AS thing
FROM (SELECT nullif(pg_catalog.current_setting('{REFUSED}', true), '')::jsonb AS said) AS r CROSS JOIN owned AS o LEFT JOIN things AS t USING (classid, objid, objsubid, deptype) WHERE NOT o.owned ORDER BY 1 LIMIT {most}",
        here = here(role)
    )
}

/// Default privileges and user mappings are no data, though the role counts as their owner.
const OWNED: &str = "owned AS MATERIALIZED (
  SELECT h.*, h.deptype = 'o' AND h.classid NOT IN ('pg_catalog.pg_default_acl'::pg_catalog.regclass, 'pg_catalog.pg_user_mapping'::pg_catalog.regclass) AS owned
  FROM hangs AS h
)";
