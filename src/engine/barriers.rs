//! Which limits are on a run's way, by what its function and endpoint say.

use super::Catalog;
use crate::machine::{Path, Run};
use crate::protocol::{Flow, Per};
use crate::store::{LimitKey, LimitOf, Most};

/// A limit on a run's way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Barrier {
    pub(super) at: LimitKey,
    pub(super) most: Most,
    /// Who has passed it has done so to its end.
    pub(super) whole: bool,
    /// Whoever takes the run over waits for what may be open.
    pub(super) strict: bool,
    /// Where values take turns: that of the run.
    pub(super) fair: Option<String>,
    /// What it is, for people.
    pub(super) words: String,
}

impl Catalog {
    /// Whether anything keeps runs of this function back.
    pub(super) fn is_limited(&self, run: &Run) -> bool {
        self.has_limits()
            && self.deployment_for(run).is_some_and(|(_, d)| {
                d.endpoint.concurrency.is_some()
                    || d.flow(&run.created.function).is_some_and(Flow::keeps_back)
            })
    }

    /// The limits on a run's way, in the order in which they are asked.
    pub(super) fn barriers(&self, run: &Run) -> Vec<Barrier> {
        let mut barriers = Vec::new();
        let host = if self.has_limits() { self.deployment_for(run) } else { None };
        let Some((_, deployment)) = host else { return barriers };
        let created = &run.created;
        let id = self.function_number(run.ns, &created.function);
        if let (Some(flow), Some(id)) = (deployment.flow(&created.function), id) {
            let of = LimitOf::Function(id);
            let mut at = |what: &str, [key, fair]: [Option<&Path>; 2], most, whole, strict| {
                let fair = fair.map(|path| path.value_in(&created.input));
                let value = key.map_or_else(String::new, |path| path.value_in(&created.input));
                let function = &created.function;
                let words = match key {
                    Some(path) => {
                        format!("the {what} of `{function}` for {} {value:?}", path.as_str())
                    }
                    None => format!("the {what} of `{function}`"),
                };
                let at = LimitKey { of, rule: rule(what, key), key: value };
                barriers.push(Barrier { at, most, whole, strict, fair, words });
            };
            if let Some(t) = &flow.throttle {
                let most = Most::Pace { interval: t.interval(), burst: t.burst.unwrap_or(1) };
                at("throttle", [t.key.as_ref(), t.fair.as_ref()], most, false, false);
            }
            let mut limits: Vec<_> = flow.concurrency.iter().collect();
            limits.sort_by_key(|c| (c.key.is_none(), c.key.clone()));
            for c in limits {
                let whole = c.per == Per::Run;
                let paths = [c.key.as_ref(), c.fair.as_ref()];
                at("concurrency", paths, Most::Slots(c.limit), whole, c.strict);
            }
        }
        if let Some(most) = deployment.endpoint.concurrency {
            let at = LimitKey {
                of: LimitOf::Endpoint(deployment.endpoint.id),
                rule: "concurrency".to_owned(),
                key: String::new(),
            };
            let words = format!("the concurrency of endpoint `{}`", deployment.endpoint.name);
            barriers.push(Barrier {
                at,
                most: Most::Slots(most),
                whole: false,
                strict: false,
                fair: None,
                words,
            });
        }
        if run.started_at.is_some() {
            // A throttle is for starts.
            barriers.retain(|b| matches!(b.most, Most::Slots(_)));
        }
        barriers
    }

    /// How much a limit lets through now; none: it is no more.
    pub(super) fn most_of(&self, at: &LimitKey) -> Option<Most> {
        match at.of {
            LimitOf::Endpoint(id) => {
                let endpoint = self.recorded.endpoints.iter().find(|e| e.id == id)?;
                endpoint.concurrency.map(Most::Slots)
            }
            LimitOf::Function(id) => {
                let function = self.recorded.function(id)?;
                let deployment = self.deployment(function.hosted?.1)?;
                let flow = deployment.flow(&function.name)?;
                let throttle = flow.throttle.as_ref();
                if let Some(t) = throttle.filter(|t| rule("throttle", t.key.as_ref()) == at.rule) {
                    let burst = t.burst.unwrap_or(1);
                    return Some(Most::Pace { interval: t.interval(), burst });
                }
                let mut limits = flow.concurrency.iter();
                let found = limits.find(|c| rule("concurrency", c.key.as_ref()) == at.rule)?;
                Some(Most::Slots(found.limit))
            }
        }
    }
}

/// A limit's name among those of its function.
pub(super) fn rule(what: &str, key: Option<&Path>) -> String {
    key.map_or_else(|| what.to_owned(), |path| format!("{what} {}", path.as_str()))
}
