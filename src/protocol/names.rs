//! What step ids, signal names, function names, keys and tags may look like.

/// The longest name, in bytes.
const MAX_BYTES: usize = 256;
/// The longest value of a tag, in bytes.
const MAX_TAG_VALUE: usize = 1024;

fn plain(text: &str, what: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err(format!("{what} must not be empty"));
    }
    if text.len() > MAX_BYTES {
        return Err(format!("{what} is {} bytes long, over the limit of {MAX_BYTES}", text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{what} must not contain control characters"));
    }
    Ok(())
}

/// A dot segment would change the address that the name becomes part of.
fn addressable(text: &str, what: &str) -> Result<(), String> {
    plain(text, what)?;
    if text.split('/').any(|segment| segment == "." || segment == "..") {
        return Err(format!("{what} must not have `.` or `..` between slashes"));
    }
    Ok(())
}

/// Whether a text can be a step's id: 1 to 256 bytes, no control characters, no `.` or `..` as a
/// segment between slashes. The error says what is wrong, in words.
pub fn valid_step_id(id: &str) -> Result<(), String> {
    addressable(id, "a step id")
}

/// Whether a text can name a function or a signal. The same rule as for step ids.
pub fn valid_name(name: &str) -> Result<(), String> {
    addressable(name, "a name")
}

/// Whether a text can be a run's key. The same rule as for step ids.
pub fn valid_key(key: &str) -> Result<(), String> {
    addressable(key, "a key")
}

/// Whether a run can have this tag: a name of 1 to 256 bytes without a colon (`tag=k:v` filters by
/// it), a value of up to 1,024 bytes, no control characters in either.
pub fn valid_tag(name: &str, value: &str) -> Result<(), String> {
    plain(name, "a tag's name")?;
    if name.contains(':') {
        return Err("a tag's name must not contain a colon".to_owned());
    }
    if value.len() > MAX_TAG_VALUE {
        let got = value.len();
        return Err(format!(
            "a tag's value is {got} bytes long, over the limit of {MAX_TAG_VALUE}"
        ));
    }
    if value.chars().any(char::is_control) {
        return Err("a tag's value must not contain control characters".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    // P2.25, P5.1, P5.2
    #[test]
    fn step_ids_are_readable_and_safe_in_an_address() {
        for good in ["charge", "map/3/resize", "name#2", "größe", "...", "a/.b", "constructor"] {
            assert_eq!(valid_step_id(good), Ok(()), "{good}");
        }
        let long = "x".repeat(257);
        for bad in ["", ".", "..", "a/../b", "a/.", "line\nbreak", "nul\0", "\u{85}", &long] {
            assert!(valid_step_id(bad).is_err(), "{bad:?}");
        }
        assert_eq!(valid_step_id(&"ü".repeat(128)), Ok(()));
        assert!(valid_step_id(&"ü".repeat(129)).is_err());
    }

    #[test]
    fn tags_can_be_filtered_by() {
        assert_eq!(valid_tag("customer", "c7:x"), Ok(()));
        assert_eq!(valid_tag("customer", ""), Ok(()));
        assert!(valid_tag("a:b", "c").is_err());
        assert!(valid_tag("a", "nul\0").is_err());
    }
}
