//! Locks of a function: the objects that each of its runs has to itself, named by its input.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::form::clip;
use super::names::{valid_key, valid_name};
use crate::machine::{ObjectName, Path};

/// Entries of `locks`, at most.
const MOST_ENTRIES: usize = 8;
/// Objects that one run has, at most.
pub const MOST_LOCKS: usize = 32;

/// Objects of one function, by what is at a path of the input: a key, or a list of keys.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockSpec {
    /// The function of kind `object`.
    pub object: String,
    /// Where the input names the key, or the keys.
    pub key: Path,
}

impl LockSpec {
    /// Reads `locks` of a function. The error says what is wrong with it.
    pub(super) fn parse_all(raw: &RawValue) -> Result<Vec<Self>, String> {
        let all: Vec<Self> = serde_json::from_str(raw.get()).map_err(|e| {
            let form = "[{\"object\": \"account\", \"key\": \"input.from\"}]";
            format!("a list such as {form} was expected: {}", clip(&e.to_string()))
        })?;
        if all.is_empty() || all.len() > MOST_ENTRIES {
            return Err(format!("has {} entries; 1 to {MOST_ENTRIES} are possible", all.len()));
        }
        for one in &all {
            valid_name(&one.object).map_err(|e| format!("`object`: {e}"))?;
        }
        Ok(all)
    }

    /// The objects that an input names, each once, in the order of the entries. The error says at
    /// which path the input has no key.
    pub fn objects(all: &[Self], input: &RawValue) -> Result<Vec<ObjectName>, String> {
        let mut objects: Vec<ObjectName> = Vec::new();
        for spec in all {
            let path = spec.key.as_str();
            let missing = || {
                format!(
                    "the run locks `{}` by the key at `{path}`, which must be a text, a whole number \
                     or a list of those with at least one",
                    spec.object
                )
            };
            let found = spec.key.found_in(input).ok_or_else(missing)?;
            for key in keys(found).ok_or_else(missing)? {
                valid_key(&key).map_err(|e| format!("`{path}`: {e}"))?;
                let object = ObjectName { function: spec.object.clone(), key };
                if !objects.contains(&object) {
                    objects.push(object);
                }
            }
            if objects.len() > MOST_LOCKS {
                return Err(format!("the run would lock more than {MOST_LOCKS} objects"));
            }
        }
        Ok(objects)
    }
}

/// The keys that a value is; none: it is none.
fn keys(json: &RawValue) -> Option<Vec<String>> {
    let json = json.get();
    match json.as_bytes().first()? {
        b'"' => Some(vec![serde_json::from_str(json).ok()?]),
        b'[' => {
            let items: Vec<&RawValue> = serde_json::from_str(json).ok()?;
            let scalar = |item: &&RawValue| !item.get().starts_with('[');
            if items.is_empty() || items.len() > MOST_LOCKS || !items.iter().all(scalar) {
                return None;
            }
            items.into_iter().map(|item| Some(keys(item)?.remove(0))).collect()
        }
        // As it is written, but no other way to write it: 1e2 is 100 too.
        b'-' | b'0'..=b'9' => json.parse::<i64>().ok().map(|n| vec![n.to_string()]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).expect("JSON")
    }

    fn specs(json: &str) -> Result<Vec<LockSpec>, String> {
        LockSpec::parse_all(&raw(json))
    }

    #[test]
    fn an_input_names_each_object_once() {
        let all = specs(
            r#"[{"object": "account", "key": "input.from"}, {"object": "account", "key": "input.to"}]"#,
        )
        .expect("locks");
        let named = |input: &str| {
            let objects = LockSpec::objects(&all, &raw(input))?;
            Ok::<_, String>(objects.into_iter().map(|o| o.key).collect::<Vec<_>>())
        };
        assert_eq!(named(r#"{"from": "b", "to": "a"}"#), Ok(vec!["b".to_owned(), "a".to_owned()]));
        assert_eq!(named(r#"{"from": "a", "to": "a"}"#), Ok(vec!["a".to_owned()]));
        assert_eq!(
            named(r#"{"from": 7, "to": ["x", 8, "x"]}"#),
            Ok(["7", "x", "8"].map(str::to_owned).to_vec())
        );
        for (input, said) in [
            (r#"{"from": "a"}"#, "input.to"),
            (r#"{"from": null, "to": "a"}"#, "input.from"),
            (r#"{"from": "a", "to": []}"#, "at least one"),
            (r#"{"from": "a", "to": [[1]]}"#, "input.to"),
            (r#"{"from": "a", "to": 1.5}"#, "whole number"),
            (r#"{"from": "", "to": "a"}"#, "input.from"),
            ("[1]", "input.from"),
        ] {
            let why = named(input).expect_err(input);
            assert!(why.contains(said), "{input}: {why}");
        }
        let many: Vec<String> = (0..33).map(|n| format!("\"k{n}\"")).collect();
        let many = format!(r#"{{"from": "a", "to": [{}]}}"#, many[..32].join(","));
        assert!(named(&many).expect_err("33").contains("more than 32"));
    }

    #[test]
    fn what_is_no_list_of_locks_is_refused() {
        for (json, said) in [
            ("[]", "0 entries"),
            (r#"[{"object": "a"}]"#, "key"),
            (r#"[{"object": "", "key": "input.a"}]"#, "object"),
            (r#"[{"object": "a", "key": "a"}]"#, "no field of an input"),
            (r#"[{"object": "a", "key": "input.a", "mode": "r"}]"#, "mode"),
            (r#"{"object": "a", "key": "input.a"}"#, "a list such as"),
        ] {
            let why = specs(json).expect_err(json);
            assert!(why.contains(said), "{json}: {why}");
        }
    }
}
