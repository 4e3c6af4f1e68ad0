//! A run as people see it: status, what it waits for, why it does not move.

use std::collections::HashSet;

use super::breaker::{Breaker, Circuit, Outage};
use super::owner::Owner;
use super::{Engine, RunView, Start, Status, WaitingFor};
use crate::machine::{Attention, Kind, ObjectName, Reason, Run, RunId, StepState, Timestamp, Turn};
use crate::telemetry::{Context, Span};

/// The one status of a run. `gated`: its endpoint's breaker keeps it back; `parks`: because the
/// endpoint is unhealthy, not merely busy.
#[must_use]
pub(super) fn status_of(run: &Run, gated: bool, parks: bool, past: Timestamp) -> Status {
    if let Turn::Ended { kind, .. } = &run.turn {
        return Status::from_code(kind.code()).unwrap_or(Status::Failed);
    }
    if run.paused.is_some() {
        return Status::Paused;
    }
    let trying = || {
        run.pending.values().any(|id| {
            run.steps.get(id).is_some_and(|s| matches!(s.state, StepState::Trying { .. }))
        })
    };
    match &run.turn {
        Turn::Open { .. } | Turn::Held { .. } => Status::Running,
        // Waiting: what it waits for is a task of an endpoint that is unhealthy.
        Turn::Due { .. } | Turn::Waiting { .. } if gated && parks => Status::Parked,
        Turn::Due { reason: Reason::Start, not_before } if *not_before > past => Status::Scheduled,
        Turn::Due { .. } if run.faults > 0 || run.failures > 0 => Status::Retrying,
        Turn::Due { .. } => Status::Queued,
        Turn::Waiting { .. } if trying() => Status::Retrying,
        Turn::Waiting { .. } => Status::Waiting,
        Turn::Ended { kind, .. } => Status::from_code(kind.code()).unwrap_or(Status::Failed),
    }
}

/// Why a run does not move, in words; none while all is well. `parked`: what its endpoint's health
/// says.
#[must_use]
pub(super) fn attention_of(
    run: &Run,
    parked: Option<Attention>,
    status: Status,
    past: Timestamp,
) -> Option<Attention> {
    match status {
        Status::Paused => run.paused.clone(),
        Status::Parked => parked,
        Status::Queued => run.behind().map(|holder| {
            let (function, key) = (&run.created.function, run.object().unwrap_or_default());
            let words = if run.created.locks.is_empty() {
                format!(
                    "Run {holder} has the object `{key}` of `{function}`; this one waits its turn."
                )
            } else {
                let named = |o: &ObjectName| format!("`{}` `{}`", o.function, o.key);
                let all: Vec<String> = run.created.locks.iter().map(named).collect();
                format!(
                    "Run {holder} has one of the objects that this one locks ({}), or is before it \
                     in the line; it begins when it has them all.",
                    all.join(", ")
                )
            };
            Attention::new("object-busy", words)
        }),
        Status::Retrying => {
            let next = run.next_wake(past).map(|at| at.max(past));
            if run.faults > 0 || run.failures > 0 {
                let detail = run.last_fault.clone().unwrap_or_default();
                let code = if run.faults > 0 { "invocation-failing" } else { "run-failing" };
                return Some(Attention { next_attempt_at: next, ..Attention::new(code, detail) });
            }
            run.pending.values().find_map(|id| {
                let step = run.steps.get(id)?;
                let StepState::Trying { due, error, .. } = &step.state else { return None };
                let message = crate::machine::error_in_words(error);
                Some(Attention {
                    next_attempt_at: Some(*due),
                    ..Attention::new(
                        "step-failing",
                        match step.attempts {
                            1 => format!("Step `{id}` failed once: {message}"),
                            n => format!("Step `{id}` failed {n} times, last: {message}"),
                        },
                    )
                })
            })
        }
        _ => None,
    }
}

impl Engine {
    /// A run of this memory as the API shows it.
    pub(super) fn view_of(&self, run: &Run, gated: bool, parked: Option<Attention>) -> RunView {
        let past = self.clock().lower();
        let status = status_of(run, gated, parked.is_some(), past);
        let (mut output, mut error, mut ended_at) = (None, None, None);
        if let Turn::Ended { kind, body, at } = &run.turn {
            ended_at = Some(*at);
            match kind {
                Kind::Completed => output.clone_from(body),
                // A handler that compensated may end a cancelled run with a result.
                _ => error.clone_from(body),
            }
        }
        let waiting_for = match &run.turn {
            Turn::Waiting { tree } => {
                let mut listed = HashSet::new();
                let steps = tree.steps().into_iter().filter(|id| listed.insert((*id).to_owned()));
                steps.filter_map(|id| waiting_for(run, id)).collect()
            }
            _ => Vec::new(),
        };
        RunView {
            id: run.id,
            namespace: run.created.namespace.clone(),
            function: run.created.function.clone(),
            key: run.created.key.clone(),
            generation: run.generation,
            deployment: self.catalog().public_of(run.placement().dep),
            status,
            waiting_for,
            attention: attention_of(run, parked, status, past)
                .or_else(|| gated.then(|| self.unpolled(run)).flatten()),
            created_at: run.created_at,
            started_at: run.started_at,
            ended_at,
            input: Some(bytes::Bytes::from(run.created.input.get().to_owned())),
            output,
            error,
            custom_status: run.custom_status.clone(),
            tags: run.tags.clone(),
            settled: u32::try_from(run.seq).unwrap_or(0),
            pending: u32::try_from(run.pending.len()).unwrap_or(u32::MAX),
            invocations: run.invocations,
            rerun_of: run.created.rerun_of,
            parent: run.created.parent.as_ref().map(|p| p.run),
            schedule: run.created.schedule.clone(),
            erased_at: run.created.erased_at,
            imported_at: run.created.imported.as_ref().map(|i| i.at),
        }
    }

    /// What keeps a run from being invoked, if its endpoint's health does.
    pub(super) fn why_parked(&self, owner: &Owner, run: &Run) -> Option<Attention> {
        self.parks(owner, run).then(|| self.parked_by(owner, run))
    }

    fn parked_by(&self, owner: &Owner, run: &Run) -> Attention {
        let catalog = self.catalog();
        let Some((function, deployment)) = catalog.deployment_for(run) else {
            if run.pin.is_some() {
                return Attention::new(
                    "deployment-gone",
                    "The deployment that it is pinned to is no more. Put it on another with `repin`.",
                );
            }
            return Attention::new(
                "function-gone",
                format!(
                    "No endpoint has the function `{}` any more. Register one that has it.",
                    run.created.function
                ),
            );
        };
        if function.paused {
            let row = catalog.recorded.function(function.id);
            let (by, reason) = row
                .and_then(|f| f.paused.as_ref())
                .map_or(("", None), |(_, by, reason)| (by.as_str(), reason.as_deref()));
            let why = reason.map_or_else(String::new, |reason| format!(": {reason}"));
            let name = &function.name;
            return Attention::new(
                "function-paused",
                format!("Function `{name}` was paused by {by}{why}. Resume it."),
            );
        }
        let endpoint = &deployment.endpoint;
        match owner.breakers.get(&endpoint.id).map(Breaker::circuit) {
            Some(Circuit::Open(Outage { detail, next_probe_at, .. })) => Attention {
                next_attempt_at: Some(*next_probe_at),
                ..Attention::new(
                    "endpoint-unhealthy",
                    format!("Endpoint `{}` is unhealthy: {detail}", endpoint.name),
                )
            },
            _ => Attention::new(
                "endpoint-disabled",
                format!("Endpoint `{}` is disabled. Enable it.", endpoint.name),
            ),
        }
    }
}

impl RunView {
    /// What is known of a run from its start alone.
    #[must_use]
    pub fn of_start(start: &Start, input: bytes::Bytes, now: Timestamp, id: RunId) -> Self {
        let later = start.start_at.is_some();
        Self {
            id,
            namespace: start.namespace.name.clone(),
            function: start.function.clone(),
            key: start.key.clone(),
            generation: 1,
            deployment: start.deployment,
            status: if later { Status::Scheduled } else { Status::Queued },
            waiting_for: Vec::new(),
            attention: None,
            created_at: now,
            started_at: None,
            ended_at: None,
            input: Some(input),
            output: None,
            error: None,
            custom_status: None,
            tags: start.tags.clone(),
            settled: 0,
            pending: 0,
            invocations: 0,
            rerun_of: None,
            parent: None,
            schedule: None,
            erased_at: None,
            imported_at: None,
        }
    }
}

/// A run from its start to its end.
pub(super) fn span_of(run: &Run, status: &str, ended: Timestamp) -> Span {
    let started_in = run.created.traceparent.as_deref().and_then(Context::parse);
    Span {
        context: Context::of_run(run.id, started_in.as_ref()),
        parent: started_in.map(|c| c.span),
        name: format!("run {}", run.created.function),
        client: false,
        begun: run.created_at,
        took: ended.since(run.created_at),
        attributes: vec![("run.id", run.id.to_string()), ("run.status", status.to_owned())],
        error: (status != "completed").then(|| status.to_owned()),
    }
}

fn waiting_for(run: &Run, id: &str) -> Option<WaitingFor> {
    let step = run.steps.get(id)?;
    let (name, since, until) = match &step.state {
        StepState::Asked { ask, at, due, .. } => (ask.name.clone(), Some(*at), *due),
        StepState::Trying { due, .. } => (None, step.first, Some(*due)),
        StepState::Begun { .. } => (None, None, None),
        StepState::Settled { .. } | StepState::Closed => return None,
    };
    let done_here = || {
        let terms = &run.works.get(id)?.terms;
        terms
            .task
            .clone()
            .or_else(|| terms.request.as_ref()?.url.split('?').next().map(str::to_owned))
    };
    let name = name.or_else(done_here);
    Some(WaitingFor { step: id.to_owned(), op: step.op, name, since, until })
}
