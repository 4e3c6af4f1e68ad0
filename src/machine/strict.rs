//! Steps of a `strict` function are known by the hash of their input too: another one is a mismatch.

use std::collections::BTreeMap;

use super::apply::Env;
use super::body::{Attention, Noted, to_bytes};
use super::draft::Draft;
use super::op::{Answer, Op};
use super::row::{Flags, Kind};
use super::run::Run;

impl Run {
    /// The input hashes of its steps, if its function is strict.
    #[must_use]
    pub const fn input_hashes(&self) -> &BTreeMap<String, String> {
        &self.hashes
    }

    /// Why nothing of the answer may be recorded: a step whose recorded input was another.
    pub(super) fn other_input(&self, answer: &Answer, env: &Env<'_>) -> Option<Attention> {
        let changed = |op: &Op| {
            let Op::Run { id, input_hash: Some(got), .. } = op else { return None };
            let expected = self.hashes.get(id).filter(|expected| *expected != got)?;
            Some((id.clone(), expected.clone(), got.clone()))
        };
        let mut ops = answer.ops.iter().filter(|_| env.policy.strict);
        let (id, expected, got) = ops.find_map(changed)?;
        Some(Attention {
            expected: Some(format!("run {id} with input_hash {expected}").into()),
            got: Some(format!("run {id} with input_hash {got}").into()),
            ..Attention::new(
                "mismatch",
                format!(
                    "Step `{id}` is recorded with another `input_hash` than the handler now says, \
                     and its function is `strict`. Nothing of its answer was recorded. Give the \
                     changed step a new id, or go back to the code that began this run, then \
                     resume it."
                ),
            )
        })
    }

    /// The hashes of an answer that are to be kept: what was kept first stays.
    pub(super) fn fresh_hashes(&self, ops: &[Op], env: &Env<'_>) -> BTreeMap<String, String> {
        let said = ops.iter().filter(|_| env.policy.strict).filter_map(|op| match op {
            Op::Run { id, input_hash: Some(hash), .. } => Some((id.clone(), hash.clone())),
            _ => None,
        });
        said.filter(|(id, _)| !self.hashes.contains_key(id)).collect()
    }

    /// Keeps the hashes of steps in one row of the answer that reported them.
    pub(super) fn keep_hashes(&mut self, hashes: BTreeMap<String, String>, env: &Env<'_>) {
        if !hashes.is_empty() {
            let noted = Noted { hashes, ..Noted::default() };
            Draft::new(Kind::Noted, Flags::HANDLER).body(to_bytes(&noted)).put(self, env.now);
        }
    }
}
