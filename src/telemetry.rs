//! How a node tells about itself: logs, metrics, and traces where a collector is named.

mod otlp;
pub mod series;

use std::io::IsTerminal as _;
use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use series::RUN_SECONDS;

pub use otlp::{Context, Span, install_traces, span};

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Upper bounds of times, in seconds.
const SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];
/// Upper bounds of how long runs take, in seconds: to a month.
const LONG_SECONDS: [f64; 12] = [
    0.01,
    0.1,
    1.0,
    10.0,
    60.0,
    600.0,
    3_600.0,
    21_600.0,
    86_400.0,
    259_200.0,
    604_800.0,
    2_592_000.0,
];
/// Upper bounds of counts.
const COUNTS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];
/// How often samples are gathered although nobody reads them.
const UPKEEP: Duration = Duration::from_secs(5);

static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();

/// Begins to write logs to standard error. `filter` is such as `info,stepwell=debug`. False if it
/// cannot be read, or if logs are written already.
pub fn install_logs(format: LogFormat, filter: &str) -> bool {
    let Ok(filter) = EnvFilter::try_new(filter) else { return false };
    // Colours are for people; a file or a collector gets plain text.
    let colours = std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours && std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let installed = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    installed.is_ok()
}

/// Begins to gather metrics, once for the process; further calls give the same handle.
pub fn install_metrics() -> &'static PrometheusHandle {
    METRICS.get_or_init(|| {
        let recorder = PrometheusBuilder::new()
            .set_buckets(&SECONDS)
            .and_then(|b| {
                b.set_buckets_for_metric(Matcher::Full(RUN_SECONDS.into()), &LONG_SECONDS)
            })
            .and_then(|b| {
                b.set_buckets_for_metric(Matcher::Prefix("stepwell_lane_batch".into()), &COUNTS)
            })
            .expect("the lists of bounds are not empty")
            .build_recorder();
        let handle = recorder.handle();
        // Another recorder can only be a test's; then there is nothing to show.
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("metrics go to another recorder of this process");
        }
        let upkeep = handle.clone();
        let spawned = std::thread::Builder::new().name("metrics".to_owned()).spawn(move || {
            loop {
                std::thread::sleep(UPKEEP);
                upkeep.run_upkeep();
            }
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "metrics are gathered only when they are read");
        }
        handle
    })
}

/// The upper bounds of a histogram's buckets, in seconds.
#[must_use]
pub fn bounds(name: &str) -> &'static [f64] {
    if name == RUN_SECONDS { &LONG_SECONDS } else { &SECONDS }
}

/// The metrics as Prometheus text; empty if none are gathered.
#[must_use]
pub fn metrics() -> String {
    METRICS.get().map(PrometheusHandle::render).unwrap_or_default()
}
