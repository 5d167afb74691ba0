//! Objects that are to be looked at, each once however often it was woken: a mailbox never holds more than
//! there are objects. Must not know why.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, stream};
use tokio::sync::Notify;

use crate::model::ObjectKey;

/// The objects of one controller.
#[derive(Debug, Default)]
pub struct Mailbox {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    keys: HashSet<ObjectKey>,
    order: VecDeque<ObjectKey>,
}

impl Mailbox {
    /// Adds an object, unless it waits already.
    pub fn put(&self, key: ObjectKey) {
        let mut waiting = self.lock();
        if waiting.keys.insert(key.clone()) {
            waiting.order.push_back(key);
        }
        drop(waiting);
        self.filled.notify_one();
    }

    /// The object that has waited longest.
    pub fn take(&self) -> Option<ObjectKey> {
        let mut waiting = self.lock();
        let key = waiting.order.pop_front()?;
        waiting.keys.remove(&key);
        Some(key)
    }

    /// All objects as they come; for one reader.
    pub fn read(self: Arc<Self>) -> impl Stream<Item = ObjectKey> + Send + 'static {
        stream::unfold(self, |mailbox| async move {
            let key = mailbox.next().await;
            Some((key, mailbox))
        })
    }

    async fn next(&self) -> ObjectKey {
        loop {
            if let Some(key) = self.take() {
                return key;
            }
            self.filled.notified().await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    // Red when: put() adds an object that waits already.
    #[tokio::test]
    async fn a_mailbox_holds_each_object_once_whatever_wakes_it() {
        let mailbox = Arc::new(Mailbox::default());
        let key = |n: usize| ObjectKey::new("ns", n.to_string());
        for n in 0..10_000 {
            mailbox.put(key(n % 3));
        }
        assert_eq!(mailbox.lock().order.len(), 3);
        let first: Vec<_> = Arc::clone(&mailbox).read().take(3).collect().await;
        assert_eq!(first, [key(0), key(1), key(2)]);
        mailbox.put(key(1));
        assert_eq!(mailbox.take(), Some(key(1)));
        assert_eq!(mailbox.take(), None);
    }
}
