//! Runs are named by their ids, or by a beginning that only one of them has.

use std::time::Duration;

use super::client::{Client, document};
use super::failure::Failure;
use super::model::Run;
use crate::machine::RunId;
use crate::machine::time::Timestamp;

/// How much of an id must be given: eight characters bound its moment to about a second.
const LEAST_DIGITS: usize = 8;
/// How far a run's time of creation may be from the moment in its id.
const SLACK: Duration = Duration::from_secs(2);

/// The whole id of a run that is named by its id or by a beginning of it that only one run has. An
/// id begins with its moment of creation, so the beginning bounds where to look.
pub(super) async fn resolve(client: &Client, text: &str) -> Result<String, Failure> {
    if text.parse::<RunId>().is_ok() {
        return Ok(text.to_owned());
    }
    let none = || Failure::NotFound(format!("there is no run whose id is or begins with {text}"));
    let digits = text.strip_prefix("run_").unwrap_or(text).to_ascii_lowercase();
    if !(LEAST_DIGITS..26).contains(&digits.len()) {
        return Err(Failure::Usage(format!(
            "{text} is no run's id; a beginning needs {LEAST_DIGITS} characters after run_"
        )));
    }
    let bound = |fill: &str| {
        let whole = format!("run_{digits}{}", fill.repeat(26 - digits.len()));
        let id: RunId = whole.parse().map_err(|_| none())?;
        let millis = i64::try_from(id.uuid().as_u128() >> 80).expect("48 bits");
        Ok::<_, Failure>(Timestamp::from_micros(millis * 1_000))
    };
    let query = [
        ("started_after", (bound("0")? - SLACK).to_string()),
        ("started_before", (bound("z")? + SLACK).to_string()),
    ];
    let page = client.list(&["runs"], &query, 10_000).await?;
    let mut found = Vec::new();
    for item in &page.data {
        let run: Run = document(item.get())?;
        if run.id.strip_prefix("run_").is_some_and(|id| id.starts_with(&digits)) {
            found.push(run.id);
        }
    }
    match found.len() {
        0 => Err(none()),
        1 => Ok(found.remove(0)),
        _ => Err(Failure::Usage(format!(
            "{text} is the beginning of several ids: {}",
            found.join(", ")
        ))),
    }
}
