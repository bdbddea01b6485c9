//! Packets go out as frames and come back in pieces, wherever reads end. The model is the
//! list of packets itself.

use proptest::prelude::*;

use super::*;

/// Everything `unframer` makes of `bytes`, read in chunks of these lengths, over and over.
fn unframe(unframer: &mut Unframer, bytes: &[u8], chunks: &[usize]) -> Result<Vec<Vec<u8>>> {
    let mut packets = Vec::new();
    let mut open: Option<Vec<u8>> = None;
    let mut rest = bytes;
    for chunk in chunks.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (mut input, after) = rest.split_at((*chunk).min(rest.len()));
        rest = after;
        while let Some(piece) = unframer.next(&mut input)? {
            assert_eq!(piece.first, open.is_none());
            let packet = open.get_or_insert_default();
            packet.extend_from_slice(piece.bytes);
            if piece.last {
                packets.extend(open.take());
            }
        }
        assert!(input.is_empty(), "bytes were left behind");
    }
    assert!(open.is_none(), "a packet has no end");
    Ok(packets)
}

fn frames(first: u8, packets: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut sequence = first;
    for packet in packets {
        sequence = frame(&mut bytes, sequence, packet);
    }
    bytes
}

proptest! {
    #[test]
    fn packets_come_back_whatever_a_read_brings(
        packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..400),
        chunks in prop::collection::vec(1_usize..60, 1..20),
        first: u8,
    ) {
        let mut unframer = Unframer::new(first);
        let bytes = frames(first, &packets);
        prop_assert_eq!(unframe(&mut unframer, &bytes, &chunks).unwrap(), packets);
        prop_assert!(unframer.is_between_packets());
    }

    #[test]
    fn any_bytes_are_pieces_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200), first: u8) {
        let mut unframer = Unframer::new(first);
        let mut input = bytes.as_slice();
        while let Ok(Some(_)) = unframer.next(&mut input) {}
    }
}

#[test]
fn a_packet_of_16_mib_is_put_together_with_its_empty_last_frame() {
    for size in [FRAME_BYTES_MAX - 1, FRAME_BYTES_MAX, FRAME_BYTES_MAX + 1, 2 * FRAME_BYTES_MAX] {
        let packet: Vec<u8> = (0..size).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let bytes = frames(1, &[packet.clone(), b"next".to_vec()]);
        let count = size / FRAME_BYTES_MAX + 1;
        assert_eq!(bytes.len(), size + 4 + HEADER_BYTES * (count + 1), "{size}");
        for chunk in [1 << 20, FRAME_BYTES_MAX, FRAME_BYTES_MAX + HEADER_BYTES, usize::MAX] {
            let packets = unframe(&mut Unframer::new(1), &bytes, &[chunk]).unwrap();
            assert!(packets == [packet.clone(), b"next".to_vec()], "{size} bytes in reads of {chunk}");
        }
    }
}

#[test]
fn a_frame_out_of_sequence_is_refused_with_both_numbers() {
    let bytes = frames(3, &[b"a".to_vec()]);
    let error = Unframer::new(1).next(&mut bytes.as_slice()).unwrap_err();
    assert_eq!(error.kind(), Kind::DatabaseUnreachable);
    assert_eq!(error.message(), "the server's packet has sequence number 3, and 1 was expected");
}

#[test]
fn numbering_may_begin_again_between_packets() {
    let mut unframer = Unframer::new(1);
    assert_eq!(unframe(&mut unframer, &frames(1, &[b"a".to_vec(), b"b".to_vec()]), &[64]).unwrap().len(), 2);
    assert_eq!(unframer.sequence(), 3);
    unframer.expect(1);
    assert_eq!(unframe(&mut unframer, &frames(1, &[b"c".to_vec()]), &[64]).unwrap(), [b"c"]);
}

#[test]
fn an_empty_packet_is_one_empty_piece() {
    let mut input = &[0, 0, 0, 7][..];
    let piece = Unframer::new(7).next(&mut input).unwrap().unwrap();
    assert_eq!(piece, Piece { bytes: &[], first: true, last: true });
}
