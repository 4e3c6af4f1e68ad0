//! Who waits for a run: long polls and event streams, told at each commit, never polling.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::RunView;
use crate::machine::RunId;

/// What watchers of a run see: a count of commits, and the run itself once it has ended.
#[derive(Debug, Clone, Default)]
struct State {
    commits: u64,
    ended: Option<Arc<RunView>>,
}

/// All watched runs.
#[derive(Debug, Clone, Default)]
pub(super) struct Watchers(Arc<Mutex<HashMap<RunId, watch::Sender<State>>>>);

impl Watchers {
    /// Begins to watch a run: whatever is committed from now on is seen.
    #[must_use]
    pub(super) fn watch(&self, run: RunId) -> Changes {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = map.entry(run).or_default().subscribe();
        drop(map);
        Changes { run, seen: Some(seen), all: self.clone() }
    }

    /// Whether anybody watches this run.
    #[must_use]
    pub(super) fn watched(&self, run: RunId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&run)
    }

    /// Something of this run was committed; `ended` gives the run where that was its end.
    pub(super) fn tell(&self, run: RunId, ended: Option<RunView>) {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = map.get(&run) {
            sender.send_modify(|state| {
                state.commits += 1;
                if let Some(view) = ended {
                    state.ended = Some(Arc::new(view));
                }
            });
        }
    }

    /// This run goes on after its end.
    pub(super) fn reopened(&self, run: RunId) {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = map.get(&run) {
            sender.send_modify(|state| {
                state.commits += 1;
                state.ended = None;
            });
        }
    }

    /// Everybody looks again: this node has lost or won runs.
    pub(super) fn tell_all(&self) {
        self.tell_all_but(&[]);
    }

    /// Whoever watches a run of other groups looks again.
    pub(super) fn tell_all_but(&self, groups: &[i16]) {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (run, sender) in map.iter() {
            if !groups.contains(&i16::from(run.shard().group())) {
                sender.send_modify(|state| state.commits += 1);
            }
        }
    }

    /// The last watcher of a run takes its entry along: under the lock, so that of two who leave at
    /// once one is the last.
    fn leave(&self, run: RunId, seen: Option<watch::Receiver<State>>) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(seen);
        if map.get(&run).is_some_and(|sender| sender.receiver_count() == 0) {
            map.remove(&run);
        }
    }
}

/// One watcher of one run.
#[derive(Debug)]
pub struct Changes {
    run: RunId,
    /// There until this is dropped.
    seen: Option<watch::Receiver<State>>,
    all: Watchers,
}

impl Changes {
    /// Returns when something of the run was committed since the last call.
    pub async fn changed(&mut self) {
        let Some(seen) = &mut self.seen else { return std::future::pending().await };
        if seen.changed().await.is_err() {
            // The sender lives as long as there is a receiver.
            std::future::pending::<()>().await;
        }
    }

    /// The run, if its end was committed here while it was watched.
    #[must_use]
    pub fn ended(&self) -> Option<Arc<RunView>> {
        self.seen.as_ref()?.borrow().ended.clone()
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.all.leave(self.run, self.seen.take());
    }
}
