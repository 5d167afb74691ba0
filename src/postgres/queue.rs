//! What waits to be sent, in the order in which it is. Must not send anything.

use crate::model::{FairQueue, RoleStep};

/// Which of several waiting changes goes first: the smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Makes a role: somebody waits for it, and the server asks its directory.
    Creation,
    /// Binds a role anew: the server asks its directory.
    Binding,
    /// Everything else is quick.
    Plain,
}

impl Lane {
    /// The lane of a change.
    pub fn of(steps: &[RoleStep]) -> Self {
        let lane = |step: &RoleStep| match step {
            RoleStep::Create(_) => Self::Creation,
            RoleStep::Label { .. } => Self::Binding,
            _ => Self::Plain,
        };
        steps.iter().map(lane).min().unwrap_or(Self::Plain)
    }
}

/// Work by lane, in turn between namespaces within one. What came upon a lock waits apart, so that it is
/// behind all that may go on.
#[derive(Debug)]
pub struct Queue<T> {
    directory: FairQueue<Lane, T>,
    plain: FairQueue<(), T>,
    locked: FairQueue<(), T>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            directory: FairQueue::default(),
            plain: FairQueue::default(),
            locked: FairQueue::default(),
        }
    }
}

impl<T> Queue<T> {
    /// Puts work of that namespace at the end of its lane.
    pub fn push(&mut self, lane: Lane, namespace: &str, work: T) {
        match lane {
            Lane::Creation | Lane::Binding => drop(self.directory.push(lane, namespace, work)),
            Lane::Plain => drop(self.plain.push((), namespace, work)),
        }
    }

    /// Puts work at the end that came upon a lock.
    pub fn push_locked(&mut self, namespace: &str, work: T) {
        self.locked.push((), namespace, work);
    }

    /// The next work that makes the server ask its directory.
    pub fn pop_directory(&mut self) -> Option<T> {
        Some(self.directory.pop()?.item)
    }

    /// The next quick work.
    pub fn pop_plain(&mut self) -> Option<T> {
        Some(self.plain.pop()?.item)
    }

    /// The next work that came upon a lock.
    pub fn pop_locked(&mut self) -> Option<T> {
        Some(self.locked.pop()?.item)
    }

    /// How much waits that makes the server ask its directory.
    pub fn directory_len(&self) -> usize {
        self.directory.len()
    }

    /// Whether anything waits that came upon a lock.
    pub fn has_locked(&self) -> bool {
        !self.locked.is_empty()
    }

    /// Everything, first to last.
    pub fn drain(&mut self) -> impl Iterator<Item = T> {
        std::iter::from_fn(|| {
            self.pop_directory()
                .or_else(|| self.pop_plain())
                .or_else(|| self.pop_locked())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::PrincipalType;
    use crate::model::{NewRole, ObjectId};

    #[test]
    fn a_change_is_in_the_lane_of_its_slowest_step() {
        let create = RoleStep::Create(NewRole {
            object_id: None,
            kind: PrincipalType::User,
            admin: false,
            mfa: false,
            marker: String::new(),
        });
        let label = RoleStep::Label {
            object_id: ObjectId::parse("11111111-0000-0000-0000-00000000000a").unwrap(),
            kind: PrincipalType::User,
            admin: false,
            mfa: false,
        };
        let mark = RoleStep::Mark(String::new());
        assert_eq!(Lane::of(&[mark.clone(), create]), Lane::Creation);
        assert_eq!(Lane::of(&[mark.clone(), label]), Lane::Binding);
        assert_eq!(Lane::of(&[RoleStep::ForgetPassword, mark]), Lane::Plain);
    }

    // Red when: a namespace's changes wait behind all that another one has (findings A10).
    #[test]
    fn new_roles_go_before_others_and_namespaces_take_turns() {
        let mut queue = Queue::default();
        queue.push(Lane::Binding, "a", "binding");
        queue.push(Lane::Creation, "a", "first");
        queue.push(Lane::Creation, "a", "second");
        queue.push(Lane::Creation, "b", "other");
        queue.push_locked("a", "locked");
        for plain in ["a1", "a2", "a3"] {
            queue.push(Lane::Plain, "a", plain);
        }
        queue.push(Lane::Plain, "b", "b1");
        assert_eq!(queue.directory_len(), 4);
        assert_eq!(queue.pop_directory(), Some("first"));
        assert_eq!(queue.pop_plain(), Some("a1"));
        assert_eq!(queue.pop_plain(), Some("b1"));
        assert_eq!(
            queue.drain().collect::<Vec<_>>(),
            ["other", "second", "binding", "a2", "a3", "locked"]
        );
        assert_eq!(queue.pop_directory(), None);
        assert!(!queue.has_locked());
    }
}
