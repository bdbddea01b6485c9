//! Being written.

use super::connect::Connection;
use crate::engine::{BaseOptions, BaseStream};
use crate::error::{Error, Result};

/// Begins a base backup.
///
/// # Errors
/// Always, until it is written.
pub async fn start(connection: Connection, options: &BaseOptions) -> Result<Box<dyn BaseStream>> {
    Err(Error::failure(format!("{}: base backup {:?} is being written", connection.place(), options.label)))
}
