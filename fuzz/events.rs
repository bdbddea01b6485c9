//! A log taken apart into events, for targets and seeds.

use pitr::engine::mysql::binlog::event::{self, CHECKSUM_BYTES, HEADER_BYTES, Header};

/// The events that are whole, and what is behind them.
pub fn events(log: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let (mut events, mut rest) = (Vec::new(), log);
    while let Some((event, after)) =
        Header::parse(rest).ok().and_then(|header| rest.split_at_checked(header.length as usize))
    {
        events.push(event);
        rest = after;
    }
    (events, rest)
}

/// The log with every event's checksum right, which no mutation finds.
#[allow(dead_code, reason = "seeds are as servers sent them")]
pub fn sealed(log: &[u8]) -> Vec<u8> {
    let (events, rest) = events(log);
    let mut out = Vec::new();
    for event in events {
        out.extend_from_slice(event);
        if event.len() >= HEADER_BYTES + CHECKSUM_BYTES {
            let begins = out.len() - event.len();
            event::seal(&mut out[begins..]);
        }
    }
    out.extend_from_slice(rest);
    out
}
