//! Webhooks: create, read, change, delete, test; what was delivered, what was given up, once more.

use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::ApiState;
use super::auth::{Deployer, Reader};
use super::catalogue::Code;
use super::endpoint_request::check_secret;
use super::fields;
use super::page::{self, Cut, Page};
use super::problem::Problem;
use super::request::{At, Headers, Params, Sent, at_hand, check_version, text};
use super::webhook_shapes::{
    DeliveryBody, PatchWebhookRequest, RedeliverRequest, RedeliveredBody, RotateWebhookRequest,
    RotatedWebhookBody, WebhookBody, WebhookRequest, WholeDeliveryBody, read, read_patch, status,
};
use crate::engine::{DeliveryFilter, Error, MOST_REDELIVERED, Webhook, WebhookCreated};
use crate::machine::MessageId;

fn etag(webhook: &Webhook) -> HeaderValue {
    HeaderValue::try_from(format!("\"{}\"", webhook.version)).expect("a number in quotes")
}

fn answer(status: StatusCode, webhook: Webhook, secret: Option<String>) -> Response {
    let headers = [(header::ETAG, etag(&webhook))];
    (status, headers, Json(WebhookBody::of(webhook, secret))).into_response()
}

fn delivery_id(text: &str) -> Result<MessageId, Problem> {
    let missing = |e| Problem::new(Code::DeliveryNotFound, format!("There is no delivery: {e}."));
    text.parse().map_err(missing)
}

/// Create a webhook: who is told of ends and pauses of runs, and of how endpoints are.
///
/// Told at least once, signed as Standard Webhooks want it, retried for about two days, then kept as
/// `dead`. It is told of what happens from now on: other nodes hear of it within a second.
/// Repeating the creation changes nothing: a webhook that is just the same is answered with 200.
#[utoipa::path(
    post, path = "/v1/webhooks", tag = "webhooks",
    request_body(content = WebhookRequest, content_type = "application/json"),
    responses(
        (status = 201, description = "Created; `secret` is shown this once", body = WebhookBody, headers(
            ("Location" = String, description = "The webhook"),
            ("ETag" = String, description = "Its version"))),
        (status = 200, description = "It was there, just the same", body = WebhookBody),
    ),
    extensions(("x-problems" = json!(["webhook-exists"])))
)]
pub(super) async fn create_webhook(
    State(state): State<ApiState>,
    Deployer(caller): Deployer,
    params: Params,
    sent: Sent,
) -> Result<Response, Problem> {
    params.finish()?;
    let (spec, secret) = fields::read(&sent.0, |f| (read(f), f.parsed("secret", check_secret)))?;
    let (ns, by) = (&caller.namespace, &caller.by);
    match state.engine.create_webhook(ns, spec, secret.as_deref(), by).await? {
        WebhookCreated::Same(webhook) => Ok(answer(StatusCode::OK, *webhook, None)),
        WebhookCreated::New(webhook, secret) => {
            let location = format!("/v1/webhooks/{}", webhook.public);
            let mut response = answer(StatusCode::CREATED, *webhook, Some(secret));
            let location = HeaderValue::try_from(location).expect("ids are letters and digits");
            response.headers_mut().insert(header::LOCATION, location);
            Ok(response)
        }
    }
}

/// List webhooks.
#[utoipa::path(
    get, path = "/v1/webhooks", tag = "webhooks",
    params(
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "By default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page of webhooks", body = Page<WebhookBody>, headers(
        ("Link" = String, description = "The next page, with `rel=\"next\"`")))),
    extensions(("x-problems" = json!([])))
)]
pub(super) async fn list_webhooks(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    OriginalUri(uri): OriginalUri,
    mut params: Params,
) -> Result<Response, Problem> {
    let cut = Cut::of(&mut params);
    params.finish()?;
    let all = state.engine.webhooks(&caller.namespace).await?;
    Ok(cut.page(all, |w| w.public, |w| WebhookBody::of(w, None)).answer(&uri))
}

/// Read a webhook.
#[utoipa::path(
    get, path = "/v1/webhooks/{webhook}", tag = "webhooks",
    params(
        ("webhook" = String, Path, description = "Its id or name"),
        ("If-None-Match" = Option<String>, Header, description = "`*`, or an `ETag` that is at hand"),
    ),
    responses(
        (status = 200, description = "The webhook", body = WebhookBody, headers(
            ("ETag" = String, description = "Its version"))),
        (status = 304, description = "It is at hand"),
    ),
    extensions(("x-problems" = json!(["webhook-not-found"])))
)]
pub(super) async fn get_webhook(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    At(name): At<String>,
    params: Params,
    Headers(headers): Headers,
) -> Result<Response, Problem> {
    params.finish()?;
    let webhook = state.engine.webhook(&caller.namespace, &name).await?;
    if let Some(known) = at_hand(&headers, etag(&webhook)) {
        return Ok(known);
    }
    Ok(answer(StatusCode::OK, webhook, None))
}

/// Change a webhook, or turn it off and on.
#[utoipa::path(
    patch, path = "/v1/webhooks/{webhook}", tag = "webhooks",
    params(
        ("webhook" = String, Path, description = "Its id or name"),
        ("If-Match" = Option<String>, Header, description = "Only this version (`ETag`)"),
    ),
    request_body(content = Option<PatchWebhookRequest>, content_type = "application/json"),
    responses((status = 200, description = "The webhook as it is now", body = WebhookBody, headers(
        ("ETag" = String, description = "Its version")))),
    extensions(("x-problems" = json!(["webhook-not-found", "webhook-exists", "precondition-failed"])))
)]
pub(super) async fn patch_webhook(
    State(state): State<ApiState>,
    Deployer(caller): Deployer,
    At(name): At<String>,
    params: Params,
    Headers(headers): Headers,
    sent: Sent,
) -> Result<Response, Problem> {
    params.finish()?;
    // What is wrong with the request as such is told also where there is no such webhook.
    fields::read(&sent.0, fields::Fields::take_any)?;
    let webhook = state.engine.webhook(&caller.namespace, &name).await?;
    let patch = fields::read(&sent.0, |f| read_patch(f, &webhook))?;
    check_version(&headers, &etag(&webhook), Error::WebhookStale)?;
    let ns = &caller.namespace;
    let changed = state.engine.patch_webhook(ns, &webhook, patch, &caller.by).await?;
    Ok(answer(StatusCode::OK, changed, None))
}

/// Delete a webhook, with what is on its way to it.
#[utoipa::path(
    delete, path = "/v1/webhooks/{webhook}", tag = "webhooks",
    params(
        ("webhook" = String, Path, description = "Its id or name"),
        ("If-Match" = Option<String>, Header, description = "Only this version (`ETag`)"),
    ),
    responses((status = 204, description = "Deleted")),
    extensions(("x-problems" = json!(["webhook-not-found", "precondition-failed"])))
)]
pub(super) async fn delete_webhook(
    State(state): State<ApiState>,
    Deployer(caller): Deployer,
    At(name): At<String>,
    params: Params,
    Headers(headers): Headers,
) -> Result<StatusCode, Problem> {
    params.finish()?;
    let webhook = state.engine.webhook(&caller.namespace, &name).await?;
    check_version(&headers, &etag(&webhook), Error::WebhookStale)?;
    state.engine.delete_webhook(&caller.namespace, &webhook, &caller.by).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A new signing secret for a webhook.
///
/// For a day deliveries are signed with the old one too, so that the receiver can change over.
#[utoipa::path(
    post, path = "/v1/webhooks/{webhook}/rotate-secret", tag = "webhooks",
    params(("webhook" = String, Path, description = "Its id or name")),
    request_body(content = Option<RotateWebhookRequest>, content_type = "application/json"),
    responses((status = 200, description = "The new secret, shown this once", body = RotatedWebhookBody)),
    extensions(("x-problems" = json!(["webhook-not-found"])))
)]
pub(super) async fn rotate_webhook_secret(
    State(state): State<ApiState>,
    Deployer(caller): Deployer,
    At(name): At<String>,
    params: Params,
    sent: Sent,
) -> Result<Json<RotatedWebhookBody>, Problem> {
    params.finish()?;
    let secret = fields::read(&sent.0, |f| f.parsed("secret", check_secret))?;
    let (ns, by) = (&caller.namespace, &caller.by);
    let webhook = state.engine.webhook(ns, &name).await?;
    let (webhook, secret, old_until) =
        state.engine.rotate_webhook(ns, &webhook, secret.as_deref(), by).await?;
    Ok(Json(RotatedWebhookBody { webhook: WebhookBody::of(webhook, None), secret, old_until }))
}

/// Send a webhook something that means nothing (`webhook.test`).
///
/// What comes of it is in the delivery, soon.
#[utoipa::path(
    post, path = "/v1/webhooks/{webhook}/test", tag = "webhooks",
    params(("webhook" = String, Path, description = "Its id or name")),
    responses((status = 202, description = "On its way", body = DeliveryBody)),
    extensions(("x-problems" = json!(["webhook-not-found"])))
)]
pub(super) async fn test_webhook(
    State(state): State<ApiState>,
    Deployer(caller): Deployer,
    At(name): At<String>,
    params: Params,
    sent: Sent,
) -> Result<(StatusCode, Json<DeliveryBody>), Problem> {
    params.finish()?;
    fields::read(&sent.0, |_| ())?;
    let webhook = state.engine.webhook(&caller.namespace, &name).await?;
    let delivery = state.engine.test_webhook(&caller.namespace, &webhook).await?;
    Ok((StatusCode::ACCEPTED, Json(delivery.into())))
}

/// List what a webhook was told, or is to be told, the newest first.
///
/// `on-complete` in place of a webhook: what starts of runs have asked for. What was delivered or given
/// up is kept for 30 days.
#[utoipa::path(
    get, path = "/v1/webhooks/{webhook}/deliveries", tag = "webhooks",
    params(
        ("webhook" = String, Path, description = "Its id or name, or `on-complete`"),
        ("status" = Option<String>, Query, description = "`pending`, `delivered` or `dead`"),
        ("event" = Option<String>, Query, description = "Of this event alone"),
        ("run" = Option<String>, Query, description = "About this run alone"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "By default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page of deliveries", body = Page<DeliveryBody>, headers(
        ("Link" = String, description = "The next page, with `rel=\"next\"`")))),
    extensions(("x-problems" = json!(["webhook-not-found"])))
)]
pub(super) async fn list_deliveries(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    At(name): At<String>,
    OriginalUri(uri): OriginalUri,
    mut params: Params,
) -> Result<Response, Problem> {
    let limit = params.limit();
    let filter = DeliveryFilter {
        status: params.one("status", status),
        event: params.one("event", text),
        run: params.one("run", |text| text.parse().map_err(|e| format!("{e}"))),
        before: page::cursor(&mut params),
        // One more tells whether there is a next page.
        limit: i64::try_from(limit + 1).unwrap_or(i64::MAX),
    };
    params.finish()?;
    let to = state.engine.deliveries_to(&caller.namespace, &name).await?;
    let mut rows = state.engine.deliveries(&caller.namespace, to, &filter).await?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|row| row.new.id);
    Ok(Page::new(rows.into_iter().map(DeliveryBody::from).collect(), next).answer(&uri))
}

/// Read a delivery, with what is sent.
#[utoipa::path(
    get, path = "/v1/webhooks/{webhook}/deliveries/{delivery}", tag = "webhooks",
    params(
        ("webhook" = String, Path, description = "Its id or name, or `on-complete`"),
        ("delivery" = String, Path, description = "The delivery's id (`msg_…`)"),
    ),
    responses((status = 200, description = "The delivery", body = WholeDeliveryBody)),
    extensions(("x-problems" = json!(["webhook-not-found", "delivery-not-found"])))
)]
pub(super) async fn get_delivery(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    At((name, delivery)): At<(String, String)>,
    params: Params,
) -> Result<Json<WholeDeliveryBody>, Problem> {
    params.finish()?;
    let ns = &caller.namespace;
    let to = state.engine.deliveries_to(ns, &name).await?;
    let delivery = state.engine.delivery(ns, to, delivery_id(&delivery)?).await?;
    Ok(Json(delivery.into()))
}

/// Begin a delivery anew, whatever came of it: the same body under the same id.
#[utoipa::path(
    post, path = "/v1/webhooks/{webhook}/deliveries/{delivery}/redeliver", tag = "webhooks",
    params(
        ("webhook" = String, Path, description = "Its id or name, or `on-complete`"),
        ("delivery" = String, Path, description = "The delivery's id (`msg_…`)"),
    ),
    responses((status = 202, description = "On its way", body = DeliveryBody)),
    extensions(("x-problems" = json!(["webhook-not-found", "delivery-not-found"])))
)]
pub(super) async fn redeliver(
    State(state): State<ApiState>,
    Deployer(caller): Deployer,
    At((name, delivery)): At<(String, String)>,
    params: Params,
    sent: Sent,
) -> Result<(StatusCode, Json<DeliveryBody>), Problem> {
    params.finish()?;
    fields::read(&sent.0, |_| ())?;
    let ns = &caller.namespace;
    let to = state.engine.deliveries_to(ns, &name).await?;
    let id = delivery_id(&delivery)?;
    let delivery = state.engine.redeliver(ns, to, id, &caller.by).await?;
    Ok((StatusCode::ACCEPTED, Json(delivery.into())))
}

/// Begin anew what was given up: all of it, or what happened in some time.
#[utoipa::path(
    post, path = "/v1/webhooks/{webhook}/redeliver", tag = "webhooks",
    params(("webhook" = String, Path, description = "Its id or name, or `on-complete`")),
    request_body(content = Option<RedeliverRequest>, content_type = "application/json"),
    responses((status = 202, description = "On their way", body = RedeliveredBody)),
    extensions(("x-problems" = json!(["webhook-not-found"])))
)]
pub(super) async fn redeliver_dead(
    State(state): State<ApiState>,
    Deployer(caller): Deployer,
    At(name): At<String>,
    params: Params,
    sent: Sent,
) -> Result<(StatusCode, Json<RedeliveredBody>), Problem> {
    params.finish()?;
    let (within, event) =
        fields::read(&sent.0, |f| ((f.moment("since"), f.moment("until")), f.text("event", 64)))?;
    let (ns, by) = (&caller.namespace, &caller.by);
    let to = state.engine.deliveries_to(ns, &name).await?;
    let many = state.engine.redeliver_dead(ns, to, within, event.as_deref(), by).await?;
    let more = usize::try_from(many).is_ok_and(|many| many >= MOST_REDELIVERED);
    Ok((StatusCode::ACCEPTED, Json(RedeliveredBody { redelivered: many, more })))
}
