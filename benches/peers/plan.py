#!/usr/bin/env python3
"""A plan over an archive of a million segments: wall time and peak memory.

Nobody streams 16 TB for a benchmark. A small real archive is continued by made-up
segments (empty files under right names, and the rolled-up indexes that
`docs/format.md` specifies, written here by independent code); then the server's log is
moved to their end with `pg_resetwal` and archived for real from there, so that the cut
is found in real bytes. The plan goes from the base at the beginning to the end, over
every segment.

PITR_BENCH_SEGMENTS (1000000) is their number.
"""

import os
import struct
import sys

from common import BIN, Cluster, Pitr, Report, Scratch, env_number, must, rounds

FILE_BYTES = 16 << 20
# Segments of one wide index: MERGE narrow ones of NARROW each (src/catalog/index.rs).
WIDE = 64 * 256
TIMES, IDS = 2, 4


def crc32c_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


TABLE = crc32c_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return out


def zigzag(value):
    return varint(value << 1 if value >= 0 else (-value << 1) - 1)


def index(timeline, cluster, segments):
    """The bytes of an index of (start, end, epoch, earliest, latest, lowest id)."""
    head = struct.pack("<8sIIQQII", b"PITRIDX1", timeline, segments[-1][2], segments[0][0], segments[-1][1],
                       len(segments), 0)
    body = bytearray()
    before_epoch = before_latest = before_low = 0
    for start, end, epoch, earliest, latest, low in segments:
        body.append(TIMES | IDS)
        body += varint(end - start) + varint(0) + zigzag(epoch - before_epoch) + varint(1)
        body += zigzag(earliest - before_latest) + varint(latest - earliest)
        body += zigzag(low - before_low) + varint(0)
        before_epoch, before_latest, before_low = epoch, latest, low
    document = head + bytes([len(cluster)]) + cluster.encode() + bytes(body)
    return document + struct.pack("<I", crc32c(document))


def real_segments(log):
    """(start, end, epoch) of the segments that cover the log, by name."""
    found = {}
    for path in log.glob("*.lz4"):
        start, end, epoch = (int(part, 16) for part in path.stem.split("-"))
        if start not in found or end > found[start][1]:
            found[start] = (start, end, epoch)
    chain = [found[min(found)]]
    while chain[-1][1] in found:
        chain.append(found[chain[-1][1]])
    return chain


def make_up(log, chain, count, micros, xid):
    """Continues `chain` to `count` segments: empty files, and the indexes of all."""
    begin, epoch = chain[-1][1:]
    made_up = [(begin + i * FILE_BYTES, begin + (i + 1) * FILE_BYTES, epoch) for i in range(count - len(chain))]
    for start, end, epoch in made_up:
        os.close(os.open(log / f"{start:016X}-{end:016X}-{epoch:08X}.lz4", os.O_CREAT | os.O_WRONLY, 0o600))
    everything = [(*s, micros + i, micros + i, xid) for i, s in enumerate(chain + made_up)]
    (log / "index").mkdir(exist_ok=True)
    for old in (log / "index").iterdir():
        old.unlink()
    for first in range(0, len(everything), WIDE):
        part = everything[first : first + WIDE]
        name = f"{part[0][0]:016X}-{part[-1][1]:016X}-{part[-1][2]:08X}"
        (log / "index" / name).write_bytes(index(1, "main", part))


def main():
    scratch = Scratch()
    count = env_number("PITR_BENCH_SEGMENTS", 1_000_000)
    cluster = Cluster(scratch, "source").start()
    pitr = Pitr(scratch, cluster, "store")
    pitr.must("init")
    pitr.must("archive", "--slot", "before", "--exit-when-caught-up")
    cluster.sql("create table t (n int); select pg_switch_wal(); checkpoint")
    pitr.must("archive", "--slot", "before", "--exit-when-caught-up")
    seconds = float(cluster.sql("select extract(epoch from now())"))
    xid = int(cluster.sql("select txid_current()"))
    cluster.sql("select pg_drop_replication_slot('before')")
    cluster.stop()

    log = pitr.store / "main" / "log" / "00000001"
    chain = real_segments(log)
    # What the server wrote after its last whole file is left out, as if the archive
    # had been behind: the made-up log takes its place.
    whole = [s for s in chain if s[1] % FILE_BYTES == 0]
    chain = chain[: chain.index(whole[-1]) + 1]
    for path in list(log.glob("tail-*")) + [p for p in log.glob("*.lz4") if int(p.stem.split("-")[1], 16) > chain[-1][1]]:
        path.unlink()
    begin = chain[-1][1]
    # In a process of its own: what Python holds when it starts pitr would count as pitr's
    # peak memory, which Linux carries over into the program that is started.
    maker = os.fork()
    if maker == 0:
        make_up(log, chain, count, int(seconds * 1e6), xid)
        os._exit(0)
    if os.waitpid(maker, 0)[1] != 0:
        sys.exit("error: the made-up segments could not be written")
    end = begin + (count - len(chain)) * FILE_BYTES
    number = end // FILE_BYTES
    must([BIN / "pg_resetwal", "-D", cluster.data, "-l", f"00000001{number >> 8:08X}{number & 0xFF:08X}"],
         drop_rights=True)
    cluster.start()
    # An archiver reads the segment it goes on from: the first one after the made-up ones is
    # a pushed file.
    pushed = cluster.sql("insert into t values (1); select pg_walfile_name(pg_switch_wal())")
    pitr.must("wal-push", cluster.data / "pg_wal" / pushed.splitlines()[-1])
    pitr.must("archive", "--slot", "after", "--no-backup", "--exit-when-caught-up")
    target = cluster.sql("select clock_timestamp()")
    cluster.sql("insert into t values (2)")
    pitr.must("archive", "--slot", "after", "--no-backup", "--exit-when-caught-up")
    os.sync()

    costs = [pitr.measured("plan", "--target-time", target) for _ in rounds()]
    report = Report(f"A plan over {count} segments")
    report.add("wall", [c.wall_s for c in costs], [], "s", 1)
    report.add("peak memory", [c.peak_mib for c in costs], [], "MiB", 256)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
