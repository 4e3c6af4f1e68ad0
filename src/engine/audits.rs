//! Who did what: acts through the API are noted before they are done.

use super::{Caller, Engine, Error, Namespace};
use crate::machine::AuditId;
use crate::store::{Act, AuditFilter, AuditRow};

/// What is known of an act beside who does it.
#[derive(Debug, Clone, Default)]
pub struct ActAsked {
    /// From where.
    pub peer: Option<String>,
    /// From where before that, as the request says.
    pub forwarded_for: Option<String>,
    /// The operation.
    pub action: String,
    /// Its path.
    pub target: String,
    /// Why.
    pub reason: Option<String>,
    /// The id of the request.
    pub request_id: String,
}

impl Engine {
    /// Notes an act that is about to be done; without the note it must not be.
    pub async fn note_act(&self, caller: &Caller, asked: ActAsked) -> Result<AuditId, Error> {
        let at = self.clock().upper();
        let id = AuditId::new(at, crate::clock::chance());
        let ActAsked { peer, forwarded_for, action, target, reason, request_id } = asked;
        let (ns, by) = (caller.namespace.id, caller.by.clone());
        let act = Act { id, ns, at, by, peer, forwarded_for, action, target, reason, request_id };
        self.store().note_act(&act).await?;
        Ok(id)
    }

    /// Notes what came of it. Where that fails, the entry has no result.
    pub async fn act_came(&self, ns: &Namespace, id: AuditId, status: u16, code: Option<&str>) {
        if let Err(error) = self.store().act_came(ns.id, id, status, code).await {
            tracing::warn!(audit.id = %id, %error, "what came of an act is not noted");
        }
    }

    /// Acts in a namespace, the newest first.
    pub async fn acts(&self, ns: &Namespace, filter: &AuditFilter) -> Result<Vec<AuditRow>, Error> {
        Ok(self.store().acts(ns.id, filter).await?)
    }
}
