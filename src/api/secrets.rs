//! Secrets that calls are made with: set, listed by name, removed; their values are never shown.

use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::ApiState;
use super::auth::Deployer;
use super::catalogue::Code;
use super::fields;
use super::page::{Cut, Page};
use super::problem::Problem;
use super::request::{At, Params, Sent};
use crate::engine::SecretRow;
use crate::machine::Timestamp;

/// The longest value, in bytes.
const MAX_VALUE: usize = 4 << 10;

/// A secret to set.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct SecretRequest {
    /// How ops refer to it.
    #[schema(max_length = 128, min_length = 1)]
    name: String,
    /// What is sent. Never shown.
    #[schema(max_length = 4096, min_length = 1)]
    value: String,
}

/// A secret, without its value.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Secret)]
pub(super) struct SecretBody {
    name: String,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When its value was set last.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

impl From<SecretRow> for SecretBody {
    fn from(row: SecretRow) -> Self {
        Self { name: row.name, created_at: row.created_at, updated_at: row.updated_at }
    }
}

/// What a header can carry.
fn value(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > MAX_VALUE {
        return Err(format!("must have 1 to {MAX_VALUE} bytes"));
    }
    if text.chars().any(char::is_control) {
        return Err("must not contain control characters".to_owned());
    }
    Ok(text.to_owned())
}

/// Set a secret that calls are made with.
///
/// A `call` refers to it by name in its headers. The value goes into requests and nowhere else: no
/// answer, journal, history or log has it. The same name again sets a new value.
#[utoipa::path(
    post, path = "/v1/secrets", tag = "secrets",
    request_body(content = SecretRequest, content_type = "application/json"),
    responses(
        (status = 201, description = "Set for the first time", body = SecretBody),
        (status = 200, description = "Set anew", body = SecretBody),
    ),
    extensions(("x-problems" = json!([])))
)]
pub(super) async fn set_secret(
    State(state): State<ApiState>,
    Deployer(caller): Deployer,
    params: Params,
    sent: Sent,
) -> Result<(StatusCode, Json<SecretBody>), Problem> {
    params.finish()?;
    let (name, value) = fields::read(&sent.0, |f| {
        let name = f.text("name", 128);
        let value = f.parsed("value", value);
        (f.need("name", name).unwrap_or_default(), f.need("value", value).unwrap_or_default())
    })?;
    let (row, fresh) =
        state.engine.set_secret(&caller.namespace, &name, &value, &caller.by).await?;
    let status = if fresh { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(row.into())))
}

/// List the names of secrets.
#[utoipa::path(
    get, path = "/v1/secrets", tag = "secrets",
    params(
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "By default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page of secrets, by name", body = Page<SecretBody>, headers(
        ("Link" = String, description = "The next page, with `rel=\"next\"`")))),
    extensions(("x-problems" = json!([])))
)]
pub(super) async fn list_secrets(
    State(state): State<ApiState>,
    Deployer(caller): Deployer,
    OriginalUri(uri): OriginalUri,
    mut params: Params,
) -> Result<Response, Problem> {
    let cut = Cut::of(&mut params);
    params.finish()?;
    let all = state.engine.list_secrets(&caller.namespace).await?;
    Ok(cut.page(all, |s| s.name.clone(), SecretBody::from).answer(&uri))
}

/// Remove a secret. Calls that refer to it pause their runs.
#[utoipa::path(
    delete, path = "/v1/secrets/{name}", tag = "secrets",
    params(("name" = String, Path, description = "Its name")),
    responses((status = 204, description = "Removed")),
    extensions(("x-problems" = json!(["secret-not-found"])))
)]
pub(super) async fn remove_secret(
    State(state): State<ApiState>,
    Deployer(caller): Deployer,
    At(name): At<String>,
    params: Params,
) -> Result<StatusCode, Problem> {
    params.finish()?;
    let known = state.engine.remove_secret(&caller.namespace, &name, &caller.by).await?;
    if known {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::new(Code::SecretNotFound, "There is no secret of this name."))
    }
}
