//! What users' transactions have asked for: done after their commit, each once.
//!
//! The row goes in the transaction that starts the run, accepts the signal or the event, so that a node
//! which dies has done all of it or nothing. A run that was promised and cannot be is there all the
//! same, and has failed: its id was given away.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::Notify;
use uuid::Uuid;

use super::lanes::Line;
use super::{Engine, Error, Event, Point, Start};
use crate::machine::{
    EventId, HistoryEntry, Message, MessageId, MessageKind, RunId, StepError, to_bytes,
};
use crate::store::{
    self, Accept, Accepted, AskedFor, CreateOutcome, NewRun, Published, SqlRequest,
};

/// Requests of one transaction.
const PAGE: i64 = 250;
/// How often they are looked for, whether one was heard of or not.
const LOOK: Duration = Duration::from_secs(1);
/// How long what cannot be done yet is left alone.
const PUT_OFF: i32 = 2_000;
/// The same for what Postgres refuses.
const REFUSED: i32 = 60_000;
/// How long an event of a transaction is left to the node that has taken it.
const PATIENCE: i32 = 1_000;

/// What is made of a page of requests.
#[derive(Default)]
struct Made {
    news: Vec<NewRun>,
    /// Their starts, for those whose key turns out to be taken.
    starts: Vec<Start>,
    /// Promised runs that fail at once.
    refused: Vec<NewRun>,
    signals: Vec<(Uuid, Accept)>,
    events: Vec<store::NewEvent>,
    done: Vec<Uuid>,
    later: Vec<Uuid>,
}

impl Engine {
    /// Does what transactions ask for, as long as the node lives.
    pub(super) async fn keep_sql(&self) {
        let heard = Arc::new(Notify::new());
        let (ears, nudge) = (self.clone(), Arc::clone(&heard));
        self.spawn(async move { ears.listen(&nudge).await });
        let mut line = Line::new(self.clone());
        let mut limit = PAGE;
        loop {
            match self.store().any_sql_requests().await {
                Ok(true) if !self.owner().leaving => match self.take_sql(&mut line, limit).await {
                    Ok(true) => {
                        limit = (limit * 2).min(PAGE);
                        continue;
                    }
                    // Another node is at it.
                    Ok(false) => {}
                    Err((error, _)) if error.is_unavailable() => line.lost(&error).await,
                    Err((error, _)) if error.is_transient() => {}
                    Err((error, ids)) if limit > 1 => {
                        tracing::warn!(%error, requests = ids.len(), "one of them is to blame");
                        limit = 1;
                        continue;
                    }
                    Err((error, ids)) => {
                        tracing::error!(%error, ?ids, "what a transaction asked for cannot be done");
                        if self.store().put_off_sql_requests(&ids, REFUSED).await.is_ok() {
                            continue;
                        }
                    }
                },
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "cannot look for requests of transactions"),
            }
            let _ = tokio::time::timeout(LOOK, heard.notified()).await;
        }
    }

    /// Hears of them early.
    async fn listen(&self, nudge: &Notify) {
        loop {
            if let Ok(mut ears) = self.store().ears().await {
                while ears.hear().await.is_ok() {
                    nudge.notify_one();
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Does a page of them in one transaction. Returns false if another node is at it.
    async fn take_sql(
        &self,
        line: &mut Line,
        limit: i64,
    ) -> Result<bool, (store::Error, Vec<Uuid>)> {
        let begun = line.get().await.sql_requests(limit).await;
        let Some((mut delivery, asked)) = begun.map_err(|e| (e, Vec::new()))? else {
            return Ok(false);
        };
        let ids: Vec<Uuid> = asked.iter().map(|one| one.id).collect();
        let unknown = |one: &SqlRequest| {
            matches!(one.what, AskedFor::Start { .. })
                && self.catalog().function(one.ns, &one.name).is_none()
        };
        if asked.iter().any(unknown) {
            // Another node may have registered it a moment ago; else it has to wait.
            let _ = self.fresh_catalog().await;
        }
        let mut made = Made::default();
        for one in asked {
            self.read_request(one, &mut made).await;
        }
        let mut lent: Vec<RunId> = made.news.iter().map(|new| new.run).collect();
        let done = async {
            let created = delivery.create_each(&made.news).await?;
            for ((new, start), outcome) in made.news.iter().zip(&made.starts).zip(&created) {
                if let CreateOutcome::KeyHeld { run: winner, .. } = outcome {
                    let data = serde_json::json!({"run": winner});
                    let error = StepError {
                        data: serde_json::value::to_raw_value(&data).ok(),
                        ..StepError::of_gateway(
                            "duplicate-key",
                            format!("when its transaction was committed, {winner} had its key"),
                        )
                    };
                    made.refused.extend(self.failed_run(start, new.run, &error));
                }
            }
            lent.extend(made.refused.iter().map(|new| new.run));
            let failed = delivery.create(&made.refused).await?;
            let to: Vec<RunId> = made.signals.iter().map(|(_, accept)| accept.run).collect();
            let begun: HashSet<Uuid> = made.done.iter().copied().collect();
            let wait: HashSet<RunId> = delivery
                .awaited(&to)
                .await?
                .into_iter()
                .filter(|run| !begun.contains(&run.uuid()))
                .collect();
            let (put_off, signals): (Vec<_>, Vec<_>) = std::mem::take(&mut made.signals)
                .into_iter()
                .partition(|(_, accept)| wait.contains(&accept.run));
            made.later.extend(put_off.into_iter().map(|(id, _)| id));
            made.done.extend(signals.iter().map(|(id, _)| *id));
            let signals: Vec<Accept> = signals.into_iter().map(|(_, accept)| accept).collect();
            let accepted = delivery.accept(&signals).await?;
            for (accept, outcome) in signals.iter().zip(&accepted) {
                if matches!(outcome, Accepted::Gone | Accepted::Closing) {
                    delivery.tell(accept.run, accept.ns, &self.too_late(accept)).await?;
                }
            }
            let published = delivery.publish(&made.events, PATIENCE).await?;
            delivery.sql_done(&made.done, &made.later, PUT_OFF).await?;
            self.faults().reach(Point::SqlBefore);
            delivery.commit().await?;
            self.faults().reach(Point::SqlAfter);
            Ok::<_, store::Error>((created, failed, signals, accepted, published))
        }
        .await;
        match done {
            Ok((created, failed, signals, accepted, published)) => {
                metrics::counter!("stepwell_sql_requests_total").increment(made.done.len() as u64);
                self.created(&made.news, &created, true);
                self.created(&made.refused, &failed, true);
                self.accepted(&signals, &accepted);
                self.send_on(published.iter().filter_map(|p| match p {
                    Published::New(id) => Some(*id),
                    Published::Known(..) => None,
                }));
                Ok(true)
            }
            Err(error) => {
                self.unlend(&lent, &error);
                Err((error, ids))
            }
        }
    }

    async fn read_request(&self, one: SqlRequest, made: &mut Made) {
        let by = format!("sql:{}", one.by);
        match one.what {
            AskedFor::Signal(run) => {
                let message = Message {
                    id: MessageId::from(one.id),
                    ..self.message(MessageKind::Signal, &one.name, one.body.into())
                };
                made.signals.push((one.id, Accept { run, ns: one.ns, message, idem: None }));
            }
            AskedFor::Event { source, source_id, happened_at } => {
                let Some(ns) = self.catalog().namespace(one.ns) else {
                    return made.later.push(one.id);
                };
                let data = one.body.into();
                let source_id = Some(source_id);
                let event = Event { name: one.name, source, source_id, happened_at, data };
                let event = self.new_event(&ns, event);
                made.events.push(store::NewEvent { id: EventId::from(one.id), ..event });
                made.done.push(one.id);
            }
            AskedFor::Start { key, start_at, priority, tags } => {
                let Some(ns) = self.catalog().namespace(one.ns) else {
                    return made.later.push(one.id);
                };
                let input = RawValue::from_string(one.body);
                let input = input.unwrap_or_else(|_| RawValue::NULL.to_owned());
                let tags = tags.and_then(|t| serde_json::from_str(&t).ok()).unwrap_or_default();
                let start =
                    Start { key, start_at, tags, priority, ..Start::new(ns, one.name, input, by) };
                let run = RunId::from(one.id);
                let new = match self.new_run_of(&start, None, Some((run, None))) {
                    Ok(new) => self.admits(&start, &new).await.map(|()| new),
                    Err(error) => Err(error),
                };
                match new {
                    Ok(new) => {
                        made.news.push(new);
                        made.starts.push(start);
                    }
                    Err(Error::FunctionNotFound(_) | Error::Unavailable { .. }) => {
                        tracing::warn!(run.id = %run, "a start of a transaction has to wait");
                        return made.later.push(one.id);
                    }
                    Err(error) => {
                        let kind = match &error {
                            Error::EndpointDraining { .. } => "endpoint-draining",
                            Error::QuotaExceeded { .. } => "quota-exceeded",
                            _ => "start-refused",
                        };
                        let error = StepError::of_gateway(kind, error.to_string());
                        match self.failed_run(&start, run, &error) {
                            Some(new) => made.refused.push(new),
                            None => return made.later.push(one.id),
                        }
                    }
                }
                made.done.push(one.id);
            }
        }
    }

    /// A run that was promised and cannot be: it ends as soon as it is read.
    fn failed_run(&self, start: &Start, run: RunId, error: &StepError) -> Option<NewRun> {
        let mut new = self.new_run_beside(start, run).ok()?;
        let message = self.message(MessageKind::Refused, "", error.to_bytes());
        new.messages.push(message);
        Some(new)
    }

    /// For the history of a run that had ended, or was about to.
    fn too_late(&self, accept: &Accept) -> HistoryEntry {
        let data = serde_json::json!({
            "name": accept.message.name,
            "detail": "the run had ended when the transaction that sent the signal was committed",
        });
        HistoryEntry {
            at: self.clock().upper(),
            epoch: 0,
            what: "signal.late".to_owned(),
            by: "sql".to_owned(),
            data: to_bytes(&data),
        }
    }
}
