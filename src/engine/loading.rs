//! Runs come into memory: read in pages, put together from their rows, adopted if they are ours.

use std::collections::hash_map::Entry as Slot;
use std::time::Duration;

use super::objects::equip;
use super::owner::{Entry, Owner, Wake};
use super::{Engine, Wrong};
use crate::machine::{Cause, Run, RunId, Sealed, Turn};
use crate::store::Object;

impl Engine {
    /// Puts a run that was read into memory, if it is ours and not there already.
    pub(super) fn adopt(&self, owner: &mut Owner, loaded: crate::store::Loaded) {
        let id = loaded.run;
        let mail = owner.loading.remove(&id).unwrap_or(false);
        let Some(tenure) = owner.tenure(id.shard()) else { return };
        if loaded.ended.is_some() {
            self.watchers().tell(id, None);
            return;
        }
        if owner.runs.contains_key(&id) {
            if let Some(entry) = owner.runs.get_mut(&id) {
                if let Some(Object::Held(state)) = loaded.object
                    && entry.run.behind.is_some()
                {
                    entry.run.take_object(state);
                }
                entry.queue.push_back(Cause::Drained(loaded.messages));
            }
            self.pump(owner, id);
            return;
        }
        let run =
            Run::recover(id, loaded.ns, &loaded.rows, loaded.parked.is_some(), loaded.closing);
        let mut run = match run {
            Ok(run) => run,
            Err(error) => {
                tracing::error!(run.id = %id, %error, "journal cannot be read; the run stays as it is");
                return;
            }
        };
        equip(&mut run, loaded.object);
        run.home = loaded.home;
        run.gate = loaded.gate;
        run.placed = Some(loaded.placement);
        run.drained = loaded.inbox;
        // How long a callback was silent before is not known: it gets one whole heartbeat.
        run.renew_heartbeats(self.clock().upper());
        run.renew_lease(self.clock().upper());
        // What this owner parked in this term it may go on with: it knows the last epoch.
        let margin = Duration::from_secs(5);
        let known = !owner.unsure.remove(&id) && loaded.parked.is_some() && loaded.rows.len() > 1;
        if known && run.last_at > tenure.since + margin
            || self.faults().does(Wrong::EpochFromTheLastRow)
        {
            run.fresh = false;
        }
        let policy = self.catalog().policy_for(&run);
        let mut entry = Entry::new(run, policy);
        if let Turn::Held { lease, .. } = entry.run.turn {
            entry.silence = lease;
        }
        if !loaded.messages.is_empty() {
            entry.queue.push_back(Cause::Drained(loaded.messages));
        }
        owner.runs.insert(id, entry);
        self.pump(owner, id);
        if mail {
            self.fetch_mail(owner, [id]);
        }
        self.watchers().tell(id, None);
    }

    /// Reads runs into memory, if they are this node's and not there.
    pub(super) fn bring_in(&self, owner: &mut Owner, ids: impl IntoIterator<Item = RunId>) {
        let ids: Vec<RunId> = ids
            .into_iter()
            .filter(|id| {
                owner.tenure(id.shard()).is_some()
                    && !owner.runs.contains_key(id)
                    && !owner.lent.contains_key(id)
                    && match owner.loading.entry(*id) {
                        Slot::Occupied(_) => false,
                        Slot::Vacant(slot) => {
                            slot.insert(false);
                            true
                        }
                    }
            })
            .collect();
        for chunk in ids.chunks(64) {
            let (engine, chunk) = (self.clone(), chunk.to_vec());
            self.spawn(async move { engine.read_in(chunk).await });
        }
    }

    pub(super) async fn read_in(&self, ids: Vec<RunId>) {
        let _permit = self.loads().acquire().await;
        let mut parts = vec![ids];
        while let Some(mut part) = parts.pop() {
            match self.store().load(&part).await {
                Ok(loaded) => {
                    let mut owner = self.owner();
                    for run in loaded {
                        self.adopt(&mut owner, run);
                    }
                    for id in &part {
                        owner.loading.remove(id);
                    }
                }
                Err(error) if error.is_transient() => {
                    tracing::warn!(%error, "cannot read runs yet");
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    let mut owner = self.owner();
                    let Owner { tenures, loading, .. } = &mut *owner;
                    part.retain(|id| {
                        let ours = tenures[usize::from(id.shard().group())].is_some();
                        if !ours {
                            loading.remove(id);
                        }
                        ours
                    });
                    if !part.is_empty() {
                        parts.push(part);
                    }
                }
                Err(error) if part.len() == 1 => {
                    // The poll finds it again, and so will a version that can read it.
                    tracing::error!(run.id = %part[0], %error, "a run cannot be read");
                    self.owner().loading.remove(&part[0]);
                }
                Err(_) => {
                    let half = part.split_off(part.len() / 2);
                    parts.extend([half, part]);
                }
            }
        }
    }

    /// Postgres refuses to record an append of this run: it is set aside, alone.
    pub(super) fn unrecordable(&self, sealed: &Sealed, detail: &str) {
        let mut owner = self.owner();
        let id = sealed.run;
        let Some(entry) = owner.runs.get_mut(&id) else { return };
        tracing::error!(run.id = %id, detail, "Postgres refuses to record this run's rows");
        let attempts = entry.run.claims;
        owner.forget(id);
        owner.unsure.insert(id);
        // Its rows are as they were; it is tried again when something wakes it, which is not at
        // once: what was refused once will be refused again.
        let at = self.clock().upper() + Duration::from_secs(u64::from(attempts + 1) * 30);
        self.wake_at(&mut owner, at, Wake::Run(id));
    }
}
