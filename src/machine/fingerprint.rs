//! What makes two errors the same: function, step, code, and the message without what differs from run
//! to run. A pure function, computed once, when the error is recorded.

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::body::error_of;
use super::row::Kind;
use super::run::{Run, Turn};
use super::step::StepState;

/// Bytes of a message that count.
const LONGEST: usize = 300;
/// Bytes of a message that are looked at: more than [`LONGEST`], since much of it may not count.
const READ: usize = 4 * LONGEST;
/// What stands for a number, an id, a text in quotes.
const NUMBER: &str = "<n>";
const ID: &str = "<id>";
const TEXT: &str = "<text>";

/// The kind of an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorKind {
    /// The step that failed last, if one has.
    pub step: Option<String>,
    /// The type of the error, or the code of a pause.
    pub code: String,
    /// The message without numbers, ids and texts in quotes.
    pub message: String,
    /// The message as it is.
    pub example: String,
}

impl ErrorKind {
    /// The kind of an error with this message.
    #[must_use]
    pub fn new(step: Option<&str>, code: &str, message: &str) -> Self {
        let example: String = message.chars().take(LONGEST).collect();
        Self {
            step: step.map(str::to_owned),
            code: code.to_owned(),
            message: normalised(message),
            example: example.replace('\0', " "),
        }
    }

    /// The same for all runs of a function that failed alike.
    #[must_use]
    pub fn fingerprint(&self, function: &str) -> Uuid {
        let mut hash = Sha256::new();
        for part in [function, self.step.as_deref().unwrap_or_default(), &self.code, &self.message]
        {
            hash.update(part.len().to_be_bytes());
            hash.update(part);
        }
        let mut half = [0; 16];
        half.copy_from_slice(&hash.finalize()[..16]);
        uuid::Builder::from_custom_bytes(half).into_uuid()
    }
}

/// What a run fails or pauses by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    /// The same for all runs of the function that do so alike.
    pub fingerprint: Uuid,
    /// What it is.
    pub kind: ErrorKind,
}

impl Run {
    /// What it has failed or is paused by; none if nothing went wrong, or a person has paused it.
    #[must_use]
    pub fn failing(&self) -> Option<Failing> {
        let kind = match (&self.turn, &self.paused) {
            (Turn::Ended { kind: Kind::EndFailed | Kind::TimedOut, body, .. }, _) => {
                let said = body.as_deref().and_then(error_of)?;
                ErrorKind::new(self.failed_last(), &said.kind, &said.message)
            }
            (Turn::Ended { .. }, _) => return None,
            (_, Some(why)) if why.code != "operator" => {
                let step =
                    why.detail.strip_prefix("Step `").and_then(|rest| rest.split('`').next());
                ErrorKind::new(step.or(self.failed_last()), &why.code, &why.detail)
            }
            _ => return None,
        };
        Some(Failing { fingerprint: kind.fingerprint(&self.created.function), kind })
    }

    /// The step that failed last.
    fn failed_last(&self) -> Option<&str> {
        let failed = self.steps.iter().filter_map(|(id, step)| match step.state {
            StepState::Settled { seq, ok: false, .. } => Some((seq, id.as_str())),
            _ => None,
        });
        failed.max().map(|(_, id)| id)
    }
}

/// A message without what differs from run to run: texts in quotes, words with a digit in them, and long
/// words of hex.
#[must_use]
fn normalised(message: &str) -> String {
    let mut out = String::with_capacity(message.len().min(LONGEST));
    let mut rest = &message[..message.floor_char_boundary(READ)];
    while let Some(first) = rest.chars().next() {
        if out.len() >= LONGEST {
            break;
        }
        if matches!(first, '"' | '\'' | '`')
            && !out.ends_with(char::is_alphanumeric)
            && let Some(length) = quoted(rest, first)
        {
            out.push_str(TEXT);
            rest = &rest[length..];
        } else if is_of_word(first) {
            let uuid = is_uuid(rest);
            let end = if uuid { UUID } else { end_of_word(rest) };
            out.push_str(if uuid { ID } else { word(&rest[..end]) });
            rest = &rest[end..];
        } else {
            // One space for any of them, and nothing that a database cannot hold.
            let space = first.is_whitespace() || first.is_control();
            if !(space && out.ends_with(' ')) {
                out.push(if space { ' ' } else { first });
            }
            rest = &rest[first.len_utf8()..];
        }
    }
    out.truncate(out.floor_char_boundary(LONGEST));
    out.trim().to_owned()
}

/// How long the text in quotes is that begins here, if it ends.
fn quoted(text: &str, quote: char) -> Option<usize> {
    let end = text[1..].find(quote)?;
    Some(end + 2)
}

const fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// How long a UUID is in text.
const UUID: usize = 36;

/// Whether a UUID begins here, with nothing behind it.
fn is_uuid(text: &str) -> bool {
    let split = text.split_at_checked(UUID);
    split.is_some_and(|(id, rest)| !rest.starts_with(is_of_word) && Uuid::try_parse(id).is_ok())
}

/// Where the word ends that begins here; a number goes on behind a point.
fn end_of_word(text: &str) -> usize {
    let number = text.starts_with(|c: char| c.is_ascii_digit());
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let next = chars.peek().map(|(_, c)| *c);
        let point = number && c == '.' && next.is_some_and(|c| c.is_ascii_digit());
        if !is_of_word(c) && !point {
            return at;
        }
    }
    text.len()
}

/// What stands for a word.
fn word(word: &str) -> &str {
    let digit = |c: char| c.is_ascii_digit();
    let long = word.len() >= 8;
    let hex = word.bytes().all(|b| b.is_ascii_hexdigit());
    if word.chars().all(|c| digit(c) || c == '.') {
        NUMBER
    } else if word.starts_with(digit) || (long && (word.contains(digit) || hex)) {
        ID
    } else {
        word
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_differs_from_run_to_run_is_left_out() {
        for (message, same) in [
            ("card 4242 of order 17 was declined", "card <n> of order <n> was declined"),
            ("no order 'ab-17'", "no order <text>"),
            ("can't open \"/tmp/x\" (2)", "can't open <text> (<n>)"),
            ("run_01k9c3v5h2e8x8p0m4s6t7w9yz is gone", "<id> is gone"),
            (
                "timeout after 1.5s at 0x7ffee3 for 550e8400-e29b-41d4-a716-446655440000",
                "timeout after <id> at <id> for <id>",
            ),
            ("deadbeefcafe  \n is\tnot here", "<id> is not here"),
            (
                "HTTP 503 from http2 at api.example.com:8080",
                "HTTP <n> from http2 at api.example.com:<n>",
            ),
            ("abcdefab-cdef-abcd-efab-cdefabcdefab took 2.", "<id> took <n>."),
            ("10.0.0.1:443 said é1 to ĳ", "<n>:<n> said é<n> to ĳ"),
            ("an unended \"quote", "an unended \"quote"),
            ("", ""),
        ] {
            assert_eq!(normalised(message), same, "{message}");
        }
    }

    #[test]
    fn every_part_of_a_kind_counts() {
        let kind = |step, code, message| ErrorKind::new(step, code, message).fingerprint("f");
        let one = kind(Some("charge"), "Declined", "order 17");
        assert_eq!(one, kind(Some("charge"), "Declined", "order 18"));
        assert_ne!(one, kind(Some("refund"), "Declined", "order 17"));
        assert_ne!(one, kind(None, "Declined", "order 17"));
        assert_ne!(one, kind(Some("charge"), "Away", "order 17"));
        assert_ne!(one, kind(Some("charge"), "Declined", "item 17"));
        let of = |function| ErrorKind::new(None, "a", "b").fingerprint(function);
        assert_ne!(of("f"), of("g"));
        // What belongs to one part is not taken for another's.
        assert_ne!(kind(Some("a"), "bc", ""), kind(Some("ab"), "c", ""));
    }

    proptest! {
        #[test]
        fn a_message_of_any_kind_is_short_and_stays_as_it_is_the_second_time(text in any::<String>()) {
            let once = normalised(&text);
            prop_assert!(once.len() <= LONGEST);
            prop_assert!(!once.contains(char::is_control));
            if once.len() < LONGEST - 8 {
                prop_assert_eq!(normalised(&once), once);
            }
        }

        #[test]
        fn numbers_do_not_count(before in "[a-z ,.]{0,20}", a in any::<u64>(), b in any::<u64>(), after in "[a-z ,.]{0,20}") {
            let of = |n: u64| normalised(&format!("{before} {n} {after}"));
            prop_assert_eq!(of(a), of(b));
        }

        #[test]
        fn a_text_in_quotes_does_not_count(before in "[a-z]{0,9}", a in "[^\"]{0,20}", b in "[^\"]{0,20}") {
            let of = |text: &str| normalised(&format!("{before} \"{text}\" end"));
            prop_assert_eq!(of(&a), of(&b));
        }
    }
}
