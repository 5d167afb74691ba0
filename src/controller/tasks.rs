//! Tasks that work as long as the process: one that ends, or panics, ends it. Must not be used for work that
//! has an end.

use std::collections::HashMap;

use tokio::task::{Id, JoinSet};

use crate::model::{Class, Failure, Reason};

/// The tasks, with names for people. They end with this.
#[derive(Debug, Default)]
pub struct Tasks {
    running: JoinSet<()>,
    names: HashMap<Id, String>,
}

impl Tasks {
    /// Starts a task that is not to end.
    pub fn spawn(&mut self, name: String, work: impl Future<Output = ()> + Send + 'static) {
        let id = self.running.spawn(work).id();
        self.names.insert(id, name);
    }

    /// Returns when a task has ended: what was watched or routed by it is not any more, and only a new
    /// process helps. Without tasks it never returns.
    pub async fn ended(&mut self) -> Failure {
        let Some(ended) = self.running.join_next_with_id().await else {
            return std::future::pending().await;
        };
        let (id, how) = match ended {
            Ok((id, ())) => (id, "ended by itself"),
            Err(error) if error.is_panic() => (error.id(), "panicked"),
            Err(error) => (error.id(), "was cancelled"),
        };
        let name = self.names.get(&id).map_or("a task", String::as_str);
        let message = format!(
            "a defect of the operator: {name} {how}, so that changes would be missed; the process ends and \
             starts again"
        );
        Failure::new(Class::Transient, Reason::Internal, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Red when: a task that panics is not noticed, or not named.
    #[tokio::test]
    async fn a_task_that_ends_or_panics_is_named() {
        for (work, how) in [(true, "panicked"), (false, "ended by itself")] {
            let mut tasks = Tasks::default();
            tasks.spawn("the other".to_owned(), std::future::pending());
            tasks.spawn("the watch of x".to_owned(), async move {
                assert!(!work, "a defect");
            });
            let failure = tasks.ended().await;
            assert!(
                failure.message.contains(&format!("the watch of x {how}")),
                "{failure}"
            );
            assert_eq!(failure.reason, Reason::Internal);
        }
    }
}
