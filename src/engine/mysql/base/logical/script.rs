//! The files of a logical base: statements that the servers' own clients understand.
//!
//! A statement ends with its delimiter at the end of a line. That is `;`, but where a `;` is part
//! of the statement it stands between two `DELIMITER` lines, as the clients want it. Lines
//! that begin with `--` between statements are for people, except for `-- rows: N`, which
//! ends a file of rows: how many there are.

use std::io::{BufRead, Error, ErrorKind, Result};

/// Where the files lie in a base.
pub(in crate::engine::mysql) const DIR: &str = "pitr-logical";

/// `FILE <tab> POSITION <tab> GTIDS`: where in the binlog the base is consistent.
pub(in crate::engine::mysql) const POSITION: &str = "position";

/// An option file: what must be the same in a server that takes the base.
pub(in crate::engine::mysql) const SETTINGS: &str = "server.cnf";

/// Databases, tables, and what stands in for views until they are made.
pub(in crate::engine::mysql) const STRUCTURE: &str = "1-structure.sql";

/// The directory with the rows, a file for each table.
pub(in crate::engine::mysql) const ROWS: &str = "2-rows";

/// Routines, views, triggers and events.
pub(in crate::engine::mysql) const PROGRAMS: &str = "3-programs.sql";

/// Accounts, and what else the server keeps in its own tables.
pub(in crate::engine::mysql) const ACCOUNTS: &str = "4-accounts.sql";

/// What the statement of a view begins with.
pub(in crate::engine::mysql) const VIEW: &[u8] = b"CREATE OR REPLACE ";

const ROWS_COMMENT: &str = "-- rows: ";

const DELIMITER: &[u8] = b"DELIMITER ";

/// Longest file name, as file systems have it, with room for what a store adds.
const NAME_BYTES_MAX: usize = 200;

/// The file of a table's rows, below [`ROWS`].
pub(super) fn rows_name(schema: &str, table: &str) -> String {
    let name = format!("{}.{}", encoded(schema), encoded(table));
    if name.len() <= NAME_BYTES_MAX {
        return format!("{name}.sql");
    }
    // All ASCII. The hash keeps two of them apart.
    let hash = blake3::hash(name.as_bytes()).to_hex();
    let (front, _) = name.split_at(NAME_BYTES_MAX - 33);
    let (hash, _) = hash.as_str().split_at(32);
    format!("{front}@{hash}.sql")
}

/// Letters, digits and `_` as they are, anything else as `@` and its number.
fn encoded(name: &str) -> String {
    let mut out = String::new();
    for letter in name.chars() {
        if letter.is_ascii_alphanumeric() || letter == '_' {
            out.push(letter);
        } else {
            out.push_str(&format!("@{:04x}", u32::from(letter)));
        }
    }
    out
}

/// Appends a statement that has no delimiter outside of quotes.
pub(super) fn append(out: &mut Vec<u8>, statement: &[u8]) {
    out.extend_from_slice(statement);
    out.extend_from_slice(b";\n");
}

/// Appends any statement.
pub(super) fn append_program(out: &mut Vec<u8>, statement: &[u8]) {
    if !statement.contains(&b';') {
        return append(out, statement);
    }
    let mut delimiter = ";;".to_owned();
    let mut number = 0;
    // Apart from a `;` at the statement's end, too.
    while contains(&[statement, b";"].concat(), delimiter.as_bytes()) {
        delimiter = format!("$${number}");
        number += 1;
    }
    out.extend_from_slice(format!("DELIMITER {delimiter}\n").as_bytes());
    out.extend_from_slice(statement);
    out.extend_from_slice(format!("{delimiter}\nDELIMITER ;\n").as_bytes());
}

/// Appends how many rows the file has.
pub(super) fn append_rows(out: &mut Vec<u8>, rows: u64) {
    out.extend_from_slice(format!("{ROWS_COMMENT}{rows}\n").as_bytes());
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Reads the statements of a file.
pub(in crate::engine::mysql) struct Statements<R> {
    lines: R,
    delimiter: Vec<u8>,
    rows: Option<u64>,
}

impl<R: BufRead> Statements<R> {
    pub(in crate::engine::mysql) fn new(lines: R) -> Self {
        Self { lines, delimiter: b";".to_vec(), rows: None }
    }

    /// How many rows the file says it has, once it was read.
    pub(in crate::engine::mysql) const fn rows(&self) -> Option<u64> {
        self.rows
    }

    /// The next statement, without its delimiter; `None` at the end.
    ///
    /// # Errors
    /// What the disk says; [`ErrorKind::UnexpectedEof`] when the file ends in a statement.
    pub(in crate::engine::mysql) fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let mut statement = Vec::new();
        loop {
            let begun = statement.len();
            if self.lines.read_until(b'\n', &mut statement)? == 0 {
                return match begun {
                    0 => Ok(None),
                    _ => Err(Error::new(ErrorKind::UnexpectedEof, "the file ends within a statement")),
                };
            }
            if begun == 0 && self.is_between(&statement) {
                statement.clear();
                continue;
            }
            let line = statement.strip_suffix(b"\n").unwrap_or(&statement);
            if let Some(whole) = line.strip_suffix(&self.delimiter[..]) {
                let length = whole.len();
                statement.truncate(length);
                return Ok(Some(statement));
            }
        }
    }

    /// Takes a line that is of no statement.
    fn is_between(&mut self, line: &[u8]) -> bool {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        if let Some(delimiter) = line.strip_prefix(DELIMITER) {
            self.delimiter = delimiter.to_vec();
            return true;
        }
        if let Some(rows) = line.strip_prefix(ROWS_COMMENT.as_bytes()) {
            self.rows = std::str::from_utf8(rows).ok().and_then(|rows| rows.parse().ok());
            return true;
        }
        line.is_empty() || line.starts_with(b"--")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(script: &[u8]) -> Vec<Vec<u8>> {
        let mut statements = Statements::new(script);
        std::iter::from_fn(|| statements.next().unwrap()).collect()
    }

    #[test]
    fn statements_are_told_apart() {
        let mut script = b"-- `a`.`b`\n\n".to_vec();
        append(&mut script, b"INSERT INTO t VALUES\n('a;'),\n(';\\n')");
        append_program(&mut script, b"CREATE PROCEDURE p()\nBEGIN\n  SELECT 1;\n  -- ;;\n  SELECT ';';\nEND");
        append(&mut script, b"SELECT 2");
        append_rows(&mut script, 2);
        let mut statements = Statements::new(&script[..]);
        let mut all = Vec::new();
        while let Some(statement) = statements.next().unwrap() {
            all.push(String::from_utf8(statement).unwrap());
        }
        assert_eq!(all.len(), 3);
        assert_eq!(all[0], "INSERT INTO t VALUES\n('a;'),\n(';\\n')");
        assert!(all[1].ends_with("SELECT ';';\nEND"), "{}", all[1]);
        assert_eq!((all[2].as_str(), statements.rows()), ("SELECT 2", Some(2)));
        assert!(String::from_utf8_lossy(&script).contains("DELIMITER $$0\n"));
    }

    #[test]
    fn a_file_that_ends_within_a_statement_is_refused() {
        let mut statements = Statements::new(&b"SELECT 1;\nSELECT\n"[..]);
        assert_eq!(statements.next().unwrap().unwrap(), b"SELECT 1");
        assert_eq!(statements.next().unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_tables_file_is_named_for_it_and_never_as_another() {
        assert_eq!(rows_name("shop", "order_1"), "shop.order_1.sql");
        assert_eq!(rows_name("a.b", "../c"), "a@002eb.@002e@002e@002fc.sql");
        let (one, two) = (rows_name("d", &"ж".repeat(63)), rows_name("d", &("ж".repeat(62) + "x")));
        assert!(one != two && one.len() < 210, "{one} {two}");
    }

    proptest! {
        #[test]
        fn what_was_written_reads_back(
            bodies in prop::collection::vec("[a-z;$0 \n]{0,30}", 1..5).prop_map(|all| {
                all.into_iter().map(|body| format!("CREATE {body}").into_bytes()).collect::<Vec<_>>()
            })
        ) {
            let mut script = Vec::new();
            bodies.iter().for_each(|body| append_program(&mut script, body));
            prop_assert_eq!(read(&script), bodies);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let mut statements = Statements::new(&bytes[..]);
            while let Ok(Some(_)) = statements.next() {}
        }
    }
}
