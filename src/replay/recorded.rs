//! A run as it is recorded: what candidate code is held against.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::machine::{DeploymentId, Fired, OpKind, RunId, Timestamp};

/// A recorded run.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Its id.
    pub run: RunId,
    /// Its namespace.
    pub namespace: String,
    /// Its function.
    pub function: String,
    /// Its key.
    pub key: Option<String>,
    /// Its generation; older ones are not replayed.
    pub generation: i32,
    /// The deployment that it was last invoked on.
    pub deployment: Option<DeploymentId>,
    /// A handler's deterministic clock.
    pub created_at: Timestamp,
    /// A handler's deterministic source of chance.
    pub seed: String,
    /// The run that started it, and the step that did.
    pub parent: Option<(RunId, String)>,
    /// The firing of a schedule that it comes of.
    pub schedule: Option<Box<Fired>>,
    /// The input hashes of the steps of a strict function.
    pub hashes: BTreeMap<String, String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Its input.
    pub input: Bytes,
    /// Its steps, settled ones in commit order.
    pub steps: Vec<Step>,
    /// How it ended.
    pub end: End,
}

/// A recorded step.
#[derive(Debug, Clone)]
pub struct Step {
    /// Its id.
    pub id: String,
    /// Its op.
    pub op: OpKind,
    /// Its place in commit order and its outcome: whether it is a value, and the bytes. None while
    /// it is pending.
    pub outcome: Option<(i32, bool, Bytes)>,
}

/// How a recorded run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With an output.
    Completed(Bytes),
    /// With an error of its code.
    Failed(Bytes),
    /// By something that is not its code's doing, or not at all.
    Open,
}

impl End {
    /// The end that a status stands for.
    #[must_use]
    pub fn of(status: &str, output: Option<Bytes>, error: Option<Bytes>) -> Self {
        let or_null = |json: Option<Bytes>| json.unwrap_or_else(|| Bytes::from_static(b"null"));
        match status {
            "completed" => Self::Completed(or_null(output)),
            "failed" => Self::Failed(or_null(error)),
            _ => Self::Open,
        }
    }
}

/// Why a document is no export of a run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no export of a run: {0}")]
pub struct NotAnExport(String);

#[derive(Deserialize)]
struct Document {
    stepwell_export: u32,
    #[serde(default)]
    seed: String,
    #[serde(default)]
    parent: Option<Parent>,
    #[serde(default)]
    input_hashes: BTreeMap<String, String>,
    run: Head,
    journal: Vec<Entry>,
}

#[derive(Deserialize)]
struct Parent {
    run: RunId,
    step: String,
}

#[derive(Deserialize)]
struct Head {
    id: RunId,
    namespace: String,
    function: String,
    key: Option<String>,
    generation: i32,
    deployment: Option<DeploymentId>,
    status: String,
    created_at: Timestamp,
    input: Box<RawValue>,
    output: Box<RawValue>,
    error: Box<RawValue>,
    #[serde(default)]
    schedule: Option<Box<Fired>>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Entry {
    seq: Option<i32>,
    id: String,
    op: String,
    #[serde(default)]
    value: Option<Box<RawValue>>,
    #[serde(default)]
    error: Option<Box<RawValue>>,
}

fn bytes(raw: &RawValue) -> Bytes {
    Bytes::from(raw.get().to_owned())
}

impl Recorded {
    /// Reads what `GET /v1/runs/{id}/export` gives.
    pub fn from_export(text: &[u8]) -> Result<Self, NotAnExport> {
        let document: Document =
            serde_json::from_slice(text).map_err(|e| NotAnExport(e.to_string()))?;
        let version = document.stepwell_export;
        if version != 1 {
            return Err(NotAnExport(format!("its form is {version}, and 1 is known")));
        }
        let run = document.run;
        let step = |entry: Entry| {
            let unknown = || NotAnExport(format!("step `{}` is of an unknown kind", entry.id));
            let op = OpKind::from_word(&entry.op).ok_or_else(unknown)?;
            let outcome = entry.seq.map(|seq| match (&entry.error, &entry.value) {
                (Some(error), _) => (seq, false, bytes(error)),
                (None, Some(value)) => (seq, true, bytes(value)),
                (None, None) => (seq, true, Bytes::from_static(b"null")),
            });
            Ok(Step { id: entry.id, op, outcome })
        };
        Ok(Self {
            run: run.id,
            namespace: run.namespace,
            function: run.function,
            key: run.key,
            generation: run.generation,
            deployment: run.deployment,
            created_at: run.created_at,
            seed: document.seed,
            parent: document.parent.map(|p| (p.run, p.step)),
            schedule: run.schedule,
            hashes: document.input_hashes,
            tags: run.tags,
            input: bytes(&run.input),
            steps: document.journal.into_iter().map(step).collect::<Result<_, _>>()?,
            end: End::of(&run.status, Some(bytes(&run.output)), Some(bytes(&run.error))),
        })
    }
}
