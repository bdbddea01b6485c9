//! Base backups: by the servers' own tools, where pitr stands beside the data; else by statements.

use std::path::PathBuf;

use secrecy::ExposeSecret as _;

use super::connect::Connection;
use super::conninfo::{ConnInfo, Endpoint, SslMode};
use super::flavor::Flavor;
use super::source::facts::Facts;
use crate::engine::{BaseOptions, BaseStream, Method};
use crate::error::{Error, Kind, Result};

pub mod clone;
pub mod logical;
mod mariadb_backup;
pub mod mbstream;
pub(super) mod tool;
mod xtrabackup;

/// What a base backup is taken of.
#[derive(Clone)]
pub(super) struct Origin {
    /// How to connect.
    pub(super) info: ConnInfo,
    /// What the server says of itself.
    pub(super) facts: Facts,
    /// Its data directory, as it says.
    pub(super) data_dir: PathBuf,
}

/// Begins a base backup by the method that is asked for, or the best there is.
///
/// # Errors
/// [`Kind::Config`] when a method cannot work here, with what it lacks.
pub(super) async fn begin(origin: Origin, options: &BaseOptions) -> Result<Box<dyn BaseStream>> {
    match (options.method, origin.facts.flavor) {
        (Method::Auto, flavor) => {
            let physical = match flavor {
                Flavor::MariaDb => match check_here(&origin.info).await {
                    Ok(()) => mariadb_backup::begin(origin.clone()),
                    Err(error) => Err(error),
                },
                // Knows a data directory by the server's UUID in it.
                Flavor::MySql => clone::begin(origin.clone()).await,
            };
            match physical {
                // What it lacks is for the operator to see: it would be faster there, and back again.
                Err(error) if error.kind() == Kind::Config => {
                    tracing::warn!(%error, "the base backup is a logical one: the server's files cannot be had");
                    logical::begin(origin).await
                }
                begun => begun,
            }
        }
        (Method::Logical, _) => logical::begin(origin).await,
        (Method::MariadbBackup, Flavor::MariaDb) => mariadb_backup::begin(origin),
        (Method::Clone, Flavor::MySql) => clone::begin(origin).await,
        (Method::Xtrabackup, Flavor::MySql) => xtrabackup::begin(origin),
        (method, flavor) => {
            Err(Error::new(Kind::Config, format!("a base backup of {flavor} by {method} is not possible")).hint(
                "on the database's own host, MariaDB is backed up with mariadb-backup, MySQL with clone or xtrabackup; \
                 from anywhere either with logical",
            ))
        }
    }
}

/// Refuses a server on another host: what lies here under its data directory's name is another's.
async fn check_here(info: &ConnInfo) -> Result<()> {
    let mut connection = Connection::connect(info).await?;
    let host = connection.query_row("SELECT @@GLOBAL.hostname").await?.into_iter().next().flatten().unwrap_or_default();
    let is_here = connection.is_local() || rustix::system::uname().nodename().to_string_lossy() == host;
    connection.quit().await;
    if is_here { Ok(()) } else { Err(Error::config(format!("the server is on another host, {host}"))) }
}

/// An option file with which the servers' client programs reach the server, so that no password
/// is in an argument or in the environment.
fn option_file(info: &ConnInfo, flavor: Flavor) -> Result<String> {
    let mut text = "[client]\n".to_owned();
    let mut line = |key: &str, value: &str| {
        let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        text.push_str(&format!("{key}=\"{escaped}\"\n"));
    };
    line("user", &info.user);
    if let Some(password) = &info.password {
        line("password", password.expose_secret());
    }
    let Some(endpoint) = info.endpoints.first() else { return Err(Error::config("the source's URL names no host")) };
    match endpoint {
        Endpoint::Unix(path) => line("socket", &path.display().to_string()),
        Endpoint::Tcp { host, port } => {
            line("host", host);
            line("port", &port.to_string());
            line("protocol", "tcp");
        }
    }
    let files = [("ssl-ca", &info.tls.ca), ("ssl-cert", &info.tls.cert), ("ssl-key", &info.tls.key)];
    for (key, path) in files {
        if let Some(path) = path {
            line(key, &path.display().to_string());
        }
    }
    match (flavor, info.ssl_mode(endpoint)) {
        (Flavor::MySql, mode) => text.push_str(&format!("ssl-mode={mode}\n")),
        (Flavor::MariaDb, SslMode::VerifyIdentity) => text.push_str("ssl-verify-server-cert\n"),
        (Flavor::MariaDb, _) => {}
    }
    Ok(text)
}
