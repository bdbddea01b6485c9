//! A table's rows as statements, in a file of the base.

use bytes::Bytes;
use mysql_async::Value;
use mysql_async::prelude::Queryable as _;
use tokio::sync::mpsc;

use super::definitions::{Table, TableKind, preamble, rows};
use super::literal::{self, Form, identifier, quoted};
use super::script;
use crate::engine::mysql::flavor::Flavor;
use crate::engine::mysql::sql::Session;
use crate::engine::{BaseEvent, EntryMeta};
use crate::error::{Error, Result};

/// Bytes after which a statement takes no further row.
const STATEMENT_BYTES: usize = 1 << 20;

/// Bytes of a file that are sent at once, but for those of a larger row.
const PIECE_BYTES: usize = 256 << 10;

/// The longest statement that servers take.
const STATEMENT_BYTES_MAX: usize = 1 << 30;

/// Permissions of the files.
const MODE: u32 = 0o640;

/// Permissions of the directories.
const DIR_MODE: u32 = 0o750;

/// Takes what the base is made of.
#[derive(Clone)]
pub(super) struct Sink {
    pub(super) events: mpsc::Sender<Result<BaseEvent>>,
    /// When the backup began, in seconds since 1970.
    pub(super) mtime: i64,
}

impl Sink {
    pub(super) async fn send(&self, event: BaseEvent) -> Result<()> {
        self.events.send(Ok(event)).await.map_err(|_| Error::failure("nobody takes the base backup any more"))
    }

    pub(super) async fn directory(&self, path: &str) -> Result<()> {
        self.send(BaseEvent::Directory(EntryMeta { path: path.to_owned(), mode: DIR_MODE, mtime: self.mtime })).await
    }

    /// Begins a file below the base's own directory, known as `number` until its end.
    pub(super) async fn file(&self, number: u32, path: &str) -> Result<File<'_>> {
        let meta = EntryMeta { path: format!("{}/{path}", script::DIR), mode: MODE, mtime: self.mtime };
        self.send(BaseEvent::File { file: number, meta, size: None }).await?;
        Ok(File { sink: self, number, bytes: Vec::new() })
    }

    /// A whole file.
    pub(super) async fn whole(&self, number: u32, path: &str, bytes: Vec<u8>) -> Result<()> {
        let mut file = self.file(number, path).await?;
        file.bytes = bytes;
        file.end().await
    }
}

/// An open file.
pub(super) struct File<'a> {
    sink: &'a Sink,
    number: u32,
    /// What was not sent yet.
    pub(super) bytes: Vec<u8>,
}

impl File<'_> {
    async fn send(&mut self) -> Result<()> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let bytes = Bytes::from(std::mem::replace(&mut self.bytes, Vec::with_capacity(PIECE_BYTES + PIECE_BYTES / 8)));
        self.sink.send(BaseEvent::Data { file: self.number, bytes }).await
    }

    pub(super) async fn end(mut self) -> Result<()> {
        self.send().await?;
        self.sink.send(BaseEvent::FileEnd { file: self.number }).await
    }
}

/// A column that rows are written with.
struct Column {
    name: String,
    /// What is selected.
    expression: String,
    form: Form,
}

/// The columns of a table that an `INSERT` may name, and whether its rows survive strictness.
struct Columns {
    all: Vec<Column>,
    strict: bool,
}

impl Columns {
    async fn of(session: &mut Session, flavor: Flavor, table: &Table) -> Result<Self> {
        let list = format!(
            "SELECT COLUMN_NAME, LOWER(DATA_TYPE), EXTRA, GENERATION_EXPRESSION FROM information_schema.COLUMNS \
             WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {} ORDER BY ORDINAL_POSITION",
            quoted(&table.schema),
            quoted(&table.name)
        );
        let (mut all, mut strict, mut history) = (Vec::new(), true, false);
        let list: Vec<(String, String, String, Option<String>)> = rows(session, &list).await?;
        for (name, data_type, extra, generation) in list {
            let of_history =
                table.kind == TableKind::Versioned && matches!(generation.as_deref(), Some("ROW START" | "ROW END"));
            history |= of_history;
            let generated = extra.contains("VIRTUAL GENERATED") || extra.contains("STORED GENERATED");
            if generated && !of_history {
                continue;
            }
            // A value that is none of the column's is 0 there, which strictness refuses.
            strict &= data_type != "enum";
            all.push(Column::new(flavor, name, &data_type));
        }
        if table.kind == TableKind::Versioned && !history {
            all.extend(["row_start", "row_end"].map(|name| Column::new(flavor, name.to_owned(), "timestamp")));
        }
        Ok(Self { all, strict })
    }
}

impl Column {
    fn new(flavor: Flavor, name: String, data_type: &str) -> Self {
        let quoted = identifier(&name);
        let form = match data_type {
            "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "decimal" | "year" => Form::Number,
            "bit" => Form::Bits,
            "json" if flavor == Flavor::MySql => Form::Text,
            "float" | "double" | "char" | "varchar" | "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob"
            | "longblob" | "tinytext" | "text" | "mediumtext" | "longtext" | "enum" | "set" | "vector" | "geometry"
            | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring" | "multipolygon"
            | "geometrycollection" | "geomcollection" => Form::Bytes,
            _ => Form::Text,
        };
        // Six digits are printed of a FLOAT, and all that count of a DOUBLE.
        let expression = if data_type == "float" { format!("{quoted} * 1e0") } else { quoted };
        Self { name, expression, form }
    }
}

/// Appends a table's rows to `file`, and gives their number.
///
/// # Errors
/// What the server says.
pub(super) async fn append(session: &mut Session, flavor: Flavor, table: &Table, file: &mut File<'_>) -> Result<u64> {
    let columns = Columns::of(session, flavor, table).await?;
    let mut modes = "NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES".to_owned();
    if columns.strict {
        modes.push_str(",STRICT_ALL_TABLES");
    }
    script::append(&mut file.bytes, format!("SET sql_mode='{modes}'").as_bytes());
    if table.kind == TableKind::Versioned {
        script::append(&mut file.bytes, b"SET system_versioning_insert_history=1");
    }
    let names: Vec<String> = columns.all.iter().map(|column| identifier(&column.name)).collect();
    let selected: Vec<&str> = columns.all.iter().map(|column| column.expression.as_str()).collect();
    let selected = if selected.is_empty() { "1".to_owned() } else { selected.join(", ") };
    let history = if table.kind == TableKind::Versioned { " FOR SYSTEM_TIME ALL" } else { "" };
    let sql = format!("SELECT {selected} FROM {}{history}", table.quoted());
    let insert = format!("INSERT INTO {} ({}) VALUES\n", table.quoted(), names.join(", "));

    let mut result = match session.conn().query_iter(sql).await {
        Ok(result) => result,
        Err(error) => return Err(session.error(error)),
    };
    // Of the statement that is written: its bytes so far.
    let (mut count, mut statement) = (0, 0);
    loop {
        let row = match result.next().await {
            Ok(Some(row)) => row,
            Ok(None) => break,
            Err(error) => {
                drop(result);
                return Err(session.error(error));
            }
        };
        let from = file.bytes.len();
        file.bytes.extend_from_slice(if statement > 0 { b",\n" } else { insert.as_bytes() });
        append_row(&mut file.bytes, &columns.all, row.unwrap());
        count += 1;
        statement += file.bytes.len() - from;
        if statement >= STATEMENT_BYTES_MAX {
            return Err(Error::config(format!("a row of {} is too large for a statement", table.quoted()))
                .hint("use a physical method on the database's own host"));
        }
        if statement >= STATEMENT_BYTES {
            file.bytes.extend_from_slice(b";\n");
            statement = 0;
        }
        if file.bytes.len() >= PIECE_BYTES {
            file.send().await?;
        }
    }
    drop(result);
    if statement > 0 {
        file.bytes.extend_from_slice(b";\n");
    }
    Ok(count)
}

fn append_row(out: &mut Vec<u8>, columns: &[Column], values: Vec<Value>) {
    out.push(b'(');
    for (nth, (column, value)) in columns.iter().zip(values).enumerate() {
        if nth > 0 {
            out.push(b',');
        }
        match value {
            Value::Bytes(bytes) => literal::append(out, column.form, Some(&bytes)),
            // Queries as text have no values but bytes and none.
            _ => literal::append(out, column.form, None),
        }
    }
    out.push(b')');
}

/// What a file of rows begins with.
pub(super) fn head(flavor: Flavor, table: &str) -> Vec<u8> {
    let mut out = format!("-- {}\n", table.replace('\n', " ")).into_bytes();
    out.extend(preamble("binary"));
    script::append(&mut out, b"SET foreign_key_checks=0");
    script::append(&mut out, b"SET unique_checks=0");
    if flavor == Flavor::MariaDb {
        script::append(&mut out, b"SET check_constraint_checks=0");
    }
    out
}
