//! Comments of 8 MiB that begin as ours do, on roles that nobody wants.

use anyhow::{Result, ensure};
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::{Running, pick};
use crate::hostile::world::{SHARED, World};
use crate::postgres::SUPERUSER;

const COUNT: usize = 20;
const LONG: usize = 8 << 20;
const HEAD: &str =
    "Managed by entra-postgres-operator for EntraPostgresPrincipal evil-comments/x; do not edit: ";

pub(super) async fn begin(world: &World, mut random: StdRng) -> Result<Running> {
    let client = world.sql_as(SUPERUSER, "postgres").await?;
    client
        .batch_execute("CREATE ROLE evil_comments CREATEROLE; SET ROLE evil_comments")
        .await?;
    for n in 0..COUNT {
        // Just below the limit, or some more; JSON or not; texts that compress well or less well.
        let size = LONG - HEAD.len() - random.random_range(0..2048) + pick(&[0, 4096], n);
        let filler = pick(&["x", "\"a\":[", "0123456789abcdef", "ü"], n);
        let open = pick(&["{\"asked\":\"", "", "{", "["], n / 4);
        let sql = format!(
            "CREATE ROLE \"evil-comment-{n}\"; \
             DO $$ BEGIN EXECUTE format('COMMENT ON ROLE %I IS %L', 'evil-comment-{n}', \
             '{HEAD}{open}' || repeat('{filler}', {})); END $$",
            size / filler.len()
        );
        client.batch_execute(&sql).await?;
    }
    Ok(Running::default())
}

pub(super) async fn proof(world: &World) -> Result<String> {
    let sql = format!(
        "SELECT count(*) FROM pg_shdescription WHERE classoid = 'pg_authid'::regclass \
         AND octet_length(description) > 8000000 AND starts_with(description, '{HEAD}')"
    );
    let long = world.ask(SHARED, "postgres", &sql).await?;
    ensure!(long == COUNT.to_string(), "{long} long comments");
    Ok(format!("{long} comments of 8 MiB"))
}
