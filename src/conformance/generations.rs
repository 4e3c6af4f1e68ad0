//! Runs that continue as new.

use serde_json::{Value, json};

use super::Seen;
use super::cases::{ANY, Case, case, ends_with, equal};
use super::modes::Spread;
use super::play::Play;
use crate::protocol::Transport;
use Spread::{All, Plain};

#[rustfmt::skip]
pub(super) const GENERATIONS: [Case; 3] = [
    case!(ANY, All, "continue", "count", ["P3.10", "P3.38", "P2.10"], counted(), count),
    case!(ANY, Plain, "a signal outlives a generation", "count", ["P3.10", "P3.16", "P3.38"], counted(), signalled),
    case!(ANY, All, "a long journal", "chain", ["P2.30"], json!({"from": 1, "to": 12, "sum": 0}), chain),
];

/// How many steps a run of `chain` may have; it is told at a quarter of that.
const STEPS: usize = 20;

fn counted() -> Value {
    json!({"left": 2, "seen": []})
}

/// The generations, and that each begins as it should.
fn generations(p: &Play<'_>) -> Result<Vec<u64>, super::Wrong> {
    let mut seen = vec![];
    for exchange in &p.exchanges {
        let it = &exchange.invocation;
        let generation = it["run"]["generation"].as_u64().unwrap_or_default();
        if seen.last() != Some(&generation) {
            equal("the steps that it begins with", &it["steps"], &json!({}))?;
            equal("why it is invoked", &it["invocation"]["reason"], &json!("start"))?;
            seen.push(generation);
        }
    }
    Ok(seen)
}

async fn count(p: &mut Play<'_>) -> Seen {
    p.go().await?;
    equal("generations", &json!(generations(p)?), &json!([1, 2, 3]))?;
    let id = p.run().id;
    let ticks: Vec<String> = (1..=3).map(|n| format!("{id}.{n}/tick")).collect();
    ends_with(p, &json!(ticks))
}

async fn signalled(p: &mut Play<'_>) -> Seen {
    p.signal_meanwhile("late", &json!(1));
    count(p).await?;
    let last = p.exchanges.last().map(|e| e.invocation["inbox"].clone());
    equal("the last inbox", &last.unwrap_or_default(), &json!({"late": 1}))
}

async fn chain(p: &mut Play<'_>) -> Seen {
    p.limits.steps = STEPS;
    p.go().await?;
    ends_with(p, &json!(78))?;
    let generations = generations(p)?;
    // A stream is told by its invocation alone, and may have said all by then.
    if p.transport() != Transport::Stream && generations.len() < 2 {
        return Err("it was told that its journal is long, and did not continue as new".into());
    }
    Ok(())
}
