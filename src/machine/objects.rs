//! Objects: durable state under a key, that one run at a time changes. What a run changes is staged in
//! its journal, and published with its end; until then only the run itself sees it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::apply::Env;
use super::body::{Attention, Limits, Noted, ObjectName, RunKind, to_bytes};
use super::draft::Draft;
use super::id::RunId;
use super::locks::whose;
use super::op::{Answer, Op};
use super::row::{Flags, Kind};
use super::run::Run;

/// An object's fields by name, JSON.
pub type State = BTreeMap<String, Bytes>;

/// What a run has changed of its object's state, and nobody else has seen: none where it has taken a
/// field away.
pub type Changes = BTreeMap<String, Option<Bytes>>;

/// What the end of a run, or of its generation, does to its object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Publication {
    /// Becomes its state.
    pub changes: Changes,
    /// The run is done with it: who waits longest has it next.
    pub frees: bool,
}

/// Applies changes to a state.
pub fn change(state: &mut State, changes: &Changes) {
    for (field, value) in changes {
        match value {
            Some(value) => state.insert(field.clone(), value.clone()),
            None => state.remove(field),
        };
    }
}

/// What a state weighs: names and values.
#[must_use]
pub fn weight<'a>(fields: impl Iterator<Item = (&'a str, &'a Bytes)>) -> usize {
    fields.map(|(field, value)| field.len() + value.len()).sum()
}

/// What is wrong with the size of a state, as an attention's code and words.
#[must_use]
pub fn too_large(fields: usize, bytes: usize, limits: &Limits) -> Option<String> {
    if fields > limits.object_fields {
        return Some(format!("{fields} fields, over the limit of {}", limits.object_fields));
    }
    (bytes > limits.object_bytes)
        .then(|| format!("{bytes} bytes, over the limit of {}", limits.object_bytes))
}

impl Run {
    /// The key of the object that it has a part in.
    #[must_use]
    pub fn object(&self) -> Option<&str> {
        match self.created.kind {
            RunKind::Object | RunKind::Reader => self.created.key.as_deref(),
            RunKind::Function | RunKind::Plain => None,
        }
    }

    /// Its object's state as it sees it: what was published, and over that its own changes.
    pub fn object_state(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        let published =
            self.published.iter().filter(|(field, _)| !self.staged.contains_key(*field));
        let own = self.staged.iter().filter_map(|(field, value)| Some((field, value.as_ref()?)));
        published.chain(own).map(|(field, value)| (field.as_str(), value))
    }

    /// It waited for its object and has it now, in this state.
    pub fn take_object(&mut self, state: State) {
        self.behind = None;
        self.published = Arc::new(state);
        self.parked = false;
        self.was_parked = false;
    }

    /// The run that has its object, while it waits for its turn.
    #[must_use]
    pub const fn behind(&self) -> Option<RunId> {
        self.behind
    }

    fn field(&self, name: &str) -> Option<&Bytes> {
        match self.staged.get(name) {
            Some(own) => own.as_ref(),
            None => self.published.get(name),
        }
    }

    /// A field is set, or with none taken away; what is so already is not recorded.
    pub(super) fn set_field(
        &mut self,
        object: Option<&ObjectName>,
        field: &str,
        value: Option<&Bytes>,
        env: &Env<'_>,
    ) {
        // What the run does not have was refused with the whole answer.
        let Some(field) = self.name_of_field(object, field) else { return };
        if self.field(&field) == value {
            return;
        }
        let mut noted = Noted::default();
        match value.and_then(raw) {
            Some(value) => drop(noted.set.insert(field, value)),
            None => noted.unset.push(field),
        }
        Draft::new(Kind::Noted, Flags::HANDLER).body(to_bytes(&noted)).put(self, env.now);
    }

    /// Why the `set` and `unset` of an answer cannot be, so that nothing of it is recorded.
    pub(super) fn state_objection(&self, answer: &Answer, env: &Env<'_>) -> Option<Attention> {
        let mut changes = answer.ops.iter().filter_map(|op| match op {
            Op::Set { object, field, value } => Some((object.as_ref(), field, value)),
            _ => None,
        });
        let first = changes.next()?;
        let word = |value: &Option<Bytes>| if value.is_some() { "set" } else { "unset" };
        let op = word(first.2);
        match self.created.kind {
            RunKind::Object => {}
            RunKind::Function if !self.created.locks.is_empty() || first.0.is_some() => {}
            RunKind::Reader => {
                let detail = format!(
                    "`{op}` of `{}` is refused: the function is `shared`, so its runs read their \
                     object and change nothing. Nothing of its answer was recorded. Change the \
                     object in a run of its own function.",
                    first.1
                );
                return Some(Attention::new("object-read-only", detail));
            }
            RunKind::Function | RunKind::Plain => {
                let detail = format!(
                    "`{op}` of `{}` is refused: the run is of no object. Nothing of its answer was \
                     recorded. Register the function with `\"kind\": \"object\"` and start a run \
                     of it, or let the function name objects in `locks`.",
                    first.1
                );
                return Some(Attention::new("no-object", detail));
            }
        }
        let mut after: BTreeMap<Cow<'_, str>, &Bytes> =
            self.object_state().map(|(field, value)| (field.into(), value)).collect();
        for (object, field, value) in std::iter::once(first).chain(changes) {
            let Some(name) = self.name_of_field(object, field) else {
                return Some(self.foreign_field(word(value), object, field));
            };
            match value {
                Some(value) => after.insert(name.into(), value),
                None => after.remove(name.as_str()),
            };
        }
        let mut sizes: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for (name, value) in &after {
            let (object, field) = whose(name);
            let (fields, bytes) = sizes.entry(object).or_default();
            *fields += 1;
            *bytes += weight(std::iter::once((field, *value)));
        }
        let why = sizes.values().find_map(|(n, bytes)| too_large(*n, *bytes, env.limits))?;
        let detail = format!(
            "The state of the object would have {why}. Nothing of the answer was recorded. Keep \
             large things elsewhere and references to them here."
        );
        Some(Attention::new("object-limit", detail))
    }

    /// What the run's end does to its object.
    pub(super) fn let_go_of_object(&self, kind: Kind) -> Option<Publication> {
        self.changes_objects().then(|| {
            // Only who completes has changed anything.
            let changes =
                if kind == Kind::Completed { self.staged.clone() } else { Changes::default() };
            Publication { changes, frees: true }
        })
    }

    /// What the end of its generation does to its object, which it keeps.
    pub(super) fn publish(&self) -> Option<Publication> {
        (!self.staged.is_empty())
            .then(|| Publication { changes: self.staged.clone(), frees: false })
    }

    /// What its own changes make of the published state.
    pub(super) fn published_next(&self) -> Arc<State> {
        if self.staged.is_empty() {
            return Arc::clone(&self.published);
        }
        let mut state = State::clone(&self.published);
        change(&mut state, &self.staged);
        Arc::new(state)
    }

    /// A `noted` row: some fields were changed.
    pub(super) fn stage(&mut self, set: BTreeMap<String, Box<RawValue>>, unset: Vec<String>) {
        self.staged.extend(set.into_iter().map(|(field, v)| (field, Some(bytes_of(&v)))));
        self.staged.extend(unset.into_iter().map(|field| (field, None)));
    }

    /// Its changes in the form of rows.
    pub(super) fn staged_as_noted(&self) -> (BTreeMap<String, Box<RawValue>>, Vec<String>) {
        let mut set = BTreeMap::new();
        let mut unset = Vec::new();
        for (field, value) in &self.staged {
            match value.as_ref().and_then(raw) {
                Some(value) => drop(set.insert(field.clone(), value)),
                None => unset.push(field.clone()),
            }
        }
        (set, unset)
    }
}

fn raw(json: &Bytes) -> Option<Box<RawValue>> {
    let text = std::str::from_utf8(json).ok()?;
    RawValue::from_string(text.to_owned()).ok()
}

fn bytes_of(raw: &RawValue) -> Bytes {
    Bytes::from(raw.get().to_owned())
}
