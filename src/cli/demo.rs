//! `pitr demo`: the whole promise, on a server made for it and thrown away.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::archive::source_options;
use super::output;
use super::settings::Settings;
use crate::catalog::archive::Archive;
use crate::engine::Engine;
use crate::engine::mysql::flavor::Flavor;
use crate::engine::mysql::throwaway::MySqlThrowaway;
use crate::engine::postgres::throwaway::PostgresThrowaway;
use crate::engine::throwaway::{Dialect, Session, Throwaway};
use crate::error::{Error, Result};
use crate::model::cluster::ClusterName;
use crate::model::offset::Offset;
use crate::model::target::{Point, Target};
use crate::model::time::{Clock, SystemClock, Timestamp};
use crate::restore::resolve::resolve;
use crate::restore::{Observer, Request, restore};
use crate::seal::key::Keys;
use crate::segment::codec::Compression;
use crate::store::local::LocalStore;
use crate::stream::session::Report;
use crate::stream::{self, Archiver};

/// Sessions that write at once.
const WRITERS: u32 = 2;

/// Accounts between which money moves.
const ACCOUNTS: u32 = 10_000;

/// So long nothing happens around the target.
const SILENCE: Duration = Duration::from_millis(300);

/// How long each stretch of load lasts.
const LOAD: Duration = Duration::from_secs(3);

/// How long a step may take before the demo gives up.
const STEP_MAX: Duration = Duration::from_secs(120);

/// Options of `pitr demo`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// On which kind of server
    #[arg(long, value_name = "ENGINE", default_value = "postgres")]
    engine: Make,
    /// Where the server's programs are [default: the newest found]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Keep the archive and the restored database, and say where they are
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Make {
    /// PostgreSQL.
    Postgres,
    /// MariaDB.
    Mariadb,
    /// MySQL.
    Mysql,
}

impl Make {
    async fn start(self, root: &Path, bin_dir: Option<&Path>) -> Result<Arc<dyn Throwaway>> {
        Ok(match self {
            Self::Postgres => Arc::new(PostgresThrowaway::start(root, bin_dir)?),
            Self::Mariadb => Arc::new(MySqlThrowaway::start(root, Flavor::MariaDb, bin_dir).await?),
            Self::Mysql => Arc::new(MySqlThrowaway::start(root, Flavor::MySql, bin_dir).await?),
        })
    }
}

/// Runs the demo.
pub(super) async fn run(_: &Settings, args: &Args) -> Result<ExitCode> {
    let root = Root::make(args.keep)?;
    let told = Story { begun: Instant::now() };
    let result = demo(&root, args, &told).await;
    if args.keep {
        output::print(&format!("kept in {}\n", root.dir.display()))?;
    }
    result.map(|()| ExitCode::SUCCESS)
}

/// Everything the demo makes lies below one directory.
struct Root {
    dir: PathBuf,
    keep: bool,
}

impl Root {
    fn make(keep: bool) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("pitr-demo-{:08x}", rand::random::<u32>()));
        fs::create_dir(&dir).map_err(|e| Error::io("create", &dir, e))?;
        Ok(Self { dir, keep })
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

struct Story {
    begun: Instant,
}

impl Story {
    fn tell(&self, what: &str) -> Result<()> {
        output::print(&format!("[{:5.1} s] {what}\n", self.begun.elapsed().as_secs_f64()))
    }
}

async fn demo(root: &Root, args: &Args, story: &Story) -> Result<()> {
    let server = args.engine.start(&root.dir, args.bin_dir.as_deref()).await?;
    let (server, engine): (&dyn Throwaway, Arc<dyn Engine>) = (server.as_ref(), Arc::from(server.engine()));
    let url = server.url();
    story.tell(&format!("a throwaway {} runs (programs from {})", server.title(), server.bin_dir().display()))?;
    let mut sql = server.session(&url).await?;
    let Dialect { serial, moment, .. } = server.dialect();
    let accounts: Vec<String> = (1..=ACCOUNTS).map(|account| format!("({account},0)")).collect();
    for statement in [
        "create table accounts (id int primary key, balance bigint not null)".to_owned(),
        format!("insert into accounts values {}", accounts.join(",")),
        format!("create table orders (id {serial} primary key, account int not null, at {moment})"),
    ] {
        sql.query(&statement).await?;
    }

    let archiving = Archiving::start(root, &url, &engine, true)?;
    archiving.wait_for_base().await?;
    story.tell("`pitr archive` streams its log, and a base backup is stored")?;

    let load = Load::start(server).await?;
    tokio::time::sleep(LOAD).await;
    load.pause().await?;
    // Of MariaDB's transactions only the time of receipt is known to more than a second.
    tokio::time::sleep(SILENCE).await;
    let before = look(server, &url).await?;
    tokio::time::sleep(SILENCE).await;
    story.tell(&format!("after {} transactions: {} orders at {}", load.done(), before.orders, before.now))?;
    load.resume();
    tokio::time::sleep(LOAD / 3).await;
    sql.query("drop table orders").await?;
    story.tell("somebody runs `drop table orders`, and work goes on")?;
    tokio::time::sleep(LOAD / 3).await;
    load.stop().await;
    archiving.stop().await?;
    let archive = Archiving::start(root, &url, &engine, false)?.finish().await?;
    story.tell(&format!("everything is archived; {} transactions in all", load.done()))?;

    let to = root.dir.join("restored");
    let begun = Instant::now();
    let engine = engine.as_ref();
    let catalog = archive.catalog(engine).await?;
    let target = Target { point: Point::Time(before.now), inclusive: true, timeline: None };
    let plan = resolve(&archive, engine, &catalog, &target, &[], SystemClock.now()).await?;
    let request = Request {
        to: to.clone(),
        jobs: 2,
        delta: false,
        tablespace_map: Vec::new(),
        exclude: Vec::new(),
        recover: true,
        start: true,
        bin_dir: Some(server.bin_dir().to_owned()),
        os_user: None,
        fetch_command: String::new(),
    };
    let outcome = restore(&archive, engine, &catalog, &plan, &request, Arc::new(Silent)).await?;
    story.tell(&format!(
        "`pitr restore --target-time \"{}\"` took {:.1} s",
        before.now,
        begun.elapsed().as_secs_f64()
    ))?;
    let say =
        |t: Option<&crate::model::mark::Transaction>| t.map_or("none".into(), |t| format!("{} at {}", t.id, t.time));
    story.tell(&format!(
        "last transaction in: {}; first one out: {}",
        say(plan.last_in.as_ref()),
        say(plan.first_out.as_ref())
    ))?;

    let restored = outcome.running.ok_or_else(|| Error::failure("the restored server does not run"))?;
    let after = look(server, &restored.url).await;
    server.stop(&to, &restored.url).await?;
    prove(&before, &after?)?;
    story.tell(&format!(
        "the table is back: {} orders, balances add up to {}, nothing later than the target",
        before.orders, before.balance
    ))?;
    output::print("demo passed\n")
}

fn prove(before: &Look, after: &Look) -> Result<()> {
    if before.orders != after.orders || before.balance != after.balance || before.digest != after.digest {
        return Err(Error::corruption(format!(
            "the restored database differs: {} orders and balance {} were there, {} and {} are",
            before.orders, before.balance, after.orders, after.balance
        )));
    }
    if after.newest <= before.now {
        Ok(())
    } else {
        Err(Error::corruption(format!("there is an order of {}, later than the target", after.newest)))
    }
}

/// The database at a moment.
struct Look {
    now: Timestamp,
    orders: usize,
    balance: String,
    digest: blake3::Hash,
    /// When the latest order was placed.
    newest: Timestamp,
}

async fn look(server: &dyn Throwaway, url: &str) -> Result<Look> {
    let mut sql = server.session(url).await?;
    let Dialect { now, at, .. } = server.dialect();
    let micros = |text: Option<String>| {
        let micros = text.as_deref().unwrap_or("0").parse().map(Timestamp);
        micros.map_err(|e| Error::failure("the server's clock cannot be read").because(e))
    };
    let now = micros(one(sql.as_mut(), &format!("select {now}")).await?)?;
    let orders = sql.query(&format!("select id, account, {at} from orders order by id")).await?;
    let text: Vec<String> = orders.iter().map(|order| format!("{order:?}")).collect();
    Ok(Look {
        now,
        orders: orders.len(),
        balance: one(sql.as_mut(), "select sum(balance) from accounts").await?.unwrap_or_default(),
        digest: blake3::hash(text.join("\n").as_bytes()),
        newest: micros(one(sql.as_mut(), &format!("select max({at}) from orders")).await?)?,
    })
}

async fn one(sql: &mut dyn Session, query: &str) -> Result<Option<String>> {
    Ok(sql.query(query).await?.into_iter().flatten().flatten().next())
}

/// An archiver inside this process.
struct Archiving {
    store: Arc<LocalStore>,
    cluster: ClusterName,
    engine: Arc<dyn Engine>,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<Result<()>>,
}

impl Archiving {
    /// With a base backup and for as long as it is let, or else until everything is archived.
    fn start(root: &Root, url: &str, engine: &Arc<dyn Engine>, goes_on: bool) -> Result<Self> {
        let store = Arc::new(LocalStore::make(&root.dir.join("store"))?);
        let cluster: ClusterName = "main".parse()?;
        let (stop, stopped) = watch::channel(false);
        let (report, _) = watch::channel(Report::default());
        let archiver = Archiver {
            store: Arc::clone(&store) as Arc<dyn crate::store::Store>,
            mirrors: None,
            cluster: cluster.clone(),
            keys: Keys::default(),
            engine: Arc::clone(engine),
            url: url.to_owned(),
            options: source_options(Some("pitr".into())),
            settings: stream::Settings {
                compression: Compression::Lz4,
                segment_bytes: 16 << 20,
                flush_interval: Duration::from_secs(1),
                spool: None,
                standby: None,
                from: None,
                until: None,
                exit_when_caught_up: !goes_on,
                backup: goes_on,
            },
            clock: Arc::new(SystemClock),
        };
        let task = tokio::spawn(async move { archiver.run(stopped, &report).await });
        Ok(Self { store, cluster, engine: Arc::clone(engine), stop, task })
    }

    async fn wait_for_base(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let archive =
                Archive::open(Arc::clone(&self.store) as Arc<dyn crate::store::Store>, &self.cluster, &Keys::default())
                    .await;
            if let Ok(archive) = archive
                && !archive.catalog(self.engine.as_ref()).await?.bases.is_empty()
            {
                return Ok(());
            }
            self.still_running(begun, "no base backup was stored")?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn still_running(&self, begun: Instant, what: &str) -> Result<()> {
        if self.task.is_finished() || begun.elapsed() > STEP_MAX {
            return Err(Error::failure(format!("{what}: the archiver stopped or is stuck")));
        }
        Ok(())
    }

    async fn stop(self) -> Result<Archive> {
        self.stop.send_replace(true);
        self.finish().await
    }

    /// Waits until everything is archived.
    async fn finish(self) -> Result<Archive> {
        self.task.await.map_err(|e| Error::failure("the archiver stopped").because(e))??;
        Archive::open(self.store, &self.cluster, &Keys::default()).await
    }
}

/// Sessions that transfer money and place orders, as fast as they can.
struct Load {
    go: watch::Sender<bool>,
    busy: Arc<AtomicU64>,
    stopped: Arc<AtomicBool>,
    transactions: Arc<AtomicU64>,
}

impl Load {
    async fn start(server: &dyn Throwaway) -> Result<Self> {
        let (go, _) = watch::channel(true);
        let load = Self { go, busy: Arc::default(), stopped: Arc::default(), transactions: Arc::default() };
        for _ in 0..WRITERS {
            let mut sql = server.session(&server.url()).await?;
            let (mut go, busy) = (load.go.subscribe(), Arc::clone(&load.busy));
            let (stopped, transactions) = (Arc::clone(&load.stopped), Arc::clone(&load.transactions));
            tokio::spawn(async move {
                while !stopped.load(Ordering::SeqCst) {
                    if go.wait_for(|go| *go).await.is_err() {
                        return;
                    }
                    busy.fetch_add(1, Ordering::SeqCst);
                    let account = rand::random_range(1..=ACCOUNTS);
                    let transfer = format!("update accounts set balance = balance + {account} where id = {account}");
                    let _ = sql.query(&transfer).await;
                    // Fails once the table is dropped: exactly what the demo is about.
                    let order = format!("insert into orders (account) values ({account})");
                    let _ = sql.query(&order).await;
                    transactions.fetch_add(2, Ordering::SeqCst);
                    busy.fetch_sub(1, Ordering::SeqCst);
                }
            });
        }
        Ok(load)
    }

    /// Returns once no transaction is under way.
    async fn pause(&self) -> Result<()> {
        self.go.send_replace(false);
        let begun = Instant::now();
        // A session that saw "go" just before may still begin one: look twice.
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            while self.busy.load(Ordering::SeqCst) > 0 {
                if begun.elapsed() > STEP_MAX {
                    return Err(Error::failure("the load does not pause"));
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        Ok(())
    }

    fn resume(&self) {
        self.go.send_replace(true);
    }

    async fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        while self.busy.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn done(&self) -> u64 {
        self.transactions.load(Ordering::SeqCst)
    }
}

/// The demo tells its own story.
struct Silent;

impl Observer for Silent {
    fn files(&self, _: u64, _: u64) {}
    fn replay(&self, _: Offset) {}
}
