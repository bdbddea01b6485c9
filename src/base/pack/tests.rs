//! What is packed is read back; what is not exactly as packed is refused.

use super::super::chunk::digest;
use super::*;

fn chunk(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i / 700) as u8 ^ seed).collect()
}

/// Three entries: compressible, a delta of it, and one that does not compress.
fn small_pack() -> (ChunkHash, Vec<u8>, Vec<Vec<u8>>) {
    let mut writer = PackWriter::new(Vec::new());
    let old = chunk(3 * BLOCK_BYTES + 100, 1);
    let mut new = old.clone();
    new[BLOCK_BYTES + 7] ^= 1;
    let noise: Vec<u8> = old
        .iter()
        .enumerate()
        .flat_map(|(i, _)| blake3::hash(&i.to_le_bytes()).as_bytes()[..1].to_vec())
        .take(200)
        .collect();
    let (mut old_blocks, mut blocks) = (Vec::new(), Vec::new());
    let old_hash = digest(&old, &mut old_blocks);
    writer.add_whole(&old, &old_hash, &old_blocks);
    let hash = digest(&new, &mut blocks);
    let changed = Blocks::changed(&old_blocks, &blocks);
    assert_eq!(changed, Blocks(0b10));
    let mut gathered = Vec::new();
    changed.gather(&new, &mut gathered);
    writer.add_delta(new.len(), &hash, &old_hash, changed, &gathered);
    let hash = digest(&noise, &mut blocks);
    writer.add_whole(&noise, &hash, &blocks);
    let (name, bytes) = writer.finish(Vec::new());
    assert!(writer.is_empty());
    (name, bytes, vec![old, new, noise])
}

fn unpack_all(bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut out: Vec<Vec<u8>> = Vec::new();
    walk("p", bytes, |extent, entry| {
        assert_eq!(entry.len, extent.len as usize);
        let mut raw = Vec::new();
        entry.unpack("p", &mut raw)?;
        if let EntryKind::Delta { changed, anchor } = entry.kind {
            let mut chunk = out[0].clone();
            assert_eq!(ChunkHash::of(&chunk), anchor);
            changed.apply(&mut chunk, entry.raw_len, &raw)?;
            raw = chunk;
        }
        if ChunkHash::of(&raw) != entry.hash {
            return Err(Error::corruption("chunk"));
        }
        out.push(raw);
        Ok(())
    })?;
    Ok(out)
}

#[test]
fn gives_back_what_was_packed() {
    let (name, bytes, chunks) = small_pack();
    assert_eq!(name, ChunkHash::of(&bytes));
    assert_eq!(unpack_all(&bytes).unwrap(), chunks);
}

#[test]
fn an_incompressible_chunk_is_kept_raw() {
    let (_, bytes, chunks) = small_pack();
    let mut last = 0;
    walk("p", &bytes, |extent, _| {
        last = extent.len as usize;
        Ok(())
    })
    .unwrap();
    assert_eq!(last, WHOLE_HEAD_BYTES + chunks[2].len());
}

#[test]
fn the_footer_alone_gives_the_block_names() {
    let (_, bytes, chunks) = small_pack();
    let trailer = Trailer::parse("p", &bytes[bytes.len() - TRAILER_BYTES..]).unwrap();
    let footer = Footer::parse("p", &bytes[bytes.len() - TRAILER_BYTES - trailer.footer_len..]).unwrap();
    let mut blocks = Vec::new();
    digest(&chunks[0], &mut blocks);
    let hash = ChunkHash::of(&chunks[0]);
    assert_eq!(footer.anchor(HEAD_BYTES as u32), Some(Anchor { hash, blocks }));
    assert_eq!(footer.anchor(HEAD_BYTES as u32 + 1), None);
    assert!(Footer::parse("p", &bytes[bytes.len() - TRAILER_BYTES - trailer.footer_len + 1..]).is_err());
}

#[test]
fn refuses_a_pack_with_any_byte_flipped() {
    let (_, bytes, _) = small_pack();
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 0x40;
        assert!(unpack_all(&bad).is_err(), "byte {at} of {}", bytes.len());
    }
}

#[test]
fn refuses_a_pack_cut_at_any_length_or_with_bytes_behind() {
    let (_, bytes, _) = small_pack();
    for len in 0..bytes.len() {
        assert!(unpack_all(&bytes[..len]).is_err(), "{len} of {} bytes", bytes.len());
    }
    assert!(unpack_all(&[&bytes[..], &[0]].concat()).is_err());
}

/// Even with a right checksum an entry must not ask for more memory than a chunk.
#[test]
fn refuses_an_entry_whose_lengths_lie() {
    let (_, bytes, _) = small_pack();
    let entry = Entry::parse("p", &bytes[HEAD_BYTES..]).unwrap();
    for (field, value) in [
        (4, u32::MAX),
        (4, 0),
        (4, CHUNK_BYTES as u32 + 1),
        (8, u32::MAX),
        (0, 1 << 8),
        (0, 2 << 8 | 1),
        (0, 1 << 16 | 1 << 8 | 1),
    ] {
        let mut bad = bytes[HEAD_BYTES..HEAD_BYTES + entry.len].to_vec();
        bad[field..field + 4].copy_from_slice(&u32::to_le_bytes(value));
        let (head, payload) = bad.split_at_mut(WHOLE_HEAD_BYTES);
        let sum = crc(&[&head[..WHOLE_HEAD_BYTES - 4], payload]);
        head[WHOLE_HEAD_BYTES - 4..].copy_from_slice(&sum.to_le_bytes());
        assert!(Entry::parse("p", &bad).is_err(), "{field} {value}");
    }
}
