//! The log as a replication source: a server that a MySQL or MariaDB replica connects to.
//!
//! A replica applies what it is given with all its parallel appliers, and nothing more than it
//! is given: whoever hands out the log decides exactly where the replica ends. That is how a
//! restore replays, and how an archive feeds a replica.
//!
//! What the replica gets, it gets as its source would have sent it: the log's own events, byte
//! for byte, with the files' boundaries and their format descriptions where they were, for the
//! logical clocks by which appliers run in parallel start anew with every file. Only what a
//! source makes up for its replicas is ours: who it is, where it is, and that it is alive
//! ([`artificial`]).
//!
//! ```text
//! replica: login -> statements -> COM_REGISTER_SLAVE -> COM_BINLOG_DUMP[_GTID] -> event, event, …
//!          login    queries       session               session                    dump
//! ```
//!
//! There is one account, whose password the server knows, so that `caching_sha2_password` needs
//! neither TLS nor an RSA key. There is no TLS: bind to a loopback address, or to a network
//! that may see the data.
//!
//! When the log ends, the replica hears heartbeats until it leaves. Nothing is kept of it: one
//! that comes back says itself where it is.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

pub use super::flavor::Flavor;
use super::gtid::MySqlSet;
use crate::error::{Error, Kind, Result};
use crate::model::time::Clock;

mod artificial;
mod dump;
mod login;
mod packets;
mod queries;
mod session;

#[cfg(test)]
mod tests;

/// How many replicas may be connected at once: more than any chain needs, and few enough that
/// strangers at the door cost nothing.
const SESSIONS_MAX: usize = 64;

/// How long to wait when the system gives no more connections.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who the server is to its replicas.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which server's replicas come.
    pub flavor: Flavor,
    /// The version to name, as in the log's format description.
    pub version: String,
    /// Our `server_id`: neither the replica's nor one in the log, for a replica skips what it
    /// takes for its own.
    pub server_id: u32,
    /// Our `server_uuid` (MySQL): a replica refuses a source with its own.
    pub server_uuid: String,
    /// The account that may log in.
    pub user: String,
    /// Its password.
    pub password: SecretString,
}

/// What a replica has, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Executed {
    /// MySQL with `SOURCE_AUTO_POSITION=1`: a GTID set as `Gtid_set::encode` writes it
    /// (`sql/rpl_gtid_set.cc`), which is also the body of a `PREVIOUS_GTIDS_LOG_EVENT`.
    GtidSet(Bytes),
    /// MariaDB with `MASTER_USE_GTID`: the last GTID of every domain (`0-1-100,1-2-7`), empty
    /// for a replica that has nothing.
    GtidPosition(String),
    /// A replica that counts its way through the files: everything before this place, which may
    /// be inside a transaction when its connection broke there.
    Place {
        /// The file, empty for the first there is.
        file: String,
        /// A place in it, in bytes.
        position: u64,
    },
}

/// For people.
impl fmt::Display for Executed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GtidSet(set) => match MySqlSet::decode(set) {
                Ok(set) => set.fmt(f),
                Err(_) => f.write_str("a GTID set that cannot be read"),
            },
            Self::GtidPosition(position) => f.write_str(position),
            Self::Place { file, position } => write!(f, "{file}:{position}"),
        }
    }
}

/// Hands out the log.
#[async_trait]
pub trait LogFeed: Send + Sync {
    /// Opens the log behind what a replica has.
    ///
    /// # Errors
    /// [`Kind::StoreUnreachable`] when it is worth the replica's while to try again; every
    /// other error ends its replication with the error's message.
    async fn open(&self, executed: &Executed) -> Result<Box<dyn LogStream>>;
}

/// The log for one replica, in order: a [`Item::File`], then its events, then the next file.
#[async_trait]
pub trait LogStream: Send {
    /// The next of the log; `None` at its end, which must be the end of a transaction. It may
    /// take its time, as where the log is still growing.
    ///
    /// # Errors
    /// As [`LogFeed::open`].
    async fn next(&mut self) -> Result<Option<Item>>;
}

/// A piece of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A file begins, or goes on at a later place because what is between is left out.
    File {
        /// Its name.
        name: String,
        /// Its format description, the whole event.
        format_description: Bytes,
        /// Where in the file the next event is; 4 at its start, where the format description
        /// itself is that event.
        position: u64,
    },
    /// Bytes of the file behind its format description (and behind its encryption's start, where
    /// it is encrypted): whole events of whole transactions in the end, but a piece may begin and
    /// end anywhere.
    Log(Bytes),
    /// So many bytes of the file are not handed out, between two events.
    LeftOut(u64),
}

/// A server for replicas. Dropping it ends it and all its connections.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Listens at `address` (port 0 for any) and serves replicas from then on.
    ///
    /// # Errors
    /// [`Kind::Config`] when the address cannot be listened at.
    pub async fn start(
        address: SocketAddr,
        settings: Settings,
        feed: Arc<dyn LogFeed>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let cannot = |e| {
            Error::new(Kind::Config, format!("cannot listen for replicas at {address}"))
                .because(e)
                .hint("is another server there, or the address not this machine's?")
        };
        let listener = TcpListener::bind(address).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let accepting = tokio::spawn(accept(listener, Arc::new(settings), feed, clock));
        Ok(Self { address, accepting })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Lets replicas in for ever. The sessions end with it.
async fn accept(listener: TcpListener, settings: Arc<Settings>, feed: Arc<dyn LogFeed>, clock: Arc<dyn Clock>) {
    let mut sessions = JoinSet::new();
    let mut connection = 0_u32;
    loop {
        while sessions.try_join_next().is_some() {}
        let (socket, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a replica could not be let in");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if sessions.len() >= SESSIONS_MAX {
            tracing::warn!(%peer, "{SESSIONS_MAX} replicas are connected; one more is turned away");
            continue;
        }
        connection = connection.wrapping_add(1);
        let (settings, feed, clock) = (Arc::clone(&settings), Arc::clone(&feed), Arc::clone(&clock));
        sessions.spawn(async move {
            if let Err(error) = session::run(socket, connection, &settings, &*feed, &*clock).await {
                let hint = error.advice();
                tracing::warn!(%peer, %error, hint, "a replica's connection has ended");
            }
        });
    }
}
