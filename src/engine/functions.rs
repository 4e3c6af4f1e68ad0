//! What is registered, as people see it: functions with every setting, endpoints, deployments.

use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::breaker::{Circuit, Outage};
use super::catalog::{Catalog, INVOCATION_TIMEOUT};
use super::{
    DeploymentView, EndpointHealth, EndpointRef, EndpointState, EndpointView, Engine, Error,
    Namespace, Setting, Source,
};
use crate::machine::time::format_duration;
use crate::machine::{DeploymentId, EndpointId, RetryPolicy, RetrySpec, RunKind};
use crate::protocol::{FunctionSpec, Manifest, Versioning};
use crate::store;

/// A function as the newest deployment has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionView {
    /// Its name.
    pub name: String,
    /// The endpoint that hosts it.
    pub endpoint: EndpointId,
    /// That endpoint's name.
    pub endpoint_name: String,
    /// The newest deployment that has it.
    pub deployment: DeploymentId,
    /// `function`, `object` or `plain`.
    pub kind: String,
    /// Where at the endpoint the input of a plain function is posted.
    pub path: Option<String>,
    /// Of an object: its runs only read.
    pub shared: bool,
    /// Of a shared one: the function whose objects it reads.
    pub object: Option<String>,
    /// Every setting in force.
    pub settings: Vec<Setting>,
    /// Its tasks, a JSON list, where it lists them.
    pub tasks: Option<Bytes>,
    /// The events that start it, a JSON list, as it says.
    pub triggers: Option<Bytes>,
    /// JSON Schema of its input, as it says.
    pub input_schema: Option<Bytes>,
    /// Nothing of it is invoked.
    pub paused: Option<super::PausedView>,
}

impl Engine {
    /// All functions that an endpoint hosts, by name.
    pub async fn functions(&self, ns: &Namespace) -> Result<Vec<FunctionView>, Error> {
        let catalog = self.fresh_catalog().await?;
        let mut functions: Vec<FunctionView> = catalog
            .functions(ns.id)
            .filter_map(|f| function_of(&catalog, f.dep, &f.name))
            .collect();
        functions.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(functions)
    }

    /// One function.
    pub async fn function(
        &self,
        ns: &Namespace,
        name: &str,
    ) -> Result<Option<FunctionView>, Error> {
        let catalog = self.fresh_catalog().await?;
        let found = catalog.function(ns.id, name);
        let found = found.and_then(|f| function_of(&catalog, f.dep, &f.name));
        Ok(found)
    }

    /// All endpoints by id.
    pub async fn endpoints(&self, ns: &Namespace) -> Result<Vec<EndpointView>, Error> {
        let catalog = self.fresh_catalog().await?;
        let of_ns = catalog.recorded.endpoints.iter().filter(|e| e.ns == ns.id);
        let mut endpoints: Vec<EndpointView> =
            of_ns.map(|e| self.endpoint_view(&catalog, e)).collect();
        endpoints.sort_by_key(|e| e.id);
        Ok(endpoints)
    }

    /// One endpoint.
    pub async fn endpoint(
        &self,
        ns: &Namespace,
        endpoint: &EndpointRef,
    ) -> Result<Option<EndpointView>, Error> {
        let catalog = self.fresh_catalog().await?;
        let found = endpoint_row(&catalog, ns.id, endpoint);
        let found = found.map(|e| self.endpoint_view(&catalog, e));
        Ok(found)
    }

    /// How well an endpoint is, as it is recorded for all nodes.
    pub async fn endpoint_health(
        &self,
        ns: &Namespace,
        endpoint: &EndpointRef,
    ) -> Result<Option<EndpointHealth>, Error> {
        let catalog = self.fresh_catalog().await?;
        let Some(e) = endpoint_row(&catalog, ns.id, endpoint) else { return Ok(None) };
        let circuits = self.store().open_circuits().await?;
        let circuit = circuits.into_iter().find(|c| c.endpoint_id == e.id);
        let failed_probes = circuit.as_ref().map_or(0, |c| c.failures);
        let probing = circuit.as_ref().is_some_and(|c| c.probe_by.is_some());
        let state = match circuit {
            _ if e.disabled => EndpointState::Disabled,
            Some(c) => EndpointState::Unhealthy {
                detail: c.detail,
                since: c.opened_at,
                next_probe_at: Some(c.next_probe_at),
            },
            None => EndpointState::Healthy,
        };
        Ok(Some(EndpointHealth { state, failed_probes, probing }))
    }

    /// An endpoint as this node knows it.
    pub(super) fn endpoint_view(&self, catalog: &Catalog, e: &store::Endpoint) -> EndpointView {
        let state = match self.circuit(e.id) {
            _ if e.disabled => EndpointState::Disabled,
            Some(Circuit::Open(Outage { since, detail, next_probe_at, .. })) => {
                EndpointState::Unhealthy { detail, since, next_probe_at: Some(next_probe_at) }
            }
            _ => EndpointState::Healthy,
        };
        let current = current_deployment(catalog, e.id);
        EndpointView {
            id: e.public,
            name: e.name.clone(),
            url: e.url.clone(),
            polls: self.desks().polls(e.id),
            version: e.version.into(),
            state,
            draining: e.draining,
            concurrency: e.concurrency,
            headers: e.headers.keys().cloned().collect(),
            deployment: current.map(|d| d.public),
            functions: current.map_or_else(Vec::new, names_of),
            created_at: e.created_at,
            updated_at: e.updated_at,
        }
    }
}

/// The endpoint of an id or a name in a namespace.
pub(super) fn endpoint_row<'a>(
    catalog: &'a Catalog,
    ns: i32,
    endpoint: &EndpointRef,
) -> Option<&'a store::Endpoint> {
    catalog.recorded.endpoints.iter().find(|e| {
        e.ns == ns
            && match endpoint {
                EndpointRef::Id(id) => e.public == *id,
                EndpointRef::Name(name) => e.name == *name,
            }
    })
}

/// The deployment that hosts the endpoint's functions; where it hosts none, the newest.
pub(super) fn current_deployment(catalog: &Catalog, endpoint: i32) -> Option<&store::Deployment> {
    let hosting = catalog.recorded.functions.iter().filter_map(|f| f.hosted);
    let hosting = hosting.filter(|(e, _)| *e == endpoint).map(|(_, dep)| dep).max();
    let mut of_it = catalog.recorded.deployments.iter().filter(|d| d.endpoint_id == endpoint);
    match hosting {
        Some(dep) => of_it.find(|d| d.id == dep),
        None => of_it.next_back(),
    }
}

/// What a deployment said it has.
pub(super) fn manifest_of(deployment: &store::Deployment) -> Option<Manifest> {
    serde_json::from_slice(&deployment.manifest).ok()
}

fn names_of(deployment: &store::Deployment) -> Vec<String> {
    let functions = manifest_of(deployment).map(|m| m.functions).unwrap_or_default();
    functions.into_iter().map(|f| f.name).collect()
}

/// A deployment as the API shows it.
pub(super) fn deployment_view(
    deployment: &store::Deployment,
    endpoint: EndpointId,
    current: bool,
) -> DeploymentView {
    let manifest = manifest_of(deployment);
    let transports = manifest.iter().flat_map(|m| &m.transports).filter_map(|t| {
        let word = serde_json::to_value(t).ok()?;
        word.as_str().map(str::to_owned)
    });
    DeploymentView {
        id: deployment.public,
        endpoint,
        url: deployment.url.clone(),
        sdk: manifest.as_ref().and_then(|m| m.sdk.clone()),
        version: manifest.as_ref().and_then(|m| m.version.clone()),
        transports: transports.collect(),
        transport: String::new(),
        fallback: None,
        pages: manifest.as_ref().is_some_and(|m| m.pages),
        functions: names_of(deployment),
        current,
        runs: None,
        drained: false,
        created_at: deployment.created_at,
    }
}

fn function_of(catalog: &Catalog, dep: i32, name: &str) -> Option<FunctionView> {
    let deployment = catalog.deployment(dep)?;
    let spec = deployment.manifest.function(name)?;
    let mut recorded = catalog.recorded.functions.iter();
    let paused =
        recorded.find(|f| f.hosted == Some((deployment.endpoint.id, dep)) && f.name == name);
    let paused = paused.and_then(|f| f.paused.clone());
    Some(FunctionView {
        name: name.to_owned(),
        endpoint: deployment.endpoint.public,
        endpoint_name: deployment.endpoint.name.clone(),
        deployment: deployment.public,
        kind: spec.kind.clone(),
        path: spec.path.clone(),
        shared: spec.shared,
        object: spec.object.clone(),
        settings: settings(spec, &deployment.manifest),
        tasks: spec.tasks.as_deref().map(text),
        triggers: spec.triggers.as_deref().map(text),
        input_schema: spec.input_schema.as_deref().map(text),
        paused: paused.map(super::PausedView::of),
    })
}

fn text(raw: &RawValue) -> Bytes {
    Bytes::copy_from_slice(raw.get().as_bytes())
}

/// Every setting in force, by name.
fn settings(spec: &FunctionSpec, manifest: &Manifest) -> Vec<Setting> {
    let defaults = Manifest::listed(Vec::new());
    let mut all = Vec::new();
    let mut put = |name: String, value: &Value, given: bool| {
        let source = if given { Source::Deployment } else { Source::Default };
        all.push(Setting { name, value: Bytes::from(value.to_string()), source });
    };
    for (name, given, base) in [
        ("retry", spec.retry, RetryPolicy::STEP),
        ("invocation_retry", spec.invocation_retry, RetryPolicy::INVOCATION),
        ("run_retry", spec.run_retry, RetryPolicy::RUN),
    ] {
        if spec.run_kind() == Some(RunKind::Plain) && name != "retry" {
            continue;
        }
        let given: RetrySpec = given.unwrap_or_default();
        let p = given.over(&base);
        let mut part =
            |field: &str, value: &Value, given| put(format!("{name}.{field}"), value, given);
        part("max_attempts", &json!(p.max_attempts), given.max_attempts.is_some());
        part("initial", &json!(format_duration(p.initial)), given.initial.is_some());
        part("factor", &json!(p.factor), given.factor.is_some());
        part("max_interval", &json!(format_duration(p.max_interval)), given.max_interval.is_some());
        part("jitter", &json!(p.jitter), given.jitter.is_some());
        part(
            "max_elapsed",
            &json!(p.max_elapsed.map(format_duration)),
            given.max_elapsed.is_some(),
        );
    }
    let of = &spec.timeouts;
    put("timeouts.start".to_owned(), &json!(of.start.map(format_duration)), of.start.is_some());
    put("timeouts.run".to_owned(), &json!(of.run.map(format_duration)), of.run.is_some());
    let silence = of.invocation.unwrap_or(INVOCATION_TIMEOUT);
    put(
        "timeouts.invocation".to_owned(),
        &json!(format_duration(silence)),
        of.invocation.is_some(),
    );
    put(
        "retention".to_owned(),
        &json!(spec.retention.map(format_duration)),
        spec.retention.is_some(),
    );
    let pinned = spec.versioning != Versioning::default();
    put("versioning".to_owned(), &json!(spec.versioning), pinned);
    put("strict".to_owned(), &json!(spec.strict), spec.strict);
    for (name, given) in [
        ("concurrency", &spec.concurrency),
        ("throttle", &spec.throttle),
        ("rate_limit", &spec.rate_limit),
        ("debounce", &spec.debounce),
        ("singleton", &spec.singleton),
        ("gather", &spec.gather),
        ("locks", &spec.locks),
        ("cancel_on", &spec.cancel_on),
    ] {
        let value = given.as_ref().and_then(|raw| serde_json::from_str(raw.get()).ok());
        put(name.to_owned(), &value.unwrap_or(Value::Null), given.is_some());
    }
    put("pages".to_owned(), &json!(manifest.pages), manifest.pages != defaults.pages);
    let inline = manifest.max_inline_bytes;
    put("max_inline_bytes".to_owned(), &json!(inline), inline != defaults.max_inline_bytes);
    all
}
