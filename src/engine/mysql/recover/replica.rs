//! A server as a replica of ours: made one, watched, and made none again.

use std::net::SocketAddr;
use std::time::Duration;

use mysql_async::{Row, Value};
use secrecy::ExposeSecret as _;

use super::settings::{self, Whence};
use crate::engine::ReplayProgress;
use crate::engine::mysql::feed::Feed;
use crate::engine::mysql::flavor::Flavor;
use crate::engine::mysql::gtid::GtidSet;
use crate::engine::mysql::serve::Settings;
use crate::engine::mysql::sql::Session;
use crate::error::{Error, Kind, Result};
use crate::model::offset::OffsetRange;

/// How often a replay, or a server that starts, is looked at.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Something that replays, and says how far it is.
pub(in crate::engine::mysql) trait Replays {
    /// How far the replay is.
    ///
    /// # Errors
    /// With the server's own words when replication has stopped.
    fn replayed(&mut self) -> impl Future<Output = Result<Replayed>> + Send;
}

/// Watches the replay of a feed's log until all of it is applied.
///
/// # Errors
/// What the feed refused, or what stopped the replay.
pub(in crate::engine::mysql) async fn watch(
    replica: &mut impl Replays,
    feed: &Feed,
    log: OffsetRange,
    progress: ReplayProgress<'_>,
) -> Result<()> {
    loop {
        if let Some(error) = feed.failure() {
            return Err(error);
        }
        // What the server says of our refusal says less than the refusal.
        let state = replica.replayed().await.map_err(|error| feed.failure().unwrap_or(error))?;
        progress(feed.offset_of(&state.file, state.position).unwrap_or(log.start).clamp(log.start, log.end));
        if let Some(all) = feed.all()
            && state.gtids.covers(&all)
        {
            feed.check()?;
            progress(log.end);
            return Ok(());
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// How far a replay is.
pub(in crate::engine::mysql) struct Replayed {
    /// Every transaction that is applied.
    pub(in crate::engine::mysql) gtids: GtidSet,
    /// The source's file up to which everything is applied.
    pub(in crate::engine::mysql) file: String,
    /// The place in it.
    pub(in crate::engine::mysql) position: u64,
}

/// A server that replays what we give it.
pub(in crate::engine::mysql) struct Replica {
    session: Session,
    flavor: Flavor,
    version: (u32, u32, u32),
}

impl Replica {
    pub(in crate::engine::mysql) const fn new(session: Session, flavor: Flavor, version: (u32, u32, u32)) -> Self {
        Self { session, flavor, version }
    }

    pub(in crate::engine::mysql) const fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    async fn one(&mut self, sql: &str) -> Result<String> {
        Ok(self.session.query_one::<String>(sql).await?.unwrap_or_default())
    }

    /// The transactions that the server has executed as a replica, or MySQL at all.
    pub(in crate::engine::mysql) async fn executed(&mut self) -> Result<GtidSet> {
        match self.flavor {
            Flavor::MySql => GtidSet::parse_mysql(&self.one("SELECT @@GLOBAL.gtid_executed").await?),
            Flavor::MariaDb => GtidSet::parse_mariadb(&self.one("SELECT @@GLOBAL.gtid_slave_pos").await?),
        }
    }

    /// What the server says of its replication, a row for each source that it has.
    pub(in crate::engine::mysql) async fn sources(&mut self) -> Result<Vec<Row>> {
        let show = match self.flavor {
            Flavor::MariaDb => "SHOW ALL SLAVES STATUS",
            Flavor::MySql if self.version >= (8, 0, 22) => "SHOW REPLICA STATUS",
            Flavor::MySql => "SHOW SLAVE STATUS",
        };
        self.session.query_all::<Row>(show).await
    }

    /// Begins the replay from our source, at `whence`.
    pub(in crate::engine::mysql) async fn follow(
        &mut self,
        source: SocketAddr,
        account: &Settings,
        whence: &Whence,
    ) -> Result<()> {
        let password = account.password.expose_secret();
        for statement in settings::begin(self.flavor, self.version, source, &account.user, password, whence) {
            self.session.execute(&statement).await.map_err(|error| match error.kind() {
                // It may have ended, and then its own words tell more.
                Kind::DatabaseUnreachable => error,
                // The error may not repeat a statement, which may hold the password.
                _ => Error::failure("the server does not become a replica").because(error),
            })?;
        }
        Ok(())
    }

    /// Ends the replay, and the server's being a replica.
    pub(in crate::engine::mysql) async fn end(&mut self) -> Result<()> {
        for statement in settings::end(self.flavor, self.version) {
            self.session.execute(&statement).await?;
        }
        Ok(())
    }
}

impl Replays for Replica {
    async fn replayed(&mut self) -> Result<Replayed> {
        let sources = self.sources().await?;
        let status = sources.first();
        let value = |names: [&str; 2]| {
            let value = names.iter().find_map(|name| status?.get_opt::<Value, _>(*name)?.ok());
            value.map(|value| text(&value)).unwrap_or_default()
        };
        for (number, text) in [("Last_SQL_Errno", "Last_SQL_Error"), ("Last_IO_Errno", "Last_IO_Error")] {
            if !["", "0"].contains(&value([number; 2]).as_str()) {
                let said = value([text; 2]);
                return Err(Error::new(Kind::Failure, format!("the server stopped to replay: {said}")));
            }
        }
        let file = value(["Relay_Master_Log_File", "Relay_Source_Log_File"]);
        let position = value(["Exec_Master_Log_Pos", "Exec_Source_Log_Pos"]).parse().unwrap_or(0);
        let gtids = self.executed().await?;
        Ok(Replayed { gtids, file, position })
    }
}

/// A value of a status, which may come as text or as a number.
fn text(value: &Value) -> String {
    match value {
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Int(number) => number.to_string(),
        Value::UInt(number) => number.to_string(),
        _ => String::new(),
    }
}
