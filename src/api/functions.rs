//! Functions: list, read.

use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::response::Response;

use super::ApiState;
use super::auth::Reader;
use super::endpoint_shapes::FunctionBody;
use super::page::{Cut, Page};
use super::problem::Problem;
use super::request::{At, Params};
use crate::engine::Error;

/// List functions by name.
#[utoipa::path(
    get, path = "/v1/functions", tag = "endpoints",
    params(
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "By default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page of functions", body = Page<FunctionBody>, headers(
        ("Link" = String, description = "The next page, with `rel=\"next\"`")))),
    extensions(("x-problems" = json!([])))
)]
pub(super) async fn list_functions(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    OriginalUri(uri): OriginalUri,
    mut params: Params,
) -> Result<Response, Problem> {
    let cut = Cut::of(&mut params);
    params.finish()?;
    let all = state.engine.functions(&caller.namespace).await?;
    Ok(cut.page(all, |f| f.name.clone(), |f| FunctionBody::from(f).listed()).answer(&uri))
}

/// Read a function: its effective configuration, and where each value comes from.
#[utoipa::path(
    get, path = "/v1/functions/{name}", tag = "endpoints",
    params(("name" = String, Path, description = "The function")),
    responses((status = 200, description = "The function", body = FunctionBody)),
    extensions(("x-problems" = json!(["function-not-found"])))
)]
pub(super) async fn get_function(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    At(name): At<String>,
    params: Params,
) -> Result<Json<FunctionBody>, Problem> {
    params.finish()?;
    let found = state.engine.function(&caller.namespace, &name).await?;
    found.map(|f| Json(f.into())).ok_or_else(|| Error::FunctionNotFound(name).into())
}
