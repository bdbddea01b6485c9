//! One [`Settings`] value from flags, environment, file and defaults, in that order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;

use super::written::{AckStores, FileAckStores};
use crate::engine::{Axis, Engine};
use crate::error::{Error, Result};
use crate::model::cluster::ClusterName;
use crate::seal::key::Keys;
use crate::segment::codec::Compression;
use crate::store::several::Several;
use crate::store::{self, Store};

/// Files looked for when `--config` names none.
const FILES: [&str; 2] = ["pitr.toml", "/etc/pitr/pitr.toml"];

/// How much a spool holds when nothing is said.
const SPOOL_SIZE: &str = "4GiB";

/// The slot that is used when none is named.
const SLOT: &str = "pitr";

/// Options every verb takes, before or after its name.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Where archives are: a directory, file:///DIR, or s3://BUCKET/PREFIX?endpoint=URL&region=NAME.
    /// Several may be given: copies that are written, and read, as one
    #[arg(long, global = true, env = "PITR_STORE", value_name = "URL")]
    pub store: Vec<String>,
    /// Name of the cluster in the store [default: main]
    #[arg(long, global = true, env = "PITR_CLUSTER", value_name = "NAME")]
    pub cluster: Option<String>,
    /// The database: postgres://USER@HOST/DATABASE, mysql://USER@HOST, mariadb://USER@HOST, or a
    /// libpq keyword string
    #[arg(long, global = true, env = "PITR_SOURCE", value_name = "URL", hide_env_values = true)]
    pub source: Option<String>,
    /// Encrypts what is archived: the file archiver.key that `pitr key new` made
    #[arg(long, global = true, env = "PITR_KEY_FILE", value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Reads what is encrypted: the file restore.key that `pitr key new` made
    #[arg(long, global = true, env = "PITR_RESTORE_KEY", value_name = "FILE")]
    pub restore_key: Option<PathBuf>,
    /// Configuration file [default: ./pitr.toml, then /etc/pitr/pitr.toml]
    #[arg(long, global = true, env = "PITR_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print one JSON document instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// Say more; twice for debugging
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// How log lines look
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text", env = "PITR_LOG_FORMAT")]
    pub log_format: LogFormat,
}

/// The replication slot, for the verbs that have to do with one.
#[derive(Debug, Clone, Args)]
pub struct SlotArgs {
    /// Replication slot of `pitr archive` [default: pitr]
    #[arg(long, value_name = "NAME", env = "PITR_SLOT")]
    pub slot: Option<String>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What the command line, the environment and the file mean together.
#[derive(Clone, Debug)]
pub struct Settings {
    stores: Vec<String>,
    /// Name of the cluster in the store.
    pub cluster: ClusterName,
    source: Option<String>,
    slot: Option<String>,
    key_file: Option<PathBuf>,
    restore_key: Option<PathBuf>,
    /// How many of several stores have to have what is written.
    pub ack_stores: AckStores,
    /// How the log is streamed.
    pub stream: Stream,
    /// Print JSON.
    pub json: bool,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
}

/// How the log is streamed: the `[stream]` table.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Longest time a byte waits for its segment to close, on remote stores.
    pub flush_interval: Duration,
    /// Largest raw size of a segment.
    pub segment_bytes: u64,
    /// Compression of segments; see [`Stream::compression_for`].
    pub compression: Option<Compression>,
    /// What has to hold the log before the server is told.
    pub ack: Ack,
    /// Where log waits for a remote store.
    pub spool: Option<PathBuf>,
    /// How much may wait there.
    pub spool_bytes: u64,
}

/// What has to hold the log before the server is told that it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Ack {
    /// The store.
    Store,
    /// The spool on this machine's disk, or the store.
    Spool,
}

impl Stream {
    /// How an engine's log is compressed: as asked for, else as suits it. Of
    /// sysbench's rows in a binlog LZ4 leaves 55 %, fast zstd 35 % and level 1 31 %, of which the
    /// last is half as much work again; of WAL all leave about the same.
    #[must_use]
    pub fn compression_for(&self, engine: &dyn Engine) -> Compression {
        self.compression.unwrap_or(match engine.axis() {
            Axis::Server => Compression::Lz4,
            Axis::Archive => Compression::ZstdFast,
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSettings {
    #[serde(default)]
    store: Vec<FileStore>,
    ack_stores: Option<FileAckStores>,
    #[serde(default)]
    stream: FileStream,
    #[serde(default)]
    encryption: FileEncryption,
    #[serde(default)]
    cluster: BTreeMap<String, FileCluster>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEncryption {
    key_file: Option<PathBuf>,
    restore_key: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileStore {
    url: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileStream {
    flush_interval: Option<String>,
    segment_size: Option<String>,
    compression: Option<String>,
    ack: Option<Ack>,
    ack_stores: Option<FileAckStores>,
    spool: Option<PathBuf>,
    spool_size: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileCluster {
    source: Option<String>,
    slot: Option<String>,
    #[serde(default)]
    stream: FileStream,
    #[serde(default)]
    encryption: FileEncryption,
}

impl Settings {
    /// Puts together what flags, environment and file say.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] with file, line and column; [`crate::Kind::Usage`] for a
    /// flag's value.
    pub fn resolve(global: &Global) -> Result<Self> {
        let (file, found) = read_file(global.config.as_deref())?;
        let cluster: ClusterName = match &global.cluster {
            Some(name) => name.parse()?,
            None => "main".parse()?,
        };
        let mut clusters = file.cluster;
        let ours = clusters.remove(cluster.as_str()).unwrap_or_default();
        let stream = Stream::resolve(&ours.stream, &file.stream)?;
        let ack_stores = [&ours.stream.ack_stores, &file.stream.ack_stores, &file.ack_stores].into_iter().flatten();
        let ack_stores = ack_stores.map(FileAckStores::read).next().transpose()?;
        Ok(Self {
            stores: if global.store.is_empty() {
                file.store.into_iter().map(|store| store.url).collect()
            } else {
                global.store.clone()
            },
            cluster,
            source: global.source.clone().or(ours.source),
            slot: ours.slot,
            key_file: first(&global.key_file, &ours.encryption.key_file, &file.encryption.key_file),
            restore_key: first(&global.restore_key, &ours.encryption.restore_key, &file.encryption.restore_key),
            ack_stores: ack_stores.unwrap_or_default(),
            stream,
            json: global.json,
            file: found,
        })
    }

    /// The store to read from: several as one, if several are named.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] when none is named, or one is none.
    pub fn store(&self) -> Result<Arc<dyn Store>> {
        let mut stores = self.stores()?;
        match (stores.pop(), stores.is_empty()) {
            (Some(only), true) => Ok(only),
            (last, _) => Ok(Arc::new(Several::new(stores.into_iter().chain(last).collect()))),
        }
    }

    /// Each of the stores by itself.
    ///
    /// # Errors
    /// As [`Settings::store`].
    pub fn stores(&self) -> Result<Vec<Arc<dyn Store>>> {
        if self.stores.is_empty() {
            return Err(no_store());
        }
        self.stores.iter().map(|url| store::url::open(url)).collect()
    }

    /// The one store to write to.
    ///
    /// # Errors
    /// As [`Settings::store`]; [`crate::Kind::Config`] when several are named.
    pub fn one_store(&self) -> Result<Arc<dyn Store>> {
        store::url::open(self.named_store()?)
    }

    /// Each of the stores by itself, made when it is not there.
    ///
    /// # Errors
    /// As [`Settings::store`]; [`crate::Kind::StoreUnreachable`] when one cannot be made.
    pub fn make_stores(&self) -> Result<Vec<Arc<dyn Store>>> {
        if self.stores.is_empty() {
            return Err(no_store());
        }
        self.stores.iter().map(|url| store::url::make(url)).collect()
    }

    /// The one store to write to, made when it is not there.
    ///
    /// # Errors
    /// As [`Settings::one_store`]; [`crate::Kind::StoreUnreachable`] when it cannot be made.
    pub fn make_store(&self) -> Result<Arc<dyn Store>> {
        store::url::make(self.named_store()?)
    }

    fn named_store(&self) -> Result<&str> {
        match self.stores.as_slice() {
            [] => Err(no_store()),
            [only] => Ok(only),
            several => Err(Error::config(format!("{} stores are named, and this verb writes to one", several.len()))
                .hint("name it with --store; `pitr copy FROM TO` brings another one up to it")),
        }
    }

    /// The keys, where they are named.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] naming a file that cannot be read, or is not what it is named for.
    pub fn keys(&self) -> Result<Keys> {
        Keys::read(self.key_file.as_deref(), self.restore_key.as_deref())
    }

    /// The source.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] when none is named.
    pub fn source(&self) -> Result<&str> {
        self.source.as_deref().ok_or_else(|| {
            Error::config("no source is named").hint(
                "give --source postgres://USER@HOST/DATABASE, set PITR_SOURCE, or put source = \"...\" under [cluster.main] in pitr.toml",
            )
        })
    }

    /// The source, if one is named.
    #[must_use]
    pub fn source_if_any(&self) -> Option<&str> {
        self.source.as_deref()
    }

    /// The replication slot's name: what was typed or is in the environment, else the
    /// file's, else the default.
    #[must_use]
    pub fn slot(&self, typed: &SlotArgs) -> String {
        typed.slot.clone().or_else(|| self.slot.clone()).unwrap_or_else(|| SLOT.to_owned())
    }

    /// The stores' URLs as given.
    #[must_use]
    pub fn store_urls(&self) -> &[String] {
        &self.stores
    }
}

impl Stream {
    fn resolve(ours: &FileStream, all: &FileStream) -> Result<Self> {
        let pick = |own: &Option<String>, general: &Option<String>, default: &str| {
            own.as_deref().or(general.as_deref()).unwrap_or(default).to_owned()
        };
        let interval = pick(&ours.flush_interval, &all.flush_interval, "1s");
        let size = pick(&ours.segment_size, &all.segment_size, "16MiB");
        let compression = ours.compression.as_ref().or(all.compression.as_ref());
        let segment_bytes = parse_size(&size)?;
        if !(1 << 16..=16 << 20).contains(&segment_bytes) {
            return Err(Error::config(format!("segment_size {size:?} is not between 64KiB and 16MiB")));
        }
        Ok(Self {
            flush_interval: parse_duration(&interval)?,
            segment_bytes,
            compression: compression.map(|text| Compression::from_str(text)).transpose()?,
            ack: ours.ack.or(all.ack).unwrap_or(Ack::Store),
            spool: ours.spool.clone().or_else(|| all.spool.clone()),
            spool_bytes: parse_size(&pick(&ours.spool_size, &all.spool_size, SPOOL_SIZE))?,
        })
    }
}

/// What was typed, else what the file says of the cluster, else of all.
fn first(typed: &Option<PathBuf>, ours: &Option<PathBuf>, all: &Option<PathBuf>) -> Option<PathBuf> {
    typed.as_ref().or(ours.as_ref()).or(all.as_ref()).cloned()
}

fn no_store() -> Error {
    Error::config("no store is named")
        .hint("give --store DIR, set PITR_STORE, or put [[store]] url = \"DIR\" into pitr.toml")
}

fn read_file(asked: Option<&Path>) -> Result<(FileSettings, Option<PathBuf>)> {
    let candidates: Vec<PathBuf> =
        asked.map_or_else(|| FILES.iter().map(PathBuf::from).collect(), |p| vec![p.to_owned()]);
    for path in candidates {
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let settings = toml::from_str(&text).map_err(|e| {
                    Error::config(format!("{} is not a valid configuration", path.display())).because(e)
                })?;
                return Ok((settings, Some(path)));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && asked.is_none() => {}
            Err(error) => {
                return Err(Error::config(format!("cannot read {}", path.display())).because(error));
            }
        }
    }
    Ok((FileSettings::default(), None))
}

/// Reads a size such as `16MiB`, `512 KiB` or `1048576`, in bytes.
///
/// # Errors
/// [`crate::Kind::Config`] for anything else.
pub fn parse_size(text: &str) -> Result<u64> {
    let bad = || Error::config(format!("{text:?} is not a size")).hint("write it like 16MiB, 512KiB or 1048576");
    let digits = text.trim().bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.trim().split_at(digits);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let factor = match unit.trim() {
        "" | "B" => 1,
        "KiB" | "kB" | "K" => 1 << 10,
        "MiB" | "MB" | "M" => 1 << 20,
        "GiB" | "GB" | "G" => 1 << 30,
        _ => return Err(bad()),
    };
    number.checked_mul(factor).ok_or_else(bad)
}

/// Reads a duration such as `1s`, `500ms` or `2h 30m`.
///
/// # Errors
/// [`crate::Kind::Config`] for anything else, and for one that is not positive.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let bad = || Error::config(format!("{text:?} is not a duration")).hint("write it like 1s, 500ms or 2h 30m");
    let span: jiff::SignedDuration = text.parse().map_err(|e| bad().because(e))?;
    Duration::try_from(span).ok().filter(|d| !d.is_zero()).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_the_units_people_write() {
        assert_eq!(parse_size("16MiB").unwrap(), 16 << 20);
        assert_eq!(parse_size("512 KiB").unwrap(), 512 << 10);
        assert_eq!(parse_size("7").unwrap(), 7);
        for bad in ["", "MiB", "16MiBs", "-1", "99999999999GiB"] {
            assert_eq!(parse_size(bad).unwrap_err().kind().exit_code(), 5, "{bad:?}");
        }
    }

    #[test]
    fn durations_are_read_and_must_be_positive() {
        assert_eq!(parse_duration("1s").unwrap(), Duration::from_secs(1));
        assert_eq!(parse_duration("2h 30m").unwrap(), Duration::from_secs(9000));
        for bad in ["", "0s", "-1s", "soon"] {
            assert_eq!(parse_duration(bad).unwrap_err().kind().exit_code(), 5, "{bad:?}");
        }
    }

    #[test]
    fn several_stores_are_for_reading_and_flags_come_before_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pitr.toml");
        std::fs::write(&path, "[[store]]\nurl = \"/a\"\n[[store]]\nurl = \"s3://backups/team\"\n").unwrap();
        let global = |store: &[&str]| Global {
            store: store.iter().map(|store| (*store).to_owned()).collect(),
            cluster: None,
            source: None,
            key_file: None,
            restore_key: None,
            config: Some(path.clone()),
            json: false,
            verbose: 0,
            log_format: LogFormat::Text,
        };
        let both = Settings::resolve(&global(&[])).unwrap();
        assert_eq!(both.store().unwrap().location(), "/a and s3://backups/team");
        for error in [both.one_store().err().unwrap(), both.make_store().err().unwrap()] {
            assert_eq!(error.kind().exit_code(), 5, "{error}");
        }
        let one = Settings::resolve(&global(&["/c"])).unwrap();
        assert_eq!(one.store().unwrap().location(), "/c");
        assert_eq!(one.one_store().unwrap().location(), "/c");
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pitr.toml");
        std::fs::write(&path, "[stream]\nflush_intervall = \"1s\"\n").unwrap();
        let error = read_file(Some(&path)).unwrap_err();
        assert_eq!(error.kind().exit_code(), 5);
        let text = error.to_string();
        assert!(text.contains("flush_intervall") && text.contains("line 2"), "{text}");
    }
}
