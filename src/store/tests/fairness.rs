//! Values take turns at a limit: whom a slot goes to, whatever is asked and given back.

use std::collections::BTreeMap;

use super::*;
use crate::machine::NodeId;

/// A run that waits, as the test knows it.
#[derive(Debug, Clone)]
struct Waits {
    run: RunId,
    priority: i16,
    value: usize,
    born: Timestamp,
    /// How often runs of each value went since a run of its value did, or since none waited.
    passed_by: BTreeMap<usize, u32>,
}

fn at(b: &Bench) -> LimitKey {
    LimitKey {
        of: LimitOf::Function(b.function),
        rule: "concurrency".to_owned(),
        key: String::new(),
    }
}

#[tokio::test]
async fn the_oldest_of_each_value_goes_in_turn_whatever_happens() {
    let mut b = Bench::new().await;
    let (at, node) = (at(&b), NodeId::new(b.now, 5));
    let values = ["loud", "busy", "", "quiet"];
    let mut waiting: Vec<Waits> = Vec::new();
    let mut running: Vec<RunId> = Vec::new();
    // Runs that gave their slot back and ask again later, older than those that wait then.
    let mut asleep: Vec<(RunId, i16, usize, Timestamp)> = Vec::new();
    let mut grants = 0;
    for step in 0..250 {
        let most = if step < 150 { Most::Slots(1) } else { Most::Slots(4) };
        let mut asks = Vec::new();
        // Loud comes all the time, quiet hardly ever.
        let chance = b.chance() >> 40;
        let one = match chance % 16 {
            0..8 => 0,
            8..12 => 1,
            12..15 => 2,
            _ => 3,
        };
        let so_many = if step < 200 { 1 + chance / 16 % 3 } else { 0 };
        for _ in 0..so_many {
            let wakes = (b.chance() >> 40) % 4 == 0;
            let (run, priority, value, born) = match asleep.pop() {
                Some(sleeper) if wakes => sleeper,
                other => {
                    asleep.extend(other);
                    let priority = if (b.chance() >> 40) % 8 == 0 { 5 } else { 0 };
                    (b.run_id(3), priority, one, b.now)
                }
            };
            let fair = Some(values[value].to_owned());
            asks.push(Ask {
                at: at.clone(),
                most,
                ns: NS,
                run,
                priority,
                born,
                fair,
                whole: false,
            });
            let passed_by = waiting.iter().find(|w| (w.priority, w.value) == (priority, value));
            let passed_by = passed_by.map_or_else(BTreeMap::new, |w| w.passed_by.clone());
            waiting.push(Waits { run, priority, value, born, passed_by });
        }
        let release = |run| Release { at: at.clone(), most, ns: NS, run: Some(run), node: None };
        let back: Vec<Release> = running.drain(..).map(release).collect();
        let passed = b.lane.pass(&back, &asks, node, &[], b.now).await.unwrap();
        let went: Vec<RunId> = passed.granted.iter().map(|g| g.run).collect();
        let room = if most == Most::Slots(1) { 1 } else { 4 };
        assert_eq!(went.len(), room.min(waiting.len()), "step {step}: all that can go, go");
        // In which order those of one pass went is not told.
        let mut had_turn = Vec::new();
        for run in &went {
            let i = waiting.iter().position(|w| w.run == *run).expect("it waited");
            let it = waiting.remove(i);
            grants += 1;
            for other in &mut waiting {
                let left = !went.contains(&other.run);
                assert!(!left || other.priority <= it.priority, "step {step}: the urgent go first");
                if other.priority == it.priority && other.value == it.value {
                    assert!(!left || other.born >= it.born, "step {step}: the older goes first");
                    had_turn.push((it.priority, it.value));
                } else if other.priority == it.priority {
                    *other.passed_by.entry(it.value).or_default() += 1;
                }
            }
            if it.priority == 0 && grants % 3 == 0 {
                asleep.push((it.run, it.priority, it.value, it.born));
            }
        }
        for waits in &mut waiting {
            if had_turn.contains(&(waits.priority, waits.value)) {
                waits.passed_by.clear();
            }
            let most = waits.passed_by.values().max().copied().unwrap_or(0);
            assert!(most <= 2, "step {step}: {waits:?} does not have its turn");
        }
        running = went;
    }
    assert!(grants > 250, "{grants}");
}

#[tokio::test]
async fn a_limit_that_loses_its_fair_lets_those_who_have_turns_go_first() {
    let mut b = Bench::new().await;
    let (at, node, most) = (at(&b), NodeId::new(b.now, 5), Most::Slots(1));
    let mut order = Vec::new();
    let mut asks = Vec::new();
    for fair in [Some("a"), Some("a"), Some("a"), Some("b"), None, None] {
        let (run, born) = (b.run_id(3), b.now);
        let fair = fair.map(str::to_owned);
        let at = at.clone();
        asks.push(Ask { at, most, ns: NS, run, priority: 0, born, fair, whole: false });
    }
    let mut running = None;
    for ask in &asks {
        let passed = b.lane.pass(&[], std::slice::from_ref(ask), node, &[], b.now).await.unwrap();
        running = running.or_else(|| passed.granted.first().map(|g| g.run));
    }
    while let Some(run) = running {
        order.push(asks.iter().position(|a| a.run == run).unwrap());
        if order.len() == 1 {
            let third = b.db.store.place_in_line(&at, asks[2].run).await.unwrap().unwrap();
            assert_eq!(third.before, 1);
        }
        let back = Release { at: at.clone(), most, ns: NS, run: Some(run), node: None };
        let passed = b.lane.pass(&[back], &[], node, &[], b.now).await.unwrap();
        running = passed.granted.first().map(|g| g.run);
    }
    assert_eq!(order, [0, 1, 2, 3, 4, 5]);
}
