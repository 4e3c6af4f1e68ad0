//! Floor 2: the only place where the machine meets the store and the handlers.
//!
//! A run's way through here: [`start`] creates it through a lane ([`lanes`]); [`owner`] keeps it in
//! memory and turns causes into appends; [`exchange`] invokes its handler; [`attempts`] does its
//! tasks and [`calls`] its calls; [`messages`] brings signals, callbacks and operators' acts;
//! [`outbox`] what runs say to each other; [`timers`] wakes it; [`leases`] decides which node does
//! all that; [`view`], [`reads`] and [`history`] show it. [`bulk`] acts on many at once; [`endpoints`] and [`access`]
//! are about what is registered and who may ask.

mod access;
mod acknowledgement;
mod admission;
mod archive;
mod attempts;
mod audits;
mod barriers;
mod batch;
mod breaker;
mod bulk;
mod bulk_acts;
mod calls;
mod catalog;
mod checkpoint;
mod circuits;
mod deployments;
mod endpoints;
mod erase;
mod errors;
mod events;
mod exchange;
mod expiry;
mod failing;
mod faults;
mod firing;
mod flow;
mod functions;
mod gates;
mod gateway;
mod gathers;
mod history;
mod house;
mod import;
mod invocation;
mod jwt;
mod lanes;
mod leases;
mod limits;
mod lines;
mod listed;
mod loading;
mod messages;
mod namespaces;
mod objects;
mod operator;
mod outbox;
mod owner;
mod plain;
mod probe;
mod pull;
mod queries;
mod reads;
mod recent;
mod removal;
mod replaying;
mod run_filter;
mod schedules;
mod secrets;
mod series;
mod settings;
mod shapes;
mod signing;
mod sql;
mod start;
#[cfg(test)]
mod surface_tests;
mod telling;
mod timers;
mod types;
mod updates;
mod view;
mod watch;
mod webhooks;

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

pub use crate::protocol::LEAST_RETENTION;
pub use crate::store::{
    AuditFilter, AuditRow, BulkCounts, BulkStatus, DeliveryFilter, DeliveryRow, DeliveryStatus,
    Dropped, ImportedItem, ImportedPart, Kept, ListedObject, NamespaceRow, NamespaceSettings,
    RunCount, SecretRow, Webhook, WebhookSpec,
};
pub use access::{bootstrap_key, bootstrap_key_in};
pub use archive::{ArchivePlace, Documents};
pub use audits::ActAsked;
pub use batch::MOST_STARTS;
pub use bulk::{BulkPage, BulkSearch, BulkStarted, BulkView, Foreseen, NewBulk};
pub use bulk_acts::{BulkAction, BulkReason, code_of};
pub use catalog::Catalog;
pub use deployments::{DeploymentView, Repinned, RunsOn};
pub use errors::{ErrorPage, ErrorSearch, ErrorState, ErrorView};
pub use events::{Event, EventFilter, EventMatch, EventRow, MatchCount, Published};
pub use faults::{CRASH_AT, DO_WRONG, Faults, Point, Wrong};
pub use functions::FunctionView;
pub use gateway::GatewayView;
pub use jwt::{JwtKeys, JwtRefused, JwtSettings};
pub use limits::{LimitKey, LimitName, LimitOf, LimitView, PausedView};
pub use namespaces::{NamespaceView, host_pattern};
pub use objects::ObjectView;
pub use operator::{ByHand, Rerun};
pub use pull::{Handout, MOST_TAKEN, PULL};
pub use recent::{Invoked, LAST, Minute, Part, Recent, times};
pub use replaying::{Candidate, Origin, Replayed};
pub use run_filter::{Compared, Fingerprint, RunFilter, RunPlace, RunSort, TagTest};
pub use schedules::*;
pub use series::{Curves, NodeCurves, Window};
pub use settings::Settings;
pub use shapes::*;
pub use types::*;
pub use updates::Answer;
pub use watch::Changes;
pub use webhooks::{MOST_REDELIVERED, ON_COMPLETE, WEBHOOK_EVENTS, WebhookCreated, WebhookPatch};

use crate::clock::Clock;
use crate::machine::{Attention, Limits, NodeId, Run, RunId, Timestamp};
use crate::outbound::Client;
use crate::protocol::{ClusterKeys, ClusterSecret};
use crate::store::{self, Store};
use events::Router;
use firing::Schedules;
use lanes::Lanes;
use leases::Cluster;
use outbox::Outbox;
use owner::Owner;
use watch::Watchers;

/// The engine of one node. Cheap to clone.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    store: Store,
    clock: Clock,
    client: Client,
    keys: ClusterKeys,
    settings: Settings,
    catalog: RwLock<Arc<Catalog>>,
    owner: Mutex<Owner>,
    cluster: Mutex<Cluster>,
    node: Mutex<NodeId>,
    lanes: Lanes,
    outbox: Outbox,
    router: Router,
    bulks: bulk::Bulks,
    schedules: Schedules,
    tellers: telling::Tellers,
    tokens: Option<jwt::Tokens>,
    turnstile: flow::Turnstile,
    desks: pull::Desks,
    archive: archive::Archive,
    walks: expiry::Walks,
    watchers: Watchers,
    api_keys: access::Keys,
    quotas: namespaces::Quotas,
    counted: series::Counted,
    recent: recent::Invocations,
    timer_nudge: Notify,
    loads: Semaphore,
    away: AtomicBool,
    /// The node is no member any more.
    left: CancellationToken,
    stop: CancellationToken,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("address", &self.0.settings.address).finish_non_exhaustive()
    }
}

/// A count as metrics take it; exact up to four billion.
fn counted(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}

/// A lock that a panic elsewhere does not take away: what it protects is checked by the database.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine {
    /// Joins the cluster and begins to drive runs.
    pub async fn begin(
        store: Store,
        clock: Clock,
        client: Client,
        settings: Settings,
    ) -> Result<Self, store::Error> {
        let secret = ClusterSecret::new(store.cluster_secret().await?);
        let catalog = Catalog::of(store.load_catalog().await?, clock.upper());
        let circuits = store.open_circuits().await?;
        let (engine, receivers) = Self::of(store, clock, client, settings, &secret, catalog);
        engine.hear_circuits(&circuits, |_| true, engine.clock().mono());
        receivers.run(&engine);
        macro_rules! keep {
            ($($what:ident)*) => {$({
                let e = engine.clone();
                engine.spawn(async move { e.$what().await });
            })*};
        }
        keep!(keep_time keep_lease keep_horizon keep_house keep_outbox keep_events);
        keep!(keep_schedules keep_bulks keep_telling keep_flow keep_waiting_starts keep_sql keep_count);
        Ok(engine)
    }

    fn of(
        store: Store,
        clock: Clock,
        client: Client,
        settings: Settings,
        secret: &ClusterSecret,
        catalog: Catalog,
    ) -> (Self, lanes::Receivers) {
        let (lanes, receivers) = Lanes::start();
        let node = NodeId::new(clock.upper(), crate::clock::chance());
        let tokens = settings.jwt.is_some().then(jwt::Tokens::new).flatten();
        let engine = Self(Arc::new(Inner {
            keys: ClusterKeys::derive(secret),
            store,
            clock,
            client,
            archive: archive::Archive::at(settings.archive.clone()),
            settings,
            catalog: RwLock::new(Arc::new(catalog)),
            owner: Mutex::new(Owner::new()),
            cluster: Mutex::new(Cluster::default()),
            node: Mutex::new(node),
            lanes,
            outbox: Outbox::default(),
            router: Router::default(),
            bulks: bulk::Bulks::default(),
            schedules: Schedules::default(),
            tellers: telling::Tellers::default(),
            tokens,
            turnstile: flow::Turnstile::default(),
            desks: pull::Desks::default(),
            walks: expiry::Walks::default(),
            watchers: Watchers::default(),
            api_keys: access::Keys::default(),
            quotas: namespaces::Quotas::default(),
            counted: series::Counted::default(),
            recent: recent::Invocations::default(),
            timer_nudge: Notify::new(),
            loads: Semaphore::new(8),
            away: AtomicBool::new(false),
            left: CancellationToken::new(),
            stop: CancellationToken::new(),
        }));
        (engine, receivers)
    }

    /// An engine whose Postgres is away for ever.
    #[cfg(test)]
    pub(crate) fn without_database() -> Self {
        let settings = Settings {
            public_url: "http://127.0.0.1:1".to_owned(),
            address: "http://127.0.0.1:1".to_owned(),
            sign_publicly: false,
            limits: Limits::default(),
            retention: Duration::from_hours(1),
            archive: None,
            jwt: None,
            faults: Faults::default(),
        };
        let client = Client::new(crate::outbound::Guard::dev()).expect("a client can be made");
        let secret = ClusterSecret::new([7; 32]);
        let (store, clock) = (Store::nowhere(), Clock::system());
        let (engine, _) = Self::of(store, clock, client, settings, &secret, Catalog::default());
        engine.postgres_away(true);
        engine
    }

    /// Leaves the cluster in order: opens no exchange any more, hands each group over as soon as
    /// nothing is open in it, and after `grace` the rest. What is asked of it from then on it
    /// answers as any node that drives nothing. To be halted afterwards.
    pub async fn leave(&self, grace: Duration) {
        self.owner().leaving = true;
        self.ask_to_leave(|_| true);
        let until = self.clock().mono() + grace;
        // The others are to know that its share is theirs before its groups are free.
        if let Err(error) = self.store().tick(&self.beat(), None).await {
            tracing::warn!(%error, "cannot say that this node is leaving");
        }
        loop {
            self.hand_over(usize::MAX).await;
            if self.held().is_empty() || self.clock().mono() >= until {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.give_up(&self.held()).await;
        self.0.left.cancel();
        self.drop_everything();
        if let Err(error) = self.store().leave(self.node()).await {
            tracing::warn!(%error, "cannot leave the cluster; the lease will pass by itself");
        }
    }

    pub(super) fn has_left(&self) -> bool {
        self.0.left.is_cancelled()
    }

    /// Stops at once, as if the process had been killed: the others find out by the lease.
    pub fn halt(&self) {
        self.0.stop.cancel();
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.0.stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Whether [`Engine::halt`] was called: what comes back now is nobody's business any more.
    fn halted(&self) -> bool {
        self.0.stop.is_cancelled()
    }

    // --- parts ---------------------------------------------------------------------------------

    pub(super) fn store(&self) -> &Store {
        &self.0.store
    }
    fn faults(&self) -> &Faults {
        &self.0.settings.faults
    }
    pub(super) fn clock(&self) -> &Clock {
        &self.0.clock
    }
    pub(super) fn client(&self) -> &Client {
        &self.0.client
    }
    pub(super) fn keys(&self) -> &ClusterKeys {
        &self.0.keys
    }
    fn lanes(&self) -> &Lanes {
        &self.0.lanes
    }
    fn outbox(&self) -> &Outbox {
        &self.0.outbox
    }
    fn turnstile(&self) -> &flow::Turnstile {
        &self.0.turnstile
    }
    fn router(&self) -> &Router {
        &self.0.router
    }
    fn bulks(&self) -> &bulk::Bulks {
        &self.0.bulks
    }
    fn schedules_known(&self) -> &Schedules {
        &self.0.schedules
    }
    fn watchers(&self) -> &Watchers {
        &self.0.watchers
    }
    fn quotas(&self) -> &namespaces::Quotas {
        &self.0.quotas
    }
    fn recent(&self) -> &recent::Invocations {
        &self.0.recent
    }
    fn api_keys(&self) -> &access::Keys {
        &self.0.api_keys
    }
    /// Limits of runs.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.0.settings.limits
    }
    pub(super) fn public_url(&self) -> &str {
        &self.0.settings.public_url
    }
    pub(super) fn address(&self) -> &str {
        &self.0.settings.address
    }
    /// Taken before any other lock: who holds another one must not ask for this one.
    fn owner(&self) -> MutexGuard<'_, Owner> {
        lock(&self.0.owner)
    }
    fn cluster(&self) -> MutexGuard<'_, Cluster> {
        lock(&self.0.cluster)
    }
    pub(super) fn node(&self) -> NodeId {
        *lock(&self.0.node)
    }
    pub(super) fn renew_node_id(&self) {
        *lock(&self.0.node) = NodeId::new(self.clock().upper(), crate::clock::chance());
    }
    pub(super) fn timer_nudge(&self) -> &Notify {
        &self.0.timer_nudge
    }
    pub(super) fn nudge_timers(&self) {
        self.0.timer_nudge.notify_one();
    }
    pub(super) fn loads(&self) -> &Semaphore {
        &self.0.loads
    }
    /// What is registered, as of now.
    pub(super) fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.0.catalog.read().unwrap_or_else(PoisonError::into_inner))
    }
    pub(super) fn set_catalog(&self, catalog: Catalog) {
        *self.0.catalog.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(catalog);
    }
    fn circuit(&self, endpoint: i32) -> Option<breaker::Circuit> {
        self.owner().breakers.get(&endpoint).map(|b| b.circuit().clone())
    }

    /// Notes whether Postgres can be reached.
    pub(super) fn postgres_away(&self, away: bool) {
        if self.0.away.swap(away, Ordering::Relaxed) != away {
            if away {
                tracing::error!("Postgres is away");
            } else {
                tracing::info!("Postgres is back");
            }
        }
    }

    /// Whether new work is taken.
    fn admit(&self) -> Result<(), Error> {
        if self.0.away.load(Ordering::Relaxed) {
            return Err(Error::busy("Postgres is away"));
        }
        Ok(())
    }

    // --- what every caller may ask -------------------------------------------------------------

    /// The cluster's time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock().upper()
    }

    /// A moment of this process, which never goes back.
    #[must_use]
    pub fn steady(&self) -> Timestamp {
        self.clock().steady()
    }

    /// Whether this node can serve.
    pub async fn ready(&self) -> Result<(), Error> {
        self.admit()?;
        if self.owner().leaving {
            return Err(Error::stopping());
        }
        if !self.lease_holds() {
            return Err(Error::busy("this node has not joined the cluster yet"));
        }
        self.store().now().await?;
        Ok(())
    }

    /// Begins to watch a run.
    #[must_use]
    pub fn changes(&self, run: RunId) -> Changes {
        self.watchers().watch(run)
    }

    /// A run as it stands. Nothing is shown that is not committed.
    pub async fn view(&self, ns: &Namespace, run: RunId) -> Result<RunView, Error> {
        let look = |run: &Run, gated, parked| {
            let view = self.view_of(run, gated, parked);
            let queued = matches!(view.status, Status::Queued);
            (view, if queued { self.catalog().barriers(run) } else { Vec::new() })
        };
        let found = self.with_run_and_gate(Some(ns.id), run, look).await;
        let (mut view, limits) = match found {
            Err(Error::RunNotFound(run)) => match self.not_yet(ns, run).await? {
                Some(view) => return Ok(view),
                // It may have begun between the two looks.
                None => self.with_run_and_gate(Some(ns.id), run, look).await?,
            },
            found => found?,
        };
        if !limits.is_empty() {
            view.attention = self.why_queued(run, limits).await.or(view.attention);
        }
        Ok(view)
    }

    /// A run when it has ended, or as it stands when the time is up.
    pub async fn wait_end(
        &self,
        ns: &Namespace,
        run: RunId,
        at_most: Duration,
    ) -> Result<RunView, Error> {
        let mut changes = self.changes(run);
        let view = self.view(ns, run).await?;
        if view.status.ended() {
            return Ok(view);
        }
        let ended = async {
            loop {
                changes.changed().await;
                if let Some(view) = changes.ended() {
                    return Ok(view);
                }
                // Not driven here (any more): look at what is recorded.
                if !self.owner().runs.contains_key(&run) {
                    let view = self.view(ns, run).await?;
                    if view.status.ended() {
                        return Ok(Arc::new(view));
                    }
                }
            }
        };
        match tokio::time::timeout(at_most, ended).await {
            Ok(view) => view.map(|v: Arc<RunView>| (*v).clone()),
            Err(_) => self.view(ns, run).await,
        }
    }

    /// Looks at a run: in memory if this node drives it, else as it is recorded.
    pub(super) async fn with_run<T>(
        &self,
        ns: &Namespace,
        run: RunId,
        look: impl Fn(&Run) -> T,
    ) -> Result<T, Error> {
        self.with_run_and_gate(Some(ns.id), run, |run, _, _| look(run)).await
    }

    /// The same for who does not come with a namespace but with an address that names the run.
    pub(super) async fn with_any_run<T>(
        &self,
        run: RunId,
        look: impl Fn(&Run) -> T,
    ) -> Result<T, Error> {
        self.with_run_and_gate(None, run, |run, _, _| look(run)).await
    }

    async fn with_run_and_gate<T>(
        &self,
        ns: Option<i32>,
        id: RunId,
        look: impl Fn(&Run, bool, Option<Attention>) -> T,
    ) -> Result<T, Error> {
        let mut changes = self.changes(id);
        let in_memory = async {
            loop {
                {
                    let owner = self.owner();
                    // A node whose lease has passed never answers from memory.
                    let holds = owner.lease_until > self.clock().mono();
                    let entry = owner.runs.get(&id).filter(|_| holds)?;
                    if ns.is_some_and(|ns| ns != entry.run.ns) {
                        return Some(Err(Error::RunNotFound(id)));
                    }
                    if entry.in_flight.is_none() {
                        let gated = entry.gated || entry.gated_work;
                        let parked = gated.then(|| self.why_parked(&owner, &entry.run));
                        return Some(Ok(look(&entry.run, gated, parked.flatten())));
                    }
                }
                changes.changed().await;
            }
        };
        if let Ok(Some(found)) = tokio::time::timeout(Duration::from_secs(2), in_memory).await {
            return found;
        }
        let loaded = self.store().load(&[id]).await?.into_iter().next();
        let loaded = loaded.filter(|l| ns.is_none_or(|ns| ns == l.ns));
        let loaded = loaded.ok_or(Error::RunNotFound(id))?;
        let parked = loaded.parked.is_some();
        let mut run = Run::recover(id, loaded.ns, &loaded.rows, parked, loaded.closing)
            .map_err(|e| Error::corrupt(&e.to_string()))?;
        run.home = loaded.home;
        objects::equip(&mut run, loaded.object);
        // It waits out of memory until what keeps it is gone.
        let gated = loaded.gate.is_some() && !run.ended();
        let why = if gated { self.why_parked(&self.owner(), &run) } else { None };
        Ok(look(&run, gated, why))
    }
}
