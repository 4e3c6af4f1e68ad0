//! The replay itself: what the candidate is shown next, and whether what it says is what was said.
//!
//! Steps are revealed in commit order, as far as the candidate's own tree needs them, so that it
//! meets its past in the order in which it happened.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use serde::Serialize;

use super::canonical::canonical;
use super::recorded::{End, Recorded};
use crate::machine::{
    Answer, DeploymentId, InvocationId, Limits, Op, OpKind, Outcome, Standing, Terminal, Timestamp,
    Tree,
};
use crate::protocol::{
    Invocation, Links, Pending, RunHead, Settled, Turn, parse_answer, push_settled,
    write_invocation,
};

/// Answers in a row that ask for nothing new and reveal nothing.
const NO_PROGRESS: u32 = 3;
/// Exchanges of one replay.
const MOST_EXCHANGES: u32 = 50_000;
/// How long the candidate is told it may work, in milliseconds.
const BUDGET_MS: u64 = 25_000;

/// The first thing that the candidate does otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Divergence {
    /// The step; null where it is about the end, or an answer as a whole.
    pub step: Option<String>,
    /// What is recorded.
    pub expected: String,
    /// What the candidate did.
    pub got: String,
}

/// What a replay came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Null where the candidate does what was done.
    pub divergence: Option<Divergence>,
    /// Steps that the candidate asks for and the run never had.
    pub inserted: Vec<String>,
    /// Steps that the run had and the candidate does not ask for.
    pub removed: Vec<String>,
    /// Why the replay ended before the candidate did, if it did: nothing is recorded that could
    /// take it further.
    pub stopped: Option<String>,
    /// How often the candidate was invoked.
    pub invocations: u32,
}

/// How a step stands for the candidate.
#[derive(Debug, Clone)]
enum Shown {
    /// Recorded, and asked for.
    Recorded,
    /// Not recorded (or not with an outcome): what the candidate itself reported.
    Own { seq: i32, ok: bool, body: Bytes },
    /// Not recorded, and nothing settles it.
    Open,
}

/// A replay under way.
#[derive(Debug)]
pub struct Replay {
    recorded: Recorded,
    /// By id, where in `recorded.steps`.
    at: HashMap<String, usize>,
    /// What the candidate has asked for, in order.
    asked: Vec<(String, OpKind, Shown)>,
    /// By id, where in `asked`.
    known: HashMap<String, usize>,
    inserted: Vec<String>,
    /// What the candidate has compacted its journal to.
    state: Option<Bytes>,
    /// What had settled then: it is not shown any more.
    hidden: HashSet<String>,
    /// Recorded steps up to here have settled.
    upto: i32,
    /// The next number of a step that is not recorded.
    next: i32,
    idle: u32,
    invocations: u32,
}

impl Replay {
    /// Begins with no steps.
    #[must_use]
    pub fn new(recorded: Recorded) -> Self {
        let at = recorded.steps.iter().enumerate().map(|(i, s)| (s.id.clone(), i)).collect();
        let seqs = recorded.steps.iter().filter_map(|s| s.outcome.as_ref().map(|o| o.0));
        let next = seqs.max().unwrap_or(0) + 1;
        Self {
            recorded,
            at,
            asked: Vec::new(),
            known: HashMap::new(),
            inserted: Vec::new(),
            state: None,
            hidden: HashSet::new(),
            upto: 0,
            next,
            idle: 0,
            invocations: 0,
        }
    }

    /// The next invocation: its id and its body. Its links and its token lead nowhere.
    pub fn invocation(
        &mut self,
        base: &str,
        now: Timestamp,
        chance: u128,
    ) -> (InvocationId, Bytes) {
        self.invocations += 1;
        let id = InvocationId::new(now, chance);
        let run = &self.recorded;
        let mut settled: Vec<(i32, &str, OpKind, bool, &[u8])> = Vec::new();
        let mut pending: Vec<Pending<'_>> = Vec::new();
        for (step, op, _) in self.asked.iter().filter(|(id, ..)| !self.hidden.contains(id)) {
            match self.outcome(step) {
                Some((seq, ok, body)) => settled.push((seq, step, *op, ok, body)),
                None => pending.push(Pending { id: step, op: *op, started: false, retry: None }),
            }
        }
        settled.sort_unstable_by_key(|s| s.0);
        let upto = settled.last().map_or(0, |s| s.0);
        let mut fragment = Vec::new();
        for (seq, step, op, ok, body) in settled {
            let outcome = if ok { Settled::Value(body) } else { Settled::Error(body) };
            push_settled(&mut fragment, step, seq, op, outcome);
        }
        let body = write_invocation(&Invocation {
            function: &run.function,
            query: None,
            run: RunHead {
                id: run.run,
                namespace: &run.namespace,
                key: run.key.as_deref(),
                generation: run.generation,
                deployment: run.deployment.unwrap_or_else(|| DeploymentId::new(now, 0)),
                created_at: run.created_at,
                seed: &run.seed,
                tags: &run.tags,
                parent: run.parent.as_ref().map(|(parent, step)| (*parent, step.as_str())),
                schedule: run.schedule.as_deref(),
            },
            turn: Turn {
                id,
                epoch: i32::try_from(self.invocations).unwrap_or(i32::MAX),
                attempt: 1,
                reason: "replay",
                budget_ms: BUDGET_MS,
                transport: "respond",
            },
            input: &run.input,
            object: None,
            locks: &[],
            state: self.state.as_deref(),
            settled: &fragment,
            pending: &pending,
            upto,
            more: false,
            long: false,
            inbox: &[],
            cancel: None,
            links: Links { base, callback_secret: "replay" },
            token: "replay",
        });
        (id, body.into())
    }

    /// Takes the candidate's answer; the report, if that was the last one.
    pub fn answered(&mut self, body: &Bytes, limits: &Limits) -> Option<Report> {
        let answer = match parse_answer(body, limits) {
            Ok(answer) => answer,
            Err(error) => return Some(self.broken(&format!("a malformed answer: {error}"))),
        };
        let Answer { ops, terminal } = answer;
        let (mut fresh, mut settles) = (false, false);
        for op in &ops {
            if let Op::Compact(state) = op {
                fresh |= self.compact(state);
                continue;
            }
            let Some((id, kind)) = op.step().zip(op.kind()) else { continue };
            match self.take(id, kind, op) {
                Ok((new, done)) => {
                    fresh |= new;
                    settles |= done;
                }
                Err(divergence) => return Some(self.report(Some(divergence), None)),
            }
        }
        let tree = match terminal {
            Some(Terminal::Result(output)) => return Some(self.ended("completed", &output)),
            Some(Terminal::Error(error)) => return Some(self.ended("failed", &error.to_bytes())),
            Some(Terminal::Continue(input)) => return Some(self.ended("continued", &input)),
            Some(Terminal::Await(tree)) => Some(tree),
            Some(Terminal::Yield) => None,
            None if settles || self.pending().next().is_none() => None,
            None => Some(Tree::Any(self.pending().map(|id| Tree::Step(id.to_owned())).collect())),
        };
        if self.invocations >= MOST_EXCHANGES {
            let why = format!("the candidate was invoked {MOST_EXCHANGES} times");
            return Some(self.report(None, Some(why)));
        }
        let before = self.upto;
        if let Some(tree) = tree {
            if let Some(stuck) = self.reveal(&tree) {
                return Some(stuck);
            }
        } else if !fresh {
            // Time passes while it yields.
            self.upto = self.coming().first().copied().unwrap_or(self.upto);
        }
        self.idle = if fresh || self.upto > before { 0 } else { self.idle + 1 };
        (self.idle >= NO_PROGRESS).then(|| {
            let got = "three answers in a row that ask for nothing new".to_owned();
            let expected = self.expected_end();
            self.report(Some(Divergence { step: None, expected, got }), None)
        })
    }

    /// The candidate did not answer as it should.
    #[must_use]
    pub fn broken(&self, got: &str) -> Report {
        let expected = "an answer".to_owned();
        self.report(Some(Divergence { step: None, expected, got: got.to_owned() }), None)
    }

    /// It took too long.
    #[must_use]
    pub fn given_up(&self, why: &str) -> Report {
        self.report(None, Some(why.to_owned()))
    }

    // --- parts ---------------------------------------------------------------------------------

    /// What has settled is not shown any more, and this in its place: whether that is new.
    fn compact(&mut self, state: &Bytes) -> bool {
        let settled: Vec<String> = self
            .asked
            .iter()
            .filter(|(id, ..)| self.outcome(id).is_some())
            .map(|(id, ..)| id.clone())
            .collect();
        let before = self.hidden.len();
        self.hidden.extend(settled);
        let new = self.state.as_ref() != Some(state) || self.hidden.len() > before;
        self.state = Some(state.clone());
        new
    }

    /// The candidate asks for a step or reports it: whether that is new, and whether it settles at
    /// once.
    fn take(&mut self, id: &str, kind: OpKind, op: &Op) -> Result<(bool, bool), Divergence> {
        let recorded = self.at.get(id).map(|i| &self.recorded.steps[*i]);
        let was = recorded.map(|s| s.op).or_else(|| self.known.get(id).map(|i| self.asked[*i].1));
        if let Some(was) = was.filter(|was| *was != kind) {
            return Err(Divergence {
                step: Some(id.to_owned()),
                expected: format!("{} {id}", was.word()),
                got: format!("{} {id}", kind.word()),
            });
        }
        if let Op::Run { input_hash: Some(got), .. } = op
            && let Some(expected) = self.recorded.hashes.get(id).filter(|hash| *hash != got)
        {
            return Err(Divergence {
                step: Some(id.to_owned()),
                expected: format!("run {id} with input_hash {expected}"),
                got: format!("run {id} with input_hash {got}"),
            });
        }
        if self.known.contains_key(id) {
            return Ok((false, false));
        }
        let outcome = recorded.and_then(|s| s.outcome.as_ref()).map(|o| o.0);
        let recorded = recorded.is_some();
        let at_once = !matches!(op, Op::Ask { .. });
        let own = match op {
            Op::Run { outcome: Outcome::Value(value), .. } => Some((true, value.clone())),
            Op::Run { outcome: Outcome::Error(error), .. } => Some((false, error.to_bytes())),
            Op::Ask { .. } if kind != OpKind::Sleep || recorded => None,
            _ => Some((true, Bytes::from_static(b"null"))),
        };
        let shown = match (outcome, own) {
            (Some(seq), _) => {
                if at_once {
                    self.upto = self.upto.max(seq);
                }
                Shown::Recorded
            }
            (None, Some((ok, body))) => {
                self.next += 1;
                Shown::Own { seq: self.next - 1, ok, body }
            }
            (None, None) => Shown::Open,
        };
        let done = match &shown {
            Shown::Own { .. } => true,
            Shown::Recorded => at_once,
            Shown::Open => false,
        };
        if !recorded {
            self.inserted.push(id.to_owned());
        }
        self.known.insert(id.to_owned(), self.asked.len());
        self.asked.push((id.to_owned(), kind, shown));
        Ok((true, done))
    }

    /// What the candidate is shown of a step that it has asked for, if it has settled by now.
    fn outcome(&self, id: &str) -> Option<(i32, bool, &[u8])> {
        self.outcome_by(id, self.upto)
    }

    fn outcome_by(&self, id: &str, upto: i32) -> Option<(i32, bool, &[u8])> {
        let (.., shown) = &self.asked[*self.known.get(id)?];
        match shown {
            Shown::Own { seq, ok, body } => Some((*seq, *ok, body)),
            Shown::Open => None,
            Shown::Recorded => {
                let (seq, ok, body) = self.recorded.steps[self.at[id]].outcome.as_ref()?;
                (*seq <= upto).then_some((*seq, *ok, body))
            }
        }
    }

    /// Numbers of recorded steps that were asked for and have not settled yet, in order.
    fn coming(&self) -> Vec<i32> {
        let mut seqs: Vec<i32> = self
            .asked
            .iter()
            .filter(|(.., shown)| matches!(shown, Shown::Recorded))
            .filter_map(|(id, ..)| self.recorded.steps[self.at[id]].outcome.as_ref().map(|o| o.0))
            .filter(|seq| *seq > self.upto)
            .collect();
        seqs.sort_unstable();
        seqs
    }

    fn pending(&self) -> impl Iterator<Item = &str> {
        self.asked.iter().map(|a| a.0.as_str()).filter(|id| self.outcome(id).is_none())
    }

    /// Lets steps settle until the tree is satisfied; the report, if it never is.
    fn reveal(&mut self, tree: &Tree) -> Option<Report> {
        let stranger = tree.steps().into_iter().find(|id| !self.known.contains_key(*id));
        if let Some(id) = stranger {
            let got = format!("`await` names step `{id}`, which nobody has asked for");
            return Some(self.broken(&got));
        }
        let satisfied = |upto: i32| {
            let standing = |id: &str| match self.outcome_by(id, upto) {
                None => Standing::Pending,
                Some((_, true, _)) => Standing::Value,
                Some((_, false, _)) => Standing::Failed,
            };
            tree.standing(&standing) != Standing::Pending
        };
        let found = std::iter::once(self.upto).chain(self.coming()).find(|upto| satisfied(*upto));
        if let Some(upto) = found {
            self.upto = upto;
            return None;
        }
        let open: Vec<&str> =
            tree.steps().into_iter().filter(|id| self.outcome_by(id, i32::MAX).is_none()).collect();
        let waits = format!("waits for {}", open.join(", "));
        let new = open.iter().any(|id| !self.at.contains_key(*id));
        Some(match &self.recorded.end {
            _ if new => self.report(None, Some(format!("{waits}, of which nothing is recorded"))),
            End::Open => self.report(None, Some(format!("{waits}, as the recorded run does"))),
            _ => {
                let step = open.first().map(|id| (*id).to_owned());
                let expected = self.expected_end();
                let got = format!("{waits}, which never settled");
                self.report(Some(Divergence { step, expected, got }), None)
            }
        })
    }

    fn expected_end(&self) -> String {
        match &self.recorded.end {
            End::Completed(output) => format!("completed: {}", short(output)),
            End::Failed(error) => format!("failed: {}", crate::machine::error_in_words(error)),
            End::Open => "no end yet".to_owned(),
        }
    }

    /// The candidate ended: as the run did, or not.
    fn ended(&self, how: &str, body: &[u8]) -> Report {
        let same = match &self.recorded.end {
            End::Completed(output) => how == "completed" && canonical(output) == canonical(body),
            // What an error says beside its words (a stack, the count of attempts) may differ.
            End::Failed(error) => {
                let words = crate::machine::error_in_words;
                how == "failed" && words(error) == words(body)
            }
            End::Open => {
                let waiting =
                    |s: &&super::Step| s.outcome.is_none() && !self.known.contains_key(&s.id);
                self.recorded.steps.iter().all(|s| !waiting(&s))
            }
        };
        if same {
            return self.report_without(None, None, |_| true);
        }
        let got = match how {
            "failed" => format!("failed: {}", crate::machine::error_in_words(body)),
            how => format!("{how}: {}", short(body)),
        };
        let expected = match &self.recorded.end {
            End::Open => "to wait, as the recorded run does".to_owned(),
            _ => self.expected_end(),
        };
        self.report_without(Some(Divergence { step: None, expected, got }), None, |_| true)
    }

    /// The report of a replay that stops where it is.
    fn report(&self, divergence: Option<Divergence>, stopped: Option<String>) -> Report {
        // What the candidate may yet ask for is not removed.
        self.report_without(divergence, stopped, |step| {
            step.outcome.as_ref().is_some_and(|o| o.0 < self.upto)
        })
    }

    fn report_without(
        &self,
        divergence: Option<Divergence>,
        stopped: Option<String>,
        due: impl Fn(&super::Step) -> bool,
    ) -> Report {
        let steps = self.recorded.steps.iter();
        let removed = steps.filter(|s| !self.known.contains_key(&s.id) && due(s));
        Report {
            divergence,
            inserted: self.inserted.clone(),
            removed: removed.map(|s| s.id.clone()).collect(),
            stopped,
            invocations: self.invocations,
        }
    }
}

/// The beginning of a payload, for people.
fn short(json: &[u8]) -> String {
    let text = String::from_utf8_lossy(json);
    let mut out: String = text.chars().take(200).collect();
    if out.len() < text.len() {
        out.push('…');
    }
    out
}
