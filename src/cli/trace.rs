//! Follows a run until it ends: a tree that is drawn anew on a terminal, a line a step in a pipe.
//!
//! The event stream only says that something happened; what is shown is read from the run and its
//! journal. So a lost event, a new connection or another node costs a moment and nothing else.

use std::collections::HashSet;
use std::time::Duration;

use reqwest::Response;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{sleep, timeout};

use super::client::{Client, Request, document};
use super::failure::Failure;
use super::model::{Entry, Run};
use super::output::{Format, Output, Tone, fit, plain};
use super::run::journal;
use super::sse::{Event, Events};
use super::tree;
use super::wait::{Outage, PAUSE};

/// Look again after this long without an event, whatever the stream says.
const LOOK: Duration = Duration::from_secs(5);
/// Events that come together are shown together.
const TOGETHER: Duration = Duration::from_millis(40);

/// Follows the run to its end, or until Ctrl-C: then none.
pub(super) async fn follow(
    client: &Client,
    id: &str,
    out: &mut Output,
) -> Result<Option<Run>, Failure> {
    tokio::select! {
        ended = to_the_end(client, id, out) => ended.map(Some),
        _ = tokio::signal::ctrl_c() => Ok(None),
    }
}

async fn to_the_end(client: &Client, id: &str, out: &mut Output) -> Result<Run, Failure> {
    let mut hints = Hints { client, id, response: None, events: Events::default() };
    let mut picture = Picture::default();
    let mut outage = Outage::default();
    loop {
        // Listen before looking: what happens in between is then heard.
        let looked = match hints.listen().await {
            Ok(()) => look(client, id, &mut picture).await,
            Err(failure) => Err(failure),
        };
        match looked {
            Ok(run) => {
                outage.over();
                picture.show(&run, out)?;
                if run.ended() {
                    return Ok(run);
                }
            }
            Err(failure) => {
                hints.response = None;
                if outage.bear(failure)? {
                    picture.forget_lines();
                    out.note("the gateway does not answer; trying on");
                }
                sleep(PAUSE).await;
                continue;
            }
        }
        for event in hints.next().await {
            picture.log(&event, out)?;
        }
    }
}

/// Reads the run and what is new in its journal.
async fn look(client: &Client, id: &str, picture: &mut Picture) -> Result<Run, Failure> {
    let run: Run = client.send(Request::get(&["runs", id])).await?.read()?;
    picture.take(journal(client, id, picture.upto).await?)?;
    Ok(run)
}

/// The event stream of a run, opened again whenever it breaks.
struct Hints<'a> {
    client: &'a Client,
    id: &'a str,
    response: Option<Response>,
    events: Events,
}

impl Hints<'_> {
    async fn listen(&mut self) -> Result<(), Failure> {
        if self.response.is_none() {
            let last = self.events.last_id.clone();
            let path = ["runs", self.id, "stream"];
            let request = Request { last_event_id: last.as_deref(), ..Request::get(&path) };
            self.response = Some(self.client.open(request, "text/event-stream").await?);
            self.events = Events::after(last);
        }
        Ok(())
    }

    /// Waits for something to happen, for the stream to break, or for the time to look anyway.
    async fn next(&mut self) -> Vec<Event> {
        let mut found = Vec::new();
        let mut patience = LOOK;
        while let Some(response) = &mut self.response {
            match timeout(patience, response.chunk()).await {
                Ok(Ok(Some(chunk))) => found.extend(self.events.feed(&chunk)),
                Ok(Ok(None) | Err(_)) => {
                    self.response = None;
                    sleep(TOGETHER).await;
                }
                Err(_) => break,
            }
            if !found.is_empty() {
                patience = TOGETHER;
            }
        }
        found
    }
}

/// What is known of the run, and how much of it is on the screen.
#[derive(Default)]
struct Picture {
    settled: Vec<Entry>,
    pending: Vec<Entry>,
    upto: u64,
    /// Documents of settled steps that are not printed yet.
    fresh: Vec<Box<RawValue>>,
    /// Lines of the drawing that is on the terminal now.
    drawn: usize,
    /// Lines that a pipe was told.
    told: HashSet<String>,
}

impl Picture {
    /// Takes in a page of the journal: settled steps after `upto`, and what is pending.
    fn take(&mut self, data: Vec<Box<RawValue>>) -> Result<(), Failure> {
        self.pending.clear();
        for item in data {
            let entry: Entry = document(item.get())?;
            match entry.seq {
                None => self.pending.push(entry),
                Some(seq) if seq > self.upto => {
                    self.upto = seq;
                    self.settled.push(entry);
                    self.fresh.push(item);
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn show(&mut self, run: &Run, out: &mut Output) -> Result<(), Failure> {
        match (out.format(), out.screen()) {
            (Format::Json | Format::Jsonl, _) => {
                for item in std::mem::take(&mut self.fresh) {
                    out.json(item.get())?;
                }
                Ok(())
            }
            (Format::Id, _) => {
                for item in std::mem::take(&mut self.fresh) {
                    let entry: Entry = document(item.get())?;
                    out.line(&plain(&entry.id))?;
                }
                Ok(())
            }
            (Format::Table, Some((_, rows))) => self.redraw(run, usize::from(rows), out),
            (Format::Table, None) => self.tell(run, out),
        }
    }

    /// Draws the tree over the one before. Of a tree higher than the terminal only the end is
    /// drawn while it lives, and all of it once the run has ended.
    fn redraw(&mut self, run: &Run, rows: usize, out: &mut Output) -> Result<(), Failure> {
        let mut lines = tree::draw(run, &self.entries(), out);
        if !run.ended() && lines.len() >= rows {
            let hidden = lines.len() + 2 - rows;
            let note = out.paint(Tone::Faint, &format!("… {hidden} lines"));
            lines.splice(1..=hidden, [note]);
        }
        let mut text = self.eraser();
        self.drawn = lines.len();
        for line in lines {
            text.push_str(&line);
            text.push('\n');
        }
        out.bytes(text.as_bytes())
    }

    /// Tells a pipe what it has not been told yet.
    fn tell(&mut self, run: &Run, out: &mut Output) -> Result<(), Failure> {
        let mut lines = vec![format!("{} {}", run.function, run.id)];
        for entry in self.entries() {
            let (glyph, _, detail) = tree::describe(&entry, tree::waiting(run, &entry));
            let at = entry.settled_at.as_ref().map(|at| format!("{at} ")).unwrap_or_default();
            lines.push(format!("{at}{glyph} {}  {detail}", entry.id));
        }
        lines.extend(run.attention.as_ref().map(|a| format!("! {}: {}", a.code, a.detail)));
        if run.ended() {
            let took = run.took().map(tree::duration).unwrap_or_default();
            lines.push(format!("{} {} {took}", run.id, run.status));
        }
        for line in lines {
            let line = plain(&line).replace('\n', " ");
            if self.told.insert(line.clone()) {
                out.line(line.trim_end())?;
            }
        }
        Ok(())
    }

    /// Shows a line of the run's log; other events are hints alone.
    fn log(&mut self, event: &Event, out: &mut Output) -> Result<(), Failure> {
        #[derive(Deserialize)]
        struct Log {
            #[serde(default)]
            level: String,
            message: String,
        }
        if event.name != "log" || out.format() != Format::Table {
            return Ok(());
        }
        let Ok(log) = serde_json::from_str::<Log>(&event.data) else { return Ok(()) };
        let text = plain(&format!("{:5} {}", log.level, log.message)).replace('\n', " ");
        let room = out.screen().map_or(usize::MAX, |(columns, _)| usize::from(columns) - 1);
        let text = format!("{}{}\n", self.eraser(), out.paint(Tone::Faint, &fit(&text, room)));
        self.drawn = 0;
        out.bytes(text.as_bytes())
    }

    /// Settled steps in commit order, then pending ones.
    fn entries(&self) -> Vec<Entry> {
        self.settled.iter().chain(&self.pending).cloned().collect()
    }

    /// Leaves what is on the terminal where it is and draws below it.
    fn forget_lines(&mut self) {
        self.drawn = 0;
    }

    /// Takes the cursor to the first line of the drawing and clears all below it.
    fn eraser(&self) -> String {
        if self.drawn == 0 { String::new() } else { format!("\x1b[{}A\r\x1b[J", self.drawn) }
    }
}
