//! Whether a setting is what somebody wants, however either is written.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::output::plain;
use crate::machine::Timestamp;
use crate::machine::time::parse_duration;

/// A setting that is another than it should be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Difference {
    field: String,
    from: Value,
    to: Value,
}

impl Difference {
    pub(super) fn new(field: &str, from: Value, to: Value) -> Self {
        Self { field: field.to_owned(), from, to }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Value| match value {
            Value::String(text) => plain(text),
            other => plain(&other.to_string()),
        };
        write!(f, "{}: {} → {}", self.field, shown(&self.from), shown(&self.to))
    }
}

/// Settings that are somebody's data: they are compared as they are.
const LITERAL: [&str; 3] = ["input", "key", "tags"];

/// The wanted settings that are not what `has` has.
pub(super) fn differences<'a>(
    wanted: impl IntoIterator<Item = (&'a str, Value)>,
    has: &Value,
) -> Vec<Difference> {
    let other = |(field, wanted): (&str, Value)| {
        let has = has.get(field).unwrap_or(&Value::Null);
        let same = if LITERAL.contains(&field) { wanted == *has } else { same(&wanted, has) };
        (!same).then(|| Difference::new(field, has.clone(), wanted))
    };
    wanted.into_iter().filter_map(other).collect()
}

/// Whether two settings mean the same: `90s` and `1m30s`, moments in two zones, an object without a
/// field and one where it is null.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::String(a), Value::String(b)) => {
            let durations = || Some(parse_duration(a).ok()? == parse_duration(b).ok()?);
            let moments = || Some(a.parse::<Timestamp>().ok()? == b.parse::<Timestamp>().ok()?);
            a == b || durations().or_else(moments).unwrap_or(false)
        }
        (Value::Object(a), Value::Object(b)) => {
            let of = |all: &serde_json::Map<String, Value>, field: &str| {
                all.get(field).cloned().unwrap_or(Value::Null)
            };
            a.keys().chain(b.keys()).all(|field| same(&of(a, field), &of(b, field)))
        }
        (Value::Object(all), Value::Null) | (Value::Null, Value::Object(all)) => {
            all.values().all(|value| same(value, &Value::Null))
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_means_the_same_is_no_difference() {
        for (a, b) in [
            (json!("90s"), json!("1m30s")),
            (json!("PT5M"), json!("5m")),
            (json!("2026-11-26T09:00:00Z"), json!("2026-11-26T10:00:00.000+01:00")),
            (json!({"run": "1h"}), json!({"run": "60m", "start": null})),
            (json!({}), json!(null)),
            (json!([1, {"a": null}]), json!([1, {}])),
        ] {
            assert!(same(&a, &b) && same(&b, &a), "{a} {b}");
        }
        for (a, b) in [
            (json!("90s"), json!("91s")),
            (json!("a"), json!("b")),
            (json!(1), json!("1")),
            (json!({"run": "1h"}), json!({})),
            (json!([1]), json!([1, 2])),
            (json!(false), json!(null)),
        ] {
            assert!(!same(&a, &b) && !same(&b, &a), "{a} {b}");
        }
        let has = json!({"input": "90s", "jitter": "90s"});
        let found = differences([("input", json!("1m30s")), ("jitter", json!("1m30s"))], &has);
        assert_eq!(found.len(), 1, "data is data");
        let found = differences([("a", json!(1)), ("b", json!("x"))], &json!({"a": 1, "c": 2}));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].to_string(), "b: null → x");
    }
}
