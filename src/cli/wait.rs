//! Waiting for a run's end by long polls, through restarts of the gateway.

use std::str::FromStr;
use std::time::Duration;

use tokio::time::Instant;

use super::client::{Answer, Client, POLL, Request};
use super::failure::Failure;
use super::model::{Run, error_line};
use crate::machine::time::parse_duration;

/// How long a gateway that does not answer is asked again before the command gives up.
const PATIENCE: Duration = Duration::from_mins(1);
/// Between two tries while it does not answer.
pub(super) const PAUSE: Duration = Duration::from_millis(500);

/// How long to wait for a run, as `--wait` and `--wait=30s` say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Until it has ended.
    None,
    /// So long at most; then exit code 6.
    Some(Duration),
}

impl FromStr for Limit {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "forever" { Ok(Self::None) } else { parse_duration(text).map(Self::Some) }
    }
}

/// Counts how long a gateway has not answered.
#[derive(Debug, Default)]
pub(super) struct Outage {
    since: Option<Instant>,
}

impl Outage {
    /// It answered.
    pub(super) fn over(&mut self) {
        self.since = None;
    }

    /// A request failed: whether to try again, and whether this is the first time in a row. Gives
    /// the failure back where it will not pass by itself or patience is used up.
    pub(super) fn bear(&mut self, failure: Failure) -> Result<bool, Failure> {
        let first = self.since.is_none();
        let since = *self.since.get_or_insert_with(Instant::now);
        if failure.is_passing() && since.elapsed() < PATIENCE { Ok(first) } else { Err(failure) }
    }
}

/// The run once it has ended, and the answer that said so.
pub(super) async fn until_ended(
    client: &Client,
    id: &str,
    limit: Limit,
) -> Result<(Run, Answer), Failure> {
    let began = Instant::now();
    let left = || match limit {
        Limit::None => POLL,
        Limit::Some(limit) => limit.saturating_sub(began.elapsed()),
    };
    let mut outage = Outage::default();
    loop {
        let poll = left().min(POLL);
        let query = [("wait", format!("{}ms", poll.as_millis()))];
        let path = ["runs", id];
        let request = Request { extra: poll, ..Request::get(&path).query(&query) };
        match client.send(request).await {
            Ok(answer) => {
                outage.over();
                let run: Run = answer.read()?;
                if run.ended() {
                    return Ok((run, answer));
                }
                if left().is_zero() {
                    return Err(Failure::TimedOut(format!(
                        "run {id} has not ended yet: it is {}",
                        run.status
                    )));
                }
            }
            Err(failure) => {
                outage.bear(failure)?;
                if left().is_zero() {
                    return Err(Failure::TimedOut(format!(
                        "the gateway does not answer; run {id} goes on there"
                    )));
                }
                tokio::time::sleep(PAUSE.min(left())).await;
            }
        }
    }
}

/// A failure if the awaited run ended otherwise than completed.
pub(super) fn verdict(run: &Run) -> Result<(), Failure> {
    if run.completed() {
        return Ok(());
    }
    let why = run.error.as_ref().map(|error| format!(": {}", error_line(error)));
    Err(Failure::RunFailed(format!("run {} {}{}", run.id, run.status, why.unwrap_or_default())))
}
