//! A run's steps as a tree: `map/3/resize` stands below `map` and `3`.

use std::time::Duration;

use super::model::{Entry, Run, WaitingFor, cell, error_line};
use super::output::{Output, Tone, fit, plain};

/// One line, before it is fitted to a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// Branches of the tree.
    branch: String,
    /// What happened to the step, in one character.
    glyph: &'static str,
    tone: Tone,
    name: String,
    detail: String,
}

#[derive(Default)]
struct Node<'a> {
    name: &'a str,
    entry: Option<&'a Entry>,
    children: Vec<Node<'a>>,
}

/// The whole picture: the run, what holds it up, its steps.
pub(super) fn draw(run: &Run, entries: &[Entry], out: &Output) -> Vec<String> {
    let mut lines = vec![head(run, out)];
    if let Some(attention) = &run.attention {
        let mut text = format!("{}: {}", attention.code, attention.detail);
        if let (Some(expected), Some(got)) = (&attention.expected, &attention.got) {
            text = format!("{text} (expected {expected}, got {got})");
        }
        if let Some(next) = &attention.next_attempt_at {
            text = format!("{text}; next attempt {next}");
        }
        lines.push(painted(out, Tone::Warn, "! ", &text));
    }
    let steps = tree(run, entries);
    let width = steps.iter().map(|line| line.branch.chars().count() + line.name.chars().count());
    let width = width.max().unwrap_or(0).min(48);
    for line in &steps {
        lines.push(line.render(width, out));
    }
    if let Some(error) = &run.error {
        lines.push(painted(out, Tone::Bad, "error ", &error_line(error)));
    }
    if let Some(output) = &run.output {
        lines.push(painted(out, Tone::Good, "output ", &cell(output)));
    }
    lines
}

fn painted(out: &Output, tone: Tone, head: &str, text: &str) -> String {
    let text = plain(text).replace('\n', " ");
    let room = out.screen().map_or(usize::MAX, |(columns, _)| usize::from(columns) - 1);
    format!("{}{}", out.paint(tone, head), fit(&text, room.saturating_sub(head.len())))
}

fn head(run: &Run, out: &Output) -> String {
    let tone = match run.status.as_str() {
        "completed" => Tone::Good,
        "failed" | "timed_out" | "terminated" | "cancelled" => Tone::Bad,
        "retrying" | "parked" | "paused" => Tone::Warn,
        _ => Tone::Faint,
    };
    let took = run.took().map(|took| format!("  {}", duration(took))).unwrap_or_default();
    let counts = match run.invocations {
        1 => "1 invocation".to_owned(),
        n => format!("{n} invocations"),
    };
    let status = out.paint(tone, &plain(&run.status));
    format!("{}  {}  {status}  {counts}{took}", plain(&run.function), plain(&run.id))
}

/// The steps in the order of their first appearance, scopes before what is in them.
pub(super) fn tree(run: &Run, entries: &[Entry]) -> Vec<Line> {
    let mut root = Node::default();
    for entry in entries {
        let mut node = &mut root;
        for name in entry.id.split('/') {
            let at = node.children.iter().position(|child| child.name == name);
            let at = at.unwrap_or_else(|| {
                node.children.push(Node { name, ..Node::default() });
                node.children.len() - 1
            });
            node = &mut node.children[at];
        }
        node.entry = Some(entry);
    }
    let mut lines = Vec::with_capacity(entries.len());
    grow(run, &root.children, "", &mut lines);
    lines
}

fn grow(run: &Run, nodes: &[Node<'_>], branch: &str, lines: &mut Vec<Line>) {
    for (i, node) in nodes.iter().enumerate() {
        let last = i + 1 == nodes.len();
        let (arm, below) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        let branch_here = format!("{branch}{arm}");
        lines.push(match node.entry {
            Some(entry) => step(run, entry, branch_here, node.name),
            None => Line {
                branch: branch_here,
                glyph: " ",
                tone: Tone::Faint,
                name: format!("{}/", node.name),
                detail: String::new(),
            },
        });
        grow(run, &node.children, &format!("{branch}{below}"), lines);
    }
}

fn step(run: &Run, entry: &Entry, branch: String, name: &str) -> Line {
    let (glyph, tone, detail) = describe(entry, waiting(run, entry));
    Line { branch, glyph, tone, name: name.to_owned(), detail }
}

/// What the run says about a pending step.
pub(super) fn waiting<'a>(run: &'a Run, entry: &Entry) -> Option<&'a WaitingFor> {
    run.waiting_for.iter().find(|waiting| waiting.step == entry.id)
}

/// A step in a glyph, a tone and words.
pub(super) fn describe(
    entry: &Entry,
    waiting: Option<&WaitingFor>,
) -> (&'static str, Tone, String) {
    let mut words = vec![entry.op.clone()];
    if entry.seq.is_some() {
        words.extend(entry.ms.filter(|ms| *ms > 0).map(|ms| duration(Duration::from_millis(ms))));
        words.extend(entry.attempts.filter(|n| *n > 1).map(|n| format!("{n} attempts")));
        if let Some(error) = &entry.error {
            words.push(error_line(error));
            return ("✗", Tone::Bad, words.join("  "));
        }
        return ("✓", Tone::Good, words.join("  "));
    }
    if let Some(error) = &entry.last_error {
        let attempt = entry.attempts.unwrap_or(1);
        words.push(format!("attempt {attempt} failed: {}", error_line(error)));
        words.extend(entry.next_attempt_at.as_ref().map(|at| format!("next {at}")));
        return ("↻", Tone::Warn, words.join("  "));
    }
    if let Some(waiting) = waiting {
        words.extend(waiting.name.as_ref().map(|name| format!("`{name}`")));
        words.extend(waiting.until.as_ref().map(|until| format!("until {until}")));
    } else {
        words.push("pending".to_owned());
    }
    ("•", Tone::Faint, words.join("  "))
}

impl Line {
    fn render(&self, width: usize, out: &Output) -> String {
        let used = self.branch.chars().count() + self.name.chars().count();
        let pad = " ".repeat(width.saturating_sub(used));
        let text = format!("{}{pad}  {}", plain(&self.name), plain(&self.detail));
        let text = text.replace('\n', " ");
        let room = out.screen().map_or(usize::MAX, |(columns, _)| usize::from(columns) - 1);
        let text = fit(text.trim_end(), room.saturating_sub(self.branch.chars().count() + 2));
        format!("{}{} {text}", self.branch, out.paint(self.tone, self.glyph))
    }
}

/// A duration for people: `120 ms`, `3.4 s`, `2 min 5 s`, `3 h 20 min`, `2 d 4 h`.
pub(super) fn duration(d: Duration) -> String {
    let secs = d.as_secs();
    match secs {
        0 => format!("{} ms", d.as_millis()),
        1..=59 => format!("{:.1} s", d.as_secs_f64()),
        60..=3_599 => format!("{} min {} s", secs / 60, secs % 60),
        3_600..=86_399 => format!("{} h {} min", secs / 3_600, secs % 3_600 / 60),
        _ => format!("{} d {} h", secs / 86_400, secs % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::super::output::Format;
    use super::*;

    #[test]
    fn steps_stand_in_their_scopes() {
        let run: Run = serde_json::from_str(
            r#"{"id": "run_1", "function": "checkout", "status": "retrying", "invocations": 2,
                "created_at": "2026-11-23T09:00:00.000Z",
                "attention": {"code": "endpoint-unhealthy", "detail": "connection refused"},
                "waiting_for": [{"step": "approval", "op": "signal", "name": "approved"}]}"#,
        )
        .unwrap();
        let entries: Vec<Entry> = serde_json::from_str(
            r#"[{"seq": 1, "id": "charge", "op": "run", "value": 1, "ms": 120},
                {"seq": 2, "id": "map/1/resize", "op": "run", "value": 1, "attempts": 3},
                {"seq": 3, "id": "map/2/resize", "op": "run", "error": {"type": "E", "message": "no\u001b[2J"}},
                {"id": "pack", "op": "run", "attempts": 2, "last_error": {"type": "Box", "message": "torn"},
                 "next_attempt_at": "2026-11-23T09:00:05.000Z"},
                {"id": "approval", "op": "signal"}]"#,
        )
        .unwrap();
        let out = Output::into_buffers(Format::Table, std::io::sink(), std::io::sink());
        let drawn = draw(&run, &entries, &out).join("\n");
        let expected = "\
checkout  run_1  retrying  2 invocations
! endpoint-unhealthy: connection refused
├─ ✓ charge        run  120 ms
├─   map/
│  ├─   1/
│  │  └─ ✓ resize  run  3 attempts
│  └─   2/
│     └─ ✗ resize  run  E: no\\u{1b}[2J
├─ ↻ pack          run  attempt 2 failed: Box: torn  next 2026-11-23T09:00:05.000Z
└─ • approval      signal  `approved`";
        assert_eq!(drawn, expected);
    }

    #[test]
    fn durations_for_people() {
        for (millis, text) in [
            (120, "120 ms"),
            (3_400, "3.4 s"),
            (125_000, "2 min 5 s"),
            (12_000_000, "3 h 20 min"),
            (187_200_000, "2 d 4 h"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
    }
}
