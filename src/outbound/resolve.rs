//! Names to addresses, with the guard in between: what is checked is what is connected to.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::guard::{Blocked, Guard};

/// Asks for the addresses of a name.
pub trait Lookup: Send + Sync + 'static {
    /// All addresses of `host`; none is as good as an error.
    fn lookup(&self, host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// The system's own resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemLookup;

impl Lookup for SystemLookup {
    fn lookup(&self, host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let host = host.to_owned();
        Box::pin(async move {
            let found = tokio::net::lookup_host((host.as_str(), 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

/// Why a name leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unresolved {
    /// DNS does not know it, or did not answer.
    #[error("{0}")]
    Unknown(String),
    /// It has only addresses that must not be called.
    #[error("{0}")]
    Blocked(Blocked),
}

/// The addresses of a name that may be called.
pub(super) async fn resolve(
    guard: &Guard,
    lookup: &dyn Lookup,
    host: &str,
    own: bool,
) -> Result<Vec<IpAddr>, Unresolved> {
    let found = lookup.lookup(host).await.map_err(|e| Unresolved::Unknown(e.to_string()))?;
    let mut refused = None;
    let mut admitted = Vec::with_capacity(found.len());
    for address in found {
        match guard.admit(address, own) {
            Ok(()) => admitted.push(address),
            Err(blocked) => refused = Some(blocked),
        }
    }
    match refused {
        _ if !admitted.is_empty() => Ok(admitted),
        Some(blocked) => Err(Unresolved::Blocked(blocked)),
        None => Err(Unresolved::Unknown("the name has no address".to_owned())),
    }
}

/// The resolver that the HTTP client connects with.
pub(super) struct GuardedResolver {
    pub(super) guard: Arc<Guard>,
    pub(super) lookup: Arc<dyn Lookup>,
    /// Whether this client calls the gateway's own ports.
    pub(super) own: bool,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (guard, lookup, own) = (Arc::clone(&self.guard), Arc::clone(&self.lookup), self.own);
        Box::pin(async move {
            let found = resolve(&guard, &*lookup, name.as_str(), own).await?;
            let found: Addrs = Box::new(found.into_iter().map(|ip| SocketAddr::new(ip, 0)));
            Ok(found)
        })
    }
}
