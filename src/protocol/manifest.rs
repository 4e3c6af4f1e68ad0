//! The manifest by which an endpoint says what it hosts (`docs/protocol.md` section 8), whether it was
//! discovered or written into the registration.

use std::collections::HashSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::VERSION;
use super::flow::{self, Flow};
use super::form::clip;
use super::locks::LockSpec;
use super::names::valid_name;
use super::op::without_place;
use super::subscription::{CancelOn, CronTrigger, Trigger};
use crate::machine::RetrySpec;
use crate::machine::time::duration;

/// What is inlined of a journal where a manifest does not say.
const DEFAULT_INLINE: u64 = 1 << 20;
/// The least that a deployment may ask to be inlined.
const LEAST_INLINE: u64 = 64 << 10;
/// The most that a deployment may ask to be inlined.
const MOST_INLINE: u64 = 64 << 20;
/// The longest manifest, in bytes.
const MAX_BYTES: usize = 4 << 20;
/// The most functions of one endpoint.
const MAX_FUNCTIONS: usize = 10_000;

/// The shortest time for which ended runs are kept.
pub const LEAST_RETENTION: Duration = Duration::from_hours(1);

/// What is wrong with a manifest, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{detail}", at(pointer))]
pub struct BadManifest {
    /// JSON pointer into the manifest, such as `/functions/0/retry/factor`; empty for the whole.
    pub pointer: String,
    /// In words; names the function where it is about one.
    pub detail: String,
}

fn at(pointer: &str) -> String {
    if pointer.is_empty() { String::new() } else { format!("{pointer}: ") }
}

fn bad(pointer: impl Into<String>, detail: impl Into<String>) -> BadManifest {
    BadManifest { pointer: pointer.into(), detail: detail.into() }
}

/// What an endpoint speaks and hosts. Its JSON form is what is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The lowest and the highest version of the protocol that it speaks.
    pub protocol: (u32, u32),
    /// Its SDK, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sdk: Option<String>,
    /// Its author's own version, such as a commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The ways it can be spoken to; `respond` is always one.
    #[serde(default = "respond")]
    pub transports: Vec<Transport>,
    /// Whether it can fetch what is not inlined.
    #[serde(default)]
    pub pages: bool,
    /// How much of a journal is sent inline, in bytes.
    #[serde(default = "default_inline")]
    pub max_inline_bytes: u64,
    /// What it hosts.
    pub functions: Vec<FunctionSpec>,
}

/// A way to carry an invocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// One request, one answer.
    Respond,
    /// The answer comes line by line.
    Stream,
    /// The handler calls the gateway in between.
    Checkpoint,
    /// Lines in both directions.
    Duplex,
}

impl Transport {
    /// The word in manifests and invocations.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Respond => "respond",
            Self::Stream => "stream",
            Self::Checkpoint => "checkpoint",
            Self::Duplex => "duplex",
        }
    }
}

/// Which deployment a run goes on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Versioning {
    /// The newest.
    #[default]
    Latest,
    /// The one of its first invocation.
    Pinned,
}

/// One function of an endpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionSpec {
    /// Its name.
    pub name: String,
    /// `function`, `object` or `plain`; others are refused by [`Manifest::check`].
    #[serde(default = "function")]
    pub kind: String,
    /// Of a plain function: where at the endpoint its input is posted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Of an object: its runs read the state of another function's objects, and wait for nobody.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
    /// Of a shared one: the function whose objects it reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Default of its steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetrySpec>,
    /// For exchanges that fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invocation_retry: Option<RetrySpec>,
    /// For a run-level error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_retry: Option<RetrySpec>,
    /// How long its runs and their exchanges may take.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// How long its ended runs are kept, where the gateway would keep them longer.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "duration::option")]
    pub retention: Option<Duration>,
    /// Which deployment its runs go on with.
    #[serde(default)]
    pub versioning: Versioning,
    /// Whether another `input_hash` for a recorded step is a mismatch.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub strict: bool,
    /// JSON Schema of its input, as it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_schema: Option<Box<RawValue>>,
    /// The names of its tasks, as a JSON list; one that is not listed is not sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<Box<RawValue>>,
    /// How many of its runs may be on their way, as it came ([`FunctionSpec::flow`] reads it).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Box<RawValue>>,
    /// How fast its runs start; the rest waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttle: Option<Box<RawValue>>,
    /// How fast its runs start; the rest is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<Box<RawValue>>,
    /// Which starts are one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debounce: Option<Box<RawValue>>,
    /// Of which runs one stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub singleton: Option<Box<RawValue>>,
    /// Which starts are one run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gather: Option<Box<RawValue>>,
    /// The objects that its runs have to themselves, as it came ([`FunctionSpec::locks`] reads it).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locks: Option<Box<RawValue>>,
    /// What starts it by itself, as it came ([`FunctionSpec::event_triggers`] and
    /// [`FunctionSpec::cron_triggers`] read it).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub triggers: Option<Box<RawValue>>,
    /// What cancels its runs, as it came ([`FunctionSpec::cancel_on`] reads it).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel_on: Option<Box<RawValue>>,
}

/// Limits of time of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// How long a run may wait for its first invocation.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "duration::option")]
    pub start: Option<Duration>,
    /// How long a run may take in all.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "duration::option")]
    pub run: Option<Duration>,
    /// The longest silence of an exchange.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "duration::option")]
    pub invocation: Option<Duration>,
}

fn respond() -> Vec<Transport> {
    vec![Transport::Respond]
}

const fn default_inline() -> u64 {
    DEFAULT_INLINE
}

fn function() -> String {
    "function".to_owned()
}

/// The manifest with its functions unread, so that an error can say which function it is in.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object with `protocol` and `functions`")]
struct Outer {
    protocol: (u32, u32),
    sdk: Option<String>,
    version: Option<String>,
    transports: Option<Vec<Transport>>,
    pages: Option<bool>,
    max_inline_bytes: Option<u64>,
    functions: Vec<Box<RawValue>>,
}

impl Manifest {
    /// Reads and checks what an endpoint answered to `discover`.
    pub fn parse(body: &[u8]) -> Result<Self, BadManifest> {
        if body.len() > MAX_BYTES {
            return Err(bad("", format!("the manifest is over the limit of {MAX_BYTES} bytes")));
        }
        let outer: Outer = serde_json::from_slice(body)
            .map_err(|e| bad("", format!("not a manifest: {}", clip(&e.to_string()))))?;
        let functions = outer
            .functions
            .iter()
            .enumerate()
            .map(|(index, raw)| FunctionSpec::parse(index, raw))
            .collect::<Result<_, _>>()?;
        let manifest = Self {
            protocol: outer.protocol,
            sdk: outer.sdk,
            version: outer.version,
            transports: outer.transports.unwrap_or_else(respond),
            pages: outer.pages.unwrap_or_default(),
            max_inline_bytes: outer.max_inline_bytes.unwrap_or(DEFAULT_INLINE),
            functions,
        };
        manifest.check()?;
        Ok(manifest)
    }

    /// The manifest of an endpoint whose functions were listed in its registration.
    #[must_use]
    pub fn listed(functions: Vec<FunctionSpec>) -> Self {
        Self {
            protocol: (VERSION, VERSION),
            sdk: None,
            version: None,
            transports: respond(),
            pages: false,
            max_inline_bytes: DEFAULT_INLINE,
            functions,
        }
    }

    /// Whether this gateway can work with it. [`Manifest::parse`] has asked this already.
    pub fn check(&self) -> Result<(), BadManifest> {
        let (low, high) = self.protocol;
        if low > high {
            return Err(bad("/protocol", format!("{low} to {high} is not a range")));
        }
        if !(low..=high).contains(&VERSION) {
            let detail = format!(
                "the endpoint speaks versions {low} to {high} of the protocol, this gateway {VERSION}"
            );
            return Err(bad("/protocol", detail));
        }
        if !(LEAST_INLINE..=MOST_INLINE).contains(&self.max_inline_bytes) {
            let detail = format!("must be between {LEAST_INLINE} and {MOST_INLINE}");
            return Err(bad("/max_inline_bytes", detail));
        }
        if self.functions.is_empty() {
            return Err(bad("/functions", "an endpoint needs at least one function"));
        }
        if self.functions.len() > MAX_FUNCTIONS {
            return Err(bad("/functions", format!("more than {MAX_FUNCTIONS} functions")));
        }
        let mut names = HashSet::new();
        for (index, function) in self.functions.iter().enumerate() {
            function.check(index)?;
            if !names.insert(function.name.as_str()) {
                let detail = format!("function {:?} is there twice", function.name);
                return Err(bad(format!("/functions/{index}/name"), detail));
            }
        }
        Ok(())
    }

    /// The function of this name.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<&FunctionSpec> {
        self.functions.iter().find(|f| f.name == name)
    }

    /// What two registrations with the same content have in common: SHA-256 of the manifest with
    /// its defaults filled in, whatever the order of its fields, functions and transports.
    #[must_use]
    pub fn content_hash(&self) -> [u8; 32] {
        let mut sorted = self.clone();
        sorted.functions.sort_by(|a, b| a.name.cmp(&b.name));
        sorted.transports.push(Transport::Respond);
        sorted.transports.sort_unstable();
        sorted.transports.dedup();
        let value = serde_json::to_value(&sorted).expect("strings, numbers and raw JSON");
        let mut text = String::new();
        canonical(&value, &mut text);
        Sha256::digest(text.as_bytes()).into()
    }
}

/// The names in a list of tasks, if it is one. 0.1.0 kept whatever was there.
fn task_names(raw: &RawValue) -> Option<Vec<String>> {
    serde_json::from_str(raw.get()).ok()
}

/// JSON with the fields of every object in order. The depth is bounded by serde's own reader.
fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            out.push('{');
            for (name, value) in fields {
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push(':');
                canonical(value, out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for item in items {
                canonical(item, out);
                out.push(',');
            }
            out.push(']');
        }
        plain => out.push_str(&plain.to_string()),
    }
}

impl FunctionSpec {
    /// A function of this name, with the default of everything.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            kind: function(),
            path: None,
            shared: false,
            object: None,
            retry: None,
            invocation_retry: None,
            run_retry: None,
            timeouts: Timeouts::default(),
            retention: None,
            versioning: Versioning::Latest,
            strict: false,
            input_schema: None,
            tasks: None,
            concurrency: None,
            throttle: None,
            rate_limit: None,
            debounce: None,
            singleton: None,
            gather: None,
            locks: None,
            triggers: None,
            cancel_on: None,
        }
    }

    /// Reads and checks one entry of a list of functions. `index` is for the error.
    pub fn parse(index: usize, raw: &RawValue) -> Result<Self, BadManifest> {
        let spec: Self = serde_json::from_str(raw.get()).map_err(|e| {
            #[derive(Deserialize)]
            struct Name {
                name: String,
            }
            let name = serde_json::from_str::<Name>(raw.get()).ok();
            let named =
                name.map_or_else(String::new, |n| format!("function {:?}: ", clip(&n.name)));
            let said = without_place(&e);
            bad(format!("/functions/{index}"), format!("{named}{}", said.replace('\n', " ")))
        })?;
        spec.check(index)?;
        Ok(spec)
    }

    /// The events that start it. The error says what is wrong with its `triggers`.
    pub fn event_triggers(&self) -> Result<Vec<Trigger>, String> {
        self.triggers.as_deref().map_or_else(|| Ok(Vec::new()), Trigger::parse_all)
    }

    /// The times that start it. The error says what is wrong with its `triggers`.
    pub fn cron_triggers(&self) -> Result<Vec<CronTrigger>, String> {
        self.triggers.as_deref().map_or_else(|| Ok(Vec::new()), CronTrigger::parse_all)
    }

    /// The events that cancel its runs. The error says what is wrong with its `cancel_on`.
    pub fn cancel_on(&self) -> Result<Vec<CancelOn>, String> {
        self.cancel_on.as_deref().map_or_else(|| Ok(Vec::new()), CancelOn::parse_all)
    }

    /// The objects that its runs have to themselves. The error says what is wrong with its `locks`.
    pub fn locks(&self) -> Result<Vec<LockSpec>, String> {
        self.locks.as_deref().map_or_else(|| Ok(Vec::new()), LockSpec::parse_all)
    }

    /// What it says about its flow. The error names the field and says what is wrong with it.
    pub fn flow(&self) -> Result<Flow, (&'static str, String)> {
        Flow::read(flow::Given {
            concurrency: self.concurrency.as_deref(),
            throttle: self.throttle.as_deref(),
            rate_limit: self.rate_limit.as_deref(),
            debounce: self.debounce.as_deref(),
            singleton: self.singleton.as_deref(),
            gather: self.gather.as_deref(),
        })
    }

    /// Whether the function has this task, as far as it says: one that lists none may have any.
    #[must_use]
    pub fn may_have_task(&self, name: &str) -> bool {
        let listed = self.tasks.as_ref().and_then(|raw| task_names(raw));
        listed.is_none_or(|names| names.iter().any(|n| n == name))
    }

    fn check(&self, index: usize) -> Result<(), BadManifest> {
        let place = |field: &str| format!("/functions/{index}/{field}");
        valid_name(&self.name).map_err(|e| bad(place("name"), e))?;
        let named = |detail: &str| format!("function {:?}: {detail}", self.name);
        self.check_kind().map_err(|(field, e)| bad(place(field), named(&e)))?;
        for (field, retry) in [
            ("retry", &self.retry),
            ("invocation_retry", &self.invocation_retry),
            ("run_retry", &self.run_retry),
        ] {
            if let Some(Err((part, why))) = retry.as_ref().map(RetrySpec::check) {
                return Err(bad(
                    place(&format!("{field}/{part}")),
                    named(&format!("{part} {why}")),
                ));
            }
        }
        for (field, length) in [
            ("start", self.timeouts.start),
            ("run", self.timeouts.run),
            ("invocation", self.timeouts.invocation),
        ] {
            if length.is_some_and(|d| d < Duration::from_millis(1)) {
                let detail = named("a time-out must be at least a millisecond");
                return Err(bad(place(&format!("timeouts/{field}")), detail));
            }
        }
        if self.retention.is_some_and(|d| d < LEAST_RETENTION) {
            return Err(bad(place("retention"), named("ended runs are kept for an hour at least")));
        }
        // JSON's grammar allows what no reader can hold: half a surrogate pair, 1e999, any depth.
        for (field, raw) in [
            ("input_schema", &self.input_schema),
            ("tasks", &self.tasks),
            ("concurrency", &self.concurrency),
            ("throttle", &self.throttle),
            ("rate_limit", &self.rate_limit),
            ("debounce", &self.debounce),
            ("singleton", &self.singleton),
            ("gather", &self.gather),
            ("locks", &self.locks),
            ("triggers", &self.triggers),
            ("cancel_on", &self.cancel_on),
        ] {
            let read = raw.as_ref().map(|raw| serde_json::from_str::<Value>(raw.get()));
            if let Some(Err(e)) = read {
                return Err(bad(place(field), named(&without_place(&e))));
            }
        }
        if let Some(raw) = &self.tasks {
            let names = task_names(raw).filter(|all| all.iter().all(|n| valid_name(n).is_ok()));
            if names.is_none() {
                return Err(bad(place("tasks"), named("`tasks` is a list of names")));
            }
        }
        self.event_triggers().map_err(|e| bad(place("triggers"), named(&e)))?;
        self.cron_triggers().map_err(|e| bad(place("triggers"), named(&e)))?;
        self.cancel_on()
            .map_err(|e| bad(place("cancel_on"), named(&format!("`cancel_on` {e}"))))?;
        self.locks().map_err(|e| bad(place("locks"), named(&format!("`locks`: {e}"))))?;
        self.flow().map_err(|(field, e)| bad(place(field), named(&format!("`{field}`: {e}"))))?;
        if self.gather.is_some() && self.cancel_on.is_some() {
            let detail = "`cancel_on`: not beside `gather`: its run has the inputs of many starts";
            return Err(bad(place("cancel_on"), named(detail)));
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
