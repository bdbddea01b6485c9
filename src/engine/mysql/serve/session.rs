//! One replica's connection, from its login to the log.

use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::dump::{self, Form};
use super::login::Plugin;
use super::packets::{self, Command, Dump, Login, NONCE, put_packet};
use super::queries::{self, Answer, Checksum, Wishes};
use super::{Executed, Flavor, LogFeed, Settings};
use crate::error::{Error, Kind, Result};
use crate::model::time::Clock;

/// How long a client may take to log in.
const LOGIN_MAX: Duration = Duration::from_secs(10);

/// The longest packet of a client that has not logged in.
const LOGIN_LENGTH_MAX: usize = 64 << 10;

/// How often a replica that does not say so hears of us.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// `ER_ACCESS_DENIED_ERROR`
const ACCESS_DENIED: u16 = 1045;
/// `ER_UNKNOWN_COM_ERROR`
const UNKNOWN_COMMAND: u16 = 1047;
/// `ER_SOURCE_FATAL_ERROR_READING_BINLOG`: the replica stops and does not come back.
pub(super) const FATAL_READING_LOG: u16 = 1236;

/// Serves a replica until it leaves.
///
/// # Errors
/// When it does not log in, does not keep to the protocol, or when the log ends with an error.
pub(super) async fn run(
    mut socket: TcpStream,
    connection: u32,
    settings: &Settings,
    feed: &dyn LogFeed,
    clock: &dyn Clock,
) -> Result<()> {
    let lost = |e| Error::failure("cannot set up a replica's connection").because(e);
    socket.set_nodelay(true).map_err(lost)?;
    let logged_in = tokio::time::timeout(LOGIN_MAX, log_in(&mut socket, connection, settings)).await;
    logged_in.map_err(|_| Error::failure(format!("no login within {} s", LOGIN_MAX.as_secs())))??;
    let mut wishes = Wishes::default();
    while let Some(payload) = packets::read_packet(&mut socket, 0, packets::PACKET_MAX - 1).await? {
        let mut sequence = 1;
        let mut out = Vec::new();
        let (dump, executed) = match Command::parse(&payload)? {
            Command::Quit => return Ok(()),
            Command::Fine => {
                put_packet(&mut out, &mut sequence, &packets::ok());
                write(&mut socket, &out).await?;
                continue;
            }
            Command::Query(statement) => {
                let now = clock.now().0.div_euclid(1_000_000);
                let answer = queries::answer(&statement, settings, now, &mut wishes);
                tracing::debug!(connection, statement, ?answer, "replica");
                put_answer(&mut out, &mut sequence, &answer);
                write(&mut socket, &out).await?;
                continue;
            }
            Command::Other(number) => {
                let refusal = packets::refusal(UNKNOWN_COMMAND, "08S01", &format!("no command {number} here"));
                put_packet(&mut out, &mut sequence, &refusal);
                write(&mut socket, &out).await?;
                continue;
            }
            Command::DumpGtid(dump, set) => (dump, Executed::GtidSet(set)),
            Command::Dump(dump) => {
                let executed = match wishes.connect_state.take() {
                    Some(position) => Executed::GtidPosition(position),
                    None => Executed::Place { file: dump.file.clone(), position: dump.position },
                };
                (dump, executed)
            }
        };
        tracing::info!(connection, replica = dump.server_id, %executed, "a replica asks for the log");
        let form = Form {
            server_id: settings.server_id,
            heartbeat: wishes.heartbeat.unwrap_or(HEARTBEAT),
            annotations: dump.flags & Dump::ANNOTATIONS != 0,
            heartbeat_v2: settings.flavor == Flavor::MySql && dump.flags & Dump::HEARTBEAT_V2 != 0,
            knows_checksums: wishes.checksum.is_some(),
            checksum: wishes.checksum == Some(Checksum::Crc32),
        };
        return dump::run(&mut socket, feed, &executed, form).await;
    }
    Ok(())
}

/// Greets a client and has it log in.
async fn log_in(socket: &mut TcpStream, connection: u32, settings: &Settings) -> Result<()> {
    // Clients take the nonce for text: no zeros, and 7 bits.
    let nonce: [u8; NONCE] = std::array::from_fn(|_| rand::random_range(1..=127));
    let mut plugin = Plugin::default_of(settings.flavor);
    let mut sequence = 0;
    let mut out = Vec::new();
    put_packet(&mut out, &mut sequence, &packets::greeting(&settings.version, connection, &nonce, plugin.name()));
    write(socket, &out).await?;
    out.clear();
    let left = || Error::failure("a client left without logging in");
    let payload = packets::read_packet(socket, sequence, LOGIN_LENGTH_MAX).await?.ok_or_else(left)?;
    sequence = sequence.wrapping_add(1);
    let login = Login::parse(&payload)?;
    let mut proof = login.proof;
    let used = login.plugin.as_deref().map_or(Some(Plugin::Native), Plugin::named);
    match used {
        Some(used) if !proof.is_empty() => plugin = used,
        _ => {
            put_packet(&mut out, &mut sequence, &packets::auth_switch(plugin.name(), &nonce));
            write(socket, &out).await?;
            out.clear();
            proof = packets::read_packet(socket, sequence, LOGIN_LENGTH_MAX).await?.ok_or_else(left)?;
            sequence = sequence.wrapping_add(1);
        }
    }
    let knows = plugin.proves(&proof, &nonce, settings.password.expose_secret().as_bytes());
    if !knows || login.user != settings.user {
        let message = format!("Access denied for user '{}' (using password: YES)", login.user);
        put_packet(&mut out, &mut sequence, &packets::refusal(ACCESS_DENIED, "28000", &message));
        write(socket, &out).await?;
        return Err(Error::failure(format!("user {:?} was refused", login.user)));
    }
    if plugin == Plugin::CachingSha2 {
        put_packet(&mut out, &mut sequence, packets::FAST_AUTH_OK);
    }
    put_packet(&mut out, &mut sequence, &packets::ok());
    write(socket, &out).await
}

fn put_answer(out: &mut Vec<u8>, sequence: &mut u8, answer: &Answer) {
    match answer {
        Answer::Ok => put_packet(out, sequence, &packets::ok()),
        Answer::Rows { columns, row } => packets::put_result(out, sequence, columns, row.as_deref()),
        Answer::Refused { code, message } => {
            put_packet(out, sequence, &packets::refusal(*code, "HY000", message));
        }
    }
}

/// Writes all of `bytes`.
///
/// # Errors
/// [`Kind::Failure`] when the replica is gone.
pub(super) async fn write(socket: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    socket.write_all(bytes).await.map_err(|e| Error::new(Kind::Failure, "cannot write to the replica").because(e))
}
