//! Requests that runs ask the gateway to make: any method, any status, the guard of endpoints.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::HeaderMap;
use tokio::time::timeout;
use url::Url;

use super::{CONNECT_TIMEOUT, Client, Failure, Patience, Reply, read};

/// A request.
#[derive(Debug, Clone)]
pub struct Request {
    /// Such as `GET`.
    pub method: Method,
    /// Where to.
    pub url: Url,
    /// What is sent along.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Option<Bytes>,
}

impl Client {
    /// Makes a request and reads the whole answer within a time.
    pub async fn call(
        &self,
        request: Request,
        within: Duration,
        max_bytes: usize,
    ) -> Result<Reply, Failure> {
        let patience = within.into();
        let call = self.ask(request, &patience, max_bytes);
        timeout(within, call).await.unwrap_or(Err(Failure::Silence(within)))
    }

    /// The same however long it takes, as long as it is not silent.
    pub async fn ask(
        &self,
        request: Request,
        silence: &Patience,
        max_bytes: usize,
    ) -> Result<Reply, Failure> {
        let Request { method, url, headers, body } = request;
        self.guard.check(&url).map_err(Failure::Blocked)?;
        let own = self.guard.is_own(&url);
        let client = if own { &self.narrow } else { &self.plain };
        let host = url.host_str().unwrap_or_default().to_owned();
        let failed = |e: reqwest::Error| Failure::of(&e, &host, CONNECT_TIMEOUT);
        let mut builder = client.request(method, url).headers(headers);
        if let Some(body) = body {
            builder = builder.body(body);
        }
        let mut response = builder.send().await.map_err(failed)?;
        // The resolver has seen to this; should it ever not have, nothing of the answer is used.
        if let Some(peer) = response.remote_addr() {
            self.guard.admit(peer.ip(), own).map_err(Failure::Blocked)?;
        }
        let (status, headers) =
            (response.status().as_u16(), std::mem::take(response.headers_mut()));
        match read(response, silence, max_bytes, failed).await? {
            (body, false) => Ok(Reply { status, headers, body }),
            (_, true) => Err(Failure::TooLarge(max_bytes)),
        }
    }
}
