//! Messages of a server, before and after it has proven who it is.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pitr::engine::postgres::wire::backend::Backend;
use pitr::engine::postgres::wire::frame::{BULK_BYTES_MAX, HEADER_BYTES, Head, Phase};

fuzz_target!(|data: &[u8]| {
    for phase in [Phase::Startup, Phase::Ready] {
        let mut rest = data;
        while let Ok(Some(head)) = Head::parse(rest, phase) {
            assert!((HEADER_BYTES..=BULK_BYTES_MAX).contains(&head.total));
            let Some(body) = rest.get(HEADER_BYTES..head.total) else { break };
            let _ = Backend::parse(head.tag, Bytes::copy_from_slice(body));
            rest = &rest[head.total..];
        }
    }
});
