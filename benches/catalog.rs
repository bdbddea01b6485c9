//! How long a large archive takes to load and to plan, and how much memory: indexes of
//! COUNT segments in a local store, then a target in the middle.
//!
//! ```text
//! cargo bench --bench catalog -- COUNT
//! ```

#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use pitr::catalog::index::{self, Index, Indexed};
use pitr::catalog::layout::{Layout, ObjectName};
use pitr::catalog::{BaseInfo, Codec, Holder, SegmentInfo, load};
use pitr::model::changes::{Kinds, Touched};
use pitr::model::offset::{Offset, OffsetRange};
use pitr::model::position::Position;
use pitr::model::summary::Summary;
use pitr::model::target::{Point, Target};
use pitr::model::time::Timestamp;
use pitr::model::timeline::TimelineId;
use pitr::plan::Planner;
use pitr::segment::codec::Compression;
use pitr::segment::format::Header;
use pitr::segment::write::SegmentWriter;
use pitr::store::Store;
use pitr::store::local::LocalStore;

const T1: TimelineId = TimelineId(1);

fn segment(n: u64) -> SegmentInfo {
    let time = 1_790_000_000_000_000 + n as i64 * 9_000_000;
    SegmentInfo {
        range: OffsetRange::new(Offset(n << 24), Offset((n + 1) << 24)),
        boundary: Offset(((n + 1) << 24) - (n * 37) % 200),
        epoch: 1,
        transactions: 9000,
        times: Some((Timestamp(time), Timestamp(time + 8_900_000))),
        ids: Some((n * 9000, n * 9000 + 9000 + n % 50)),
        holder: Holder::Segment(Codec::Lz4),
    }
}

/// Ten tables in each, and now and then others.
fn touched(n: u64) -> Arc<Touched> {
    let tables = (0..10).map(|table| {
        let table = if table == 9 { n % 100 } else { table };
        (format!("shop.table_{table}").into(), Kinds::from_bits(7).unwrap())
    });
    Arc::new(Touched { tables: tables.collect(), more: false })
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let count = std::env::args().find_map(|arg| arg.parse::<u64>().ok()).unwrap_or(1_000_000);
    let root = tempfile::tempdir().unwrap();
    let store = LocalStore::open(root.path()).unwrap();
    let cluster: pitr::model::cluster::ClusterName = "main".parse().unwrap();
    let layout = Layout::new(cluster.clone());
    let put = async |object: &ObjectName, bytes: Vec<u8>| {
        store.create(&layout.name(object), vec![Bytes::from(bytes)]).await.unwrap();
    };
    let identity =
        br#"{"format_version":1,"engine":"postgres","system":"7","log_file_bytes":16777216,"server_version":15}"#;
    put(&ObjectName::Cluster, identity.to_vec()).await;

    let (mut at, mut bytes) = (1, 0);
    while at <= count {
        let left = count + 1 - at;
        let wide = |level: u8| (index::NARROW * index::MERGE.pow(level.into())) as u64;
        let level = (0..=index::LEVEL_MAX).rev().find(|level| wide(*level) <= left).unwrap_or_default();
        let end = at + wide(level).min(left);
        let range = OffsetRange::new(Offset(at << 24), Offset(end << 24));
        let index = Index {
            timeline: T1,
            range,
            epoch: 1,
            segments: (at..end).map(segment).collect(),
            restore_points: Vec::new(),
            touched: (at..end).map(touched).collect(),
        };
        let encoded = index.encode(&cluster).unwrap();
        bytes += encoded.len();
        put(&ObjectName::Index { timeline: T1, index: Indexed { level, range, epoch: 1 } }, encoded).await;
        at = end;
    }
    // The last segment exists: its footer tells what is confirmed.
    let last = segment(count);
    let header =
        Header { cluster: cluster.clone(), engine: "postgres".into(), timeline: T1, start: last.range.start, epoch: 1 };
    let mut writer = SegmentWriter::new(header, Compression::Lz4);
    writer.write(&vec![0; 1 << 24]);
    let mut summary = Summary::empty(last.range.start, last.range.end);
    summary.range = last.range;
    summary.position = Position("0/0".into());
    let finished = writer.finish(&summary).unwrap();
    put(&last.object(T1), finished.body.concat()).await;
    println!("{count} segments, indexes of {} bytes, {:.1} per segment", bytes, bytes as f64 / count as f64);

    let before = resident();
    for _ in 0..5 {
        let begun = Instant::now();
        let catalog = load::load(&store, &cluster, &|_, _, _| Err(pitr::Error::failure("no tail")), &BTreeMap::new())
            .await
            .unwrap();
        println!("load {:.3} s, peak {} MiB, {} MiB before", begun.elapsed().as_secs_f64(), peak() >> 10, before >> 10);
        plan(catalog, count);
    }
}

fn plan(mut catalog: pitr::catalog::Catalog, count: u64) {
    for n in 0..30 {
        let first = segment(1 + n * count / 40);
        catalog.bases.push(BaseInfo {
            id: format!("b{n}"),
            timeline: T1,
            start: first.range.start,
            end: first.boundary,
            began: first.times.unwrap().0,
            ended: first.times.unwrap().1,
            bytes: 0,
            stored_bytes: 0,
        });
    }
    let time = segment(count / 2).times.unwrap().0;
    let target = Target { point: Point::Time(time), inclusive: true, timeline: None };
    let begun = Instant::now();
    let planner = Planner::new(&catalog, &target, None, time).unwrap();
    let narrowed = planner.narrow().unwrap();
    println!("narrow {:.3} s: base {}", begun.elapsed().as_secs_f64(), narrowed.base.id);
}

fn status(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

fn resident() -> u64 {
    status("VmRSS")
}

fn peak() -> u64 {
    status("VmHWM")
}
