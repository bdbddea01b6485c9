//! Base backups: full to restore, incremental to store.
//!
//! Every file is cut into *chunks* of 1 MiB, aligned to its start and named by their
//! content. A chunk is stored once, inside a *pack*; one that differs in few blocks
//! from the chunk that stood at the same place in the base before is stored as those
//! blocks, a *delta* against a whole chunk (its *anchor*), never against a delta.
//!
//! ```text
//! file bytes --chunk--> hash, block hashes --pack--> objects of 16 to 64 MiB
//!                                 |
//!                               table: where each chunk of a base lies
//!                               manifest: files, times, log range; written last
//! ```
//! `docs/format.md` gives every byte. All of this is pure but for
//! [`load`]; `stream::backup` and `restore::files` do the reading and writing.

pub mod chunk;
pub mod load;
pub mod manifest;
pub mod pack;
pub mod table;
pub mod verify;
