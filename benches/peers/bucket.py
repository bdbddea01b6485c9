#!/usr/bin/env python3
"""An archive in a bucket on this machine: age of the newest durable commit under 5,000 transactions per second, also
with 30 ms more for each answer; catch-up against the same into a directory.

PITR_BENCH_SECONDS (20), PITR_BENCH_TPS (5000) and PITR_BENCH_WAL_GB (1) set the amounts, PITR_BENCH_SERVICE the service (bucket_server.py). Neither
syncs its files, where the directory is synced; and s3s-fs cannot give the end of an object that is shorter than what is asked for, so that no
restore is measured.
"""

import re
import signal
import subprocess
import sys
import time

from bucket_server import KEYS, Bucket, Relay
from commit_age import INSERT, SAMPLES
from common import BIN, ROUNDS, Cluster, Pitr, Report, Scratch, client_env, env_number, lsn, rounds, until

LATENCY_S = 0.03


def in_bucket(scratch, cluster, name, url):
    pitr = Pitr(scratch, cluster, name)
    pitr.env.update(KEYS, PITR_STORE=url)
    return pitr


def commit_age(scratch, cluster, pitr, relay, seconds, tps):
    """The age's 99th percentile in ms, the commits per second, the requests per second, the peak memory in MiB."""
    archiver = pitr.start("archive", "--slot", "age", "--no-backup")
    until("the archive to follow",
          lambda: cluster.sql("select count(*) from pg_stat_replication where state = 'streaming'") == "1")
    load = subprocess.Popen(
        [str(BIN / "pgbench"), "-n", "-f", str(scratch.path / "insert.sql"), "-c", "4", "-j", "1", "-M", "prepared",
         "-R", str(tps), "-T", str(seconds + 8), cluster.url()],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=client_env(),
    )
    until("the load to begin", lambda: int(cluster.sql("select count(*) from commits limit 1")) > 0)
    time.sleep(3)
    before, began = relay.requests, time.monotonic()
    age = float(cluster.sql(SAMPLES.format(seconds=seconds, quantile=0.99)))
    asked = (relay.requests - before) / (time.monotonic() - began)
    said, _ = load.communicate()
    status = open(f"/proc/{archiver.pid}/status").read()
    memory = int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) / 1024
    archiver.send_signal(signal.SIGINT)
    if archiver.wait(60) != 0:
        sys.exit(f"error: pitr archive ended with {archiver.returncode}; see {pitr.log}")
    cluster.sql("truncate commits")
    return age, float(re.search(r"tps = ([0-9.]+)", said).group(1)), asked, memory


def main():
    scratch = Scratch()
    bucket = Bucket(scratch)
    seconds, tps = env_number("PITR_BENCH_SECONDS", 20), env_number("PITR_BENCH_TPS", 5000)
    cluster = Cluster(scratch, "source", synchronous_commit="off", wal_writer_delay="10ms").start()
    cluster.sql("create table commits (id bigserial, at timestamptz default clock_timestamp())")
    (scratch.path / "insert.sql").write_text(INSERT)
    relays = {latency: Relay(bucket.port, latency) for latency in (0, LATENCY_S)}
    stores = {latency: in_bucket(scratch, cluster, f"age_{latency}", bucket.url(f"age_{latency}", relay.port))
              for latency, relay in relays.items()}
    for pitr in stores.values():
        pitr.must("init")
    found = {latency: [] for latency in relays}
    for _ in rounds():
        for latency, relay in relays.items():
            found[latency].append(commit_age(scratch, cluster, stores[latency], relay, seconds, tps))

    # Each contestant of each round streams the same range.
    cluster.sql("select pg_drop_replication_slot(slot_name) from pg_replication_slots")
    cluster.make_tables(30)
    for number in range(ROUNDS):
        for who in ("bucket", "directory"):
            cluster.sql(f"select pg_create_physical_replication_slot('{who}_{number}', true)")
    begin = cluster.sql("select min(restart_lsn) from pg_replication_slots")
    cluster.write_wal(int(env_number("PITR_BENCH_WAL_GB", 1.0) * 1e9))
    cluster.sql("select pg_switch_wal(); checkpoint")
    end = cluster.current_lsn()
    gigabytes = (lsn(end) - lsn(begin)) / 1e9
    times = {who: [] for who in ("bucket", "directory")}
    memory = []

    def run(who, number):
        name = f"{who}_{number}"
        pitr = Pitr(scratch, cluster, name) if who == "directory" else in_bucket(scratch, cluster, name, bucket.url(name))
        pitr.must("init")
        cost = pitr.measured("archive", "--slot", name, "--no-backup", "--until", end)
        times[who].append(cost.wall_s)
        if who == "bucket":
            memory.append(cost.peak_mib)

    for number, bucket_first in rounds():
        for who in ("bucket", "directory") if bucket_first else ("directory", "bucket"):
            run(who, number)
    bucket.stop()

    report = Report(f"An archive in a bucket of {bucket.name}: {tps} commits per second; {gigabytes:.2f} GB of WAL")
    for latency, bar in ((0, 1500), (LATENCY_S, 2000)):
        ages, rates, asked, peaks = zip(*found[latency])
        report.add(f"age, 99th percentile, {latency * 1000:.0f} ms more", list(ages), [], "ms", bar)
        report.add(f"peak memory, {latency * 1000:.0f} ms more", list(peaks), [], "MiB", 128)
        report.notes.append(f"{latency * 1000:.0f} ms more: commits per second {', '.join(f'{r:.0f}' for r in rates)}; "
                            f"requests per day at that load {', '.join(f'{a * 86400:.0f}' for a in asked)}")
    report.add("catch up", times["bucket"], times["directory"], "s", 1.5, peer_name="directory")
    report.notes.append(f"peak memory of catching up into the bucket: {max(memory):.0f} MiB")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
