//! `stepwell endpoint invocations`: what went over the wire to a handler, and what came back.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::client::{Client, Request, document};
use super::failure::Failure;
use super::output::{Format, Output, plain};
use super::run::print_list;

#[derive(Deserialize)]
struct Recent {
    data: Vec<Box<RawValue>>,
    open: u64,
    invocations: u64,
    failed: u64,
    p50_ms: Option<f64>,
    p95_ms: Option<f64>,
    unreached: u64,
}

#[derive(Deserialize)]
struct Invocation {
    id: String,
    at: String,
    duration_ms: u64,
    run: String,
    function: String,
    step: Option<String>,
    status: Option<u16>,
    outcome: String,
    detail: Option<String>,
}

#[derive(Deserialize)]
struct Whole {
    #[serde(flatten)]
    invocation: Invocation,
    request: Part,
    answer: Option<Part>,
}

#[derive(Deserialize)]
struct Part {
    headers: BTreeMap<String, String>,
    bytes: u64,
    body: Option<String>,
    cut: bool,
}

/// Lists the last invocations of an endpoint.
pub(super) async fn list(endpoint: &str, client: &Client, out: &mut Output) -> Result<(), Failure> {
    let answer = client.send(Request::get(&["endpoints", endpoint, "invocations"])).await?;
    if out.format() == Format::Json {
        return out.json(answer.text()?);
    }
    let recent: Recent = answer.read()?;
    let heads = ["ID", "AT", "MS", "STATUS", "OUTCOME", "RUN", "FUNCTION", "STEP", "WHY"];
    print_list(&recent.data, out, &heads, |item| {
        let i: Invocation = document(item)?;
        Ok(vec![
            i.id,
            i.at,
            i.duration_ms.to_string(),
            status(i.status),
            i.outcome,
            i.run,
            i.function,
            i.step.unwrap_or_else(|| "-".to_owned()),
            i.detail.unwrap_or_default(),
        ])
    })?;
    let ms = |time: Option<f64>| time.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.0} ms"));
    out.note(&format!(
        "In the last hour {} invocations, {} failed; half took at most {}, 95 of 100 at most {}; {} out now.",
        recent.invocations,
        recent.failed,
        ms(recent.p50_ms),
        ms(recent.p95_ms),
        recent.open
    ));
    if recent.unreached > 0 {
        out.note(&format!("{} nodes did not answer: what they sent is missing.", recent.unreached));
    }
    Ok(())
}

/// Shows one with its headers and bodies.
pub(super) async fn show(
    endpoint: &str,
    invocation: &str,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    let path = ["endpoints", endpoint, "invocations", invocation];
    let answer = client.send(Request::get(&path)).await?;
    if out.format().is_json() {
        return out.json(answer.text()?);
    }
    let Whole { invocation: i, request, answer } = answer.read()?;
    if out.format() == Format::Id {
        return out.line(&plain(&i.id));
    }
    let step = i.step.map_or_else(String::new, |step| format!(", step {step}"));
    out.fields(&[
        ("id", i.id),
        ("at", i.at),
        ("took", format!("{} ms", i.duration_ms)),
        ("run", i.run),
        ("function", format!("{}{step}", i.function)),
        ("outcome", i.outcome),
        ("why", i.detail.unwrap_or_else(|| "-".to_owned())),
    ])?;
    part("request", &request, out)?;
    match &answer {
        Some(answer) => part(&format!("answer {}", status(i.status)), answer, out),
        None => out.line("\nno answer, or line by line"),
    }
}

fn part(name: &str, part: &Part, out: &mut Output) -> Result<(), Failure> {
    out.line(&plain(&format!("\n{name}, {} bytes", part.bytes)))?;
    for (name, value) in &part.headers {
        out.line(&plain(&format!("  {name}: {value}")))?;
    }
    let body = match &part.body {
        None => "(not kept)",
        Some(body) => body,
    };
    out.line("")?;
    for line in body.lines() {
        out.line(&plain(&format!("  {line}")))?;
    }
    if part.cut { out.line("  (cut here)") } else { Ok(()) }
}

fn status(status: Option<u16>) -> String {
    status.map_or_else(|| "-".to_owned(), |status| status.to_string())
}
