//! Streams made by hand, with each flaw once, and one made by `mbstream -c`.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;

use super::head::{IGNORABLE, MAGIC};
use super::*;

fn head(flags: u8, kind: u8, path: &str) -> Vec<u8> {
    [&MAGIC[..], &[flags, kind], &(path.len() as u32).to_le_bytes(), path.as_bytes()].concat()
}

fn end(path: &str) -> Vec<u8> {
    head(0, b'E', path)
}

fn chunk(flags: u8, kind: u8, path: &str, offset: u64, content: &[u8]) -> Vec<u8> {
    let numbers = [&(content.len() as u64).to_le_bytes()[..], &offset.to_le_bytes()].concat();
    let crc = crc32fast::hash(content).to_le_bytes();
    [&head(flags, kind, path)[..], &numbers, &crc, content].concat()
}

fn payload(path: &str, offset: u64, content: &[u8]) -> Vec<u8> {
    chunk(0, b'P', path, offset, content)
}

/// A sparse chunk of `content` cut as `entries` say: bytes to skip, bytes of content.
fn sparse(path: &str, offset: u64, entries: &[(u32, u32)], content: &[u8]) -> Vec<u8> {
    let map: Vec<u8> = entries.iter().flat_map(|(skip, length)| [*skip, *length]).flat_map(u32::to_le_bytes).collect();
    let crc = crc32fast::hash(&[&map, content].concat()).to_le_bytes();
    let numbers = [&(content.len() as u64).to_le_bytes()[..], &offset.to_le_bytes(), &crc].concat();
    [&head(0, b'S', path)[..], &(entries.len() as u32).to_le_bytes(), &numbers, &map, content].concat()
}

/// Reads `stream` in pieces of `step` bytes; joins the data of each file that lies together.
fn read(stream: &[u8], step: usize) -> Result<Vec<Item>> {
    let mut items: Vec<Item> = Vec::new();
    let mut reader = StreamReader::new();
    for piece in stream.chunks(step) {
        reader.feed(Bytes::copy_from_slice(piece), |item| {
            if let (Some(Item::Data { path, offset, bytes }), Item::Data { path: of, offset: at, bytes: more }) =
                (items.last_mut(), &item)
                && path == of
            {
                assert_eq!(*offset + bytes.len() as u64, *at);
                *bytes = [&bytes[..], more].concat().into();
            } else {
                items.push(item);
            }
            Ok(())
        })?;
    }
    reader.finish()?;
    Ok(items)
}

/// The files that a stream holds, holes as zeros.
fn unpack(stream: &[u8], step: usize) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for item in read(stream, step)? {
        match item {
            Item::Data { path, offset, bytes } => {
                let file = files.entry(path.to_string()).or_default();
                assert_eq!(file.len() as u64, offset);
                file.extend_from_slice(&bytes);
            }
            Item::Hole { path, offset, length } => {
                let file = files.entry(path.to_string()).or_default();
                assert_eq!(file.len() as u64, offset);
                file.resize((offset + length) as usize, 0);
            }
            Item::End { path, length } => {
                assert_eq!(files.entry(path.to_string()).or_default().len() as u64, length);
            }
        }
    }
    Ok(files)
}

fn data(path: &str, offset: u64, bytes: &'static [u8]) -> Item {
    Item::Data { path: path.into(), offset, bytes: Bytes::from_static(bytes) }
}

fn hole(path: &str, offset: u64, length: u64) -> Item {
    Item::Hole { path: path.into(), offset, length }
}

fn ended(path: &str, length: u64) -> Item {
    Item::End { path: path.into(), length }
}

fn sample() -> (Vec<u8>, Vec<Item>) {
    let stream = [
        payload("./ibdata1", 0, b"first"),
        payload("b/t.ibd", 0, b"another"),
        payload("ibdata1", 5, b"second"),
        chunk(IGNORABLE, b'?', "/what/ever", 9, b"passed over"),
        sparse("b/t.ibd", 7, &[(3, 2), (4096, 1), (9, 0)], b"xyz"),
        payload("b/t.ibd", 4118, b""),
        end("./b/t.ibd"),
        end("empty"),
        payload("ibdata1", 11, b"!"),
        end("ibdata1"),
    ];
    let items = vec![
        data("ibdata1", 0, b"first"),
        data("b/t.ibd", 0, b"another"),
        data("ibdata1", 5, b"second"),
        hole("b/t.ibd", 7, 3),
        data("b/t.ibd", 10, b"xy"),
        hole("b/t.ibd", 12, 4096),
        data("b/t.ibd", 4108, b"z"),
        hole("b/t.ibd", 4109, 9),
        ended("b/t.ibd", 4118),
        ended("empty", 0),
        data("ibdata1", 11, b"!"),
        ended("ibdata1", 12),
    ];
    (stream.concat(), items)
}

fn refused(stream: &[Vec<u8>], kind: crate::Kind, why: &str) {
    let error = read(&stream.concat(), 4096).unwrap_err();
    assert!(error.to_string().contains(why), "{error} does not say {why:?}");
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.advice().is_some(), "{error}");
}

#[test]
fn reads_a_stream_in_pieces_of_any_size() {
    let (stream, items) = sample();
    for step in [1, 2, 7, 14, 15, 64, 100_000] {
        assert_eq!(read(&stream, step).unwrap(), items, "{step}");
    }
}

#[test]
fn hands_on_content_before_its_chunk_is_whole() {
    let stream = payload("big", 0, &[7; 100_000]);
    let mut reader = StreamReader::new();
    let mut seen = 0;
    for piece in stream.chunks(1000).take(50) {
        reader
            .feed(Bytes::copy_from_slice(piece), |item| {
                assert!(matches!(item, Item::Data { offset, .. } if offset == seen));
                seen += 1000;
                Ok(())
            })
            .unwrap();
        if seen == 1000 {
            seen = 1000 - (stream.len() as u64 - 100_000);
        }
    }
    assert!(seen > 49_000, "{seen}");
}

/// `mbstream -c` of MariaDB 10.11 wrote it; the files beside it are what it was given.
#[test]
fn reads_what_mbstream_writes() {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto-fixtures/mariadb/10.11/mbstream/four_files");
    let stream = std::fs::read(case.join("stream.xbs")).unwrap();
    let files = unpack(&stream, 1000).unwrap();
    assert_eq!(files.len(), 4);
    for (path, content) in files {
        assert_eq!(content, std::fs::read(case.join("files").join(&path)).unwrap(), "{path}");
    }
}

#[test]
fn refuses_a_stream_that_is_cut_off() {
    let (stream, _) = sample();
    for cut in 0..stream.len() {
        for step in [1, 4096] {
            assert!(read(&stream[..cut], step).is_err(), "{cut}");
        }
    }
    let failure = crate::Kind::Failure;
    refused(&[], failure, "the backup stream holds no file");
    refused(&[end("a"), MAGIC.to_vec()], failure, "ends after 23 bytes inside a chunk");
    let whole = payload("b/t", 0, b"12345678");
    refused(&[whole[..44].to_vec()], failure, "ends after 44 bytes inside a chunk of b/t");
    refused(&[whole, payload("a", 0, b"1")], failure, "ends before a does, and 1 more");
}

#[test]
fn refuses_content_that_fails_its_checksum() {
    let mut broken = payload("b/t.ibd", 7, b"content");
    *broken.last_mut().unwrap() ^= 1;
    let stream = [payload("b/t.ibd", 0, b"before "), broken];
    refused(
        &stream,
        crate::Kind::Corruption,
        "bytes 7 to 14 of b/t.ibd have checksum 89C2003F, not FEC530A9, in the backup stream's chunk at 48",
    );
    let mut broken = sparse("s", 0, &[(1, 1), (1, 1)], b"ab");
    let skip = broken.len() - 2 - 16;
    broken[skip] = 2;
    refused(&[broken], crate::Kind::Corruption, "bytes 0 to 5 of s");
}

#[test]
fn refuses_chunks_that_are_none() {
    let failure = crate::Kind::Failure;
    refused(
        &[end("a"), b"XBSTCK02".to_vec(), vec![0; 6]],
        failure,
        "has magic \"XBSTCK02\", type '\\0', flags 0x0 and a path of 0 bytes in the chunk at 15",
    );
    refused(
        &[chunk(0, b'Q', "a", 0, b"")],
        failure,
        "has magic \"XBSTCK01\", type 'Q', flags 0x0 and a path of 1 bytes in the chunk at 0",
    );
    refused(&[end(&"p".repeat(512))], failure, "a path of 512 bytes");
    refused(&[b"Warning: a message that should be on standard error".to_vec()], failure, "magic \"Warning:\"");
}

#[test]
fn refuses_paths_that_lead_elsewhere() {
    for path in ["", "/etc/passwd", "../a", "a/../b", "a/..", "./", ".", "..", "a//b", "a/", ".//a", "a/./b", "a\0b"] {
        refused(&[end(path)], crate::Kind::Failure, "not one below the data directory, in the chunk at 0");
    }
    let mut latin1 = end("t?");
    *latin1.last_mut().unwrap() = 0xe9;
    refused(&[latin1], crate::Kind::Failure, r#"a file "t\\xe9""#);
    assert_eq!(read(&end("././b/..t.ibd"), 4096).unwrap(), [ended("b/..t.ibd", 0)]);
}

#[test]
fn refuses_files_that_do_not_go_on_where_they_were() {
    let failure = crate::Kind::Failure;
    let first = payload("a", 0, b"12345");
    refused(&[payload("a", 5, b"1")], failure, "goes on with byte 5 of a, not with byte 0, in the chunk at 0");
    refused(&[first.clone(), first.clone()], failure, "goes on with byte 0 of a, not with byte 5, in the chunk at 40");
    refused(&[first.clone(), payload("a", 6, b"1")], failure, "byte 6 of a, not with byte 5");
    refused(&[first.clone(), sparse("a", 4, &[(1, 0)], b"")], failure, "byte 4 of a, not with byte 5");
    refused(
        &[first.clone(), end("a"), payload("./a", 5, b"1")],
        failure,
        "goes on with a after its end, in the chunk at 55",
    );
    refused(&[first, end("a"), end("a")], failure, "goes on with a after its end,");
}

#[test]
fn refuses_lengths_that_cannot_be() {
    let failure = crate::Kind::Failure;
    let mut long = payload("a", 0, b"");
    long[15..23].copy_from_slice(&u64::MAX.to_le_bytes());
    refused(&[long], failure, "18446744073709551615 bytes and 0 holes for a from 0");
    let mut holes = sparse("a", 0, &[(1, 1)], b"1");
    holes[15..19].copy_from_slice(&u32::MAX.to_le_bytes());
    refused(&[holes], failure, "1 bytes and 4294967295 holes for a from 0");
    for entries in [&[(1, 2)][..], &[(1, 4)], &[(1, 2), (1, 2)], &[(1, 2), (1, 0)]] {
        refused(
            &[sparse("a", 0, entries, b"123")],
            failure,
            "has holes in a that do not fit its content in the chunk at 0",
        );
    }
}

/// Content is guarded by its checksum and places by the files' lengths; flags and names are not.
#[test]
fn a_changed_byte_never_gives_other_content() {
    let (stream, items) = sample();
    let contents = |items: &[Item]| -> Vec<(u64, Bytes)> {
        let data = items.iter().filter_map(|item| match item {
            Item::Data { offset, bytes, .. } => Some((*offset, bytes.clone())),
            Item::Hole { .. } | Item::End { .. } => None,
        });
        data.collect()
    };
    for at in 0..stream.len() {
        for flip in 1..=u8::MAX {
            let mut changed = stream.clone();
            changed[at] ^= flip;
            if let Ok(read) = read(&changed, changed.len()) {
                assert_eq!(contents(&read), contents(&items), "byte {at} changed by {flip:#x}");
            }
        }
    }
}

proptest! {
    #[test]
    fn any_files_come_out_as_they_went_in(
        chunks in proptest::collection::vec((0usize..4, proptest::collection::vec(any::<u8>(), 0..300), 0u32..9), 0..20),
        step in 1usize..600,
    ) {
        let mut files = vec![Vec::new(); 4];
        let mut stream = Vec::new();
        for (index, content, skip) in chunks {
            let (path, offset) = (format!("d/{index}"), files[index].len() as u64);
            if skip > 0 {
                let half = content.len() as u32 / 2;
                stream.extend(sparse(&path, offset, &[(skip, half), (skip, content.len() as u32 - half)], &content));
                files[index].extend(vec![0; skip as usize]);
                files[index].extend_from_slice(&content[..half as usize]);
                files[index].extend(vec![0; skip as usize]);
                files[index].extend_from_slice(&content[half as usize..]);
            } else {
                stream.extend(payload(&path, offset, &content));
                files[index].extend_from_slice(&content);
            }
        }
        for index in 0..4 {
            stream.extend(end(&format!("d/{index}")));
        }
        let read: Vec<_> = unpack(&stream, step).unwrap().into_values().collect();
        prop_assert_eq!(read, files);
    }

    #[test]
    fn never_panics_on_any_bytes(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        kind in prop_oneof![Just(b'P'), Just(b'S'), Just(b'E'), any::<u8>()],
        step in 1usize..400,
    ) {
        let _ = read(&bytes, step);
        let _ = read(&[&head(bytes.len() as u8 & 1, kind, "a")[..], &bytes].concat(), step);
    }
}
