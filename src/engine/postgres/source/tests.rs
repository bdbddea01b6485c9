//! A server that says what a real one said (`proto-fixtures/postgres/15/wire`), on a
//! Unix socket of the test's own. It gives each command the captured answer, and goes
//! on after `CopyDone` only when it has got ours, as the real one does.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use super::*;
use crate::engine::postgres::wire::fixtures::conversation;

const HELLO: &[u8] =
    b"R\0\0\0\x08\0\0\0\0S\0\0\0\x19server_version\x0015.18\0S\0\0\0\x17in_hot_standby\0off\0Z\0\0\0\x05I";

/// The captured server messages after each query, until the next one.
fn answers(case: &str) -> Vec<(String, Vec<Vec<u8>>)> {
    let mut answers: Vec<(String, Vec<Vec<u8>>)> = Vec::new();
    for message in conversation(case) {
        if let Some(query) = message.line.strip_prefix("Query ").filter(|_| !message.from_server) {
            answers.push((query.to_owned(), Vec::new()));
        } else if message.from_server
            && let Some((_, answer)) = answers.last_mut()
        {
            answer.push(message.bytes);
        }
    }
    answers
}

struct Fake {
    dir: tempfile::TempDir,
    server: std::thread::JoinHandle<Vec<String>>,
}

impl Fake {
    /// Serves one session: `script` maps the beginning of a command to its answer.
    /// `piece` is how many bytes are sent at a time. The session ends when the
    /// client leaves, or after an answer that leaves nothing to wait for; gives the
    /// commands.
    fn start(script: Vec<(&'static str, Vec<Vec<u8>>)>, piece: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join(".s.PGSQL.5432")).unwrap();
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut length = [0; 4];
            socket.read_exact(&mut length).unwrap();
            let mut startup = vec![0; u32::from_be_bytes(length) as usize - 4];
            socket.read_exact(&mut startup).unwrap();
            socket.write_all(HELLO).unwrap();
            let mut commands = Vec::new();
            while let Some((tag, body)) = message(&mut socket) {
                if tag != b'Q' {
                    continue;
                }
                let command = String::from_utf8(body).unwrap();
                let (_, answer) = script
                    .iter()
                    .find(|(start, _)| command.starts_with(start))
                    .unwrap_or_else(|| panic!("the script has no answer to {command:?}"));
                commands.push(command);
                for bytes in answer {
                    for piece in bytes.chunks(piece) {
                        socket.write_all(piece).unwrap();
                    }
                    while bytes[0] == b'c' && message(&mut socket).is_some_and(|(tag, _)| tag != b'c') {}
                }
                // Silence.
                let Some(last) = answer.last() else { continue };
                let whole = last.len() == u32::from_be_bytes(last[1..5].try_into().unwrap()) as usize + 1;
                if !whole || !b"Zd".contains(&last[0]) {
                    break;
                }
            }
            commands
        });
        Self { dir, server }
    }

    async fn connect(&self, slot: Option<&str>) -> Walsender {
        let url = format!("host={} port=5432 user=u dbname=d", self.dir.path().display());
        let options = SourceOptions { slot: slot.map(str::to_owned), ..SourceOptions::default() };
        Walsender::connect(&url, &options).await.unwrap()
    }
}

fn message(socket: &mut UnixStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    socket.read_exact(&mut head).ok()?;
    let mut body = vec![0; u32::from_be_bytes(head[1..].try_into().unwrap()) as usize - 4];
    socket.read_exact(&mut body).ok()?;
    body.pop_if(|last| head[0] == b'Q' && *last == 0);
    Some((head[0], body))
}

/// The answers of a case by the beginning of the command; `IDENTIFY_SYSTEM` and `SHOW`
/// are always there.
fn script(case: &str, commands: &[&'static str]) -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let find = |case: &str, start: &str| {
        let found = answers(case).into_iter().find(|(query, _)| query.starts_with(start));
        found.unwrap_or_else(|| panic!("{case} has no {start}")).1
    };
    let login = ["IDENTIFY_SYSTEM", "SHOW wal_segment_size"].map(|c| (c, find("login_and_identify", c)));
    commands.iter().map(|c| (*c, find(case, c))).chain(login).collect()
}

/// Where the captured stream began.
fn beginning(case: &str) -> Offset {
    let query = answers(case).into_iter().map(|(query, _)| query).find(|q| q.starts_with("START_REPLICATION")).unwrap();
    query.split(' ').find_map(parse_lsn).unwrap()
}

fn resume(timeline: u32, offset: u64) -> Resume {
    Resume { timeline: TimelineId(timeline), offset: Offset(offset), position: Position(format_lsn(Offset(offset))) }
}

#[test]
fn segment_sizes_are_read_as_the_server_prints_them() {
    assert_eq!(segment_bytes("16MB"), Some(16 << 20));
    assert_eq!(segment_bytes("1GB"), Some(1 << 30));
    for bad in ["", "MB", "15MB", "512kB", "2GB", "16 MB"] {
        assert_eq!(segment_bytes(bad), None, "{bad}");
    }
}

#[tokio::test]
async fn identifies_the_server() {
    let fake = Fake::start(script("login_and_identify", &[]), 7);
    let state = fake.connect(None).await.identify().await.unwrap();
    assert_eq!(state.identity.log_file_bytes, 1 << 20);
    assert_eq!(state.identity.server_version, 15);
    assert_eq!((state.timeline, state.standby), (TimelineId(1), false));
    assert_eq!(fake.server.join().unwrap(), ["IDENTIFY_SYSTEM", "SHOW wal_segment_size"]);
}

#[tokio::test]
async fn a_slot_that_is_there_says_where_an_archive_begins() {
    let fake = Fake::start(script("slots", &["READ_REPLICATION_SLOT \"pitr\""]), 4096);
    let start = fake.connect(Some("pitr")).await.prepare_slot().await.unwrap().unwrap();
    let row =
        conversation("slots").into_iter().find_map(|m| m.line.strip_prefix("DataRow physical | ").map(str::to_owned));
    let kept = row.unwrap().split(' ').find_map(parse_lsn).unwrap();
    assert_ne!(kept, start.offset, "the slot keeps log from inside a WAL file on");
    assert_eq!(start, resume(1, kept.0 - kept.0 % (1 << 20)));
}

#[tokio::test]
async fn follows_a_promotion_to_the_next_timeline() {
    let fake = Fake::start(script("timeline_ends", &["START_REPLICATION", "TIMELINE_HISTORY 2"]), 11);
    let mut source = fake.connect(None).await;
    let mut at = beginning("timeline_ends");
    source.stream(&resume(1, at.0)).await.unwrap();
    let end = loop {
        match source.next().await.unwrap() {
            StreamEvent::Data { start, bytes, .. } => {
                assert_eq!(start, at);
                at = Offset(start.0 + bytes.len() as u64);
                source.ack(at, at, false).await.unwrap();
            }
            StreamEvent::Keepalive { .. } => {}
            event => break event,
        }
    };
    assert_eq!(end, StreamEvent::TimelineEnd { next: TimelineId(2), at });
    // Late, but harmless.
    source.ack(at, at, false).await.unwrap();
    let history = source.history(TimelineId(2)).await.unwrap().unwrap();
    assert_eq!(history.ancestors.len(), 1);
    assert_eq!(history.ancestors[0].switch, at);
    assert_eq!(source.history(TimelineId(1)).await.unwrap(), None);
}

/// A recovery along timeline 2 that stopped before 2 began writes such a file
/// (`writeTimeLineHistory` takes the target timeline for the parent).
#[tokio::test]
async fn a_history_that_leaves_its_parent_before_that_began_is_read() {
    let text = "1\t0/3000000\tx\n\n2\t0/2000000\tbefore 2026-11-20 01:02:03+00\n";
    let field = |bytes: &[u8]| [&(bytes.len() as u32).to_be_bytes(), bytes].concat();
    let row = [&2_u16.to_be_bytes()[..], &field(b"00000003.history"), &field(text.as_bytes())].concat();
    let row = [b"D", &(row.len() as u32 + 4).to_be_bytes()[..], &row].concat();
    let mut answer = script("timeline_ends", &["TIMELINE_HISTORY 2"]).remove(0).1;
    *answer.iter_mut().find(|message| message[0] == b'D').unwrap() = row;
    let fake = Fake::start(vec![("TIMELINE_HISTORY 3", answer)], 4096);
    let history = fake.connect(None).await.history(TimelineId(3)).await.unwrap().unwrap();
    let switches: Vec<_> = history.ancestors.iter().map(|a| (a.timeline.0, a.switch.0)).collect();
    assert_eq!(switches, [(1, 0x200_0000), (2, 0x200_0000)]);
}

/// Dropped after every poll, byte by byte, `next` still gives the same events.
#[tokio::test]
async fn a_next_that_is_dropped_loses_nothing() {
    let events = async |piece: usize, limit: Duration| {
        let fake = Fake::start(script("timeline_ends", &["START_REPLICATION"]), piece);
        let mut source = fake.connect(None).await;
        source.stream(&resume(1, 0)).await.unwrap();
        let mut events = Vec::new();
        loop {
            let Ok(event) = tokio::time::timeout(limit, source.next()).await else { continue };
            let event = event.unwrap();
            events.push(event.clone());
            if matches!(event, StreamEvent::TimelineEnd { .. }) {
                return events;
            }
        }
    };
    let whole = events(1 << 20, Duration::from_secs(10)).await;
    assert!(whole.len() > 1);
    assert_eq!(events(1, Duration::ZERO).await, whole);
}

#[tokio::test]
async fn a_shutdown_is_the_end_of_the_stream_and_no_error() {
    let fake = Fake::start(script("shutdown_while_streaming", &["START_REPLICATION"]), 4096);
    let mut source = fake.connect(None).await;
    source.stream(&resume(1, 0)).await.unwrap();
    let end = loop {
        match source.next().await.unwrap() {
            StreamEvent::Data { .. } | StreamEvent::Keepalive { .. } => {}
            event => break event,
        }
    };
    assert_eq!(end, StreamEvent::Ended);
    assert!(source.next().await.is_err());
}

#[tokio::test]
async fn refusals_have_the_kind_that_says_what_to_do() {
    for (case, command, kind) in [
        ("log_already_removed", "START_REPLICATION PHYSICAL 0/1", Kind::Absent),
        ("refusals", "START_REPLICATION PHYSICAL 7F/0", Kind::NotRecoverable),
        ("refusals", "START_REPLICATION PHYSICAL 0/0 TIMELINE 9", Kind::NotRecoverable),
        ("refusals", "START_REPLICATION SLOT \"absent\"", Kind::Absent),
    ] {
        let mut script = script(case, &[command]);
        // What pitr asks for differs in the numbers only.
        script[0].0 = "START_REPLICATION";
        let fake = Fake::start(script, 4096);
        let mut source = fake.connect(None).await;
        // Some come in answer to the command, others when the stream has begun.
        let error = match source.stream(&resume(1, 0x10_0000)).await {
            Ok(()) => source.next().await.unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.advice().is_some(), "{error}");
    }
}

#[tokio::test]
async fn a_history_that_is_not_there_is_absent() {
    let fake = Fake::start(script("refusals", &["TIMELINE_HISTORY 9"]), 4096);
    let error = fake.connect(None).await.history(TimelineId(9)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Absent);
}

#[tokio::test]
async fn a_connection_that_breaks_off_inside_a_message_is_unreachable() {
    let mut script = script("stream_and_keepalives", &["START_REPLICATION"]);
    let answer = &mut script[0].1;
    answer.truncate(2);
    answer[1].pop();
    let fake = Fake::start(script, 4096);
    let mut source = fake.connect(None).await;
    source.stream(&resume(1, 0)).await.unwrap();
    let error = source.next().await.unwrap_err();
    assert_eq!(error.kind(), Kind::DatabaseUnreachable);
    assert!(source.stop().await.is_err());
}

/// A frozen server keeps its connections.
#[tokio::test]
async fn a_server_that_does_not_answer_counts_as_lost() {
    for silent in ["IDENTIFY_SYSTEM", "START_REPLICATION"] {
        let mut script = script("stream_and_keepalives", &["START_REPLICATION"]);
        script.iter_mut().filter(|(command, _)| *command == silent).for_each(|(_, answer)| answer.clear());
        let fake = Fake::start(script, 4096);
        let mut source = fake.connect(None).await;
        if silent == "START_REPLICATION" {
            source.identify().await.unwrap();
        }
        tokio::time::pause();
        let error = source.stream(&resume(1, 0)).await.unwrap_err();
        tokio::time::resume();
        assert_eq!(error.kind(), Kind::DatabaseUnreachable);
        assert!(error.message().contains("not answered for 60 seconds"), "{silent}: {error}");
    }
}
