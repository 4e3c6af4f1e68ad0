//! Checkpoints in, acknowledgements out: each after the commit of what it acknowledges.
//!
//! What a checkpoint does is decided by the machine when the run is free, as for every cause; who
//! sent it waits here, in order, until nothing of the run is on its way to the database. Then what
//! the memory knows is what is recorded, and may be shown.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, oneshot};

use super::acknowledgement::{acknowledgement, problem_line};
use super::exchange::Ready;
use super::lines::Line;
use super::owner::Entry;
use super::{Engine, Error};
use crate::machine::{
    Answer, Cause, Env, Flags, Heard, Kind, Refusal, Report, Row, Run, RunId, Terminal, Turn,
};
use crate::protocol::{self, Acknowledgement, BadAnswer, write_acknowledgement};

/// How long a checkpoint may take to become durable before its sender is told to come again.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a run that has just come to this node may take to be read.
const LOADING: Duration = Duration::from_secs(5);

/// What a checkpoint is answered with.
pub(super) type Told = Result<Bytes, Error>;

/// The checkpoints of one exchange, as far as they have to be remembered.
#[derive(Debug)]
pub(super) struct Conversation {
    epoch: i32,
    /// The last number that was taken.
    n: i32,
    /// SHA-256 of what came under it, if this memory took it.
    hash: Option<[u8; 32]>,
    /// What it was answered with.
    told: Option<Told>,
    /// Checkpoints that are not answered yet, oldest first.
    waiting: VecDeque<Waiting>,
    /// It has ended its turn by a word of its own.
    pub(super) over: bool,
    /// Where lines go, as long as the exchange has something to hear.
    line: Option<Line>,
    /// A handler that waits within a line's exchange is told here.
    push: Option<mpsc::OwnedPermit<Bytes>>,
    /// The handler was asked to finish.
    asked: bool,
}

/// Who is to be told what came of a checkpoint.
#[derive(Debug)]
pub(super) enum Who {
    /// The sender of a request.
    Post(oneshot::Sender<Told>),
    /// The handler at the other end of the lines. `push`: it waits for its tree.
    Line {
        /// Room for the acknowledgement.
        permit: mpsc::OwnedPermit<Bytes>,
        /// Room for what it waits for.
        push: Option<mpsc::OwnedPermit<Bytes>>,
    },
}

impl Who {
    fn tell(self, told: &Told) {
        match self {
            // Who does not wait any longer will ask again.
            Self::Post(tell) => drop(tell.send(told.clone())),
            Self::Line { permit, .. } => {
                let line = match told {
                    Ok(acknowledgement) => acknowledgement.clone(),
                    Err(error) => problem_line(error),
                };
                permit.send(line);
            }
        }
    }
}

/// A checkpoint that is not answered yet.
#[derive(Debug)]
struct Waiting {
    n: i32,
    /// A sign of life and nothing else.
    beat: bool,
    /// What it came to, once it was applied.
    came_to: Option<Result<Heard, Error>>,
    /// It waits for its tree.
    stays: bool,
    who: Vec<Who>,
}

impl Waiting {
    fn is_line(&self) -> bool {
        matches!(self.who.first(), Some(Who::Line { .. }))
    }

    fn answer(self, told: &Told) {
        for who in self.who {
            who.tell(told);
        }
    }
}

impl Conversation {
    fn new(epoch: i32, n: i32) -> Self {
        Self {
            epoch,
            n,
            hash: None,
            told: None,
            waiting: VecDeque::new(),
            over: false,
            line: None,
            push: None,
            asked: false,
        }
    }

    /// The steps that the checkpoints which are not answered yet have settled, by `seq`.
    fn sent(&self) -> Vec<i32> {
        let applied = self.waiting.iter().filter_map(|w| w.came_to.as_ref()?.as_ref().ok());
        applied.flat_map(|heard| heard.own.iter().copied()).collect()
    }

    pub(super) const fn is_of(&self, epoch: i32) -> bool {
        self.epoch == epoch
    }
}

/// What a checkpoint says: none is a sign of life.
type Said = Option<(i32, Answer)>;

impl Engine {
    /// A checkpoint of a handler: answered once it is durable, with `wait` once its tree is
    /// satisfied or the time is up.
    pub async fn checkpoint(
        &self,
        token: &str,
        run: RunId,
        body: Bytes,
        wait: Option<Duration>,
    ) -> Result<Bytes, Error> {
        let claims = self.keys().check(token, self.clock().lower()).map_err(|_| Error::BadToken)?;
        if claims.run != run {
            return Err(Error::BadToken);
        }
        let said = protocol::parse_report(&body, self.limits()).map_err(|e| bad_report(&e))?;
        // There is nothing to wait for but a tree.
        let awaits =
            |(_, answer): &(i32, Answer)| matches!(answer.terminal, Some(Terminal::Await(_)));
        let wait = wait.filter(|_| said.as_ref().is_some_and(awaits));
        let hash: [u8; 32] = Sha256::digest(&body).into();
        let number = said.as_ref().map(|(n, _)| *n);
        let told = match self.present(run).await {
            Ok(()) => self.take_checkpoint(run, claims.epoch, said, hash, wait).await,
            Err(error) => Err(error),
        };
        match told {
            // Recorded by who drove the run before, or just before it left memory: said again.
            Err(error @ (Error::StaleEpoch | Error::RunEnded(_))) => {
                let rows = self.store().load(&[run]).await?.into_iter().next().map(|l| l.rows);
                let known =
                    number.and_then(|n| rebuilt(&rows.unwrap_or_default(), claims.epoch, n));
                known.unwrap_or(Err(error))
            }
            told => told,
        }
    }

    /// Waits until this node has the run in memory; says why it never will.
    async fn present(&self, run: RunId) -> Result<(), Error> {
        let mut changes = self.changes(run);
        let until = self.clock().mono() + LOADING;
        loop {
            {
                let owner = self.owner();
                let holds = owner.lease_until > self.clock().mono();
                if !holds || owner.tenure(run.shard()).is_none() {
                    return Err(Error::busy("this node does not drive the run; send it again"));
                }
                if owner.runs.contains_key(&run) {
                    return Ok(());
                }
            }
            let loaded = self.store().load(&[run]).await?.into_iter().next();
            let loaded = loaded.ok_or(Error::RunNotFound(run))?;
            if loaded.ended.is_some() {
                return Err(Error::RunEnded(run));
            }
            if loaded.parked.is_some() {
                // It waits for something: the exchange is over.
                return Err(Error::StaleEpoch);
            }
            self.bring_in(&mut self.owner(), [run]);
            if self.clock().mono() >= until {
                return Err(Error::busy("the run is being read; send it again"));
            }
            let _ = tokio::time::timeout(Duration::from_millis(200), changes.changed()).await;
        }
    }

    async fn take_checkpoint(
        &self,
        run: RunId,
        epoch: i32,
        said: Said,
        hash: [u8; 32],
        wait: Option<Duration>,
    ) -> Told {
        let gone = || Error::busy("this node does not drive the run any more; send it again");
        let (tell, mut told) = oneshot::channel();
        let n = said.as_ref().map(|(n, _)| *n);
        let who = Who::Post(tell);
        let longest = self.submit(run, epoch, said, Some(hash), wait.is_some(), who);
        if let Some((wait, n)) = wait.zip(n) {
            match tokio::time::timeout(wait.min(longest), &mut told).await {
                Ok(told) => return told.map_err(|_| gone())?,
                Err(_) => self.wait_no_more(run, epoch, n),
            }
        }
        match tokio::time::timeout(PATIENCE, told).await {
            Ok(told) => told.map_err(|_| gone())?,
            Err(_) => Err(Error::busy(
                "Postgres does not answer; whether this was recorded is not known. Send it again \
                 with the same number",
            )),
        }
    }

    /// An exchange of lines is open: where its lines go. False if it is over already.
    pub(super) fn attach(&self, ready: &Ready, line: Line) -> bool {
        let mut owner = self.owner();
        let Some(entry) = owner.runs.get_mut(&ready.run) else { return false };
        if entry.run.talking() != Some(ready.epoch) {
            return false;
        }
        let talk =
            Conversation { line: Some(line), ..Conversation::new(ready.epoch, entry.run.talk.cp) };
        entry.talk = Some(Box::new(talk));
        self.acknowledge(entry);
        true
    }

    /// A line of an exchange; false if it is over, or its run is not here any more.
    pub(super) fn say_line(
        &self,
        ready: &Ready,
        n: i32,
        answer: Answer,
        stays: bool,
        who: Who,
    ) -> bool {
        let mut owner = self.owner();
        let Some(entry) = owner.runs.get_mut(&ready.run) else { return false };
        let talk = entry.talk.as_ref();
        if !talk.is_some_and(|t| t.epoch == ready.epoch && t.line.is_some()) {
            return false;
        }
        let taken = take(entry, ready.epoch, Some((n, answer)), None, stays, who);
        if let Err((error, who)) = taken.map_err(|refused| *refused) {
            who.tell(&Err(error));
            return false;
        }
        self.pump(&mut owner, ready.run);
        true
    }

    /// Takes a checkpoint in; `who` hears what came of it. Returns how long it may wait.
    fn submit(
        &self,
        id: RunId,
        epoch: i32,
        said: Said,
        hash: Option<[u8; 32]>,
        stays: bool,
        who: Who,
    ) -> Duration {
        let mut owner = self.owner();
        let Some(entry) = owner.runs.get_mut(&id) else { return Duration::ZERO };
        let longest = entry.silence / 2;
        let taken = take(entry, epoch, said, hash, stays, who);
        if let Err((error, who)) = taken.map_err(|refused| *refused) {
            if matches!(error, Error::StaleEpoch) && entry.noted != epoch {
                // Once for each exchange: one that beats for ever must not fill the history.
                entry.noted = epoch;
                let data = Bytes::from_static(b"{\"detail\":\"a checkpoint came after its epoch had ended; nothing of it was recorded\"}");
                entry.run.note(self.clock().upper(), epoch, "checkpoint.late", "handler", data);
            }
            who.tell(&Err(error));
        } else {
            entry.run.renew_lease(self.clock().upper());
        }
        self.pump(&mut owner, id);
        longest
    }

    /// The time of who waits for the tree of checkpoint `n` is up: it is told how things stand.
    fn wait_no_more(&self, id: RunId, epoch: i32, n: i32) {
        let mut owner = self.owner();
        let Some(entry) = owner.runs.get_mut(&id) else { return };
        let talk = entry.talk.as_mut().filter(|t| t.epoch == epoch);
        if let Some(waiting) = talk.and_then(|t| t.waiting.iter_mut().find(|w| w.n == n)) {
            waiting.stays = false;
        }
        entry.run.renew_lease(self.clock().upper());
        self.pump(&mut owner, id);
    }

    /// A checkpoint's turn has come: it is applied, or refused and not taken.
    pub(super) fn hear(entry: &mut Entry, report: Report, env: &Env<'_>) {
        let (epoch, cp) = (report.epoch, report.cp);
        let Entry { run, talk, .. } = entry;
        let refused = if let Some(detail) = run.malformed(&report.answer) {
            Some(Error::Invalid("#/await".to_owned(), detail))
        } else if let Some(over) = run.over_limit(&report.answer, env) {
            Some(Error::TooLarge(over.detail))
        } else {
            match run.apply(Cause::Reported(report), env) {
                Ok(()) => None,
                Err(Refusal::StaleEpoch) => Some(Error::StaleEpoch),
                Err(Refusal::Ended) => Some(Error::RunEnded(run.id)),
                Err(Refusal::NotDue | Refusal::StaleAttempt) => {
                    Some(Error::CheckpointSkipped { n: cp, last: run.talk.cp })
                }
            }
        };
        let Some(talk) = talk.as_mut().filter(|t| t.epoch == epoch) else { return };
        if refused.is_some() {
            // The number may be sent again with something better.
            (talk.n, talk.hash, talk.told) = (run.talk.cp, None, None);
        } else if run.talking() != Some(epoch) {
            talk.over = true;
        }
        let heard = std::mem::take(&mut run.heard);
        let outcome = match (refused, &heard.objection) {
            (Some(error), _) => Err(error),
            (None, Some(attention)) => Err(Error::RunPaused(attention.clone())),
            (None, None) => Ok(heard),
        };
        let unapplied = |w: &&mut Waiting| w.n == cp && w.came_to.is_none();
        if let Some(waiting) = talk.waiting.iter_mut().find(unapplied) {
            waiting.came_to = Some(outcome);
        }
    }

    /// Answers what can be answered, if nothing of the run is on its way to the database.
    pub(super) fn acknowledge(&self, entry: &mut Entry) {
        if entry.in_flight.is_some() || !entry.run.next.rows.is_empty() {
            return;
        }
        let Entry { run, talk, silence, leaving, .. } = entry;
        let Some(talk) = talk else { return };
        if talk.waiting.is_empty() && talk.line.is_none() {
            return;
        }
        let past = self.clock().lower();
        let open = run.talking() == Some(talk.epoch);
        let mut refused = false;
        let mut kept = VecDeque::new();
        // What a handler has sent on lines it is not sent back, be it acknowledged now or next.
        let sent = if talk.line.is_some() { talk.sent() } else { Vec::new() };
        while let Some(mut waiting) = talk.waiting.pop_front() {
            let told: Told = match waiting.came_to.take() {
                None if run.ended() => Err(Error::RunEnded(run.id)),
                None => {
                    kept.push_back(waiting);
                    continue;
                }
                Some(Err(error)) => {
                    refused = true;
                    Err(error)
                }
                Some(Ok(heard)) if talk.line.is_some() && waiting.is_line() => {
                    let hears = run.hears(past);
                    let deaf = talk.line.as_ref().is_some_and(|l| l.deaf);
                    let line = if deaf {
                        if open {
                            run.told(run.seq, past);
                        }
                        Bytes::new()
                    } else {
                        let heard = Heard { own: sent.clone(), ..heard };
                        acknowledgement(run, waiting.n, &heard, None, (open, past), self.limits())
                    };
                    if hears {
                        run.heard_of();
                    } else if let Some(Who::Line { push, .. }) = waiting.who.first_mut() {
                        talk.push = push.take();
                    }
                    Ok(line)
                }
                Some(Ok(heard)) => {
                    let hears = run.hears(past);
                    let goes_on = open && !hears && !*leaving && run.cancel.is_none();
                    // Who sends something new does not wait for the old any more.
                    if waiting.stays && goes_on && talk.waiting.iter().all(|w| w.beat) {
                        waiting.came_to = Some(Ok(heard));
                        kept.push_back(waiting);
                        continue;
                    }
                    run.talk.leaving |= *leaving && open;
                    let budget = self.budget_left(run, *silence);
                    let told = acknowledgement(
                        run,
                        waiting.n,
                        &heard,
                        Some(budget),
                        (open, past),
                        self.limits(),
                    );
                    if hears && waiting.stays {
                        run.heard_of();
                    }
                    Ok(told)
                }
            };
            if !waiting.beat && waiting.n == talk.n {
                talk.told = Some(told.clone());
            }
            waiting.answer(&told);
        }
        talk.waiting = kept;
        if talk.line.is_some() {
            self.tell_line(run, talk, open && !refused, *leaving);
        }
    }

    /// What a handler at the other end of lines is told without having said something.
    fn tell_line(&self, run: &mut Run, talk: &mut Conversation, open: bool, leaving: bool) {
        let past = self.clock().lower();
        if open && talk.push.is_some() && run.hears(past) {
            let line =
                acknowledgement(run, 0, &Heard::default(), None, (true, past), self.limits());
            run.heard_of();
            if let Some(permit) = talk.push.take() {
                permit.send(line);
            }
        }
        let Some(line) = &talk.line else { return };
        if open && leaving && !talk.asked {
            talk.asked = true;
            run.talk.leaving = true;
            let _ = line.sender.try_send(Bytes::from_static(b"{\"suspend\":true}\n"));
        }
        if open {
            return;
        }
        if !talk.over && run.talking() != Some(talk.epoch) {
            // Somebody else has ended it: a cancel, an operator, a deadline.
            if let Some(cancel) = protocol::cancel_of(run) {
                let _ = line.sender.try_send(protocol::write_cancel_line(&cancel).into());
            }
            let error = if run.ended() { Error::RunEnded(run.id) } else { Error::StaleEpoch };
            let _ = line.sender.try_send(problem_line(&error));
        }
        (talk.line, talk.push) = (None, None);
    }

    /// How long the handler should work on.
    fn budget_left(&self, run: &Run, silence: Duration) -> Duration {
        match run.turn {
            Turn::Open { at, .. } => {
                super::exchange::budget_of(silence).saturating_sub(self.clock().upper().since(at))
            }
            Turn::Held { lease, .. } => lease,
            _ => Duration::ZERO,
        }
    }

    /// Exchanges of these runs are asked to finish, as soon as they can be told.
    pub(super) fn ask_to_leave(&self, which: impl Fn(&RunId) -> bool) {
        let mut owner = self.owner();
        let ids: Vec<RunId> = owner
            .runs
            .iter()
            .filter(|(id, e)| which(id) && !e.leaving)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            if let Some(entry) = owner.runs.get_mut(&id)
                && entry.run.talking().is_some()
            {
                entry.leaving = true;
                self.acknowledge(entry);
            }
        }
    }
}

/// Takes a checkpoint into the conversation of its exchange, or says why not.
fn take(
    entry: &mut Entry,
    epoch: i32,
    said: Said,
    hash: Option<[u8; 32]>,
    stays: bool,
    who: Who,
) -> Result<(), Box<(Error, Who)>> {
    let open = entry.run.talking() == Some(epoch);
    if entry.talk.as_ref().is_none_or(|t| t.epoch != epoch) {
        if !open {
            return Err(Box::new((Error::StaleEpoch, who)));
        }
        entry.talk = Some(Box::new(Conversation::new(epoch, entry.run.talk.cp)));
    }
    let Entry { run, talk, queue, life, .. } = entry;
    let Some(talk) = talk else { return Err(Box::new((Error::StaleEpoch, who))) };
    let waiting =
        |n, beat, came_to, stays, who| Waiting { n, beat, came_to, stays, who: vec![who] };
    let Some((n, answer)) = said else {
        if !open {
            return Err(Box::new((Error::StaleEpoch, who)));
        }
        life.sign();
        let came_to = Some(Ok(Heard::default()));
        talk.waiting.push_back(waiting(0, true, came_to, false, who));
        return Ok(());
    };
    if n == talk.n && matches!(who, Who::Post(_)) {
        if talk.hash.is_some() && hash.is_some() && talk.hash != hash {
            return Err(Box::new((Error::CheckpointReused(n), who)));
        }
        if let Some(told) = &talk.told {
            who.tell(told);
        } else if let Some(first) = talk.waiting.iter_mut().find(|w| w.n == n && !w.beat) {
            first.who.push(who);
        } else {
            // Recorded before this memory had the run: everything since the invocation is shown.
            talk.waiting.push_back(waiting(n, false, Some(Ok(Heard::default())), false, who));
        }
        life.sign();
        return Ok(());
    }
    if !open {
        return Err(Box::new((Error::StaleEpoch, who)));
    }
    let next = n == talk.n + 1 || (n > talk.n && talk.n == run.talk.cp && run.takes_any());
    if !next {
        return Err(Box::new((Error::CheckpointSkipped { n, last: talk.n }, who)));
    }
    life.sign();
    (talk.n, talk.hash, talk.told) = (n, hash, None);
    talk.waiting.push_back(waiting(n, false, None, stays, who));
    queue.push_back(Cause::Reported(Report { epoch, cp: n, answer, stays }));
    Ok(())
}

/// What a checkpoint is answered with that is in the rows of a journal, if it is.
fn rebuilt(rows: &[Row], epoch: i32, n: i32) -> Option<Told> {
    let of_epoch = |r: &&Row| r.flags.has(Flags::HANDLER) && r.epoch == epoch;
    let last = rows.iter().rfind(of_epoch).filter(|r| r.cp == n)?;
    if last.kind == Kind::Paused
        && let Some(attention) = last.body.as_ref().and_then(|b| serde_json::from_slice(b).ok())
    {
        return Some(Err(Error::RunPaused(attention)));
    }
    let upto = rows.last()?.seq;
    let acknowledgement =
        Acknowledgement { ack: Some(n), upto, budget_ms: Some(0), ..Acknowledgement::default() };
    Some(Ok(write_acknowledgement(&acknowledgement).into()))
}

/// What is wrong with the form of a checkpoint.
fn bad_report(error: &BadAnswer) -> Error {
    if error.is_limit() {
        Error::TooLarge(format!("Nothing of the checkpoint was recorded: {error}."))
    } else {
        Error::Invalid("#".to_owned(), error.to_string())
    }
}

/// Something that runs share, so that it is not made for each exchange.
pub(super) fn new_life() -> Arc<crate::outbound::Life> {
    Arc::default()
}
