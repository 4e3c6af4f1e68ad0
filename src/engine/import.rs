//! Runs that ended elsewhere: recorded as ended, read as any other.

use bytes::Bytes;
use serde_json::json;

use super::view::status_of;
use super::{Engine, Error, HistoryItem, LogItem, Namespace, RunView, SignalItem, SignalState};
use crate::machine::{DeploymentId, Import, LogLine, LogPart, Run, RunId};
use crate::store::{Imported, ImportedItem, ImportedPart, NewImport, Store};

impl Engine {
    /// Records a run that ended elsewhere, and what is told about it. Returns whether it is new: a
    /// run of this namespace that has the id already is left as it is. It keeps its id unless a run of
    /// another namespace has that; then it has another one, always the same.
    pub async fn import(
        &self,
        ns: &Namespace,
        import: Import,
        deployment: Option<DeploymentId>,
        told: Vec<ImportedItem>,
    ) -> Result<(RunView, bool), Error> {
        self.admit()?;
        let own = import.id;
        let mut import = import;
        let mut told = told;
        let now = self.clock().upper();
        let by = import.created.imported.as_ref().map(|i| i.by.clone()).unwrap_or_default();
        let of_history = told.iter().filter(|i| i.part == ImportedPart::History as i16);
        told.push(ImportedItem {
            part: ImportedPart::History as i16,
            n: of_history.map(|i| i.n).max().map_or(0, |n| n + 1),
            at: now,
            number: 0,
            name: "run.imported".to_owned(),
            text: by,
            body: Some(Bytes::from(json!({ "id": own }).to_string())),
        });
        let catalog = self.fresh_catalog().await?;
        let known = deployment.and_then(|id| catalog.deployment_named(id));
        let ours = |id: i32| catalog.recorded.endpoints.iter().any(|e| e.id == id && e.ns == ns.id);
        let dep = known.filter(|d| ours(d.endpoint.id)).map_or(0, |d| d.id);
        let mut outcome = Imported::Taken;
        for id in [own, own.in_namespace(&ns.name)] {
            import.id = id;
            let rows = import.rows(ns.id, dep, now);
            let rows = rows.map_err(|e| Error::Invalid("/journal".to_owned(), e.to_string()))?;
            let created = &import.created;
            let new = NewImport {
                run: id,
                ns: ns.id,
                function: created.function.clone(),
                dep,
                status: import.end.code(),
                key: created.key.clone(),
                parent: created.parent.as_ref().map(|p| p.run.uuid()),
                schedule: created.schedule.as_ref().map(|s| s.id.uuid()),
                tags: serde_json::to_string(&created.tags).unwrap_or_else(|_| "{}".to_owned()),
                custom_status: import
                    .custom_status
                    .as_ref()
                    .map(|status| Bytes::from(status.get().to_owned())),
                created_at: import.created_at,
                ended_at: import.ended_at,
                at: now,
                generation: import.generation,
                rows,
                told: told.clone(),
            };
            outcome = self.store().import(&new).await?;
            if outcome != Imported::Taken {
                break;
            }
        }
        match outcome {
            Imported::Done => tracing::info!(run.id = %import.id, "a run was imported"),
            Imported::Known => {}
            Imported::Taken => return Err(Error::busy("its id is taken")),
        }
        Ok((self.view(ns, import.id).await?, outcome == Imported::Done))
    }

    pub(super) async fn imported_history(
        &self,
        run: RunId,
        after: i64,
        limit: usize,
    ) -> Result<Vec<HistoryItem>, Error> {
        let most = i64::try_from(limit).unwrap_or(i64::MAX);
        let items = self.store().imported(run, &[ImportedPart::History], None, after, most).await?;
        let item = |i: ImportedItem| HistoryItem {
            n: i.n,
            epoch: i.number,
            at: i.at,
            what: i.name,
            by: i.text,
            data: i.body.unwrap_or_else(|| Bytes::from_static(b"{}")),
        };
        Ok(items.into_iter().map(item).collect())
    }

    pub(super) async fn imported_logs(
        &self,
        run: RunId,
        which: LogPart<'_>,
        after: i64,
        limit: usize,
    ) -> Result<Vec<LogItem>, Error> {
        let most = i64::try_from(limit).unwrap_or(i64::MAX);
        let (parts, name) = Store::imported_parts(which);
        let items = self.store().imported(run, parts, name, after, most).await?;
        let item = |i: ImportedItem| {
            let chunk = i.part == ImportedPart::Outputs as i16;
            let (level, stream) =
                if chunk { (String::new(), Some(i.name)) } else { (i.name, None) };
            let line = LogLine { at: i.at, level, message: i.text, fields: i.body, stream };
            LogItem { n: i.n, line }
        };
        Ok(items.into_iter().map(item).collect())
    }

    pub(super) async fn imported_signals(&self, run: RunId) -> Result<Vec<SignalItem>, Error> {
        let items =
            self.store().imported(run, &[ImportedPart::Signals], None, -1, i64::MAX).await?;
        let item = |i: ImportedItem| {
            let step = Some(i.text).filter(|step| !step.is_empty());
            let state = if step.is_some() { SignalState::Taken } else { SignalState::Untaken };
            let bytes = usize::try_from(i.number).unwrap_or(0);
            SignalItem { name: i.name, at: i.at, bytes, state, step }
        };
        Ok(items.into_iter().map(item).collect())
    }
}

/// Refuses to go on with what ended elsewhere.
pub(super) fn ended_here(it: &Run) -> Result<(), Error> {
    match &it.created.imported {
        None => Ok(()),
        Some(imported) => Err(Error::InvalidState {
            run: it.id,
            status: status_of(it, false, false, imported.at),
            detail: "it was imported, and may have gone on elsewhere; start it again with `rerun`"
                .to_owned(),
        }),
    }
}
