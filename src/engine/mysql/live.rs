//! The archive as a replication source for servers that are not ours: `pitr serve`, and
//! `pitr restore --to-server`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use super::connect::version_number;
use super::conninfo::{ConnInfo, Endpoint, process_environment};
use super::feed::Feed;
use super::flavor::Flavor;
use super::gtid::{Gtid, GtidSet};
use super::place::Place;
use super::recover::replica::{Replica, watch};
use super::recover::settings::{Whence, quoted};
use super::serve::{Server, Settings};
use super::source::random_uuid;
use super::sql::Session;
use crate::engine::{LiveJob, LogSource, ReplayProgress, ServeJob, Serving};
use crate::error::{Error, Kind, Result};
use crate::model::cluster::Identity;
use crate::model::offset::OffsetRange;
use crate::model::time::SystemClock;

/// Serves the log.
pub(super) async fn serve(job: &ServeJob, log: Arc<dyn LogSource>) -> Result<Box<dyn Serving>> {
    let flavor = super::flavor(&job.identity);
    let feed = Feed::new(flavor, log, gtids(&job.exclude)?, None);
    let account = Settings { user: job.user.clone(), password: job.password.clone(), ..settings(&job.identity) };
    let server = Server::start(job.listen, account, Arc::new(feed), Arc::new(SystemClock)).await?;
    if !server.address().ip().is_loopback() {
        tracing::warn!(
            address = %server.address(),
            "replicas get the log unencrypted: whoever can listen on this network can read it"
        );
    }
    Ok(Box::new(Served { server, flavor, user: job.user.clone() }))
}

struct Served {
    server: Server,
    flavor: Flavor,
    user: String,
}

impl Serving for Served {
    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    fn statements(&self) -> String {
        let (host, port, user) = (self.address().ip(), self.address().port(), quoted(&self.user));
        match self.flavor {
            Flavor::MariaDb => format!(
                "CHANGE MASTER TO MASTER_HOST='{host}', MASTER_PORT={port}, MASTER_USER={user}, \
                 MASTER_PASSWORD='...', MASTER_SSL=0, MASTER_USE_GTID=slave_pos; START SLAVE;"
            ),
            Flavor::MySql => format!(
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST='{host}', SOURCE_PORT={port}, SOURCE_USER={user}, \
                 SOURCE_PASSWORD='...', SOURCE_SSL=0, SOURCE_AUTO_POSITION=1; START REPLICA;"
            ),
        }
    }
}

fn gtids(texts: &[String]) -> Result<Vec<Gtid>> {
    texts.iter().map(|gtid| gtid.parse()).collect()
}

/// Who we are to a replica.
fn settings(identity: &Identity) -> Settings {
    let flavor = super::flavor(identity);
    let (major, minor) = (identity.server_version / 100, identity.server_version % 100);
    let make = if flavor == Flavor::MariaDb { "-MariaDB" } else { "" };
    Settings {
        flavor,
        version: format!("{major}.{minor}.0{make}-pitr"),
        server_id: rand::random_range(1 << 30..1 << 31),
        server_uuid: random_uuid(),
        user: "pitr".into(),
        password: format!("{:032x}", rand::random::<u128>()).into(),
    }
}

/// Has a server that runs replay the log from where it stands.
pub(super) async fn replay(job: &LiveJob, log: Arc<dyn LogSource>, progress: ReplayProgress<'_>) -> Result<()> {
    let flavor = super::flavor(&job.identity);
    let info = ConnInfo::resolve(&job.url, &process_environment)?;
    let mut session = Session::connect(&info).await?;
    let version = session.query_one::<String>("SELECT VERSION()").await?.unwrap_or_default();
    if Flavor::of_version(&version) != flavor {
        return Err(Error::config(format!("the server is {version}, and the archive's log is {flavor}'s")));
    }
    let mut replica = Replica::new(session, flavor, version_number(&version));
    let exclude = gtids(&job.exclude)?;
    let executed = check(&mut replica, job, &exclude, flavor).await?;
    let feed = Arc::new(Feed::new(flavor, log, exclude, None));
    let account = settings(&job.identity);
    let listen = job.listen.unwrap_or_else(|| SocketAddr::from((our_address(&info), 0)));
    let source = Server::start(listen, account.clone(), feed.clone(), Arc::new(SystemClock)).await?;

    let own_id = replica.session().query_one::<u32>("SELECT @@GLOBAL.server_id").await?.unwrap_or_default();
    // A replica passes over whatever bears its own id, and the server may be a copy of the source.
    let id: u32 = rand::random_range(1 << 31..u32::MAX);
    replica.session().execute(&format!("SET GLOBAL server_id = {id}")).await?;
    let replayed = follow(&mut replica, &feed, &source, &account, &executed, job, progress).await;
    let ended = replica.end().await;
    let reset = replica.session().execute(&format!("SET GLOBAL server_id = {own_id}")).await;
    replayed.and(ended).and(reset)
}

/// Refuses a server that is not ours to steer, or to which the log does not belong; gives what
/// it has executed.
async fn check(replica: &mut Replica, job: &LiveJob, exclude: &[Gtid], flavor: Flavor) -> Result<GtidSet> {
    if !replica.sources().await?.is_empty() {
        return Err(Error::config("the server is a replica of another one already").hint(match flavor {
            Flavor::MariaDb => "end that first: STOP SLAVE; RESET SLAVE ALL",
            Flavor::MySql => "end that first: STOP REPLICA; RESET REPLICA ALL",
        }));
    }
    if flavor == Flavor::MySql {
        let mode = replica.session().query_one::<String>("SELECT @@GLOBAL.gtid_mode").await?.unwrap_or_default();
        if !mode.eq_ignore_ascii_case("ON") {
            return Err(Error::config(format!("the server's gtid_mode is {mode}: where it stands is not known"))
                .hint("switch it on (MySQL manual, \"Enabling GTID Transactions Online\")"));
        }
    }
    let executed = replica.executed().await?;
    if executed.is_empty() {
        return Err(Error::config("the server does not say where in the log it stands").hint(match flavor {
            Flavor::MariaDb => {
                "set gtid_slave_pos to what its data holds, such as the third field of mariadb_backup_binlog_info; \
                 or restore into a directory with --to"
            }
            Flavor::MySql => "set gtid_purged to what its data holds; or restore into a directory with --to",
        }));
    }
    let end = Place::parse(&job.end, flavor)?;
    if !end.gtids.covers(&executed) {
        return Err(Error::config(format!(
            "the server has transactions that do not lie before the target: it has {executed}, and the log up to there {}",
            end.gtids
        ))
        .hint("it is beyond the target, or took writes of its own: restore into a directory with --to"));
    }
    for gtid in exclude {
        // In MariaDB a position tells nothing of what was passed over before it.
        if flavor == Flavor::MySql && executed.contains(gtid) {
            return Err(Error::config(format!("the server has executed {gtid}, which is to be left out"))
                .hint("restore into a directory with --to"));
        }
        if !end.gtids.contains(gtid) {
            return Err(Error::new(
                Kind::NotRecoverable,
                format!("{gtid}, which is to be left out, is not in the log before the target"),
            )
            .hint("is it behind the target, or misspelt?"));
        }
    }
    Ok(executed)
}

async fn follow(
    replica: &mut Replica,
    feed: &Feed,
    source: &Server,
    account: &Settings,
    executed: &GtidSet,
    job: &LiveJob,
    progress: ReplayProgress<'_>,
) -> Result<()> {
    tracing::info!(from = %executed, address = %source.address(), "the server replays");
    replica.follow(source.address(), account, &Whence::Executed).await?;
    watch(replica, feed, OffsetRange::new(job.start, job.cut), progress).await
}

/// The address of this machine from which the server is reached.
fn our_address(info: &ConnInfo) -> IpAddr {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let Some(Endpoint::Tcp { host, port }) = info.endpoints.first() else { return loopback };
    // Sends nothing: the system only chooses the way.
    let unspecified = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let socket =
        UdpSocket::bind(unspecified).and_then(|socket| socket.connect((host.as_str(), *port)).map(|()| socket));
    socket.and_then(|socket| socket.local_addr()).map_or(loopback, |address| address.ip())
}
