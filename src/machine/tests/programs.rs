//! Handlers that make sense: programs of random statements, run from the top as an SDK does.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::fixtures::*;
use super::properties::terms;
use crate::machine::*;

/// One statement of a durable function.
#[derive(Debug, Clone)]
pub(super) enum Stmt {
    /// Fails so many times before it works.
    Run(u32),
    Once,
    Sleep(u64),
    Signal(Option<u64>),
    Callback(Option<u64>),
    Child,
    Send,
    Event(Option<u64>),
    Publish,
    Task(u8),
    All(Vec<Stmt>),
    Any(Vec<Stmt>),
}

fn leaf() -> impl Strategy<Value = Stmt> {
    let timeout = || prop::option::weighted(0.3, 0..200_000u64);
    prop_oneof![
        (0..200_000u64).prop_map(Stmt::Sleep),
        timeout().prop_map(Stmt::Signal),
        timeout().prop_map(Stmt::Callback),
        Just(Stmt::Child),
        Just(Stmt::Send),
        timeout().prop_map(Stmt::Event),
        Just(Stmt::Publish),
        any::<u8>().prop_map(Stmt::Task),
    ]
}

pub(super) fn program() -> impl Strategy<Value = Vec<Stmt>> {
    let some = || prop::collection::vec(leaf(), 1..4);
    let stmt = prop_oneof![
        4 => (0..5u32).prop_map(Stmt::Run),
        2 => Just(Stmt::Once),
        4 => leaf(),
        1 => some().prop_map(Stmt::All),
        1 => some().prop_map(Stmt::Any),
    ];
    prop::collection::vec(stmt, 1..7)
}

/// Runs a program from the top against what an invocation shows, as an SDK does.
pub(super) struct Handler<'a> {
    pub(super) program: &'a [Stmt],
    /// It does all of it so many times, each in a generation of its own.
    pub(super) generations: i32,
    /// In which epochs the body of each at-most-once step ran.
    pub(super) ran: HashMap<String, HashSet<i32>>,
}

impl Handler<'_> {
    pub(super) fn answer(&mut self, sent: &Sent) -> Answer {
        let view = &sent.view;
        let mut said = vec![];
        for (n, stmt) in self.program.iter().enumerate() {
            let id = format!("s{n}");
            if view.standing(&id) != Standing::Pending {
                continue;
            }
            let known = view.steps.get(&id);
            let wait = match stmt {
                Stmt::Run(failures) => {
                    let past = view.offered;
                    match known.map(|s| (s.attempts, &s.state)) {
                        Some((_, StepState::Trying { due, .. })) if *due > past => {
                            return ops(said).awaiting(&id);
                        }
                        before => {
                            let attempts = before.map_or(0, |(n, _)| n);
                            if attempts < *failures {
                                said.push(failure(&id, error(Again::Default)));
                                return ops(said).awaiting(&id);
                            }
                            said.push(value(&id, "1"));
                            continue;
                        }
                    }
                }
                Stmt::Once => {
                    let Some(StepState::Begun { licence, .. }) = known.map(|s| &s.state) else {
                        said.push(start(&id));
                        return ops(said);
                    };
                    assert_eq!(*licence, sent.epoch, "shown as begun, yet not to be run");
                    let ran = self.ran.entry(format!("{}/{id}", view.generation)).or_default();
                    ran.insert(sent.epoch);
                    said.push(value(&id, "1"));
                    continue;
                }
                Stmt::All(of) | Stmt::Any(of) => {
                    let ids: Vec<String> = (0..of.len()).map(|k| format!("{id}/{k}")).collect();
                    for (id, stmt) in ids.iter().zip(of) {
                        said.extend((!view.steps.contains_key(id)).then(|| ask(id, stmt)));
                    }
                    let of = ids.into_iter().map(Tree::Step).collect();
                    if matches!(stmt, Stmt::All(_)) { Tree::All(of) } else { Tree::Any(of) }
                }
                leaf => {
                    said.extend(known.is_none().then(|| ask(&id, leaf)));
                    Tree::Step(id)
                }
            };
            if wait.standing(&|id| view.standing(id)) == Standing::Pending {
                return ops(said).ending(Terminal::Await(wait));
            }
        }
        if view.generation < self.generations {
            return ops(said).continuing();
        }
        ops(said).result()
    }
}

fn ask(id: &str, stmt: &Stmt) -> Op {
    match stmt {
        Stmt::Sleep(length) => sleep(id, *length),
        Stmt::Signal(timeout) => signal(id, "n0", *timeout),
        Stmt::Callback(timeout) => callback(id, *timeout),
        Stmt::Child => invoke(id, Close::Cancel),
        Stmt::Send => send(id),
        Stmt::Event(timeout) => listen(id, *timeout),
        Stmt::Publish => publish(id),
        Stmt::Task(how) => task(id, &terms(*how)),
        _ => panic!("not a leaf: {stmt:?}"),
    }
}
