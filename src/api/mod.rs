//! Floor 3: HTTP from customers. Every route is in [`routes`], and so in the description.

mod acts;
mod audit;
mod auth;
mod batch;
mod bulk;
mod catalogue;
mod checkpoint;
mod demo;
mod deployments;
mod edge;
mod endpoint_request;
mod endpoint_shapes;
mod endpoints;
mod erase;
mod errors;
mod events;
mod fields;
mod forward;
mod functions;
mod gateway;
mod import;
mod invocations;
mod journal;
mod keys;
mod limits;
mod namespaces;
mod node;
mod objects;
mod openapi;
mod operator;
mod page;
mod pages;
mod poll;
mod problem;
mod queries;
mod rates;
mod request;
mod run_filter;
mod runs;
mod schedule_request;
mod schedule_shapes;
mod schedules;
mod secrets;
mod series;
mod serve;
mod shapes;
mod signals;
mod start;
mod stream;
#[cfg(test)]
mod tests;
mod updates;
mod webhook_shapes;
mod webhooks;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use catalogue::{Code, Retry};
pub use demo::Demo;
pub use problem::Problem;
pub use rates::RateLimits;
pub use serve::serve;

use crate::engine::{Caller, Engine, Error, Namespace, RunView};
use crate::machine::RunId;

/// What every call can reach.
#[derive(Clone)]
pub struct ApiState {
    engine: Engine,
    local: Option<Caller>,
    demo: Option<Demo>,
    open_metrics: bool,
    audited: bool,
    shutdown: CancellationToken,
    nodes: forward::Nodes,
    rates: Arc<rates::Rates>,
    reference: Arc<openapi::Reference>,
}

impl ApiState {
    /// The state of an API over an engine; waits and streams end when `shutdown` is cancelled.
    /// Every call needs an API key, but for `/metrics`.
    #[must_use]
    pub fn new(engine: Engine, shutdown: CancellationToken) -> Self {
        engine.archive_as(runs::archived);
        Self {
            engine,
            local: None,
            demo: None,
            open_metrics: true,
            audited: true,
            shutdown,
            nodes: forward::Nodes::new(),
            rates: Arc::new(rates::Rates::new(RateLimits::default())),
            reference: Arc::new(openapi::Reference::of(&description())),
        }
    }

    /// Lets who is on this machine and sends no key act as `caller`. For development only.
    #[must_use]
    pub fn without_keys_on_loopback(mut self, caller: Caller) -> Self {
        self.local = Some(caller);
        self
    }

    /// Offers a demo that is served beside the API.
    #[must_use]
    pub fn with_demo(mut self, demo: Demo) -> Self {
        self.demo = Some(demo);
        self
    }

    /// Asks for an API key with `admin` at `/metrics` too.
    #[must_use]
    pub fn with_closed_metrics(mut self) -> Self {
        self.open_metrics = false;
        self
    }

    /// Refuses those who send more requests than this.
    #[must_use]
    pub fn with_rate_limits(mut self, limits: RateLimits) -> Self {
        self.rates = Arc::new(rates::Rates::new(limits));
        self
    }

    /// A run when it has ended, the time is up, or the server is to stop.
    async fn wait_end(
        &self,
        ns: &Namespace,
        run: RunId,
        at_most: Duration,
    ) -> Result<RunView, Error> {
        tokio::select! {
            ended = self.engine.wait_end(ns, run, at_most) => ended,
            () = self.shutdown.cancelled() => self.engine.view(ns, run).await,
        }
    }
}

/// Every route there is.
fn routes() -> (OpenApiRouter<ApiState>, OpenApiRouter<ApiState>) {
    let calls = OpenApiRouter::default()
        .routes(routes!(start::start_run))
        .routes(routes!(batch::start_runs))
        .routes(routes!(import::import_run))
        .routes(routes!(runs::list_runs))
        .routes(routes!(runs::get_run, runs::delete_run))
        .routes(routes!(runs::get_result))
        .routes(routes!(runs::export_run))
        .routes(routes!(journal::get_journal))
        .routes(routes!(journal::get_step))
        .routes(routes!(journal::get_value))
        .routes(routes!(journal::get_history))
        .routes(routes!(journal::get_logs))
        .routes(routes!(journal::get_output))
        .routes(routes!(stream::stream_run))
        .routes(routes!(acts::cancel_run))
        .routes(routes!(acts::terminate_run))
        .routes(routes!(acts::pause_run))
        .routes(routes!(acts::resume_run))
        .routes(routes!(acts::retry_run_now))
        .routes(routes!(erase::erase_run))
        .routes(routes!(deployments::repin_run))
        .routes(routes!(operator::rewind_run))
        .routes(routes!(operator::rerun_run))
        .routes(routes!(operator::replay_run))
        // A step's id may have slashes: what is done with it is the last part of the path.
        .route("/v1/runs/{id}/steps/{*step}", axum::routing::post(operator::act_on_step))
        .routes(routes!(bulk::list_bulks, bulk::begin_bulk))
        .routes(routes!(bulk::get_bulk))
        .routes(routes!(bulk::abort_bulk))
        .routes(routes!(errors::list_errors))
        .routes(routes!(errors::get_error))
        .routes(routes!(errors::resolve_error))
        .routes(routes!(errors::ignore_error))
        .routes(routes!(errors::reopen_error))
        .routes(routes!(signals::list_signals))
        .routes(routes!(signals::send_signal))
        .routes(routes!(signals::send_signal_to_key))
        .routes(routes!(signals::settle_callback))
        .routes(routes!(queries::query_run))
        .routes(routes!(updates::send_update, updates::get_update))
        .routes(routes!(checkpoint::checkpoint))
        .routes(routes!(endpoints::list_endpoints, endpoints::register_endpoint))
        .routes(routes!(
            endpoints::get_endpoint,
            endpoints::patch_endpoint,
            endpoints::delete_endpoint
        ))
        .routes(routes!(deployments::list_deployments))
        .routes(routes!(deployments::repin_runs))
        .routes(routes!(deployments::drain_endpoint))
        .routes(routes!(deployments::prune_endpoint))
        .routes(routes!(endpoints::endpoint_health))
        .routes(routes!(invocations::list_invocations))
        .routes(routes!(invocations::get_invocation))
        .routes(routes!(endpoints::sync_endpoint))
        .routes(routes!(endpoints::disable_endpoint))
        .routes(routes!(endpoints::enable_endpoint))
        .routes(routes!(endpoints::rotate_secret))
        .routes(routes!(endpoints::probe_endpoint))
        .routes(routes!(poll::poll_endpoint))
        .routes(routes!(poll::answer_invocation))
        .routes(routes!(demo::get_demo, demo::start_demo))
        .routes(routes!(functions::list_functions))
        .routes(routes!(functions::get_function))
        .routes(routes!(limits::pause_function))
        .routes(routes!(limits::resume_function))
        .routes(routes!(limits::list_limits))
        .routes(routes!(limits::pause_limit))
        .routes(routes!(limits::resume_limit))
        .routes(routes!(events::list_events, events::publish_events))
        .routes(routes!(events::get_event))
        .routes(routes!(objects::list_objects))
        .routes(routes!(objects::get_object, objects::write_object))
        .routes(routes!(events::list_matches))
        .routes(routes!(schedules::list_schedules, schedules::create_schedule))
        .routes(routes!(
            schedules::get_schedule,
            schedules::put_schedule,
            schedules::patch_schedule,
            schedules::delete_schedule
        ))
        .routes(routes!(schedules::pause_schedule))
        .routes(routes!(schedules::resume_schedule))
        .routes(routes!(schedules::trigger_schedule))
        .routes(routes!(schedules::backfill_schedule))
        .routes(routes!(schedules::coming_moments))
        .routes(routes!(webhooks::list_webhooks, webhooks::create_webhook))
        .routes(routes!(webhooks::get_webhook, webhooks::patch_webhook, webhooks::delete_webhook))
        .routes(routes!(webhooks::rotate_webhook_secret))
        .routes(routes!(webhooks::test_webhook))
        .routes(routes!(webhooks::redeliver_dead))
        .routes(routes!(webhooks::list_deliveries))
        .routes(routes!(webhooks::get_delivery))
        .routes(routes!(webhooks::redeliver))
        .routes(routes!(namespaces::list_namespaces, namespaces::create_namespace))
        .routes(routes!(
            namespaces::get_namespace,
            namespaces::patch_namespace,
            namespaces::delete_namespace
        ))
        .routes(routes!(keys::list_keys, keys::create_key))
        .routes(routes!(audit::list_audit))
        .routes(routes!(keys::revoke_key))
        .routes(routes!(secrets::list_secrets, secrets::set_secret))
        .routes(routes!(secrets::remove_secret))
        .routes(routes!(series::metrics_series))
        .routes(routes!(gateway::get_gateway));
    let open = OpenApiRouter::default()
        .routes(routes!(node::healthz))
        .routes(routes!(node::readyz))
        .routes(routes!(node::metrics))
        .routes(routes!(pages::dashboard))
        .routes(routes!(pages::docs))
        .routes(routes!(pages::asset))
        .routes(routes!(pages::favicon))
        .routes(routes!(pages::openapi_json))
        .routes(routes!(pages::openapi_yaml))
        .routes(routes!(pages::llms))
        .routes(routes!(pages::key_set))
        .routes(routes!(pages::problems))
        .routes(routes!(pages::problem));
    (calls, open)
}

fn description() -> utoipa::openapi::OpenApi {
    static DESCRIPTION: LazyLock<utoipa::openapi::OpenApi> = LazyLock::new(|| {
        let (calls, open) = routes();
        let mut doc = calls.merge(open).into_openapi();
        doc.merge(<operator::StepActs as utoipa::OpenApi>::openapi());
        if let Some(components) = &mut doc.components {
            use utoipa::PartialSchema as _;
            let problem = problem::ProblemBody::schema();
            components.schemas.insert("Problem".to_owned(), problem);
            components.schemas.insert("Fault".to_owned(), problem::Fault::schema());
        }
        openapi::finish(doc)
    });
    DESCRIPTION.clone()
}

/// The description of the API: `openapi/openapi.yaml`.
#[must_use]
pub fn openapi() -> String {
    openapi::Reference::of(&description()).yaml
}

/// The same as JSON.
#[must_use]
pub fn openapi_json() -> String {
    openapi::Reference::of(&description()).json
}

/// The API as a service. A peer's address is expected as `ConnectInfo<SocketAddr>`, as [`serve`]
/// gives it; without one nobody counts as local.
pub fn router(state: ApiState) -> Router {
    let (calls, open) = routes();
    let calls = Router::from(calls)
        .route_layer(from_fn_with_state(state.clone(), forward::inside))
        .route_layer(from_fn_with_state(state.clone(), audit::noted))
        .route_layer(from_fn_with_state(state.clone(), rates::bounded));
    let views = pages::VIEWS
        .iter()
        .fold(Router::new(), |views, path| views.route(path, axum::routing::get(pages::dashboard)));
    Router::from(open)
        .merge(views)
        .merge(calls)
        .fallback(edge::nothing_here)
        .layer(from_fn(edge::edge))
        .with_state(state)
}

/// Compares a generated file with what is committed, or writes it where
/// `STEPWELL_REGENERATE` is set.
#[cfg(test)]
fn generated(path: &str, expected: &str) {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("STEPWELL_REGENERATE").is_some() {
        std::fs::write(&file, expected).expect("the file can be written");
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        committed == expected,
        "{path} is not what the code says; run `STEPWELL_REGENERATE=1 cargo test --lib api` and commit it"
    );
}
