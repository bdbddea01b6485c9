use proptest::prelude::*;

use super::*;
use crate::Kind;

const NAME: &str = "main/pack/ab/abc";

struct Hands {
    signer: Ed25519KeyPair,
    metadata: Key,
    data: Key,
    origin: Origin,
}

impl Hands {
    fn new() -> Self {
        Self::of(7)
    }

    /// Who signs with this seed.
    fn of(seed: u8) -> Self {
        use aws_lc_rs::signature::KeyPair as _;
        let signer = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let writer = *signer.public_key().as_ref().first_chunk().unwrap();
        Self { signer, metadata: [1; 32], data: [2; 32], origin: Origin { writer, archive: "one".into() } }
    }

    fn seal_as(&self, name: &str, plain: &[u8], closed: u64, number: u32) -> Bytes {
        let sealer = Sealer {
            data: Some((number, &self.data)),
            metadata: &self.metadata,
            signer: &self.signer,
            origin: &self.origin,
        };
        // Two pieces are sealed as one.
        let (left, right) = plain.split_at(plain.len() / 3);
        sealer.seal(name, &[Bytes::copy_from_slice(left), Bytes::copy_from_slice(right)], closed).unwrap()
    }

    fn seal(&self, plain: &[u8], closed: u64) -> Bytes {
        self.seal_as(NAME, plain, closed, 5)
    }

    fn keys(&self) -> Keys<'_> {
        Keys { data: Some(&self.data), metadata: &self.metadata }
    }

    /// All of an object, as a reader of it does.
    fn open(&self, name: &str, object: &[u8]) -> Result<Option<Bytes>> {
        let trailer = Trailer::decode(name, object, &self.origin)?;
        trailer.check(name, object)?;
        trailer.open(name, self.keys(), &(0..trailer.bytes()), object)
    }
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

#[test]
fn gives_back_what_was_sealed_whatever_its_length() {
    let hands = Hands::new();
    let chunk = CHUNK_BYTES as usize;
    for len in [0, 1, 100, chunk - 1, chunk, chunk + 1, 2 * chunk, 3 * chunk + 17] {
        for closed in [0, 1, len / 2, len.saturating_sub(1), len, chunk.min(len)] {
            let closed = closed.min(len);
            let object = hands.seal(&bytes(len), closed as u64);
            assert_eq!(hands.open(NAME, &object).unwrap().unwrap(), bytes(len), "{closed} of {len}");
            assert_eq!(object.len() as u64, stored_bytes(len as u64), "{closed} of {len}");
            assert_eq!(plain_bytes(object.len() as u64), Some(len as u64), "{closed} of {len}");
        }
    }
}

proptest! {
    #[test]
    fn any_part_is_read_from_the_chunks_that_hold_it(
        len in 0u64..300_000, closed in 0u64..300_000, start in 0u64..310_000, bytes_wanted in 0u64..200_000,
    ) {
        let hands = Hands::new();
        let plain = bytes(len as usize);
        let object = hands.seal(&plain, closed.min(len));
        let trailer = Trailer::decode(NAME, &object, &hands.origin).unwrap();
        let (from, to) = (start.min(len), (start + bytes_wanted).min(len));
        let stored = trailer.stored(&(from..to));
        let chunks = &object[stored.start as usize..stored.end as usize];
        let part = trailer.open(NAME, hands.keys(), &(from..to), chunks).unwrap().unwrap();
        prop_assert_eq!(&part[..], &plain[from as usize..to as usize]);
    }

    #[test]
    fn lengths_are_told_without_reading(plain in 0u64..10_000_000_000) {
        prop_assert_eq!(plain_bytes(stored_bytes(plain)), Some(plain));
    }
}

#[test]
fn the_same_is_sealed_to_the_same_and_nothing_else_is() {
    let hands = Hands::new();
    let plain = bytes(1000);
    assert_eq!(hands.seal(&plain, 900), hands.seal(&plain, 900));
    let mut other = plain.clone();
    other[999] ^= 1;
    let salts = [
        hands.seal(&plain, 900),
        hands.seal(&plain, 899),
        hands.seal(&other, 900),
        hands.seal_as("main/pack/ab/abd", &plain, 900, 5),
    ]
    .map(|object| Trailer::decode_unsigned_salt(&object));
    for (i, salt) in salts.iter().enumerate() {
        assert!(!salts[..i].contains(salt), "{i}");
    }
    // With another data key it is the same content still.
    assert_eq!(Trailer::decode_unsigned_salt(&hands.seal_as(NAME, &plain, 900, 6)), salts[0]);
}

impl Trailer {
    fn decode_unsigned_salt(object: &[u8]) -> [u8; 32] {
        *object[object.len() - TRAILER_BYTES + 32..].first_chunk().unwrap()
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    let hands = Hands::new();
    let object = hands.seal(&bytes(300), 200);
    for bit in 0..object.len() * 8 {
        let mut bad = object.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        let error = hands.open(NAME, &bad).unwrap_err();
        assert_eq!(error.kind(), Kind::Corruption, "bit {bit}");
        assert!(error.message().contains(NAME), "{error}");
    }
}

#[test]
fn an_object_cut_at_any_length_is_refused() {
    let hands = Hands::new();
    let object = hands.seal(&bytes(300), 200);
    for len in 0..object.len() {
        for cut in [&object[..len], &object[object.len() - len..]] {
            let error = hands.open(NAME, cut).unwrap_err();
            assert_eq!(error.kind(), Kind::Corruption, "{len}");
            assert!(error.message().contains(NAME), "{error}");
        }
    }
}

#[test]
fn a_part_does_not_open_where_a_bit_is_flipped_or_chunks_are_exchanged() {
    let hands = Hands::new();
    let plain = bytes(4 * CHUNK_BYTES as usize);
    let object = hands.seal(&plain, 3 * CHUNK_BYTES);
    let trailer = Trailer::decode(NAME, &object, &hands.origin).unwrap();
    let stored = |number: u64| trailer.stored(&(number * CHUNK_BYTES..(number + 1) * CHUNK_BYTES));
    let chunk = |number: u64| &object[stored(number).start as usize..stored(number).end as usize];
    let open = |number: u64, chunk: &[u8]| {
        trailer.open(NAME, hands.keys(), &(number * CHUNK_BYTES..(number + 1) * CHUNK_BYTES), chunk)
    };
    for number in 0..4 {
        assert_eq!(
            open(number, chunk(number)).unwrap().unwrap(),
            plain[(number * CHUNK_BYTES) as usize..][..CHUNK_BYTES as usize]
        );
        for other in (0..4).filter(|other| *other != number) {
            assert_eq!(open(number, chunk(other)).unwrap_err().kind(), Kind::Corruption, "{other} for {number}");
        }
        let mut bad = chunk(number).to_vec();
        bad[1000] ^= 16;
        assert_eq!(open(number, &bad).unwrap_err().kind(), Kind::Corruption);
        assert_eq!(open(number, &bad[..900]).unwrap_err().kind(), Kind::Corruption);
    }
}

#[test]
fn what_is_put_under_another_name_or_cut_short_is_refused() {
    let hands = Hands::new();
    let object = hands.seal(&bytes(3 * CHUNK_BYTES as usize), 2 * CHUNK_BYTES);
    let moved = hands.open("main/pack/ab/other", &object).unwrap_err();
    assert!(moved.message().contains("main/pack/ab/other is not signed by this archive's archiver for this name"));
    for len in [0, 10, TRAILER_BYTES, object.len() / 2, object.len() - 1] {
        assert_eq!(hands.open(NAME, &object[..len]).unwrap_err().kind(), Kind::Corruption, "{len} bytes");
    }
    // Without its first chunk, and with the trailer it had.
    let beheaded = &object[(CHUNK_BYTES + TAG_BYTES) as usize..];
    assert!(hands.open(NAME, beheaded).unwrap_err().message().contains("does not hold the bytes that were signed"));
}

#[test]
fn another_archiver_is_not_believed_whatever_it_encrypts_with() {
    let hands = Hands::new();
    let forger = Hands::of(8);
    let forged = forger.seal(&bytes(100), 50);
    assert!(forger.open(NAME, &forged).unwrap().is_some());
    assert_eq!(hands.open(NAME, &forged).unwrap_err().kind(), Kind::Corruption);
    // Nor is what somebody encrypted anew who can read: the signature is for other bytes.
    let (ours, theirs) = (hands.seal(&bytes(100), 50), forger.seal(&[9; 100], 50));
    let body = theirs.len() - TRAILER_BYTES;
    let mixed = [&theirs[..body], &ours[body..]].concat();
    assert_eq!(hands.open(NAME, &mixed).unwrap_err().kind(), Kind::Corruption);
}

#[test]
fn who_lacks_the_data_key_reads_the_open_part_only() {
    let hands = Hands::new();
    let plain = bytes(200_000);
    let object = hands.seal(&plain, 150_000);
    let trailer = Trailer::decode(NAME, &object, &hands.origin).unwrap();
    let keys = Keys { data: None, metadata: &hands.metadata };
    let stored = trailer.stored(&(150_000..200_000));
    let open = trailer.open(NAME, keys, &(150_000..200_000), &object[stored.start as usize..stored.end as usize]);
    assert_eq!(open.unwrap().unwrap(), plain[150_000..]);
    assert_eq!(trailer.open(NAME, keys, &(0..200_000), &object).unwrap(), None);
    let wrong = Keys { data: Some(&[3; 32]), metadata: &hands.metadata };
    assert_eq!(trailer.open(NAME, wrong, &(0..200_000), &object).unwrap_err().kind(), Kind::Corruption);
}

#[test]
fn an_object_of_another_archive_by_the_same_archiver_is_refused() {
    let (one, mut other) = (Hands::new(), Hands::new());
    other.origin.archive = "other".into();
    assert_eq!(one.open(NAME, &other.seal(&bytes(100), 50)).unwrap_err().kind(), Kind::Corruption);
}

#[test]
fn a_footer_that_a_reader_made_is_refused_though_only_the_archiver_would_know() {
    let hands = Hands::new();
    let (plain, mut other) = (bytes(1000), bytes(1000));
    other[950] ^= 1;
    let object = hands.seal(&plain, 900);
    let trailer = Trailer::decode(NAME, &object, &hands.origin).unwrap();
    // With the metadata key and the trailer's salt anybody who reads could encrypt this.
    let key = trailer.key(NAME, Part::Open, hands.keys()).unwrap().unwrap();
    let mut chunk = other[900..].to_vec();
    let bound = trailer.bound(NAME);
    key.seal_in_place_append_tag(nonce(Part::Open, 0), Aad::from(bound.as_slice()), &mut chunk).unwrap();
    let footer = trailer.open(NAME, hands.keys(), &(900..1000), &chunk);
    assert!(footer.unwrap_err().message().contains("the footer that was signed"));
    let stored = trailer.stored(&(900..1000));
    let sound = &object[stored.start as usize..stored.end as usize];
    assert_eq!(trailer.open(NAME, hands.keys(), &(900..1000), sound).unwrap().unwrap(), plain[900..]);
}
