//! Carries out the role's half of a plan: database `postgres` first, where what is asked for is
//! remembered, then the other databases, until nothing is left to do.

use futures::future::join_all;

use crate::api::{DeletionPolicy, EntraPostgresPrincipal, RoleStatus};
use crate::controller::{Context, finalizers};
use crate::model::effect::Made;
use crate::model::observed::RefusedStep;
use crate::model::plan::{RoleWork, Steps, plan};
use crate::model::report::RoleChange;
use crate::model::{
    Basis, Class, Desired, Failure, Look, PrivilegeStep, Reason, RoleFacts, RoleStep, ending,
};
use crate::postgres::Session;

use super::observe::World;
use super::still_wanted;

/// How often what was done is looked at anew: taking back is done, then forgotten.
const ROUNDS: usize = 4;

/// What became of the role's half.
pub(super) struct RoleDone {
    /// The role as it is now, or why it is not there.
    pub(super) role: Result<RoleStatus, Failure>,
    /// What of its rights cannot be as declared.
    pub(super) problems: Vec<Failure>,
    /// What people should know although all is as declared.
    pub(super) notes: Vec<String>,
    /// Steps that the server refused although it made others.
    pub(super) refused: Vec<(RefusedStep, Failure)>,
    /// Whether steps failed: the half rests before they are tried again.
    pub(super) tried: bool,
    /// What was done, for the event.
    pub(super) change: Option<RoleChange>,
}

impl RoleDone {
    /// Nothing was done, for this reason.
    pub(super) fn failed(failure: Failure) -> Self {
        Self {
            role: Err(failure),
            problems: Vec::new(),
            notes: Vec::new(),
            refused: Vec::new(),
            tried: false,
            change: None,
        }
    }
}

pub(super) async fn carry_out(
    object: &EntraPostgresPrincipal,
    desired: &Desired,
    world: &World,
    steps: Steps,
    ctx: &Context,
) -> RoleDone {
    match settle_finalizer(object, desired, ctx).await {
        // Nobody would drop a role that is made now.
        Ok(false) if world.observed.record.object_id.is_none() => {
            return RoleDone::failed(ending::no_new_role(&desired.server));
        }
        Ok(_) => {}
        Err(failure) => return RoleDone::failed(failure),
    }
    let mut work = Work {
        desired,
        world: World {
            observed: world.observed.clone(),
            server: world.server.clone(),
            session: world.session.clone(),
            secret: None,
            ca: world.ca.clone(),
            interest: world.interest.clone(),
            trust: world.trust,
        },
        ctx,
        made: Made::default(),
        refused: Vec::new(),
        problems: Vec::new(),
        notes: Vec::new(),
    };
    let change = change_of(&steps);
    let adopted = match change {
        Some(RoleChange::RoleCreated) => false,
        Some(RoleChange::RoleAdopted) => true,
        _ => world.observed.record.adopted,
    };
    match work.run(steps).await {
        Ok(()) => {
            let Work {
                world,
                made,
                refused,
                problems,
                notes,
                ..
            } = work;
            RoleDone {
                role: match &world.observed.role {
                    Look::Known(facts) => role_status(
                        desired,
                        facts.as_ref(),
                        adopted || was_there(facts.as_ref()),
                    ),
                    Look::Unknown(failure) => Err(failure.clone()),
                },
                problems,
                notes,
                refused,
                tried: false,
                change: change.filter(|_| !made.is_empty()),
            }
        }
        Err(failure) => RoleDone {
            tried: true,
            ..RoleDone::failed(failure)
        },
    }
}

/// The role's half under way.
struct Work<'a> {
    desired: &'a Desired,
    world: World,
    ctx: &'a Context,
    /// Steps that were made in this pass: one that is wanted again had no effect.
    made: Made,
    refused: Vec<(RefusedStep, Failure)>,
    problems: Vec<Failure>,
    notes: Vec<String>,
}

impl Work<'_> {
    async fn run(&mut self, mut steps: Steps) -> Result<(), Failure> {
        for round in 0..=ROUNDS {
            self.problems.clone_from(&steps.problems);
            self.notes.clone_from(&steps.notes);
            self.leave_out(&mut steps);
            if steps.is_empty() {
                return Ok(());
            }
            if round == ROUNDS {
                self.put_off(&steps);
                return Ok(());
            }
            let session = self.session()?;
            still_wanted(self.desired, self.ctx)?;
            let made = steps.role.is_empty() || self.in_postgres(&session, &steps.role).await?;
            if made {
                self.inside(&session, &steps).await;
            }
            // What was done is seen; a pause of before says nothing about it.
            self.world.observed.role_hold = None;
            steps = self.next_steps()?;
        }
        Ok(())
    }

    /// Leaves out what was refused in this pass, and what had no effect.
    fn leave_out(&mut self, steps: &mut Steps) {
        let Self {
            made,
            refused,
            desired,
            world,
            ..
        } = self;
        let mut stays = |step: RefusedStep| {
            if refused.iter().any(|(other, _)| *other == step) {
                return false;
            }
            if made.had_no_effect(&step, &desired.role, &world.observed) {
                let failure = no_effect(desired, &step);
                refused.push((step, failure));
                return false;
            }
            true
        };
        steps
            .role
            .retain(|step| stays(RefusedStep::Role(step.clone())));
        for (database, inside) in &mut steps.inside {
            inside.retain(|step| stays(RefusedStep::Inside(database.clone(), step.clone())));
        }
        steps.inside.retain(|_, inside| !inside.is_empty());
    }

    /// Others change the same faster than it is done: what is left is tried again soon.
    fn put_off(&mut self, steps: &Steps) {
        let Desired { role, server, .. } = self.desired;
        let message = format!(
            "what role {:?} has on server {server} is changed by others all the while; it is tried again",
            role.as_str()
        );
        let failure = Failure::new(Class::Transient, Reason::DatabaseError, message);
        let role = steps.role.iter().cloned().map(RefusedStep::Role);
        let inside = steps.inside.iter().flat_map(|(database, steps)| {
            let steps = steps.iter().cloned();
            steps.map(|step| RefusedStep::Inside(database.clone(), step))
        });
        let left = role.chain(inside);
        self.refused
            .extend(left.map(|step| (step, failure.clone())));
    }

    /// False: the role's comment was changed since it was looked at, so that it was looked at again.
    async fn in_postgres(
        &mut self,
        session: &Session,
        steps: &[RoleStep],
    ) -> Result<bool, Failure> {
        let Self {
            desired,
            world,
            ctx,
            ..
        } = self;
        let basis = basis(world);
        let applied = session.apply(&desired.role, basis, steps, &world.interest);
        match applied.await {
            Ok(applied) => {
                // No snapshot tells them: what we change ourselves is no news to it.
                ctx.index.wake_rivals(desired);
                for step in steps.iter().cloned().map(RefusedStep::Role) {
                    self.made.add(step, &desired.role, &world.observed);
                }
                world.take(desired, applied.now, ctx);
                let refused = applied.refused.into_iter();
                self.refused
                    .extend(refused.map(|(step, failure)| (RefusedStep::Role(step), failure)));
                Ok(true)
            }
            Err(failure) if failure.reason == Reason::MarkerChanged => {
                world.look_past_the_catalog(desired, ctx).await;
                Ok(false)
            }
            // Somebody was faster: say whose it is now.
            Err(failure) if failure.reason == Reason::RoleExists => {
                world.look_at_role(desired, None, ctx).await;
                Err(self.next_steps().err().unwrap_or(failure))
            }
            Err(failure) => Err(failure),
        }
    }

    /// Works in the other databases, side by side.
    async fn inside(&mut self, session: &Session, steps: &Steps) {
        let Self { desired, world, .. } = self;
        let mut outdated = false;
        let changes = steps.inside.iter().map(async |(database, steps)| {
            let interest = world.interest.databases.get(database);
            let interest = interest.cloned().unwrap_or_default();
            let applied = session
                .apply_inside(&desired.role, basis(world), database, steps, &interest)
                .await;
            (database, steps, applied)
        });
        for (database, steps, applied) in join_all(changes).await {
            match applied {
                Ok(applied) => {
                    let step = |step: PrivilegeStep| RefusedStep::Inside(database.clone(), step);
                    let observed = &mut self.world.observed;
                    for step in steps.iter().cloned().map(step) {
                        self.made.add(step, &self.desired.role, observed);
                    }
                    let inside = &mut observed.inside;
                    inside.insert(database.clone(), Ok(applied.now));
                    let refused = applied.refused.into_iter();
                    self.refused
                        .extend(refused.map(|(refused, failure)| (step(refused), failure)));
                }
                Err(failure) if failure.reason == Reason::MarkerChanged => outdated = true,
                Err(failure) => {
                    let step = |step: PrivilegeStep| RefusedStep::Inside(database.clone(), step);
                    let steps = steps.iter().cloned();
                    self.refused
                        .extend(steps.map(|refused| (step(refused), failure.clone())));
                }
            }
        }
        if outdated {
            self.world
                .look_past_the_catalog(self.desired, self.ctx)
                .await;
        }
    }

    fn next_steps(&self) -> Result<Steps, Failure> {
        let now = self.ctx.reporter.clock.now();
        let cluster = self.ctx.index.cluster_id();
        match plan(self.desired, &self.world.observed, now, cluster).role? {
            RoleWork::Steps(steps) => Ok(steps),
            RoleWork::AfterToken => Err(unreadable(self.desired)),
        }
    }

    fn session(&self) -> Result<Session, Failure> {
        let session = self.world.session.clone();
        let session = session.ok_or_else(|| unreadable(self.desired))?;
        Ok(session.of(&self.desired.key.namespace))
    }
}

/// What the steps were decided on.
fn basis(world: &World) -> Basis {
    match &world.observed.role {
        Look::Known(Some(facts)) => facts.basis(),
        _ => Basis::Nothing,
    }
}

/// The finalizer is there exactly while the role shall be dropped in the end; set before the role is made,
/// that of the server before. False: no server would wait for it, and none was set.
pub(super) async fn settle_finalizer(
    object: &EntraPostgresPrincipal,
    desired: &Desired,
    ctx: &Context,
) -> Result<bool, Failure> {
    match desired.deletion {
        DeletionPolicy::Drop | DeletionPolicy::Reassign => {
            finalizers::hold_principal(object, &desired.server, ctx).await
        }
        DeletionPolicy::Retain => {
            finalizers::release_principal(object, ctx).await?;
            Ok(true)
        }
    }
}

fn role_status(
    desired: &Desired,
    facts: Option<&RoleFacts>,
    adopted: bool,
) -> Result<RoleStatus, Failure> {
    let label = facts.and_then(|role| role.label.as_ref());
    let label = label.ok_or_else(|| unreadable(desired))?;
    Ok(RoleStatus {
        name: desired.role.as_str().to_owned(),
        object_id: label.object_id.to_string(),
        adopted,
    })
}

/// Whether the role was there before the object, as its marker says.
fn was_there(facts: Option<&RoleFacts>) -> bool {
    let marker = facts.and_then(|facts| facts.marker().ok().flatten());
    marker.is_some_and(|marker| marker.came.is_some_and(|came| !came.is_recorded()))
}

fn change_of(steps: &Steps) -> Option<RoleChange> {
    let adopts = steps.role.contains(&RoleStep::ForgetPassword);
    let only_marks = steps
        .role
        .iter()
        .all(|step| matches!(step, RoleStep::Mark(_)));
    match steps.role.first() {
        Some(RoleStep::Create(_)) => Some(RoleChange::RoleCreated),
        Some(_) if adopts => Some(RoleChange::RoleAdopted),
        Some(RoleStep::Label { .. }) => Some(RoleChange::RoleBound),
        Some(_) if only_marks && steps.inside.is_empty() => Some(RoleChange::RoleMarked),
        None if steps.inside.is_empty() => None,
        _ => Some(RoleChange::RoleAltered),
    }
}

fn no_effect(desired: &Desired, step: &RefusedStep) -> Failure {
    let place = match step {
        RefusedStep::Role(_) => "postgres",
        RefusedStep::Inside(database, _) => database,
    };
    let message = format!(
        "server {} took a change of role {:?} in database {place:?} and nothing changed there: the \
         operator's administrator lacks the right, or somebody undoes it at once",
        desired.server,
        desired.role.as_str()
    );
    Failure::new(Class::Denied, Reason::NotGrantable, message)
}

fn unreadable(desired: &Desired) -> Failure {
    let message = format!(
        "role {:?} on server {} has no Entra label that can be read; it is looked at again",
        desired.role.as_str(),
        desired.server
    );
    Failure::new(Class::Transient, Reason::DatabaseError, message)
}
