//! Lays out JSON text anew without reading its values: numbers and strings stay byte for byte.

/// The text with line breaks and two spaces a level. `json` must be valid JSON.
pub(super) fn pretty(json: &str) -> String {
    lay_out(json, true)
}

/// The text on one line, without spaces between tokens. `json` must be valid JSON.
pub(super) fn compact(json: &str) -> String {
    lay_out(json, false)
}

fn lay_out(json: &str, lines: bool) -> String {
    let mut out = String::with_capacity(json.len() + json.len() / 4);
    let mut depth = 0_usize;
    let mut rest = json.chars().peekable();
    let new_line = |out: &mut String, depth: usize| {
        if lines {
            out.push('\n');
            out.extend(std::iter::repeat_n("  ", depth));
        }
    };
    while let Some(c) = rest.next() {
        match c {
            '"' => {
                out.push(c);
                let mut escaped = false;
                for c in rest.by_ref() {
                    out.push(c);
                    match c {
                        '"' if !escaped => break,
                        _ => escaped = c == '\\' && !escaped,
                    }
                }
            }
            '{' | '[' => {
                out.push(c);
                while rest.next_if(char::is_ascii_whitespace).is_some() {}
                if let Some(close) = rest.next_if(|c| matches!(c, '}' | ']')) {
                    out.push(close);
                } else {
                    depth += 1;
                    new_line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                new_line(&mut out, depth);
            }
            ':' => out.push_str(if lines { ": " } else { ":" }),
            c if c.is_ascii_whitespace() => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_byte_for_byte() {
        let text =
            r#" { "n" : 3544790567247868102.10 , "s":"a , \"{ \\", "e":[ ],"o":{ "x":[1, 2]} } "#;
        assert_eq!(
            compact(text),
            r#"{"n":3544790567247868102.10,"s":"a , \"{ \\","e":[],"o":{"x":[1,2]}}"#
        );
        assert_eq!(compact(&pretty(text)), compact(text));
        assert_eq!(pretty(r#"{"a":[1,{}]}"#), "{\n  \"a\": [\n    1,\n    {}\n  ]\n}");
    }
}
