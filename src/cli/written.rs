//! The stores that a verb writes to: one, or several as one.

use std::str::FromStr;
use std::sync::Arc;

use serde::Deserialize;

use super::settings::Settings;
use crate::copy::mirrors::Mirrors;
use crate::engine::{Axis, Engine};
use crate::error::{Error, Result};
use crate::store::Store;
use crate::store::mirrored::Mirrored;

/// How many of several stores have to have what is to count as stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AckStores {
    /// Each of them.
    #[default]
    All,
    /// So many.
    Count(usize),
}

/// How it stands in a file: a word or a number.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum FileAckStores {
    Count(i64),
    Word(String),
}

impl FileAckStores {
    pub(super) fn read(&self) -> Result<AckStores> {
        match self {
            Self::Count(count) => count.to_string().parse(),
            Self::Word(word) => word.parse(),
        }
    }
}

impl FromStr for AckStores {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match (text, text.parse()) {
            ("all", _) => Ok(Self::All),
            (_, Ok(count)) if count > 0 => Ok(Self::Count(count)),
            _ => Err(Error::config(format!("ack_stores {text:?} is not a number of stores")).hint(
                "write \"all\", or how many of the stores have to have the log before the server is told: 1, 2, …",
            )),
        }
    }
}

impl AckStores {
    /// How many of `all` stores that are.
    fn of(self, all: usize) -> Result<usize> {
        match self {
            Self::All => Ok(all),
            Self::Count(count) if (1..=all).contains(&count) => Ok(count),
            Self::Count(count) => Err(Error::config(format!("ack_stores is {count}, and {all} stores are named"))
                .hint(format!("write \"all\", or a number from 1 to {all}"))),
        }
    }
}

/// How many stores have to have what is written.
#[derive(Debug, clap::Args)]
pub(super) struct AckStoresArgs {
    /// How many of several stores have to have what is written before it counts: `all`, or a number [default: all]
    #[arg(long, value_name = "N", env = "PITR_ACK_STORES")]
    ack_stores: Option<String>,
}

/// Where a verb writes.
pub(super) struct Written {
    pub(super) store: Arc<dyn Store>,
    /// What keeps several stores together.
    pub(super) mirrors: Option<Arc<Mirrors>>,
}

/// What a verb writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writes {
    /// Log, as a writer with a number of its own.
    Log,
    /// Only what nobody else makes.
    Bases,
}

/// The stores that a verb writes to. The directory of one that is alone is made; of several, one that is not there may be a disk that
/// is not mounted, and the others do.
///
/// # Errors
/// [`crate::Kind::Config`] when none is named, one is none, or `ack_stores` fits none; [`crate::Kind::StoreUnreachable`] when a directory
/// cannot be made.
pub(super) fn written(
    settings: &Settings,
    args: &AckStoresArgs,
    engine: &dyn Engine,
    writes: Writes,
) -> Result<Written> {
    let asked = match &args.ack_stores {
        Some(text) => text.parse()?,
        None => settings.ack_stores,
    };
    let urls = settings.store_urls();
    let acks = asked.of(urls.len().max(1))?;
    if urls.len() < 2 {
        return Ok(Written { store: settings.make_store()?, mirrors: None });
    }
    let stores = settings.stores()?;
    for (at, store) in stores.iter().enumerate() {
        if stores.iter().skip(at + 1).any(|other| other.location() == store.location()) {
            return Err(Error::config(format!("store {} is named twice", store.location()))
                .hint("each of several stores is a copy of its own"));
        }
    }
    let all = stores.len();
    // Where the archive counts the offsets, a writer that does not see what an earlier one stored would give the same
    // offsets to other log. Else the log is the server's own, and the same for both.
    let claims = match (writes, engine.axis()) {
        (Writes::Log, Axis::Archive) => acks.max(all + 1 - acks),
        _ => acks,
    };
    let mirrored = Mirrored::new(stores, acks, claims);
    let compression = settings.stream.compression_for(engine);
    let (cluster, keys) = (settings.cluster.clone(), settings.keys()?);
    let mirrors = Mirrors::new(Arc::clone(&mirrored), cluster, compression, keys, writes == Writes::Log);
    Ok(Written { store: mirrored, mirrors: Some(mirrors) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_stores_as_there_are_may_be_asked_for() {
        let of = |text: &str, all| text.parse::<AckStores>().and_then(|acks| acks.of(all));
        for (text, all, is) in [("all", 3, 3), ("all", 1, 1), ("1", 3, 1), ("3", 3, 3)] {
            assert_eq!(of(text, all).unwrap(), is);
        }
        for (text, all) in [("0", 2), ("3", 2), ("-1", 2), ("most", 2), ("", 2), ("2", 1)] {
            let error = of(text, all).unwrap_err();
            assert_eq!(error.kind().exit_code(), 5, "{text}");
            assert!(error.advice().unwrap().contains("\"all\""));
        }
    }
}
