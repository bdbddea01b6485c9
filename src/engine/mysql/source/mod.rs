//! A source's log as a stream: who it is, where its log goes on, and what it is told.
//!
//! Where the server is the one that wrote the file in which the archive ends, and still has
//! that file, the dump begins there, with the last transaction that the archive holds: it is
//! compared, and so the log proves to be the same. Elsewhere GTIDs tell where to go on.

use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::base::Origin;
use super::binlog::note::FILE_START;
use super::connect::Connection;
use super::conninfo::{ConnInfo, process_environment};
use super::gtid::GtidSet;
use super::place::Place;
use super::recover::settings::quoted;
use crate::engine::{BaseOptions, BaseStream, Kept, LogEnd, Source, SourceOptions, StreamEvent};
use crate::error::{Error, Kind, Result};
use crate::model::cluster::{Identity, ServerState};
use crate::model::offset::Offset;
use crate::model::position::{Position, Resume};
use crate::model::timeline::{History, TimelineId};
use crate::segment::cutter::NO_FILES;

pub mod dump;
pub mod facts;
mod heartbeat;
pub mod intake;
pub mod logs;
mod stream;

use dump::Start;
use facts::Facts;
use intake::Intake;
use logs::{Asked, Logs};
use stream::Stream;

/// How long a source may take to name its files where it refuses its log without.
const ABSENT_PATIENCE: Duration = Duration::from_secs(60);

/// How long a source may take to name its files before its log is asked for without.
const SEMI_SYNC_PATIENCE: Duration = Duration::from_millis(100);

/// Connects to a source.
pub(super) async fn connect(url: &str, options: &SourceOptions) -> Result<Box<dyn Source>> {
    let connection = Connection::connect(&conninfo(url, options)?).await?;
    Ok(Box::new(MySqlSource {
        url: url.to_owned(),
        options: options.clone(),
        server_id: rand::random_range(1 << 30..u32::MAX),
        uuid: random_uuid(),
        connection: Some(connection),
        asked: None,
        stream: None,
    }))
}

/// How to connect to `url`.
pub(super) fn conninfo(url: &str, options: &SourceOptions) -> Result<ConnInfo> {
    let mut info = ConnInfo::resolve(url, &process_environment)?;
    if let Some(timeout) = options.connect_timeout {
        info.connect_timeout = timeout;
    }
    Ok(info)
}

/// A version 4 UUID, which is no other server's and no other dump's.
pub(super) fn random_uuid() -> String {
    let mut bytes: [u8; 16] = rand::random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// One server, asked and listened to over one connection at a time.
struct MySqlSource {
    url: String,
    options: SourceOptions,
    /// The id under which it lists us.
    server_id: u32,
    uuid: String,
    connection: Option<Connection>,
    /// Asked on a connection of its own.
    asked: Option<Asked>,
    stream: Option<Stream>,
}

impl MySqlSource {
    /// A connection that runs no dump.
    async fn connection(&mut self) -> Result<&mut Connection> {
        if self.stream.take().is_some() || self.connection.is_none() {
            self.connection = Some(Connection::connect(&conninfo(&self.url, &self.options)?).await?);
        }
        self.connection.as_mut().ok_or_else(|| Error::failure("there is no connection"))
    }

    async fn ask(&mut self) -> Result<Facts> {
        Facts::ask(self.connection().await?).await
    }

    async fn logs(&mut self) -> Result<Logs> {
        Logs::ask(self.connection().await?).await
    }

    /// A connection that is for one thing only.
    async fn take_connection(&mut self) -> Result<Connection> {
        self.connection().await?;
        self.connection.take().ok_or_else(|| Error::failure("there is no connection"))
    }

    /// The same, to the server that said `facts` of itself: a name may lead to another by now.
    async fn take_connection_to(&mut self, facts: &Facts) -> Result<Connection> {
        if self.connection.is_none() {
            let now = self.ask().await?;
            if now.server != facts.server {
                let text =
                    format!("another server answers than a moment ago: {}, and not {}", now.server, facts.server);
                return Err(Error::new(Kind::DatabaseUnreachable, text));
            }
        }
        self.take_connection().await
    }

    /// Begins a dump whose log goes on at this offset and place.
    async fn begin(
        &mut self,
        facts: &Facts,
        from: (Offset, &Place),
        start: &Start,
        logs: Option<&Logs>,
    ) -> Result<Stream> {
        let (offset, place) = from;
        let mut intake = Intake::new(facts.flavor, &facts.server, offset, place.clone());
        if let (Start::File { position, .. }, Some(after)) = (start, place.after)
            && u64::from(*position) == after.position
        {
            intake.expect_proof(after);
        }
        let semi_sync = facts.semi_sync && conninfo(&self.url, &self.options)?.semi_sync;
        if semi_sync {
            intake.expect_semi_sync();
        }
        let mut connection = self.take_connection_to(facts).await?;
        for statement in dump::statements(facts.flavor, start, &self.uuid, semi_sync) {
            connection.execute(&statement).await?;
        }
        connection.register(&dump::register(self.server_id, &self.options.application_name)).await?;
        connection.command(&dump::command(start, self.server_id)).await?;
        let mut stream = Stream::new(connection, intake, from, facts);
        if let Some(logs) = logs {
            stream.expect(logs);
        }
        stream.prove(place).await?;
        if logs.is_some_and(|logs| logs.after(&place.file).is_some()) {
            stream.look_for_end(place).await;
        }
        Ok(stream)
    }

    /// Where the log goes on behind a file that ends inside an event: in the next one, if that
    /// says itself that what the archive holds is all there was before it. MySQL cuts such an end
    /// off; MariaDB leaves it there, and does not give away what comes behind.
    async fn behind_cut(&mut self, place: &Place, logs: Option<&Logs>) -> Result<Option<Place>> {
        let Some(next) = logs.and_then(|logs| logs.after(&place.file)) else { return Ok(None) };
        let sql = format!("SHOW BINLOG EVENTS IN {} LIMIT 5", quoted(next));
        let rows = self.connection().await?.query_all(&sql).await?;
        // Columns: file, position, kind, server, end, and the list in brackets.
        let list = rows.iter().find_map(|row| match row.get(2)?.as_deref()? {
            "Gtid_list" => row.get(5)?.as_deref()?.strip_prefix('[')?.strip_suffix(']'),
            _ => None,
        });
        let Some(list) = list else { return Ok(None) };
        let list = GtidSet::parse_mariadb(list)?;
        let all_archived = place.gtids.covers(&list) && list.covers(&place.gtids);
        let next = Place { file: next.to_owned(), position: FILE_START, after: None, holding: 0, ..place.clone() };
        Ok(all_archived.then_some(next))
    }

    /// Its files; `None` where it does not name them at once, for its commits may be waiting for us.
    async fn logs_or_not_yet(&mut self, facts: &mut Facts) -> Result<Option<Logs>> {
        if !facts.semi_sync {
            return Ok(Some(self.logs().await?));
        }
        let began = Instant::now();
        self.connection().await?.ping().await?;
        let patience = SEMI_SYNC_PATIENCE + 3 * began.elapsed();
        let mut asked = match self.asked.take().filter(|asked| asked.server == facts.server) {
            Some(asked) => asked,
            None => Asked::new(self.take_connection().await?, facts),
        };
        // What it says may be no younger than the question.
        facts.asked = facts.asked.min(asked.since);
        match tokio::time::timeout(patience, &mut asked.answer).await {
            Ok(answer) => {
                let (connection, logs) = answer?;
                self.connection = Some(connection);
                Ok(Some(logs))
            }
            Err(_) => {
                self.asked = Some(asked);
                Ok(None)
            }
        }
    }
}

#[async_trait]
impl Source for MySqlSource {
    async fn identify(&mut self) -> Result<ServerState> {
        let mut facts = self.ask().await?;
        facts.check()?;
        // Whoever may not know of its files may not archive them.
        self.logs_or_not_yet(&mut facts).await?;
        Ok(ServerState {
            identity: Identity {
                format_version: 1,
                engine: "mysql".into(),
                system: facts.flavor.to_string().to_ascii_lowercase(),
                log_file_bytes: NO_FILES,
                server_version: facts.version_number.0 * 100 + facts.version_number.1,
                encryption: None,
            },
            version: facts.version.clone(),
            timeline: TimelineId(0),
            log_end: Offset::ZERO,
            standby: false,
        })
    }

    async fn prepare_slot(&mut self) -> Result<Option<Resume>> {
        let facts = self.ask().await?;
        let position = self.logs().await?.oldest(&facts).map(|place| place.to_position());
        Ok(position.map(|position| Resume { timeline: TimelineId(0), offset: Offset::ZERO, position }))
    }

    /// A binlog is kept for a time that the server is set to, and for nobody in particular.
    async fn keep_log(self: Box<Self>) -> Result<Kept> {
        Ok(Kept::by(()))
    }

    async fn stream(&mut self, from: &Resume) -> Result<()> {
        let mut facts = self.ask().await?;
        let mut place = Place::parse(&from.position, facts.flavor)?;
        let mut logs = self.logs_or_not_yet(&mut facts).await?;
        self.stream = Some(loop {
            let start = facts.start(&place, logs.as_ref())?;
            let begun = self.begin(&facts, (from.offset, &place), &start, logs.as_ref()).await;
            let stream = match (begun, self.asked.take()) {
                // What to do then hangs on what it has.
                (Err(error), Some(asked)) if error.kind() == Kind::Absent => {
                    let answer = tokio::time::timeout(ABSENT_PATIENCE, asked.answer).await.unwrap_or(Err(error));
                    logs = Some(answer.map_err(|e| e.with_kind(Kind::DatabaseUnreachable))?.1);
                    continue;
                }
                (begun, asked) => begun?.with_asked(asked),
            };
            if !stream.is_cut_short() {
                break stream;
            }
            match self.behind_cut(&place, logs.as_ref()).await {
                Ok(Some(next)) => {
                    tracing::warn!(
                        file = place.file,
                        next = next.file,
                        "the source's file ends inside an event, as its server was killed; the log goes on in the next"
                    );
                    place = next;
                }
                Ok(None) => break stream,
                Err(error) => {
                    tracing::warn!(%error, file = place.file, "where the log goes on behind this file cannot be told");
                    break stream;
                }
            }
        });
        Ok(())
    }

    async fn next(&mut self) -> Result<StreamEvent> {
        let stream = self.stream.as_mut().ok_or_else(|| Error::failure("there is no stream"))?;
        stream.next().await
    }

    async fn ack(&mut self, _received: Offset, durable: Offset, _request_reply: bool) -> Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        stream.acknowledge(durable).await
    }

    async fn stop(&mut self) -> Result<()> {
        if let Some(stream) = self.stream.take() {
            stream.close().await;
        }
        Ok(())
    }

    async fn log_end(&mut self, archived: Option<&Position>) -> Result<Option<LogEnd>> {
        let facts = self.ask().await?;
        let place = archived.map(|end| Place::parse(end, facts.flavor)).transpose()?;
        let logs = self.logs().await?;
        let behind = place.filter(|place| place.server == facts.server).map(|place| logs.behind(&place));
        Ok(logs.end().map(|end| LogEnd { position: Position(end.to_string()), behind }))
    }

    async fn history(&mut self, _timeline: TimelineId) -> Result<Option<History>> {
        Ok(None)
    }

    async fn base_backup(mut self: Box<Self>, options: &BaseOptions) -> Result<Box<dyn BaseStream>> {
        let facts = self.ask().await?;
        let row = self.connection().await?.query_row("SELECT @@GLOBAL.datadir").await?;
        let data_dir = row.into_iter().next().flatten().unwrap_or_default().into();
        let info = conninfo(&self.url, &self.options)?;
        super::base::begin(Origin { info, facts, data_dir }, options).await
    }
}
