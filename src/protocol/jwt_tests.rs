//! Each claim, each algorithm, and what forgers try.

use std::time::Duration;

use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use serde_json::{Value, json};

use super::*;

const NOW: i64 = 1_790_000_000;
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
/// A token and its key, made by another program.
const RSA_N: &str = "xtT3GvtAzsuxACrs9sfw2lJb-G1kbyW29I9UdcHnqaW3DeKc0dj0yyU_kn_2e8kQWgHRVlF5_8N3cDBhBET4UHs3OK0aArLq25zSHuNufaWN1CnY-8yHy7q4SimwdIXXNGVSdcNeFwkAD7Zp9NyHddzVZ0Hg9LKAYUE8iKzNCiHvBhifPChu3FGgav_l-h1x-ZzLWNQbBOm9MkFDn-KRlWWfBN-2jn-CWxYSDWIoryYP3UwASTni16qaY5wFjOygTVjOlhiR2X7-QJdTI9mnxdrZnxiuxBlbU1lFDl3twbWDFQHm_OmEB97v_Y4HOAfNC6KdAtaEAdLck-qf2cmWbQ";
const RSA_TOKEN: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6InJzYSJ9.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYW5uIiwiYXVkIjoic3RlcHdlbGwiLCJleHAiOjE4MDAwMDAwMDB9.IkfT4EgfZ2CoP0AwmEqxa1g-I0WVpYKBSbdIlpVPFZnWBWkMTpvUcEWrIPE-Kj8BYfByAWYew7ePQQbaT_uERHx-IJzln_mXt-DCMRfF3IJ4y3gu2p3p58pbg5LD4sK7vQmQfKVKHwaZGg19zvIkNl3uuGenxTz0D_QAMX53xVSAPE0H4YCVPkW6QCQiaceZ4TZtlUsDumsUki58U1VNaypqQjLnWEAanQmFqgqpP_4iEBb_0q-KTUDats7agxvC734iybTNN6T_9wUdUvYREx_9tF_JrKZx4kenZh7Gj5TXlfcys0ZHQ3G1qTnSgnPY95Iog0DJ_C1DOTZGEtn93g";

fn b64(bytes: impl AsRef<[u8]>) -> String {
    BASE64URL.encode(bytes)
}

fn unsigned(header: &Value, claims: &Value) -> String {
    format!("{}.{}", b64(header.to_string()), b64(claims.to_string()))
}

fn claims() -> Value {
    json!({"iss": "https://issuer.example", "sub": "ann", "aud": "stepwell", "exp": NOW + 60})
}

fn hs256(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let text = unsigned(header, claims);
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    format!("{text}.{}", b64(ring::hmac::sign(&key, text.as_bytes())))
}

fn secret() -> Vec<JwtKey> {
    vec![JwtKey::secret(SECRET).expect("it is long enough")]
}

fn set(keys: &Value) -> Vec<JwtKey> {
    JwtKey::of_set(json!({"keys": keys}).to_string().as_bytes()).expect("a set")
}

fn rsa(kid: &str) -> Value {
    json!({"kty": "RSA", "kid": kid, "n": RSA_N, "e": "AQAB", "alg": "RS256", "use": "sig"})
}

const HS: &[JwtAlgorithm] = &[JwtAlgorithm::Hs256];
const PUBLIC: &[JwtAlgorithm] = &[JwtAlgorithm::Rs256, JwtAlgorithm::Es256, JwtAlgorithm::EdDsa];

#[test]
fn each_algorithm_verifies_and_notices_another_byte() {
    let rng = SystemRandom::new();
    let pkcs8 =
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng).expect("a key");
    let ec = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &rng);
    let ec = ec.expect("a key");
    let point = ec.public_key().as_ref();
    let text = unsigned(&json!({"alg": "ES256", "kid": "ec"}), &claims());
    let es256 = format!("{text}.{}", b64(ec.sign(&rng, text.as_bytes()).expect("signed")));
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&rng).expect("a key");
    let ed = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("a key");
    let text = unsigned(&json!({"alg": "EdDSA"}), &claims());
    let eddsa = format!("{text}.{}", b64(ed.sign(text.as_bytes())));
    let public = set(&json!([
        rsa("rsa"),
        {"kty": "EC", "crv": "P-256", "kid": "ec", "x": b64(&point[1..33]), "y": b64(&point[33..])},
        {"kty": "OKP", "crv": "Ed25519", "x": b64(ed.public_key())},
        // Passed over: what is no signature's, what a set must not have, what is not known here.
        {"kty": "RSA", "use": "enc", "n": RSA_N, "e": "AQAB"},
        {"kty": "oct", "k": b64(SECRET)},
        {"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA"},
        "nonsense",
    ]));
    assert_eq!(public.len(), 3);
    let hs = hs256(&json!({"alg": "HS256", "typ": "JWT"}), &claims(), SECRET);
    for (token, keys, pinned) in [
        (hs.as_str(), secret(), HS),
        (RSA_TOKEN, public.clone(), PUBLIC),
        (&es256, public.clone(), PUBLIC),
        (&eddsa, public, PUBLIC),
    ] {
        let found = verify_jwt(token, &keys, pinned).expect("it is the issuer's");
        assert_eq!(found.text("sub"), Ok("ann"));
        let (text, signature) = token.rsplit_once('.').expect("three parts");
        let mut other = BASE64URL.decode(signature).expect("base64");
        other[7] ^= 1;
        let forged = format!("{text}.{}", b64(&other));
        assert_eq!(verify_jwt(&forged, &keys, pinned), Err(BadJwt::Signature));
        let (head, _) = text.split_once('.').expect("two parts");
        let mut more = claims();
        more["scope"] = json!("admin");
        let forged = format!("{head}.{}.{signature}", b64(more.to_string()));
        assert_eq!(verify_jwt(&forged, &keys, pinned), Err(BadJwt::Signature));
    }
}

#[test]
fn what_a_token_says_of_itself_opens_nothing() {
    let public = set(&json!([rsa("rsa")]));
    for none in ["none", "None", "NONE", ""] {
        let bare = format!("{}.", unsigned(&json!({"alg": none}), &claims()));
        assert_eq!(verify_jwt(&bare, &public, PUBLIC), Err(BadJwt::Algorithm), "{none}");
        assert_eq!(verify_jwt(&bare, &secret(), HS), Err(BadJwt::Algorithm), "{none}");
    }
    // Signed with a public key as if it were a secret: neither pinned, nor is there a key for it.
    let n = BASE64URL.decode(RSA_N).expect("base64");
    let confused = hs256(&json!({"alg": "HS256", "kid": "rsa"}), &claims(), &n);
    assert_eq!(verify_jwt(&confused, &public, PUBLIC), Err(BadJwt::Algorithm));
    let all = &JwtAlgorithm::ALL;
    assert_eq!(verify_jwt(&confused, &public, all), Err(BadJwt::UnknownKey));
    // A header that names another algorithm than its key's.
    let other = unsigned(&json!({"alg": "ES256", "kid": "rsa"}), &claims());
    let other = format!("{other}.{}", b64([0; 64]));
    assert_eq!(verify_jwt(&other, &public, PUBLIC), Err(BadJwt::UnknownKey));
    // A key of another name is not tried.
    assert_eq!(verify_jwt(RSA_TOKEN, &set(&json!([rsa("new")])), PUBLIC), Err(BadJwt::UnknownKey));
    // A key that says that it is for something else is none.
    let mut odd = rsa("rsa");
    odd["alg"] = json!("PS256");
    assert!(JwtKey::of_set(json!({"keys": [odd]}).to_string().as_bytes()).is_err());
    // The header brings no key, and nothing that must be understood.
    let crit = hs256(&json!({"alg": "HS256", "crit": ["b64"], "b64": false}), &claims(), SECRET);
    assert!(matches!(verify_jwt(&crit, &secret(), HS), Err(BadJwt::Malformed(_))));
    for bad in ["", "a", "a.b", "a.b.c", "a.b.c.d", "e30.e30.", &"e".repeat(20_000)] {
        assert!(matches!(verify_jwt(bad, &secret(), HS), Err(BadJwt::Malformed(_))), "{bad}");
    }
    assert!(JwtKey::secret(&SECRET[1..]).is_err(), "a secret has 32 bytes at least");
}

#[test]
fn each_claim_is_checked() {
    let leeway = Duration::from_secs(30);
    let check = |change: Value| {
        let mut all = claims();
        for (name, value) in change.as_object().expect("an object") {
            if value.is_null() {
                all.as_object_mut().expect("an object").remove(name);
            } else {
                all[name] = value.clone();
            }
        }
        let token = hs256(&json!({"alg": "HS256"}), &all, SECRET);
        let claims = verify_jwt(&token, &secret(), HS).expect("it is signed");
        match claims.check("https://issuer.example", "stepwell", leeway, NOW) {
            Ok(()) => String::new(),
            Err(BadJwt::Claim(name, _)) => name,
            Err(other) => other.to_string(),
        }
    };
    for good in [
        json!({}),
        json!({"aud": ["other", "stepwell"]}),
        json!({"exp": NOW - 29}),
        json!({"exp": 1.790_000_06e9}),
        json!({"nbf": NOW + 30}),
        json!({"nbf": 0, "iat": NOW}),
    ] {
        assert_eq!(check(good.clone()), "", "{good}");
    }
    for (bad, claim) in [
        (json!({"iss": null}), "iss"),
        (json!({"iss": "https://issuer.example/"}), "iss"),
        (json!({"iss": ["https://issuer.example"]}), "iss"),
        (json!({"aud": null}), "aud"),
        (json!({"aud": "Stepwell"}), "aud"),
        (json!({"aud": []}), "aud"),
        (json!({"aud": [["stepwell"]]}), "aud"),
        (json!({"exp": null}), "exp"),
        (json!({"exp": NOW - 30}), "exp"),
        (json!({"exp": (NOW + 60).to_string()}), "exp"),
        (json!({"nbf": NOW + 31}), "nbf"),
        (json!({"nbf": (NOW + 60).to_string()}), "nbf"),
        (json!({"nbf": {}}), "nbf"),
    ] {
        assert_eq!(check(bad.clone()), claim, "{bad}");
    }
    let words = |scope: Value| {
        let token = hs256(&json!({"alg": "HS256"}), &json!({"scope": scope}), SECRET);
        let claims = verify_jwt(&token, &secret(), HS).expect("it is signed");
        claims.words("scope").join(",")
    };
    assert_eq!(words(json!("runs:read admin")), "runs:read,admin");
    assert_eq!(words(json!(["runs:read", 7, "admin"])), "runs:read,admin");
    assert_eq!(words(json!({"admin": true})), "");
}
