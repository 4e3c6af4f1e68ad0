//! The `call` op (`docs/protocol.md` section 5): what it says of the request, and the value that its
//! answer becomes.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::form::too_deep;

/// The longest URL of a call, in bytes.
const MAX_URL: usize = 8 << 10;
/// The most headers of a call.
const MAX_HEADERS: usize = 64;
/// Headers that the gateway sets.
const OURS: [&str; 10] = [
    "host",
    "connection",
    "content-length",
    "expect",
    "idempotency-key",
    "te",
    "trailer",
    "traceparent",
    "transfer-encoding",
    "upgrade",
];

/// What a header of a call is sent with.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum HeaderText {
    /// As it is written.
    Plain(String),
    /// With a secret of the namespace, which is looked up for each attempt.
    Secret(SecretRef),
}

/// A secret by its name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretRef {
    /// Its name.
    pub secret: String,
    /// What stands before it, such as `Bearer `.
    #[serde(default)]
    pub prefix: String,
}

/// A request that the gateway makes itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Where to.
    pub url: String,
    /// In capitals.
    pub method: String,
    /// By name, in small letters.
    pub headers: BTreeMap<String, HeaderText>,
    /// The body's bytes; none: no body.
    pub body: Option<Bytes>,
    /// The statuses that are a value; none: every 2xx.
    pub ok: Option<Vec<u16>>,
}

#[derive(Deserialize)]
struct CallOp<'a> {
    #[serde(borrow)]
    request: RequestForm<'a>,
    ok: Option<Vec<u16>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestForm<'a> {
    #[serde(borrow)]
    url: Cow<'a, str>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    headers: Option<BTreeMap<String, HeaderText>>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

impl Call {
    /// Reads an op. The error says what is wrong, in words.
    pub fn read(op: &[u8]) -> Result<Self, String> {
        let mut json = serde_json::Deserializer::from_slice(op);
        let CallOp { request, ok } =
            serde_path_to_error::deserialize(&mut json).map_err(|e| e.to_string())?;
        if request.url.len() > MAX_URL {
            return Err(format!("`request.url` is longer than {MAX_URL} bytes"));
        }
        let method = match request.method {
            Some(method) => method.to_ascii_uppercase(),
            None if request.body.is_some() => "POST".to_owned(),
            None => "GET".to_owned(),
        };
        if method.is_empty()
            || method.len() > 32
            || !method.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-')
            || method == "CONNECT"
        {
            return Err("`request.method` is no method such as GET or POST".to_owned());
        }
        let headers = headers(request.headers.unwrap_or_default())?;
        if let Some(ok) = &ok
            && (ok.is_empty() || !ok.iter().all(|status| (200..600).contains(status)))
        {
            return Err("`ok` is a list of statuses from 200 to 599".to_owned());
        }
        let json = match headers.get("content-type") {
            Some(HeaderText::Plain(kind)) => is_json(kind),
            _ => true,
        };
        let body = request.body.map(|raw| match serde_json::from_str::<String>(raw.get()) {
            // Text of another kind than JSON is sent as the text that it is.
            Ok(text) if !json => Bytes::from(text),
            _ => Bytes::copy_from_slice(raw.get().as_bytes()),
        });
        Ok(Self { url: request.url.into_owned(), method, headers, body, ok })
    }

    /// Whether a status is a value.
    #[must_use]
    pub fn accepts(&self, status: u16) -> bool {
        self.ok.as_ref().map_or((200..300).contains(&status), |ok| ok.contains(&status))
    }
}

fn headers(given: BTreeMap<String, HeaderText>) -> Result<BTreeMap<String, HeaderText>, String> {
    if given.len() > MAX_HEADERS {
        return Err(format!("`request.headers` has more than {MAX_HEADERS} headers"));
    }
    let mut headers = BTreeMap::new();
    for (name, text) in given {
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(token) {
            return Err("`request.headers` has a name that is no header's".to_owned());
        }
        let name = name.to_ascii_lowercase();
        if OURS.contains(&name.as_str()) {
            return Err(format!("`request.headers`: `{name}` is set by the gateway"));
        }
        let written = match &text {
            HeaderText::Plain(text) => text,
            HeaderText::Secret(secret) => &secret.prefix,
        };
        if written.chars().any(|c| c.is_control() && c != '\t') {
            return Err(format!("`request.headers`: the value of `{name}` cannot be sent"));
        }
        if headers.insert(name.clone(), text).is_some() {
            return Err(format!("`request.headers`: `{name}` is there twice"));
        }
    }
    Ok(headers)
}

/// Whether a content type is JSON.
fn is_json(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || kind == "text/json" || kind.ends_with("+json")
}

/// The value of a call: `{"status", "headers", "body"}`. A body that is JSON is passed on byte for
/// byte; other text is a string; what is not UTF-8 is base64, and `"encoding": "base64"` says so.
#[must_use]
pub fn write_call_value<'a>(
    status: u16,
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    body: &[u8],
) -> Vec<u8> {
    let mut all: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value);
        all.entry(name)
            .and_modify(|text| {
                text.push_str(", ");
                text.push_str(&value);
            })
            .or_insert_with(|| value.clone().into_owned());
    }
    let mut out = format!(r#"{{"status":{status},"headers":"#).into_bytes();
    put(&mut out, &all);
    out.extend_from_slice(br#","body":"#);
    if !put_body(&mut out, all.get("content-type").map(String::as_str), body) {
        out.extend_from_slice(br#","encoding":"base64""#);
    }
    out.push(b'}');
    out
}

/// The result of a plain function: a body that is JSON byte for byte, another text as a string, none
/// as null. What is not UTF-8 is `{"base64": …}`.
#[must_use]
pub fn write_plain_result(content_type: Option<&str>, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 2);
    if !put_body(&mut out, content_type, body) {
        out.splice(0..0, *br#"{"base64":"#);
        out.push(b'}');
    }
    out
}

/// A body as JSON; false if it is base64, because it is no text.
fn put_body(out: &mut Vec<u8>, content_type: Option<&str>, body: &[u8]) -> bool {
    let json = content_type.is_none_or(is_json);
    match std::str::from_utf8(body) {
        _ if body.is_empty() => out.extend_from_slice(b"null"),
        Ok(text)
            if json
                && serde_json::from_str::<&RawValue>(text).is_ok()
                && !too_deep(text.as_bytes()) =>
        {
            out.extend_from_slice(text.trim().as_bytes());
        }
        Ok(text) => put(out, &text),
        Err(_) => {
            put(out, &STANDARD.encode(body));
            return false;
        }
    }
    true
}

fn put(out: &mut Vec<u8>, value: &impl serde::Serialize) {
    serde_json::to_writer(out, value).expect("text into memory cannot fail");
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(request: &Value) -> Result<Call, String> {
        let op = json!({"op": "call", "id": "a", "request": request});
        Call::read(op.to_string().as_bytes())
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let get = read(&json!({"url": "https://x/"})).expect("a call");
        assert_eq!((get.method.as_str(), get.body.as_ref()), ("GET", None));
        assert!(get.accepts(204) && !get.accepts(302) && !get.accepts(404));
        let op = br#"{"op":"call","id":"a","request":{"url":"https://x/","body":{"n":  1.0}},"ok":[404]}"#;
        let post = Call::read(op).expect("a call");
        assert_eq!(
            (post.method.as_str(), post.body.as_deref()),
            ("POST", Some(&b"{\"n\":  1.0}"[..]))
        );
        assert!(post.accepts(404) && !post.accepts(200));
    }

    #[test]
    fn text_of_another_kind_is_sent_as_it_is() {
        let form = "application/x-www-form-urlencoded";
        let call =
            read(&json!({"url": "https://x/", "headers": {"Content-Type": form}, "body": "a=b"}));
        assert_eq!(call.expect("a call").body.as_deref(), Some(&b"a=b"[..]));
        let call = read(&json!({"url": "https://x/", "body": "a=b"}));
        assert_eq!(call.expect("a call").body.as_deref(), Some(&b"\"a=b\""[..]));
    }

    #[test]
    fn secrets_are_named_and_what_is_odd_is_refused() {
        let call = read(&json!({"url": "https://x/", "headers":
            {"authorization": {"secret": "stripe", "prefix": "Bearer "}}}));
        let secret = SecretRef { secret: "stripe".to_owned(), prefix: "Bearer ".to_owned() };
        assert_eq!(call.expect("a call").headers["authorization"], HeaderText::Secret(secret));
        for (request, says) in [
            (json!({}), "url"),
            (json!({"url": 1}), "url"),
            (json!({"url": "https://x/", "methd": "GET"}), "methd"),
            (json!({"url": "https://x/", "method": "G T"}), "method"),
            (json!({"url": "https://x/", "headers": {"host": "y"}}), "`host` is set"),
            (json!({"url": "https://x/", "headers": {"a b": "y"}}), "no header's"),
            (json!({"url": "https://x/", "headers": {"a": "y\n"}}), "cannot be sent"),
            (json!({"url": "https://x/", "headers": {"a": "1", "A": "2"}}), "twice"),
        ] {
            let said = read(&request).expect_err("refused");
            assert!(said.contains(says), "{request}: {said}");
        }
    }

    #[test]
    fn a_value_has_json_as_it_came_text_as_text_and_bytes_as_base64() {
        let value = |kind: &str, body: &[u8]| {
            let headers = [("content-type", kind.as_bytes()), ("a", b"1"), ("a", b"2")];
            String::from_utf8(write_call_value(200, headers.into_iter(), body)).expect("UTF-8")
        };
        let head =
            |kind| format!(r#"{{"status":200,"headers":{{"a":"1, 2","content-type":"{kind}"}},"#);
        let json = "application/json; charset=utf-8";
        assert_eq!(
            value(json, b" {\"n\":  1.0}\n"),
            format!("{}\"body\":{{\"n\":  1.0}}}}", head(json))
        );
        assert_eq!(value(json, b"{oops"), format!("{}\"body\":\"{{oops\"}}", head(json)));
        assert_eq!(value("text/plain", b"12"), format!("{}\"body\":\"12\"}}", head("text/plain")));
        assert_eq!(value("text/plain", b""), format!("{}\"body\":null}}", head("text/plain")));
        let bytes = format!("{}\"body\":\"/w==\",\"encoding\":\"base64\"}}", head("image/png"));
        assert_eq!(value("image/png", &[255]), bytes);
    }
}
