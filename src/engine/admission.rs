//! What a function says about its starts: which are one, which are refused, which take the place of
//! others. For starts by the API and by events; a child is its parent's affair.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::barriers::rule;
use super::lanes::Line;
use super::{Engine, Error, IfRunning, Namespace, RunView, Start, Started, Status};
use crate::machine::time::duration;
use crate::machine::{Hook, RetrySpec, RunId, Timestamp, to_bytes};
use crate::protocol::{Debounce, Flow, Rate, Stays};
use crate::store::{self, CreateOutcome, Debounced, LimitKey, LimitOf, NewRun};

/// How often starts are looked for whose time has come.
const LOOK: Duration = Duration::from_millis(500);
/// How many of them are started at once.
pub(super) const PAGE: i64 = 50;
/// How long a start that is not possible now is put off.
pub(super) const PUT_OFF: Duration = Duration::from_secs(10);
/// The key of a singleton whose key has no value.
const ONLY: &str = "singleton";

/// A start that waits, as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    input: Box<RawValue>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    #[serde(default)]
    priority: i16,
    #[serde(default, with = "duration::option")]
    start_timeout: Option<Duration>,
    #[serde(default, with = "duration::option")]
    run_timeout: Option<Duration>,
    #[serde(default, with = "duration::option")]
    invocation_timeout: Option<Duration>,
    #[serde(default)]
    retry: Option<RetrySpec>,
    by: String,
    #[serde(default)]
    traceparent: Option<String>,
    #[serde(default)]
    on_complete: Vec<Hook>,
}

impl Kept {
    fn of(start: &Start) -> Self {
        Self {
            input: start.input.clone(),
            tags: start.tags.clone(),
            priority: start.priority,
            start_timeout: start.start_timeout,
            run_timeout: start.run_timeout,
            invocation_timeout: start.invocation_timeout,
            retry: start.retry,
            by: start.by.clone(),
            traceparent: start.traceparent.clone(),
            on_complete: start.on_complete.clone(),
        }
    }

    fn start(self, namespace: Namespace, function: String) -> Start {
        Start {
            tags: self.tags,
            priority: self.priority,
            start_timeout: self.start_timeout,
            run_timeout: self.run_timeout,
            invocation_timeout: self.invocation_timeout,
            retry: self.retry,
            traceparent: self.traceparent,
            on_complete: self.on_complete,
            ..Start::new(namespace, function, self.input, self.by)
        }
    }
}

/// A rate that a start has to be within.
#[derive(Debug, Clone)]
pub(super) struct Within {
    pub(super) at: LimitKey,
    pub(super) interval: Duration,
    pub(super) burst: u32,
}

impl Within {
    fn of(function: i32, rate: &Rate, input: &RawValue) -> Self {
        let key = rate.key.as_ref().map_or_else(String::new, |path| path.value_in(input));
        let at = LimitKey {
            of: LimitOf::Function(function),
            rule: rule("rate", rate.key.as_ref()),
            key,
        };
        Self { at, interval: rate.interval(), burst: rate.limit }
    }

    /// Counts it in a transaction, if the rate allows it.
    pub(super) async fn take(
        &self,
        delivery: &mut store::Delivery<'_>,
        ns: i32,
        now: Timestamp,
    ) -> store::Result<bool> {
        delivery.take_rate(ns, &self.at, self.interval, self.burst, now).await
    }
}

impl Engine {
    /// What the function of a start says about starts, with its number.
    pub(super) fn flow_of(&self, start: &Start) -> Option<(i32, Flow)> {
        let catalog = self.catalog();
        let function = catalog.function(start.namespace.id, &start.function)?;
        let flow = catalog.deployment(function.dep)?.flow(&start.function)?.clone();
        let speaks = flow.singleton.is_some()
            || flow.rate_limit.is_some()
            || flow.debounce.is_some()
            || flow.gather.is_some();
        speaks.then_some((function.id, flow))
    }

    /// Gives a start the key that makes its run the only one, unless it has a key of its own.
    pub(super) fn make_single(start: &mut Start, flow: &Flow) {
        let Some(singleton) = flow.singleton.as_ref().filter(|_| start.key.is_none()) else {
            return;
        };
        let value = singleton.key.as_ref().map(|path| path.value_in(&start.input));
        let value = value.filter(|value| !value.is_empty());
        start.key = Some(value.unwrap_or_else(|| ONLY.to_owned()));
        start.if_running = match singleton.mode {
            Stays::Skip => IfRunning::UseExisting,
            Stays::Cancel => IfRunning::CancelExisting,
        };
    }

    /// The rate that a start has to be within.
    pub(super) fn rate_of(function: i32, flow: &Flow, start: &Start) -> Option<Within> {
        flow.rate_limit.as_ref().map(|rate| Within::of(function, rate, &start.input))
    }

    /// Refuses a start that comes too soon after others; one that is known is answered as before.
    pub(super) async fn is_within(
        &self,
        start: &Start,
        new: &NewRun,
        within: &Within,
    ) -> Result<(), Error> {
        if let Some(idem) = &new.idem
            && self.store().knows_idem(new.ns, idem).await?
        {
            return Ok(());
        }
        let now = self.clock().upper();
        let Within { at, interval, burst } = within;
        match self.store().take_rate(new.ns, at, *interval, *burst, now).await? {
            None => Ok(()),
            Some(next) => {
                metrics::counter!("stepwell_starts_refused_total").increment(1);
                let retry_after = next.since(now).max(Duration::from_millis(1));
                Err(Error::RateLimited { function: start.function.clone(), retry_after })
            }
        }
    }

    /// A start of a function whose starts are one if they come soon after each other.
    pub(super) fn debounced(
        &self,
        function: i32,
        debounce: &Debounce,
        start: &Start,
    ) -> Result<Debounced, Error> {
        for (field, given) in [
            ("key", start.key.is_some()),
            ("start_at", start.start_at.is_some()),
            ("signal", start.signal.is_some()),
            ("version", start.deployment.is_some()),
        ] {
            if given {
                let detail = "has no meaning for a function with `debounce`: the run starts later, \
                    and the last of its starts counts";
                return Err(Error::Invalid(format!("/{field}"), detail.to_owned()));
            }
        }
        let now = self.clock().upper();
        let key =
            debounce.key.as_ref().map_or_else(String::new, |path| path.value_in(&start.input));
        Ok(Debounced {
            ns: start.namespace.id,
            function_id: function,
            key,
            run: RunId::on_shard(
                now,
                self.shard_of(&start.namespace.name, &start.function, None, None),
                crate::clock::chance(),
            ),
            first_at: now,
            due_at: now + debounce.period,
            last_at: debounce.max_wait.map(|most| now + most),
            start: to_bytes(&Kept::of(start)),
        })
    }

    /// Keeps a start until no other has come for a while. When this returns, it is durable.
    pub(super) async fn debounce(
        &self,
        function: i32,
        debounce: &Debounce,
        start: &Start,
    ) -> Result<Started, Error> {
        self.admit()?;
        let kept = self.debounced(function, debounce, start)?;
        Ok(Started::New(self.store().debounce(&kept).await?))
    }

    /// A run that is no run yet.
    pub(super) async fn not_yet(
        &self,
        ns: &Namespace,
        id: RunId,
    ) -> Result<Option<RunView>, Error> {
        let Some(kept) = self.store().debounced(ns.id, id).await? else {
            return self.gathering(ns, id).await;
        };
        let catalog = self.catalog();
        let function = catalog.recorded.function(kept.function_id);
        let Some(function) = function else { return Ok(None) };
        let start: Kept = serde_json::from_slice(&kept.start)
            .map_err(|e| Error::corrupt(&format!("a start that waits: {e}")))?;
        let input = Bytes::from(start.input.get().to_owned());
        let start = start.start(ns.clone(), function.name.clone());
        let mut view = RunView::of_start(&start, input, kept.first_at, id);
        view.status = Status::Scheduled;
        view.attention = Some(crate::machine::Attention {
            next_attempt_at: Some(kept.due_at),
            ..crate::machine::Attention::new(
                "debounced",
                "It starts when no further start of its key has come for a while.",
            )
        });
        Ok(Some(view))
    }

    /// Starts what has waited long enough, as long as the node lives.
    pub(super) async fn keep_waiting_starts(&self) {
        let mut line = Line::new(self.clone());
        loop {
            match self.start_waiting(&mut line).await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) if error.is_unavailable() => line.lost(&error).await,
                Err(error) if error.is_transient() => {}
                Err(error) => tracing::error!(%error, "starts that wait cannot be started"),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn start_waiting(&self, line: &mut Line) -> store::Result<bool> {
        Ok(self.start_debounced(line).await? | self.begin_gathered(line).await?)
    }

    /// Starts a page of them in one transaction. Returns whether there may be more.
    async fn start_debounced(&self, line: &mut Line) -> store::Result<bool> {
        let now = self.clock().lower();
        let Some((mut delivery, due)) = line.get().await.due_debounces(now, PAGE).await? else {
            return Ok(false);
        };
        let more = i64::try_from(due.len()).is_ok_and(|n| n >= PAGE);
        let (mut news, mut done, mut put_off) = (Vec::new(), Vec::new(), Vec::new());
        for kept in &due {
            match self.run_that_waited(kept) {
                Some(new) => {
                    news.push(new);
                    done.push(kept.clone());
                }
                None => put_off.push(kept.clone()),
            }
        }
        self.begin_waiting(&news, async {
            let outcomes = delivery.create(&news).await?;
            delivery.debounced(&done).await?;
            delivery.put_off_debounces(&put_off, now + PUT_OFF).await?;
            delivery.commit().await?;
            Ok(outcomes)
        })
        .await?;
        Ok(more)
    }

    /// Starts runs in the transaction that takes them from where they have waited.
    pub(super) async fn begin_waiting(
        &self,
        news: &[NewRun],
        started: impl Future<Output = store::Result<Vec<CreateOutcome>>>,
    ) -> store::Result<()> {
        match started.await {
            Ok(outcomes) => {
                self.created(news, &outcomes, true);
                Ok(())
            }
            Err(error) => {
                let lent: Vec<RunId> = news.iter().map(|new| new.run).collect();
                self.unlend(&lent, &error);
                Err(error)
            }
        }
    }

    fn run_that_waited(&self, kept: &Debounced) -> Option<NewRun> {
        let catalog = self.catalog();
        let namespace = catalog.namespace(kept.ns)?;
        let function = catalog.recorded.function(kept.function_id)?;
        let start: Kept = serde_json::from_slice(&kept.start).ok()?;
        let start = start.start(namespace, function.name.clone());
        match self.new_run_of(&start, None, Some((kept.run, None))) {
            Ok(new) => Some(new),
            Err(error) => {
                tracing::warn!(run.id = %kept.run, %error, "a start that has waited is put off");
                None
            }
        }
    }

    /// A transaction that was to start these runs did not, or it is not known.
    pub(super) fn unlend(&self, lent: &[RunId], error: &store::Error) {
        let mut owner = self.owner();
        owner.lent.retain(|run, _| !lent.contains(run));
        if error.is_unavailable() {
            // What was started is looked for.
            self.bring_in(&mut owner, lent.iter().copied());
        }
    }
}
