//! What happened to a run, in words: its journal rows and the entries beside them, in one order.
//!
//! An item's number is made of the journal row that it belongs to and its place there. What hangs
//! on a row is recorded before the next row is, so numbers only grow for who follows a run.

use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::{Engine, Error, HistoryItem, Namespace};
use crate::machine::{
    Act, AtGate, Attention, Carried, Created, Faulted, Flags, HistoryEntry, INLINE_VALUE, Kind,
    MessageId, Noted, OpKind, Row, RunId, Tried,
};

/// Bits of a number that tell apart what hangs on one row.
const PLACE_BITS: u32 = 20;
/// The last place on a row.
const LAST_PLACE: i64 = (1 << PLACE_BITS) - 1;
/// On a row: the end of the invocation that brought it, then the row itself, then entries.
const OF_ROW: i64 = 1;

const GATEWAY: &str = "gateway";
const HANDLER: &str = "handler";

/// The number of the item at a place of a row.
fn number(row: i32, place: i64) -> i64 {
    (i64::from(row) << PLACE_BITS) | place.min(LAST_PLACE)
}

impl Engine {
    /// What happened to a run after item `after_n` (-1: from the start), oldest first, at most
    /// `limit` items; fewer only where there are no more yet.
    pub async fn history(
        &self,
        ns: &Namespace,
        run: RunId,
        after_n: i64,
        limit: usize,
    ) -> Result<Vec<HistoryItem>, Error> {
        let place = self.place(ns, run).await?;
        if place.imported {
            return self.imported_history(run, after_n, limit).await;
        }
        let mut items: Vec<HistoryItem> = Vec::new();
        let mut after = after_n;
        while items.len() < limit {
            let from = i32::try_from(after.max(0) >> PLACE_BITS).unwrap_or(i32::MAX);
            let seen = if after < 0 { 0 } else { after & LAST_PLACE };
            let want = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(2);
            let entries = want.saturating_add(seen);
            let part = self.store().happened(run, place.home, from, want, entries).await?;
            let more_rows = i64::try_from(part.rows.len()).is_ok_and(|n| n == want);
            let more_entries = i64::try_from(part.entries.len()).is_ok_and(|n| n == entries);
            let (found, upto) = merge(from, &part.rows, &part.entries, more_rows, more_entries);
            let room = limit - items.len();
            items.extend(found.into_iter().filter(|i| i.n > after).take(room));
            if !(more_rows || more_entries) || upto <= after {
                break;
            }
            after = if items.len() < limit { upto } else { after };
        }
        Ok(items)
    }
}

/// Rows from position `from` on, and entries, as items in order, and the number up to which nothing
/// is missing between them. The row before may be there too, to tell what begins.
fn merge(
    from: i32,
    rows: &[Row],
    entries: &[HistoryEntry],
    more_rows: bool,
    more_entries: bool,
) -> (Vec<HistoryItem>, i64) {
    let mut items = Vec::with_capacity(rows.len() + entries.len());
    // What comes after an edge may be preceded by something that was not read.
    let mut upto = i64::MAX;
    let mut next = entries.iter().peekable();
    for (i, row) in rows.iter().enumerate() {
        let before = i.checked_sub(1).map(|i| &rows[i]);
        if row.n >= from {
            items.extend(answered(row, before));
            items.extend(of_row(row));
        }
        upto = number(row.n, OF_ROW);
        let last = i + 1 == rows.len();
        if last && more_rows {
            break;
        }
        let mut place = OF_ROW;
        while let Some(entry) = next.next_if(|e| last || e.at < rows[i + 1].at) {
            place += 1;
            upto = number(row.n, place);
            items.push(of_entry(entry, upto));
        }
        if more_entries && next.peek().is_none() {
            break;
        }
    }
    items.retain(|item| item.n <= upto);
    (items, upto)
}

/// The end of the invocation whose answer begins with this row. Says nothing of the rows that
/// follow: they may be on another page.
fn answered(row: &Row, before: Option<&Row>) -> Option<HistoryItem> {
    // A checkpoint ends its invocation only where it says so.
    let goes_on = |r: &Row| {
        let ends = r.kind.ends() || matches!(r.kind, Kind::Waits | Kind::Paused | Kind::Fault);
        r.kind == Kind::Held || (r.cp > 0 && !ends && !r.flags.has(Flags::END))
    };
    let of_answer = |r: &Row| r.flags.has(Flags::HANDLER) && r.epoch == row.epoch && !goes_on(r);
    if !of_answer(row) || before.is_some_and(of_answer) {
        return None;
    }
    // Only an end knows how long its exchange took; the time of a step is its own.
    let data = json!({"outcome": "answered", "duration_ms": row.kind.ends().then_some(row.ms)});
    let (n, what, by) = (number(row.n, 0), "invocation.ended".to_owned(), GATEWAY.to_owned());
    Some(HistoryItem { n, epoch: row.epoch, at: row.at, what, by, data: data.to_string().into() })
}

/// A row in words; none for what only the gateway needs.
fn of_row(row: &Row) -> Option<HistoryItem> {
    let mut data = Map::new();
    let body = row.body.as_deref().unwrap_or_default();
    let author = if row.flags.has(Flags::HANDLER) { HANDLER } else { GATEWAY };
    let mut by = author.to_owned();
    let op = row.flags.op().unwrap_or_default();
    let bytes = || row.body.clone().unwrap_or_default();
    let mut payload: Option<(&str, Bytes)> = None;
    if !row.step.is_empty() && row.kind != Kind::Arrived {
        data.insert("step".to_owned(), json!(row.step));
    }
    if let Some(message) = row.refer {
        data.insert("message".to_owned(), json!(MessageId::from(message)));
    }
    let mut put = |name: &str, value: Value| data.insert(name.to_owned(), value);
    let what = match row.kind {
        Kind::Created => {
            let created: Created = serde_json::from_slice(body).ok()?;
            put("function", json!(created.function));
            put("key", json!(created.key));
            put("start_at", json!(created.start_at));
            if let Some(run) = created.rerun_of {
                put("rerun_of", json!(run));
            }
            put("deadline", json!(row.due));
            put("input_bytes", json!(created.input.get().len()));
            by = created.by;
            "run.created"
        }
        Kind::Done | Kind::Failed => {
            put("seq", json!(row.seq));
            put("op", json!(op));
            put("ms", json!(row.ms));
            payload = Some((if row.kind == Kind::Done { "value" } else { "error" }, bytes()));
            match (row.kind, op) {
                (Kind::Done, OpKind::Signal) => "signal.taken",
                (Kind::Done, _) => "step.settled",
                _ => "step.failed",
            }
        }
        Kind::Asked => {
            put("op", json!(op));
            put("due", json!(row.due));
            payload = Some(("ask", bytes()));
            "step.asked"
        }
        Kind::Tried => {
            let tried: Tried = serde_json::from_slice(body).ok()?;
            put("attempt", json!(tried.attempt));
            put("next_attempt_at", json!(row.due));
            put("ms", json!(row.ms));
            payload = Some(("error", Bytes::from(tried.error.get().to_owned())));
            "attempt.failed"
        }
        Kind::Begun => "step.begun",
        Kind::Held if row.step.is_empty() => "invocation.held",
        Kind::Held => {
            put("until", json!(row.due));
            put("ms", json!(row.ms));
            "attempt.accepted"
        }
        // It has arrived before.
        Kind::Arrived if row.flags.has(Flags::REF) => return None,
        Kind::Beat => {
            payload = Some(("details", bytes()));
            "attempt.beat"
        }
        Kind::Arrived => {
            put("name", json!(row.step));
            put("kind", json!(op));
            payload = Some(("payload", bytes()));
            "message.arrived"
        }
        Kind::Noted if row.flags.has(Flags::PARK) => {
            let kept: AtGate = serde_json::from_slice(body).ok()?;
            put("attention", json!(kept.attention));
            "run.parked"
        }
        Kind::Noted => {
            let noted: Noted = serde_json::from_slice(body).ok()?;
            if noted.status.is_none() && noted.tags.is_none() && noted.act.is_none() {
                let what = "run.moved".to_owned();
                let detail = "goes on with the newest deployment of its function";
                let data = json!({ "detail": detail }).to_string().into();
                let n = number(row.n, OF_ROW);
                return noted.moved.then_some(HistoryItem {
                    n,
                    epoch: row.epoch,
                    at: row.at,
                    what,
                    by,
                    data,
                });
            }
            payload = noted.status.map(|s| ("status", Bytes::from(s.get().to_owned())));
            if let Some(tags) = noted.tags {
                put("tags", json!(tags));
            }
            if let Some(act) = noted.act {
                put("reason", json!(act.reason));
                by = act.by;
                let (n, what) = (number(row.n, OF_ROW), "run.repinned".to_owned());
                let data = with_payload(&data, None);
                return Some(HistoryItem { n, epoch: row.epoch, at: row.at, what, by, data });
            }
            "run.noted"
        }
        Kind::Waits => {
            put("until", json!(row.due));
            payload = Some(("await", bytes()));
            "run.waiting"
        }
        Kind::Claimed => {
            put(
                "detail",
                json!(
                    "taken up anew from the database; epochs that were given out before are void"
                ),
            );
            "run.claimed"
        }
        Kind::Fault => {
            let fault: Faulted = serde_json::from_slice(body).ok()?;
            put("detail", json!(fault.detail));
            put("failed_invocations", json!(fault.faults));
            put("failures", json!(fault.failures));
            put("next_attempt_at", json!(row.due));
            "run.retrying"
        }
        Kind::Cancelling | Kind::Resumed | Kind::Retaken | Kind::Reopened => {
            let act: Act = serde_json::from_slice(body).unwrap_or_default();
            put("reason", json!(act.reason));
            by = act.by;
            match row.kind {
                Kind::Cancelling => {
                    put("deadline", json!(row.due));
                    "run.cancelling"
                }
                Kind::Retaken => "step.retaken",
                Kind::Reopened => {
                    put("deadline", json!(row.due));
                    "run.reopened"
                }
                _ if !row.step.is_empty() => "step.hurried",
                _ if act.hurry => "run.hurried",
                _ => "run.resumed",
            }
        }
        Kind::Paused => {
            let attention: Attention = serde_json::from_slice(body).ok()?;
            if attention.code == "operator" {
                by = named_after("Paused by ", &attention.detail).unwrap_or(by);
            } else {
                GATEWAY.clone_into(&mut by);
            }
            put("attention", json!(attention));
            "run.paused"
        }
        Kind::Late => "message.late",
        Kind::Completed => {
            payload = row.body.clone().map(|body| ("output", body));
            "run.completed"
        }
        Kind::EndFailed | Kind::Cancelled | Kind::TimedOut | Kind::Terminated => {
            payload = row.body.clone().map(|body| ("error", body));
            if row.kind == Kind::Terminated
                && let Some(error) = crate::machine::error_of(body)
            {
                by = named_after("terminated by ", &error.message).unwrap_or(by);
            }
            match row.kind {
                Kind::EndFailed => "run.failed",
                Kind::Cancelled => "run.cancelled",
                Kind::TimedOut => "run.timed_out",
                _ => "run.terminated",
            }
        }
        Kind::Compacted => {
            let carried: Carried = serde_json::from_slice(body).ok()?;
            put("seq", json!(row.seq));
            payload = carried.state.map(|s| ("state", Bytes::from(s.get().to_owned())));
            "run.compacted"
        }
        Kind::Continued => {
            let carried: Carried = serde_json::from_slice(body).ok()?;
            put("generation", json!(carried.generation));
            put("input_bytes", json!(carried.created.input.get().len()));
            put("deadline", json!(row.due));
            "run.continued"
        }
        Kind::Moved => return None,
    };
    let data = with_payload(&data, payload);
    let (n, what) = (number(row.n, OF_ROW), what.to_owned());
    Some(HistoryItem { n, epoch: row.epoch, at: row.at, what, by, data })
}

/// Who did it, where the gateway has put it into a sentence.
fn named_after(words: &str, detail: &str) -> Option<String> {
    let rest = detail.strip_prefix(words)?;
    Some(rest.split_once(": ").map_or(rest, |(name, _)| name).to_owned())
}

/// The data with a payload byte for byte, or with its length where it is long.
fn with_payload(data: &Map<String, Value>, payload: Option<(&str, Bytes)>) -> Bytes {
    let mut out = serde_json::to_vec(data).expect("a JSON object is JSON");
    let Some((name, body)) = payload else { return out.into() };
    let raw = match body.len() {
        0 => Some("null".to_owned()),
        n if n <= INLINE_VALUE => std::str::from_utf8(&body).ok().map(str::to_owned),
        _ => None,
    };
    // What was recorded is JSON; should it not be, it must not spoil the rest.
    let raw = raw.filter(|text| serde_json::from_str::<&RawValue>(text).is_ok());
    out.pop();
    if out.len() > 1 {
        out.push(b',');
    }
    match raw {
        Some(raw) => out.extend_from_slice(format!("\"{name}\":{raw}}}").as_bytes()),
        None => out.extend_from_slice(format!("\"{name}_bytes\":{}}}", body.len()).as_bytes()),
    }
    out.into()
}

/// An entry beside the journal. A message that nobody took carries its payload as text.
fn of_entry(entry: &HistoryEntry, n: i64) -> HistoryItem {
    let mut data = entry.data.clone();
    if entry.what == "message.untaken"
        && let Ok(Value::Object(mut map)) = serde_json::from_slice(&data)
    {
        let payload = map.remove("payload");
        let id = map.remove("id").and_then(|id| id.as_str()?.parse::<uuid::Uuid>().ok());
        if let Some(id) = id {
            map.insert("message".to_owned(), json!(MessageId::from(id)));
        }
        let kind = map.remove("kind").and_then(|k| k.as_i64()).map_or("", |k| match k {
            1 => "signal",
            2 | 3 => "callback",
            9 => "outcome",
            _ => "operator",
        });
        map.insert("kind".to_owned(), json!(kind));
        let text = payload.as_ref().and_then(Value::as_str).unwrap_or("null");
        data = with_payload(&map, Some(("payload", Bytes::from(text.to_owned()))));
    }
    let HistoryEntry { at, epoch, what, by, .. } = entry.clone();
    HistoryItem { n, epoch, at, what, by, data }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Timestamp;

    fn row(n: i32, kind: Kind, flags: i16, epoch: i32, at: i64, body: &str) -> Row {
        Row {
            n,
            kind,
            flags: Flags(flags),
            seq: 0,
            epoch,
            cp: 0,
            ms: 5,
            dep: 1,
            at: Timestamp::from_micros(at),
            due: None,
            refer: None,
            step: "s".to_owned(),
            body: Some(Bytes::from(body.to_owned())),
            pos: 0,
        }
    }

    fn entry(at: i64, what: &str) -> HistoryEntry {
        HistoryEntry {
            at: Timestamp::from_micros(at),
            epoch: 1,
            what: what.to_owned(),
            by: GATEWAY.to_owned(),
            data: Bytes::from_static(b"{}"),
        }
    }

    fn whats(items: &[HistoryItem]) -> Vec<&str> {
        items.iter().map(|i| i.what.as_str()).collect()
    }

    #[test]
    fn entries_hang_on_the_row_before_them_and_numbers_grow() {
        let rows = [
            row(0, Kind::Claimed, 0, 0, 10, ""),
            row(1, Kind::Done, 1, 1, 20, "1"),
            row(2, Kind::Failed, 1, 1, 20, "{}"),
            row(3, Kind::Done, 1, 2, 40, "3544790567247868102"),
        ];
        let entries =
            [entry(15, "invocation.failed"), entry(20, "a"), entry(30, "b"), entry(50, "c")];
        let (items, _) = merge(0, &rows, &entries, false, false);
        let expected = [
            "run.claimed",
            "invocation.failed",
            "invocation.ended",
            "step.settled",
            "step.failed",
            "a",
            "b",
            "invocation.ended",
            "step.settled",
            "c",
        ];
        assert_eq!(whats(&items), expected);
        assert!(items.windows(2).all(|w| w[0].n < w[1].n));
        // Whoever goes on from any of them sees the same numbers again.
        let (again, _) = merge(2, &rows[1..], &entries[1..], false, false);
        assert_eq!(again[..], items[4..], "the first row only tells what comes before the second");
        let data = std::str::from_utf8(&items[8].data).expect("UTF-8");
        assert!(data.ends_with(r#""value":3544790567247868102}"#), "{data}");
    }

    #[test]
    fn nothing_is_told_that_something_unread_may_come_before() {
        let rows = [row(0, Kind::Claimed, 0, 0, 10, ""), row(1, Kind::Claimed, 0, 0, 30, "")];
        let (items, upto) = merge(0, &rows, &[entry(40, "late")], true, false);
        assert_eq!(whats(&items), ["run.claimed", "run.claimed"]);
        assert_eq!(upto, number(1, OF_ROW));
        let (items, upto) = merge(0, &rows, &[entry(20, "x")], false, true);
        assert_eq!(whats(&items), ["run.claimed", "x"]);
        assert_eq!(upto, number(0, OF_ROW + 1));
    }

    #[test]
    fn long_payloads_are_told_by_their_length() {
        let long = format!("\"{}\"", "x".repeat(INLINE_VALUE));
        let told = of_row(&row(1, Kind::Completed, 1, 1, 1, &long)).expect("an item");
        let data: Value = serde_json::from_slice(&told.data).expect("JSON");
        assert_eq!(data["output_bytes"], long.len());
        assert!(data.get("output").is_none());
    }

    #[test]
    fn operators_are_named() {
        let body = r#"{"code":"operator","detail":"Paused by ann: lunch"}"#;
        assert_eq!(of_row(&row(1, Kind::Paused, 4, 1, 1, body)).expect("an item").by, "ann");
        let body = r#"{"type":"run-terminated","message":"terminated by bob"}"#;
        assert_eq!(of_row(&row(1, Kind::Terminated, 0, 1, 1, body)).expect("an item").by, "bob");
    }
}
