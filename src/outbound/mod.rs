//! stub
#![allow(missing_docs)]
use bytes::Bytes;
use std::time::Duration;
#[derive(Debug, Clone)] pub struct Client(reqwest::Client);
#[derive(Debug)] pub struct Reply { pub status: u16, pub retry_after: Option<String>, pub body: Bytes }
#[derive(Debug, thiserror::Error)] pub enum Failure { #[error("{0}")] Tls(String), #[error("{0}")] Blocked(String), #[error("{0}")] BadUrl(String), #[error("{limit}")] TooLarge{limit: usize}, #[error("{0}")] Dns(String), #[error("{0}")] Connect(String), #[error("{0}")] Timeout(String), #[error("{0}")] Closed(String) }
impl Client { 
 pub fn new() -> Self { let _ = rustls::crypto::ring::default_provider().install_default(); Self(reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().expect("client")) }
 pub async fn post(&self, u: &str, h: &[(&str,&str)], b: Bytes, s: Duration) -> Result<Reply, Failure> { 
  let mut r = self.0.post(u).body(b).timeout(s); for (n,v) in h { r = r.header(*n,*v); }
  let r = r.send().await.map_err(|e| if e.is_connect() { Failure::Connect(e.to_string()) } else if e.is_timeout() { Failure::Timeout(e.to_string()) } else { Failure::Closed(e.to_string()) })?;
  let status = r.status().as_u16(); let retry_after = r.headers().get("retry-after").and_then(|v| v.to_str().ok()).map(str::to_owned);
  let body = r.bytes().await.map_err(|e| Failure::Closed(e.to_string()))?;
  Ok(Reply{status, retry_after, body}) } }
