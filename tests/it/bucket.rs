//! A store that speaks S3, as far as an archive does: objects in memory, and only for who signs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};

const KEY: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const TOKEN: &str = "a session";
const REGION: &str = "eu-west-3";

/// A store with one bucket, `runs`.
#[derive(Clone)]
pub struct Store {
    pub url: String,
    held: Arc<Mutex<Held>>,
}

#[derive(Default)]
struct Held {
    objects: BTreeMap<String, Bytes>,
    /// Parts by upload and number.
    uploads: BTreeMap<String, BTreeMap<u32, Bytes>>,
    /// How many uploads there were.
    begun: usize,
    /// A part of this number is refused.
    refused: Option<u32>,
}

impl Store {
    pub async fn serve() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let store = Self { url, held: Arc::default() };
        let app = axum::Router::new()
            .fallback(answer)
            .layer(axum::extract::DefaultBodyLimit::disable())
            .with_state(store.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        store
    }

    /// The variables of the environment of who may write.
    pub fn environment(&self) -> Vec<(String, String)> {
        let variables = [
            ("AWS_ENDPOINT_URL", &*self.url),
            ("AWS_REGION", REGION),
            ("AWS_ACCESS_KEY_ID", KEY),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
            ("AWS_SESSION_TOKEN", TOKEN),
        ];
        variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    /// What is in the bucket, by name.
    pub fn objects(&self) -> BTreeMap<String, Bytes> {
        self.held.lock().expect("no panic").objects.clone()
    }

    /// How many uploads in parts were begun, and how many are open.
    pub fn uploads(&self) -> (usize, usize) {
        let held = self.held.lock().expect("no panic");
        (held.begun, held.uploads.len())
    }

    /// Refuses parts of this number from now on.
    pub fn refuse_part(&self, number: Option<u32>) {
        self.held.lock().expect("no panic").refused = number;
    }
}

async fn answer(State(store): State<Store>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.expect("a body");
    let (path, query) = (head.uri.path(), head.uri.query().unwrap_or_default());
    if let Err(code) = signed(&head.method, path, query, &head.headers, &body) {
        return refused(StatusCode::FORBIDDEN, code);
    }
    let Some(("runs", name)) = path[1..].split_once('/') else {
        return refused(StatusCode::NOT_FOUND, "NoSuchBucket");
    };
    let query: BTreeMap<&str, &str> =
        query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect();
    let mut held = store.held.lock().expect("no panic");
    let upload = query.get("uploadId").map(|id| (*id).to_owned());
    match (head.method, upload) {
        (Method::PUT, None) => {
            held.objects.insert(name.to_owned(), body);
            [(header::ETAG, "\"whole\"")].into_response()
        }
        (Method::POST, None) => {
            held.begun += 1;
            let id = format!("upload-{}", held.begun);
            held.uploads.insert(id.clone(), BTreeMap::new());
            format!(
                "<InitiateMultipartUploadResult><Bucket>runs</Bucket><Key>{name}</Key>\
                 <UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
            )
            .into_response()
        }
        (Method::PUT, Some(id)) => {
            let number: u32 = query["partNumber"].parse().expect("a number");
            if held.refused == Some(number) {
                return refused(StatusCode::BAD_REQUEST, "EntityTooLarge");
            }
            held.uploads.get_mut(&id).expect("it was begun").insert(number, body);
            [(header::ETAG, format!("\"part-{number}\""))].into_response()
        }
        (Method::POST, Some(id)) => {
            let parts = held.uploads.remove(&id).expect("it was begun");
            let asked = String::from_utf8(body.to_vec()).expect("text");
            assert!(parts.keys().all(|n| asked.contains(&format!("part-{n}"))), "{asked}");
            let last = parts.len();
            let small = parts.values().take(last - 1).any(|part| part.len() < 5 << 20);
            assert!(!small, "parts but the last have 5 MiB at least");
            let whole: Vec<u8> = parts.into_values().flatten().collect();
            held.objects.insert(name.to_owned(), whole.into());
            "<CompleteMultipartUploadResult><ETag>\"all\"</ETag></CompleteMultipartUploadResult>"
                .into_response()
        }
        (Method::DELETE, Some(id)) => {
            held.uploads.remove(&id);
            StatusCode::NO_CONTENT.into_response()
        }
        (method, _) => refused(StatusCode::METHOD_NOT_ALLOWED, method.as_str()),
    }
}

fn refused(status: StatusCode, code: &str) -> Response {
    let text = format!("<Error><Code>{code}</Code><Message>so it is</Message></Error>");
    (status, text).into_response()
}

/// Whether a request is signed, as AWS describes its version 4.
fn signed(
    method: &Method,
    path: &str,
    query: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(), &'static str> {
    let said = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let given = said("authorization").strip_prefix("AWS4-HMAC-SHA256 ").ok_or("AccessDenied")?;
    let part = |name: &str| {
        let mut parts = given.split(',').map(str::trim);
        parts.find_map(|p| p.strip_prefix(name)?.strip_prefix('=')).ok_or("AccessDenied")
    };
    let (names, signature) = (part("SignedHeaders")?, part("Signature")?);
    let at = said("x-amz-date");
    let scope = format!("{}/{REGION}/s3/aws4_request", &at[..8]);
    if part("Credential")? != format!("{KEY}/{scope}") {
        return Err("InvalidAccessKeyId");
    }
    if said("x-amz-security-token") != TOKEN {
        return Err("InvalidToken");
    }
    if said("x-amz-content-sha256") != hex(&Sha256::digest(body)) {
        return Err("XAmzContentSHA256Mismatch");
    }
    let mut pairs: Vec<_> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| if pair.contains('=') { pair.to_owned() } else { format!("{pair}=") })
        .collect();
    pairs.sort();
    let of_headers: String =
        names.split(';').map(|name| format!("{name}:{}\n", said(name).trim())).collect();
    let request = format!(
        "{method}\n{path}\n{}\n{of_headers}\n{names}\n{}",
        pairs.join("&"),
        said("x-amz-content-sha256")
    );
    let text =
        format!("AWS4-HMAC-SHA256\n{at}\n{scope}\n{}", hex(&Sha256::digest(request.as_bytes())));
    let mut key = format!("AWS4{SECRET}").into_bytes();
    for word in scope.split('/').chain([&*text]) {
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("any length will do");
        mac.update(word.as_bytes());
        key = mac.finalize().into_bytes().to_vec();
    }
    if hex(&key) == signature { Ok(()) } else { Err("SignatureDoesNotMatch") }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
