//! A search over sequences: objects of two namespaces, each allowed, deletions, a database administrator,
//! and spoiled markers. No sequence may reach what no single object could have
//! had, nor forget what was given. Red when one of the checks is taken out: see the rules in `world`.

mod world;

use stateright::{Checker, Model, Property};

use world::{Act, RULES, World};

/// So many objects are made at most, and a database administrator acts so often.
struct Search {
    made: u8,
    by_hand: u8,
}

impl Model for Search {
    type State = World;
    type Action = Act;

    fn init_states(&self) -> Vec<World> {
        World::first()
    }

    fn actions(&self, state: &World, actions: &mut Vec<Act>) {
        actions.extend(state.acts(self.made, self.by_hand));
    }

    fn next_state(&self, state: &World, act: Act) -> Option<World> {
        let mut next = state.clone();
        next.take(act);
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let holds: [fn(&Self, &World) -> bool; 6] = [
            |_, world| world.broken != Some(RULES[0]),
            |_, world| world.broken != Some(RULES[1]),
            |_, world| world.broken != Some(RULES[2]),
            |_, world| world.broken != Some(RULES[3]),
            |_, world| world.broken != Some(RULES[4]),
            |_, world| world.broken != Some(RULES[5]),
        ];
        let rules = RULES.into_iter().zip(holds);
        rules
            .map(|(rule, holds)| Property::always(rule, holds))
            .collect()
    }
}

/// So many states in a row, of which the last is not judged: two more than acts.
const DEPTH: usize = 6;

#[test]
fn no_sequence_of_allowed_objects_reaches_what_no_single_one_could_have() {
    let search = Search {
        made: 2,
        by_hand: 1,
    };
    let checker = search.checker().target_max_depth(DEPTH).spawn_bfs().join();
    println!(
        "states {}, unique {}, depth {}",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth()
    );
    let broken = checker.discoveries().into_iter().next();
    let broken = broken.map(|(rule, path)| (rule, path.into_actions()));
    assert!(broken.is_none(), "{broken:#?}");
    assert!(
        checker.unique_state_count() > 10_000,
        "nothing was searched"
    );
}
