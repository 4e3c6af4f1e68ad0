//! Reads what a handler answers on the transport `respond`; whoever wrote it is a stranger.

use std::collections::HashSet;
use std::fmt;
use std::mem::discriminant;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::await_tree::parse_tree;
use super::form::{Form, Odd};
use super::op::{Source, read_op, without_place};
use crate::machine::{Answer, Limits, Op, Terminal};

/// The longest answer, in bytes.
pub const MAX_ANSWER: usize = 16 << 20;
/// The most ops in one answer.
pub const MAX_OPS: usize = 50_000;
/// The longest input of a run, in bytes.
pub const MAX_INPUT: usize = 1 << 20;

/// How everything begins that is compressed with gzip: it is not unpacked here, whatever its size.
const GZIP: &[u8] = &[0x1f, 0x8b];

/// Why an answer was not taken. Nothing of it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAnswer {
    /// It is not what the protocol says; the text names the place. The exchange is retried.
    #[error("{0}")]
    Malformed(String),
    /// Something in it is over a limit of size. The run is paused.
    #[error("{}{what} is {bytes} bytes, over the limit of {limit}", of(step.as_deref()))]
    TooLarge {
        /// The step, if it is about one.
        step: Option<String>,
        /// `value`, `error`, `result`, `answer`, …
        what: String,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Something in it nests too deep. The run is paused.
    #[error("{}{what} nests deeper than {limit} levels", of(step.as_deref()))]
    TooDeep {
        /// The step, if it is about one.
        step: Option<String>,
        /// `value`, `error`, `result`, …
        what: String,
        /// The limit.
        limit: usize,
    },
    /// It has more ops than one answer may have. The run is paused.
    #[error("the answer has {ops} ops, over the limit of {limit}")]
    TooManyOps {
        /// How many.
        ops: usize,
        /// The limit.
        limit: usize,
    },
}

impl BadAnswer {
    /// Whether a limit was passed, which pauses the run, rather than the form being wrong.
    #[must_use]
    pub const fn is_limit(&self) -> bool {
        !matches!(self, Self::Malformed(_))
    }
}

fn of(step: Option<&str>) -> String {
    step.map_or_else(|| "the ".to_owned(), |id| format!("step {id:?}: the "))
}

const FIELDS: &[&str] = &["ops", "result", "error", "await", "yield", "continue"];
/// The same, and the number of a checkpoint.
const REPORT: &[&str] = &["ops", "result", "error", "await", "yield", "continue", "n"];
const OPS: usize = 0;
const RESULT: usize = 1;
const ERROR: usize = 2;
const AWAIT: usize = 3;
const YIELD: usize = 4;
const CONTINUE: usize = 5;
const NUMBER: usize = 6;

/// Reads an answer. Payloads are slices of `body`, byte for byte. What needs the run's journal (does
/// the awaited step exist, is its kind the recorded one) is left to the machine.
pub fn parse_answer(body: &Bytes, limits: &Limits) -> Result<Answer, BadAnswer> {
    parse(body, limits, FIELDS).map(|(answer, _)| answer)
}

/// Reads the answer to a query: its `result`, JSON.
pub fn parse_query_answer(body: &Bytes, limits: &Limits) -> Result<Bytes, BadAnswer> {
    let answer = parse_answer(body, limits)?;
    match answer.terminal {
        Some(Terminal::Result(result)) if answer.ops.is_empty() => Ok(result),
        Some(Terminal::Error(error)) => {
            Err(BadAnswer::Malformed(format!("{}: {}", error.kind, error.message)))
        }
        _ => Err(BadAnswer::Malformed("a query is answered with `result` alone".to_owned())),
    }
}

/// Reads a checkpoint or a line of `duplex`: an answer with a number, from 1. Without one it is a
/// sign of life and nothing else: it may say nothing.
pub fn parse_report(body: &Bytes, limits: &Limits) -> Result<Option<(i32, Answer)>, BadAnswer> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let (answer, number) = parse(body, limits, REPORT)?;
    match number {
        Some(n) => Ok(Some((n, answer))),
        None if answer.ops.is_empty() && answer.terminal.is_none() => Ok(None),
        None => Err(BadAnswer::Malformed(
            "a checkpoint that says something has a number: `n` is missing".to_owned(),
        )),
    }
}

/// Reads a line of `stream`: an op, or, without `op`, an answer, which is the last line. An empty
/// one is a sign of life.
pub fn parse_stream_line(line: &Bytes, limits: &Limits) -> Result<Option<Answer>, BadAnswer> {
    #[derive(Deserialize)]
    struct Peek<'a> {
        #[serde(borrow)]
        op: Option<&'a RawValue>,
    }
    if line.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let is_op = serde_json::from_slice::<Peek<'_>>(line).is_ok_and(|p| p.op.is_some());
    if !is_op {
        return parse_answer(line, limits).map(Some);
    }
    let raw: &RawValue = serde_json::from_slice(line)
        .map_err(|e| BadAnswer::Malformed(format!("the line is not JSON: {e}")))?;
    let op = read_op(Source { body: line, limits }, 0, raw)?;
    Ok(Some(Answer { ops: vec![op], terminal: None }))
}

fn parse(
    body: &Bytes,
    limits: &Limits,
    fields: &'static [&'static str],
) -> Result<(Answer, Option<i32>), BadAnswer> {
    if body.len() > MAX_ANSWER {
        let (bytes, limit) = (body.len(), MAX_ANSWER);
        return Err(BadAnswer::TooLarge { step: None, what: "answer".to_owned(), bytes, limit });
    }
    let malformed = |detail: String| BadAnswer::Malformed(detail);
    if body.starts_with(GZIP) {
        let detail = "the answer is compressed with gzip; send it as plain JSON";
        return Err(malformed(detail.to_owned()));
    }
    let text = std::str::from_utf8(body)
        .map_err(|_| malformed("the answer is not JSON: it is not UTF-8".to_owned()))?;
    let start = text.trim_start();
    if !start.starts_with('{') {
        let detail = match start {
            "" => "the answer is empty; a JSON object was expected",
            _ => "the answer is not a JSON object",
        };
        return Err(malformed(detail.to_owned()));
    }
    let form =
        Form::read(fields, text).map_err(|e| malformed(format!("the answer is not JSON: {e}")))?;
    if let Some(odd) = &form.odd {
        return Err(malformed(match odd {
            Odd::Unknown(_) => format!("{odd} in the answer; it has {}", fields.join(", ")),
            Odd::Twice(_) => format!("{odd} in the answer"),
        }));
    }
    let from = Source { body, limits };
    let terminal = terminal(from, &form)?;
    let ops = match form.get(OPS) {
        Some(raw) => read_ops(from, raw)?,
        None => Vec::new(),
    };
    let number = match fields.get(NUMBER).and_then(|_| form.get(NUMBER)) {
        None => None,
        Some(raw) => match raw.get().parse::<i32>() {
            Ok(n) if n > 0 => Some(n),
            _ => return Err(malformed("`n` must be a whole number from 1".to_owned())),
        },
    };
    Ok((Answer { ops, terminal }, number))
}

fn terminal(from: Source<'_>, form: &Form<'_>) -> Result<Option<Terminal>, BadAnswer> {
    let malformed = |detail: String| BadAnswer::Malformed(detail);
    let mut given = (RESULT..=CONTINUE).filter_map(|slot| form.get(slot).map(|raw| (slot, raw)));
    let Some((slot, raw)) = given.next() else { return Ok(None) };
    if let Some((other, _)) = given.next() {
        let (a, b) = (FIELDS[slot], FIELDS[other]);
        return Err(malformed(format!("an answer ends in one way, and this has `{a}` and `{b}`")));
    }
    Ok(Some(match slot {
        RESULT => Terminal::Result(from.keep(raw, None, "result")?),
        ERROR => Terminal::Error(from.error(raw, None, malformed)?),
        AWAIT => Terminal::Await(
            parse_tree(raw.get()).map_err(|e| malformed(format!("in `await`: {e}")))?,
        ),
        YIELD if raw.get() == "true" => Terminal::Yield,
        YIELD => return Err(malformed("`yield` must be true or left out".to_owned())),
        _ => Terminal::Continue(next_input(from, raw)?),
    }))
}

/// The input of the next generation: `{"input": any}`; left out it is null.
fn next_input(from: Source<'_>, raw: &RawValue) -> Result<Bytes, BadAnswer> {
    let malformed = |detail: String| BadAnswer::Malformed(format!("in `continue`: {detail}"));
    let form = Form::read(&["input"], raw.get())
        .map_err(|_| malformed("an object such as {\"input\": …} was expected".to_owned()))?;
    if let Some(odd) = &form.odd {
        return Err(malformed(format!("{odd}; it has input")));
    }
    let Some(input) = form.get(0) else { return Ok(Bytes::from_static(b"null")) };
    let (bytes, limit) = (input.get().len(), MAX_INPUT);
    if bytes > limit {
        let what = "input of `continue`".to_owned();
        return Err(BadAnswer::TooLarge { step: None, what, bytes, limit });
    }
    from.keep(input, None, "input of `continue`")
}

fn read_ops(from: Source<'_>, raw: &RawValue) -> Result<Vec<Op>, BadAnswer> {
    let list: List<'_> = serde_json::from_str(raw.get())
        .map_err(|e| BadAnswer::Malformed(format!("`ops`: {}", without_place(&e))))?;
    if list.total > MAX_OPS {
        return Err(BadAnswer::TooManyOps { ops: list.total, limit: MAX_OPS });
    }
    let ops = list
        .items
        .into_iter()
        .enumerate()
        .map(|(index, raw)| read_op(from, index, raw))
        .collect::<Result<Vec<Op>, BadAnswer>>()?;
    if ops.len() > 1 {
        refuse_repeats(&ops)?;
    }
    Ok(ops)
}

/// One step may be said to begin and to have run in one answer, but neither of it twice.
fn refuse_repeats(ops: &[Op]) -> Result<(), BadAnswer> {
    let mut seen = HashSet::with_capacity(ops.len());
    for (index, op) in ops.iter().enumerate() {
        if let Some(id) = op.step()
            && !seen.insert((discriminant(op), id))
        {
            let detail = "this answer has an op of this kind and id already";
            return Err(BadAnswer::Malformed(format!("ops[{index}] (step {id:?}): {detail}")));
        }
    }
    Ok(())
}

/// The items of a list; only counted from [`MAX_OPS`] on.
struct List<'a> {
    items: Vec<&'a RawValue>,
    total: usize,
}

impl<'de: 'a, 'a> Deserialize<'de> for List<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_seq(ListVisitor)
    }
}

struct ListVisitor;

impl<'de> Visitor<'de> for ListVisitor {
    type Value = List<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of ops")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut from: S) -> Result<List<'de>, S::Error> {
        let mut list = List { items: Vec::new(), total: 0 };
        while let Some(item) = from.next_element()? {
            list.total += 1;
            if list.total <= MAX_OPS {
                list.items.push(item);
            }
        }
        Ok(list)
    }
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
