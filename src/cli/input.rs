//! What users give on the command line: payloads, pairs, whether they are sure.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Read, Write};

use serde_json::value::RawValue;

use super::failure::Failure;

/// A payload as `-i` takes it: JSON text, `@file`, or `-` for standard input. The text is passed on
/// byte for byte; only white space around it is dropped.
pub(super) fn payload(argument: &str) -> Result<Box<RawValue>, Failure> {
    let (text, from) = match argument.strip_prefix('@') {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| Failure::Usage(format!("cannot read {path}: {error}")))?;
            (text, path)
        }
        None if argument == "-" => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .map_err(|error| Failure::Usage(format!("cannot read standard input: {error}")))?;
            (text, "standard input")
        }
        None => (argument.to_owned(), "-i"),
    };
    RawValue::from_string(text).map_err(|error| {
        Failure::Usage(format!("{from} is not JSON: {error} (a text needs quotes: -i '\"text\"')"))
    })
}

/// The payload of an optional `-i`; JSON null where it is left out.
pub(super) fn payload_or_null(argument: Option<&str>) -> Result<Box<RawValue>, Failure> {
    argument.map_or_else(|| Ok(RawValue::NULL.to_owned()), payload)
}

/// A `name=value` pair.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not of the form name=value")),
    }
}

/// What a list is asked about a tag: `name=value`, as the API writes it, or a range.
pub(super) fn tag_test(text: &str) -> Result<String, String> {
    match text.find(['=', '<', '>']) {
        Some(at) if at > 0 && text[at..].starts_with('=') => {
            Ok(format!("{}:{}", &text[..at], &text[at + 1..]))
        }
        Some(at) if at > 0 => Ok(text.to_owned()),
        _ => Err(format!("`{text}` is not of the form name=value or name>value")),
    }
}

/// Pairs as a JSON object; of a name that is given twice the last value.
pub(super) fn object(pairs: Vec<(String, String)>) -> BTreeMap<String, String> {
    pairs.into_iter().collect()
}

/// Asks on the terminal whether to go on with something that cannot be undone. Without a terminal
/// nobody can be asked: then `--yes` is needed.
pub(super) fn confirm(yes: bool, question: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    let stdin = std::io::stdin();
    let mut stderr = std::io::stderr();
    if !stdin.is_terminal() || !stderr.is_terminal() {
        return Err(Failure::Usage(format!(
            "{question} Say --yes: there is no terminal to ask on."
        )));
    }
    write!(stderr, "{question} [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    stdin.read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::Declined),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_stays_byte_for_byte() {
        let text = r#"{"n": 3544790567247868102,  "f":1.10}"#;
        assert_eq!(payload(&format!(" {text}\n")).unwrap().get(), text);
        assert_eq!(payload_or_null(None).unwrap().get(), "null");
        let error = payload("{oops}").unwrap_err();
        assert_eq!(error.exit_code(), super::super::exit::USAGE);
        assert!(payload("@/nonexistent/file").is_err());
    }

    #[test]
    fn pairs() {
        assert_eq!(pair("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(pair("a").is_err() && pair("=b").is_err());
        assert_eq!(tag_test("a=b>c"), Ok("a:b>c".to_owned()));
        assert_eq!(tag_test("a>=5"), Ok("a>=5".to_owned()));
        assert!(tag_test("a").is_err() && tag_test(">5").is_err());
    }

    #[test]
    fn without_a_terminal_yes_is_needed() {
        assert!(confirm(true, "Sure?").is_ok());
    }
}
