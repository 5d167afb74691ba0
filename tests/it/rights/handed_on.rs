//! A server with two administrators: what was made as one of them is kept, and changed, as the other.

use anyhow::Result;
use lab::directory::FederatedCredential;
use serde_json::{Value, json};

use super::{
    ADMINISTRATOR, declared, furnished, has_exactly, ledger, made, major, says, set, setup,
    statement,
};
use crate::fixture::{Setup, World, service_account, workload_identity};
use crate::fleet;

/// The further administrator, whose service account is `second` in the platform's namespace.
const SECOND: &str = "orders-importer";
const SECOND_CLIENT: &str = "c11e4700-0000-4000-8000-000000000004";

fn two_administrators() -> Setup {
    let second = json!({"roleName": SECOND, "identity": workload_identity("second")});
    let mut setup = setup(2, move |spec| {
        spec["admins"] = json!([spec["admins"][0], second]);
    });
    let fleet = setup.directory;
    setup.directory = Box::new(|directory, names| {
        fleet(directory, names);
        directory.administrators.push(SECOND.to_owned());
        let mut services = directory.service_principals.iter_mut();
        let second = services.find(|service| service.name == SECOND);
        let credential = FederatedCredential {
            issuer: "cluster".to_owned(),
            subject: format!("system:serviceaccount:{}:second", names.platform),
            audience: "api://AzureADTokenExchange".to_owned(),
        };
        second
            .expect("the second administrator")
            .federated_credentials
            .push(credential);
    });
    setup
}

/// Something that only an administrator with ADMIN OPTION on the role keeps up.
fn fields() -> Value {
    json!({
        "role": {"connectionLimit": 5, "settings": {"statement_timeout": "30s"}},
        "memberOf": [{"role": "readers"}, {"role": "writers"}],
        "grants": [{"database": "orders", "schema": "app", "objects": "Tables", "names": ["t1"], "privileges": ["SELECT"]}],
    })
}

/// The server refuses one administrator; waits until the other is signed in.
async fn refused(world: &World, administrator: &str, next: &str) -> Result<()> {
    let message = format!("role \"{administrator}\" is not an administrator any more");
    world
        .faults(json!([{"on": "gateway", "match": {"role": administrator}, "do": {"sqlState": "28000", "message": message}}]))
        .await?;
    let cut = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{administrator}'"
    );
    world.sql(&cut).await?;
    let signed_in = |server: &Value| server["status"]["activeAdmin"] == next;
    world.wait("server", "server", next, signed_in).await?;
    Ok(())
}

/// How an administrator may deal with a role: ADMIN, INHERIT and SET of its membership; `None`: it has none.
pub(super) async fn membership(
    world: &World,
    role: &str,
    administrator: &str,
) -> Result<Option<String>> {
    world
        .ask(&format!(
            "SELECT string_agg(concat_ws(' ', admin_option, inherit_option, set_option), ', ') FROM pg_auth_members \
             WHERE roleid = '\"{role}\"'::regrole AND member = '\"{administrator}\"'::regrole"
        ))
        .await
}

/// Takes everything of [`fields`] by hand, and the identity too, and waits until it is back.
async fn put_back(world: &World, n: usize, maker: &str) -> Result<()> {
    let name = fleet::name(n);
    let bound = world.bound_to(&name).await?;
    let drift = format!(
        "SECURITY LABEL FOR pgaadauth ON ROLE \"{name}\" IS NULL;
         ALTER ROLE \"{name}\" CONNECTION LIMIT 7; ALTER ROLE \"{name}\" RESET statement_timeout;
         REVOKE readers FROM \"{name}\" GRANTED BY \"{maker}\"; REVOKE SELECT ON app.t1 FROM \"{name}\""
    );
    ledger::run(world, "orders", &drift).await?;
    let held = set(&[
        "attributes f t f f t 5",
        "setting statement_timeout=30s",
        "member of readers",
        "member of writers",
        "orders|app|table|t1|SELECT",
    ]);
    has_exactly(world, &name, &[], &held, "put back").await?;
    world.ready("principal", &name).await?;
    assert_eq!(world.bound_to(&name).await?, bound);
    Ok(())
}

// Red when: `settle` in postgres/sql grants the new role to nobody, or lets the other administrators inherit
// from it; `connect` in postgres/worker tries the first administrator only; or the questions count only what the present one
// gave (`by_admin`): it would stay, and nobody would say so.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_administrator_made_the_other_goes_on_with() -> Result<()> {
    let world = furnished("two_admins", two_administrators(), &[]).await?;
    let account = service_account(&world.names.platform, "second", SECOND_CLIENT);
    world.apply(&account).await?;
    world
        .sql(&format!(
            "GRANT app_owner TO \"{SECOND}\"; GRANT readers, writers TO \"{SECOND}\" WITH ADMIN OPTION"
        ))
        .await?;
    let options = (major(&world).await? >= 16).then(|| "t f f".to_owned());
    let server = world.ready("server", "server").await?;
    assert_eq!(server["status"]["activeAdmin"], ADMINISTRATOR);
    let (mut maker, mut other) = (ADMINISTRATOR, SECOND);
    for n in 0..2 {
        made(&world, n, &fields()).await?;
        let name = fleet::name(n);
        if options.is_some() {
            assert_eq!(membership(&world, &name, other).await?, options, "{name}");
        }
        refused(&world, maker, other).await?;
        put_back(&world, n, maker).await?;
        // As the other it is taken away, too; a membership that the first gave and that was there all the time
        // needs somebody who may speak for the first.
        world.apply(&declared(&world, n, &json!({}))).await?;
        let bare = set(&["attributes f t f f t -1"]);
        if options.is_some() {
            let by_first = format!("GRANTED BY \"{maker}\"");
            let ready = says(&world, n, &["\"writers\"", other, &by_first]).await?;
            assert_eq!(ready.reason, "NotRevocable", "{ready:?}");
            let left = set(&["attributes f t f f t -1", "member of writers"]);
            has_exactly(&world, &name, &[], &left, "what the first gave").await?;
            let sql = statement(&ready.message, "REVOKE", &by_first)?;
            world.sql(sql).await?;
        }
        has_exactly(&world, &name, &[], &bare, "nothing").await?;
        world.ready("principal", &name).await?;
        (maker, other) = (other, maker);
    }
    Ok(())
}
