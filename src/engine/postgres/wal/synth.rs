//! Made-up WAL for tests: writes records, pages and files as the server does
//! (`CopyXLogRecordToWAL` in `src/backend/access/transam/xlog.c`), and keeps what a
//! scanner ought to see.

use crate::model::cluster::Identity;
use crate::model::mark::{Mark, MarkKind, TransactionId};
use crate::model::offset::Offset;
use crate::model::time::Timestamp;

/// Smaller than any server's, so that a short log has several files.
pub(super) const FILE_BYTES: u64 = 64 << 10;
/// Where every made-up log begins.
pub(super) const START: u64 = 3 * FILE_BYTES;
pub(super) const SYSTEM: u64 = 7_204_981_234_567;
const MAGICS: [(u32, u16); 6] = [(13, 0xD106), (14, 0xD10D), (15, 0xD110), (16, 0xD113), (17, 0xD116), (18, 0xD118)];

/// A log while it is written.
pub(super) struct Log {
    pub(super) version: u32,
    pub(super) timeline: u32,
    pub(super) bytes: Vec<u8>,
    /// Every record, in order.
    pub(super) marks: Vec<Mark>,
    previous: u64,
}

pub(super) fn identity(version: u32) -> Identity {
    Identity {
        format_version: 1,
        engine: "postgres".to_owned(),
        system: SYSTEM.to_string(),
        log_file_bytes: FILE_BYTES,
        server_version: version,
        encryption: None,
    }
}

/// The time `micros` after 2000-01-01.
pub(super) fn time(micros: i64) -> Timestamp {
    Timestamp(946_684_800_000_000 + micros)
}

pub(super) fn restore_point(name: &str, micros: i64) -> Vec<u8> {
    let mut body = vec![255, 72];
    body.extend(micros.to_le_bytes());
    body.extend(name.bytes().chain(std::iter::repeat(0)).take(64));
    body
}

/// What the body of a transaction's end holds besides its time.
#[derive(Clone, Debug, Default)]
pub(super) struct Ending {
    pub(super) database: bool,
    pub(super) children: u32,
    pub(super) relations: u32,
    pub(super) statistics: u32,
    pub(super) messages: u32,
    pub(super) prepared: Option<u32>,
    /// Whether the record names an origin and a top-level transaction.
    pub(super) parts: bool,
}

impl Ending {
    pub(super) fn body(&self, version: u32, micros: i64) -> Vec<u8> {
        let mut data = micros.to_le_bytes().to_vec();
        let mut xinfo = 0_u32;
        let mut rest = Vec::new();
        if self.database {
            xinfo |= 1;
            rest.extend([0xD0; 8]);
        }
        let statistics_item = if version >= 18 { 16 } else { 12 };
        let lists = [
            (2, self.children, 4),
            (4, self.relations, 12),
            (0x100, self.statistics, statistics_item),
            (8, self.messages, 16),
        ];
        for (bit, count, item_bytes) in lists {
            if count > 0 {
                xinfo |= bit;
                rest.extend(count.to_le_bytes());
                rest.extend(std::iter::repeat_n(0xAB, count as usize * item_bytes));
            }
        }
        if let Some(xid) = self.prepared {
            xinfo |= 0x10;
            rest.extend(xid.to_le_bytes());
        }
        if xinfo != 0 {
            data.extend(xinfo.to_le_bytes());
            data.extend(rest);
        }
        let mut body = if self.parts { vec![253, 1, 0, 252, 9, 0, 0, 0] } else { Vec::new() };
        match u8::try_from(data.len()) {
            Ok(length) => body.extend([255, length]),
            Err(_) => {
                body.push(254);
                body.extend((data.len() as u32).to_le_bytes());
            }
        }
        body.extend(data);
        body
    }

    /// `xl_info` of a record that does `operation`.
    pub(super) fn info(&self, operation: u8) -> u8 {
        let plain = !self.database
            && self.prepared.is_none()
            && self.children + self.relations + self.statistics + self.messages == 0;
        if plain { operation } else { operation | 0x80 }
    }
}

impl Log {
    pub(super) fn new(version: u32, timeline: u32) -> Self {
        Self { version, timeline, bytes: Vec::new(), marks: Vec::new(), previous: START - 56 }
    }

    /// The offset of the next byte.
    pub(super) fn end(&self) -> u64 {
        START + self.bytes.len() as u64
    }

    /// Writes a page header, where one is due, with `rest` bytes of a record to come.
    fn open_page(&mut self, rest: u32, overwrites: bool) {
        let page = self.end();
        if !page.is_multiple_of(8192) {
            return;
        }
        let long = page.is_multiple_of(FILE_BYTES);
        let info = u16::from(rest > 0) | u16::from(long) << 1 | u16::from(overwrites) << 3;
        let magic = MAGICS.iter().find(|m| m.0 == self.version).unwrap().1;
        self.bytes.extend(magic.to_le_bytes());
        self.bytes.extend(info.to_le_bytes());
        self.bytes.extend(self.timeline.to_le_bytes());
        self.bytes.extend(page.to_le_bytes());
        self.bytes.extend(rest.to_le_bytes());
        self.bytes.extend([0; 4]);
        if long {
            self.bytes.extend(SYSTEM.to_le_bytes());
            self.bytes.extend((FILE_BYTES as u32).to_le_bytes());
            self.bytes.extend(8192_u32.to_le_bytes());
        }
    }

    /// Writes a record; a scanner ought to see it as `kind`.
    pub(super) fn record(&mut self, manager: u8, info: u8, xid: u32, body: &[u8], kind: MarkKind) {
        self.open_page(0, false);
        let start = self.end();
        let mut record = (24 + body.len() as u32).to_le_bytes().to_vec();
        record.extend(xid.to_le_bytes());
        record.extend(self.previous.to_le_bytes());
        record.extend([info, manager, 0, 0]);
        let summed = [body, &record].concat();
        record.extend(crc_fast::crc32_iscsi(&summed).to_le_bytes());
        record.extend(body);
        for (i, byte) in record.iter().enumerate() {
            self.open_page((record.len() - i) as u32, false);
            self.bytes.push(*byte);
        }
        self.pad_to(8);
        if manager == 0 && info == 0x40 {
            self.pad_to(FILE_BYTES);
        }
        self.previous = start;
        self.marks.push(Mark { start: Offset(start), end: Offset(self.end()), kind });
    }

    /// Writes a record that means nothing to a scanner.
    pub(super) fn plain(&mut self, body_bytes: usize) {
        let body: Vec<u8> = (0..body_bytes).map(|i| (i * 31 + body_bytes) as u8 | 1).collect();
        self.record(10, 0x20, 700, &body, MarkKind::Record);
    }

    pub(super) fn switch(&mut self) {
        self.record(0, 0x40, 0, &[], MarkKind::Record);
    }

    pub(super) fn commit(&mut self, xid: u32, micros: i64) {
        self.transaction(0x00, xid, micros, &Ending::default());
    }

    /// Writes the end of a transaction by `operation` (`XLOG_XACT_COMMIT` and so on).
    pub(super) fn transaction(&mut self, operation: u8, xid: u32, micros: i64, ending: &Ending) {
        let committed = matches!(operation, 0x00 | 0x30);
        let (own, told) = match ending.prepared {
            Some(prepared) => (0, prepared),
            None => (xid, xid),
        };
        let kind = MarkKind::Transaction { id: TransactionId::Number(u64::from(told)), time: time(micros), committed };
        self.record(1, ending.info(operation), own, &ending.body(self.version, micros), kind);
    }

    pub(super) fn name(&mut self, name: &str, micros: i64) {
        let kind = MarkKind::RestorePoint { name: name.to_owned(), time: time(micros) };
        self.record(0, 0x70, 0, &restore_point(name, micros), kind);
    }

    /// Loses the rest of the last record from the first page it has not begun, as a
    /// crash does. The next record must say so; `start` of the lost one is given back.
    pub(super) fn lose_the_rest(&mut self) -> u64 {
        let lost = self.marks.pop().unwrap();
        let page = (lost.start.0 + 1).next_multiple_of(8192);
        assert!(page < self.end(), "the last record lies on one page");
        self.bytes.truncate((page - START) as usize);
        self.previous = self.marks.last().map_or(START - 56, |m| m.start.0);
        self.open_page(0, true);
        lost.start.0
    }

    /// Says that the record at `lost` was given up.
    pub(super) fn overwrite(&mut self, lost: u64) {
        let body = [&[255, 16][..], &lost.to_le_bytes(), &0_i64.to_le_bytes()].concat();
        self.record(0, 0xD0, 0, &body, MarkKind::Record);
    }

    fn pad_to(&mut self, multiple: u64) {
        self.bytes.resize((self.end().next_multiple_of(multiple) - START) as usize, 0);
    }
}
