//! Real bytes of a real server: what pitr reads in them must be what the capture tool,
//! which shares no code with pitr, wrote down beside them; and what pitr would send
//! must be what PostgreSQL's own clients sent.

use bytes::Bytes;

use super::auth::Authentication;
use super::fixtures::{Message, conversation};
use super::frame::{HEADER_BYTES, Head, Phase};
use super::replication::{FromServer, status_update, to_postgres_micros};
use super::{Backend, Report, startup};
use crate::model::offset::Offset;

const CASES: [&str; 9] = [
    "login_and_identify",
    "slots",
    "refusals",
    "log_already_removed",
    "stream_and_keepalives",
    "timeline_ends",
    "shutdown_while_streaming",
    "base_backup_begins",
    "base_backup_compressed",
];

fn parse(message: &Message) -> Backend {
    let head = Head::parse(&message.bytes, Phase::Ready).unwrap().unwrap();
    assert_eq!(head.total, message.bytes.len());
    Backend::parse(head.tag, Bytes::copy_from_slice(&message.bytes[HEADER_BYTES..])).unwrap()
}

fn describe(message: Backend, case: &str) -> String {
    let report = |r: Report| format!("{} {} {}", r.severity, r.sqlstate, r.message);
    match message {
        Backend::Authentication(step) => {
            let name = match step {
                Authentication::Ok => "Ok",
                Authentication::Sasl(_) => "Sasl",
                Authentication::SaslContinue(_) => "SaslContinue",
                Authentication::SaslFinal(_) => "SaslFinal",
                other => panic!("{other:?} in {case}"),
            };
            format!("Authentication {name}")
        }
        Backend::ParameterStatus { name, value } => format!("ParameterStatus {name}={value}"),
        Backend::BackendKeyData { .. } => "BackendKeyData".to_owned(),
        Backend::ReadyForQuery => "ReadyForQuery".to_owned(),
        Backend::RowDescription(columns) => format!("RowDescription {}", columns.join(" | ")),
        Backend::DataRow(values) => {
            let text = |value: Bytes| String::from_utf8_lossy(&value).replace('\t', "\\t").replace('\n', "\\n");
            let values: Vec<_> = values.into_iter().map(|v| v.map_or("null".to_owned(), text)).collect();
            format!("DataRow {}", values.join(" | "))
        }
        Backend::CommandComplete(tag) => format!("CommandComplete {tag}"),
        Backend::CopyOut => "CopyOut".to_owned(),
        Backend::CopyBoth => "CopyBoth".to_owned(),
        Backend::CopyDone => "CopyDone".to_owned(),
        Backend::Error(error) => format!("Error {}", report(error)),
        Backend::Notice(notice) => format!("Notice {}", report(notice)),
        Backend::CopyData(payload) if case.starts_with("base_backup") => {
            format!("CopyData {} with {} bytes", char::from(payload[0]), payload.len())
        }
        Backend::CopyData(payload) => match FromServer::parse(payload).unwrap() {
            FromServer::XLogData { start, log_end, time, bytes } => format!(
                "XLogData {:X} end {:X} at {} with {} bytes",
                start.0,
                log_end.0,
                to_postgres_micros(time),
                bytes.len()
            ),
            FromServer::Keepalive { log_end, time, reply_requested } => {
                format!("Keepalive {:X} at {} reply {}", log_end.0, to_postgres_micros(time), u8::from(reply_requested))
            }
        },
        other => panic!("{other:?} in {case}"),
    }
}

#[test]
fn every_captured_message_reads_as_the_capture_tool_read_it() {
    for case in CASES {
        let messages = conversation(case);
        assert!(messages.iter().filter(|m| m.from_server).count() > 10, "{case} holds a conversation");
        for message in messages.iter().filter(|m| m.from_server) {
            assert_eq!(describe(parse(message), case), message.line, "{case}");
        }
    }
}

#[test]
fn what_pitr_sends_is_what_the_stock_clients_sent() {
    let (mut startups, mut queries, mut updates) = (0, 0, 0);
    for message in CASES.into_iter().flat_map(conversation).filter(|m| !m.from_server) {
        let mut words = message.line.split(' ');
        match words.next().unwrap() {
            "Startup" => {
                let words: Vec<_> = words.collect();
                let pairs: Vec<_> = words.chunks(2).map(|p| (p[0], p[1])).collect();
                assert_eq!(startup::startup(&pairs).unwrap(), message.bytes);
                startups += 1;
            }
            "Query" => {
                let text = message.line.strip_prefix("Query ").unwrap();
                assert_eq!(startup::query(text).unwrap(), message.bytes);
                queries += 1;
            }
            "StatusUpdate" => {
                let number = |at: usize| u64::from_be_bytes(message.bytes[at..at + 8].try_into().unwrap());
                let time = super::replication::from_postgres_micros(number(30).cast_signed());
                let ours = status_update(Offset(number(6)), Offset(number(14)), time, false);
                assert_eq!(ours.as_slice(), message.bytes);
                assert!(message.line.starts_with(&format!(
                    "StatusUpdate write {:X} flush {:X}",
                    number(6),
                    number(14)
                )));
                updates += 1;
            }
            "CopyDone" => assert_eq!(message.bytes, startup::COPY_DONE),
            "Terminate" => assert_eq!(message.bytes, startup::TERMINATE),
            _ => {}
        }
    }
    assert!(startups > 10 && queries > 20 && updates > 3);
}

/// No prefix of a real message may be taken for a whole one, and none may panic.
#[test]
fn a_captured_message_cut_short_is_refused_or_waited_for() {
    for message in CASES.into_iter().flat_map(conversation).filter(|m| m.from_server && m.bytes.len() < 400) {
        let (tag, body) = (message.bytes[0], &message.bytes[HEADER_BYTES..]);
        for end in 0..body.len() {
            let cut = Backend::parse(tag, Bytes::copy_from_slice(&body[..end]));
            // Bulk and SASL data end where the frame ends; the rest carry their own ends.
            if matches!(tag, b'T' | b'D' | b'C' | b'E' | b'S') {
                assert!(cut.is_err(), "{} cut at {end}", message.line);
            }
            assert!(Head::parse(&message.bytes[..end.min(HEADER_BYTES - 1)], Phase::Ready).unwrap().is_none());
        }
    }
}
