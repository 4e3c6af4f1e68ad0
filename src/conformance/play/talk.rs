//! What is said within an exchange: checkpoints that are posted and lines, each recorded as the
//! gateway does, and what is done to their acknowledgements.

use bytes::Bytes;
use tokio::time::timeout;

use super::exchange::{Waiting, Way};
use super::{Play, read_json};
use crate::conformance::links::{Post, problem};
use crate::conformance::modes::Mode;
use crate::conformance::stage::DRIP;
use crate::conformance::{Seen, Wrong};
use crate::machine::{Answer, Cause, Heard, Report, Terminal};
use crate::protocol::{self, Transport};

/// No exchange of the suite needs more checkpoints or lines.
const MOST_REPORTS: usize = 500;

const SUSPEND: &str = "`suspend`";

/// Why a report is not taken any more: status, code and words.
type Refused = (u16, &'static str, &'static str);

const STALE: Refused = (409, "stale-epoch", "409 stale-epoch");
const ENDED: Refused = (410, "run-ended", "410 run-ended");

/// Whether it asks to be told of a tree.
const fn awaits(answer: &Answer) -> bool {
    matches!(answer.terminal, Some(Terminal::Await(_)))
}

impl Play<'_> {
    /// Whether the open exchange may report.
    fn talks(&self) -> bool {
        self.open.as_ref().is_some_and(|open| self.run.talking() == Some(open.epoch))
    }

    /// A sign of life and nothing else.
    fn beat(&mut self) {
        if let Some(exchange) = self.exchanges.last_mut() {
            exchange.beats += 1;
        }
    }

    /// Looks at a checkpoint or a line and records it.
    fn take(&mut self, n: i32, answer: Answer, said: &Bytes, stays: bool) -> Result<Heard, Wrong> {
        let Some(open) = &mut self.open else { return Ok(Heard::default()) };
        let epoch = open.epoch;
        (open.n, open.told, open.pushed) = (n, None, false);
        open.body = said.clone();
        self.told_meanwhile();
        self.inspect(&answer)?;
        self.keep(said)?;
        if let Some(exchange) = self.exchanges.last_mut() {
            exchange.reports += 1;
            if exchange.reports > MOST_REPORTS {
                return Err(format!("no end after {MOST_REPORTS} checkpoints or lines").into());
            }
        }
        if self.open.as_ref().is_some_and(|open| open.dry) {
            return Ok(Heard::default());
        }
        if let Some(said) = self.run.malformed(&answer) {
            return Err(said.into());
        }
        let ends = answer.terminal.is_some() && !(stays && awaits(&answer));
        self.cause(Cause::Reported(Report { epoch, cp: n, answer, stays }));
        self.record();
        self.goes_on()?;
        let talks = self.talks();
        if let Some(open) = &mut self.open {
            // Not by its own word: what it says before it hears of that is not its fault.
            open.over |= !talks && !ends;
        }
        Ok(std::mem::take(&mut self.run.heard))
    }

    /// A checkpoint was posted.
    pub(super) async fn posted(&mut self, post: Post) -> Seen {
        let wrong = |post: Post, detail: String| {
            post.refuse(422, "invalid-request", &detail);
            Err(detail.into())
        };
        let report = match protocol::parse_report(&post.body, &self.limits) {
            Ok(report) => report,
            Err(error) => return wrong(post, format!("malformed checkpoint: {error}")),
        };
        let (talks, mode) = (self.talks(), self.mode);
        let Some(open) = &mut self.open else {
            post.refuse(409, "stale-epoch", "the exchange is over");
            return Ok(());
        };
        let Some((n, answer)) = report else {
            self.beat();
            if talks {
                let acknowledgement = self.acknowledgement(None, &Heard::default());
                post.acknowledge(acknowledgement, mode == Mode::Slow);
            } else {
                post.refuse(409, "stale-epoch", "the epoch is over");
            }
            return Ok(());
        };
        if n == open.n {
            if post.body != open.body {
                let detail = format!("checkpoint {n} was sent again with another body");
                return wrong(post, detail);
            }
            open.unread = false;
            match &open.told {
                Some(told) => post.acknowledge(told.clone(), false),
                None => open.waiting = Some(Waiting::Post(post)),
            }
            return Ok(());
        }
        if open.unread {
            let last = open.n;
            return wrong(
                post,
                format!("checkpoint {n} was sent before the acknowledgement of {last} had come"),
            );
        }
        if let Some(why) = open.stopped {
            return wrong(post, format!("checkpoint {n} was sent after {why}"));
        }
        if n != open.n + 1 {
            let last = open.n;
            return wrong(post, format!("checkpoint {n} was sent, and {last} was the last"));
        }
        let over = open.over;
        self.told_meanwhile();
        self.record();
        if over || !self.talks() {
            let (status, code, words) = self.refusal();
            post.refuse(status, code, "the exchange is over; nothing was recorded");
            self.stop(words);
            return Ok(());
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        if mode == Mode::Lost && n % 2 == 0 && open.hindered != -n {
            open.hindered = -n;
            post.put_off();
            return Ok(());
        }
        let stays = post.wait && awaits(&answer);
        let body = post.body.clone();
        let taken = self.take(n, answer, &body, stays);
        let taken = match taken {
            Ok(heard) => self.unhurried(n).await.map(|()| heard),
            wrong => wrong,
        };
        match taken {
            Ok(heard) => self.acknowledge(post, heard, stays),
            Err(Wrong(said)) => return wrong(post, said),
        }
        Ok(())
    }

    /// Why nothing is taken any more.
    const fn refusal(&self) -> Refused {
        if self.run.ended() { ENDED } else { STALE }
    }

    /// The handler is told that this is all.
    fn stop(&mut self, why: &'static str) {
        if let Some(open) = &mut self.open {
            (open.over, open.stopped) = (true, Some(why));
        }
    }

    /// Where bodies are slow, an acknowledgement is slow too: fails if the handler does not wait
    /// for it before it does the next.
    async fn unhurried(&mut self, n: i32) -> Seen {
        if self.mode != Mode::Slow || !self.talks() {
            return Ok(());
        }
        let run = self.run.id.to_string();
        let Some(open) = &mut self.open else { return Ok(()) };
        let early = match &mut open.way {
            Way::Call(_) | Way::Held => {
                let post = timeout(DRIP, self.stage.links.next_post(&run)).await;
                post.ok().flatten().map(|post| post.body)
            }
            Way::Lines { from, .. } => {
                let line = from.next_within(DRIP, self.stage.silence).await;
                line.and_then(Result::ok).flatten()
            }
        };
        match early.map(|said| protocol::parse_report(&said, &self.limits)) {
            None => Ok(()),
            Some(Ok(None)) => {
                self.beat();
                Ok(())
            }
            Some(_) => {
                Err(format!("more was said before the acknowledgement of {n} had come").into())
            }
        }
    }

    /// Answers a checkpoint that is recorded, or has it wait for its tree.
    fn acknowledge(&mut self, post: Post, heard: Heard, stays: bool) {
        let (talks, hears) = (self.talks(), self.run.hears(self.clock));
        let mode = self.mode;
        let Some(open) = &mut self.open else { return };
        if stays && talks && !hears {
            let hurries = mode == Mode::Slow && !std::mem::replace(&mut open.hurried, true);
            match mode {
                Mode::Leave => {}
                // Its time is up before anything has come.
                Mode::Slow if hurries => {}
                Mode::Lost => {
                    (open.heard, open.hindered, open.unread) = (heard, open.n.max(1), true);
                    post.lose(Bytes::from_static(b"{\"ack\":"));
                    return;
                }
                _ => {
                    (open.heard, open.waiting) = (heard, Some(Waiting::Post(post)));
                    return;
                }
            }
        }
        let n = open.n;
        if mode == Mode::Leave && talks {
            open.stopped = Some(SUSPEND);
            self.run.talk.leaving = true;
        }
        let told = self.acknowledgement(Some(n), &heard);
        if stays && hears {
            self.run.heard_of();
        }
        let Some(open) = &mut self.open else { return };
        open.told = Some(told.clone());
        open.over |= !talks;
        if mode == Mode::Lost {
            (open.hindered, open.unread) = (n, true);
            post.lose(told);
        } else {
            post.acknowledge(told, mode == Mode::Slow);
        }
        if mode == Mode::Stale && talks && n == 1 {
            self.drop_epoch();
        }
    }

    /// A line came.
    pub(super) async fn said(&mut self, line: Bytes) -> Seen {
        let duplex = self.transport == Transport::Duplex;
        let talks = self.talks();
        let Some(open) = &mut self.open else { return Ok(()) };
        if open.over {
            // It was on its way when the epoch ended.
            return Ok(());
        }
        let report = if duplex {
            protocol::parse_report(&line, &self.limits)
        } else {
            let answer = protocol::parse_stream_line(&line, &self.limits);
            answer.map(|answer| answer.map(|answer| (open.n + 1, answer)))
        };
        let report = report.map_err(|e| Wrong::from(format!("malformed line: {e}")))?;
        let Some((n, answer)) = report else {
            self.beat();
            return Ok(());
        };
        if let Some(why) = open.stopped {
            return Err(format!("a line was sent after {why}: {}", read_json(&line)?).into());
        }
        if n != open.n + 1 {
            return Err(format!("line {n} was sent, and {} was the last", open.n).into());
        }
        if !talks {
            return Err("a line came after the one that ends the turn".into());
        }
        self.told_meanwhile();
        self.record();
        if !self.talks() {
            let refused = self.refusal();
            self.send(problem_line(refused)).await;
            self.hang_up();
            self.stop(refused.2);
            return Ok(());
        }
        let waits = duplex && awaits(&answer);
        // An exchange that is cut must have got on: it begins anew otherwise, and for ever.
        let works = answer.ops.iter().any(|op| op.step().is_some());
        let heard = self.take(n, answer, &line, duplex)?;
        if duplex {
            return self.acknowledge_line(n, &heard, waits, works).await;
        }
        let (talks, seq, past) = (self.talks(), self.run.seq, self.clock);
        if talks && self.open.as_ref().is_some_and(|open| !open.dry) {
            self.run.told(seq, past);
        }
        if !talks {
            return self.repeats_lost();
        }
        if self.mode == Mode::Stale && works {
            self.break_off("the stream was cut");
        }
        Ok(())
    }

    /// The connection of lines breaks.
    fn break_off(&mut self, detail: &str) {
        let Some(open) = self.open.take() else { return };
        self.cause(Cause::Left { epoch: open.epoch, detail: detail.to_owned() });
    }

    async fn acknowledge_line(&mut self, n: i32, heard: &Heard, waits: bool, works: bool) -> Seen {
        let (talks, hears, mode) = (self.talks(), self.run.hears(self.clock), self.mode);
        if talks && works && n == 1 && mode == Mode::Lost {
            self.break_off("the connection was lost");
            return Ok(());
        }
        self.unhurried(n).await?;
        if mode == Mode::Slow {
            self.send(Bytes::from_static(b"\n")).await;
        }
        if mode == Mode::Leave && talks {
            self.run.talk.leaving = true;
            self.send(Bytes::from_static(b"{\"suspend\":true}\n")).await;
        }
        let told = self.acknowledgement(Some(n), heard);
        self.send(told).await;
        if hears {
            self.run.heard_of();
        }
        if talks && works && n == 1 && mode == Mode::Stale {
            self.drop_epoch();
            self.send(problem_line(STALE)).await;
        }
        let still = self.talks();
        let Some(open) = &mut self.open else { return Ok(()) };
        if mode == Mode::Leave && talks {
            open.stopped = Some(SUSPEND);
        } else if still && waits && !hears {
            open.waiting = Some(Waiting::Line);
        }
        if !still {
            self.hang_up();
        }
        Ok(())
    }

    /// Nothing more is sent on lines: both ends close.
    fn hang_up(&mut self) {
        if let Some(open) = &mut self.open
            && let Way::Lines { to, .. } = &mut open.way
        {
            *to = None;
        }
    }

    /// Sends lines, in two pieces where bodies are slow. Who has gone does not hear them.
    async fn send(&mut self, lines: Bytes) {
        let Some(open) = &mut self.open else { return };
        let Way::Lines { to: Some(to), .. } = &mut open.way else { return };
        let half = lines.len() / 2;
        // A piece of nothing is one that servers count as an attack.
        if self.mode == Mode::Slow && half > 0 {
            drop(to.send(lines.slice(..half)).await);
            tokio::time::sleep(DRIP).await;
            drop(to.send(lines.slice(half..)).await);
        } else {
            drop(to.send(lines).await);
        }
    }

    /// The tree that the handler waits for is satisfied, or its epoch is over.
    pub(super) async fn tell_who_waits(&mut self) {
        let talks = self.talks();
        let Some(open) = &mut self.open else { return };
        let Some(waiting) = open.waiting.take() else { return };
        let (n, heard) = (open.n, std::mem::take(&mut open.heard));
        (open.pushed, open.over) = (talks, open.over || !talks);
        match waiting {
            Waiting::Post(post) => {
                let told = self.acknowledgement(Some(n), &heard);
                if let Some(open) = &mut self.open {
                    open.told = Some(told.clone());
                }
                post.acknowledge(told, self.mode == Mode::Slow);
            }
            Waiting::Line if talks => {
                let told = self.acknowledgement(None, &Heard::default());
                self.send(told).await;
            }
            Waiting::Line => {
                if let Some(cancel) = self.cancel_line() {
                    self.send(cancel).await;
                }
                self.send(problem_line(self.refusal())).await;
                self.hang_up();
            }
        }
        if talks {
            self.run.heard_of();
        }
    }
}

/// The line that ends an exchange.
fn problem_line((status, code, _): Refused) -> Bytes {
    let problem = problem(status, code, "the exchange is over; nothing was recorded");
    format!("{{\"problem\":{problem}}}\n").into()
}
