//! All that a server says about rights, read past the operator: who has which privilege on what, who
//! is a member of what, and which attributes and settings roles have.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context as _, Result};
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::fixture::{SOON, World};

/// One line: whose it is, and what.
pub type Line = (String, String);

/// Direct privileges in one database: `database|schema|kind|name|PRIVILEGE`, defaults too; and who owns
/// the objects. Defaults have no owner: their row is there while anybody has one of them.
const INSIDE: &str = "
WITH acls AS (
  SELECT nspname AS schema, 'schema' AS kind, nspname::text AS name, nspowner AS owner, coalesce(nspacl, acldefault('n', nspowner)) AS acl FROM pg_namespace
  UNION ALL SELECT n.nspname, CASE c.relkind WHEN 'S' THEN 'sequence' ELSE 'table' END, c.relname::text, c.relowner,
    coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::pg_catalog.\"char\", c.relowner))
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
  UNION ALL SELECT n.nspname, 'function', p.proname || '(' || oidvectortypes(p.proargtypes) || ')', p.proowner, coalesce(p.proacl, acldefault('f', p.proowner))
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
  UNION ALL SELECT coalesce(n.nspname, ''), 'default of ' || d.defaclrole::regrole::text, d.defaclobjtype::text, d.defaclrole, d.defaclacl
    FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace
)
SELECT CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(x.grantee)::text END,
  current_database() || '|' || a.schema || '|' || a.kind || '|' || a.name || '|' || x.privilege_type
FROM acls AS a, aclexplode(a.acl) AS x
WHERE x.grantee <> a.owner AND a.schema NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
UNION ALL
SELECT 'owner', current_database() || '|' || a.schema || '|' || a.kind || '|' || a.name || '|' || pg_get_userbyid(a.owner)::text
FROM acls AS a WHERE a.kind NOT LIKE 'default of %' AND a.schema NOT IN ('pg_catalog', 'information_schema', 'pg_toast')";

/// What is the same seen from every database.
const SHARED: &str = "
SELECT CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(x.grantee)::text END,
  d.datname || '||database||' || x.privilege_type
FROM pg_database AS d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) AS x WHERE x.grantee <> d.datdba
UNION ALL
SELECT pg_get_userbyid(m.member)::text, 'member of ' || pg_get_userbyid(m.roleid)::text || ' by '
  || pg_get_userbyid(m.grantor)::text || ' ' || (to_jsonb(m) - 'oid' - 'roleid' - 'member' - 'grantor')::text
FROM pg_auth_members AS m
UNION ALL
SELECT rolname::text, 'attributes ' || concat_ws(' ', rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolconnlimit)
FROM pg_roles
UNION ALL
SELECT pg_get_userbyid(s.setrole)::text, 'setting ' || unnest(s.setconfig) FROM pg_db_role_setting AS s WHERE s.setdatabase = 0
UNION ALL
SELECT pg_get_userbyid(l.objoid)::text, 'label ' || l.provider || ' ' || l.label FROM pg_shseclabel AS l
WHERE l.classoid = 'pg_authid'::regclass";

/// A superuser's connection to a database.
pub async fn superuser(world: &World, database: &str) -> Result<Client> {
    let postgres = world.azure.postgres().await?;
    postgres.connect(lab::postgres::SUPERUSER, database).await
}

/// Runs SQL as the superuser in a database, in one transaction; again, if it and the operator came into
/// each other's way.
pub async fn run(world: &World, database: &str, sql: &str) -> Result<()> {
    let client = superuser(world, database).await?;
    let start = Instant::now();
    loop {
        let Err(error) = client.batch_execute(sql).await else {
            return Ok(());
        };
        let answer = error.as_db_error().map(ToString::to_string);
        let answer = answer.unwrap_or_default();
        let passes = ["concurrently updated", "deadlock detected"];
        let passes = passes.iter().any(|words| answer.contains(words));
        if !passes || start.elapsed() > SOON {
            return Err(error).with_context(|| format!("in {database}: {sql}"));
        }
    }
}

async fn lines(client: &Client, sql: &str) -> Result<BTreeSet<Line>> {
    let messages = client.simple_query(sql).await?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
    Ok(rows
        .map(|row| (text(row.get(0)), text(row.get(1))))
        .collect())
}

/// Everything, of these databases and of what they share.
pub async fn read(world: &World, databases: &[&str]) -> Result<BTreeSet<Line>> {
    let mut all = BTreeSet::new();
    for database in databases {
        let client = superuser(world, database).await?;
        client.batch_execute("SET search_path = pg_catalog").await?;
        all.extend(lines(&client, INSIDE).await?);
        if Some(database) == databases.first() {
            all.extend(lines(&client, SHARED).await?);
        }
    }
    Ok(all)
}

/// What of it is one role's.
pub fn of(all: &BTreeSet<Line>, role: &str) -> BTreeSet<String> {
    all.iter()
        .filter(|(whose, _)| whose == role)
        .map(|(_, what)| what.clone())
        .collect()
}

/// What of it is nobody's of these.
pub fn of_others(all: &BTreeSet<Line>, roles: &[String]) -> BTreeSet<Line> {
    all.iter()
        .filter(|(whose, _)| !roles.contains(whose))
        .cloned()
        .collect()
}
