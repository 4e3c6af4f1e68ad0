//! API keys: make, list, revoke.

use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::http::StatusCode;
use axum::response::Response;
use utoipa::ToSchema;

use super::ApiState;
use super::auth::Admin;
use super::catalogue::Code;
use super::endpoint_shapes::{KeyBody, NewKeyBody};
use super::fields;
use super::namespaces::namespace_name;
use super::page::{Cut, Page};
use super::problem::Problem;
use super::request::{At, Params, Sent};
use crate::engine::{Scope, Scopes};

/// An API key to make.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct KeyRequest {
    /// Who uses it: what the histories of runs show.
    #[schema(max_length = 128, min_length = 1)]
    name: String,
    /// `runs:read`, `runs:write`, `signals:write`, `endpoints:write`, `schedules:write`, `admin`,
    /// `endpoints:poll`.
    #[schema(min_items = 1)]
    scopes: Vec<String>,
    /// The namespace that it opens; by default the caller's. Another one's keys are made by admins of
    /// `default`.
    #[schema(pattern = "^[a-z0-9][a-z0-9_-]{0,62}$")]
    namespace: Option<String>,
}

/// Make an API key. Its secret is shown this once.
#[utoipa::path(
    post, path = "/v1/keys", tag = "keys",
    request_body(content = KeyRequest, content_type = "application/json"),
    responses((status = 201, description = "The key and its secret", body = NewKeyBody)),
    extensions(("x-problems" = json!(["namespace-not-found"])))
)]
pub(super) async fn create_key(
    State(state): State<ApiState>,
    Admin(caller): Admin,
    params: Params,
    sent: Sent,
) -> Result<(StatusCode, Json<NewKeyBody>), Problem> {
    params.finish()?;
    let (name, scopes, namespace) = fields::read(&sent.0, |f| {
        let name = f.text("name", 128);
        let name = f.need("name", name);
        let words: Option<Vec<String>> = f.value("scopes");
        let words = f.need("scopes", words).unwrap_or_default();
        let mut scopes = Vec::new();
        for word in &words {
            if let Some(scope) = Scope::from_word(word) {
                scopes.push(scope);
            } else {
                let known = Scope::ALL.map(Scope::word).join(", ");
                f.fault("scopes", format!("`{word}` is no scope; there are {known}"));
            }
        }
        let scopes = (!scopes.is_empty()).then_some(scopes);
        let scopes = f.need("scopes", scopes).unwrap_or_default();
        let namespace = f.parsed("namespace", namespace_name);
        (name.unwrap_or_default(), scopes.into_iter().collect::<Scopes>(), namespace)
    })?;
    let ns = state.engine.namespace_of(&caller, namespace.as_deref()).await?;
    let (key, secret) = state.engine.create_key(&ns, &name, scopes, &caller.by).await?;
    Ok((StatusCode::CREATED, Json(NewKeyBody::new(key, secret))))
}

/// List API keys, revoked ones included.
#[utoipa::path(
    get, path = "/v1/keys", tag = "keys",
    params(
        ("namespace" = Option<String>, Query, description = "Of this namespace; for admins of `default`"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "By default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page of keys", body = Page<KeyBody>, headers(
        ("Link" = String, description = "The next page, with `rel=\"next\"`")))),
    extensions(("x-problems" = json!(["namespace-not-found"])))
)]
pub(super) async fn list_keys(
    State(state): State<ApiState>,
    Admin(caller): Admin,
    OriginalUri(uri): OriginalUri,
    mut params: Params,
) -> Result<Response, Problem> {
    let cut = Cut::of(&mut params);
    let namespace = params.one("namespace", namespace_name);
    params.finish()?;
    let ns = state.engine.namespace_of(&caller, namespace.as_deref()).await?;
    let all = state.engine.list_keys(&ns).await?;
    Ok(cut.page(all, |k| k.id, KeyBody::from).answer(&uri))
}

/// Revoke an API key. Every node refuses it within 30 seconds. Again is no error.
#[utoipa::path(
    delete, path = "/v1/keys/{id}", tag = "keys",
    params(
        ("id" = String, Path, description = "The key's id (`key_…`)"),
        ("namespace" = Option<String>, Query, description = "Of this namespace; for admins of `default`"),
    ),
    responses((status = 204, description = "Revoked")),
    extensions(("x-problems" = json!(["key-not-found", "namespace-not-found"])))
)]
pub(super) async fn revoke_key(
    State(state): State<ApiState>,
    Admin(caller): Admin,
    At(id): At<String>,
    mut params: Params,
) -> Result<StatusCode, Problem> {
    let namespace = params.one("namespace", namespace_name);
    params.finish()?;
    let missing = || Problem::new(Code::KeyNotFound, "There is no API key of this id.");
    let key = id.parse().map_err(|_| missing())?;
    let ns = state.engine.namespace_of(&caller, namespace.as_deref()).await?;
    let known = state.engine.revoke_key(&ns, key, &caller.by).await?;
    if known { Ok(StatusCode::NO_CONTENT) } else { Err(missing()) }
}
