//! What is left of a journal row when personal data is erased: ids, times, kinds, and nothing that
//! somebody has said. The run can be read from such rows as before.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::body::{Act, Attention, Created, Faulted, Noted, Tried, error_of, to_bytes};
use super::carried::Carried;
use super::gate::AtGate;
use super::row::{Flags, Kind, OpKind, Row};
use super::run::Unreadable;
use super::step::StepState;
use super::time::Timestamp;

/// Stands where people had written something.
const ERASED: &str = "erased";

/// What of an op is its shape.
const SHAPE: [&str; 15] = [
    "op",
    "id",
    "name",
    "event",
    "heartbeat",
    "timeout",
    "for",
    "until",
    "on_parent_close",
    "detach",
    "task",
    "limit",
    "retry",
    "function",
    "signal",
];

fn null() -> Box<RawValue> {
    RawValue::NULL.to_owned()
}

/// An error of which its type is left.
fn faceless(body: &[u8]) -> Bytes {
    #[derive(Serialize)]
    struct Faceless {
        #[serde(rename = "type")]
        kind: String,
        message: &'static str,
    }
    error_of(body).map_or_else(
        || Bytes::from_static(b"null"),
        |said| to_bytes(&Faceless { kind: said.kind, message: ERASED }),
    )
}

fn faceless_raw(body: &[u8]) -> Box<RawValue> {
    serde_json::from_slice(&faceless(body)).unwrap_or_else(|_| null())
}

fn attention(of: &mut Attention) {
    ERASED.clone_into(&mut of.detail);
    of.expected = None;
    of.got = None;
}

fn created(of: &mut Created, at: Timestamp) {
    of.input = null();
    if let Some(last) = of.schedule.as_mut().and_then(|fired| fired.last.as_mut()) {
        last.output = None;
    }
    of.erased_at = of.erased_at.or(Some(at));
}

fn carried(of: &mut Carried, at: Timestamp) {
    created(&mut of.created, at);
    of.custom_status = None;
    of.paused.as_mut().into_iter().for_each(attention);
    of.cancel.as_mut().into_iter().for_each(|cancel| cancel.reason = None);
    of.state = of.state.is_some().then(null);
    of.hashes.clear();
    of.set.values_mut().for_each(|value| *value = null());
    for work in of.works.values_mut() {
        work.raw = None;
        work.beat = None;
        work.terms.request = None;
    }
    for open in &mut of.steps {
        if let StepState::Trying { error, .. } = &mut open.step.state {
            *error = faceless(error);
        }
    }
}

impl Row {
    /// What is left of it when the run is erased, at this moment. Again it is the same.
    pub fn erased(&self, at: Timestamp) -> Result<Self, Unreadable> {
        let Some(body) = self.body.as_deref() else { return Ok(self.clone()) };
        let bytes = match self.kind {
            Kind::Done if self.flags.op() == Some(OpKind::Reply) => {
                Bytes::from_static(b"{\"value\":null}")
            }
            Kind::Done | Kind::Late | Kind::Beat | Kind::Completed => Bytes::from_static(b"null"),
            Kind::Arrived if self.due.is_none() || self.flags.op() != Some(OpKind::Callback) => {
                Bytes::from_static(b"null")
            }
            Kind::Arrived
            | Kind::Failed
            | Kind::EndFailed
            | Kind::Cancelled
            | Kind::TimedOut
            | Kind::Terminated => faceless(body),
            Kind::Asked => {
                let mut op: Map<String, Value> = self.read()?;
                op.retain(|field, _| SHAPE.contains(&field.as_str()));
                to_bytes(&op)
            }
            Kind::Created => self.changed(|of: &mut Created| created(of, at))?,
            Kind::Continued | Kind::Compacted => {
                self.changed(|of: &mut Carried| carried(of, at))?
            }
            Kind::Tried => self.changed(|of: &mut Tried| {
                of.error = faceless_raw(of.error.get().as_bytes());
            })?,
            Kind::Fault => self.changed(|of: &mut Faulted| ERASED.clone_into(&mut of.detail))?,
            Kind::Paused => self.changed(attention)?,
            Kind::Noted if self.flags.has(Flags::PARK) => self.changed(|of: &mut AtGate| {
                attention(&mut of.attention);
                if let Some(faults) = &mut of.faults {
                    ERASED.clone_into(&mut faults.detail);
                }
            })?,
            Kind::Noted => self.changed(|of: &mut Noted| {
                of.status = of.status.is_some().then(null);
                of.set.values_mut().for_each(|value| *value = null());
                of.hashes.clear();
                if let Some(act) = &mut of.act {
                    act.reason = None;
                }
            })?,
            // What an operator did; there are such rows without an act.
            Kind::Cancelling | Kind::Resumed | Kind::Retaken | Kind::Reopened => {
                let act = self.changed(|of: &mut Act| of.reason = None);
                act.unwrap_or_else(|_| Bytes::from_static(b"null"))
            }
            Kind::Waits | Kind::Begun | Kind::Held | Kind::Claimed | Kind::Moved => {
                return Ok(self.clone());
            }
        };
        Ok(Self { body: Some(bytes), ..self.clone() })
    }

    fn read<T: DeserializeOwned>(&self) -> Result<T, Unreadable> {
        serde_json::from_slice(self.body.as_deref().unwrap_or_default())
            .map_err(|e| Unreadable::Body { n: self.n, detail: e.to_string() })
    }

    fn changed<T>(&self, change: impl FnOnce(&mut T)) -> Result<Bytes, Unreadable>
    where
        T: Serialize + for<'de> Deserialize<'de>,
    {
        let mut body = self.read()?;
        change(&mut body);
        Ok(to_bytes(&body))
    }
}
