//! Logins and answers as real servers give them (`proto-fixtures`), and what a server that
//! means harm could send.

use std::path::Path;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::auth::{Authenticator, Next};
use super::handshake::Greeting;
use super::reply::{self, Reply};
use super::*;
use crate::engine::mysql::flavor::Flavor;

/// The packets of a captured conversation in order, with whether the server sent them.
fn conversation(case: &str) -> Vec<(bool, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto-fixtures").join(case);
    let read = |name: &str| std::fs::read(dir.join(name)).unwrap_or_else(|e| panic!("{case}/{name}: {e}"));
    let (client, server) = (read("client.bin"), read("server.bin"));
    let (mut client, mut server) = (client.as_slice(), server.as_slice());
    let lines = String::from_utf8(read("messages.txt")).unwrap();
    let packets = lines.lines().map(|line| {
        let from_server = line.starts_with('<');
        let stream = if from_server { &mut server } else { &mut client };
        let length = u32::from_le_bytes([stream[0], stream[1], stream[2], 0]) as usize;
        let (packet, rest) = stream.split_at(4 + length);
        *stream = rest;
        (from_server, packet[4..].to_vec())
    });
    packets.collect()
}

/// The greeting, what the client sent while logging in, and what the server answered to it.
fn login(case: &str) -> (Greeting, Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let mut packets = conversation(case).into_iter();
    let greeting = Greeting::parse(&packets.next().unwrap().1).unwrap();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for (from_server, payload) in packets {
        let is_last = from_server && matches!(payload.first(), Some(0x00 | 0xff));
        if from_server {
            theirs.push(payload)
        } else {
            ours.push(payload)
        }
        if is_last {
            break;
        }
    }
    (greeting, ours, theirs)
}

/// Plays our side of a login with the server's recorded packets; gives what we sent and how
/// it ended.
fn replay(case: &str) -> (Vec<Vec<u8>>, Next) {
    let (greeting, _, theirs) = login(case);
    let mut authenticator = Authenticator::new(&greeting, Some("fixture"), false);
    let mut sent = vec![authenticator.proof().unwrap()];
    let mut end = Next::Wait;
    for payload in theirs {
        match authenticator.step(&payload).unwrap() {
            Next::Send(packet) => sent.push(packet),
            other => end = other,
        }
    }
    (sent, end)
}

fn contains(packet: &[u8], part: &[u8]) -> bool {
    packet.windows(part.len()).any(|window| window == part)
}

#[test]
fn reads_the_greetings_of_both_families() {
    for (case, version, plugin) in [
        ("mariadb/10.11/login/native", "5.5.5-10.11.19-MariaDB-0+deb12u1-log", "mysql_native_password"),
        ("mariadb/11.8/login/parsec", "11.8.6-MariaDB-0+deb13u1 from Debian-log", "mysql_native_password"),
        ("mysql/9.7/login/caching_sha2_fast", "9.7.4-2", "caching_sha2_password"),
    ] {
        let (greeting, ..) = login(case);
        assert_eq!((greeting.version.as_str(), greeting.plugin.as_str()), (version, plugin));
        assert_eq!(greeting.nonce.len(), 20, "{case}");
        assert!(greeting.offers_tls(), "{case}");
        assert_ne!(greeting.connection_id, 0);
    }
}

#[test]
fn proves_a_password_with_the_same_bytes_as_the_servers_own_clients() {
    for case in ["mariadb/10.11/login/native", "mysql/9.7/login/caching_sha2_fast", "mariadb/10.11/login/ed25519"] {
        let (_, theirs, _) = login(case);
        let (sent, end) = replay(case);
        assert_eq!(end, Next::Done, "{case}");
        if let [_, signature] = sent.as_slice() {
            assert_eq!(*signature, theirs[1], "{case}");
        } else {
            assert!(contains(&theirs[0], &sent[0]), "{case}");
        }
    }
}

#[test]
fn encrypts_the_password_with_the_servers_key_where_others_can_read_along() {
    for (case, request) in [("mysql/9.7/login/caching_sha2_full", 2), ("mysql/9.7/login/sha256", 1)] {
        let (_, theirs, _) = login(case);
        let (sent, end) = replay(case);
        assert_eq!(end, Next::Done, "{case}");
        assert_eq!((&sent[1], &theirs[1]), (&vec![request], &vec![request]), "{case}");
        assert_eq!((sent[2].len(), theirs[2].len()), (256, 256), "{case}");
        assert!(!contains(&sent[2], b"fixture"));
    }
}

#[test]
fn sends_the_password_itself_only_where_nobody_reads_along() {
    let (greeting, ..) = login("mysql/9.7/login/caching_sha2_full");
    let mut authenticator = Authenticator::new(&greeting, Some("fixture"), true);
    assert_eq!(authenticator.step(&[1, 4]).unwrap(), Next::Send(b"fixture\0".to_vec()));
}

#[test]
fn signs_for_parsec_after_the_servers_salt() {
    let (sent, end) = replay("mariadb/11.8/login/parsec");
    assert_eq!(end, Next::Done);
    assert_eq!(sent.iter().map(Vec::len).skip(1).collect::<Vec<_>>(), [0, 96]);
}

#[test]
fn an_account_without_a_password_gets_no_proof() {
    let (greeting, ..) = login("mariadb/10.11/login/native");
    assert!(Authenticator::new(&greeting, None, false).proof().unwrap().is_empty());
}

#[test]
fn refusals_keep_number_state_and_message() {
    for (case, code, sqlstate, text) in [
        ("mariadb/10.11/login/wrong_password", 1045, "28000", "Access denied for user 'fx_native'"),
        ("mariadb/10.11/login/too_many_connections", 1040, "08004", "Too many connections"),
        ("mysql/9.7/login/expired_password", 1862, "HY000", "Your password has expired"),
    ] {
        let (_, Next::Refused(error)) = replay(case) else { panic!("{case}") };
        assert_eq!((error.code, error.sqlstate.as_str()), (code, sqlstate));
        assert!(error.message.starts_with(text), "{}", error.message);
        let error = error.into_error("db:3306").context("while testing");
        assert_eq!(error.kind(), Kind::DatabaseUnreachable, "{case}");
        assert!(error.advice().is_some(), "{case}");
        assert_eq!(ServerError::find(&error).map(|e| e.code), Some(code));
    }
}

#[test]
fn reads_an_error_from_before_the_login_without_a_state() {
    let error = ServerError::parse(b"\xff\x69\x04Host 'a' is blocked\x1b[31m").unwrap();
    assert_eq!((error.code, error.sqlstate.as_str()), (1129, "HY000"));
    assert_eq!(error.message, "Host 'a' is blocked [31m");
    assert!(error.into_error("db:3306").advice().unwrap().contains("FLUSH HOSTS"));
    assert_eq!(ServerError::parse(b"\x00\x00\x00"), None);
    assert_eq!(ServerError::parse(b"\xff\x01"), None);
}

#[test]
fn refuses_plugins_by_name() {
    let (greeting, ..) = login("mariadb/10.11/login/native");
    for name in ["mysql_clear_password", "dialog", "auth_gssapi_client", "mysql_old_password"] {
        let mut authenticator = Authenticator::new(&greeting, Some("fixture"), true);
        let mut packet = vec![0xfe];
        packet.extend_from_slice(name.as_bytes());
        packet.push(0);
        let error = authenticator.step(&packet).unwrap_err();
        assert!(error.message().contains(name) && error.advice().is_some(), "{error}");
    }
    let mut authenticator = Authenticator::new(&greeting, Some("fixture"), true);
    assert!(authenticator.step(&[0xfe]).unwrap_err().message().contains("mysql_old_password"));
}

#[test]
fn refuses_a_second_switch_a_short_nonce_and_a_broken_key() {
    let (greeting, ..) = login("mysql/9.7/login/caching_sha2_full");
    let login = || Authenticator::new(&greeting, Some("fixture"), false);
    let mut twice = login();
    assert!(twice.step(b"\xfemysql_native_password\x0012345678901234567890\0").is_ok());
    assert!(twice.step(b"\xfemysql_native_password\x0012345678901234567890\0").is_err());
    assert!(login().step(b"\xfeclient_ed25519\0short").unwrap_err().message().contains("nonce of 5 bytes"));
    let mut key = login();
    assert_eq!(key.step(&[1, 4]).unwrap(), Next::Send(vec![2]));
    assert!(key.step(b"\x01no key").unwrap_err().message().contains("RSA key"));
    // A key that was not asked for is not used.
    assert!(login().step(b"\x01-----BEGIN PUBLIC KEY-----").is_err());
}

#[test]
fn refuses_to_work_for_minutes_on_a_proof() {
    let (greeting, ..) = login("mysql/9.7/login/caching_sha2_full");
    let mut authenticator = Authenticator::new(&greeting, Some("fixture"), false);
    let mut switch = b"\xfeparsec\0".to_vec();
    switch.extend_from_slice(&[7; 32]);
    assert_eq!(authenticator.step(&switch).unwrap(), Next::Send(Vec::new()));
    let mut salt = b"\x01P\x14".to_vec();
    salt.extend_from_slice(&[7; 18]);
    assert!(authenticator.step(&salt).unwrap_err().message().contains("1073741824 iterations"));
}

#[test]
fn reads_rows_and_ends_of_both_families() {
    for (case, version) in [
        ("mariadb/10.11/login/native", "10.11.19-MariaDB-0+deb12u1-log"),
        ("mysql/9.7/login/caching_sha2_fast", "9.7.4-2"),
    ] {
        let packets = conversation(case);
        let at = packets
            .iter()
            .rposition(|(from_server, p)| *from_server && contains(p, version.as_bytes()) && p.len() < 50)
            .unwrap();
        let row = &packets[at].1;
        assert_eq!(reply::row(row, 2).unwrap(), [Some(version.to_owned()), None]);
        assert!(reply::row(row, 1).is_err() && reply::row(row, 3).is_err());
        assert!(!reply::is_eof(row) && reply::is_eof(&packets[at + 1].1));
    }
    assert_eq!(Reply::parse(&[2]).unwrap(), Reply::Rows(2));
    // The request for one of our files.
    assert!(Reply::parse(b"\xfb/etc/passwd").is_err());
}

proptest! {
    #[test]
    fn no_bytes_make_a_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), columns in 0_u64..20) {
        let _ = Greeting::parse(&bytes);
        let mut greeting = vec![10];
        greeting.extend_from_slice(&bytes);
        let _ = Greeting::parse(&greeting);
        let _ = Reply::parse(&bytes);
        let _ = reply::row(&bytes, columns);
        let _ = ServerError::parse(&bytes);
    }

    #[test]
    fn no_packets_make_a_login_panic(
        packets in prop::collection::vec(
            (prop::sample::select(vec![0_u8, 1, 0xfe, 0xff]), prop::sample::select(vec![
                "", "client_ed25519\0", "parsec\0", "sha256_password\0", "caching_sha2_password\0", "\u{4}",
            ]), prop::collection::vec(any::<u8>(), 0..40)), 1..5),
        private: bool,
    ) {
        let (greeting, ..) = login("mysql/9.7/login/caching_sha2_full");
        let mut authenticator = Authenticator::new(&greeting, Some("fixture"), private);
        for (mark, name, rest) in packets {
            let payload = [&[mark], name.as_bytes(), &rest].concat();
            let _ = authenticator.step(&payload);
        }
    }
}

/// A server that sends these bytes, then waits for the client to go.
async fn fake(bytes: Vec<u8>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.write_all(&bytes).await.unwrap();
        let mut sink = Vec::new();
        let _ = socket.read_to_end(&mut sink).await;
    });
    port
}

async fn connect(port: u16, query: &str) -> Result<Connection> {
    let url = format!("mysql://u:p@127.0.0.1:{port}/?connect-timeout=2&{query}");
    let lookup = |name: &str| (name == "HOME").then(|| "/nonexistent".to_owned());
    Connection::connect(&ConnInfo::resolve(&url, &lookup).unwrap()).await
}

/// A real greeting with these capabilities taken away.
fn greeting_without(capabilities: u16) -> Vec<u8> {
    let mut payload = conversation("mysql/9.7/login/caching_sha2_fast").remove(0).1;
    // Behind version, connection id, first part of the nonce and a zero.
    let at = 1 + "9.7.4-2".len() + 1 + 4 + 8 + 1;
    let kept = u16::from_le_bytes([payload[at], payload[at + 1]]) & !capabilities;
    payload[at..at + 2].copy_from_slice(&kept.to_le_bytes());
    payload
}

fn framed(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet::frame(&mut bytes, 0, payload);
    bytes
}

#[tokio::test]
async fn refuses_a_server_without_tls_where_tls_was_asked_for() {
    let port = fake(framed(&greeting_without(1 << 11))).await;
    let error = connect(port, "ssl-mode=REQUIRED").await.unwrap_err();
    assert!(error.message().contains("does not offer TLS, and ssl-mode=REQUIRED asks for it"), "{error}");
}

#[tokio::test]
async fn refuses_bytes_put_in_before_tls() {
    let mut bytes = framed(&greeting_without(0));
    bytes.extend_from_slice(b"\x07\x00\x00\x02\x00\x00\x00\x02\x00\x00\x00");
    let error = connect(fake(bytes).await, "ssl-mode=REQUIRED").await.unwrap_err();
    assert!(error.message().contains("11 bytes came in the clear before TLS"), "{error}");
}

#[tokio::test]
async fn says_what_it_met_when_it_is_no_database() {
    let error = connect(fake(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()).await, "").await.unwrap_err();
    assert_eq!(error.kind(), Kind::DatabaseUnreachable);
    assert!(error.advice().unwrap().contains("is it a MySQL or MariaDB server"), "{error}");
    let error = connect(fake(framed(&[11])).await, "").await.unwrap_err();
    assert!(error.message().contains("speaks version 11 of the protocol"), "{error}");
    let error = connect(fake(framed(b"\xff\x69\x04Host is blocked")).await, "").await.unwrap_err();
    assert_eq!(ServerError::find(&error).map(|e| e.code), Some(1129));
}

#[tokio::test]
async fn a_silent_host_costs_the_timeout_and_the_next_is_tried() {
    let silent = fake(Vec::new()).await;
    let blocked = fake(framed(b"\xff\x10\x04Too many connections")).await;
    let url = format!("mysql://u@127.0.0.1:{silent},127.0.0.1:{blocked}/?connect-timeout=1");
    let info = ConnInfo::resolve(&url, &|name| (name == "HOME").then(|| "/nonexistent".to_owned())).unwrap();
    let error = Connection::connect(&info).await.unwrap_err();
    assert!(error.message().starts_with("no host will do (127.0.0.1:"), "{error}");
    assert!(error.message().contains("1040") && error.message().contains("no connection within 1 s"), "{error}");
}

#[tokio::test]
async fn the_stream_begins_with_what_had_already_arrived() {
    let mut bytes = framed(&greeting_without(0));
    packet::frame(&mut bytes, 2, &[0, 0, 0, 2, 0, 0, 0]);
    packet::frame(&mut bytes, 1, b"an event");
    let mut connection = connect(fake(bytes).await, "ssl-mode=DISABLED").await.unwrap();
    assert_eq!((connection.flavor(), connection.version_number()), (Flavor::MySql, (9, 7, 4)));
    assert!(connection.is_local());
    connection.command(&[0x12]).await.unwrap();
    let (mut reader, mut writer) = connection.into_parts();
    let mut buffer = [0; 12];
    reader.read_exact(&mut buffer).await.unwrap();
    let piece = packet::Unframer::new(1).next(&mut &buffer[..]).unwrap().unwrap();
    assert_eq!(piece, packet::Piece { bytes: b"an event", first: true, last: true });
    writer.write_packet(0, b"an acknowledgement").await.unwrap();
    writer.close().await;
    assert_eq!(reader.read(&mut buffer).await.unwrap(), 0);
}

#[test]
fn a_version_is_cleaned_and_numbered() {
    let (greeting, ..) = login("mariadb/10.11/login/native");
    assert_eq!(Flavor::of_version(&greeting.version), Flavor::MariaDb);
    assert_eq!(connection::clean_version(&greeting.version), "10.11.19-MariaDB-0+deb12u1-log");
    assert_eq!(connection::clean_version("5.5.5-m3"), "5.5.5-m3");
    for (text, number) in [
        ("10.11.19-MariaDB-log", (10, 11, 19)),
        ("9.7.4-2", (9, 7, 4)),
        ("26.10", (26, 10, 0)),
        ("8.0.36", (8, 0, 36)),
        ("", (0, 0, 0)),
        ("99999999999.1.2", (0, 1, 2)),
    ] {
        assert_eq!(version_number(text), number, "{text}");
    }
}
