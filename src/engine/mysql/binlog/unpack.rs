//! The server's files out of the archive's log: notes taken out, files told by name.

use bytes::Bytes;

use super::event::{CHECKSUM_BYTES, HEADER_BYTES, Header, begins_group, checksums, is_sound, kind};
use super::gtid_event::GtidEvent;
use super::note::{FILE_START, FileNote, Note};
use super::scanner::is_alone;
use crate::engine::mysql::gtid::Gtid;
use crate::error::{Error, Result};

/// Larger events are not looked into: none that is looked for is larger.
const GATHERED_BYTES_MAX: usize = 1 << 20;

/// A part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// A file begins, or goes on behind something that is not here.
    File {
        /// Whose it is, its name, and where in it the log goes on: at [`FILE_START`] with the
        /// format description itself.
        file: FileNote,
        /// The file's format description, a whole event.
        description: Bytes,
    },
    /// Bytes of the file, behind the format description, without a break in any place.
    Log(&'a [u8]),
}

/// Takes the archive's log apart. It may begin with any segment that holds a FILE note, and what
/// lies before that is passed over.
pub struct Unpacker<X> {
    /// Tells which transactions to leave out.
    is_excluded: X,
    /// The beginning of an event, as long as it is not known what becomes of it.
    gathered: Vec<u8>,
    /// What is left of an event whose fate is known, and whether it is given out.
    rest: Option<(usize, bool)>,
    /// A note that waits for its format description.
    named: Option<FileNote>,
    file: Option<File>,
    /// A transaction is being left out.
    excluding: bool,
}

struct File {
    note: FileNote,
    description: Bytes,
    checksums: bool,
    /// Where the next event is in the file.
    position: u64,
    /// Something before it was left out, of which nobody was told.
    broken: bool,
}

impl<X: FnMut(Option<&Gtid>, Option<(&FileNote, u64)>) -> bool + Send> Unpacker<X> {
    /// Leaves out the transactions of which `is_excluded` says so, which is told the GTID if there
    /// is one, the file, and where in it the transaction begins. Those of which the file is not known yet are left
    /// out in any case.
    #[must_use]
    pub const fn new(is_excluded: X) -> Self {
        Self { is_excluded, gathered: Vec::new(), rest: None, named: None, file: None, excluding: false }
    }

    /// Whether it is known which file the log is of.
    #[must_use]
    pub const fn knows_file(&self) -> bool {
        self.file.is_some()
    }

    /// Takes the next bytes and gives out what they hold.
    ///
    /// # Errors
    /// [`crate::Kind::Corruption`] for what is no log of pitr's, and what `give` says.
    pub fn feed(&mut self, bytes: &[u8], give: &mut impl FnMut(Part<'_>) -> Result<()>) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            if let Some((left, given)) = self.rest {
                let (now, after) = rest.split_at(left.min(rest.len()));
                if given {
                    give(Part::Log(now))?;
                }
                rest = after;
                self.rest = (now.len() < left).then(|| (left - now.len(), given));
                continue;
            }
            rest = self.begin(rest, give)?;
        }
        Ok(())
    }

    /// Begins an event: runs of whole ones that are given out as they are go out at once.
    fn begin<'b>(&mut self, bytes: &'b [u8], give: &mut impl FnMut(Part<'_>) -> Result<()>) -> Result<&'b [u8]> {
        if self.gathered.is_empty() {
            let plain = self.plain_run(bytes)?;
            if plain > 0 {
                let (run, after) = bytes.split_at(plain);
                give(Part::Log(run))?;
                return Ok(after);
            }
        }
        let wanted = match self.gathered.len() {
            length if length < HEADER_BYTES => HEADER_BYTES - length,
            length => (Header::parse(&self.gathered)?.length as usize).saturating_sub(length),
        };
        let (now, after) = bytes.split_at(wanted.min(bytes.len()));
        self.gathered.extend_from_slice(now);
        if self.gathered.len() < HEADER_BYTES {
            return Ok(after);
        }
        let header = Header::parse(&self.gathered)?;
        let length = header.length as usize;
        if self.gathered.len() < length && is_looked_into(&header) && length <= GATHERED_BYTES_MAX {
            return Ok(after);
        }
        let gathered = std::mem::take(&mut self.gathered);
        self.event(&header, &gathered, give)?;
        Ok(after)
    }

    /// How many bytes of whole events that need no look lie at the front.
    fn plain_run(&mut self, bytes: &[u8]) -> Result<usize> {
        let Some(file) = self.file.as_mut().filter(|file| !self.excluding && !file.broken && self.named.is_none())
        else {
            return Ok(0);
        };
        let mut at = 0;
        while let Some(head) = bytes.get(at..).and_then(|rest| rest.first_chunk::<HEADER_BYTES>()) {
            let header = Header::parse(head)?;
            let end = at + header.length as usize;
            if is_looked_into(&header) || end > bytes.len() {
                break;
            }
            file.position += u64::from(header.length);
            at = end;
        }
        Ok(at)
    }

    /// Takes an event, of which all that is wanted has been gathered.
    fn event(&mut self, header: &Header, event: &[u8], give: &mut impl FnMut(Part<'_>) -> Result<()>) -> Result<()> {
        let left = (header.length as usize).saturating_sub(event.len());
        if Note::is_one(header, event.get(HEADER_BYTES..).unwrap_or_default()) {
            if let Note::File(file) = Note::parse(event)? {
                self.named = Some(file);
            }
            return Ok(());
        }
        if header.kind == kind::FORMAT_DESCRIPTION {
            return self.described(header, event, give);
        }
        if begins_group(header.kind) {
            self.excluding = self.excludes(header, event)?;
        } else if is_alone(header.kind) {
            self.excluding = false;
        }
        let Some(file) = &mut self.file else {
            self.rest = (left > 0).then_some((left, false));
            return Ok(());
        };
        if self.excluding {
            file.broken = true;
        } else {
            if std::mem::take(&mut file.broken) {
                let note = FileNote { position: file.position, ..file.note.clone() };
                give(Part::File { file: note, description: file.description.clone() })?;
            }
            give(Part::Log(event))?;
        }
        file.position += u64::from(header.length);
        self.rest = (left > 0).then_some((left, !self.excluding));
        Ok(())
    }

    fn described(
        &mut self,
        header: &Header,
        event: &[u8],
        give: &mut impl FnMut(Part<'_>) -> Result<()>,
    ) -> Result<()> {
        let Some(note) = self.named.take() else {
            return Err(Error::corruption("the log holds a format description of a file that no note names"));
        };
        self.excluding = false;
        let goes_on = |file: &File| {
            file.note.server == note.server && file.note.name == note.name && file.position == note.position
        };
        if self.file.as_ref().is_some_and(goes_on) {
            return Ok(());
        }
        let description = Bytes::copy_from_slice(event);
        let checksums = checksums(&description)?;
        let whole = note.position == FILE_START;
        let position = note.position + if whole { u64::from(header.length) } else { 0 };
        give(Part::File { file: note.clone(), description: description.clone() })?;
        self.file = Some(File { note, description, checksums, position, broken: false });
        Ok(())
    }

    fn excludes(&mut self, header: &Header, event: &[u8]) -> Result<bool> {
        // Before a file is known its events tell whether they carry checksums.
        let checksums = self.file.as_ref().map_or_else(|| is_sound(event), |file| file.checksums);
        let end = if checksums { CHECKSUM_BYTES } else { 0 };
        let body = event.get(HEADER_BYTES..event.len() - end).unwrap_or_default();
        let begun = GtidEvent::decode(header.kind, header.server_id, body)?;
        let gtid = begun.and_then(|begun| begun.gtid);
        let place = self.file.as_ref().map(|file| (&file.note, file.position));
        let excluded = (self.is_excluded)(gtid.as_ref(), place);
        Ok(excluded || place.is_none())
    }
}

const fn is_looked_into(header: &Header) -> bool {
    matches!(header.kind, kind::IGNORABLE | kind::FORMAT_DESCRIPTION) || begins_group(header.kind)
}
