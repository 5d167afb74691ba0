//! Whatever is there: the plan after the plan is empty, and nothing foreign is touched.

use super::*;

fn any_label() -> impl Strategy<Value = Option<EntraLabel>> {
    let label = (any::<bool>(), any::<bool>(), any::<bool>(), 0..3_usize).prop_map(
        |(ours, admin, mfa, kind)| EntraLabel {
            object_id: id(if ours { OURS } else { OTHER }),
            entra_type: ["user", "group", "service"][kind].to_owned(),
            admin,
            mfa,
        },
    );
    proptest::option::of(label)
}

proptest! {
    /// Whatever drifted on a role of ours and may be put back: after the steps the plan is empty.
    #[test]
    fn the_plan_after_the_plan_is_empty(label in any_label(), consent in any::<bool>()) {
        let object_id = consent.then(|| id(OTHER));
        let desired = Desired { object_id, ..desired() };
        let target = id(if consent { OTHER } else { OURS });
        let mut now = RoleFacts { label, ..facts() };
        // What was made an administrator of another identity is for nobody else.
        let boss = now.label.as_ref().filter(|label| label.admin);
        if boss.is_some_and(|label| label.object_id != target) {
            let decided = role(&desired, &there(now, Some(MarkerOwner::Us)));
            prop_assert_eq!(decided, Err(Reason::RoleProtected));
            return Ok(());
        }
        for step in steps(&desired, &there(now.clone(), Some(MarkerOwner::Us))) {
            match step {
                RoleStep::Label { object_id, kind, admin, mfa } => {
                    let entra_type = entra_type(kind).to_owned();
                    now.label = Some(EntraLabel { object_id, entra_type, admin, mfa });
                }
                RoleStep::Mark(marker) => now.comment = Some(marker),
                other => prop_assert!(false, "unexpected {:?}", other),
            }
        }
        prop_assert_eq!(steps(&desired, &there(now, Some(MarkerOwner::Us))), vec![]);
    }

    /// A role without our marker is only ever touched when it is bound to the wanted identity.
    #[test]
    fn a_foreign_role_is_touched_only_if_it_is_the_same_identity(
        label in any_label(),
        privileged in any::<bool>(),
        literal in any::<bool>(),
    ) {
        let desired = Desired { adoption: Adoption::SameIdentity, ..desired() };
        let facts = RoleFacts { label: label.clone(), comment: None, privileged, ..facts() };
        let allowance = Ok(Allowance { literal, ..Allowance::default() });
        let observed = Observed { allowance, ..there(facts, None) };
        if let Ok(work) = role(&desired, &observed) {
            prop_assert!(!work.is_nothing());
            prop_assert!(label.is_some_and(|label| label.object_id == id(OURS) && !label.admin));
            prop_assert!(!privileged || literal);
        }
    }

    /// A living token is never replaced before its time, and always looked at before its end.
    #[test]
    fn a_living_token_is_looked_at_before_its_end(life in 5_i64..1440, age in 0_i64..1440, before in 1_u64..86_400) {
        let mut desired = with_token(desired());
        if let Some(token) = &mut desired.token {
            token.renew = Renew::Before(Duration::from_secs(before));
        }
        prop_assume!(age < life);
        let record = record(-age, life - age);
        let end = record.expires_at;
        let observed = Observed { secret: secret(Content::Intact(record)), ..there(facts(), Some(MarkerOwner::Us)) };
        let decided = plan(&desired, &observed, noon(), CLUSTER);
        match decided.token {
            Ok(None) => prop_assert!(decided.next_look.is_some_and(|look| look > noon() && look < end)),
            Ok(Some(TokenStep::Renew { expires })) => prop_assert_eq!(expires, Some(end)),
            other => prop_assert!(false, "unexpected {:?}", other),
        }
    }
}
