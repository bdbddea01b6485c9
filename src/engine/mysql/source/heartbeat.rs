//! Where a source says it is, when it says that it is alive.
//!
//! It does so when it has nothing more, and MySQL also where it has passed over transactions
//! that we have, before it goes on: only the place tells these apart.
//!
//! ```text
//! first kind    [position u64, where the header's position is 0] file name
//! second kind   (type, length, value)*, 0      each a length-encoded number; type 1: file name,
//!                                              2: position, as a length-encoded number
//! ```
//! Sources: MySQL `libs/mysql/binlog/event/control_events.h` (`Heartbeat_event`,
//! `Heartbeat_event_v2`); MariaDB `sql/log_event.h` (`HB_SUB_HEADER_LEN`).

use super::super::binlog::event::{CHECKSUM_BYTES, HEADER_BYTES, Header, is_sound, kind};
use super::intake::FilePlace;

/// The place that a heartbeat names.
#[must_use]
pub(super) fn place(header: &Header, event: &[u8]) -> Option<FilePlace> {
    let end = if is_sound(event) { event.len() - CHECKSUM_BYTES } else { event.len() };
    let body = event.get(HEADER_BYTES..end)?;
    if header.kind == kind::HEARTBEAT_V2 {
        return second_kind(body);
    }
    let (position, name) = match body.split_first_chunk() {
        Some((position, name)) if header.log_pos == 0 => (u64::from_le_bytes(*position), name),
        _ => (u64::from(header.log_pos), body),
    };
    Some(FilePlace { file: std::str::from_utf8(name).ok()?.to_owned(), position })
}

fn second_kind(mut body: &[u8]) -> Option<FilePlace> {
    let (mut file, mut position) = (None, None);
    loop {
        match number(&mut body)? {
            0 => return Some(FilePlace { file: file?, position: position? }),
            field => {
                let length = usize::try_from(number(&mut body)?).ok()?;
                let (mut value, rest) = body.split_at_checked(length)?;
                body = rest;
                match field {
                    1 => file = Some(std::str::from_utf8(value).ok()?.to_owned()),
                    2 => position = Some(number(&mut value)?),
                    _ => {}
                }
            }
        }
    }
}

/// A length-encoded number.
fn number(bytes: &mut &[u8]) -> Option<u64> {
    let (first, rest) = bytes.split_first()?;
    let more = match first {
        0xfc => 2,
        0xfd => 3,
        0xfe => 8,
        _ => 0,
    };
    let (value, rest) = rest.split_at_checked(more)?;
    *bytes = rest;
    let little = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
    Some(if more == 0 { u64::from(*first) } else { value.iter().rev().fold(0, little) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::mysql::binlog::event::seal;

    fn event(kind: u8, log_pos: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER_BYTES + body.len() + CHECKSUM_BYTES).unwrap();
        let mut event = vec![0; 4];
        event.push(kind);
        event.extend_from_slice(&1_u32.to_le_bytes());
        event.extend_from_slice(&length.to_le_bytes());
        event.extend_from_slice(&log_pos.to_le_bytes());
        event.extend_from_slice(&[0; 2]);
        event.extend_from_slice(body);
        event.extend_from_slice(&[0; 4]);
        let mut event = bytes::BytesMut::from(event.as_slice());
        seal(&mut event);
        event.to_vec()
    }

    fn read(event: &[u8]) -> Option<(String, u64)> {
        place(&Header::parse(event).unwrap(), event).map(|place| (place.file, place.position))
    }

    #[test]
    fn both_kinds_name_their_place() {
        assert_eq!(read(&event(kind::HEARTBEAT, 677, b"binlog.000002")), Some(("binlog.000002".into(), 677)));
        let far = [&(5_u64 << 32).to_le_bytes()[..], b"b.1"].concat();
        assert_eq!(read(&event(kind::HEARTBEAT, 0, &far)), Some(("b.1".into(), 5 << 32)));
        for (position, value) in [
            (&[2, 1, 0xfa][..], 250),
            (&[2, 3, 0xfc, 0x34, 0x12], 0x1234),
            (&[2, 4, 0xfd, 1, 2, 3], 0x0003_0201),
            (&[2, 9, 0xfe, 0, 0, 0, 0, 5, 0, 0, 0], 5 << 32),
        ] {
            let body = [&[1, 3][..], b"b.1", position, &[0]].concat();
            assert_eq!(read(&event(kind::HEARTBEAT_V2, 0, &body)), Some(("b.1".into(), value)));
            for end in 0..body.len() - 1 {
                assert_eq!(read(&event(kind::HEARTBEAT_V2, 0, &body[..end])), None, "cut off at {end}");
            }
        }
    }
}
