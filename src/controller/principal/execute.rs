//! Carries out a plan. Never fails as a whole: each half has its own result.

use std::collections::BTreeSet;

use crate::api::{EntraPostgresPrincipal, RoleStatus};
use crate::controller::Context;
use crate::model::login::before_publishing;
use crate::model::observed::RefusedStep;
use crate::model::plan::{Plan, RoleWork, Steps, TokenStep, plan};
use crate::model::publish::check_identity;
use crate::model::report::RoleChange;
use crate::model::{Class, Desired, DesiredToken, Failure, ObjectId, ObjectKey, Reason};
use crate::ports::{AccessToken, TokenOrder, Urgency};

use super::observe::World;
use super::publish::{self, Published};
use super::role::{self, RoleDone};
use super::still_wanted;

/// What became of each half.
pub(super) struct Done {
    pub(super) role: Result<RoleStatus, Failure>,
    /// What of its rights cannot be as declared.
    pub(super) problems: Vec<Failure>,
    /// What people should know although all is as declared.
    pub(super) notes: Vec<String>,
    /// Steps that the server refused: they rest before they are tried again.
    pub(super) refused: Vec<(RefusedStep, Failure)>,
    pub(super) change: Option<RoleChange>,
    /// A step of the role failed: it rests before it is tried again.
    pub(super) role_tried: bool,
    pub(super) token: Result<Option<Published>, Failure>,
    /// An exchange or a write failed: it rests before it is tried again.
    pub(super) token_tried: bool,
    /// Whether the Secrets that are declared no more are gone.
    pub(super) discarded: Result<(), Failure>,
    /// The finalizer is not yet as declared, though the role is let be: it is tried again soon.
    pub(super) unsettled: bool,
}

pub(super) async fn execute(
    object: &EntraPostgresPrincipal,
    desired: &Desired,
    world: &World,
    plan: &Plan,
    ctx: &Context,
) -> Done {
    let Plan {
        role,
        token,
        discard: leftovers,
        next_look: _,
    } = plan;
    let mut held = None;
    let mut token = token.clone();
    let role = match role {
        Ok(RoleWork::Steps(steps)) => Ok(steps.clone()),
        Ok(RoleWork::AfterToken) => match first_token(desired, world, &token, ctx).await {
            Ok(got) => {
                let steps = steps_with(desired, world, &got, ctx).await;
                held = Some(got);
                steps
            }
            Err(failure) => {
                token = Err(failure.clone());
                Err(failure)
            }
        },
        Err(failure) => Err(failure.clone()),
    };
    let after_token = matches!(plan.role, Ok(RoleWork::AfterToken));
    let mut unsettled = false;
    let work = match role {
        Ok(steps) => role::carry_out(object, desired, world, steps, ctx).await,
        Err(failure) => {
            // A role that was made is dropped or kept as declared, however it is now.
            if world.observed.record.object_id.is_some()
                && let Err(failure) = role::settle_finalizer(object, desired, ctx).await
            {
                tracing::warn!(object = %desired.key, "could not settle the finalizer: {failure}");
                unsettled = true;
            }
            RoleDone::failed(failure)
        }
    };
    let RoleDone {
        role,
        problems,
        notes,
        refused,
        tried: role_tried,
        change,
    } = work;
    let signs_in = problems
        .iter()
        .find(|problem| problem.reason == Reason::LoginDisabledOnServer)
        .or(role.as_ref().err())
        .map_or(Ok(()), |failure| Err(failure.clone()));
    // A first token that waits for its role has not been asked for.
    let waits = matches!(token, Ok(Some(TokenStep::Issue))) && signs_in.is_err() && held.is_none();
    let asks = matches!(token, Ok(Some(TokenStep::Issue | TokenStep::Renew { .. })));
    let mut could = true;
    if asks
        && held.is_none()
        && !waits
        && let Err(failure) = publish::ready(desired, world)
    {
        could = false;
        token = Err(failure);
    }
    let token_tried = match &plan.token {
        Ok(Some(_)) => !waits && could,
        Ok(None) => after_token,
        Err(_) => false,
    };
    let token = match (&desired.token, token) {
        (Some(wanted), Ok(Some(step))) => {
            let task = Task {
                desired,
                wanted,
                world,
                role: &role,
                signs_in: &signs_in,
                ctx,
            };
            task.run(step, held).await
        }
        (_, token) => token.map(|_| None),
    };
    let discarded = match &token {
        Ok(_) => discard(desired, leftovers, ctx).await,
        Err(_) => Ok(()),
    };
    Done {
        role,
        problems,
        notes,
        refused,
        change,
        role_tried,
        token,
        token_tried,
        discarded,
        unsettled,
    }
}

/// Deletes Secrets of this object that are declared no more, exactly as they were seen.
async fn discard(
    desired: &Desired,
    names: &BTreeSet<String>,
    ctx: &Context,
) -> Result<(), Failure> {
    let Desired { key, uid, .. } = desired;
    for name in names {
        let seen = ctx.index.secret(&ObjectKey::new(&key.namespace, name));
        let ours = seen.filter(|seen| seen.controller_uid.as_ref() == Some(uid));
        if let Some(seen) = ours {
            ctx.cluster
                .delete_secret(&key.namespace, name, &seen)
                .await?;
            tracing::info!(object = %key, secret = name, "deleted the Secret that is declared no more");
        }
    }
    Ok(())
}

/// The token whose object id the role will get.
async fn first_token(
    desired: &Desired,
    world: &World,
    step: &Result<Option<TokenStep>, Failure>,
    ctx: &Context,
) -> Result<AccessToken, Failure> {
    let Some(wanted) = &desired.token else {
        return Err(no_token());
    };
    match step {
        Ok(_) => exchange(desired, wanted, world, Urgency::NeverIssued, ctx).await,
        Err(failure) => Err(failure.clone()),
    }
}

async fn steps_with(
    desired: &Desired,
    world: &World,
    token: &AccessToken,
    ctx: &Context,
) -> Result<Steps, Failure> {
    let mut world = World {
        observed: world.observed.clone(),
        server: world.server.clone(),
        session: world.session.clone(),
        secret: world.secret.clone(),
        ca: world.ca.clone(),
        interest: world.interest.clone(),
        trust: world.trust,
    };
    world.observed.token_object_id = Some(token.object_id.clone());
    world
        .look_at_role(desired, Some(&token.object_id), ctx)
        .await;
    let now = ctx.reporter.clock.now();
    match plan(desired, &world.observed, now, ctx.index.cluster_id()).role? {
        RoleWork::Steps(steps) => Ok(steps),
        RoleWork::AfterToken => Err(no_token()),
    }
}

pub(super) async fn exchange(
    desired: &Desired,
    wanted: &DesiredToken,
    world: &World,
    urgency: Urgency,
    ctx: &Context,
) -> Result<AccessToken, Failure> {
    let Some(server) = &world.server else {
        return Err(no_token());
    };
    check_identity(desired, &wanted.identity, server)?;
    let order = TokenOrder {
        namespace: desired.key.namespace.clone(),
        identity: wanted.identity.clone(),
        cloud: server.cloud.clone(),
        urgency,
    };
    let token = ctx.tokens.token(order).await?;
    still_wanted(desired, ctx)?;
    Ok(token)
}

/// The token's half of one pass.
struct Task<'a> {
    desired: &'a Desired,
    wanted: &'a DesiredToken,
    world: &'a World,
    role: &'a Result<RoleStatus, Failure>,
    /// Whether the role is there and may sign in.
    signs_in: &'a Result<(), Failure>,
    ctx: &'a Context,
}

impl Task<'_> {
    async fn run(
        &self,
        step: TokenStep,
        held: Option<AccessToken>,
    ) -> Result<Option<Published>, Failure> {
        let Self {
            desired,
            wanted,
            world,
            signs_in,
            ctx,
            ..
        } = *self;
        let Some(server) = &world.server else {
            return Err(no_token());
        };
        let target = publish::Target {
            desired,
            wanted,
            server,
            world,
            role_id: self.role_id(),
            verify: before_publishing(wanted.verify, step, world.observed.login.verified),
            ctx,
        };
        match step {
            TokenStep::Repair => target.repair().await.map(Some),
            TokenStep::Verify => target.verify().await.map(Some),
            TokenStep::Issue => {
                // A first token waits for its role; a renewal does not.
                if let Err(failure) = signs_in {
                    return Err(Failure {
                        message: format!("waiting for the role: {}", failure.message),
                        ..failure.clone()
                    });
                }
                let token = match held {
                    Some(token) => token,
                    None => exchange(desired, wanted, world, Urgency::NeverIssued, ctx).await?,
                };
                target.create(&token).await.map(Some)
            }
            TokenStep::Renew { expires } => {
                let urgency = expires.map_or(Urgency::NeverIssued, Urgency::Renewal);
                let token = match held {
                    Some(token) => token,
                    None => exchange(desired, wanted, world, urgency, ctx).await?,
                };
                target.renew(&token, expires).await.map(Some)
            }
        }
    }

    fn role_id(&self) -> Option<ObjectId> {
        let now = self
            .role
            .as_ref()
            .ok()
            .and_then(|role| ObjectId::parse(&role.object_id));
        now.or_else(|| self.world.observed.record.object_id.clone())
    }
}

fn no_token() -> Failure {
    Failure::new(
        Class::Transient,
        Reason::Internal,
        "the object id of the principal is not known yet",
    )
}
