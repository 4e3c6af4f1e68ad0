//! The demo of `stepwell dev`: whether it is offered, and one call from nothing to a run.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::ApiState;
use super::auth::{Deployer, Operator, Reader};
use super::catalogue::Code;
use super::endpoints::registered;
use super::problem::Problem;
use super::request::Params;
use super::shapes::RunBody;
use crate::engine::{Caller, EndpointRef, Engine, Error, Registration, RunView, Start};

/// A handler that the gateway serves itself.
#[derive(Debug, Clone)]
pub struct Demo {
    /// Its one function.
    pub function: &'static str,
    /// Where it is.
    pub url: String,
    /// What calls to it are signed with (`whsec_…`).
    pub secret: String,
}

impl Demo {
    /// The name of its endpoint.
    pub const ENDPOINT: &str = "stepwell-demo";

    /// Whether it is registered, here or where an earlier gateway had it.
    pub async fn is_registered(&self, engine: &Engine, caller: &Caller) -> Result<bool, Error> {
        let named = EndpointRef::Name(Self::ENDPOINT.to_owned());
        Ok(engine.endpoint(&caller.namespace, &named).await?.is_some())
    }

    /// Registers it; as it is registered already it changes nothing.
    pub async fn register(&self, engine: &Engine, caller: &Caller) -> Result<(), Problem> {
        let registration = Registration::discovered(
            Self::ENDPOINT.to_owned(),
            self.url.clone(),
            Some(self.secret.clone()),
            caller.by.clone(),
        );
        registered(engine.register_endpoint(&caller.namespace, registration).await?).map(drop)
    }

    /// Registers it and starts a run of its function.
    pub async fn begin(&self, engine: &Engine, caller: &Caller) -> Result<RunView, Problem> {
        self.register(engine, caller).await?;
        let start = Start::new(
            caller.namespace.clone(),
            self.function.to_owned(),
            RawValue::from_string(r#"{"name": "world"}"#.to_owned()).expect("this is JSON"),
            caller.by.clone(),
        );
        let run = engine.start(start).await?.run();
        Ok(engine.view(&caller.namespace, run).await?)
    }
}

/// What there is to try without a handler of one's own.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Demo)]
pub(super) struct DemoBody {
    /// Whether this gateway serves a demo: `stepwell dev` on loopback does.
    offered: bool,
    /// The name that its endpoint has, or would have.
    endpoint: Option<&'static str>,
    /// Its function.
    function: Option<&'static str>,
}

/// Whether there is a demo.
#[utoipa::path(
    get, path = "/v1/demo", tag = "endpoints",
    responses((status = 200, description = "What is offered", body = DemoBody)),
    extensions(("x-problems" = json!([])))
)]
pub(super) async fn get_demo(
    State(state): State<ApiState>,
    Reader(_): Reader,
    params: Params,
) -> Result<Json<DemoBody>, Problem> {
    params.finish()?;
    Ok(Json(DemoBody {
        offered: state.demo.is_some(),
        endpoint: state.demo.as_ref().map(|_| Demo::ENDPOINT),
        function: state.demo.as_ref().map(|demo| demo.function),
    }))
}

/// Start a run of the demo.
///
/// Registers the handler that `stepwell dev` serves itself, where it is not registered yet, and
/// starts a run of its function. A gateway that offers no demo answers 404.
#[utoipa::path(
    post, path = "/v1/demo", tag = "endpoints",
    responses((status = 202, description = "Started", body = RunBody, headers(
        ("Location" = String, description = "The run")))),
    extensions(("x-problems" = json!(["not-found", "probe-failed", "function-in-use",
        "function-not-found", "endpoint-draining"])))
)]
pub(super) async fn start_demo(
    State(state): State<ApiState>,
    Deployer(caller): Deployer,
    Operator(_): Operator,
    params: Params,
) -> Result<Response, Problem> {
    params.finish()?;
    let Some(demo) = &state.demo else {
        let detail = "This gateway offers no demo; `stepwell dev` on loopback does.";
        return Err(Problem::new(Code::NotFound, detail));
    };
    let run = demo.begin(&state.engine, &caller).await?;
    let location = HeaderValue::try_from(format!("/v1/runs/{}", run.id));
    let location = location.expect("ids are letters and digits");
    let body = Json(RunBody::from(run));
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], body).into_response())
}
