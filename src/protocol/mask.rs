//! Takes out of an invocation what gives power to whoever reads it, before people are shown it.

use std::borrow::Cow;

/// What stands where something was.
const MASK: &str = "…";
/// What comes before a secret, and what ends it.
const SECRETS: [(&str, &[char]); 2] = [("\"token\":\"", &['"']), ("/v1/callbacks/", &['/', '"'])];

/// A text, whole or its head, without the tokens and the secrets of callback addresses that the
/// gateway writes into invocations. Other text of that form is taken for one too.
#[must_use]
pub fn masked(text: &str) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(text);
    for (before, ends) in SECRETS {
        if text.contains(before) {
            text = without(&text, before, ends).into();
        }
    }
    text
}

fn without(text: &str, before: &str, ends: &[char]) -> String {
    let mut parts = text.split(before);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        // A head may end within the secret.
        let end = part.find(ends).unwrap_or(part.len());
        out.push_str(before);
        if end > 0 {
            out.push_str(MASK);
        }
        out.push_str(&part[end..]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gives_power_is_taken_out_and_nothing_else() {
        let text = r#"{"input":"token","links":{"callback":"https://gw/v1/callbacks/c1.s3/"},"token":"t1.s2"}"#;
        let shown =
            r#"{"input":"token","links":{"callback":"https://gw/v1/callbacks/…/"},"token":"…"}"#;
        assert_eq!(masked(text), shown);
        assert!(matches!(masked("{\"input\":[1.0,\"ü\"]}"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_head_that_ends_within_a_secret_shows_nothing_of_it() {
        let text = r#"{"links":{"callback":"https://gw/v1/callbacks/c1.s3/"},"token":"t1.s2"}"#;
        for end in 0..=text.len() {
            let shown = masked(&text[..end]).into_owned();
            assert!(!shown.contains("c1") && !shown.contains("t1"), "{shown}");
        }
    }
}
