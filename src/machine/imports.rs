//! A run that ended elsewhere as journal rows: what its document says, in the machine's own words.
//!
//! It begins as a generation does, with all that is known of the run, so that counts and times are
//! what they were; then comes what settled, in order, what never did, and the end.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::body::{Created, Noted, Tried, to_bytes};
use super::carried::Carried;
use super::id::RunId;
use super::row::{Flags, Kind, OpKind, Row};
use super::run::{Run, Unreadable};
use super::time::Timestamp;

/// A run that ended elsewhere.
#[derive(Debug, Clone)]
pub struct Import {
    /// Its id.
    pub id: RunId,
    /// What it was started with.
    pub created: Created,
    /// When.
    pub created_at: Timestamp,
    /// When it was first invoked.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Timestamp,
    /// From 1.
    pub generation: i32,
    /// Exchanges opened, at least.
    pub invocations: u32,
    /// What its handler said last, JSON.
    pub custom_status: Option<Box<RawValue>>,
    /// Input hashes of the steps of a strict function.
    pub hashes: BTreeMap<String, String>,
    /// Settled ones in order, then the others.
    pub steps: Vec<ImportedStep>,
    /// How it ended.
    pub end: Kind,
    /// Output or error.
    pub body: Option<Bytes>,
}

/// A step of it.
#[derive(Debug, Clone)]
pub struct ImportedStep {
    /// Its id.
    pub id: String,
    /// What it was.
    pub op: OpKind,
    /// When it was asked for, where the document says so.
    pub asked_at: Option<Timestamp>,
    /// Failed attempts after which another followed.
    pub tried: Vec<ImportedAttempt>,
    /// How it settled; none: it never did.
    pub settled: Option<ImportedOutcome>,
}

/// A failed attempt of it.
#[derive(Debug, Clone)]
pub struct ImportedAttempt {
    /// When it failed.
    pub at: Timestamp,
    /// When the next one was due.
    pub due: Option<Timestamp>,
    /// How long it took, in milliseconds.
    pub ms: i32,
    /// How it failed.
    pub error: Box<RawValue>,
}

/// How it settled.
#[derive(Debug, Clone)]
pub struct ImportedOutcome {
    /// When.
    pub at: Timestamp,
    /// Whether with a value.
    pub ok: bool,
    /// Value or error, JSON.
    pub body: Bytes,
    /// How long the work took, in milliseconds.
    pub ms: i32,
}

/// Rows that are being written.
struct Rows {
    put: Vec<Row>,
    seq: i32,
    dep: i32,
}

impl Rows {
    fn put(&mut self, kind: Kind, op: OpKind, at: Timestamp, step: &str, body: Bytes) -> &mut Row {
        self.seq += i32::from(kind.settles());
        let n = i32::try_from(self.put.len()).unwrap_or(i32::MAX);
        self.put.push(Row {
            n,
            kind,
            flags: Flags::of(op),
            seq: self.seq,
            // Whoever had it is not here.
            epoch: 1,
            cp: 0,
            ms: 0,
            dep: self.dep,
            at,
            due: None,
            refer: None,
            step: step.to_owned(),
            body: Some(body),
            pos: 0,
        });
        let last = self.put.len() - 1;
        &mut self.put[last]
    }
}

impl Import {
    /// Its rows, as of the moment of the import; they can be read as a run. `dep`: the deployment
    /// that had it, 0 if that is not known here.
    pub fn rows(&self, ns: i32, dep: i32, now: Timestamp) -> Result<Vec<Row>, Unreadable> {
        let none = OpKind::default();
        let mut rows = Rows { put: Vec::new(), seq: 0, dep };
        let head = to_bytes(&self.carried());
        rows.put(Kind::Continued, none, self.created_at, "", head);
        if !self.hashes.is_empty() {
            let noted = Noted { hashes: self.hashes.clone(), ..Noted::default() };
            rows.put(Kind::Noted, none, self.created_at, "", to_bytes(&noted));
        }
        for step in &self.steps {
            self.put_step(&mut rows, step);
        }
        let end = rows.put(self.end, none, now, "", Bytes::new());
        end.body.clone_from(&self.body);
        end.due = Some(self.ended_at);
        Run::recover(self.id, ns, &rows.put, false, true)?;
        Ok(rows.put)
    }

    fn put_step(&self, rows: &mut Rows, step: &ImportedStep) {
        let ImportedStep { id, op, asked_at, tried, settled } = step;
        if let Some(at) = asked_at {
            #[derive(serde::Serialize)]
            struct Shape {
                op: OpKind,
            }
            rows.put(Kind::Asked, *op, *at, id, to_bytes(&Shape { op: *op }));
        }
        let first = asked_at.or_else(|| tried.first().map(|t| t.at)).unwrap_or(self.created_at);
        for (attempt, failed) in (1..).zip(tried) {
            let body = to_bytes(&Tried { attempt, first, error: failed.error.clone() });
            let row = rows.put(Kind::Tried, *op, failed.at, id, body);
            (row.due, row.ms) = (failed.due, failed.ms);
        }
        match settled {
            Some(ImportedOutcome { at, ok, body, ms }) => {
                let kind = if *ok { Kind::Done } else { Kind::Failed };
                rows.put(kind, *op, *at, id, body.clone()).ms = *ms;
            }
            None if asked_at.is_none() && tried.is_empty() => {
                rows.put(Kind::Begun, *op, self.created_at, id, Bytes::from_static(b"{}"));
            }
            None => {}
        }
    }

    fn carried(&self) -> Carried {
        Carried {
            started_at: self.started_at.map(Timestamp::as_micros),
            generation: self.generation,
            invocations: self.invocations,
            custom_status: self.custom_status.clone(),
            ..Carried::of_start(self.created.clone(), self.created_at)
        }
    }
}
