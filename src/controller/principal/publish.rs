//! Puts a token into a principal's Secret: never somebody else's Secret, never an older token over a
//! newer one, never a token that is not the principal's.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;

use crate::api::EntraPostgresPrincipal;
use crate::cluster::{SecretContent, SecretMeta, WriteError};
use crate::controller::Context;
use crate::controller::index::{Verified, version};
use crate::model::plan::{is_asked_for, not_ours};
use crate::model::publish::{Publication, check, could_publish, is_newer};
use crate::model::secret::{
    AfterConflict, Connection, Content, SecretFacts, TokenRecord, fingerprint, identity_of, life_of,
};
use crate::model::{Class, Desired, DesiredServer, DesiredToken, Failure, Look, ObjectId, Reason};
use crate::ports::{AccessToken, LoginCheck as _, SignIn};

use super::observe::{World, connection, inputs, is_namesake, layout, present};
use super::still_wanted;

/// What a Secret has after a pass.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Published {
    pub(super) record: TokenRecord,
    /// The exchange brought the token that is there already: look again at a later time.
    pub(super) not_yet: bool,
    /// What a sign-in with the token came to; `None`: none was tried.
    pub(super) login: Option<Result<(), Failure>>,
}

impl Published {
    fn kept(record: TokenRecord) -> Self {
        Self {
            record,
            not_yet: false,
            login: None,
        }
    }
}

/// The Secret of one principal.
pub(super) struct Target<'a> {
    pub(super) desired: &'a Desired,
    pub(super) wanted: &'a DesiredToken,
    pub(super) server: &'a DesiredServer,
    pub(super) world: &'a World,
    pub(super) role_id: Option<ObjectId>,
    /// Whether a new token is tried before it is published.
    pub(super) verify: bool,
    pub(super) ctx: &'a Context,
}

/// Whether a token could be published in this world: if not, none is asked for.
pub(super) fn ready(desired: &Desired, world: &World) -> Result<(), Failure> {
    let published = published_before(world).map(|record| record.object_id);
    let holders = world.observed.holders.as_ref();
    could_publish(desired, &world.ca, holders, published.as_ref())
}

fn published_before(world: &World) -> Option<TokenRecord> {
    match &world.observed.secret {
        Look::Known(Some(facts)) => facts.content.record().cloned(),
        _ => None,
    }
}

impl Target<'_> {
    /// Makes the Secret with its first token.
    pub(super) async fn create(&self, token: &AccessToken) -> Result<Published, Failure> {
        self.check(token)?;
        let login = self.prove(token).await?;
        let published = self.post(token).await?;
        Ok(Published { login, ..published })
    }

    async fn post(&self, token: &AccessToken) -> Result<Published, Failure> {
        let record = self.record(token);
        let content = self.content(&record, token.expose())?;
        let Desired { key, .. } = self.desired;
        still_wanted(self.desired, self.ctx)?;
        let (cluster, name) = (&self.ctx.cluster, &self.wanted.secret);
        let written = match self.orphan() {
            Some(seen) => {
                tracing::info!(object = %key, "Secret {name} lost its owner: it is taken over");
                cluster
                    .take_secret_over(&key.namespace, name, &content, seen)
                    .await
            }
            None => cluster.create_secret(&key.namespace, name, &content).await,
        };
        match written {
            Ok(meta) => self.published(&meta, record),
            Err(WriteError::Failed(failure)) => Err(failure),
            Err(WriteError::Conflict(message)) => Err(conflict(&message)),
        }
    }

    /// Puts a new token in place of the present one.
    pub(super) async fn renew(
        &self,
        token: &AccessToken,
        present_ends: Option<Timestamp>,
    ) -> Result<Published, Failure> {
        self.check(token)?;
        let Some(seen) = &self.world.secret else {
            return self.create(token).await;
        };
        let asked = |record: &TokenRecord| is_asked_for(self.desired, record);
        let newer = |record: &TokenRecord| {
            let sha256 = fingerprint(token.expose());
            // IMDS keeps tokens, each node its own: another one may be the older.
            let managed = self.wanted.identity.managed_identity.is_some();
            is_newer(&sha256, token.expires_at, record, asked(record) && !managed)
        };
        if let (Some(_), Some(record)) = (present_ends, self.present())
            && !newer(&record)
        {
            // That somebody asked is done with: there is nothing newer to get.
            let published = if asked(&record) {
                self.rewrite(self.desired.renew.as_ref()).await?
            } else {
                Published::kept(record)
            };
            return Ok(Published {
                not_yet: true,
                ..published
            });
        }
        let login = self.prove(token).await?;
        let record = self.record(token);
        let published = match self.apply(&record, token.expose(), seen).await {
            Err(WriteError::Conflict(message)) => self.after_conflict(token, message).await?,
            Err(WriteError::Failed(failure)) => return Err(failure),
            Ok(published) => published,
        };
        Ok(Published { login, ..published })
    }

    /// Writes the Secret again with the token it has.
    pub(super) async fn repair(&self) -> Result<Published, Failure> {
        self.rewrite(None).await
    }

    async fn rewrite(&self, renewed: Option<&String>) -> Result<Published, Failure> {
        let (mut record, token, meta) = self.read().await?;
        if renewed.is_some() {
            record.renewed = renewed.cloned();
        }
        match self.apply(&record, token.expose(), &meta).await {
            Err(WriteError::Conflict(message)) => Err(conflict(&message)),
            Err(WriteError::Failed(failure)) => Err(failure),
            Ok(published) => Ok(published),
        }
    }

    /// Tries to sign in with the token that is published already.
    pub(super) async fn verify(&self) -> Result<Published, Failure> {
        let (record, token, _) = self.read().await?;
        let login = Some(self.sign_in(&token).await);
        let kept = Published::kept(record);
        Ok(Published { login, ..kept })
    }

    /// The token that the Secret has now.
    async fn read(&self) -> Result<(TokenRecord, AccessToken, SecretMeta), Failure> {
        let Desired { key, .. } = self.desired;
        let read = self
            .ctx
            .cluster
            .read_secret(&key.namespace, &self.wanted.secret)
            .await?;
        let read = read.ok_or_else(|| conflict("the Secret is gone"))?;
        let present = present(&read);
        let token = present.token(&layout(self.wanted));
        let Some((record, token)) = token.filter(|_| self.owns(&read.meta)) else {
            return Err(conflict("the Secret was changed in the meantime"));
        };
        let token = AccessToken::new(
            token.to_owned(),
            record.object_id.clone(),
            record.expires_at,
        );
        Ok((record, token, read.meta))
    }

    /// Tries a new token, if that is wanted. Only a refusal keeps it from being published.
    async fn prove(&self, token: &AccessToken) -> Result<Option<Result<(), Failure>>, Failure> {
        if !self.verify {
            return Ok(None);
        }
        match self.sign_in(token).await {
            Err(refused) if refused.reason == Reason::LoginRefused => Err(refused),
            tried => Ok(Some(tried)),
        }
    }

    async fn sign_in(&self, token: &AccessToken) -> Result<(), Failure> {
        let sign_in = SignIn {
            server: &self.desired.server,
            role: &self.desired.role,
            database: &self.wanted.database,
            token,
        };
        self.ctx.sessions.sign_in(sign_in).await
    }

    /// Somebody wrote the Secret since we looked: only a later token goes over theirs.
    async fn after_conflict(
        &self,
        token: &AccessToken,
        message: String,
    ) -> Result<Published, Failure> {
        let Desired { key, .. } = self.desired;
        let read = self
            .ctx
            .cluster
            .read_secret(&key.namespace, &self.wanted.secret)
            .await?;
        let Some(read) = read else {
            return self.post(token).await;
        };
        if !self.owns(&read.meta) {
            let facts = SecretFacts {
                uid: read.meta.uid.clone(),
                resource_version: read.meta.resource_version.clone(),
                controller: read.meta.controller_uid.clone(),
                holder: read.meta.holder(),
                namesake: is_namesake(self.desired, &read.meta),
                orphan: false,
                content: Content::Broken,
            };
            return Err(not_ours(self.desired, &self.wanted.secret, &facts));
        }
        let theirs = Content::judge(&present(&read), &self.connection()?, &layout(self.wanted))
            .labelled(read.meta.is_labelled());
        match AfterConflict::decide(theirs, token.expires_at) {
            AfterConflict::Keep(record) => return self.published(&read.meta, record),
            AfterConflict::Repair => return self.repair().await,
            AfterConflict::Ours => {}
        }
        match self
            .apply(&self.record(token), token.expose(), &read.meta)
            .await
        {
            Ok(published) => Ok(published),
            Err(WriteError::Failed(failure)) => Err(failure),
            Err(WriteError::Conflict(_)) => Err(conflict(&message)),
        }
    }

    async fn apply(
        &self,
        record: &TokenRecord,
        token: &str,
        seen: &SecretMeta,
    ) -> Result<Published, WriteError> {
        let content = self.content(record, token)?;
        let Desired { key, .. } = self.desired;
        let name = &self.wanted.secret;
        let meta = self
            .ctx
            .cluster
            .apply_secret(&key.namespace, name, &content, seen)
            .await?;
        Ok(self.published(&meta, record.clone())?)
    }

    fn check(&self, token: &AccessToken) -> Result<(), Failure> {
        let published = self.present().map(|record| record.object_id);
        let publication = Publication {
            token: &token.object_id,
            role: self.role_id.as_ref(),
            holders: self.world.observed.holders.as_ref(),
            published: published.as_ref(),
        };
        check(self.desired, publication)
    }

    fn present(&self) -> Option<TokenRecord> {
        published_before(self.world)
    }

    fn record(&self, token: &AccessToken) -> TokenRecord {
        let record = TokenRecord {
            issued_at: self.ctx.reporter.clock.now(),
            expires_at: token.expires_at,
            sha256: fingerprint(token.expose()),
            object_id: token.object_id.clone(),
            identity: identity_of(&self.wanted.identity),
            renewed: (self.desired.renew.clone())
                .or_else(|| self.present().and_then(|record| record.renewed)),
            lives: life_of(token.expose()),
        };
        record.in_seconds()
    }

    fn connection(&self) -> Result<Connection, Failure> {
        match &self.world.ca {
            Look::Known(ca) => Ok(connection(
                self.desired,
                self.wanted,
                self.server,
                ca.as_ref(),
            )),
            Look::Unknown(cause) => Err(cause.clone()),
        }
    }

    fn content(&self, record: &TokenRecord, token: &str) -> Result<SecretContent, Failure> {
        let layout = self.wanted.layout.as_ref().map_err(Clone::clone)?;
        let mut annotations = layout.annotations().clone();
        annotations.extend(record.annotations());
        Ok(SecretContent {
            owner: owner(self.desired),
            labels: layout.labels().clone(),
            annotations,
            data: layout.render(&self.connection()?, token, record.expires_at)?,
        })
    }

    /// Remembers the version just written or read, so that its watch event wakes nobody.
    fn published(&self, meta: &SecretMeta, record: TokenRecord) -> Result<Published, Failure> {
        let verified = Verified {
            version: version(meta),
            inputs: inputs(&layout(self.wanted), &self.connection()?),
            content: Content::Intact(record.clone()),
        };
        self.ctx.index.verify(&self.desired.uid, verified);
        Ok(Published::kept(record))
    }

    /// The Secret that is there without an owner and was this object's.
    fn orphan(&self) -> Option<&SecretMeta> {
        let seen = self.world.secret.as_ref()?;
        match &self.world.observed.secret {
            Look::Known(Some(facts)) if facts.orphan => Some(seen),
            _ => None,
        }
    }

    fn owns(&self, meta: &SecretMeta) -> bool {
        meta.controller_uid.as_ref() == Some(&self.desired.uid)
    }
}

fn owner(desired: &Desired) -> OwnerReference {
    OwnerReference {
        api_version: EntraPostgresPrincipal::api_version(&()).into_owned(),
        kind: EntraPostgresPrincipal::kind(&()).into_owned(),
        name: desired.key.name.clone(),
        uid: desired.uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

fn conflict(message: &str) -> Failure {
    let message = format!(
        "the Secret was written by somebody else just now: {message}; it is looked at again"
    );
    Failure::new(Class::Transient, Reason::ApiError, message)
}
