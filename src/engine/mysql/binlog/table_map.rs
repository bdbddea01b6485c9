//! TABLE_MAP events: which table the rows that follow belong to, and how long its columns are.
//!
//! ```text
//!  0  id u48 · flags u16
//!  8  n, schema, zero · n, table, zero             n is a packed integer
//!     n, then n bytes: the columns' types
//!     n, then n bytes: metadata, column after column, as much as the type has
//!     one bit for each column: whether it may be null · more metadata that nothing here needs
//! ```
//! Sources: MySQL `libs/mysql/binlog/event/rows_event.h` (Table_map_event) and
//! `binary_log_funcs.cpp` (calc_field_size), MariaDB `sql/log_event.cc` and `sql/rpl_utility.cc`.

/// How long a value of a column is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    /// So many bytes.
    Fixed(u16),
    /// A length in so many bytes (1 to 4), and as many bytes as it says.
    Prefixed(u8),
    /// Nobody here knows.
    Unknown,
}

/// What a TABLE_MAP event says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TableMap {
    /// `schema.table`.
    pub(super) name: String,
    /// `None` where they are not understood.
    pub(super) columns: Option<Columns>,
}

/// The columns of a table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Columns {
    pub(super) all: Vec<Column>,
    /// How many of them are MySQL's JSON.
    pub(super) json: usize,
}

/// No table has more columns.
const COLUMNS_MAX: usize = 4096;

/// The length of ids, little-endian.
pub(super) const ID_BYTES: usize = 6;

/// The id and the rest of an event of rows or of a table map.
pub(super) fn split_id(content: &[u8]) -> Option<(u64, &[u8])> {
    let ([a, b, c, d, e, f], rest) = content.split_first_chunk::<ID_BYTES>()?;
    Some((u64::from_le_bytes([*a, *b, *c, *d, *e, *f, 0, 0]), rest))
}

/// A little-endian number of at most 8 bytes.
pub(super) fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

pub(super) fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

/// Takes a packed integer: one byte up to 250, or 252, 253, 254 and 2, 3 or 8 bytes.
pub(super) fn packed(bytes: &mut &[u8]) -> Option<u64> {
    let first = take(bytes, 1)?.first().copied()?;
    let more = match first {
        0..=250 => return Some(u64::from(first)),
        252 => 2,
        253 => 3,
        254 => 8,
        _ => return None,
    };
    take(bytes, more).map(number)
}

fn packed_len(bytes: &mut &[u8]) -> Option<usize> {
    usize::try_from(packed(bytes)?).ok()
}

impl TableMap {
    /// Reads what follows the id; the event may be cut off behind the metadata.
    pub(super) fn parse(after_id: &[u8]) -> Option<Self> {
        let mut rest = after_id.get(2..)?;
        let rest = &mut rest;
        let mut name = String::new();
        for end in [".", ""] {
            let len = packed_len(rest)?;
            name.push_str(&String::from_utf8_lossy(take(rest, len)?));
            name.push_str(end);
            take(rest, 1)?;
        }
        Some(Self { name, columns: Columns::parse(rest) })
    }
}

impl Columns {
    fn parse(rest: &mut &[u8]) -> Option<Self> {
        let count = packed_len(rest).filter(|count| *count <= COLUMNS_MAX)?;
        let types = take(rest, count)?;
        let metadata_len = packed_len(rest)?;
        let mut metadata = take(rest, metadata_len)?;
        let all = types.iter().map(|of| Column::read(*of, &mut metadata)).collect::<Option<_>>()?;
        let json = types.iter().filter(|of| **of == 245).count();
        metadata.is_empty().then_some(Self { all, json })
    }
}

impl Column {
    /// The column of a type, whose metadata is taken.
    fn read(of: u8, metadata: &mut &[u8]) -> Option<Self> {
        Some(match of {
            // TINY, YEAR
            1 | 13 => Self::Fixed(1),
            // SHORT
            2 => Self::Fixed(2),
            // INT24, DATE, NEWDATE, TIME of old
            9 | 10 | 11 | 14 => Self::Fixed(3),
            // LONG, TIMESTAMP of old
            3 | 7 => Self::Fixed(4),
            // LONGLONG, DATETIME of old
            8 | 12 => Self::Fixed(8),
            // NULL
            6 => Self::Fixed(0),
            // FLOAT, DOUBLE: their size
            4 | 5 => Self::Fixed(u16::from(*take(metadata, 1)?.first()?)),
            // TIMESTAMP2, DATETIME2, TIME2: digits of the second's fraction
            17..=19 => {
                let digits = u16::from(*take(metadata, 1)?.first()?);
                let whole = match of {
                    17 => 4,
                    18 => 5,
                    _ => 3,
                };
                Self::Fixed(whole + digits.div_ceil(2))
            }
            // VARCHAR, MariaDB's compressed one: the most bytes it takes
            15 | 141 => Self::text(number(take(metadata, 2)?)),
            // BIT: bits beside whole bytes, whole bytes
            16 => match take(metadata, 2)? {
                [bits, bytes] => Self::Fixed(u16::from(*bytes) + u16::from(*bits > 0)),
                _ => return None,
            },
            // NEWDECIMAL: digits, and those behind the point
            246 => match take(metadata, 2)? {
                [digits, behind] => decimal(*digits, *behind),
                _ => return None,
            },
            // The lengths of BLOBs, MariaDB's compressed ones, VECTOR, JSON and GEOMETRY
            140 | 242 | 245 | 249..=252 | 255 => match take(metadata, 1)? {
                [bytes @ 1..=4] => Self::Prefixed(*bytes),
                _ => Self::Unknown,
            },
            // STRING, and by its metadata ENUM and SET
            247 | 248 | 254 => match take(metadata, 2)? {
                [247 | 248, size] => Self::Fixed(u16::from(*size)),
                // The two highest bits of a length of ten lie, inverted, in the type.
                [of, low] => Self::text(u64::from(*of) << 4 & 0x300 ^ 0x300 | u64::from(*low)),
                _ => return None,
            },
            // TYPED_ARRAY, of a multi-valued index: as JSON, with the metadata of what is in it
            20 => {
                let of = *take(metadata, 1)?.first()?;
                if of == 15 {
                    take(metadata, 3)?;
                } else {
                    Self::read(of, metadata)?;
                }
                Self::Prefixed(4)
            }
            // Those of old that no server writes, and those to come.
            _ => return None,
        })
    }

    /// Text of at most so many bytes.
    const fn text(most: u64) -> Self {
        Self::Prefixed(if most > 255 { 2 } else { 1 })
    }
}

/// Groups of nine digits take four bytes each, what is left less, on both sides of the point
/// (`strings/decimal.c`, `decimal_bin_size`).
fn decimal(digits: u8, behind: u8) -> Column {
    const LEFT: [u16; 9] = [0, 1, 1, 2, 2, 3, 3, 4, 4];
    let bytes = |digits: u8| u16::from(digits / 9) * 4 + LEFT.get(usize::from(digits % 9)).copied().unwrap_or(4);
    digits.checked_sub(behind).map_or(Column::Unknown, |before| Column::Fixed(bytes(before) + bytes(behind)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn column(of: u8, mut metadata: &[u8]) -> Option<Column> {
        Column::read(of, &mut metadata).filter(|_| metadata.is_empty())
    }

    #[test]
    fn columns_are_as_long_as_the_servers_say() {
        for (of, metadata, expected) in [
            (246, &[10, 0][..], Column::Fixed(5)),
            (246, &[65, 30], Column::Fixed(30)),
            (246, &[2, 3], Column::Unknown),
            (16, &[1, 0], Column::Fixed(1)),
            (16, &[0, 8], Column::Fixed(8)),
            (16, &[3, 7], Column::Fixed(8)),
            (18, &[0], Column::Fixed(5)),
            (18, &[3], Column::Fixed(7)),
            (18, &[6], Column::Fixed(8)),
            (254, &[247, 2], Column::Fixed(2)),
            (254, &[248, 8], Column::Fixed(8)),
            (254, &[254, 255], Column::Prefixed(1)),
            // CHAR(255) of four bytes each: 1020 is 0x3fc.
            (254, &[254 ^ 0x30, 0xfc], Column::Prefixed(2)),
            (15, &[255, 0], Column::Prefixed(1)),
            (15, &[0, 1], Column::Prefixed(2)),
            (252, &[4], Column::Prefixed(4)),
            (252, &[5], Column::Unknown),
            (20, &[8], Column::Prefixed(4)),
            (20, &[15, 1, 2, 3], Column::Prefixed(4)),
        ] {
            assert_eq!(column(of, metadata), Some(expected), "type {of} {metadata:?}");
        }
        assert_eq!(column(18, &[]), None);
        assert_eq!(column(99, &[]), None);
    }

    #[test]
    fn a_map_tells_name_and_columns() {
        let map = b"\x01\x00\x04shop\x00\x06orders\x00\x03\x03\xfc\xf5\x02\x02\x04\x06whatever";
        let read = TableMap::parse(map).unwrap();
        let columns = vec![Column::Fixed(4), Column::Prefixed(2), Column::Prefixed(4)];
        assert_eq!(read, TableMap { name: "shop.orders".into(), columns: Some(Columns { all: columns, json: 1 }) });
        for cut in 0..map.len() - 9 {
            let read = TableMap::parse(&map[..cut]);
            assert!(read.is_none_or(|read| read.columns.is_none() && read.name == "shop.orders"), "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = TableMap::parse(&bytes);
        }
    }
}
