//! A state's bytes: the body of MariaDB's GTID_LIST_EVENT.
//!
//! ```text
//! 0  entries: low 28 bits of u32, flags: high 4
//! 4  each entry: domain u32, server u32, sequence u64
//! ```
//!
//! A domain's position is the last of its entries. An empty list is padded with two zero
//! bytes. Source: `Gtid_list_log_event` in `sql/log_event.cc`.

use super::MariaDbSet;
use crate::engine::mysql::binlog::fields::Fields;
use crate::error::Result;

/// The bits of the first field that count entries.
const COUNT: u32 = (1 << 28) - 1;

impl MariaDbSet {
    /// Reads the body of a GTID_LIST_EVENT, without its checksum.
    ///
    /// # Errors
    /// [`crate::Kind::Corruption`] for a body that ends too early or goes on, and for a
    /// second entry of one server in one domain.
    pub fn decode_list(body: &[u8]) -> Result<Self> {
        let mut fields = Fields::new("GTID_LIST event", body);
        let entries = fields.u32()? & COUNT;
        let mut set = Self::default();
        for _ in 0..entries {
            let (domain, server, sequence) = (fields.u32()?, fields.u32()?, fields.u64()?);
            if !set.add_entry(domain, server, sequence) {
                return Err(fields.refuse(format_args!("a second entry of server {server} in domain {domain}")));
            }
        }
        if !fields.rest().iter().all(|&byte| byte == 0) {
            return Err(fields.refuse(format_args!("more than its {entries} entries")));
        }
        Ok(set)
    }
}
