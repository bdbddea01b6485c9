//! PostgreSQL's write-ahead log, read as it passes.
//!
//! Promises: whatever the pieces in which the log comes, every page header, every
//! record's length, link to the record before and CRC-32C is verified, every mark is
//! reported once, and memory stays bounded: no record is ever assembled, only the
//! bodies of those that tell something are kept, up to [`open::KEPT_BYTES_MAX`].
//!
//! Relies on: the log of one timeline, in order, from a server of the identity's major
//! version.
//!
//! ```text
//! WAL file  |page 0      |page 1      |page 2      | ...
//! page      [header][..rest of a record][record][record][record.. ]
//!                    ^ `Opening` says how long            goes on past the next header
//! ```
//!
//! Source: `src/backend/access/transam/xlogreader.c`.

pub mod name;
mod open;
mod page;
mod record;
mod xact;

#[cfg(test)]
mod synth;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use self::name::{file_bytes, format_lsn};
use self::open::{Open, Partial};
use self::page::{LONG_HEADER_BYTES, Opening, PAGE_BYTES, PageRules, header_bytes};
use self::record::{HEADER_BYTES, RecordHeader, aligned, check_length};
use self::xact::Told;
use crate::engine::{Detail, ScanStart, Scanner};
use crate::error::{Error, Result};
use crate::model::cluster::Identity;
use crate::model::mark::{Mark, MarkKind};
use crate::model::offset::Offset;
use crate::model::timeline::TimelineId;

/// The [`Scanner`] of PostgreSQL's log.
///
/// The log of a server ends in zeros or in remains of an older file. Whoever reads to
/// the end of a file that was made ahead feeds all of it, and takes
/// [`Scanner::boundary`] once [`Scanner::feed`] refuses: every mark up to there has
/// been reported.
///
/// A record counts once the padding behind it has passed too, and a WAL switch once
/// the unused rest of its WAL file has, so that the boundary is never past the bytes
/// fed. The boundary is the server's own end of the record: at the end of a page it is
/// the page's end, not the place behind the next page's header.
#[derive(Debug)]
pub struct WalScanner {
    rules: PageRules,
    timeline: TimelineId,
    file_bytes: u64,
    server_version: u32,
    detail: Detail,
    /// The next byte expected.
    at: u64,
    boundary: u64,
    /// Where the last whole record begins, once one was seen.
    previous: Option<u64>,
    /// Where a record begins that a crash cut off for good, until the record that
    /// says so was read.
    abandoned: Option<u64>,
    prepared: bool,
    /// For who asked for them; `None` keeps nothing.
    tablespaces: Option<Vec<NewTablespace>>,
    page_header: Partial<LONG_HEADER_BYTES>,
    state: State,
}

/// A record that makes a tablespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTablespace {
    /// Where the record begins.
    pub at: Offset,
    /// The directory the server is told to make it in, empty for one inside its own;
    /// `None` when the record cannot be understood.
    pub directory: Option<PathBuf>,
}

/// What the next byte of page content belongs to.
#[derive(Debug)]
enum State {
    /// The first page has not been seen; it may begin inside a record.
    Entering,
    /// A record begins.
    Between,
    /// The rest of a record whose beginning was not seen: so many bytes, then padding.
    Skipping(u32),
    /// A record that came in part.
    Within(Open),
    /// The unused rest of a WAL file, up to this offset; the switch that left it began
    /// at `start`.
    Unused { start: u64, end: u64 },
}

/// Why a record is refused: where it begins, and a sentence.
type Refusal = (u64, String);

impl WalScanner {
    /// A scanner of the log of `identity` on `timeline` that begins at `start`.
    #[must_use]
    pub fn new(identity: &Identity, timeline: TimelineId, start: ScanStart, detail: Detail) -> Self {
        let (at, state) = match start {
            // What is left of the padding behind the record, if any, is skipped.
            ScanStart::Boundary(at) if at.0 % 8 != 0 => (at.0, State::Skipping(0)),
            ScanStart::Boundary(at) => (at.0, State::Between),
            ScanStart::LogFile(at) => (at.0, State::Entering),
        };
        Self {
            rules: PageRules::new(identity, timeline),
            timeline,
            file_bytes: file_bytes(identity),
            server_version: identity.server_version,
            detail,
            at,
            boundary: at,
            previous: None,
            abandoned: None,
            prepared: false,
            tablespaces: None,
            page_header: Partial::new(),
            state,
        }
    }

    /// Whether the log fed so far prepares a transaction, for a later moment to commit.
    #[must_use]
    pub fn has_prepared(&self) -> bool {
        self.prepared
    }

    /// Keeps the tablespaces that the log makes, for [`WalScanner::take_tablespaces`].
    #[must_use]
    pub fn with_tablespaces(self) -> Self {
        Self { tablespaces: Some(Vec::new()), ..self }
    }

    /// The tablespaces made by the log fed since this was asked last.
    pub fn take_tablespaces(&mut self) -> Vec<NewTablespace> {
        self.tablespaces.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Where the last record begins that came whole; `None` before the first one.
    #[must_use]
    pub fn last_record(&self) -> Option<Offset> {
        self.previous.map(Offset)
    }

    fn advance(&mut self, mut bytes: &[u8], marks: &mut Vec<Mark>) -> Result<(), Refusal> {
        // Whatever follows stays within the WAL file in which these bytes end.
        let room = (bytes.len() as u64).saturating_add(self.file_bytes);
        if self.at.checked_add(room).is_none() {
            return Err((self.at, "no server's log is that long".to_owned()));
        }
        while !bytes.is_empty() {
            let taken = if let State::Unused { start, end } = self.state {
                self.pass_unused(start, end, bytes.len(), marks)
            } else {
                let page = self.at - self.at % PAGE_BYTES;
                let header_bytes = header_bytes(page, self.file_bytes);
                if self.at < page + header_bytes as u64 {
                    self.take_page_header(page, header_bytes, bytes)?
                } else {
                    let room = (page + PAGE_BYTES - self.at) as usize;
                    self.take_content(bytes.get(..room).unwrap_or(bytes), marks)?
                }
            };
            bytes = bytes.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    /// Goes past what a WAL switch left unused. The server never reads it, so neither
    /// is it checked here.
    fn pass_unused(&mut self, start: u64, end: u64, available: usize, marks: &mut Vec<Mark>) -> usize {
        let taken = (end - self.at).min(available as u64);
        self.at += taken;
        if self.at == end {
            self.state = State::Between;
            self.close(start, MarkKind::Record, marks);
        }
        taken as usize
    }

    fn take_page_header(&mut self, page: u64, wanted: usize, bytes: &[u8]) -> Result<usize, Refusal> {
        if self.page_header.len as u64 != self.at - page {
            return Err((self.at, "a scan cannot begin inside a page's header".to_owned()));
        }
        let taken = self.page_header.fill(bytes, wanted);
        self.at += taken as u64;
        if self.page_header.len < wanted {
            return Ok(taken);
        }
        let subject = if let State::Within(open) = &self.state { open.start } else { page };
        let opening = self.rules.check(page, self.page_header.get());
        let opening = opening.map_err(|e| (subject, format!("page at {}: {e}", format_lsn(Offset(page)))))?;
        self.page_header.len = 0;
        let outstanding = match &self.state {
            State::Entering => None,
            State::Within(open) => Some(open.length - open.seen),
            State::Skipping(rest) => Some(*rest),
            State::Between | State::Unused { .. } => Some(0),
        };
        match (opening, outstanding) {
            (Opening::Overwrites, _) => {
                if let State::Within(open) = &self.state {
                    self.abandoned = Some(open.start);
                }
                self.state = State::Between;
            }
            (Opening::Continues(rest), None) => self.state = State::Skipping(rest),
            (Opening::Fresh, None) => self.state = State::Between,
            (Opening::Continues(rest), Some(outstanding)) if rest == outstanding => {}
            (Opening::Fresh, Some(0)) => {}
            (Opening::Continues(rest), Some(0)) => {
                return Err((page, format!("page continues a record by {rest} bytes, but none is open")));
            }
            (Opening::Continues(rest), Some(outstanding)) => {
                return Err((subject, format!("page continues the record by {rest} bytes, not {outstanding}")));
            }
            (Opening::Fresh, Some(outstanding)) => {
                return Err((subject, format!("page does not continue the record, which lacks {outstanding} bytes")));
            }
        }
        Ok(taken)
    }

    /// Takes bytes of one page, past its header; gives how many it took.
    fn take_content(&mut self, bytes: &[u8], marks: &mut Vec<Mark>) -> Result<usize, Refusal> {
        match &mut self.state {
            State::Between => self.take_whole_records(bytes, marks),
            State::Within(_) => self.continue_record(bytes, marks),
            State::Skipping(rest) => {
                let content = (*rest as usize).min(bytes.len());
                *rest -= content as u32;
                self.at += content as u64;
                if *rest > 0 {
                    return Ok(content);
                }
                let padding = ((aligned(self.at) - self.at) as usize).min(bytes.len() - content);
                self.at += padding as u64;
                if self.at.is_multiple_of(8) {
                    self.state = State::Between;
                    self.boundary = self.at;
                }
                Ok(content + padding)
            }
            // The first page's header, which comes before any content, ends this state.
            State::Entering => Err((self.at, "a scan of a WAL file cannot begin inside a page".to_owned())),
            State::Unused { .. } => Ok(0),
        }
    }

    /// The fast way: walks the records that lie whole in `bytes`, and opens the one
    /// that does not.
    fn take_whole_records(&mut self, bytes: &[u8], marks: &mut Vec<Mark>) -> Result<usize, Refusal> {
        let mut rest = bytes;
        while let Some((header, _)) = rest.split_first_chunk::<HEADER_BYTES>() {
            let start = self.at;
            let length = page::u32_at(header, 0);
            check_length(length).map_err(|e| (start, e))?;
            let Some((record, after)) = rest.split_at_checked(aligned(u64::from(length)) as usize) else { break };
            let header = RecordHeader::new(header);
            header.check_previous(start, self.previous).map_err(|e| (start, e))?;
            let body = record.get(HEADER_BYTES..length as usize).unwrap_or_default();
            header.check_crc_of(body).map_err(|e| (start, e))?;
            self.at += record.len() as u64;
            rest = after;
            if self.detail != Detail::Records && self.abandoned.is_none() && header.is_plain() {
                self.previous = Some(start);
                self.boundary = self.at;
                continue;
            }
            self.finish(start, header, body, marks)?;
            if !matches!(self.state, State::Between) {
                return Ok(bytes.len() - rest.len());
            }
        }
        let taken = bytes.len() - rest.len();
        if rest.is_empty() {
            return Ok(taken);
        }
        self.state = State::Within(Open::new(self.at));
        Ok(taken + self.continue_record(rest, marks)?)
    }

    /// The slow way: takes what `bytes` holds of the open record.
    fn continue_record(&mut self, bytes: &[u8], marks: &mut Vec<Mark>) -> Result<usize, Refusal> {
        let State::Within(open) = &mut self.state else { return Ok(0) };
        let start = open.start;
        let taken = open.take(bytes, self.previous).map_err(|e| (start, e))?;
        self.at += taken as u64;
        if open.length == 0 || open.seen < open.length {
            return Ok(taken);
        }
        let padding = ((aligned(self.at) - self.at) as usize).min(bytes.len() - taken);
        self.at += padding as u64;
        if self.at.is_multiple_of(8)
            && let State::Within(open) = std::mem::replace(&mut self.state, State::Between)
        {
            let header = RecordHeader::new(&open.header.bytes);
            header.check_crc(open.crc).map_err(|e| (start, e))?;
            self.finish(start, header, open.body.as_deref().unwrap_or_default(), marks)?;
        }
        Ok(taken + padding)
    }

    /// Takes note of a whole, verified record that began at `start` and ends here.
    fn finish(
        &mut self,
        start: u64,
        header: RecordHeader<'_>,
        body: &[u8],
        marks: &mut Vec<Mark>,
    ) -> Result<(), Refusal> {
        let mut kind = MarkKind::Record;
        self.prepared |= header.prepares();
        if header.creates_tablespace()
            && let Some(tablespaces) = &mut self.tablespaces
        {
            tablespaces.push(NewTablespace { at: Offset(start), directory: xact::tablespace_directory(body) });
        }
        if header.is_telling() {
            match xact::read(header, body, self.server_version).map_err(|e| (start, e))? {
                Told::Mark(told) => kind = told,
                Told::Overwritten(lost) => self.check_overwritten(lost).map_err(|e| (start, e))?,
            }
        }
        if let Some(abandoned) = self.abandoned {
            return Err((abandoned, "record is unfinished, and the server does not say it gave it up".to_owned()));
        }
        if header.is_switch() {
            let end = self.at.next_multiple_of(self.file_bytes);
            if end > self.at {
                self.state = State::Unused { start, end };
                return Ok(());
            }
        }
        self.close(start, kind, marks);
        Ok(())
    }

    fn close(&mut self, start: u64, kind: MarkKind, marks: &mut Vec<Mark>) {
        self.previous = Some(start);
        self.boundary = self.at;
        if self.detail == Detail::Records || kind != MarkKind::Record {
            marks.push(Mark { start: Offset(start), end: Offset(self.at), kind });
        }
    }

    /// A record was given up only if the server says so itself, and of that very record.
    fn check_overwritten(&mut self, lost: u64) -> Result<(), String> {
        match self.abandoned.take() {
            Some(abandoned) if abandoned != lost => Err(format!(
                "server gave up the record at {}, but the one at {} is unfinished",
                format_lsn(Offset(lost)),
                format_lsn(Offset(abandoned))
            )),
            _ => Ok(()),
        }
    }
}

impl Scanner for WalScanner {
    fn feed(&mut self, bytes: &[u8], marks: &mut Vec<Mark>) -> Result<()> {
        self.advance(bytes, marks).map_err(|(at, what)| {
            let (at, timeline) = (format_lsn(Offset(at)), self.timeline.0);
            Error::corruption(format!("WAL at {at} of timeline {timeline}: {what}"))
        })
    }

    fn boundary(&self) -> Offset {
        Offset(self.boundary)
    }

    fn offset(&self) -> Offset {
        Offset(self.at)
    }
}
