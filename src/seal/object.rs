//! The bytes of a sealed object.
//!
//! ```text
//! closed part   chunks of 64 KiB (the last one shorter), each encrypted and 16 bytes longer; data key
//! open part     the same; metadata key
//! filler        16 zeros, where both parts have no more chunks than one part of their length would
//! trailer        0  magic "PITRSEAL"     8
//!                8  version u16 = 1      2
//!               10  zero                 2
//!               12  data key u32         4   number of the data key; 0 without a closed part
//!               16  closed length u64    8   before encryption
//!               24  open length u64      8
//!               32  salt                32
//!               64  stored hash         32   BLAKE3 of the object's bytes before the trailer
//!               96  open hash           32   the same of the open part alone
//!              128  signature           64   Ed25519
//! ```
//! Integers are little-endian. With `name` the object's name in the store:
//!
//! - salt: BLAKE3, keyed with HKDF(metadata key, salt "", info "pitr salt"), of the name's length
//!   (u64), the name, the closed length (u64), and what is sealed. So the same object is sealed
//!   to the same bytes, and different ones never with the same key and nonce.
//! - key of a part: HKDF-SHA-256 of the data or the metadata key, with the salt, and as info
//!   "pitr object", a zero byte, and the name.
//! - chunk: AES-256-GCM; nonce: 0 or 1 (u32, the part) and the chunk's number in its part (u64), both
//!   big-endian; associated data: the trailer's first 64 bytes, and the name.
//! - signature: of "pitr object 1", a zero byte, the archive ([`super::key::archive_id`]), a zero byte, the trailer's first
//!   128 bytes, and the name.
//!
//! The filler makes the length before encryption a function of the object's length, so that a listing
//! tells it. Name, lengths and order of the chunks are under each chunk's tag: what was swapped, cut
//! off or put elsewhere does not open. The hash lets anybody who knows the signing key's public
//! half tell an object that is as it was written, also without the key to read it; that of the open part
//! proves a footer that is read alone, even from who could encrypt another with the metadata key.

use std::ops::Range;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use bytes::Bytes;

use crate::error::{Error, Result};

/// Bytes of a chunk before encryption.
pub const CHUNK_BYTES: u64 = 64 << 10;

/// Bytes by which a chunk grows.
pub const TAG_BYTES: u64 = 16;

/// Bytes of the trailer.
pub const TRAILER_BYTES: usize = 192;

const MAGIC: &[u8; 8] = b"PITRSEAL";
const VERSION: u16 = 1;
/// What of the trailer is associated data.
const BOUND: usize = 64;
/// What of the trailer is signed.
const SIGNED: usize = 128;

/// A secret key.
pub type Key = [u8; 32];

/// The public half of a signing key.
pub type Writer = [u8; 32];

/// Who signs the objects of an archive, and which archive that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The public half of the key that signs.
    pub writer: Writer,
    /// What tells the archive from all others.
    pub archive: String,
}

/// What of an object is encrypted with which key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Closed,
    Open,
}

/// What the end of a sealed object says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Number of the data key of the closed part; 0 where there is none.
    pub data_key: u32,
    /// Bytes of the closed part before encryption.
    pub closed_bytes: u64,
    /// Bytes of the open part before encryption.
    pub open_bytes: u64,
    /// Tells one content from another, under one name.
    pub salt: [u8; 32],
    stored_hash: [u8; 32],
    open_hash: [u8; 32],
}

/// What opens the parts of an object; a data key, if it is known.
#[derive(Clone, Copy)]
pub struct Keys<'a> {
    /// Of the closed part.
    pub data: Option<&'a Key>,
    /// Of the open part.
    pub metadata: &'a Key,
}

/// What seals an object.
pub struct Sealer<'a> {
    /// The data key and its number.
    pub data: Option<(u32, &'a Key)>,
    /// Of the open part.
    pub metadata: &'a Key,
    /// Signs it.
    pub signer: &'a Ed25519KeyPair,
    /// The archive that it is of.
    pub origin: &'a Origin,
}

impl Sealer<'_> {
    /// Seals an object, the first `closed_bytes` of it with the data key.
    ///
    /// # Errors
    /// [`crate::Kind::Failure`] when there is a closed part and no data key, or the library fails.
    pub fn seal(&self, name: &str, body: &[Bytes], closed_bytes: u64) -> Result<Bytes> {
        let all: u64 = body.iter().map(|piece| piece.len() as u64).sum();
        let Some(open_bytes) = all.checked_sub(closed_bytes) else {
            return Err(Error::failure(format!("{name} has fewer bytes than are to be closed")));
        };
        let data_key = if closed_bytes == 0 { 0 } else { self.data.map_or(0, |(number, _)| number) };
        let salt = salt(self.metadata, name, closed_bytes, body)?;
        let mut trailer =
            Trailer { data_key, closed_bytes, open_bytes, salt, stored_hash: [0; 32], open_hash: [0; 32] };
        let bound = trailer.bound(name);
        let mut out = Vec::with_capacity(usize::try_from(stored_bytes(all)).unwrap_or(0));
        let keys = Keys { data: self.data.map(|(_, key)| key), metadata: self.metadata };
        let mut pieces = Pieces { pieces: body, at: 0 };
        for (part, bytes) in [(Part::Closed, closed_bytes), (Part::Open, open_bytes)] {
            if bytes == 0 {
                continue;
            }
            let key =
                trailer.key(name, part, keys)?.ok_or_else(|| Error::failure(format!("no data key for {name}")))?;
            let begin = out.len();
            for number in 0..bytes.div_ceil(CHUNK_BYTES) {
                let at = out.len();
                pieces.take(CHUNK_BYTES.min(bytes - number * CHUNK_BYTES), &mut out);
                let chunk = out.get_mut(at..).unwrap_or_default();
                let tag = key
                    .seal_in_place_separate_tag(nonce(part, number), Aad::from(bound.as_slice()), chunk)
                    .map_err(|e| Error::failure(format!("cannot encrypt {name}")).because(e))?;
                out.extend_from_slice(tag.as_ref());
            }
            if part == Part::Open {
                trailer.open_hash = *blake3::hash(out.get(begin..).unwrap_or_default()).as_bytes();
            }
        }
        out.resize(out.len() + trailer.filler_bytes() as usize, 0);
        trailer.stored_hash = *blake3::hash(&out).as_bytes();
        let head = trailer.head();
        out.extend_from_slice(&head);
        out.extend_from_slice(self.signer.sign(&signed(self.origin, name, &head)).as_ref());
        Ok(out.into())
    }
}

impl Trailer {
    /// Reads the trailer from the last bytes of the object `name`, which must have been signed by `origin`.
    ///
    /// # Errors
    /// [`crate::Kind::Corruption`] when it is none, or signed by another, for another archive or another name.
    pub fn decode(name: &str, last: &[u8], origin: &Origin) -> Result<Self> {
        let refuse = |flaw: &str| {
            Error::corruption(format!("{name} {flaw}")).hint(
                "was it damaged, put there by somebody else, or moved from another place? nothing of it is believed",
            )
        };
        let sealed = last.last_chunk::<TRAILER_BYTES>().filter(|trailer| trailer.starts_with(MAGIC));
        let sealed = sealed.ok_or_else(|| refuse("is not sealed, though its archive is encrypted"))?;
        let (head, signature) = sealed.split_at(SIGNED);
        let known = UnparsedPublicKey::new(&ED25519, &origin.writer);
        if known.verify(&signed(origin, name, head), signature).is_err() {
            return Err(refuse("is not signed by this archive's archiver for this name"));
        }
        let u64_at = |at: usize| head.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b));
        let hash_at = |at: usize| head.get(at..).and_then(|b| b.first_chunk()).copied().unwrap_or_default();
        let numbers = u64_at(8);
        let trailer = Self {
            data_key: (numbers >> 32) as u32,
            closed_bytes: u64_at(16),
            open_bytes: u64_at(24),
            salt: hash_at(32),
            stored_hash: hash_at(64),
            open_hash: hash_at(96),
        };
        let version = numbers as u16;
        if version != VERSION {
            return Err(Error::config(format!(
                "{name} is sealed in version {version}, where this pitr reads {VERSION}"
            ))
            .hint("was the archive written by a newer pitr?"));
        }
        Ok(trailer)
    }

    /// Bytes before encryption.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.closed_bytes.saturating_add(self.open_bytes)
    }

    /// Checks a whole object against the hash that was signed.
    ///
    /// # Errors
    /// [`crate::Kind::Corruption`] naming it.
    pub fn check(&self, name: &str, object: &[u8]) -> Result<()> {
        let stored = object.len().checked_sub(TRAILER_BYTES).and_then(|end| object.get(..end)).unwrap_or_default();
        if object.len() as u64 == stored_bytes(self.bytes()) && *blake3::hash(stored).as_bytes() == self.stored_hash {
            return Ok(());
        }
        Err(Error::corruption(format!("{name} does not hold the bytes that were signed")))
    }

    /// Where the chunks lie in the object that hold these bytes of what is sealed.
    #[must_use]
    pub fn stored(&self, plain: &Range<u64>) -> Range<u64> {
        let mut stored = 0..0;
        for chunk in self.chunks(plain) {
            if stored.is_empty() {
                stored = chunk.stored.clone();
            }
            stored.end = chunk.stored.end;
        }
        stored
    }

    /// Decrypts these bytes of what is sealed, of which `stored` holds the chunks ([`Trailer::stored`]).
    /// `None` when the key of one of them is not known.
    ///
    /// # Errors
    /// [`crate::Kind::Corruption`] naming the object when a chunk is not what was written there.
    pub fn open(&self, name: &str, keys: Keys<'_>, plain: &Range<u64>, stored: &[u8]) -> Result<Option<Bytes>> {
        let damaged = |chunk: &Chunk| {
            let at = chunk.plain.start;
            Error::corruption(format!("{name} does not decrypt at byte {at}: it is not what was written there"))
        };
        let bound = self.bound(name);
        let mut out = Vec::with_capacity(stored.len());
        if plain.start <= self.closed_bytes && plain.end >= self.bytes() && self.open_bytes > 0 {
            let open = self.stored(&(self.closed_bytes..self.bytes()));
            let len = usize::try_from(open.end - open.start).unwrap_or(usize::MAX);
            let from = usize::try_from(open.start - self.stored(plain).start).unwrap_or(usize::MAX);
            let bytes = stored.get(from..).and_then(|rest| rest.get(..len)).unwrap_or_default();
            if *blake3::hash(bytes).as_bytes() != self.open_hash {
                return Err(Error::corruption(format!("{name} does not hold the footer that was signed")));
            }
        }
        let mut opened: Option<(Part, LessSafeKey)> = None;
        let (mut skip, mut at) = (0, 0);
        for chunk in self.chunks(plain) {
            let key = match opened.take().filter(|(part, _)| *part == chunk.part) {
                Some((_, key)) => key,
                None => match self.key(name, chunk.part, keys)? {
                    Some(key) => key,
                    None => return Ok(None),
                },
            };
            let len = usize::try_from(chunk.stored.end - chunk.stored.start).unwrap_or(usize::MAX);
            let bytes = stored.get(at..).and_then(|rest| rest.get(..len)).ok_or_else(|| damaged(&chunk))?;
            at += len;
            if out.is_empty() {
                skip = usize::try_from(plain.start.saturating_sub(chunk.plain.start)).unwrap_or(usize::MAX);
            }
            let begin = out.len();
            out.extend_from_slice(bytes);
            let into = out.get_mut(begin..).unwrap_or_default();
            let nonce = nonce(chunk.part, chunk.number);
            let len = key.open_in_place(nonce, Aad::from(bound.as_slice()), into).map_err(|_| damaged(&chunk))?.len();
            out.truncate(begin + len);
            opened = Some((chunk.part, key));
        }
        let len = usize::try_from(plain.end.min(self.bytes()).saturating_sub(plain.start)).unwrap_or(usize::MAX);
        let out = Bytes::from(out);
        let end = skip.saturating_add(len).min(out.len());
        Ok(Some(out.slice(skip.min(end)..end)))
    }

    /// The chunks that hold these bytes of what is sealed, in order.
    fn chunks(&self, plain: &Range<u64>) -> impl Iterator<Item = Chunk> {
        let closed_end = self.closed_bytes + self.closed_bytes.div_ceil(CHUNK_BYTES) * TAG_BYTES;
        let parts =
            [(Part::Closed, 0, self.closed_bytes, 0), (Part::Open, self.closed_bytes, self.open_bytes, closed_end)];
        let plain = plain.start..plain.end.min(self.bytes());
        parts.into_iter().flat_map(move |(part, begin, bytes, stored)| {
            let from = plain.start.clamp(begin, begin + bytes) - begin;
            let to = plain.end.clamp(begin, begin + bytes) - begin;
            let numbers = if from < to { from / CHUNK_BYTES..to.div_ceil(CHUNK_BYTES) } else { 0..0 };
            numbers.map(move |number| {
                let start = number * CHUNK_BYTES;
                let len = CHUNK_BYTES.min(bytes - start);
                let at = stored + number * (CHUNK_BYTES + TAG_BYTES);
                Chunk { part, number, plain: begin + start..begin + start + len, stored: at..at + len + TAG_BYTES }
            })
        })
    }

    /// The key of a part, if the one it comes from is known.
    fn key(&self, name: &str, part: Part, keys: Keys<'_>) -> Result<Option<LessSafeKey>> {
        let Some(from) = (match part {
            Part::Closed => keys.data,
            Part::Open => Some(keys.metadata),
        }) else {
            return Ok(None);
        };
        let derived = derive(from, &self.salt, &[b"pitr object\0", name.as_bytes()])?;
        let key = UnboundKey::new(&AES_256_GCM, &derived);
        key.map(|key| Some(LessSafeKey::new(key))).map_err(|e| Error::failure("cannot make a key").because(e))
    }

    /// What each chunk is bound to.
    fn bound(&self, name: &str) -> Vec<u8> {
        let mut bound = self.head();
        bound.truncate(BOUND);
        bound.extend_from_slice(name.as_bytes());
        bound
    }

    /// The trailer before its signature.
    fn head(&self) -> Vec<u8> {
        let mut head = Vec::with_capacity(TRAILER_BYTES);
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&VERSION.to_le_bytes());
        head.extend_from_slice(&[0; 2]);
        head.extend_from_slice(&self.data_key.to_le_bytes());
        head.extend_from_slice(&self.closed_bytes.to_le_bytes());
        head.extend_from_slice(&self.open_bytes.to_le_bytes());
        head.extend_from_slice(&self.salt);
        head.extend_from_slice(&self.stored_hash);
        head.extend_from_slice(&self.open_hash);
        head
    }

    fn filler_bytes(&self) -> u64 {
        let chunks = self.closed_bytes.div_ceil(CHUNK_BYTES) + self.open_bytes.div_ceil(CHUNK_BYTES);
        (self.bytes().div_ceil(CHUNK_BYTES) + 1 - chunks) * TAG_BYTES
    }
}

/// A chunk of an object.
#[derive(Clone, Debug)]
struct Chunk {
    part: Part,
    /// In its part.
    number: u64,
    /// Where it lies in what is sealed.
    plain: Range<u64>,
    /// Where it lies in the object, with its tag.
    stored: Range<u64>,
}

/// Pieces of a body, taken from front to end.
struct Pieces<'a> {
    pieces: &'a [Bytes],
    /// What was taken of the first one.
    at: usize,
}

impl Pieces<'_> {
    fn take(&mut self, bytes: u64, out: &mut Vec<u8>) {
        let mut wanted = usize::try_from(bytes).unwrap_or(usize::MAX);
        while let Some((first, others)) = self.pieces.split_first().filter(|_| wanted > 0) {
            let rest = first.get(self.at..).unwrap_or_default();
            let take = rest.len().min(wanted);
            out.extend_from_slice(rest.get(..take).unwrap_or_default());
            wanted -= take;
            self.at += take;
            if take == rest.len() {
                (self.pieces, self.at) = (others, 0);
            }
        }
    }
}

/// Bytes of the object that so many bytes are sealed to.
#[must_use]
pub const fn stored_bytes(plain: u64) -> u64 {
    let tags = (plain.div_ceil(CHUNK_BYTES) + 1).saturating_mul(TAG_BYTES);
    plain.saturating_add(tags).saturating_add(TRAILER_BYTES as u64)
}

/// Bytes that are sealed in an object of so many; `None` for what is no sealed object.
#[must_use]
pub const fn plain_bytes(stored: u64) -> Option<u64> {
    let Some(chunks) = stored.checked_sub(TRAILER_BYTES as u64 + TAG_BYTES) else { return None };
    let plain = chunks - chunks.div_ceil(CHUNK_BYTES + TAG_BYTES) * TAG_BYTES;
    if stored_bytes(plain) == stored { Some(plain) } else { None }
}

/// Derives a key from another one.
///
/// # Errors
/// [`crate::Kind::Failure`] when the library fails.
pub fn derive(from: &Key, salt: &[u8], info: &[&[u8]]) -> Result<Key> {
    let mut key = [0; 32];
    Salt::new(HKDF_SHA256, salt)
        .extract(from)
        .expand(info, HKDF_SHA256)
        .and_then(|expanded| expanded.fill(&mut key))
        .map_err(|e| Error::failure("cannot derive a key").because(e))?;
    Ok(key)
}

fn salt(metadata: &Key, name: &str, closed_bytes: u64, body: &[Bytes]) -> Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new_keyed(&derive(metadata, &[], &[b"pitr salt"])?);
    hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes()).update(&closed_bytes.to_le_bytes());
    for piece in body {
        hasher.update(piece);
    }
    Ok(*hasher.finalize().as_bytes())
}

fn nonce(part: Part, number: u64) -> Nonce {
    let mut nonce = [0; 12];
    let (first, last) = nonce.split_at_mut(4);
    first.copy_from_slice(&u32::from(part == Part::Open).to_be_bytes());
    last.copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// What is signed of an object.
fn signed(origin: &Origin, name: &str, head: &[u8]) -> Vec<u8> {
    [b"pitr object 1\0", origin.archive.as_bytes(), b"\0", head, name.as_bytes()].concat()
}

#[cfg(test)]
mod tests;
