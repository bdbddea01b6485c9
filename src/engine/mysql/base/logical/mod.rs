//! A base backup by statements only: of a server whose files cannot be reached.
//!
//! Several sessions read at one moment, which [`lock`] fixes and proves: commits wait for as long
//! as it takes to open the snapshots and to read what no snapshot holds (accounts, sequences,
//! tables that are not in InnoDB), mostly milliseconds. Then each session takes one table after
//! the other, the largest first.
//!
//! ```text
//! pitr-logical/position          FILE <tab> POSITION <tab> GTIDS
//!              server.cnf        what a server must be told that takes the base
//!              1-structure.sql   databases, tables
//!              2-rows/D.T.sql    rows of table T in database D
//!              3-programs.sql    routines, views, triggers, events
//!              4-accounts.sql    rows of the server's own tables
//! ```
//!
//! The files are for the servers' own clients, too, in this order.
//!
//! DDL waits while the definitions are read, so that they are those of the moment; what already
//! holds a table is let through first. In MySQL it waits until the end, in MariaDB only until the
//! snapshots are open; a table that DDL changed before it was read fails the backup there. What is
//! compared, while the table is held open, is its definition and the number that InnoDB knows it by.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Origin;
use crate::engine::mysql::flavor::Flavor;
use crate::engine::mysql::place::Place;
use crate::engine::mysql::privileges;
use crate::engine::mysql::source::facts::Facts;
use crate::engine::mysql::sql::Session;
use crate::engine::{BaseEnd, BaseEvent, BaseStream};
use crate::error::{Error, Kind, Result};
use crate::model::time::{Clock as _, SystemClock};
use definitions::{Definitions, Table, TableKind};
use rows::Sink;

mod definitions;
pub(in crate::engine::mysql) mod literal;
mod lock;
mod programs;
mod rows;
pub(in crate::engine::mysql) mod script;

/// How many tables are read at once.
const WORKERS: u32 = 4;

/// Events that wait for whoever takes them.
const WAITING: usize = 4;

/// How often the connection that keeps DDL waiting is looked at, and kept from falling silent.
const LOOK_INTERVAL: Duration = Duration::from_secs(20);

/// How often definitions are read that DDL holds, before the backup is refused.
const ATTEMPTS: u32 = 8;

/// How long DDL is given to end that held a table which we need.
const PAUSE: Duration = Duration::from_millis(200);

/// The number of files that no worker writes.
const OTHERS: u32 = WORKERS;

/// Begins a backup.
///
/// # Errors
/// [`crate::Kind::Config`] for what the account lacks, and for tables that such a base cannot hold;
/// [`crate::Kind::Busy`] when the server gives no lock.
pub(super) async fn begin(origin: Origin) -> Result<Box<dyn BaseStream>> {
    let facts = &origin.facts;
    if !facts.has_gtids {
        return Err(Error::config("the server's gtid_mode is not ON, and a logical base is restored by GTID")
            .hint("switch it on (MySQL manual, \"Enabling GTID Transactions Online\")"));
    }
    let mut lock = lock::connect(&origin.info, facts).await?;
    privileges::check_logical(&mut lock, facts.flavor).await?;
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(lock::connect(&origin.info, facts).await?);
    }
    let definitions = definitions(&mut lock, facts).await?;
    let numbers = match facts.flavor {
        Flavor::MariaDb => Some(lock::Numbers::read(&mut lock).await?),
        Flavor::MySql => None,
    };
    warn_of_locked(&definitions);
    let (events, receiver) = mpsc::channel(WAITING);
    let mtime = SystemClock.now().0.div_euclid(1_000_000);
    let sink = Sink { events: events.clone(), mtime };
    let dump = Dump { origin, definitions, numbers, sink };
    tokio::spawn(async move {
        if let Err(error) = dump.run(lock, workers).await {
            let _ = events.send(Err(error)).await;
        }
    });
    Ok(Box::new(Stream { events: receiver }))
}

/// Lets DDL wait, and reads what there is.
///
/// MariaDB's DDL may wait for us with a table in its hands, and nobody can read that table's
/// definition meanwhile. So it is let through, and everything is read anew. MySQL's has either
/// ended by then or not begun.
async fn definitions(session: &mut Session, facts: &Facts) -> Result<Definitions> {
    let mut attempt = 1;
    loop {
        lock::block_ddl(session, facts.flavor).await?;
        match Definitions::read(session, facts.flavor, facts.version_number).await.map_err(lock::held) {
            Err(error) if error.kind() == Kind::Busy && facts.flavor == Flavor::MariaDb && attempt < ATTEMPTS => {
                tracing::debug!(attempt, %error, "DDL holds a table: it is let through");
            }
            read => return read,
        }
        lock::release(session, facts.flavor).await?;
        tokio::time::sleep(PAUSE).await;
        attempt += 1;
    }
}

/// Tables that are read while everybody waits.
fn warn_of_locked(definitions: &Definitions) {
    let locked: Vec<&Table> = definitions.tables.iter().filter(|table| table.kind == TableKind::Locked).collect();
    let bytes: u64 = locked.iter().map(|table| table.bytes).sum();
    // An empty MyISAM table has no bytes, and a sequence some.
    if bytes > 16 << 20 {
        let tables = locked.len();
        tracing::warn!(tables, bytes, "tables that are not in InnoDB are read while all writes wait");
    }
}

struct Stream {
    events: mpsc::Receiver<Result<BaseEvent>>,
}

#[async_trait]
impl BaseStream for Stream {
    async fn next(&mut self) -> Result<Option<BaseEvent>> {
        self.events.recv().await.transpose()
    }
}

struct Dump {
    origin: Origin,
    definitions: Definitions,
    numbers: Option<lock::Numbers>,
    sink: Sink,
}

impl Dump {
    async fn run(self, mut lock: Session, mut workers: Vec<Session>) -> Result<()> {
        let Self { origin, definitions, numbers, sink } = self;
        let (facts, flavor) = (&origin.facts, origin.facts.flavor);
        let estimated_bytes = Some(definitions.bytes());
        sink.send(BaseEvent::Start { start: None, estimated_bytes, tablespaces: Vec::new() }).await?;
        sink.directory(script::DIR).await?;
        sink.directory(&format!("{}/{}", script::DIR, script::ROWS)).await?;

        lock::block_commits(&mut lock, flavor).await?;
        let place = lock::open(&mut lock, &mut workers, facts).await?;
        let time = SystemClock.now().saturating_add(facts.clock_ahead_micros);
        accounts(&mut lock, flavor, &definitions.own, &sink).await?;
        for table in definitions.tables.iter().filter(|table| table.kind == TableKind::Locked) {
            whole_table(&mut lock, flavor, table, None, &sink, OTHERS).await.map_err(lock::held)?;
        }
        lock::release(&mut lock, flavor).await?;

        sink.whole(OTHERS, script::POSITION, position(&place).into_bytes()).await?;
        sink.whole(OTHERS, script::SETTINGS, definitions.settings.into_bytes()).await?;
        sink.whole(OTHERS, script::STRUCTURE, definitions.structure).await?;
        sink.whole(OTHERS, script::PROGRAMS, definitions.programs).await?;

        let tables = definitions.tables.into_iter();
        let mut tables: Vec<Table> =
            tables.filter(|t| t.kind != TableKind::Locked && t.kind != TableKind::Empty).collect();
        tables.sort_by_key(|table| std::cmp::Reverse(table.bytes));
        let queue = Arc::new(Queue { tables: Mutex::new(tables.into()), numbers, flavor });
        let mut running = JoinSet::new();
        for (number, session) in (0..).zip(workers) {
            let (queue, sink, runtime) = (queue.clone(), sink.clone(), Handle::current());
            // Writing literals is work: each session has a thread for it.
            running.spawn_blocking(move || runtime.block_on(queue.work(session, &sink, number)));
        }
        // A lock that got lost with its connection must not go unnoticed.
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        loop {
            let done = tokio::select! {
                done = running.join_next() => done,
                _ = look.tick() => {
                    if let Err(error) = lock.execute("DO 1").await {
                        queue.stop();
                        return Err(error);
                    }
                    continue;
                }
            };
            let Some(done) = done else { break };
            let done = done.map_err(|e| Error::failure("a thread that reads tables died").because(e)).flatten();
            if done.is_err() {
                queue.stop();
                return done;
            }
        }
        lock.execute("DO 1").await?;
        lock.close().await;
        sink.send(BaseEvent::End { end: BaseEnd::Position(place.to_position()), time: Some(time) }).await
    }
}

fn position(place: &Place) -> String {
    format!("{}\t{}\t{}\n", place.file, place.position, place.gtids)
}

/// The server's own tables, in one file: what they hold, they are to hold alone.
async fn accounts(session: &mut Session, flavor: Flavor, own: &[Table], sink: &Sink) -> Result<()> {
    let mut file = sink.file(OTHERS, script::ACCOUNTS).await?;
    file.bytes = rows::head(flavor, "accounts, and what else the server keeps: FLUSH PRIVILEGES after it");
    for table in own {
        script::append(&mut file.bytes, format!("DELETE FROM {}", table.quoted()).as_bytes());
        rows::append(session, flavor, table, &mut file).await?;
    }
    file.end().await
}

/// A table's file, which puts its counter at `counter`.
async fn whole_table(
    session: &mut Session,
    flavor: Flavor,
    table: &Table,
    counter: Option<u64>,
    sink: &Sink,
    number: u32,
) -> Result<()> {
    let path = format!("{}/{}", script::ROWS, script::rows_name(&table.schema, &table.name));
    let mut file = sink.file(number, &path).await?;
    file.bytes = rows::head(flavor, &table.quoted());
    let count = rows::append(session, flavor, table, &mut file).await?;
    // Versioned tables cannot be altered, and have what they had before the snapshots.
    if let Some(counter) = counter.filter(|_| table.kind == TableKind::Snapshot) {
        let alter = format!("ALTER TABLE {} AUTO_INCREMENT={counter}", table.quoted());
        script::append(&mut file.bytes, alter.as_bytes());
    }
    script::append_rows(&mut file.bytes, count);
    file.end().await
}

/// Tables that wait to be read.
struct Queue {
    tables: Mutex<VecDeque<Table>>,
    numbers: Option<lock::Numbers>,
    flavor: Flavor,
}

impl Queue {
    fn next(&self) -> Option<Table> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn stop(&self) {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Reads one table after the other.
    async fn work(&self, mut session: Session, sink: &Sink, number: u32) -> Result<()> {
        while let Some(table) = self.next() {
            // DDL may have it again once it is read.
            session.execute("SAVEPOINT pitr").await?;
            let counter = self.check(&mut session, &table).await?;
            whole_table(&mut session, self.flavor, &table, counter, sink, number)
                .await
                .map_err(|e| explain(e, &table))?;
            session.execute("ROLLBACK TO SAVEPOINT pitr").await?;
        }
        session.close().await;
        Ok(())
    }

    /// Takes hold of a table, which must be the one that it was. Gives the next value of its
    /// counter where that has moved.
    async fn check(&self, session: &mut Session, table: &Table) -> Result<Option<u64>> {
        let changed = || lock::changed(&table.schema, &table.name);
        let name = table.quoted();
        session.execute(&format!("SELECT 1 FROM {name} LIMIT 0")).await.map_err(|e| explain(e, table))?;
        let create = definitions::column(session, &format!("SHOW CREATE TABLE {name}"), 1).await?;
        let (hash, counter) = definitions::definition(&create);
        let (was, then) = table.definition;
        if hash != was {
            return Err(changed());
        }
        match &self.numbers {
            Some(numbers) if !numbers.still(session, &table.schema, &table.name).await? => Err(changed()),
            _ => Ok(counter.filter(|_| counter != then)),
        }
    }
}

/// What a server says of a table that is not what it was.
fn explain(error: Error, table: &Table) -> Error {
    /// `ER_BAD_DB_ERROR`, `ER_NO_SUCH_TABLE`, `ER_TABLE_DEF_CHANGED`
    const CHANGED: [u16; 3] = [1049, 1146, 1412];
    match super::clone::code(&error) {
        Some(code) if CHANGED.contains(&code) => lock::changed(&table.schema, &table.name).because(error),
        _ => error,
    }
}
