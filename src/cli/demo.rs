//! `pitr demo`: the whole promise, on a server made for it and thrown away.

use std::fs;
use std::path::PathBuf;
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
use crate::engine::postgres::Postgres;
use crate::engine::postgres::throwaway::{Throwaway, session};
use crate::error::{Error, Result};
use crate::model::cluster::ClusterName;
use crate::model::offset::Offset;
use crate::model::target::{Point, Target};
use crate::model::time::{Clock, SystemClock, Timestamp};
use crate::restore::resolve::resolve;
use crate::restore::{Observer, Request, restore};
use crate::segment::codec::Compression;
use crate::store::local::LocalStore;
use crate::stream::session::Report;
use crate::stream::{self, Archiver};

/// Sessions that write at once.
const WRITERS: u32 = 2;

/// How long each stretch of load lasts.
const LOAD: Duration = Duration::from_secs(3);

/// How long a step may take before the demo gives up.
const STEP_MAX: Duration = Duration::from_secs(120);

/// Options of `pitr demo`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where PostgreSQL's programs are [default: the newest found]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Keep the archive and the restored database, and say where they are
    #[arg(long)]
    keep: bool,
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
    let server = Throwaway::start(&root.dir, args.bin_dir.as_deref())?;
    let url = server.url();
    story.tell(&format!("a throwaway PostgreSQL runs (programs from {})", server.programs().dir().display()))?;
    let mut sql = session(&url).await?;
    sql.query(
        "create table accounts (id int primary key, balance bigint not null);
         insert into accounts select i, 0 from generate_series(1, 10000) i;
         create table orders (id bigserial primary key, account int not null, at timestamptz not null default clock_timestamp());",
    )
    .await?;

    let archiving = Archiving::start(root, &url)?;
    archiving.wait_for_base().await?;
    story.tell("`pitr archive` streams its log, and a base backup is stored")?;

    let load = Load::start(&url).await?;
    tokio::time::sleep(LOAD).await;
    load.pause().await?;
    let before = look(&url).await?;
    story.tell(&format!("after {} transactions: {} orders at {}", load.done(), before.orders, before.now))?;
    load.resume();
    tokio::time::sleep(LOAD / 3).await;
    sql.query("drop table orders").await?;
    story.tell("somebody runs `drop table orders`, and work goes on")?;
    tokio::time::sleep(LOAD / 3).await;
    load.stop().await;
    let end = one(&mut sql, "select pg_current_wal_flush_lsn()").await?;
    archiving.wait_for(Postgres.parse_position(&end)?).await?;
    let archive = archiving.stop().await?;
    story.tell(&format!("everything up to {end} is archived; {} transactions in all", load.done()))?;

    let to = root.dir.join("restored");
    let begun = Instant::now();
    let engine = Postgres;
    let catalog = archive.catalog(&Postgres).await?;
    let target = Target { point: Point::Time(before.now), inclusive: true, timeline: None };
    let plan = resolve(&archive, &engine, &catalog, &target, SystemClock.now()).await?;
    let request = Request {
        to: to.clone(),
        jobs: 2,
        delta: false,
        tablespace_map: Vec::new(),
        exclude: Vec::new(),
        recover: true,
        start: true,
        bin_dir: Some(server.programs().dir().to_owned()),
        os_user: None,
        fetch_command: String::new(),
    };
    let outcome = restore(&archive, &engine, &catalog, &plan, &request, Arc::new(Silent)).await?;
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
    let after = look(&restored.url).await;
    let later = match session(&restored.url).await {
        Ok(mut sql) => one(&mut sql, &format!("select count(*) from orders where at > '{}'", before.now)).await,
        Err(error) => Err(error),
    };
    server.stop(&to)?;
    prove(&before, &after?, &later?)?;
    story.tell(&format!(
        "the table is back: {} orders, balances add up to {}, nothing later than the target",
        before.orders, before.balance
    ))?;
    output::print("demo passed\n")
}

fn prove(before: &Look, after: &Look, later: &str) -> Result<()> {
    if before.orders != after.orders || before.balance != after.balance || before.digest != after.digest {
        return Err(Error::corruption(format!(
            "the restored database differs: {} orders and balance {} were there, {} and {} are",
            before.orders, before.balance, after.orders, after.balance
        )));
    }
    if later == "0" { Ok(()) } else { Err(Error::corruption(format!("{later} orders are later than the target"))) }
}

/// The database at a moment.
struct Look {
    now: Timestamp,
    orders: String,
    balance: String,
    digest: String,
}

async fn look(url: &str) -> Result<Look> {
    let mut sql = session(url).await?;
    let micros = one(&mut sql, "select (extract(epoch from clock_timestamp()) * 1000000)::bigint").await?;
    let now =
        micros.parse().map(Timestamp).map_err(|e| Error::failure("the server's clock cannot be read").because(e))?;
    Ok(Look {
        now,
        orders: one(&mut sql, "select count(*) from orders").await?,
        balance: one(&mut sql, "select sum(balance) from accounts").await?,
        digest: one(&mut sql, "select md5(string_agg(o::text, ',' order by id)) from orders o").await?,
    })
}

async fn one(sql: &mut crate::engine::postgres::connect::Connection, query: &str) -> Result<String> {
    let results = sql.query(query).await?;
    let cell = results.into_iter().flat_map(|result| result.rows).flatten().flatten().next();
    cell.ok_or_else(|| Error::failure(format!("no answer to {query:?}")))
}

/// An archiver inside this process.
struct Archiving {
    store: Arc<LocalStore>,
    cluster: ClusterName,
    stop: watch::Sender<bool>,
    report: watch::Receiver<Report>,
    task: tokio::task::JoinHandle<Result<()>>,
}

impl Archiving {
    fn start(root: &Root, url: &str) -> Result<Self> {
        let store = Arc::new(LocalStore::make(&root.dir.join("store"))?);
        let cluster: ClusterName = "main".parse()?;
        let (stop, stopped) = watch::channel(false);
        let (report, reported) = watch::channel(Report::default());
        let archiver = Archiver {
            store: Arc::clone(&store) as Arc<dyn crate::store::Store>,
            cluster: cluster.clone(),
            engine: Arc::new(Postgres),
            url: url.to_owned(),
            options: source_options(Some("pitr".into())),
            settings: stream::Settings {
                compression: Compression::Lz4,
                segment_bytes: 16 << 20,
                flush_interval: Duration::from_secs(1),
                from: None,
                until: None,
                exit_when_caught_up: false,
                backup: true,
            },
            clock: Arc::new(SystemClock),
        };
        let task = tokio::spawn(async move { archiver.run(stopped, &report).await });
        Ok(Self { store, cluster, stop, report: reported, task })
    }

    async fn wait_for_base(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let archive = Archive::open(Arc::clone(&self.store) as Arc<dyn crate::store::Store>, &self.cluster).await;
            if let Ok(archive) = archive
                && !archive.catalog(&Postgres).await?.bases.is_empty()
            {
                return Ok(());
            }
            self.still_running(begun, "no base backup was stored")?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn wait_for(&self, offset: Offset) -> Result<()> {
        let begun = Instant::now();
        while self.report.borrow().durable < offset {
            self.still_running(begun, "the log was not archived")?;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    fn still_running(&self, begun: Instant, what: &str) -> Result<()> {
        if self.task.is_finished() || begun.elapsed() > STEP_MAX {
            return Err(Error::failure(format!("{what}: the archiver stopped or is stuck")));
        }
        Ok(())
    }

    async fn stop(self) -> Result<Archive> {
        self.stop.send_replace(true);
        self.task.await.map_err(|e| Error::failure("the archiver stopped").because(e))??;
        Archive::open(self.store, &self.cluster).await
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
    async fn start(url: &str) -> Result<Self> {
        let (go, _) = watch::channel(true);
        let load = Self { go, busy: Arc::default(), stopped: Arc::default(), transactions: Arc::default() };
        for _ in 0..WRITERS {
            let mut sql = session(url).await?;
            let (mut go, busy) = (load.go.subscribe(), Arc::clone(&load.busy));
            let (stopped, transactions) = (Arc::clone(&load.stopped), Arc::clone(&load.transactions));
            tokio::spawn(async move {
                while !stopped.load(Ordering::SeqCst) {
                    if go.wait_for(|go| *go).await.is_err() {
                        return;
                    }
                    busy.fetch_add(1, Ordering::SeqCst);
                    let account = rand::random_range(1..=10_000);
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
