//! Reads the object id from the `ConfigMap` that a principal names. Must not decide what it is for.

use k8s_openapi::api::core::v1::ConfigMap;

use crate::controller::Context;
use crate::model::{Class, Desired, Failure, ObjectId, ObjectKey, Reason};

/// What the `ConfigMap` says, or why it says nothing; `None`: no `ConfigMap` is declared.
pub(super) async fn object_id(
    desired: &Desired,
    ctx: &Context,
) -> Option<Result<ObjectId, Failure>> {
    let from = desired.object_id_from.as_ref()?;
    let key = ObjectKey::new(&desired.key.namespace, &from.name);
    Some(match ctx.cluster.read::<ConfigMap>(&key).await {
        Ok(found) => parse(found.as_ref(), &key, &from.key),
        Err(failure) => Err(failure),
    })
}

fn parse(found: Option<&ConfigMap>, map: &ObjectKey, key: &str) -> Result<ObjectId, Failure> {
    let failure = |class, what: String| {
        let message = format!("principal.objectIdFrom: {what}");
        Err(Failure::new(class, Reason::ObjectIdNotFound, message))
    };
    let Some(found) = found else {
        // Whoever makes the identity writes it, often later than this object was made.
        return failure(
            Class::Waiting,
            format!("ConfigMap {map} does not exist yet"),
        );
    };
    let Some(value) = found.data.as_ref().and_then(|data| data.get(key)) else {
        return failure(
            Class::Waiting,
            format!("ConfigMap {map} has no key {key:?} yet"),
        );
    };
    ObjectId::parse(value.trim()).map_or_else(
        || {
            let what = format!(
                "key {key:?} of ConfigMap {map} is no object id: it must be a GUID, for an application that \
                 of the service principal (\"Enterprise application\")"
            );
            failure(Class::Denied, what)
        },
        Ok,
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_is_wrong_with_a_config_map_is_said() {
        let key = ObjectKey::new("orders", "identity");
        let map = |value: &str| ConfigMap {
            data: Some(BTreeMap::from([("id".to_owned(), value.to_owned())])),
            ..ConfigMap::default()
        };
        let guid = "11111111-1111-1111-1111-111111111111";
        let read = parse(Some(&map(&format!("{guid}\n"))), &key, "id");
        assert_eq!(read.ok(), ObjectId::parse(guid));
        for (found, of, words, class) in [
            (None, "id", "orders/identity does not exist", Class::Waiting),
            (Some(map(guid)), "other", "no key \"other\"", Class::Waiting),
            (Some(ConfigMap::default()), "id", "no key", Class::Waiting),
            (Some(map("the api")), "id", "no object id", Class::Denied),
        ] {
            let failure = parse(found.as_ref(), &key, of).expect_err("refused");
            assert_eq!(
                (failure.reason, failure.class),
                (Reason::ObjectIdNotFound, class)
            );
            assert!(failure.message.contains(words), "{failure}");
        }
    }
}
