//! Whether two pieces of JSON say the same: order of members and space between tokens do not
//! count, the spelling of numbers does.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// JSON in one spelling; what is not JSON stays as it is.
pub(super) fn canonical(json: &[u8]) -> String {
    let mut out = String::new();
    match serde_json::from_slice::<&RawValue>(json) {
        Ok(raw) => write(raw, &mut out),
        Err(_) => out = String::from_utf8_lossy(json).into_owned(),
    }
    out
}

fn write(raw: &RawValue, out: &mut String) {
    let text = raw.get().trim();
    let list =
        |out: &mut String, open: char, close: char, items: &mut dyn Iterator<Item = String>| {
            out.push(open);
            for (i, item) in items.enumerate() {
                if i > 0 {
                    out.push(',');
                }
                out.push_str(&item);
            }
            out.push(close);
        };
    let of = |raw: &RawValue| {
        let mut text = String::new();
        write(raw, &mut text);
        text
    };
    match text.as_bytes().first() {
        Some(b'{') => {
            let members: BTreeMap<String, &RawValue> =
                serde_json::from_str(text).unwrap_or_default();
            let mut items = members
                .iter()
                .map(|(name, raw)| format!("{}:{}", serde_json::json!(name), of(raw)));
            list(out, '{', '}', &mut items);
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text).unwrap_or_default();
            list(out, '[', ']', &mut items.into_iter().map(of));
        }
        Some(b'"') => {
            let decoded: String = serde_json::from_str(text).unwrap_or_else(|_| text.to_owned());
            out.push_str(&serde_json::json!(decoded).to_string());
        }
        _ => out.push_str(text),
    }
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn order_and_space_do_not_count_and_numbers_do() {
        let same = |a: &str, b: &str| canonical(a.as_bytes()) == canonical(b.as_bytes());
        assert!(same(r#"{"b": [1, {"x":null}], "a":"é"}"#, r#"{"a":"\u00e9","b":[1,{"x":null}]}"#));
        assert!(!same("3544790567247868102", "3544790567247868103"));
        assert!(!same("1", "1.0"));
        assert!(!same("[1,2]", "[2,1]"));
    }
}
