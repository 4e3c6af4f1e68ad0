//! Locks: a run that has several objects at once, from its first invocation to its end.
//!
//! What it changes of them is staged and published like that of a run with one object. In its rows and
//! in memory a field of one of several is known by a name that says whose it is.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::body::{Attention, ObjectName, RunKind};
use super::op::{Answer, Ask, Op};
use super::outgoing::Errand;
use super::run::Run;

/// Between the parts of the name of a field: no name and no key has it in it.
const BETWEEN: char = '\u{1f}';

impl ObjectName {
    /// The name of a field of this object among the fields of several objects.
    #[must_use]
    pub fn field(&self, field: &str) -> String {
        format!("{}{BETWEEN}{}{BETWEEN}{field}", self.function, self.key)
    }
}

/// The name of a field that is one of one object: whose it is (nothing for the run's own), and its own.
pub(super) fn whose(field: &str) -> (&str, &str) {
    field.rsplit_once(BETWEEN).unwrap_or(("", field))
}

/// A field of one of several objects: function, key and field.
#[must_use]
pub fn field_of_lock(name: &str) -> Option<(&str, &str, &str)> {
    let (object, field) = name.rsplit_once(BETWEEN)?;
    let (function, key) = object.split_once(BETWEEN)?;
    Some((function, key, field))
}

impl Run {
    /// Whether it has objects to itself, its own or those of its locks.
    #[must_use]
    pub fn changes_objects(&self) -> bool {
        self.created.kind == RunKind::Object || !self.created.locks.is_empty()
    }

    /// The states of the objects of its locks as it sees them, in the order of its locks.
    #[must_use]
    pub fn locked_states(&self) -> Vec<(&ObjectName, BTreeMap<&str, &Bytes>)> {
        let locks = &self.created.locks;
        let mut states: Vec<_> = locks.iter().map(|name| (name, BTreeMap::new())).collect();
        for (name, value) in self.object_state() {
            let Some((function, key, field)) = field_of_lock(name) else { continue };
            let its = states.iter_mut().find(|(o, _)| o.function == function && o.key == key);
            if let Some((_, state)) = its {
                state.insert(field, value);
            }
        }
        states
    }

    /// The name under which a field is staged; none: the run does not have that object.
    pub(super) fn name_of_field(&self, object: Option<&ObjectName>, field: &str) -> Option<String> {
        match object {
            Some(object) if self.created.locks.contains(object) => Some(object.field(field)),
            Some(object) if self.is_its_own(&object.function, Some(&object.key)) => {
                Some(field.to_owned())
            }
            None if self.created.kind == RunKind::Object => Some(field.to_owned()),
            _ => None,
        }
    }

    fn is_its_own(&self, function: &str, key: Option<&str>) -> bool {
        let created = &self.created;
        created.kind == RunKind::Object
            && created.function == function
            && created.key.as_deref() == key
    }

    /// Why a `set` or `unset` that names an object this run does not have cannot be.
    pub(super) fn foreign_field(
        &self,
        op: &str,
        object: Option<&ObjectName>,
        field: &str,
    ) -> Attention {
        let have = || {
            let named = |o: &ObjectName| format!("`{}` `{}`", o.function, o.key);
            self.created.locks.iter().map(named).collect::<Vec<_>>().join(", ")
        };
        let why = match object {
            Some(o) if self.created.locks.is_empty() => format!(
                "the run does not have the object `{}` of `{}`. Nothing of its answer was recorded. \
                 Let its function name it in `locks`",
                o.key, o.function
            ),
            Some(o) => format!(
                "the object `{}` of `{}` is none of the run's locks ({}). Nothing of its answer was \
                 recorded. Let its function name all that it changes in `locks`",
                o.key,
                o.function,
                have()
            ),
            None => format!(
                "it does not say of which object. Nothing of the answer was recorded. Name one of \
                 the run's locks ({}) in `object`",
                have()
            ),
        };
        Attention::new("no-object", format!("`{op}` of `{field}` is refused: {why}."))
    }

    /// Why an `invoke` cannot be: its run would wait for this one, which waits for it.
    pub(super) fn circle_objection(&self, answer: &Answer) -> Option<Attention> {
        if !self.changes_objects() {
            return None;
        }
        let child = answer.ops.iter().find_map(|op| {
            let Op::Ask { id, ask: Ask::Other(errand), .. } = op else { return None };
            let Errand::Invoke(child) = errand.as_ref() else { return None };
            let has = |key: &String| {
                let locks = &self.created.locks;
                self.is_its_own(&child.function, Some(key))
                    || locks.iter().any(|o| o.function == child.function && o.key == *key)
            };
            let waits = !child.detach && !self.steps.contains_key(id);
            let key = child.key.as_ref().filter(|key| waits && has(key))?;
            Some((id, &child.function, key))
        });
        let (id, function, key) = child?;
        let detail = format!(
            "Step `{id}` would start `{function}` with the key `{key}` and wait for it, and that run \
             would wait for this one, which has the object. Nothing of the answer was recorded. \
             Change the object in this run with `set`, or start the other with `detach`."
        );
        Some(Attention::new("object-circle", detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_a_lock_says_whose_it_is() {
        let object = ObjectName { function: "account".to_owned(), key: "a/1:[]".to_owned() };
        let name = object.field("balance");
        assert_eq!(field_of_lock(&name), Some(("account", "a/1:[]", "balance")));
        assert_eq!(whose(&name).1, "balance");
        assert_ne!(
            whose(&name).0,
            whose(&ObjectName { key: "b".to_owned(), ..object }.field("x")).0
        );
        assert_eq!((field_of_lock("balance"), whose("balance")), (None, ("", "balance")));
    }
}
