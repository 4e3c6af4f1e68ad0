//! What invocations show of settled steps: one growing piece of JSON, made once per step.

use std::collections::BTreeSet;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::row::OpKind;

/// A value over this is shown as a reference and fetched on its own.
pub const INLINE_VALUE: usize = 32 << 10;

/// Settled steps as `"id":{"seq":…,"op":…,"value":…}` members, in commit order.
///
/// Invocations of a run differ in their tail only, so that sending a journal of N steps costs a
/// copy of its bytes and no serialisation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    text: Vec<u8>,
    /// Up to this `seq` all of them are gone.
    base: i32,
    /// Where the member of each `seq` after that ends in `text`.
    ends: Vec<usize>,
    /// Bytes of all values and errors, references at their full size.
    pub bytes: usize,
    /// Whether a value is shown as a reference.
    pub has_refs: bool,
    /// Which those are.
    refs: BTreeSet<i32>,
}

impl Shown {
    /// Adds the step that settled as number `seq`.
    pub fn push(&mut self, id: &str, seq: i32, op: OpKind, ok: bool, body: &Bytes) {
        use std::io::Write as _;
        self.bytes += body.len();
        let text = &mut self.text;
        if !text.is_empty() {
            text.push(b',');
        }
        serde_json::to_writer(&mut *text, id).expect("writing to memory succeeds");
        let word = op.word();
        write!(text, r#":{{"seq":{seq},"op":"{word}","#).expect("writing to memory succeeds");
        if body.len() > INLINE_VALUE {
            self.has_refs = true;
            self.refs.insert(seq);
            let digest = Sha256::digest(body);
            write!(text, r#""ref":{{"bytes":{},"sha256":""#, body.len())
                .expect("writing to memory succeeds");
            for byte in digest {
                write!(text, "{byte:02x}").expect("writing to memory succeeds");
            }
            text.extend_from_slice(if ok { b"\"}" } else { b"\"},\"failed\":true" });
        } else {
            text.extend_from_slice(if ok { br#""value":"# } else { br#""error":"# });
            text.extend_from_slice(if body.is_empty() { b"null" } else { body });
        }
        text.push(b'}');
        self.ends.push(text.len());
    }

    /// Leaves out everything up to `seq`, which must be the last.
    pub fn compact(&mut self, seq: i32) {
        *self = Self { base: seq, ..Self::default() };
    }

    /// Whether the step that settled as this number may be shown.
    #[must_use]
    pub const fn reaches(&self, seq: i32) -> bool {
        seq > self.base
    }

    /// Leaves out steps that have settled: their numbers stay used.
    pub fn hide(&mut self, mut seqs: Vec<i32>) {
        seqs.retain(|seq| *seq > self.base);
        seqs.sort_unstable();
        let first = seqs.first().and_then(|seq| usize::try_from(seq - 1 - self.base).ok());
        let Some(first) = first.filter(|first| *first < self.ends.len()) else { return };
        // Everything before the first of them stays where it is.
        let kept = first.checked_sub(1).map_or(0, |last| self.ends[last]);
        let tail = self.text.split_off(kept);
        let mut begin = kept;
        let number = self.base + i32::try_from(first).unwrap_or(0) + 1;
        for (place, seq) in (first..self.ends.len()).zip(number..) {
            let end = self.ends[place];
            let member = tail[begin - kept..end - kept].strip_prefix(b",");
            let member = member.unwrap_or(&tail[begin - kept..end - kept]);
            if seqs.binary_search(&seq).is_ok() {
                self.refs.remove(&seq);
            } else if !member.is_empty() {
                if !self.text.is_empty() {
                    self.text.push(b',');
                }
                self.text.extend_from_slice(member);
            }
            begin = end;
            self.ends[place] = self.text.len();
        }
        self.has_refs = !self.refs.is_empty();
    }

    /// The members up to as many as fit into `budget` bytes, and the `seq` of the last of them.
    #[must_use]
    pub fn within(&self, budget: usize) -> (&[u8], i32) {
        let count = if self.text.len() <= budget {
            self.ends.len()
        } else {
            self.ends.partition_point(|end| *end <= budget)
        };
        let end = count.checked_sub(1).map_or(0, |last| self.ends[last]);
        (&self.text[..end], self.base + i32::try_from(count).unwrap_or(i32::MAX))
    }

    /// The members after `seq`, as many as fit into `budget` bytes but at least one, and the
    /// `seq` of the last of them.
    #[must_use]
    pub fn after(&self, seq: i32, budget: usize) -> (&[u8], i32) {
        let from = usize::try_from(seq - self.base).unwrap_or(0).min(self.ends.len());
        if from == self.ends.len() {
            return (&[], seq.max(self.base));
        }
        let start = from.checked_sub(1).map_or(0, |last| self.ends[last]);
        let fits = |end: &usize| end.saturating_sub(start + usize::from(start > 0)) <= budget;
        let count = self.ends[from..].partition_point(fits).max(1);
        let last = from + count;
        let members = &self.text[start..self.ends[last - 1]];
        let members = members.strip_prefix(b",").unwrap_or(members);
        (members, self.base + i32::try_from(last).unwrap_or(i32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Shown {
        let mut shown = Shown::default();
        shown.push("a", 1, OpKind::Run, true, &Bytes::from_static(b"3544790567247868102"));
        shown.push("b\"", 2, OpKind::Signal, false, &Bytes::from_static(b"{}"));
        shown
    }

    #[test]
    fn members_are_json_and_byte_exact() {
        let shown = two();
        let (text, upto) = shown.within(1000);
        assert_eq!(upto, 2);
        let text = String::from_utf8(text.to_vec()).expect("utf-8");
        assert_eq!(
            text,
            r#""a":{"seq":1,"op":"run","value":3544790567247868102},"b\"":{"seq":2,"op":"signal","error":{}}"#
        );
    }

    #[test]
    fn a_budget_cuts_between_members_and_pages_go_on_there() {
        let shown = two();
        let (first, upto) = shown.within(60);
        assert_eq!(upto, 1);
        assert!(first.ends_with(b"}"));
        assert_eq!(shown.within(3), (&[][..], 0));
        let (rest, last) = shown.after(1, 10);
        assert_eq!(last, 2);
        assert!(rest.starts_with(b"\"b"));
        assert_eq!(shown.after(2, 10), (&[][..], 2));
    }

    #[test]
    fn what_is_taken_back_leaves_a_gap_in_the_numbers_alone() {
        let whole = |shown: &Shown| {
            let text = format!("{{{}}}", String::from_utf8_lossy(shown.within(10_000).0));
            let json: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(&text).expect("JSON");
            json.into_iter().map(|(id, s)| (id, s["seq"].as_i64())).collect::<Vec<_>>()
        };
        let of = |n: i32| {
            let mut shown = Shown::default();
            for seq in 1..=n {
                shown.push(&format!("s{seq}"), seq, OpKind::Run, true, &Bytes::from_static(b"1"));
            }
            shown
        };
        for n in 1..=4 {
            // Every set of steps, in both orders.
            for gone in 0..1 << n {
                for back in [false, true] {
                    let mut shown = of(n);
                    let mut out: Vec<i32> = (1..=n).filter(|s| gone >> (s - 1) & 1 == 1).collect();
                    if back {
                        out.reverse();
                    }
                    for seq in &out {
                        shown.hide(vec![*seq]);
                        shown.hide(vec![*seq]);
                    }
                    shown.push("new", n + 1, OpKind::Run, true, &Bytes::from_static(b"2"));
                    let mut left: Vec<(String, Option<i64>)> = (1..=n)
                        .filter(|s| !out.contains(s))
                        .map(|s| (format!("s{s}"), Some(s.into())))
                        .collect();
                    left.push(("new".to_owned(), Some((n + 1).into())));
                    left.sort();
                    assert_eq!(whole(&shown), left, "{n} steps without {out:?}");
                    // Page by page it is the same.
                    let (mut after, mut text) = (0, Vec::new());
                    while after < n + 1 {
                        let (page, upto) = shown.after(after, 1);
                        assert!(upto > after);
                        after = upto;
                        if !page.is_empty() {
                            text.push(String::from_utf8_lossy(page).into_owned());
                        }
                    }
                    let all = String::from_utf8_lossy(shown.within(10_000).0).into_owned();
                    assert_eq!(text.join(","), all, "{n} steps without {out:?}");
                }
            }
        }
    }

    #[test]
    fn hidden_steps_leave_their_numbers_behind() {
        let mut shown = Shown::default();
        for (seq, id) in (1..).zip(["a", "m/0", "m/1", "m", "b"]) {
            shown.push(id, seq, OpKind::Run, true, &Bytes::from_static(b"1"));
        }
        shown.hide(vec![3, 2]);
        let of = |text: &[u8]| {
            let json = format!("{{{}}}", String::from_utf8_lossy(text));
            serde_json::from_str::<serde_json::Value>(&json).expect("JSON")
        };
        let (all, upto) = shown.within(1000);
        assert_eq!(upto, 5);
        let member = |seq| serde_json::json!({"seq": seq, "op": "run", "value": 1});
        let expected = serde_json::json!({"a": member(1), "m": member(4), "b": member(5)});
        assert_eq!(of(all), expected);
        let (rest, last) = shown.after(1, 1);
        assert_eq!((rest, last), (&b""[..], 3), "what is hidden costs nothing");
        assert_eq!(of(shown.after(3, 1000).0)["m"], member(4));
        shown.hide(vec![1, 4]);
        assert_eq!(of(shown.within(1000).0), serde_json::json!({"b": member(5)}));
        shown.push("c", 6, OpKind::Run, true, &Bytes::from_static(b"1"));
        assert_eq!(of(shown.after(4, 1000).0)["c"], member(6));
        shown.hide(vec![5, 6]);
        assert_eq!(shown.within(1000), (&b""[..], 6));
    }

    #[test]
    fn what_is_compacted_leaves_its_numbers_behind() {
        let mut shown = two();
        shown.compact(2);
        assert_eq!((shown.within(1000), shown.after(0, 1000)), ((&b""[..], 2), (&b""[..], 2)));
        for (seq, id) in (3..).zip(["c", "d", "e"]) {
            shown.push(id, seq, OpKind::Run, true, &Bytes::from_static(b"1"));
        }
        let member = |id: &str, seq: i32| format!(r#""{id}":{{"seq":{seq},"op":"run","value":1}}"#);
        let text = |part: &[u8]| String::from_utf8(part.to_vec()).expect("utf-8");
        assert_eq!(text(shown.after(3, 1).0), member("d", 4));
        shown.hide(vec![1, 4]);
        let (all, upto) = shown.within(1000);
        assert_eq!((text(all), upto), (member("c", 3) + "," + &member("e", 5), 5));
        assert_eq!((text(shown.after(0, 1).0), shown.after(0, 1).1), (member("c", 3), 3));
        assert!(shown.reaches(3) && !shown.reaches(2));
    }

    #[test]
    fn big_values_are_references() {
        let mut shown = Shown::default();
        let big = Bytes::from(format!("\"{}\"", "x".repeat(INLINE_VALUE)));
        shown.push("big", 1, OpKind::Run, true, &big);
        let text = format!("{{{}}}", String::from_utf8_lossy(shown.within(1000).0));
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(json["big"]["ref"]["bytes"], big.len());
        assert!(shown.has_refs);
    }
}
