//! Every problem the API can answer with: one table, from which pages, reference and statuses come.

use axum::http::StatusCode;

/// Whether the same request may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// It may: nothing was done, or doing it twice is doing it once.
    Safe,
    /// Whether it was done is not known: look first, or use an `Idempotency-Key`.
    Unsafe,
    /// It would be answered in the same way.
    Never,
}

impl Retry {
    /// The word in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Safe => "safe",
            Self::Unsafe => "unsafe",
            Self::Never => "never",
        }
    }
}

macro_rules! catalogue {
    ($($name:ident = $slug:literal, $status:ident, $retry:ident, $title:literal;)*) => {
        /// The kind of a problem.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $title] $name,)*
        }

        impl Code {
            /// All, in the order of their statuses.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The word in JSON and in the page's address.
            #[must_use]
            pub const fn slug(self) -> &'static str {
                match self { $(Self::$name => $slug,)* }
            }

            /// The HTTP status.
            #[must_use]
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }

            /// Whether the same request may be sent again.
            #[must_use]
            pub const fn retry(self) -> Retry {
                match self { $(Self::$name => Retry::$retry,)* }
            }

            /// The same for every occurrence.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// Its page: what happened and what to do, as Markdown.
            #[must_use]
            pub const fn page(self) -> &'static str {
                match self {
                    $(Self::$name => include_str!(concat!("../../docs/problems/", $slug, ".md")),)*
                }
            }
        }
    };
}

catalogue! {
    MalformedRequest = "malformed-request", BAD_REQUEST, Never, "The request is malformed";
    MalformedJson = "malformed-json", BAD_REQUEST, Never, "The body is not JSON";
    InvalidQuery = "invalid-query", BAD_REQUEST, Never, "The query string is not valid";
    Unauthenticated = "unauthenticated", UNAUTHORIZED, Never, "No valid credential";
    InvalidToken = "invalid-token", UNAUTHORIZED, Never, "The invocation token is not valid";
    MissingScope = "missing-scope", FORBIDDEN, Never, "The API key may not do this";
    CrossOrigin = "cross-origin", FORBIDDEN, Never, "The request comes from another site";
    OperatorsOnly = "operators-only", FORBIDDEN, Never, "This is for those who look after all namespaces";
    NotFound = "not-found", NOT_FOUND, Never, "There is nothing at this address";
    RunNotFound = "run-not-found", NOT_FOUND, Never, "No such run";
    StepNotFound = "step-not-found", NOT_FOUND, Never, "No such step";
    FunctionNotFound = "function-not-found", NOT_FOUND, Never, "No such function";
    EndpointNotFound = "endpoint-not-found", NOT_FOUND, Never, "No such endpoint";
    InvocationNotFound = "invocation-not-found", NOT_FOUND, Never, "No such invocation";
    DeploymentNotFound = "deployment-not-found", NOT_FOUND, Never, "No such deployment";
    EventNotFound = "event-not-found", NOT_FOUND, Never, "No such event";
    BulkNotFound = "bulk-not-found", NOT_FOUND, Never, "No such bulk operation";
    ErrorNotFound = "error-not-found", NOT_FOUND, Never, "No such error";
    ScheduleNotFound = "schedule-not-found", NOT_FOUND, Never, "No such schedule";
    UpdateNotFound = "update-not-found", NOT_FOUND, Never, "No such update";
    NotAnObject = "not-an-object", NOT_FOUND, Never, "The function has no objects";
    KeyNotFound = "key-not-found", NOT_FOUND, Never, "No such API key";
    NamespaceNotFound = "namespace-not-found", NOT_FOUND, Never, "No such namespace";
    WebhookNotFound = "webhook-not-found", NOT_FOUND, Never, "No such webhook";
    DeliveryNotFound = "delivery-not-found", NOT_FOUND, Never, "No such delivery";
    SecretNotFound = "secret-not-found", NOT_FOUND, Never, "No such secret";
    CallbackNotFound = "callback-not-found", NOT_FOUND, Never, "No such callback address";
    MethodNotAllowed = "method-not-allowed", METHOD_NOT_ALLOWED, Never, "The method does not fit the address";
    RequestTimeout = "request-timeout", REQUEST_TIMEOUT, Safe, "The body did not arrive in time";
    RunExists = "run-exists", CONFLICT, Never, "A run with this key exists";
    ScheduleExists = "schedule-exists", CONFLICT, Never, "Another schedule has this name";
    WebhookExists = "webhook-exists", CONFLICT, Never, "Another webhook has this name";
    NamespaceExists = "namespace-exists", CONFLICT, Never, "Another namespace has this name";
    NamespaceInUse = "namespace-in-use", CONFLICT, Never, "The namespace is in use";
    ScheduleOwned = "schedule-owned", CONFLICT, Never, "The schedule is part of a registration";
    IdempotencyInProgress = "idempotency-in-progress", CONFLICT, Safe, "The same request is under way";
    InvalidState = "invalid-state", CONFLICT, Never, "The run's state does not allow this";
    NotACallback = "not-a-callback", CONFLICT, Never, "The step is not a callback";
    StaleEpoch = "stale-epoch", CONFLICT, Never, "The invocation is over";
    RunPaused = "run-paused", CONFLICT, Never, "The run was paused";
    ObjectBusy = "object-busy", CONFLICT, Safe, "A run has the object";
    EndpointDraining = "endpoint-draining", CONFLICT, Safe, "The endpoint takes no new runs";
    EndpointInUse = "endpoint-in-use", CONFLICT, Never, "The endpoint has live runs";
    FunctionInUse = "function-in-use", CONFLICT, Never, "A dropped function has live runs";
    RunEnded = "run-ended", GONE, Never, "The run has ended";
    RunEnding = "run-ending", GONE, Never, "The run is ending";
    AlreadySettled = "already-settled", GONE, Never, "The step is settled already";
    PreconditionFailed = "precondition-failed", PRECONDITION_FAILED, Never, "It has changed in the meantime";
    PreconditionRequired = "precondition-required", PRECONDITION_REQUIRED, Never, "The request has to say what it changes";
    PayloadTooLarge = "payload-too-large", PAYLOAD_TOO_LARGE, Never, "Something is over its limit";
    UriTooLong = "uri-too-long", URI_TOO_LONG, Never, "The address is too long";
    UnsupportedMediaType = "unsupported-media-type", UNSUPPORTED_MEDIA_TYPE, Never, "The body has to be JSON";
    InvalidRequest = "invalid-request", UNPROCESSABLE_ENTITY, Never, "The request does not make sense";
    IdempotencyKeyReused = "idempotency-key-reused", UNPROCESSABLE_ENTITY, Never, "Idempotency key used with another request";
    CheckpointSkipped = "checkpoint-skipped", UNPROCESSABLE_ENTITY, Never, "The checkpoint is not the next one";
    CheckpointReused = "checkpoint-reused", UNPROCESSABLE_ENTITY, Never, "Checkpoint number used with another body";
    RunFailed = "run-failed", UNPROCESSABLE_ENTITY, Never, "The run has no output";
    ProbeFailed = "probe-failed", UNPROCESSABLE_ENTITY, Never, "The handler did not answer as it should";
    QueryFailed = "query-failed", UNPROCESSABLE_ENTITY, Safe, "The handler did not answer the query";
    TooManySignals = "too-many-signals", TOO_MANY_REQUESTS, Safe, "Too many signals are waiting";
    RateLimited = "rate-limited", TOO_MANY_REQUESTS, Safe, "The function takes no more starts now";
    QuotaExceeded = "quota-exceeded", TOO_MANY_REQUESTS, Safe, "The namespace has what it may have";
    TooManyRequests = "too-many-requests", TOO_MANY_REQUESTS, Safe, "Too many requests";
    HeadersTooLarge = "headers-too-large", REQUEST_HEADER_FIELDS_TOO_LARGE, Never, "The headers are too large";
    Internal = "internal", INTERNAL_SERVER_ERROR, Unsafe, "Something went wrong here";
    Unavailable = "unavailable", SERVICE_UNAVAILABLE, Safe, "Not now";
    NodeUnreachable = "node-unreachable", SERVICE_UNAVAILABLE, Unsafe, "The run's node did not answer";
}

impl Code {
    /// The code of a word.
    #[must_use]
    pub fn from_slug(slug: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|c| c.slug() == slug)
    }
}

/// `docs/problems.md`: the table of all problems.
#[must_use]
#[cfg(test)]
pub(super) fn index() -> String {
    use std::fmt::Write as _;
    let mut out = String::from(
        "# Problems\n\nEvery error of the API is an RFC 9457 problem (`application/problem+json`). \
         Its `code` is one of these, its `type` is the page of that code on the server itself, and \
         `retry` says whether the same request may be sent again: `safe` (nothing was done, or \
         doing it twice is doing it once), `unsafe` (look first, or use an `Idempotency-Key`), \
         `never` (the answer would be the same).\n\n\
         | code | status | retry | title |\n| --- | --- | --- | --- |\n",
    );
    for code in Code::ALL {
        let (slug, status) = (code.slug(), code.status().as_u16());
        let (retry, title) = (code.retry().word(), code.title());
        writeln!(out, "| [`{slug}`](problems/{slug}.md) | {status} | {retry} | {title} |")
            .expect("a String takes what is written");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::generated;

    #[test]
    fn every_code_has_a_page_of_its_own() {
        let mut seen = std::collections::BTreeSet::new();
        for code in Code::ALL {
            let page = code.page();
            let slug = code.slug();
            assert!(page.starts_with(&format!("# {slug}\n\n")), "{slug}: the page has its name");
            assert!(page.contains("\n## What to do\n\n"), "{slug}: the page says what to do");
            assert!(page.len() > 120, "{slug}: the page says something");
            assert!(seen.insert(slug), "{slug} is there twice");
            assert_eq!(Code::from_slug(slug), Some(*code));
            assert!(code.status().is_client_error() || code.status().is_server_error());
        }
        let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/problems"))
            .expect("the pages are there")
            .count();
        assert_eq!(files, Code::ALL.len(), "each page belongs to a code");
    }

    #[test]
    fn the_index_is_up_to_date() {
        generated("docs/problems.md", &index());
    }
}
