//! What the walsender puts into `CopyData`.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pitr::engine::postgres::wire::replication::FromServer;

fuzz_target!(|data: &[u8]| {
    let _ = FromServer::parse(Bytes::copy_from_slice(data));
});
