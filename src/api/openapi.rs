//! The description of the API: what the routes say, and what holds for all of them.

use std::collections::{BTreeMap, BTreeSet};

use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, ParameterIn, PathItem};
use utoipa::openapi::request_body::RequestBody;
use utoipa::openapi::schema::{AdditionalProperties, Object, Schema, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    ContentBuilder, InfoBuilder, LicenseBuilder, OpenApi, Ref, RefOr, Required, ResponseBuilder,
};

use super::catalogue::Code;

/// Where an operation lists the problems that are its own.
const PROBLEMS: &str = "x-problems";

/// The document in both forms.
#[derive(Debug)]
pub(super) struct Reference {
    pub(super) json: String,
    pub(super) yaml: String,
}

impl Reference {
    pub(super) fn of(doc: &OpenApi) -> Self {
        let why = "a document of strings and numbers serialises";
        Self { json: doc.to_pretty_json().expect(why), yaml: doc.to_yaml().expect(why) }
    }
}

/// Completes what the routes say.
pub(super) fn finish(mut doc: OpenApi) -> OpenApi {
    doc.info = InfoBuilder::new()
        .title("Stepwell")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Durable functions over plain HTTP. JSON in snake_case, times in RFC 3339, payloads \
             passed on byte for byte. Errors are RFC 9457 problems; `/problems` explains each.",
        ))
        .license(Some(
            LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build(),
        ))
        .build();
    doc.tags = Some(
        [
            ("runs", "Start runs, read them, act on them"),
            ("journal", "Steps, values, what happened"),
            ("bulk", "Acts on many runs at once"),
            ("errors", "What runs failed or paused by"),
            ("signals", "What reaches runs from outside"),
            ("events", "What is published to everybody who subscribed"),
            ("schedules", "What starts runs by itself"),
            ("endpoints", "Where functions are"),
            ("webhooks", "Who is told of what happens"),
            ("namespaces", "Tenants and what they may have"),
            ("keys", "API keys, and who did what"),
            ("secrets", "What calls are made with"),
            ("node", "Health and metrics"),
            ("pages", "Pages and descriptions"),
        ]
        .map(|(name, text)| TagBuilder::new().name(name).description(Some(text)).build())
        .to_vec(),
    );
    let components = doc.components.get_or_insert_default();
    let bearer = |text: &str| {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(text));
        SecurityScheme::Http(scheme.build())
    };
    components.add_security_scheme("api_key", bearer("An API key: `sw_…`"));
    // What the API does not know it refuses.
    for (name, schema) in &mut components.schemas {
        if let RefOr::T(Schema::Object(object)) = schema
            && name.ends_with("Request")
        {
            object.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
        }
    }
    components.add_security_scheme(
        "invocation_token",
        bearer("The `token` of an invocation, for what its own run may read"),
    );
    doc.security = Some(vec![SecurityRequirement::new::<_, [&str; 0], &str>("api_key", [])]);
    // The router's `{*step}` is `{step}` to the rest of the world.
    let paths = std::mem::take(&mut doc.paths.paths);
    for (path, mut item) in paths {
        for operation in operations(&mut item) {
            complete(&path, operation);
        }
        doc.paths.paths.insert(path.replace("{*", "{"), item);
    }
    doc
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete]
        .into_iter()
        .filter_map(Option::as_mut)
}

/// Adds to an operation the answers that follow from its form.
fn complete(path: &str, operation: &mut Operation) {
    let mut codes: BTreeSet<Code> = operation
        .extensions
        .as_ref()
        .and_then(|e| e.get(PROBLEMS))
        .and_then(|v| v.as_array().cloned())
        .unwrap_or_default()
        .iter()
        .filter_map(|slug| Code::from_slug(slug.as_str()?))
        .collect();
    codes.extend([Code::UriTooLong, Code::HeadersTooLarge, Code::Internal]);
    if let Some(body) = &mut operation.request_body {
        may_be_left_out(body);
    }
    let parameters = operation.parameters.as_deref().unwrap_or_default();
    if path.starts_with("/v1/") {
        codes.extend([
            Code::MalformedRequest,
            Code::InvalidQuery,
            Code::TooManyRequests,
            Code::Unavailable,
        ]);
        if operation.security.is_none() || !path.starts_with("/v1/callbacks/") {
            codes.extend([Code::Unauthenticated, Code::MissingScope, Code::CrossOrigin]);
        }
    }
    if path.starts_with("/v1/runs/{id}") {
        codes.insert(Code::NodeUnreachable);
    }
    if parameters.iter().any(|p| p.parameter_in == ParameterIn::Path) {
        codes.extend([Code::NotFound, Code::MalformedRequest]);
    }
    // Acts without a described body may carry an empty object all the same.
    let acts =
        [Code::EndpointNotFound, Code::ScheduleNotFound, Code::BulkNotFound, Code::WebhookNotFound];
    if operation.request_body.is_some() || acts.iter().any(|code| codes.contains(code)) {
        codes.extend([
            Code::MalformedJson,
            Code::RequestTimeout,
            Code::PayloadTooLarge,
            Code::UnsupportedMediaType,
            Code::InvalidRequest,
        ]);
    }
    let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for code in &codes {
        by_status.entry(code.status().as_u16()).or_default().push(*code);
    }
    for (status, codes) in by_status {
        let list: Vec<String> = codes.iter().map(|c| format!("`{}`", c.slug())).collect();
        let content = ContentBuilder::new()
            .schema(Some(RefOr::Ref(Ref::from_schema_name("Problem"))))
            .build();
        let mut response = ResponseBuilder::new()
            .description(list.join(", "))
            .content("application/problem+json", content);
        for (name, kind, applies, text) in [
            (
                "Retry-After",
                Type::Integer,
                matches!(status, 409 | 429 | 503),
                "Seconds until it makes sense to try again",
            ),
            ("WWW-Authenticate", Type::String, status == 401, "`Bearer`"),
            (
                "RateLimit",
                Type::String,
                status == 429,
                "What this credential may still send: `\"key\";r=0;t=1`",
            ),
        ] {
            if applies {
                let schema = Object::with_type(kind);
                let header = HeaderBuilder::new().schema(schema).description(Some(text)).build();
                response = response.header(name, header);
            }
        }
        operation.responses.responses.insert(status.to_string(), RefOr::T(response.build()));
    }
    let slugs: Vec<&str> = codes.iter().map(|c| c.slug()).collect();
    operation.extensions = Some(ExtensionsBuilder::new().add(PROBLEMS, slugs).build());
}

/// A body that may be left out is described as one that may be null, which is not the same.
fn may_be_left_out(body: &mut RequestBody) {
    for content in body.content.values_mut() {
        if let Some(RefOr::T(Schema::OneOf(either))) = &content.schema
            && let Some(given) = either.items.iter().find(|item| matches!(item, RefOr::Ref(_)))
        {
            content.schema = Some(given.clone());
            body.required = Some(Required::False);
        }
    }
}
