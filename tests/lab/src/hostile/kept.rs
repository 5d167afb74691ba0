//! The operator of a hostile run: under the chart's limits, started again when it ends, its memory
//! looked at. Must not know what is done to it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::verdict::Numbers;
use super::world::{OPERATOR, World};
use crate::confined::Limits;
use crate::operator::{OperatorOptions, OperatorProcess};

/// The chart's limit, and fewer descriptors than any machine gives.
const MEMORY: u64 = 256 << 20;
const DESCRIPTORS: u64 = 1024;
const START: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(200);

pub(super) struct Kept {
    inner: Arc<Mutex<Inner>>,
    _looking: JoinSet<()>,
}

/// It has another with each start.
pub(super) struct Addresses(Arc<Mutex<Inner>>);

impl Addresses {
    pub(super) async fn now(&self) -> Option<String> {
        let inner = self.0.lock().await;
        let url = inner.running.as_ref()?.metrics_url();
        let address = url.strip_prefix("http://")?.strip_suffix("/metrics")?;
        Some(address.to_owned())
    }
}

struct Inner {
    running: Option<OperatorProcess>,
    options: OperatorOptions,
    limits: Limits,
    ends: Vec<String>,
}

impl Kept {
    pub(super) async fn start(dir: &Path, world: &World) -> Result<Self> {
        let limits = Limits::new(MEMORY, Some(DESCRIPTORS)).unwrap_or_else(|error| {
            eprintln!("no control group for the operator ({error:#}): its memory is looked at");
            Limits::without_group(MEMORY, Some(DESCRIPTORS))
        });
        let options = OperatorOptions {
            lease_namespace: Some(OPERATOR.to_owned()),
            envs: vec![
                ("POD_NAMESPACE".to_owned(), OPERATOR.to_owned()),
                // It comes back under its name, and still has the lease.
                ("POD_NAME".to_owned(), "operator".to_owned()),
            ],
            limits: Some(limits.clone()),
            ..OperatorOptions::new(dir, &world.kubeconfig, world.configuration()?)
        };
        let running = Some(OperatorProcess::start_ready(&options, START).await?);
        let inner = Arc::new(Mutex::new(Inner {
            running,
            options,
            limits,
            ends: Vec::new(),
        }));
        let looked_at = Arc::clone(&inner);
        let mut looking = JoinSet::new();
        looking.spawn(async move {
            loop {
                looked_at.lock().await.keep();
                tokio::time::sleep(LOOK).await;
            }
        });
        Ok(Self {
            inner,
            _looking: looking,
        })
    }

    /// Where its HTTP server listens, for one who asks again and again.
    pub(super) fn addresses(&self) -> Addresses {
        Addresses(Arc::clone(&self.inner))
    }

    pub(super) async fn so_far(&self) -> String {
        let inner = self.inner.lock().await;
        let peak = inner.limits.peak() >> 20;
        format!(
            "operator: peak {peak} MiB, ended {} times",
            inner.ends.len()
        )
    }

    /// As a roll-out does: it is asked to end, and the next one starts.
    pub(super) async fn replace(&self) -> Result<()> {
        let mut inner = self.inner.lock().await;
        inner.look();
        if let Some(running) = inner.running.take()
            && let Err(error) = running.stop().await
        {
            inner
                .ends
                .push(format!("it did not end as asked: {error:#}"));
        }
        inner.running = Some(OperatorProcess::start(&inner.options)?);
        let running = inner.running.as_mut().context("it was just started")?;
        let ready = running.wait_ready(START).await;
        if let Err(error) = ready {
            inner
                .ends
                .push(format!("not ready after its replacement: {error:#}"));
        }
        Ok(())
    }

    pub(super) async fn stop(&self, numbers: &mut Numbers) {
        let mut inner = self.inner.lock().await;
        inner.look();
        if let Some(running) = inner.running.take() {
            let log = running.log().display().to_string();
            if let Err(error) = running.stop().await {
                inner
                    .ends
                    .push(format!("it did not end as asked ({log}): {error:#}"));
            }
        }
        numbers.peak = inner.limits.peak();
        numbers.limit = inner.limits.bytes();
        numbers.restarts = inner.ends.len();
        // The rest is in the log.
        let ends = inner
            .ends
            .iter()
            .take(3)
            .filter_map(|end| end.lines().next());
        numbers.wrong.extend(ends.map(str::to_owned));
        let kills = inner.limits.kills();
        if kills > 0 {
            numbers
                .wrong
                .push(format!("killed {kills} times above its memory limit"));
        }
    }
}

impl Inner {
    fn look(&self) {
        if let Some(running) = &self.running {
            self.limits.look(running.pid());
        }
    }

    /// Starts it again at once if it has ended, as the kubelet does.
    fn keep(&mut self) {
        self.look();
        let Some(running) = &mut self.running else {
            return;
        };
        if let Err(error) = running.check() {
            eprintln!("the operator is started again");
            self.ends.push(format!("{error:#}"));
            match OperatorProcess::start(&self.options) {
                Ok(started) => self.running = Some(started),
                Err(error) => self.ends.push(format!("{error:#}")),
            }
        }
    }
}
