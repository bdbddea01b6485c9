//! What a statement in the log is of, as far as its first words tell.
//!
//! Nothing here understands SQL. A table is named only where that is certain; otherwise what is
//! told is the schema that the statement ran in.

use crate::model::changes::ChangeKind;

/// The parts of a QUERY event's body that tell what it does.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Query<'a> {
    /// The default schema of the session.
    pub(super) schema: &'a [u8],
    /// Compressed in MariaDB's QUERY_COMPRESSED.
    pub(super) text: &'a [u8],
}

impl<'a> Query<'a> {
    /// Reads a body whose own fields, before the status variables, are `fixed` bytes long; it
    /// may be cut off. See [`super::event::statement`].
    pub(super) fn parse(body: &'a [u8], fixed: usize) -> Option<Self> {
        let name = usize::from(*body.get(8)?);
        let variables = usize::from(u16::from_le_bytes([*body.get(11)?, *body.get(12)?]));
        let rest = body.get(fixed + variables..)?;
        let (schema, rest) = rest.split_at_checked(name)?;
        Some(Self { schema, text: rest.get(1..)? })
    }
}

/// What a statement does, and to which tables: schema, where it is given, and name. No table:
/// it is not known.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) change: ChangeKind,
    pub(super) tables: Vec<(Option<String>, String)>,
}

/// No more tables of one statement are told.
const TABLES_MAX: usize = 64;

impl Statement {
    /// Reads the beginning of a statement; `None` for those that change nothing by themselves.
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        let mut words = Words(text);
        let Some(Token::Word(verb)) = words.next() else { return None };
        let verb = verb.to_ascii_uppercase();
        let statement = |change, named: Option<Vec<_>>| {
            // Others may follow what was cut off.
            let tables = named.filter(|tables| tables.len() <= TABLES_MAX).unwrap_or_default();
            Some(Self { change, tables })
        };
        match &*verb {
            b"BEGIN" | b"COMMIT" | b"ROLLBACK" | b"SAVEPOINT" | b"RELEASE" | b"XA" | b"SET" | b"FLUSH" | b"ANALYZE"
            | b"OPTIMIZE" | b"CHECK" | b"REPAIR" | b"START" | b"USE" => None,
            b"CREATE" | b"ALTER" | b"DROP" | b"RENAME" => statement(ChangeKind::Ddl, words.tables_of_ddl(&verb)),
            b"TRUNCATE" => {
                words.pass(&["TABLE"]);
                let table = words.name().map(|name| vec![name]);
                statement(ChangeKind::Ddl, table)
            }
            b"INSERT" | b"REPLACE" => {
                words.pass(&["LOW_PRIORITY", "DELAYED", "HIGH_PRIORITY", "IGNORE", "INTO"]);
                let table = words.name().map(|name| vec![name]);
                statement(ChangeKind::Statement, table)
            }
            b"UPDATE" => {
                words.pass(&["LOW_PRIORITY", "IGNORE"]);
                let table = words.name().filter(|_| words.is_word(&["SET"])).map(|name| vec![name]);
                statement(ChangeKind::Statement, table)
            }
            b"DELETE" => {
                words.pass(&["LOW_PRIORITY", "QUICK", "IGNORE"]);
                let table = words.is_word(&["FROM"]).then(|| words.name()).flatten();
                let alone = words.clone().next().is_none() || words.is_word(&["WHERE", "ORDER", "LIMIT", "RETURNING"]);
                statement(ChangeKind::Statement, table.filter(|_| alone).map(|name| vec![name]))
            }
            _ => statement(ChangeKind::Statement, None),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a [u8]),
    /// As it stands between quotes that are an identifier's.
    Quoted(String),
    Other(u8),
}

/// The words of a statement, without comments.
#[derive(Clone, Debug)]
struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<Token<'a>> {
        self.pass_blanks();
        let (first, rest) = self.0.split_first()?;
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 0x80..);
        let length = self.0.iter().take_while(|byte| is_word(byte)).count();
        if length > 0 {
            let (word, rest) = self.0.split_at(length);
            self.0 = rest;
            return Some(Token::Word(word));
        }
        self.0 = rest;
        if !matches!(first, b'`' | b'"') {
            return Some(Token::Other(*first));
        }
        // A quote inside is written twice.
        let mut name = Vec::new();
        loop {
            let length = self.0.iter().position(|byte| byte == first)?;
            let (part, rest) = self.0.split_at(length);
            name.extend_from_slice(part);
            self.0 = rest.get(1..).unwrap_or_default();
            if self.0.first() != Some(first) {
                return Some(String::from_utf8(name).map_or(Token::Other(*first), Token::Quoted));
            }
            name.push(*first);
            self.0 = self.0.get(1..).unwrap_or_default();
        }
    }

    /// Passes over blanks, comments, and the marks around what only some servers run.
    fn pass_blanks(&mut self) {
        loop {
            let rest = self.0.trim_ascii_start();
            let until = |end: &[u8]| rest.windows(end.len()).position(|at| at == end).map(|at| at + end.len());
            let passed = match rest {
                [b'/', b'*', b'!', ..] | [b'/', b'*', b'M', b'!', ..] => {
                    let mark = rest.iter().position(|byte| *byte == b'!').map_or(0, |at| at + 1);
                    let version = rest.iter().skip(mark).take_while(|byte| byte.is_ascii_digit()).count();
                    Some(mark + version)
                }
                [b'/', b'*', ..] => until(b"*/").or(Some(rest.len())),
                [b'*', b'/', ..] => Some(2),
                [b'#', ..] | [b'-', b'-', ..] => until(b"\n").or(Some(rest.len())),
                _ => None,
            };
            self.0 = rest.get(passed.unwrap_or_default()..).unwrap_or_default();
            if passed.is_none() {
                return;
            }
        }
    }

    /// Takes the next word if it is one of these.
    fn is_word(&mut self, these: &[&str]) -> bool {
        let mut ahead = self.clone();
        let found = matches!(ahead.next(), Some(Token::Word(word))
            if these.iter().any(|this| word.eq_ignore_ascii_case(this.as_bytes())));
        if found {
            *self = ahead;
        }
        found
    }

    fn is_mark(&mut self, mark: u8) -> bool {
        let mut ahead = self.clone();
        let found = ahead.next() == Some(Token::Other(mark));
        if found {
            *self = ahead;
        }
        found
    }

    /// Passes over as many of these as come.
    fn pass(&mut self, these: &[&str]) {
        while self.is_word(these) {}
    }

    fn identifier(&mut self) -> Option<String> {
        match self.next()? {
            Token::Word(word) => String::from_utf8(word.to_vec()).ok(),
            Token::Quoted(name) => Some(name),
            Token::Other(_) => None,
        }
    }

    /// Takes a table's name, with its schema if that is given.
    fn name(&mut self) -> Option<(Option<String>, String)> {
        let first = self.identifier()?;
        if self.is_mark(b'.') { Some((Some(first), self.identifier()?)) } else { Some((None, first)) }
    }

    /// The tables that `CREATE`, `ALTER`, `DROP` or `RENAME` is of, if it is of tables.
    fn tables_of_ddl(&mut self, verb: &[u8]) -> Option<Vec<(Option<String>, String)>> {
        self.pass(&["OR", "REPLACE", "TEMPORARY", "ONLINE", "OFFLINE", "IGNORE"]);
        if !self.is_word(&["TABLE", "TABLES"]) {
            return None;
        }
        self.pass(&["IF", "NOT", "EXISTS"]);
        let mut tables = vec![self.name()?];
        match verb {
            b"DROP" => {
                while tables.len() <= TABLES_MAX && self.is_mark(b',') {
                    tables.push(self.name()?);
                }
            }
            b"RENAME" => {
                while tables.len() <= TABLES_MAX && (self.is_word(&["TO"]) || self.is_mark(b',')) {
                    tables.push(self.name()?);
                }
            }
            _ => {}
        }
        Some(tables)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Option<(ChangeKind, String)> {
        let Statement { change, tables } = Statement::read(text.as_bytes())?;
        let names = tables.into_iter().map(|(schema, name)| schema.map_or(name.clone(), |schema| schema + "." + &name));
        Some((change, names.collect::<Vec<_>>().join(" ")))
    }

    #[test]
    fn a_table_is_named_where_the_first_words_name_it() {
        for (text, change, tables) in [
            ("CREATE TABLE IF NOT EXISTS orders (id INT)", ChangeKind::Ddl, "orders"),
            ("create or replace temporary table `shop`.`odd ``name`(id int)", ChangeKind::Ddl, "shop.odd `name"),
            ("ALTER TABLE shop . orders ADD c INT", ChangeKind::Ddl, "shop.orders"),
            ("DROP TABLE IF EXISTS a, `b`, shop.c /* generated by server */", ChangeKind::Ddl, "a b shop.c"),
            ("RENAME TABLE a TO b, c TO shop.d", ChangeKind::Ddl, "a b c shop.d"),
            ("TRUNCATE orders", ChangeKind::Ddl, "orders"),
            ("truncate table `orders`", ChangeKind::Ddl, "orders"),
            ("CREATE INDEX i ON orders (c)", ChangeKind::Ddl, ""),
            ("DROP DATABASE shop", ChangeKind::Ddl, ""),
            ("/* app */ -- one\n# two\nINSERT IGNORE INTO \"orders\" VALUES (1)", ChangeKind::Statement, "orders"),
            ("/*!40000 ALTER TABLE `t` DISABLE KEYS */", ChangeKind::Ddl, "t"),
            ("/*M!100100 DROP TABLE t*/", ChangeKind::Ddl, "t"),
            ("REPLACE orders SET a = 1", ChangeKind::Statement, "orders"),
            ("UPDATE orders SET a = 1", ChangeKind::Statement, "orders"),
            ("UPDATE orders o JOIN items i SET a = 1", ChangeKind::Statement, ""),
            ("UPDATE orders, items SET a = 1", ChangeKind::Statement, ""),
            ("DELETE FROM orders", ChangeKind::Statement, "orders"),
            ("DELETE FROM orders WHERE id = 1", ChangeKind::Statement, "orders"),
            ("DELETE FROM orders USING orders, items", ChangeKind::Statement, ""),
            ("DELETE a FROM a JOIN b", ChangeKind::Statement, ""),
            ("GRANT ALL ON *.* TO x", ChangeKind::Statement, ""),
        ] {
            assert_eq!(read(text), Some((change, tables.to_owned())), "{text}");
        }
        for text in ["BEGIN", "COMMIT", "savepoint a", "XA START 'x'", "# Dum", "", "/* nothing", "FLUSH TABLES"] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(read("DROP TABLE `cut o"), Some((ChangeKind::Ddl, String::new())));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "[A-Z/*`\"., #!-]{0,80}", bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            for verb in ["", "DROP TABLE ", "RENAME TABLE ", "DELETE FROM ", "/*!"] {
                let _ = Statement::read(format!("{verb}{text}").as_bytes());
                let _ = Statement::read(&[verb.as_bytes(), &bytes].concat());
            }
            let _ = Query::parse(&bytes, 13);
        }
    }
}
