//! stub
#![allow(missing_docs)]
use bytes::Bytes;
use std::time::Duration;
#[derive(Debug, Clone)]
pub struct Client;
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub retry_after: Option<String>,
    pub body: Bytes,
}
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{0}")]
    Tls(String),
    #[error("{0}")]
    Blocked(String),
    #[error("{0}")]
    BadUrl(String),
    #[error("{limit}")]
    TooLarge { limit: usize },
    #[error("{0}")]
    Dns(String),
    #[error("{0}")]
    Connect(String),
    #[error("{0}")]
    Timeout(String),
    #[error("{0}")]
    Closed(String),
}
impl Client {
    pub async fn post(
        &self,
        _u: &str,
        _h: &[(&str, &str)],
        _b: Bytes,
        _s: Duration,
    ) -> Result<Reply, Failure> {
        std::future::pending().await
    }
}
