use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

fn all<P: Ord + Clone, R: Ord + Clone>(queue: &mut FairQueue<P, u32, R>) -> Vec<u32> {
    std::iter::from_fn(|| queue.pop().map(|popped| popped.item)).collect()
}

#[test]
fn the_more_urgent_priority_goes_first() {
    let mut queue = FairQueue::default();
    queue.push(2, "a", 20);
    queue.push(1, "a", 10);
    queue.push(2, "b", 21);
    queue.push(0, "b", 0);
    assert_eq!(all(&mut queue), [0, 10, 20, 21]);
}

#[test]
fn a_backlog_delays_another_namespace_by_one_turn() {
    let mut queue = FairQueue::default();
    for item in 0..10_000 {
        queue.push(1, "noisy", item);
    }
    queue.pop();
    queue.push(1, "quiet", 77_777);
    assert_eq!(queue.pop().map(|popped| popped.item), Some(1));
    assert_eq!(queue.pop().map(|popped| popped.item), Some(77_777));
}

#[test]
fn a_namespace_gains_nothing_by_leaving_and_coming_back() {
    let mut queue = FairQueue::default();
    let ticket = queue.push(1, "a", 1);
    queue.push(1, "b", 2);
    assert_eq!(queue.remove(&ticket), Some(1));
    queue.push(1, "a", 3);
    assert_eq!(all(&mut queue), [2, 3]);
}

#[test]
fn inside_a_namespace_the_smaller_rank_goes_first_and_equals_by_arrival() {
    let mut queue: FairQueue<u8, u32, u8> = FairQueue::default();
    queue.push_ranked(1, "a", 9, 90);
    queue.push_ranked(1, "a", 3, 30);
    queue.push_ranked(1, "a", 3, 31);
    queue.push_ranked(1, "b", 5, 50);
    assert_eq!(all(&mut queue), [30, 50, 31, 90]);
}

#[test]
fn who_is_passed_over_keeps_its_turn() {
    let mut queue = FairQueue::default();
    queue.push(1, "a", 1);
    queue.push(1, "b", 2);
    queue.push(1, "b", 3);
    queue.push(1, "c", 4);
    let not_a = |_: &i32, namespace: &str| namespace != "a";
    let popped = queue.pop_where(not_a, |item| *item != 2);
    assert_eq!(popped.map(|popped| popped.item), Some(3));
    assert!(queue.pop_where(|_, _| false, |_| true).is_none());
    assert_eq!(all(&mut queue), [1, 4, 2]);
}

#[test]
fn nothing_is_kept_of_what_is_gone() {
    let mut queue = FairQueue::default();
    let tickets: Vec<_> = (0..100)
        .map(|n| queue.push(n % 3, &format!("namespace {}", n % 7), n))
        .collect();
    for ticket in tickets.iter().skip(1).step_by(2) {
        assert!(queue.remove(ticket).is_some());
        assert_eq!(queue.remove(ticket), None);
    }
    assert_eq!((queue.len(), queue.iter().count()), (50, 50));
    assert_eq!(std::iter::from_fn(|| queue.pop()).count(), 50);
    assert!(queue.is_empty() && queue.levels.is_empty());
    assert_eq!(queue.remove(&tickets[0]), None);
}

/// The same, written as lists.
#[derive(Default)]
struct Model {
    levels: [VecDeque<(u8, VecDeque<u32>)>; 3],
}

impl Model {
    fn push(&mut self, priority: u8, namespace: u8, item: u32) {
        let level = &mut self.levels[usize::from(priority)];
        match level.iter_mut().find(|(name, _)| *name == namespace) {
            Some((_, items)) => items.push_back(item),
            None => level.push_back((namespace, VecDeque::from([item]))),
        }
    }

    fn pop_except(&mut self, shut: u8) -> Option<u32> {
        for level in &mut self.levels {
            let Some(at) = level.iter().position(|(name, _)| *name != shut) else {
                continue;
            };
            let (name, mut items) = level.remove(at)?;
            let item = items.pop_front();
            if !items.is_empty() {
                level.push_back((name, items));
            }
            return item;
        }
        None
    }

    fn remove(&mut self, item: u32) -> bool {
        for level in &mut self.levels {
            for (_, items) in level.iter_mut() {
                if let Some(at) = items.iter().position(|other| *other == item) {
                    items.remove(at);
                    level.retain(|(_, items)| !items.is_empty());
                    return true;
                }
            }
        }
        false
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push(u8, u8),
    Pop(u8),
    Remove(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_u8, 0..4_u8).prop_map(|(priority, namespace)| Step::Push(priority, namespace)),
        3 => (0..6_u8).prop_map(Step::Pop),
        1 => any::<usize>().prop_map(Step::Remove),
    ]
}

proptest! {
    #[test]
    fn it_is_the_queue_that_lists_would_be(steps in prop::collection::vec(step(), 0..200)) {
        let (mut queue, mut model) = (FairQueue::default(), Model::default());
        let mut tickets = Vec::new();
        for (number, step) in (0_u32..).zip(steps) {
            match step {
                Step::Push(priority, namespace) => {
                    let ticket = queue.push(priority, &namespace.to_string(), number);
                    tickets.push((number, ticket));
                    model.push(priority, namespace, number);
                }
                Step::Pop(shut) => {
                    let name = shut.to_string();
                    let popped = queue.pop_where(|_, namespace| namespace != name, |_| true);
                    prop_assert_eq!(popped.map(|popped| popped.item), model.pop_except(shut));
                }
                Step::Remove(_) if tickets.is_empty() => {}
                Step::Remove(at) => {
                    let (item, ticket) = &tickets[at % tickets.len()];
                    let removed = queue.remove(ticket);
                    prop_assert_eq!(removed.is_some(), model.remove(*item));
                    prop_assert!(removed.is_none_or(|removed| removed == *item));
                }
            }
            let left: usize = model.levels.iter().flatten().map(|(_, items)| items.len()).sum();
            prop_assert_eq!((queue.len(), queue.iter().count()), (left, left));
        }
    }
}
