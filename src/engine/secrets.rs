//! Secrets that calls are made with.

use super::{Engine, Error, Namespace};
use crate::store::SecretRow;

impl Engine {
    /// Sets a secret; whether it is new. Its value is used from now on.
    pub async fn set_secret(
        &self,
        ns: &Namespace,
        name: &str,
        value: &str,
        by: &str,
    ) -> Result<(SecretRow, bool), Error> {
        let set = self.store().set_secret(ns.id, name, value.as_bytes()).await?;
        tracing::info!(name, by, "secret set");
        Ok(set)
    }

    /// All secrets of a namespace, without their values.
    pub async fn list_secrets(&self, ns: &Namespace) -> Result<Vec<SecretRow>, Error> {
        Ok(self.store().list_secrets(ns.id).await?)
    }

    /// Removes a secret; whether there was one.
    pub async fn remove_secret(&self, ns: &Namespace, name: &str, by: &str) -> Result<bool, Error> {
        let known = self.store().remove_secret(ns.id, name).await?;
        tracing::info!(name, by, known, "secret removed");
        Ok(known)
    }
}
