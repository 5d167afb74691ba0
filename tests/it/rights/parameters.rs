//! What a role's sessions begin with is never more than the role could set for itself.

use anyhow::Result;
use serde_json::json;

use super::{declared, furnished, has_exactly, made, says, set, setup};
use crate::fleet;

// Red when: `rights::settings` does not ask what the server says about a parameter.
#[tokio::test(flavor = "multi_thread")]
async fn a_parameter_that_no_role_may_set_for_itself_is_not_set_for_it() -> Result<()> {
    let world = furnished("parameters", setup(1, |_| ()), &[]).await?;
    let settings = "GRANT SET ON PARAMETER session_replication_role TO azure_pg_admin; GRANT SET ON PARAMETER session_preload_libraries TO azure_pg_admin;
         GRANT SET ON PARAMETER app.tenant TO azure_pg_admin";
    world.sql(settings).await?;
    let fields = json!({"role": {"settings": {"Session_Replication_Role": "replica", "session_preload_libraries": "auto_explain",
        "app.tenant": "a", "TimeZone": "UTC", "work_mem": "8MB"}}});
    world.apply(&declared(&world, 0, &fields)).await?;
    for word in ["session_replication_role", "session_preload_libraries"] {
        let ready = says(&world, 0, &[word]).await?;
        assert_eq!(ready.reason, "SettingNotAllowed", "{ready:?}");
    }
    let name = fleet::name(0);
    let held = set(&[
        "attributes f t f f t -1",
        "setting app.tenant=a",
        "setting TimeZone=UTC",
        "setting work_mem=8MB",
    ]);
    has_exactly(&world, &name, &[], &held, "the rest").await?;
    made(&world, 0, &json!({})).await?;
    let bare = set(&["attributes f t f f t -1"]);
    has_exactly(&world, &name, &[], &bare, "nothing").await
}
