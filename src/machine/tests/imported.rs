//! Laws of runs that are imported: whatever a document says, its rows are read back as that run.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::value::RawValue;

use crate::machine::*;

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).expect("JSON")
}

fn moment() -> impl Strategy<Value = Timestamp> {
    (0..4_000_000_000_000_000_i64).prop_map(Timestamp::from_micros)
}

fn json() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "null",
        "1.0",
        "\"x\"",
        "[ 1 ]",
        "{}",
        r#"{"type":"A","message":"m"}"#,
        r#"{"id":3}"#,
    ])
}

fn op() -> impl Strategy<Value = OpKind> {
    (0..=12_u8).prop_map(|code| OpKind::from_code(code).expect("it is known"))
}

fn attempt() -> impl Strategy<Value = ImportedAttempt> {
    (moment(), prop::option::of(moment()), 0..9_i32, json())
        .prop_map(|(at, due, ms, error)| ImportedAttempt { at, due, ms, error: raw(error) })
}

fn outcome() -> impl Strategy<Value = ImportedOutcome> {
    (moment(), any::<bool>(), json(), 0..9_i32).prop_map(|(at, ok, body, ms)| ImportedOutcome {
        at,
        ok,
        body: Bytes::from_static(body.as_bytes()),
        ms,
    })
}

type Parts = (OpKind, Option<Timestamp>, Vec<ImportedAttempt>, Option<ImportedOutcome>);

fn step() -> impl Strategy<Value = Parts> {
    let attempts = prop::collection::vec(attempt(), 0..3);
    (op(), prop::option::of(moment()), attempts, prop::option::of(outcome()))
}

fn steps(parts: Vec<Parts>) -> Vec<ImportedStep> {
    // Some under each other, as scopes have them.
    let id = |i: usize| if i % 3 == 2 { format!("s{}/{i}", i - 1) } else { format!("s{i}") };
    let mut steps: Vec<ImportedStep> = (0..)
        .zip(parts)
        .map(|(i, (op, asked_at, tried, settled))| ImportedStep {
            id: id(i),
            op,
            asked_at,
            tried,
            settled,
        })
        .collect();
    steps.sort_by_key(|step| step.settled.is_none());
    steps
}

proptest! {
    #[test]
    fn rows_of_an_import_are_read_back_as_it(
        parts in prop::collection::vec(step(), 0..9),
        (created_at, started_at, ended_at, now) in (moment(), prop::option::of(moment()), moment(), moment()),
        (generation, invocations, dep) in (1..9_i32, 0..9_u32, 0..3_i32),
        (status, output) in (prop::option::of(json()), json()),
        end in prop::sample::select(vec![
            Kind::Completed, Kind::EndFailed, Kind::Cancelled, Kind::TimedOut, Kind::Terminated,
        ]),
        hashed in any::<bool>(),
    ) {
        let tags = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let created: Created = serde_json::from_str(
            r#"{"function":"f","namespace":"n","input":[1.0],"seed":"0","by":"local"}"#,
        ).expect("it is one");
        let import = Import {
            id: RunId::new(created_at, 7),
            created: Created { tags: tags.clone(), ..created },
            created_at,
            started_at,
            ended_at,
            generation,
            invocations,
            custom_status: status.map(raw),
            hashes: hashed.then(|| ("s0".to_owned(), "x".to_owned())).into_iter().collect(),
            steps: steps(parts),
            end,
            body: Some(Bytes::from_static(output.as_bytes())),
        };
        let rows = import.rows(1, dep, now).expect("they are a run");
        // What the audit wants of every journal.
        let mut seq = 0;
        for (n, row) in (0..).zip(&rows) {
            seq += i32::from(row.kind.settles());
            prop_assert_eq!((row.n, row.seq, row.epoch, row.dep), (n, seq, 1, dep));
            prop_assert_eq!(row.kind.ends(), row.n + 1 == i32::try_from(rows.len()).expect("few"));
        }
        let last = rows.last().expect("the end");
        prop_assert_eq!((last.kind, last.at, last.due), (end, now, Some(ended_at)));
        let run = Run::recover(import.id, 1, &rows, false, true).expect("it was read before");
        prop_assert_eq!((run.created_at, run.started_at), (created_at, started_at));
        prop_assert_eq!((run.generation, run.invocations), (generation, invocations));
        prop_assert_eq!(run.turn, Turn::Ended { kind: end, body: import.body.clone(), at: ended_at });
        let said = run.custom_status.map(|s| String::from_utf8(s.to_vec()).expect("text"));
        prop_assert_eq!(said.as_deref(), status.filter(|s| *s != "null"));
        prop_assert_eq!(&run.tags, &tags);
        let settled = import.steps.iter().filter(|s| s.settled.is_some()).count();
        prop_assert_eq!(usize::try_from(run.seq).expect("few"), settled);
        for step in &import.steps {
            let found = run.steps.get(&step.id).map(|s| &s.state);
            match (&step.settled, found) {
                (Some(outcome), Some(StepState::Settled { ok, n, .. })) => {
                    prop_assert_eq!(*ok, outcome.ok);
                    let row = &rows[usize::try_from(*n).expect("it is there")];
                    prop_assert_eq!(row.body.as_ref(), Some(&outcome.body));
                    prop_assert_eq!((row.at, row.ms, &row.step), (outcome.at, outcome.ms, &step.id));
                }
                // A scope that is done with takes along what is under it.
                (_, None | Some(StepState::Closed)) => {}
                (None, Some(state)) => {
                    prop_assert!(!matches!(state, StepState::Settled { .. }), "{}", step.id);
                }
                (Some(_), Some(state)) => prop_assert!(false, "{}: {state:?}", step.id),
            }
        }
        // It can be erased, and is the run that it was.
        let erased: Vec<Row> = rows.iter().map(|r| r.erased(now).expect("it can be")).collect();
        let left = Run::recover(import.id, 1, &erased, false, true).expect("it is a run still");
        prop_assert_eq!((left.seq, left.ended()), (run.seq, true));
        prop_assert_eq!(left.created.erased_at.map(Timestamp::as_millis), Some(now.as_millis()));
    }
}
