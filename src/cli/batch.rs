//! `stepwell run start --batch`: starts that stand in a file, one a line.

use std::io::Read as _;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::client::{Client, Request, document};
use super::failure::{Failure, Problem};
use super::output::{Format, Output, plain};
use crate::engine::MOST_STARTS;

/// Bytes of the starts of one request; the gateway takes 16 MiB.
const MOST_BYTES: usize = 15 << 20;

#[derive(Deserialize)]
struct Answer {
    data: Vec<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Item {
    run: Option<Named>,
    problem: Option<Problem>,
}

#[derive(Deserialize)]
struct Named {
    id: String,
    status: String,
}

/// The lines of a file, or of standard input for `-`, with their numbers; each is JSON.
fn lines(file: &str) -> Result<Vec<(usize, Box<RawValue>)>, Failure> {
    let (text, from) = if file == "-" {
        let mut text = String::new();
        (std::io::stdin().read_to_string(&mut text).map(|_| text), "standard input")
    } else {
        (std::fs::read_to_string(file), file)
    };
    let text = text.map_err(|e| Failure::Usage(format!("cannot read {from}: {e}")))?;
    let numbered = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    numbered
        .map(|(n, line)| {
            let raw = RawValue::from_string(line.to_owned());
            raw.map(|raw| (n, raw))
                .map_err(|e| Failure::Usage(format!("line {n} of {from} is not JSON: {e}")))
        })
        .collect()
}

/// As many lines to a request as it takes.
fn requests(lines: Vec<(usize, Box<RawValue>)>) -> Vec<Vec<(usize, Box<RawValue>)>> {
    let mut all: Vec<Vec<_>> = Vec::new();
    let mut bytes = 0;
    for (n, line) in lines {
        bytes += line.get().len() + 1;
        match all.last_mut() {
            Some(last) if last.len() < MOST_STARTS && bytes <= MOST_BYTES => last.push((n, line)),
            _ => {
                bytes = line.get().len() + 1;
                all.push(vec![(n, line)]);
            }
        }
    }
    all
}

/// Starts what the file says. A line that is refused is told, and does not keep the others.
pub(super) async fn start(
    file: &str,
    idempotency_key: Option<&str>,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Body<'a> {
        runs: Vec<&'a RawValue>,
    }
    let (mut rows, mut items, mut refused) = (Vec::new(), Vec::new(), 0_usize);
    for (i, lines) in requests(lines(file)?).into_iter().enumerate() {
        // The same file gives the same requests.
        let key = idempotency_key.map(|key| format!("{key}.{i}"));
        let body = Body { runs: lines.iter().map(|(_, line)| &**line).collect() };
        let request =
            Request { idempotency_key: key.as_deref(), ..Request::post(&["runs", "batch"], &body) };
        let answer: Answer = client.send(request).await?.read()?;
        for ((n, _), raw) in lines.iter().zip(answer.data) {
            let item: Item = document(raw.get())?;
            rows.push(match (item.run, item.problem) {
                (Some(run), _) => vec![n.to_string(), run.id, run.status],
                (None, problem) => {
                    refused += 1;
                    let problem = problem.unwrap_or_default();
                    let why = problem.detail.unwrap_or_default();
                    vec![n.to_string(), "-".to_owned(), format!("{}: {why}", problem.code)]
                }
            });
            items.push(raw);
        }
    }
    match out.format() {
        Format::Json => {
            let texts: Vec<&str> = items.iter().map(|item| item.get()).collect();
            out.json(&format!("[{}]", texts.join(",")))?;
        }
        Format::Jsonl => items.iter().try_for_each(|item| out.json(item.get()))?,
        Format::Id => (rows.iter().filter(|row| row[1] != "-"))
            .try_for_each(|row| out.line(&plain(&row[1])))?,
        Format::Table => out.table(&["LINE", "RUN", "STATUS"], &rows)?,
    }
    if refused == 0 {
        return Ok(());
    }
    let all = rows.len();
    Err(Failure::Unexpected(format!("{refused} of {all} starts were refused; the others were not")))
}
