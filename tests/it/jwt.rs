//! JWTs of an issuer elsewhere: who is let in, with what scopes, and what happens to keys that rotate.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use stepwell::engine::{JwtKeys, JwtSettings};
use stepwell::protocol::JwtAlgorithm;

use crate::gateway::{Answer, Gateway, Handler};

const ISSUER: &str = "https://issuer.example";

/// An issuer's key.
struct Key {
    id: &'static str,
    pair: Ed25519KeyPair,
}

impl Key {
    fn new(id: &'static str) -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        Self { id, pair: Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("a key") }
    }

    fn jwk(&self) -> Value {
        let x = BASE64URL.encode(self.pair.public_key());
        json!({"kty": "OKP", "crv": "Ed25519", "kid": self.id, "x": x})
    }

    fn token(&self, claims: Value) -> String {
        let header = json!({"alg": "EdDSA", "kid": self.id});
        let encode = |part: &Value| BASE64URL.encode(part.to_string());
        let text = format!("{}.{}", encode(&header), encode(&claims));
        format!("{text}.{}", BASE64URL.encode(self.pair.sign(text.as_bytes())))
    }

    fn of(&self, g: &Gateway, scope: &str) -> String {
        let until = g.engine.now().as_secs() + 600;
        self.token(
            json!({"iss": ISSUER, "aud": "stepwell", "sub": "ann", "exp": until, "scope": scope}),
        )
    }
}

async fn says(
    g: &Gateway,
    token: &str,
    method: &str,
    path: &str,
    body: Option<Value>,
) -> (u16, Value) {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", &*bearer)];
    let (status, headers, text) = g.raw(method, path, &headers, body.map(|b| b.to_string())).await;
    assert_eq!(status == 401, headers.contains_key("www-authenticate"), "{method} {path}");
    (status, serde_json::from_slice(&text).unwrap_or(Value::Null))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_what_its_claims_say_whatever_becomes_of_the_issuer() {
    let (old, new) = (Key::new("old"), Key::new("new"));
    let served = json!({"keys": [old.jwk()]});
    let issuer = Handler::serve(move |_| served.clone()).await;
    let url = issuer.url.parse().expect("a URL");
    let settings = JwtSettings {
        issuer: ISSUER.to_owned(),
        audience: "stepwell".to_owned(),
        algorithms: vec![JwtAlgorithm::EdDsa],
        keys: JwtKeys::Url(url),
        namespace_claim: None,
        scopes_claim: "scope".to_owned(),
        leeway: Duration::from_secs(30),
    };
    settings.check().expect("they are safe");
    let g = Gateway::with_jwts(settings).await;
    let admin = old.of(&g, "admin");
    let handler = Handler::serve(
        |_| json!({"ops": [{"op": "signal", "id": "s", "name": "s"}], "await": "s"}),
    )
    .await;
    let endpoint = json!({"name": "test", "url": handler.url, "functions": [{"name": "f"}], "discover": false});
    assert_eq!(says(&g, &admin, "POST", "/v1/endpoints", Some(endpoint)).await.0, 201);
    let writer = old.of(&g, "runs:write unknown:scope");
    let (status, run) = says(&g, &writer, "POST", "/v1/functions/f/runs", Some(json!({}))).await;
    assert_eq!(status, 202, "{run}");
    let run = run["id"].as_str().expect("an id").to_owned();
    let (status, answer) = says(&g, &writer, "GET", "/v1/keys", None).await;
    assert_eq!(
        (status, &answer["code"], &answer["scope"]),
        (403, &json!("missing-scope"), &json!("admin"))
    );
    let pause = format!("/v1/runs/{run}/pause");
    assert!(says(&g, &writer, "POST", &pause, None).await.0 < 300);
    let (_, history) = says(&g, &writer, "GET", &format!("/v1/runs/{run}/history"), None).await;
    let paused =
        history["data"].as_array().expect("a list").iter().find(|e| e["type"] == "run.paused");
    assert_eq!(paused.expect("it was")["by"], "jwt:ann");

    // Who is not let in, and why.
    let now = g.engine.now().as_secs();
    let all =
        json!({"iss": ISSUER, "aud": "stepwell", "sub": "ann", "exp": now + 600, "scope": "admin"});
    for (claim, value) in [
        ("iss", json!("https://other.example")),
        ("aud", json!("other")),
        ("exp", json!(now - 31)),
        ("nbf", json!(now + 60)),
        ("sub", json!("")),
    ] {
        let mut bad = all.clone();
        bad[claim] = value;
        let (status, problem) = says(&g, &old.token(bad), "GET", "/v1/runs", None).await;
        let detail = problem["detail"].as_str().unwrap_or_default().to_owned();
        assert_eq!(
            (status, detail.contains(&format!("`{claim}`"))),
            (401, true),
            "{claim}: {problem}"
        );
    }
    let stranger = Key::new("old").of(&g, "admin");
    assert_eq!(
        says(&g, &stranger, "GET", "/v1/runs", None).await.0,
        401,
        "the name of a key is none"
    );
    assert_eq!(issuer.count(), 1, "keys are read once");

    // The issuer changes its keys: a token that names another is what makes them be read, but seldom.
    let rotated = new.of(&g, "runs:read");
    let served = json!({"keys": [old.jwk(), new.jwk()]});
    issuer.now(move |_| served.clone());
    assert_eq!(
        says(&g, &rotated, "GET", "/v1/runs", None).await.0,
        401,
        "they were read a moment ago"
    );
    assert_eq!(issuer.count(), 1);
    g.advance(Duration::from_secs(11));
    assert_eq!(says(&g, &rotated, "GET", "/v1/runs", None).await.0, 200);
    for n in 0..20 {
        let odd = Key::new(if n % 2 == 0 { "odd" } else { "even" }).of(&g, "admin");
        assert_eq!(says(&g, &odd, "GET", "/v1/runs", None).await.0, 401);
    }
    assert_eq!(issuer.count(), 2, "whatever tokens name");
    // It is away: what was read is believed for a while, and not for ever.
    issuer.now(|_| Answer::status(500));
    g.advance(Duration::from_secs(300));
    assert_eq!(says(&g, &new.of(&g, "runs:read"), "GET", "/v1/runs", None).await.0, 200);
    g.advance(Duration::from_secs(3_600));
    assert_eq!(says(&g, &new.of(&g, "runs:read"), "GET", "/v1/runs", None).await.0, 200);
    assert!(issuer.count() >= 3, "it was asked again");
    g.advance(Duration::from_secs(25 * 3_600));
    let (status, problem) = says(&g, &new.of(&g, "runs:read"), "GET", "/v1/runs", None).await;
    assert_eq!((status, &problem["code"]), (503, &json!("unavailable")), "{problem}");
    // An old key that is withdrawn opens nothing any more.
    let served = json!({"keys": [new.jwk()]});
    issuer.now(move |_| served.clone());
    g.advance(Duration::from_secs(11));
    let end = format!("/v1/runs/{run}/terminate");
    assert!(says(&g, &new.of(&g, "admin"), "POST", &end, None).await.0 < 300);
    assert_eq!(says(&g, &old.of(&g, "admin"), "GET", "/v1/runs", None).await.0, 401);
    g.close().await;
}
