//! What is done at a moment: held against a naive model, one event after another.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use proptest::prelude::*;

use crate::machine::schedule::{
    Backfill, By, Decision, Overlap, Plan, ScheduleState, Spec, Timing, Way,
};
use crate::machine::{Kind, RunId, ScheduleId, Timestamp};

const BEGUN: i64 = 1_795_000_000;

fn second(n: i64) -> Timestamp {
    Timestamp::from_micros((BEGUN + n) * 1_000_000)
}

/// A schedule with a moment every ten seconds.
fn plan(with: impl FnOnce(&mut Spec)) -> Plan {
    let timing = Timing::Every { every: Duration::from_secs(10), anchor: second(0) };
    let mut spec = Spec::of(timing);
    with(&mut spec);
    Plan::of(ScheduleId::anywhere(second(0), 1), spec).expect("a plan")
}

/// Runs a schedule: carries out what it decides, and ends its runs.
struct Bench {
    plan: Plan,
    state: ScheduleState,
    live: VecDeque<(RunId, i64)>,
    /// Moments whose runs were started, in order.
    started: Vec<i64>,
    /// Moments whose runs were told to end.
    told: Vec<(i64, Way)>,
    ids: u128,
}

impl Bench {
    fn new(plan: Plan) -> Self {
        let state = ScheduleState::new(second(0), plan.spec.limited_actions);
        let (live, started, told) = (VecDeque::new(), Vec::new(), Vec::new());
        Self { plan, state, live, started, told, ids: 0 }
    }

    fn live(&self) -> Vec<RunId> {
        self.live.iter().map(|(run, _)| *run).collect()
    }

    fn carry_out(&mut self, decision: &Decision, now: Timestamp) {
        for (run, way) in &decision.end {
            let moment = self.live.iter().find(|(live, _)| live == run).expect("it is live").1;
            self.told.push((moment, *way));
        }
        for firing in &decision.start {
            self.ids += 1;
            let run = RunId::new(now, self.ids);
            let moment = firing.moment.as_secs() - BEGUN;
            self.live.push_back((run, moment));
            self.started.push(moment);
            self.state.started(firing, run, now);
        }
    }

    fn tick(&mut self, at: i64) {
        loop {
            let decision = self.state.decide(&self.plan, &self.live(), second(at));
            self.carry_out(&decision, second(at));
            let wakes = self.state.wakes_at(&self.plan, &decision, second(at));
            if wakes.is_none_or(|wakes| wakes > second(at)) {
                return;
            }
        }
    }

    fn end(&mut self, at: i64, kind: Kind) {
        if let Some((run, _)) = self.live.pop_front() {
            let pauses = self.plan.spec.pause_on_failure;
            self.state.run_ended(run, kind, None, pauses, second(at));
            self.tick(at);
        }
    }

    fn trigger(&mut self, at: i64, overlap: Option<Overlap>) {
        let decision = self.state.trigger(&self.plan, overlap, &self.live(), second(at));
        self.carry_out(&decision, second(at));
    }

    fn skipped(&self) -> u64 {
        self.state.skipped.values().sum()
    }

    /// Every moment so far has come to just one thing.
    fn accounts_for(&self, moments: u64) {
        let waiting = self.state.waiting.len() as u64;
        let all = self.state.fired + self.state.missed + self.skipped() + waiting;
        assert_eq!(all, moments, "{:?}", self.state);
    }
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Tick,
    End,
}

/// What a schedule is meant to do when everything happens at once, as short as it can be said.
#[derive(Default)]
struct Naive {
    live: usize,
    waiting: VecDeque<i64>,
    started: Vec<i64>,
    told: usize,
    ending: usize,
}

impl Naive {
    fn start(&mut self, moment: i64) {
        self.live += 1;
        self.started.push(moment);
    }

    fn moment(&mut self, overlap: Overlap, most: usize, moment: i64) {
        if overlap == Overlap::AllowAll || self.live < most {
            return self.start(moment);
        }
        match overlap {
            Overlap::AllowAll | Overlap::Skip => {}
            Overlap::BufferOne if !self.waiting.is_empty() => {}
            Overlap::BufferOne | Overlap::BufferAll => self.waiting.push_back(moment),
            Overlap::CancelOther | Overlap::TerminateOther => {
                if self.waiting.is_empty() && self.ending < self.live {
                    self.told += 1;
                    self.ending += 1;
                }
                self.waiting = VecDeque::from([moment]);
            }
        }
    }

    /// The oldest run ends.
    fn end(&mut self, overlap: Overlap, most: usize) {
        if self.live == 0 {
            return;
        }
        self.live -= 1;
        self.ending = self.ending.saturating_sub(1);
        while overlap == Overlap::AllowAll || self.live < most {
            let Some(moment) = self.waiting.pop_front() else { return };
            self.start(moment);
        }
    }
}

fn overlap() -> impl Strategy<Value = Overlap> {
    proptest::sample::select(Overlap::WORDS.map(|(_, overlap)| overlap).to_vec())
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![3 => Just(Event::Tick), 2 => Just(Event::End)];
    proptest::collection::vec(event, 1..60)
}

proptest! {
    #[test]
    fn decisions_are_those_of_the_naive_model(
        overlap in overlap(),
        most in 1usize..4,
        events in events(),
    ) {
        let most = if overlap == Overlap::AllowAll { 1 } else { most };
        let plan = plan(|spec| {
            spec.overlap = overlap;
            spec.max_running = u32::try_from(most).expect("few");
        });
        let (mut bench, mut naive) = (Bench::new(plan), Naive::default());
        let mut now = 0;
        for event in events {
            let until = now + if matches!(event, Event::Tick) { 10 } else { 1 };
            for moment in (now + 1..=until).filter(|at| at % 10 == 0) {
                naive.moment(overlap, most, moment);
            }
            now = until;
            bench.tick(now);
            if matches!(event, Event::End) {
                bench.end(now, Kind::Completed);
                naive.end(overlap, most);
            }
            prop_assert!(bench.live.len() <= most || overlap == Overlap::AllowAll);
            prop_assert_eq!(&bench.started, &naive.started);
            bench.accounts_for(u64::try_from(now / 10).expect("forward"));
        }
        prop_assert_eq!(bench.told.len(), naive.told);
        let once: BTreeSet<i64> = bench.started.iter().copied().collect();
        prop_assert_eq!(once.len(), bench.started.len(), "no moment has two runs");
    }

    /// Whoever looks seldom finds the same moments as who looks at every second, as long as none is
    /// too late.
    #[test]
    fn nothing_is_missed_inside_the_window_and_nothing_fired_outside(
        gaps in proptest::collection::vec(1i64..400, 1..20),
        window in 10u64..300,
    ) {
        let plan = plan(|spec| {
            spec.overlap = Overlap::AllowAll;
            spec.catchup_window = Duration::from_secs(window);
        });
        let mut bench = Bench::new(plan);
        let (mut now, mut expected) = (0i64, Vec::new());
        for gap in gaps {
            let before = now;
            now += gap;
            let window = i64::try_from(window).expect("small");
            expected.extend((before / 10 + 1..=now / 10).map(|n| n * 10).filter(|m| now - m <= window));
            bench.tick(now);
            bench.accounts_for(u64::try_from(now / 10).expect("forward"));
        }
        prop_assert_eq!(bench.started, expected);
    }
}

#[test]
fn a_start_that_waits_takes_its_turn_whatever_the_policy() {
    let mut bench = Bench::new(plan(|spec| spec.overlap = Overlap::BufferAll));
    for at in [10, 20, 30, 40] {
        bench.tick(at);
    }
    assert_eq!((bench.started.as_slice(), bench.state.waiting.len()), (&[10][..], 3));
    for at in [41, 42, 43] {
        bench.end(at, Kind::Completed);
    }
    assert_eq!(bench.started, [10, 20, 30, 40]);
}

#[test]
fn the_newest_takes_the_place_of_the_oldest_run() {
    for (overlap, way) in
        [(Overlap::CancelOther, Way::Cancel), (Overlap::TerminateOther, Way::Terminate)]
    {
        let mut bench = Bench::new(plan(|spec| spec.overlap = overlap));
        for at in [10, 20, 30] {
            bench.tick(at);
        }
        assert_eq!(
            (bench.started.as_slice(), bench.told.as_slice()),
            (&[10][..], &[(10, way)][..])
        );
        bench.end(31, Kind::Cancelled);
        assert_eq!(bench.started, [10, 30]);
        assert_eq!(bench.state.skipped.get("replaced"), Some(&1));
    }
    // What is caught up with at once comes to the newest alone.
    let mut bench = Bench::new(plan(|spec| spec.overlap = Overlap::CancelOther));
    bench.tick(55);
    assert_eq!(bench.started, [50]);
    bench.accounts_for(5);
}

#[test]
fn a_paused_schedule_starts_what_is_asked_for_alone() {
    let mut bench = Bench::new(plan(|spec| spec.overlap = Overlap::BufferAll));
    bench.tick(10);
    bench.tick(20);
    bench.state.pause(second(21), "ada", Some("why".to_owned()));
    bench.end(22, Kind::Completed);
    bench.tick(50);
    assert_eq!(bench.started, [10], "what waits by itself goes on waiting");
    bench.trigger(51, Some(Overlap::AllowAll));
    assert_eq!(bench.started, [10, 51]);
    bench.state.resume(second(55));
    bench.end(55, Kind::Completed);
    assert_eq!(bench.started, [10, 51, 20]);
    bench.end(56, Kind::Completed);
    bench.tick(60);
    assert_eq!(bench.started, [10, 51, 20, 60], "what went by while it was paused has gone by");
}

#[test]
fn only_what_it_starts_by_itself_counts_against_its_limit() {
    let mut bench = Bench::new(plan(|spec| spec.limited_actions = Some(2)));
    bench.tick(10);
    bench.tick(20);
    assert_eq!(bench.state.remaining, Some(1), "what is skipped does not count");
    bench.end(21, Kind::Completed);
    bench.trigger(22, None);
    bench.end(23, Kind::Completed);
    bench.tick(30);
    bench.end(31, Kind::Completed);
    bench.tick(1_000);
    assert_eq!((bench.started.as_slice(), bench.state.remaining), (&[10, 22, 30][..], Some(0)));
    let decision = Decision::default();
    assert_eq!(bench.state.wakes_at(&bench.plan, &decision, second(1_000)), None);
}

#[test]
fn a_failure_pauses_and_says_why() {
    let mut bench = Bench::new(plan(|spec| spec.pause_on_failure = true));
    bench.tick(10);
    bench.end(11, Kind::Cancelled);
    assert_eq!(bench.state.paused, None);
    bench.tick(20);
    bench.end(21, Kind::EndFailed);
    let paused = bench.state.paused.clone().expect("paused");
    assert_eq!(paused.by, "gateway");
    assert!(paused.note.is_some_and(|note| note.contains("failed")));
    bench.tick(100);
    assert_eq!(bench.started, [10, 20]);
}

#[test]
fn a_backfill_goes_one_after_another_and_gives_way() {
    let mut bench = Bench::new(plan(|_| {}));
    bench.state.backfills.push_back(Backfill::of(second(-40), second(-20), false, false));
    bench.tick(1);
    bench.end(2, Kind::Completed);
    bench.end(3, Kind::Completed);
    bench.end(4, Kind::Completed);
    // An interval has no moment before its anchor.
    assert_eq!(bench.started.len(), 0);
    let timing = Timing::cron("* * * * *", None).expect("an expression");
    let plan = Plan::of(ScheduleId::anywhere(second(0), 1), Spec::of(timing)).expect("a plan");
    let mut bench = Bench::new(plan);
    let minute = |n: i64| (BEGUN.div_euclid(60) + n) * 60 - BEGUN;
    let backfill = Backfill::of(second(minute(-5)), second(minute(-3)), false, false);
    bench.state.backfills.push_back(backfill);
    bench.tick(1);
    assert_eq!(bench.started, [minute(-5)]);
    bench.end(2, Kind::Completed);
    bench.end(3, Kind::Completed);
    assert_eq!(bench.started, [minute(-5), minute(-4), minute(-3)]);
    bench.end(4, Kind::Completed);
    assert!(bench.state.backfills.is_empty());
    let all = Backfill::of(second(minute(-500)), second(minute(-1)), true, true);
    bench.state.backfills.push_back(all);
    bench.tick(5);
    assert_eq!(bench.started.len(), 503, "in several decisions, each of a hundred");
    assert!(bench.state.recent.iter().all(|r| r.by == By::Backfill));
}
