//! What waits to be sent, in the order in which it is. Must not send anything.

use std::collections::VecDeque;

use crate::model::RoleStep;

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

/// Work by lane, first come first served within one.
#[derive(Debug)]
pub struct Queue<T> {
    creations: VecDeque<T>,
    bindings: VecDeque<T>,
    plain: VecDeque<T>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            creations: VecDeque::new(),
            bindings: VecDeque::new(),
            plain: VecDeque::new(),
        }
    }
}

impl<T> Queue<T> {
    /// Puts work at the end of its lane.
    pub fn push(&mut self, lane: Lane, work: T) {
        match lane {
            Lane::Creation => self.creations.push_back(work),
            Lane::Binding => self.bindings.push_back(work),
            Lane::Plain => self.plain.push_back(work),
        }
    }

    /// The next work that makes the server ask its directory.
    pub fn pop_directory(&mut self) -> Option<T> {
        self.creations
            .pop_front()
            .or_else(|| self.bindings.pop_front())
    }

    /// The next quick work.
    pub fn pop_plain(&mut self) -> Option<T> {
        self.plain.pop_front()
    }

    /// How much waits that makes the server ask its directory.
    pub fn directory_len(&self) -> usize {
        self.creations.len() + self.bindings.len()
    }

    /// Everything, first to last.
    pub fn drain(&mut self) -> impl Iterator<Item = T> {
        let creations = self.creations.drain(..);
        creations
            .chain(self.bindings.drain(..))
            .chain(self.plain.drain(..))
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

    #[test]
    fn new_roles_go_before_others_and_each_lane_keeps_its_order() {
        let mut queue = Queue::default();
        queue.push(Lane::Plain, "plain");
        queue.push(Lane::Binding, "binding");
        queue.push(Lane::Creation, "first");
        queue.push(Lane::Creation, "second");
        assert_eq!(queue.directory_len(), 3);
        assert_eq!(queue.pop_directory(), Some("first"));
        assert_eq!(queue.pop_plain(), Some("plain"));
        assert_eq!(queue.drain().collect::<Vec<_>>(), ["second", "binding"]);
        assert_eq!(queue.pop_directory(), None);
    }
}
