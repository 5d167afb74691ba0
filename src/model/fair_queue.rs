//! A queue by priority that takes turns between namespaces inside each priority, so that one
//! namespace's backlog delays another by one turn and not by its length. Must not know what waits,
//! nor for what.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Items that wait, by priority (the smaller first), then in turn between namespaces, then inside one
/// namespace by rank (the smaller first; without one by arrival).
///
/// A namespace that was served goes to the end of its priority's turns, and one that is new begins
/// there. `push`, `pop` and `remove` cost O(log n). What is empty is dropped, so that the memory is that of
/// the items.
#[derive(Debug)]
pub struct FairQueue<P, T, R = ()> {
    levels: BTreeMap<P, Level<T, R>>,
    len: usize,
    next_number: u64,
}

/// One priority.
#[derive(Debug)]
struct Level<T, R> {
    lanes: HashMap<Arc<str>, Lane<T, R>>,
    /// Which namespace is next.
    turns: BTreeMap<u64, Arc<str>>,
}

/// What waits of one namespace in one priority; never empty.
#[derive(Debug)]
struct Lane<T, R> {
    turn: u64,
    items: BTreeMap<(R, u64), T>,
}

/// Finds a pushed item again, to remove it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ticket<P, R = ()> {
    priority: P,
    namespace: Arc<str>,
    rank: R,
    number: u64,
}

/// An item that was taken out, with what it was pushed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Popped<P, T> {
    /// Its priority.
    pub priority: P,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// The item.
    pub item: T,
}

impl<P: Ord + Clone, T> FairQueue<P, T> {
    /// Adds an item behind the others of its priority and namespace.
    pub fn push(&mut self, priority: P, namespace: &str, item: T) -> Ticket<P> {
        self.push_ranked(priority, namespace, (), item)
    }
}

impl<P: Ord + Clone, T, R: Ord + Clone> FairQueue<P, T, R> {
    /// Adds an item behind those of its priority and namespace whose rank is not larger.
    pub fn push_ranked(&mut self, priority: P, namespace: &str, rank: R, item: T) -> Ticket<P, R> {
        let number = self.next_number;
        self.next_number += 1;
        let level = self.levels.entry(priority.clone()).or_default();
        let namespace = level.insert(namespace, (rank.clone(), number), item);
        self.len += 1;
        Ticket {
            priority,
            namespace,
            rank,
            number,
        }
    }

    /// Takes the item whose turn it is.
    pub fn pop(&mut self) -> Option<Popped<P, T>> {
        self.pop_where(|_, _| true, |_| true)
    }

    /// Takes the first item, in the order of turns, whose namespace may be served in that priority and
    /// that may be served itself. Who is passed over keeps its turn. Asks once per namespace and priority, and
    /// per item of the namespaces that may be served.
    pub fn pop_where(
        &mut self,
        mut namespace_may: impl FnMut(&P, &str) -> bool,
        mut item_may: impl FnMut(&T) -> bool,
    ) -> Option<Popped<P, T>> {
        let found = self.levels.iter().find_map(|(priority, level)| {
            let (namespace, key) = level.find(
                |namespace| namespace_may(priority, namespace),
                &mut item_may,
            )?;
            Some((priority.clone(), namespace, key))
        });
        let (priority, namespace, key) = found?;
        let number = self.next_number;
        self.next_number += 1;
        let item = self.take(&priority, &namespace, &key, Some(number))?;
        Some(Popped {
            priority,
            namespace,
            item,
        })
    }

    /// Takes out all items that are wanted no longer, in no order that means anything. Nobody loses a turn.
    pub fn take_where(&mut self, mut unwanted: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut found = Vec::new();
        for (priority, level) in &self.levels {
            for (namespace, lane) in &level.lanes {
                let items = lane.items.iter().filter(|(_, item)| unwanted(item));
                found.extend(
                    items.map(|(key, _)| (priority.clone(), Arc::clone(namespace), key.clone())),
                );
            }
        }
        let taken = found.into_iter();
        taken
            .filter_map(|(priority, namespace, key)| self.take(&priority, &namespace, &key, None))
            .collect()
    }

    /// Takes an item out that is no longer wanted. `None`: it has been taken before.
    pub fn remove(&mut self, ticket: &Ticket<P, R>) -> Option<T> {
        let key = (ticket.rank.clone(), ticket.number);
        self.take(&ticket.priority, &ticket.namespace, &key, None)
    }

    /// How many items wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All items, priority by priority; inside a priority in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = (&P, &str, &T)> {
        self.levels.iter().flat_map(|(priority, level)| {
            level.lanes.iter().flat_map(move |(namespace, lane)| {
                let items = lane.items.values();
                items.map(move |item| (priority, namespace.as_ref(), item))
            })
        })
    }

    /// Takes one item out; with `end`, its namespace goes to the end of the turns.
    fn take(
        &mut self,
        priority: &P,
        namespace: &Arc<str>,
        key: &(R, u64),
        end: Option<u64>,
    ) -> Option<T> {
        let level = self.levels.get_mut(priority)?;
        let item = level.take(namespace, key, end)?;
        if level.lanes.is_empty() {
            self.levels.remove(priority);
        }
        self.len -= 1;
        Some(item)
    }
}

impl<P, T, R> Default for FairQueue<P, T, R> {
    fn default() -> Self {
        Self {
            levels: BTreeMap::new(),
            len: 0,
            next_number: 0,
        }
    }
}

impl<T, R> Default for Level<T, R> {
    fn default() -> Self {
        Self {
            lanes: HashMap::new(),
            turns: BTreeMap::new(),
        }
    }
}

impl<T, R: Ord + Clone> Level<T, R> {
    fn insert(&mut self, namespace: &str, key: (R, u64), item: T) -> Arc<str> {
        if let Some((name, _)) = self.lanes.get_key_value(namespace) {
            let name = Arc::clone(name);
            if let Some(lane) = self.lanes.get_mut(namespace) {
                lane.items.insert(key, item);
            }
            return name;
        }
        let name: Arc<str> = Arc::from(namespace);
        // The number of an item grows with each push and each pop: no turn is given twice.
        let turn = key.1;
        self.turns.insert(turn, Arc::clone(&name));
        let items = BTreeMap::from([(key, item)]);
        self.lanes.insert(Arc::clone(&name), Lane { turn, items });
        name
    }

    fn find(
        &self,
        mut namespace_may: impl FnMut(&str) -> bool,
        mut item_may: impl FnMut(&T) -> bool,
    ) -> Option<(Arc<str>, (R, u64))> {
        self.turns.values().find_map(|namespace| {
            let lane = self.lanes.get(namespace)?;
            if !namespace_may(namespace) {
                return None;
            }
            let (key, _) = lane.items.iter().find(|(_, item)| item_may(item))?;
            Some((Arc::clone(namespace), key.clone()))
        })
    }

    fn take(&mut self, namespace: &Arc<str>, key: &(R, u64), end: Option<u64>) -> Option<T> {
        let lane = self.lanes.get_mut(namespace)?;
        let item = lane.items.remove(key)?;
        if lane.items.is_empty() {
            self.turns.remove(&lane.turn);
            self.lanes.remove(namespace);
        } else if let Some(end) = end {
            self.turns.remove(&lane.turn);
            lane.turn = end;
            self.turns.insert(end, Arc::clone(namespace));
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests;
