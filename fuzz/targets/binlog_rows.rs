//! What transactions do to tables: table maps, rows, statements and compressed transactions, whole and
//! in parts. The first byte tells how the rest is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr::engine::mysql::binlog::counter::Counter;
use pitr::engine::mysql::binlog::event::kind;

fuzz_target!(|data: &[u8]| {
    let Some((&cut, mut rest)) = data.split_first() else { return };
    let (mut whole, mut parts) = (Counter::new(), Counter::new());
    // Each event: its type, the length of its content in two bytes, and that.
    while let Some((&[event, low, high], after)) = rest.split_first_chunk() {
        let (content, after) = after.split_at(after.len().min(usize::from(u16::from_le_bytes([low, high]))));
        rest = after;
        whole.whole(event, content);
        // All that stands before the rows must be at hand.
        if event != kind::TRANSACTION_PAYLOAD && Counter::wants_parts(event) && content.len() > 1100 {
            parts.begin(event, &content[..1100]);
            content[1100..].chunks(1 + usize::from(cut)).for_each(|piece| parts.more(piece));
            parts.end();
        } else {
            parts.whole(event, content);
        }
    }
    whole.end_transaction(true);
    parts.end_transaction(true);
    let _ = (whole.take(), parts.take());
});
