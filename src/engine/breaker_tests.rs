//! How a circuit opens, is probed and closes.

use super::*;
use crate::machine::Shard;

const UNWELL: &str = "410";

fn at(secs: i64) -> Timestamp {
    Timestamp::from_micros(secs * 1_000_000)
}

fn run(n: u128) -> RunId {
    RunId::on_shard(at(0), Shard(1), n)
}

fn node(n: u128) -> NodeId {
    NodeId::new(at(0), n)
}

fn unhealthy() -> Health {
    Health::Unhealthy(UNWELL.to_owned())
}

/// Says the next word; the row is as it should be.
fn say(b: &mut Breaker) -> Word {
    let (word, forgotten) = b.next_word().expect("there is something to say");
    b.spoken(&word, forgotten, Some(true), node(1), Duration::ZERO);
    word
}

fn open() -> Breaker {
    let mut b = Breaker::default();
    assert!(b.admit(run(0)) && b.ended(run(0), &unhealthy(), at(0)));
    assert!(matches!(say(&mut b), Word::Opened { next_probe_at, .. } if next_probe_at == at(1)));
    b
}

fn row(probe_by: Option<NodeId>, next: i64) -> store::Health {
    store::Health {
        endpoint_id: 1,
        failures: 2,
        detail: UNWELL.to_owned(),
        opened_at: at(0),
        next_probe_at: at(next),
        probe_by,
    }
}

#[test]
fn five_gateway_failures_open_it_and_one_success_between_them_does_not() {
    let mut b = Breaker::default();
    let bad = Health::Suspicious("connection refused".to_owned());
    for _ in 0..4 {
        assert!(b.admit(run(0)) && !b.ended(run(0), &bad, at(0)));
    }
    assert!(b.admit(run(0)) && !b.ended(run(0), &Health::Answered, at(0)));
    for i in 0..5 {
        assert!(b.admit(run(0)));
        assert_eq!(b.ended(run(0), &bad, at(0)), i == 4);
    }
    assert!(!b.admit(run(0)) && b.parks());
}

#[test]
fn nothing_is_said_while_all_is_well() {
    let mut b = Breaker::default();
    assert!(b.admit(run(0)) && !b.ended(run(0), &Health::Answered, at(0)));
    assert!(b.next_word().is_none() && b.next_wake().is_none());
}

#[test]
fn an_open_circuit_lets_one_probe_out_at_a_time_and_closes_with_a_ramp() {
    let mut b = open();
    for n in 0..20 {
        b.gate(run(n));
    }
    assert!(b.released().is_empty());
    assert_eq!(b.next_wake(), Some(at(1)));
    assert!(b.probe_due(at(1)));
    b.ask(at(1));
    assert!(!b.probe_due(at(9)), "it has asked");
    assert_eq!(say(&mut b), Word::Ask { read: at(1), at: at(3) });
    assert_eq!(b.released(), [run(0)]);
    assert!(b.admit(run(0)));
    assert!(b.released().is_empty() && !b.admit(run(1)), "one probe at a time");
    assert!(!b.ended(run(0), &unhealthy(), at(1)));
    b.gate(run(0));
    assert!(matches!(say(&mut b), Word::Failed { failed: 1, .. }));
    assert_eq!(b.next_wake(), Some(at(3)), "the wait doubles");
    b.ask(at(3));
    say(&mut b);
    assert_eq!(b.released().len(), 1);
    assert!(b.admit(run(1)) && b.ended(run(1), &Health::Answered, at(3)));
    assert!(matches!(say(&mut b), Word::Closed { .. }));
    assert_eq!(b.released().len(), RAMP);
}

#[test]
fn what_was_sent_before_it_opened_neither_closes_it_nor_counts_as_the_probe() {
    let mut b = Breaker::default();
    assert!(b.admit(run(1)) && b.admit(run(2)) && b.admit(run(3)));
    assert!(b.ended(run(1), &unhealthy(), at(0)));
    say(&mut b);
    b.ask(at(1));
    say(&mut b);
    assert!(b.admit(run(4)));
    assert!(!b.ended(run(2), &Health::Answered, at(1)) && b.parks());
    assert!(!b.ended(run(3), &unhealthy(), at(1)) && b.next_word().is_none());
}

#[test]
fn whoever_is_not_first_waits_for_the_other_and_takes_over_from_a_dead_one() {
    let mut b = open();
    b.gate(run(0));
    b.ask(at(1));
    let (word, forgotten) = b.next_word().expect("it asks");
    b.spoken(&word, forgotten, Some(false), node(1), Duration::from_secs(5));
    assert!(!b.admit(run(0)) && b.next_wake().is_none());
    let theirs = row(Some(node(2)), 3);
    let hear = |b: &mut Breaker, alive: bool, begun| {
        b.hear(Some(&theirs), node(1), |_| alive, Duration::from_secs(begun))
    };
    assert!(!hear(&mut b, false, 4) && b.next_wake().is_none(), "an older tick");
    assert!(!hear(&mut b, true, 6) && b.next_wake().is_none(), "it is out");
    assert!(!hear(&mut b, false, 6));
    assert!(b.probe_due(at(1)), "nobody waits for the dead");
    b.ask(at(1));
    assert!(matches!(b.next_word(), Some((Word::Ask { read, .. }, _)) if read == at(3)));
}

#[test]
fn others_open_and_close_it() {
    let mut b = Breaker::default();
    let alive = |_| true;
    assert!(b.hear(Some(&row(None, 8)), node(1), alive, Duration::ZERO));
    assert_eq!(b.next_wake(), Some(at(8)));
    assert!(b.hear(None, node(1), alive, Duration::ZERO) && !b.parks());
    assert!(!b.hear(None, node(1), alive, Duration::ZERO));
}

#[test]
fn a_tick_does_not_undo_what_is_not_said_yet() {
    let mut b = Breaker::default();
    assert!(b.admit(run(0)) && b.ended(run(0), &unhealthy(), at(0)));
    assert!(!b.hear(None, node(1), |_| true, Duration::from_secs(1)) && b.parks());
    let (word, forgotten) = b.next_word().expect("it says so");
    assert!(!b.hear(None, node(1), |_| true, Duration::from_secs(1)) && b.parks());
    // Postgres was away: it is said again.
    b.spoken(&word, forgotten, None, node(1), Duration::from_secs(2));
    assert!(b.next_word().is_some_and(|(again, _)| again == word));
}

#[test]
fn a_probe_that_nobody_wants_is_given_back() {
    let mut b = open();
    b.ask(at(1));
    say(&mut b);
    assert!(b.give_back(at(1)) && !b.give_back(at(1)));
    assert!(
        matches!(say(&mut b), Word::Failed { failed: 0, next_probe_at, .. } if next_probe_at == at(2))
    );
    assert_eq!(b.next_wake(), Some(at(2)));
}
