//! Personal data: the payloads of an ended run are taken away, and what happened stays.

use bytes::Bytes;
use serde_json::json;

use super::view::status_of;
use super::{Engine, Error, Namespace, RunView};
use crate::machine::{Act, Row, Run, RunId, Timestamp};
use crate::store::{Loaded, Purged};

impl Engine {
    /// Takes the payloads of an ended run away. Once it is done it stays done, and is no error again.
    pub async fn erase(&self, ns: &Namespace, run: RunId, act: Act) -> Result<RunView, Error> {
        self.admit()?;
        let loaded = self.store().load(&[run]).await?.into_iter().next();
        let loaded = loaded.filter(|l| l.ns == ns.id).ok_or(Error::RunNotFound(run))?;
        if loaded.ended.is_none() {
            return Err(self.lives(ns, run).await?);
        }
        let now = self.clock().upper();
        if recovered(&loaded, None)?.created.erased_at.is_none() {
            // What is left must still be a run.
            recovered(&loaded, Some(now))?;
            let why = Bytes::from(json!({"reason": act.reason}).to_string());
            let left = |row: &Row| row.erased(now);
            match self.store().erase((ns.id, run), now, &act.by, &why, left).await? {
                Purged::Done => {
                    tracing::info!(run.id = %run, "the payloads of an ended run are erased");
                }
                Purged::Telling => {
                    return Err(Error::busy("others are being told of the run's end"));
                }
                Purged::NotEnded => return Err(self.lives(ns, run).await?),
            }
        }
        self.view(ns, run).await
    }

    async fn lives(&self, ns: &Namespace, run: RunId) -> Result<Error, Error> {
        let status = self.view(ns, run).await?.status;
        let detail = "only a run that has ended can be erased; terminate it first";
        Ok(Error::InvalidState { run, status, detail: detail.to_owned() })
    }
}

/// Refuses to do again what nobody knows any more.
pub(super) fn still_known(it: &Run) -> Result<(), Error> {
    match it.created.erased_at {
        None => Ok(()),
        Some(at) => Err(Error::InvalidState {
            run: it.id,
            status: status_of(it, false, false, at),
            detail: format!("its payloads were erased at {at}; start a new run with the input"),
        }),
    }
}

/// The run of these rows, or of what is left of them.
fn recovered(loaded: &Loaded, erased_at: Option<Timestamp>) -> Result<Run, Error> {
    let rows: Result<Vec<_>, _> = match erased_at {
        None => Ok(loaded.rows.clone()),
        Some(at) => loaded.rows.iter().map(|row| row.erased(at)).collect(),
    };
    rows.and_then(|rows| Run::recover(loaded.run, loaded.ns, &rows, false, loaded.closing))
        .map_err(|e| Error::corrupt(&e.to_string()))
}
