//! Routines, views, triggers and events, each with the settings it was made with.
//!
//! Their text comes in the character set it was written in, and goes back in it. A view is first
//! made as a stand-in with its columns, so that views which use each other need no order; a
//! view that is broken at the source is left as one.

use mysql_async::Row;

use super::definitions::{OWN_SCHEMAS, rows, value};
use super::literal::{identifier, quoted};
use super::script;
use crate::engine::mysql::sql::Session;
use crate::error::Result;

/// Appends what stands in for a view until all of them are there.
pub(super) async fn append_stand_in(session: &mut Session, schema: &str, view: &str, out: &mut Vec<u8>) -> Result<()> {
    let list = format!(
        "SELECT COLUMN_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {} \
         ORDER BY ORDINAL_POSITION",
        quoted(schema),
        quoted(view)
    );
    let columns: Vec<String> = rows(session, &list).await?;
    let columns: Vec<String> = columns.iter().map(|name| format!("1 AS {}", identifier(name))).collect();
    let columns = if columns.is_empty() { "1".to_owned() } else { columns.join(", ") };
    let name = format!("{}.{}", identifier(schema), identifier(view));
    script::append_program(out, format!("CREATE VIEW {name} AS SELECT {columns}").as_bytes());
    Ok(())
}

/// Appends everything.
pub(super) async fn append(
    session: &mut Session,
    schemas: &[(String, String)],
    views: &[(String, String)],
    out: &mut Vec<u8>,
) -> Result<()> {
    // An event's own moment has not passed at the time of the backup.
    let now: Option<String> = session.query_one("SELECT UNIX_TIMESTAMP()").await?;
    let now = now.unwrap_or_default();
    let mut writer = Writer { out, schemas, schema: String::new() };
    // A package before its body.
    let routines = format!(
        "SELECT ROUTINE_SCHEMA, ROUTINE_TYPE, ROUTINE_NAME FROM information_schema.ROUTINES \
         WHERE ROUTINE_SCHEMA NOT IN {OWN_SCHEMAS} AND ROUTINE_TYPE IN ('FUNCTION', 'PROCEDURE', 'PACKAGE', \
         'PACKAGE BODY') ORDER BY 1, 2, 3"
    );
    for (schema, kind, name) in rows::<(String, String, String)>(session, &routines).await? {
        let sql = format!("SHOW CREATE {kind} {}.{}", identifier(&schema), identifier(&name));
        let row: Option<Row> = session.query_one(&sql).await?;
        let setting = |nth| value::<String>(row.as_ref(), nth, &sql);
        let create: Vec<u8> = value(row.as_ref(), 2, &sql)?;
        writer.program(&schema, &setting(1)?, &[&setting(3)?, &setting(4)?, &setting(5)?], None, &create);
    }
    for (schema, view) in views {
        let sql = format!("SHOW CREATE VIEW {}.{}", identifier(schema), identifier(view));
        let row: Option<Row> = session.query_one(&sql).await?;
        let setting = |nth| value::<String>(row.as_ref(), nth, &sql);
        let create: Vec<u8> = value(row.as_ref(), 1, &sql)?;
        let create = create.strip_prefix(b"CREATE ").unwrap_or(&create);
        let create = [script::VIEW, create].concat();
        writer.program(schema, "", &[&setting(2)?, &setting(3)?], None, &create);
    }
    let triggers = format!(
        "SELECT TRIGGER_SCHEMA, TRIGGER_NAME FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA NOT IN \
         {OWN_SCHEMAS} ORDER BY 1, EVENT_OBJECT_TABLE, EVENT_MANIPULATION, ACTION_TIMING, ACTION_ORDER"
    );
    for (schema, name) in rows::<(String, String)>(session, &triggers).await? {
        let sql = format!("SHOW CREATE TRIGGER {}.{}", identifier(&schema), identifier(&name));
        let row: Option<Row> = session.query_one(&sql).await?;
        let setting = |nth| value::<String>(row.as_ref(), nth, &sql);
        let create: Vec<u8> = value(row.as_ref(), 2, &sql)?;
        writer.program(&schema, &setting(1)?, &[&setting(3)?, &setting(4)?, &setting(5)?], None, &create);
    }
    script::append(writer.out, format!("SET timestamp={now}").as_bytes());
    let events = format!(
        "SELECT EVENT_SCHEMA, EVENT_NAME FROM information_schema.EVENTS WHERE EVENT_SCHEMA NOT IN {OWN_SCHEMAS} \
         ORDER BY 1, 2"
    );
    for (schema, name) in rows::<(String, String)>(session, &events).await? {
        let sql = format!("SHOW CREATE EVENT {}.{}", identifier(&schema), identifier(&name));
        let row: Option<Row> = session.query_one(&sql).await?;
        let setting = |nth| value::<String>(row.as_ref(), nth, &sql);
        let create: Vec<u8> = value(row.as_ref(), 3, &sql)?;
        let zone = format!("SET time_zone={}", quoted(&setting(2)?));
        let (client, connection, database) = (setting(4)?, setting(5)?, setting(6)?);
        writer.program(&schema, &setting(1)?, &[&client, &connection, &database], Some(&zone), &create);
    }
    Ok(())
}

/// Writes programs with their settings.
struct Writer<'a> {
    out: &'a mut Vec<u8>,
    /// Each database and its collation.
    schemas: &'a [(String, String)],
    /// The database that is in use.
    schema: String,
}

impl Writer<'_> {
    fn plain(&mut self, statement: &str) {
        script::append(self.out, statement.as_bytes());
    }

    /// A statement, with its mode, the client's character set, the connection's collation, and
    /// the database's where that was another at that time. Names of ours are in UTF-8.
    fn program(&mut self, schema: &str, mode: &str, charsets: &[&str], before: Option<&str>, create: &[u8]) {
        if self.schema != schema {
            self.plain(&format!("USE {}", identifier(schema)));
            schema.clone_into(&mut self.schema);
        }
        let (client, connection, then) = match charsets {
            [client, connection, then] => (client, connection, Some(*then)),
            [client, connection] => (client, connection, None),
            _ => return,
        };
        let now = self.schemas.iter().find(|(name, _)| name == schema).map(|(_, collation)| collation.as_str());
        let other = then.zip(now).filter(|(then, now)| then != now);
        if let Some((then, _)) = other {
            self.plain(&format!("ALTER DATABASE {} COLLATE {then}", identifier(schema)));
        }
        before.into_iter().for_each(|statement| self.plain(statement));
        self.plain(&format!("SET sql_mode={}", quoted(mode)));
        self.plain(&format!("SET character_set_client={client}"));
        self.plain(&format!("SET collation_connection={connection}"));
        script::append_program(self.out, create);
        self.plain("SET NAMES binary");
        if let Some((_, now)) = other {
            self.plain(&format!("ALTER DATABASE {} COLLATE {now}", identifier(schema)));
        }
    }
}
