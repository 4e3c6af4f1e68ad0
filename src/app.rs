//! Puts the floors together: what `dev`, `serve`, `migrate` and `doctor` do.

use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::api::{self, ApiState, Demo, RateLimits};
use crate::cli::{
    Algorithm, ArchiveUrl, Database, DevArgs, DoctorArgs, JwtArgs, KeyCreate, MigrateAction,
    ServeArgs,
};
use crate::clock::Clock;
use crate::dev::{self, Banner, DataDir, DemoHandler, Handler, PrivatePostgres, asked_to_end};
use crate::engine::{
    ArchivePlace, Caller, Engine, Faults, JwtKeys, JwtSettings, Namespace, RegisterOutcome,
    Registration, Scope, Scopes, Settings, bootstrap_key_in,
};
use crate::machine::Limits;
use crate::outbound::{Client, Guard};
use crate::protocol::{JwtAlgorithm, JwtKey};
use crate::store::Store;

/// Connections of the pool, beside the lanes.
const POOL: u32 = 12;
/// How long ended runs are kept.
const RETENTION: Duration = Duration::from_hours(30 * 24);
/// How long open exchanges may go on when a node is asked to stop.
const DRAIN: Duration = Duration::from_secs(10);
/// The same for `dev`, where somebody waits for the prompt.
const DEV_DRAIN: Duration = Duration::from_millis(500);

/// What a running gateway consists of.
struct Gateway {
    engine: Engine,
    served: tokio::task::JoinHandle<std::io::Result<()>>,
    stop: CancellationToken,
}

impl Gateway {
    async fn start(
        store: Store,
        listener: TcpListener,
        settings: Settings,
        guard: Guard,
        rates: RateLimits,
        dev: Option<(Caller, Option<(Demo, DemoHandler)>)>,
    ) -> anyhow::Result<Self> {
        let client = Client::new(guard)?;
        let engine = Engine::begin(store, Clock::system(), client, settings).await?;
        let stop = CancellationToken::new();
        let mut state = ApiState::new(engine.clone(), stop.clone()).with_rate_limits(rates);
        let mut beside = axum::Router::new();
        if let Some((caller, demo)) = dev {
            state = state.without_keys_on_loopback(caller);
            if let Some((demo, handler)) = demo {
                state = state.with_demo(demo);
                beside = handler.router();
            }
        }
        let router = api::router(state).merge(beside);
        let served = tokio::spawn(api::serve(listener, router, stop.clone()));
        Ok(Self { engine, served, stop })
    }

    async fn stop(self, drain: Duration) -> anyhow::Result<()> {
        self.engine.leave(drain).await;
        self.stop.cancel();
        let served = self.served.await.context("the server ended badly");
        // Last, for requests that were open need the lanes.
        self.engine.halt();
        served??;
        Ok(())
    }

    /// Returns when the node has joined the cluster and can serve.
    async fn ready(&self) -> anyhow::Result<()> {
        for _ in 0..300 {
            if self.engine.ready().await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("the gateway did not become ready within 15 s; is Postgres reachable?")
    }
}

/// `stepwell dev`: everything that a developer needs, until Ctrl-C.
pub async fn dev(args: DevArgs) -> anyhow::Result<()> {
    let address = SocketAddr::new(args.listen, args.port);
    let listener = listen(address).await?;
    let url = format!("http://{}", reachable(listener.local_addr()?));
    let Some(given) = &args.database_url else {
        let dir =
            if args.ephemeral { DataDir::ephemeral() } else { DataDir::open(&args.data_dir) }?;
        dir.announce(&url)?;
        let postgres = PrivatePostgres::start(dir).await?;
        let store = Store::connect(postgres.url(), POOL).await?;
        let secret = postgres.data_dir().signing_secret()?;
        return dev_with(args, store, Some(postgres), listener, url, secret).await;
    };
    let dir = DataDir::open(&args.data_dir)?;
    let store = Store::connect(given.expose(), POOL).await?;
    let secret = dir.signing_secret()?;
    dev_with(args, store, None, listener, url, secret).await
}

async fn dev_with(
    args: DevArgs,
    store: Store,
    mut private: Option<PrivatePostgres>,
    listener: TcpListener,
    url: String,
    signing_secret: String,
) -> anyhow::Result<()> {
    store.migrate_up().await?;
    if args.demo && !args.listen.is_loopback() {
        bail!("--demo is for loopback alone; leave --listen out");
    }
    let settings = settings(url.clone(), url.clone());
    let demo = Demo {
        function: DemoHandler::FUNCTION,
        url: format!("{url}{}", DemoHandler::PATH),
        secret: signing_secret.clone(),
    };
    let offered = args.listen.is_loopback();
    let offered = offered.then(|| DemoHandler::new(&demo.secret)).transpose()?;
    let offered = offered.map(|handler| (demo.clone(), handler));
    let local = (local(), offered);
    let gateway =
        Gateway::start(store, listener, settings, Guard::dev(), RateLimits::default(), Some(local))
            .await?;
    gateway.ready().await?;
    let database = match (&private, &args.database_url) {
        (Some(postgres), _) => dev::Database::Private {
            major: postgres.major(),
            dir: &args.data_dir,
            files: &postgres.files(),
            kept: !args.ephemeral,
        },
        (None, given) => dev::Database::Given(given.as_ref().map_or("", |g| g.expose())),
    };
    let banner = Banner { version: env!("CARGO_PKG_VERSION"), address: &url, database };
    say(&if std::io::stderr().is_terminal() { format!("{banner:#}") } else { banner.to_string() });
    if args.listen.is_loopback() {
        tokio::spawn(offer(gateway.engine.clone(), demo, args.demo, url.clone()));
    }
    let mut handler = None;
    if !args.command.is_empty() {
        let command: Vec<String> =
            args.command.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        handler = Some(Handler::spawn(&command, &url, &signing_secret)?);
    }
    for endpoint in &args.endpoints {
        let secret = (!args.command.is_empty()).then(|| signing_secret.clone());
        let (engine, endpoint) = (gateway.engine.clone(), endpoint.clone());
        tokio::spawn(register_when_up(engine, endpoint, secret));
    }
    let died = wait_for_the_end(&mut private, &mut handler).await?;
    if let Some(handler) = handler {
        handler.stop().await?;
    }
    let stopped = gateway.stop(DEV_DRAIN).await;
    if let Some(postgres) = private {
        postgres.stop().await?;
    }
    if let Some(tail) = died {
        bail!("Postgres has ended; the end of its log says:\n{tail}");
    }
    stopped
}

/// Who is on this machine and sends no key.
fn local() -> Caller {
    let namespace = Namespace { id: 1, name: "default".to_owned() };
    Caller { namespace, by: "local".to_owned(), scopes: Scopes::ALL }
}

/// Starts a run of the demo where that is asked for. A demo of an earlier time may have had another
/// port or secret: it is registered anew.
async fn offer(engine: Engine, demo: Demo, start: bool, url: String) {
    let caller = local();
    if start {
        match demo.begin(&engine, &caller).await {
            Ok(run) => say(&format!("  Demo       {url}/runs/{}", run.id)),
            Err(problem) => tracing::warn!(?problem, "the demo does not start"),
        }
    } else if demo.is_registered(&engine, &caller).await.unwrap_or_default()
        && let Err(problem) = demo.register(&engine, &caller).await
    {
        tracing::warn!(?problem, "the demo cannot be called");
    }
}

/// Registers the handler at `url` once it answers discovery, and says so.
async fn register_when_up(engine: Engine, url: url::Url, secret: Option<String>) {
    let namespace = Namespace { id: 1, name: "default".to_owned() };
    let mut said = false;
    loop {
        let name = url.host_str().map_or_else(String::new, |host| {
            format!("{host}-{}", url.port_or_known_default().unwrap_or_default())
        });
        let registration =
            Registration::discovered(name, url.to_string(), secret.clone(), "local".to_owned());
        match engine.register_endpoint(&namespace, registration).await {
            Ok(RegisterOutcome::Registered(done)) => {
                let functions = done.endpoint.functions.join(", ");
                say(&format!("  registered {url}: {functions}"));
                if let Some(secret) = done.secret {
                    say(&format!("  its signing secret (shown once): {secret}"));
                }
                return;
            }
            Ok(RegisterOutcome::ProbeFailed(stages)) if !said => {
                said = true;
                for stage in stages.iter().filter(|s| s.ok == Some(false)) {
                    let fix = stage.fix.as_deref().unwrap_or("it is tried again until it works");
                    say(&format!("  {url}: {}: {}; {fix}", stage.name, stage.detail));
                }
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%url, %error, "cannot register yet"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Returns when somebody asks to end, or with the end of Postgres' log when it is gone.
async fn wait_for_the_end(
    private: &mut Option<PrivatePostgres>,
    handler: &mut Option<Handler>,
) -> anyhow::Result<Option<String>> {
    let end = asked_to_end();
    tokio::pin!(end);
    loop {
        let postgres_died = async {
            match private {
                Some(postgres) => postgres.died().await,
                None => std::future::pending().await,
            }
        };
        let handler_exited = async {
            match handler {
                Some(handler) => handler.exited().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            asked = &mut end => {
                say(&format!("  stopping ({})", asked?));
                return Ok(None);
            }
            tail = postgres_died => return Ok(Some(tail)),
            status = handler_exited => {
                let command = handler.as_ref().map_or("", |h| h.command()).to_owned();
                say(&format!("  `{command}` has ended ({}); the gateway goes on", status?));
                *handler = None;
            }
        }
    }
}

/// `stepwell serve`: one node of a cluster, until it is asked to stop.
pub async fn serve(args: ServeArgs) -> anyhow::Result<()> {
    let store = Store::connect(args.database.database_url.expose(), POOL).await?;
    let missing: Vec<String> = store
        .migrate_status()
        .await?
        .into_iter()
        .filter(|m| m.applied_at.is_none())
        .map(|m| m.description.to_owned())
        .collect();
    if !missing.is_empty() {
        bail!(
            "the database lacks {} migrations ({}): run `stepwell migrate up` first",
            missing.len(),
            missing.join(", ")
        );
    }
    let listener = listen(args.listen).await?;
    let here = listener.local_addr()?;
    let trimmed = |url: &url::Url| url.as_str().trim_end_matches('/').to_owned();
    let address =
        args.advertise.as_ref().map_or_else(|| format!("http://{}", reachable(here)), trimmed);
    let public_url = args.public_url.as_ref().map_or_else(|| address.clone(), trimmed);
    let guard = if args.allow_private_endpoints { open_guard() } else { Guard::default() };
    let (sign_publicly, retention) = (args.sign_publicly, args.retention);
    let archive = args.archive.as_ref().map(archive_place).transpose();
    let archive = archive.map_err(anyhow::Error::msg)?;
    if let Some(place) = &archive {
        place.check().await.map_err(anyhow::Error::msg)?;
    }
    let jwt = jwt_settings(&args.jwt)?;
    let settings =
        Settings { sign_publicly, retention, archive, jwt, ..settings(public_url, address) };
    let rates = RateLimits { key: args.rate_limit.0, address: args.address_rate_limit.0 };
    let gateway = Gateway::start(store, listener, settings, guard, rates, None).await?;
    gateway.ready().await?;
    tracing::info!(listen = %here, "stepwell serves");
    let asked = asked_to_end().await?;
    tracing::info!(signal = asked, "stopping");
    gateway.stop(DRAIN).await
}

/// `stepwell migrate`.
pub async fn migrate(action: MigrateAction) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match action {
        MigrateAction::Up(database) => {
            let store = connect(&database).await?;
            let before = store.migrate_status().await?;
            store.migrate_up().await?;
            for m in before.iter().filter(|m| m.applied_at.is_none()) {
                writeln!(out, "applied {:04} {}", m.version, m.description)?;
            }
            if before.iter().all(|m| m.applied_at.is_some()) {
                writeln!(out, "nothing to do: the schema is up to date")?;
            }
        }
        MigrateAction::Status(database) => {
            for m in connect(&database).await?.migrate_status().await? {
                let when = m.applied_at.map_or_else(|| "missing".to_owned(), |at| at.to_string());
                writeln!(out, "{:04}  {when:<24}  {}", m.version, m.description)?;
            }
        }
        MigrateAction::Print { from } => {
            out.write_all(Store::migrate_print(from.unwrap_or(0)).as_bytes())?;
        }
    }
    Ok(())
}

async fn connect(database: &Database) -> anyhow::Result<Store> {
    Ok(Store::connect(database.database_url.expose(), 2).await?)
}

/// `stepwell key create --database-url`: the first key, which no key can be asked for.
pub async fn first_key(key: &KeyCreate) -> anyhow::Result<()> {
    let url = key.database_url.as_ref().context("--database-url is missing")?;
    let store = Store::connect(url.expose(), 2).await?;
    // The command line has admitted known scopes only.
    let scopes: Scopes = key.scopes.iter().filter_map(|s| Scope::from_word(s)).collect();
    let namespace = key.namespace.as_deref().unwrap_or("default");
    let (_, text) = bootstrap_key_in(&store, namespace, &key.name, scopes).await?;
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

/// `stepwell doctor`: looks at everything a node needs, says what is wrong, and fails if anything is.
pub async fn doctor(args: DoctorArgs) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let mut faults = 0;
    let mut check = |ok: bool, what: &str| -> std::io::Result<()> {
        faults += usize::from(!ok);
        writeln!(out, "{} {what}", if ok { "ok   " } else { "FAULT" })
    };
    let store = match connect(&args.database).await {
        Ok(store) => store,
        Err(error) => {
            check(false, &format!("the database cannot be reached: {error:#}"))?;
            bail!("1 fault");
        }
    };
    check(true, "the database can be reached")?;
    match args.archive.as_ref().map(archive_place) {
        None => {}
        Some(Err(why)) => check(false, &why)?,
        Some(Ok(place)) => match place.check().await {
            Ok(()) => check(true, &format!("the archive {} can be written", place.name()))?,
            Err(why) => check(false, &why)?,
        },
    }
    let clock = Clock::system();
    let ours = clock.upper();
    let theirs = store.now().await?;
    let skew = ours.since(theirs).max(theirs.since(ours));
    check(
        skew < Duration::from_secs(5),
        &format!(
            "this machine's clock and the database's differ by {} ms (harmless to runs; certificates may mind)",
            skew.as_millis()
        ),
    )?;
    let missing = store.migrate_status().await?.iter().filter(|m| m.applied_at.is_none()).count();
    check(missing == 0, &format!("{missing} migrations are missing (`stepwell migrate up`)"))?;
    if missing == 0 {
        let findings = store.audit().await?;
        check(findings.is_empty(), &format!("{} broken invariants in the data", findings.len()))?;
        for finding in &findings {
            check(false, &format!("  {finding:?}"))?;
        }
        let catalog = store.load_catalog().await?;
        let client = Client::new(open_guard())?;
        for endpoint in &catalog.endpoints {
            let Ok(url) = endpoint.url.parse() else {
                check(
                    false,
                    &format!("endpoint {}: {} is not a URL", endpoint.name, endpoint.url),
                )?;
                continue;
            };
            for stage in client.probe_connect(&url).await.stages {
                let fix = stage.fix.map(|fix| format!(" Fix: {fix}")).unwrap_or_default();
                if stage.ok != Some(true) {
                    check(
                        stage.ok.is_none(),
                        &format!(
                            "endpoint {}: {}: {}{fix}",
                            endpoint.name, stage.name, stage.detail
                        ),
                    )?;
                }
            }
        }
        check(true, &format!("{} endpoints were probed", catalog.endpoints.len()))?;
    }
    if faults > 0 {
        bail!("{faults} faults");
    }
    Ok(())
}

/// Where ended runs are written to; who asks a store of objects, and where it is, is in the environment.
fn archive_place(url: &ArchiveUrl) -> Result<ArchivePlace, String> {
    match url {
        ArchiveUrl::Folder(path) => Ok(ArchivePlace::folder(path.clone())),
        ArchiveUrl::Bucket { name, prefix } => {
            let environment = std::env::vars_os();
            let text =
                environment.filter_map(|(k, v)| k.into_string().ok().zip(v.into_string().ok()));
            ArchivePlace::bucket(name, prefix, text)
        }
    }
}

fn settings(public_url: String, address: String) -> Settings {
    Settings {
        public_url,
        address,
        sign_publicly: false,
        limits: Limits::default(),
        retention: RETENTION,
        archive: None,
        jwt: None,
        faults: Faults::armed(),
    }
}

/// Whose JWTs are taken, or why what was given is not safe.
fn jwt_settings(args: &JwtArgs) -> anyhow::Result<Option<JwtSettings>> {
    let Some((issuer, audience)) = args.jwt_issuer.clone().zip(args.jwt_audience.clone()) else {
        return Ok(None);
    };
    let keys = match (&args.jwt_secret, &args.jwt_jwks_url, &args.jwt_jwks_file) {
        (Some(secret), ..) => {
            let key = JwtKey::secret(secret.expose().as_bytes());
            JwtKeys::Secret(key.map_err(|why| anyhow::anyhow!("--jwt-secret {why}"))?)
        }
        (_, Some(url), _) => JwtKeys::Url(url.clone()),
        (.., Some(file)) => JwtKeys::File(file.clone()),
        _ => bail!("--jwt-issuer needs --jwt-jwks-url, --jwt-jwks-file or --jwt-secret"),
    };
    let given = args.jwt_algorithms.iter().map(|given| match given {
        Algorithm::Hs256 => JwtAlgorithm::Hs256,
        Algorithm::Rs256 => JwtAlgorithm::Rs256,
        Algorithm::Es256 => JwtAlgorithm::Es256,
        Algorithm::EdDsa => JwtAlgorithm::EdDsa,
    });
    let mut algorithms: Vec<JwtAlgorithm> = given.collect();
    if algorithms.is_empty() {
        let shared = matches!(keys, JwtKeys::Secret(_));
        let fits = |a: &JwtAlgorithm| (*a == JwtAlgorithm::Hs256) == shared;
        algorithms = JwtAlgorithm::ALL.into_iter().filter(fits).collect();
    }
    let settings = JwtSettings {
        issuer,
        audience,
        algorithms,
        keys,
        namespace_claim: args.jwt_namespace_claim.clone(),
        scopes_claim: args.jwt_scopes_claim.clone(),
        leeway: args.jwt_leeway,
    };
    settings.check().map_err(|why| anyhow::anyhow!("{why}"))?;
    Ok(Some(settings))
}

/// Handlers anywhere but on the ports of this house.
fn open_guard() -> Guard {
    Guard { allow_http: true, allow_loopback: true, allow_private: true, ..Guard::default() }
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}; if the port is taken, choose another with --port or --listen")
    })
}

/// An address that can be called: what listens everywhere is reached on loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    address
}

fn say(text: &str) {
    // Nobody reads it where standard error is closed.
    drop(writeln!(std::io::stderr(), "{text}"));
}
