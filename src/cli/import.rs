//! `stepwell run import`: runs that ended elsewhere, from exports and archives.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use clap::Args;
use serde_json::value::RawValue;

use super::client::{Client, Request};
use super::failure::Failure;
use super::model::Run;
use super::output::{Format, Output, plain};

/// `stepwell run import`.
#[derive(Debug, Clone, Args)]
pub struct RunImport {
    /// Documents of exports, or files of an archive with one a line; `-` for standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
}

/// What was done so far.
#[derive(Default)]
struct Told {
    rows: Vec<Vec<String>>,
    answers: Vec<Box<RawValue>>,
    refused: usize,
}

/// Imports what the files say. A document that is refused is told, and does not keep the others.
pub(super) async fn execute(
    import: RunImport,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    let mut told = Told::default();
    for file in &import.files {
        let unreadable = |e: std::io::Error| Failure::Usage(format!("cannot read {file}: {e}"));
        let reader: Box<dyn BufRead> = if file == "-" {
            Box::new(BufReader::new(std::io::stdin()))
        } else {
            Box::new(BufReader::new(File::open(file).map_err(unreadable)?))
        };
        from(file, reader, client, &mut told).await?;
    }
    let Told { rows, answers, refused } = told;
    match out.format() {
        Format::Json => {
            let texts: Vec<&str> = answers.iter().map(|item| item.get()).collect();
            out.json(&format!("[{}]", texts.join(",")))?;
        }
        Format::Jsonl => answers.iter().try_for_each(|item| out.json(item.get()))?,
        Format::Id => (rows.iter().filter(|row| row[1] != "-"))
            .try_for_each(|row| out.line(&plain(&row[1])))?,
        Format::Table => out.table(&["FROM", "RUN", "STATUS", ""], &rows)?,
    }
    if refused == 0 {
        return Ok(());
    }
    let all = rows.len();
    Err(Failure::Unexpected(format!("{refused} of {all} runs were refused; the others were not")))
}

/// One document over several lines, or one a line: a line that is a document by itself decides.
async fn from(
    file: &str,
    mut reader: Box<dyn BufRead>,
    client: &Client,
    told: &mut Told,
) -> Result<(), Failure> {
    let unreadable = |e: std::io::Error| Failure::Usage(format!("cannot read {file}: {e}"));
    let (mut text, mut n) = (String::new(), 0_usize);
    let mut by_line = Path::new(file).extension().is_some_and(|e| e == "jsonl");
    loop {
        let begun = text.len();
        let more = reader.read_line(&mut text).map_err(unreadable)? > 0;
        n += usize::from(more);
        let line = text[begun..].trim();
        if !more {
            if !text.trim().is_empty() {
                one(file, text.trim(), client, told).await?;
            }
            return Ok(());
        }
        by_line |= begun == 0 && line.starts_with('{') && line.ends_with('}');
        if by_line || line.is_empty() {
            let line = line.to_owned();
            text.clear();
            if !line.is_empty() {
                one(&format!("{file}:{n}"), &line, client, told).await?;
            }
        }
    }
}

async fn one(from: &str, text: &str, client: &Client, told: &mut Told) -> Result<(), Failure> {
    let mut refuse = |why: String| {
        told.refused += 1;
        told.rows.push(vec![from.to_owned(), "-".to_owned(), "refused".to_owned(), why]);
    };
    let document = match serde_json::from_str::<&RawValue>(text) {
        Ok(document) => document,
        Err(error) => {
            refuse(format!("it is not JSON, as where a crash cut it off: {error}"));
            return Ok(());
        }
    };
    match client.send(Request::post(&["runs", "import"], &document)).await {
        Ok(answer) => {
            let run: Run = answer.read()?;
            let how = if answer.status == 201 { "imported" } else { "was here already" };
            told.rows.push(vec![from.to_owned(), run.id, run.status, how.to_owned()]);
            told.answers.push(answer.read()?);
            Ok(())
        }
        Err(Failure::Problem(problem)) if matches!(problem.status, 400 | 413 | 422) => {
            let more = problem.errors.len().saturating_sub(1);
            let first = problem.errors.first().map(|f| format!("{}: {}", f.pointer, f.detail));
            let why = first.or(problem.detail).unwrap_or(problem.title);
            refuse(if more == 0 { why } else { format!("{why} (and {more} more)") });
            Ok(())
        }
        Err(failure) => Err(failure),
    }
}
