//! What there is on a server, and the statements that make it anew.
//!
//! Read while DDL waits (see [`super::lock`]), so that it is what is true where the snapshots
//! are taken a moment later.

use mysql_async::Row;
use mysql_async::prelude::FromRow;

use super::literal::{identifier, quoted};
use super::{lock, programs, script};
use crate::engine::mysql::flavor::Flavor;
use crate::engine::mysql::sql::Session;
use crate::error::{Error, Result};

/// Schemas that every server has from its beginning, as a list of SQL.
pub(super) const OWN_SCHEMAS: &str = "('mysql', 'information_schema', 'performance_schema', 'sys')";

/// Tables of the server's own with what its users made: accounts and their rights, foreign
/// servers, functions and plugins of libraries. Each family has some of them.
const OWN_TABLES: &str = "('user', 'global_priv', 'db', 'tables_priv', 'columns_priv', 'procs_priv', 'proxies_priv', \
                          'roles_mapping', 'role_edges', 'default_roles', 'global_grants', 'password_history', \
                          'servers', 'func', 'plugin', 'component', 'time_zone', 'time_zone_leap_second', \
                          'time_zone_name', 'time_zone_transition', 'time_zone_transition_type')";

/// How many names an error repeats.
const NAMES: usize = 3;

/// A table to dump.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) kind: TableKind,
    /// About how large it is.
    pub(super) bytes: u64,
    /// The hash of its definition, and the next value of its counter.
    pub(super) definition: (blake3::Hash, Option<u64>),
}

/// How a table's rows are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TableKind {
    /// As the snapshots see them.
    Snapshot,
    /// The same, with their history (MariaDB).
    Versioned,
    /// While all writes wait, for no snapshot holds them.
    Locked,
    /// It has none of its own.
    Empty,
}

impl Table {
    /// Its name for statements.
    pub(super) fn quoted(&self) -> String {
        format!("{}.{}", identifier(&self.schema), identifier(&self.name))
    }
}

/// Everything that is to be dumped.
#[derive(Debug)]
pub(super) struct Definitions {
    pub(super) tables: Vec<Table>,
    /// The server's own.
    pub(super) own: Vec<Table>,
    /// Databases, tables, sequences, and what stands in for views.
    pub(super) structure: Vec<u8>,
    /// Routines, views, triggers, events.
    pub(super) programs: Vec<u8>,
    /// The option file.
    pub(super) settings: String,
}

impl Definitions {
    /// Reads them.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] naming what this kind of backup cannot hold; [`crate::Kind::Busy`]
    /// while DDL that has begun holds a table, for it then waits for us.
    pub(super) async fn read(session: &mut Session, flavor: Flavor, version: (u32, u32, u32)) -> Result<Self> {
        let mut structure = preamble("utf8mb4");
        let modes = "NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES,NO_DIR_IN_CREATE";
        for setting in
            [&format!("sql_mode='{modes}'"), "foreign_key_checks=0", "unique_checks=0", "innodb_strict_mode=0"]
        {
            script::append(&mut structure, format!("SET {setting}").as_bytes());
        }
        if flavor == Flavor::MySql && version >= (8, 4, 0) {
            script::append(&mut structure, b"SET restrict_fk_on_non_standard_key=0");
        }
        let schemas = format!(
            "SELECT SCHEMA_NAME, DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME NOT IN \
             {OWN_SCHEMAS} ORDER BY 1"
        );
        let schemas: Vec<(String, String)> = session.query_all(&schemas).await?;
        for (schema, _) in &schemas {
            let show = format!("SHOW CREATE DATABASE IF NOT EXISTS {}", identifier(schema));
            script::append(&mut structure, &column(session, &show, 1).await?);
        }
        let (tables, views) = tables(session, flavor, version, &mut structure).await?;
        for (schema, view) in &views {
            programs::append_stand_in(session, schema, view, &mut structure).await?;
        }
        let mut programs = preamble("binary");
        programs::append(session, &schemas, &views, &mut programs).await?;
        Ok(Self {
            tables,
            own: own_tables(session).await?,
            structure,
            programs,
            settings: settings(session, flavor).await?,
        })
    }

    /// About how many bytes there are.
    pub(super) fn bytes(&self) -> u64 {
        self.tables.iter().map(|table| table.bytes).sum()
    }
}

/// What every file begins with.
pub(super) fn preamble(charset: &str) -> Vec<u8> {
    let mut out = Vec::new();
    script::append(&mut out, format!("SET NAMES {charset}").as_bytes());
    script::append(&mut out, b"SET time_zone='+00:00'");
    out
}

async fn tables(
    session: &mut Session,
    flavor: Flavor,
    version: (u32, u32, u32),
    structure: &mut Vec<u8>,
) -> Result<(Vec<Table>, Vec<(String, String)>)> {
    let list = format!(
        "SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE, ENGINE, COALESCE(DATA_LENGTH, 0) FROM information_schema.TABLES \
         WHERE TABLE_SCHEMA NOT IN {OWN_SCHEMAS} ORDER BY 1, 2"
    );
    let list: Vec<(String, String, String, Option<String>, u64)> = rows(session, &list).await?;
    let (mut tables, mut views, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    let mut schema_in_use = String::new();
    for (schema, name, table_type, engine, bytes) in list {
        if table_type == "VIEW" {
            views.push((schema, name));
            continue;
        }
        let full = format!("{}.{}", identifier(&schema), identifier(&name));
        let Some(kind) = kind(&table_type, engine.as_deref()) else {
            refused.push(format!("{full} ({})", engine.as_deref().unwrap_or("cannot be opened")));
            continue;
        };
        let what = if table_type == "SEQUENCE" { "SEQUENCE" } else { "TABLE" };
        let create = column(session, &format!("SHOW CREATE {what} {full}"), 1).await?;
        if let Some(why) = unfit(&String::from_utf8_lossy(&create), kind, version) {
            refused.push(format!("{full} ({why})"));
        }
        if schema != schema_in_use {
            script::append(structure, format!("USE {}", identifier(&schema)).as_bytes());
            schema_in_use.clone_from(&schema);
        }
        script::append_program(structure, &create);
        let definition = definition(&create);
        tables.push(Table { schema, name, kind, bytes, definition });
    }
    if refused.is_empty() {
        return Ok((tables, views));
    }
    let more = refused.len().saturating_sub(NAMES);
    let named = refused.into_iter().take(NAMES).collect::<Vec<_>>().join(", ");
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let physical = match flavor {
        Flavor::MariaDb => "mariadb-backup",
        Flavor::MySql => "clone or xtrabackup",
    };
    Err(Error::config(format!("a logical base backup cannot hold {named}{more}"))
        .hint(format!("on the database's own host use --method {physical}, or change these tables")))
}

fn kind(table_type: &str, engine: Option<&str>) -> Option<TableKind> {
    match (table_type, engine?) {
        ("SEQUENCE", _) => Some(TableKind::Locked),
        ("SYSTEM VERSIONED", "InnoDB") => Some(TableKind::Versioned),
        ("BASE TABLE", "InnoDB") => Some(TableKind::Snapshot),
        ("BASE TABLE", "MyISAM" | "Aria" | "MEMORY" | "CSV" | "ARCHIVE") => Some(TableKind::Locked),
        ("BASE TABLE", "BLACKHOLE" | "MRG_MYISAM" | "MRG_MyISAM") => Some(TableKind::Empty),
        _ => None,
    }
}

/// Why a table that is defined like this cannot be had back.
fn unfit(create: &str, kind: TableKind, version: (u32, u32, u32)) -> Option<&'static str> {
    if kind == TableKind::Versioned {
        if version < (10, 11, 0) {
            return Some("its history can be restored from MariaDB 10.11 on");
        }
        if create.contains("bigint(20) unsigned GENERATED ALWAYS AS ROW START") {
            return Some("its history is told by transactions");
        }
    }
    if create.contains("ENCRYPTION='Y'") || create.contains("`ENCRYPTED`=YES") {
        return Some("encrypted: its rows would be in the clear");
    }
    let shared = create.split(" TABLESPACE `").nth(1).is_some_and(|name| !name.starts_with("innodb_"));
    shared.then_some("in a shared tablespace")
}

/// A definition's hash, and the next value of the counter, which every insert moves.
pub(super) fn definition(create: &[u8]) -> (blake3::Hash, Option<u64>) {
    let text = String::from_utf8_lossy(create);
    match auto_increment(&text) {
        Some((before, value, after)) => (blake3::hash(format!("{before}{after}").as_bytes()), Some(value)),
        None => (blake3::hash(create), None),
    }
}

/// The next value of a table's counter: what stands before it, it, and what behind.
fn auto_increment(create: &str) -> Option<(&str, u64, &str)> {
    const KEY: &str = " AUTO_INCREMENT=";
    // Among the table's options, which follow the columns.
    let options = create.rfind("\n) ")?;
    let at = options + create.get(options..)?.find(KEY)?;
    let rest = create.get(at + KEY.len()..)?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (value, after) = rest.split_at(digits);
    Some((create.get(..at)?, value.parse().ok()?, after))
}

async fn own_tables(session: &mut Session) -> Result<Vec<Table>> {
    let list = format!(
        "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'mysql' AND TABLE_TYPE = 'BASE TABLE' \
         AND TABLE_NAME IN {OWN_TABLES} ORDER BY 1"
    );
    let names: Vec<String> = rows(session, &list).await?;
    let table = |name| Table {
        schema: "mysql".to_owned(),
        name,
        kind: TableKind::Locked,
        bytes: 0,
        definition: (blake3::hash(b""), None),
    };
    Ok(names.into_iter().map(table).collect())
}

/// What a server has to be told before it makes a data directory for the base, and after.
async fn settings(session: &mut Session, flavor: Flavor) -> Result<String> {
    let mut text = "[mysqld]\n".to_owned();
    let mut names = vec!["innodb_data_file_path", "innodb_page_size", "lower_case_table_names"];
    if flavor == Flavor::MariaDb {
        names.push("innodb_undo_tablespaces");
    }
    for name in names {
        let value: Option<(String, String)> =
            session.query_one(&format!("SHOW GLOBAL VARIABLES LIKE {}", quoted(name))).await?;
        if let Some((_, value)) = value {
            text.push_str(&format!("{name}={value}\n"));
        }
    }
    Ok(text)
}

/// A column of a statement's only row, as the bytes it has.
pub(super) async fn column(session: &mut Session, sql: &str, nth: usize) -> Result<Vec<u8>> {
    let row: Option<Row> = session.query_one(sql).await?;
    value(row.as_ref(), nth, sql)
}

/// A value of a row.
pub(super) fn value<T: mysql_async::prelude::FromValue>(row: Option<&Row>, nth: usize, sql: &str) -> Result<T> {
    let value = row.and_then(|row| row.get_opt::<T, _>(nth)).and_then(std::result::Result::ok);
    value.ok_or_else(|| Error::failure(format!("the server's answer to {sql:?} is not as expected")))
}

/// The rows of a query that lists what there is.
///
/// # Errors
/// [`crate::Kind::Busy`] where the server left something out: MariaDB does that, with a warning
/// only, for tables that DDL holds at that moment, and for their triggers.
pub(super) async fn rows<T: FromRow>(session: &mut Session, sql: &str) -> Result<Vec<T>> {
    /// `ER_WARN_I_S_SKIPPED_TABLE`
    const SKIPPED: u16 = 1684;
    let rows = session.query_all(sql).await?;
    if session.conn().get_warnings() > 0 {
        let warnings: Vec<(String, u16, String)> = session.query_all("SHOW WARNINGS").await?;
        if let Some((_, _, text)) = warnings.into_iter().find(|(_, code, _)| *code == SKIPPED) {
            return Err(lock::in_ddl().because(text));
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "CREATE TABLE `t` (\n  `id` int COMMENT ' AUTO_INCREMENT=5'\n) ENGINE=InnoDB AUTO_INCREMENT=17 \
                         DEFAULT CHARSET=utf8mb4";

    #[test]
    fn a_counter_is_no_part_of_a_definition() {
        assert_eq!(auto_increment(TABLE).map(|(_, value, _)| value), Some(17));
        let definition = |text: &str| definition(text.as_bytes());
        let (hash, value) = definition(TABLE);
        assert_eq!(definition(&TABLE.replace("=17", "=180")), (hash, Some(180)));
        assert_eq!(value, Some(17));
        assert_ne!(definition(&TABLE.replace("=5", "=6")).0, hash);
        assert_eq!(auto_increment("CREATE TABLE `t` (\n  `id` int\n) ENGINE=InnoDB"), None);
    }

    #[test]
    fn what_cannot_be_had_back_is_refused() {
        let unfit = |create: &str, kind| unfit(create, kind, (10, 11, 0));
        assert_eq!(unfit(TABLE, TableKind::Snapshot), None);
        assert!(unfit("... ENCRYPTION='Y'", TableKind::Snapshot).is_some());
        assert!(unfit(") /*!50100 TABLESPACE `ts` */ ENGINE=InnoDB", TableKind::Snapshot).is_some());
        assert_eq!(unfit(") /*!50100 TABLESPACE `innodb_system` */ ENGINE=InnoDB", TableKind::Snapshot), None);
        assert_eq!(kind("BASE TABLE", Some("ROCKSDB")), None);
        assert_eq!(kind("BASE TABLE", None), None);
    }
}
