//! One exchange: how it is opened on each transport, what comes of it, and how it ends.

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::{Exchange, MOST_EXCHANGES, Play, read_json, same};
use crate::conformance::links::Post;
use crate::conformance::modes::Mode;
use crate::conformance::stage::{Pace, Reply};
use crate::conformance::{Seen, Wrong};
use crate::machine::{Answer, Cause, Fault, Heard, Op, StepState, Turn};
use crate::outbound::{LineReceiver, LineSender, Opened};
use crate::protocol::{self, Transport};

/// How long an invocation that was answered with 202 may be silent.
const LEASE: std::time::Duration = std::time::Duration::from_mins(1);

/// An exchange that goes on: what was said in it so far.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Open {
    pub(super) epoch: i32,
    pub(super) way: Way,
    /// The number of the last checkpoint or line that was taken, and what it said.
    pub(super) n: i32,
    pub(super) body: Bytes,
    /// What it was answered with.
    pub(super) told: Option<Bytes>,
    /// What it came to, as long as it is not answered.
    pub(super) heard: Heard,
    /// Who is answered once the tree of that checkpoint is satisfied.
    pub(super) waiting: Option<Waiting>,
    /// The last acknowledgement was lost, and nobody has asked again.
    pub(super) unread: bool,
    /// The number that was last put off, or whose acknowledgement was lost.
    pub(super) hindered: i32,
    /// The time of somebody who waited was up.
    pub(super) hurried: bool,
    /// Somebody who waited was told, and has said nothing since.
    pub(super) pushed: bool,
    /// Its epoch is over.
    pub(super) over: bool,
    /// Why the handler must not say anything more.
    pub(super) stopped: Option<&'static str>,
    /// What is said is lost.
    pub(super) dry: bool,
}

/// How an exchange is spoken.
pub(super) enum Way {
    /// The request is on its way, or is being worked on.
    Call(AbortOnDropHandle<Result<Reply, Wrong>>),
    /// It was answered with 202.
    Held,
    /// Lines from the handler, and to it.
    Lines { to: Option<LineSender>, from: Box<LineReceiver> },
}

/// Who waits for a tree.
pub(super) enum Waiting {
    Post(Post),
    Line,
}

/// What comes from the handler.
enum Came {
    Post(Option<Post>),
    Reply(Result<Reply, Wrong>),
    Line(Bytes),
    End(Option<String>),
}

impl Open {
    fn new(epoch: i32, way: Way) -> Self {
        Self {
            epoch,
            way,
            n: 0,
            body: Bytes::new(),
            told: None,
            heard: Heard::default(),
            waiting: None,
            unread: false,
            hindered: 0,
            hurried: false,
            pushed: false,
            over: false,
            stopped: None,
            dry: false,
        }
    }

    /// Whether the handler waits in it for something from outside.
    pub(super) const fn waits(&self) -> bool {
        self.waiting.is_some()
    }
}

impl Play<'_> {
    /// Opens the exchange of an epoch.
    pub(super) async fn exchange(&mut self, epoch: i32) -> Seen {
        if self.exchanges.len() >= MOST_EXCHANGES {
            return Err(format!("no end after {MOST_EXCHANGES} invocations").into());
        }
        let reason = match self.run.turn {
            Turn::Open { reason, .. } => reason.word(),
            _ => "progress",
        };
        let (id, body) = self.write(epoch, reason)?;
        let repeats = self.exchanges.last().filter(|_| self.run.faults > 0).cloned();
        let pace = match self.mode {
            Mode::Slow => Pace::Slow,
            Mode::Cut if repeats.is_none() => Pace::Cut,
            _ => Pace::Whole,
        };
        let (invocation, answer) = (read_json(&body)?, Value::Null);
        let (kept, sent) = (id.clone(), body.clone());
        let exchange = Exchange {
            invocation,
            id: kept,
            body: sent,
            answer,
            reports: 0,
            beats: 0,
            held: false,
        };
        self.exchanges.push(exchange);
        if pace == Pace::Cut {
            // Whatever it says to half a request, it is not the answer to the whole one.
            match self.transport {
                Transport::Respond | Transport::Checkpoint => {
                    let _: Result<Reply, Wrong> = self.stage.call_at(&id, &body, pace).await;
                }
                Transport::Stream => {
                    let _: Result<Opened, Wrong> = self.stage.listen(&id, &body, pace).await;
                }
                Transport::Duplex => {
                    let _: Result<_, Wrong> = self.stage.open(&id, &body, pace).await;
                }
            }
            self.fault(epoch, "the body was cut off");
            return Ok(());
        }
        let (to, opened) = match self.transport {
            Transport::Respond => {
                let reply = self.stage.call_at(&id, &body, pace).await?;
                return self.answered(epoch, &reply, repeats.as_ref()).await;
            }
            Transport::Checkpoint => {
                let way = Way::Call(self.stage.begin(&id, &body, pace));
                self.open = Some(Open::new(epoch, way));
                return Ok(());
            }
            Transport::Stream => (None, self.stage.listen(&id, &body, pace).await?),
            Transport::Duplex => {
                let (to, opened) = self.stage.open(&id, &body, pace).await?;
                (Some(to), opened)
            }
        };
        match opened {
            Opened::Lines(from) => {
                let mut open = Open::new(epoch, Way::Lines { to, from: Box::new(from) });
                let loses = self.transport == Transport::Stream && self.mode == Mode::Lost;
                open.dry = loses && repeats.is_none();
                self.open = Some(open);
                Ok(())
            }
            // It takes the liberty to answer as a whole.
            Opened::Reply(reply) => {
                let reply = Reply { status: reply.status, body: reply.body };
                self.answered(epoch, &reply, repeats.as_ref()).await
            }
        }
    }

    /// An exchange was answered as a whole, and nothing else was said in it.
    async fn answered(&mut self, epoch: i32, reply: &Reply, repeats: Option<&Exchange>) -> Seen {
        let answer = self.read(reply)?;
        self.keep(&reply.body)?;
        if self.mode == Mode::Lost {
            match repeats {
                None => {
                    self.fault(epoch, "the answer was lost");
                    return Ok(());
                }
                Some(first) => self.repeated(first)?,
            }
        }
        self.told_meanwhile();
        self.record_answer(epoch, answer)?;
        let before = self.exchanges.len().checked_sub(2).map(|n| self.exchanges[n].clone());
        if self.mode == Mode::Stale
            && let Some(old) = before
        {
            let reply = self.stage.call(&old.id, &old.body).await?;
            same("of an old epoch, delivered late", &old, &read_json(&reply.body)?)?;
        }
        Ok(())
    }

    /// The last exchange repeats another one: the same was to be said in it.
    fn repeated(&self, first: &Exchange) -> Seen {
        let Some(second) = self.exchanges.last() else { return Ok(()) };
        // A licence to run once does not outlive its epoch: then other steps are shown.
        if first.invocation["steps"] != second.invocation["steps"] {
            return Ok(());
        }
        same("repeated with the same journal", first, &second.answer)
    }

    fn record_answer(&mut self, epoch: i32, answer: Answer) -> Seen {
        if let Some(said) = self.run.malformed(&answer) {
            return Err(said.into());
        }
        self.cause(Cause::Answered { epoch, answer, ms: 1 });
        self.goes_on()
    }

    /// Fails if the handler has brought its run to a stand.
    pub(super) fn goes_on(&self) -> Seen {
        match &self.run.paused {
            Some(why) if matches!(&*why.code, "mismatch" | "no-progress" | "journal-limit") => {
                Err(format!("the run is paused: {}: {}", why.code, why.detail).into())
            }
            _ => Ok(()),
        }
    }

    /// Messages that come in while an exchange is open.
    pub(super) fn told_meanwhile(&mut self) {
        for message in std::mem::take(&mut self.meanwhile) {
            self.tell(message);
        }
    }

    /// What was said is kept with its exchange: ops one after the other, and the end.
    pub(super) fn keep(&mut self, said: &Bytes) -> Seen {
        let mut said = read_json(said)?;
        let Some(exchange) = self.exchanges.last_mut() else { return Ok(()) };
        if said["op"].is_string() {
            said = json!({"ops": [said]});
        }
        let Some(fields) = said.as_object_mut() else { return Ok(()) };
        fields.remove("n");
        if exchange.answer.is_null() {
            exchange.answer = said;
            return Ok(());
        }
        for (name, value) in std::mem::take(fields) {
            let kept = &mut exchange.answer[&name];
            match (kept.as_array_mut(), value) {
                (Some(ops), Value::Array(more)) => ops.extend(more),
                (_, value) => *kept = value,
            }
        }
        Ok(())
    }

    /// Reads an answer as the gateway does, and looks whether it did what it must not.
    pub(super) fn read(&self, reply: &Reply) -> Result<Answer, Wrong> {
        if reply.status != 200 {
            let head = String::from_utf8_lossy(&reply.body[..reply.body.len().min(200)]);
            return Err(format!("the handler answered {}: {head}", reply.status).into());
        }
        let answer = protocol::parse_answer(&reply.body, &self.limits)
            .map_err(|e| Wrong::from(format!("malformed answer: {e}")))?;
        self.inspect(&answer)?;
        Ok(answer)
    }

    /// Fails if it reports work that is not to be done.
    pub(super) fn inspect(&self, answer: &Answer) -> Seen {
        for op in &answer.ops {
            let Op::Run { id, .. } = op else { continue };
            match self.run.steps.get(id).map(|step| &step.state) {
                // What it was not shown it cannot know.
                Some(StepState::Settled { seq, .. }) if *seq <= self.run.talk.told => {
                    return Err(format!("step {id:?} is recorded and was run again").into());
                }
                Some(StepState::Trying { due, .. }) if *due > self.clock => {
                    let said = format!("step {id:?} waits for its next attempt and was run");
                    return Err(said.into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Hears what the handler says next in the open exchange; false if it waits for something from
    /// outside.
    pub(super) async fn hear(&mut self) -> Result<bool, Wrong> {
        let past = self.clock;
        let Some(open) = &mut self.open else { return Ok(false) };
        let talking = self.run.talking() == Some(open.epoch);
        if open.waits() {
            if talking && !self.run.hears(past) {
                return Ok(false);
            }
            self.tell_who_waits().await;
            return Ok(true);
        }
        if matches!(open.way, Way::Held) && !talking && !open.unread {
            self.open = None;
            return Ok(true);
        }
        let (links, run) = (&self.stage.links, self.run.id.to_string());
        let silence = self.stage.silence;
        let coming = async {
            match &mut open.way {
                // A checkpoint that was posted before the answer was given was said before it.
                Way::Call(call) => tokio::select! {
                    biased;
                    post = links.next_post(&run) => Came::Post(post),
                    reply = call => Came::Reply(reply.unwrap_or_else(|e| Err(e.to_string().into()))),
                },
                Way::Held => Came::Post(links.next_post(&run).await),
                Way::Lines { from, .. } => match from.next().await {
                    Ok(Some(line)) => Came::Line(line),
                    Ok(None) => Came::End(None),
                    Err(failure) => Came::End(Some(failure.to_string())),
                },
            }
        };
        let Ok(came) = timeout(silence, coming).await else {
            let stopped = open.stopped.map(|why| format!("told {why}, "));
            let what = if talking { "said nothing" } else { "did not end its exchange" };
            let stopped = stopped.unwrap_or_default();
            return Err(format!("{stopped}the handler {what} for {silence:?}").into());
        };
        match came {
            Came::Post(Some(post)) => self.posted(post).await?,
            Came::Post(None) => return Err("the suite does not listen any more".into()),
            Came::Line(line) => self.said(line).await?,
            Came::Reply(reply) => self.replied(&reply?)?,
            Came::End(failure) => self.ended(failure.as_deref())?,
        }
        Ok(true)
    }

    /// The call of an exchange with checkpoints was answered.
    fn replied(&mut self, reply: &Reply) -> Seen {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        let epoch = open.epoch;
        if self.run.talking() != Some(epoch) {
            // Whatever it says: its turn has ended, by its own word or without it.
            return Ok(());
        }
        self.told_meanwhile();
        let empty = reply.body.iter().all(u8::is_ascii_whitespace);
        match reply.status {
            202 => {
                self.cause(Cause::Held { epoch, lease: LEASE });
                if self.run.talking() == Some(epoch) {
                    open.way = Way::Held;
                    if let Some(exchange) = self.exchanges.last_mut() {
                        exchange.held = true;
                    }
                    self.open = Some(open);
                }
            }
            200 if empty => self.leave(&open, "an empty answer")?,
            200 => {
                if let Some(why) = open.stopped {
                    let said = read_json(&reply.body)?;
                    if said["ops"].as_array().is_some_and(|ops| !ops.is_empty()) {
                        return Err(format!("the handler went on after {why}: {said}").into());
                    }
                }
                let answer = self.read(reply)?;
                self.keep(&reply.body)?;
                self.record_answer(epoch, answer)?;
            }
            // It may give up where it is not answered: it is invoked again.
            _ if open.hindered != 0 => self.fault(epoch, "the handler gave up"),
            _ => drop(self.read(reply)?),
        }
        Ok(())
    }

    /// The handler's lines have come to their end.
    fn ended(&mut self, failure: Option<&str>) -> Seen {
        let Some(open) = self.open.take() else { return Ok(()) };
        if open.dry {
            self.fault(open.epoch, "the lines were lost");
            return Ok(());
        }
        if self.run.talking() != Some(open.epoch) {
            return Ok(());
        }
        self.leave(&open, failure.unwrap_or("the end of the stream"))
    }

    /// The exchange is over, and no word of the handler has ended its turn.
    fn leave(&mut self, open: &Open, how: &str) -> Seen {
        let epoch = open.epoch;
        if !open.pushed && !self.run.may_leave(epoch) {
            return Err(format!(
                "the exchange ended ({how}) without a word of how its turn ends, and nothing that \
                 it awaits"
            )
            .into());
        }
        let detail = "the handler has left".to_owned();
        self.cause(Cause::Left { epoch, detail });
        self.goes_on()
    }

    /// The gateway ends an epoch whose handler does not know of it.
    pub(super) fn drop_epoch(&mut self) {
        let Some(open) = &mut self.open else { return };
        open.over = true;
        let cause = Cause::Faulted { epoch: open.epoch, fault: Fault::Again };
        self.cause(cause);
    }

    /// The last exchange of lines repeats one whose lines were lost.
    pub(super) fn repeats_lost(&self) -> Seen {
        let two = self.exchanges.len().checked_sub(2);
        match two.and_then(|n| self.exchanges.get(n)) {
            Some(first) if self.mode == Mode::Lost && self.transport == Transport::Stream => {
                self.repeated(first)
            }
            _ => Ok(()),
        }
    }
}
