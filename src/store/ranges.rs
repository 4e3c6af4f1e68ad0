//! Ranges of tags: a tag is a text, and one that reads as a number or as a moment in UTC can be
//! compared as that. Another one is in no range.

/// Which side of a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i16)]
pub enum Range {
    /// Less than it.
    Below = 0,
    /// Not more than it.
    UpTo = 1,
    /// More than it.
    Above = 2,
    /// Not less than it.
    From = 3,
}

/// What the value of a tag is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// The tag.
    pub name: String,
    /// Which side.
    pub range: Range,
    /// A number, as text.
    pub number: Option<String>,
    /// A moment as text, without the `Z` at its end: so its order is that of time.
    pub moment: Option<String>,
}

impl Bound {
    /// A bound of a tag; of a value that is neither a number nor a moment nothing is in range.
    #[must_use]
    pub fn new(name: &str, range: Range, value: &str) -> Self {
        let moment = is_moment(value).then(|| value.trim_end_matches('Z').to_owned());
        let number = is_number(value).then(|| value.to_owned());
        Self { name: name.to_owned(), range, number, moment }
    }

    /// Whether a value can be a bound.
    #[must_use]
    pub fn is_one(value: &str) -> bool {
        is_number(value) || is_moment(value)
    }
}

/// `-?digits[.digits]`, up to thirty of each.
fn is_number(text: &str) -> bool {
    let text = text.strip_prefix('-').unwrap_or(text);
    let digits = |t: &str| (1..=30).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_digit());
    match text.split_once('.') {
        None => digits(text),
        Some((whole, part)) => digits(whole) && digits(part),
    }
}

/// A day, or a moment of it in UTC: `2026-12-01`, `2026-12-01T09:30:00Z`, with fractions of a second.
fn is_moment(text: &str) -> bool {
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    let sign = |at: usize, sign: u8| text.as_bytes().get(at) == Some(&sign);
    let two = |at: usize, least: u8, most: u8| {
        let number = text.get(at..at + 2).filter(|t| digits(t)).and_then(|t| t.parse::<u8>().ok());
        number.is_some_and(|n| (least..=most).contains(&n))
    };
    let year = text.get(..4).is_some_and(digits);
    let day = year && sign(4, b'-') && two(5, 1, 12) && sign(7, b'-') && two(8, 1, 31);
    if text.len() == 10 {
        return day;
    }
    let clock = sign(10, b'T')
        && two(11, 0, 23)
        && sign(13, b':')
        && two(14, 0, 59)
        && sign(16, b':')
        && two(17, 0, 59);
    let part = text.get(19..).and_then(|rest| rest.strip_suffix('Z')).is_some_and(|part| {
        let fraction = |t: &str| (1..=9).contains(&t.len()) && digits(t);
        part.is_empty() || part.strip_prefix('.').is_some_and(fraction)
    });
    day && clock && part
}
