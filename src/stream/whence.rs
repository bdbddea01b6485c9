//! Where streaming goes on: pure, because a wrong answer here is a silent gap.
//!
//! A server's history is a path of timelines. Streaming resumes on the newest timeline of
//! that path that the archive holds log of: at the archive's end, or, when the archive
//! holds all of it up to where the path leaves it, at the start of the next timeline. A
//! new timeline is read from the start of the log file in which it begins, since that
//! file carries its number from the first byte. A timeline of which nothing but a recorded
//! gap is known counts as held where the gap lies.

use crate::catalog::{Catalog, TimelineLog};
use crate::error::{Error, Result};
use crate::model::cluster::ServerState;
use crate::model::offset::Offset;
use crate::model::timeline::{History, TimelineId};

/// Where to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whence {
    /// The archive holds no log: begin where the server can.
    Empty,
    /// Right behind the last byte the archive holds of this timeline.
    EndOf(TimelineId),
    /// At this offset, the start of a log file, of a timeline the archive holds nothing of.
    Start(TimelineId, Offset),
}

/// Decides where to go on with a server whose present timeline has `history`.
///
/// # Errors
/// [`crate::Kind::Config`] when the server's history and the archive's part ways in a
/// manner that only a person can judge.
pub fn whence(catalog: &Catalog, server: &ServerState, history: Option<&History>) -> Result<Whence> {
    if catalog.timelines.values().all(|log| log.segments.is_empty()) {
        return Ok(Whence::Empty);
    }
    let Some(newest) = catalog.newest_timeline() else { return Ok(Whence::Empty) };
    if newest > server.timeline {
        return Err(Error::config(format!(
            "the server is on timeline {}, but the archive has followed its cluster to timeline {}",
            server.timeline.0, newest.0
        ))
        .hint("is this the old primary, come back after a failover? point --source at the present primary"));
    }
    let mut path: Vec<(TimelineId, Option<Offset>)> = vec![(server.timeline, None)];
    if let Some(history) = history {
        path.extend(history.ancestors.iter().rev().map(|ancestor| (ancestor.timeline, Some(ancestor.switch))));
    }
    let mut child: Option<TimelineId> = None;
    for (timeline, left_at) in path {
        let log = catalog.timelines.get(&timeline);
        match (log.and_then(|log| Some((log, held(log)?))), left_at, child) {
            (None, ..) => {}
            (Some((_, (_, end))), Some(switch), Some(child)) if end >= switch => {
                let start = switch.floor_to(catalog.identity.log_file_bytes);
                let log = catalog.timelines.get(&child);
                return Ok(Whence::Start(child, log.map_or(start, |log| log.past_gaps(start))));
            }
            (Some((log, (count, end))), ..) => {
                let last = count.checked_sub(1).and_then(|last| log.segments.get(last));
                let at_end = last.is_some_and(|last| last.range.end == end);
                return Ok(if at_end { Whence::EndOf(timeline) } else { Whence::Start(timeline, end) });
            }
        }
        child = Some(timeline);
    }
    Err(Error::config(format!(
        "the server's timeline {} does not descend from any timeline in the archive (newest: {})",
        server.timeline.0, newest.0
    ))
    .hint("is this another copy of the database? archive it under a cluster name of its own"))
}

/// How many segments lie before the end of what the archive holds of a timeline or has
/// recorded as lost, and that end.
fn held(log: &TimelineLog) -> Option<(usize, Offset)> {
    log.unbroken().or_else(|| log.gaps.first().map(|gap| (0, log.past_gaps(gap.range.start))))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::catalog::index::Indexed;
    use crate::catalog::{Codec, Gap, Holder, SegmentInfo};
    use crate::model::cluster::Identity;
    use crate::model::offset::OffsetRange;
    use crate::model::timeline::Ancestor;

    fn identity() -> Identity {
        Identity::some(100)
    }

    fn catalog(logs: &[(u32, u64, u64)]) -> Catalog {
        let mut timelines: BTreeMap<TimelineId, TimelineLog> = BTreeMap::new();
        for &(timeline, start, end) in logs {
            timelines.entry(TimelineId(timeline)).or_default().segments.push(SegmentInfo {
                range: OffsetRange::new(Offset(start), Offset(end)),
                boundary: Offset(end),
                epoch: 1,
                transactions: 0,
                times: None,
                ids: None,
                holder: Holder::Segment(Codec::Lz4),
            });
        }
        Catalog { identity: identity(), timelines, bases: Vec::new(), damaged_bases: Vec::new() }
    }

    fn server(timeline: u32) -> ServerState {
        ServerState {
            identity: identity(),
            version: "15".into(),
            timeline: TimelineId(timeline),
            log_end: Offset(1000),
            standby: false,
        }
    }

    fn history(timeline: u32, ancestors: &[(u32, u64)]) -> History {
        let ancestors =
            ancestors.iter().map(|&(t, s)| Ancestor { timeline: TimelineId(t), switch: Offset(s) }).collect();
        History { timeline: TimelineId(timeline), ancestors, native: String::new() }
    }

    #[test]
    fn an_empty_archive_begins_where_the_server_can() {
        assert_eq!(whence(&catalog(&[]), &server(1), None).unwrap(), Whence::Empty);
    }

    #[test]
    fn goes_on_behind_its_own_end() {
        let answer = whence(&catalog(&[(1, 100, 250)]), &server(1), None).unwrap();
        assert_eq!(answer, Whence::EndOf(TimelineId(1)));
    }

    #[test]
    fn reads_the_rest_of_the_old_timeline_before_the_new_one() {
        let answer = whence(&catalog(&[(1, 100, 250)]), &server(2), Some(&history(2, &[(1, 370)]))).unwrap();
        assert_eq!(answer, Whence::EndOf(TimelineId(1)));
    }

    #[test]
    fn a_new_timeline_begins_at_the_start_of_its_log_file() {
        for end in [370, 390] {
            let answer = whence(&catalog(&[(1, 100, end)]), &server(2), Some(&history(2, &[(1, 370)]))).unwrap();
            assert_eq!(answer, Whence::Start(TimelineId(2), Offset(300)));
        }
    }

    #[test]
    fn follows_the_path_through_a_timeline_it_has_not_seen() {
        let answer = whence(&catalog(&[(1, 100, 400)]), &server(5), Some(&history(5, &[(1, 370), (3, 520)]))).unwrap();
        assert_eq!(answer, Whence::Start(TimelineId(3), Offset(300)));
    }

    #[test]
    fn an_orphan_branch_is_left_aside() {
        let catalog = catalog(&[(1, 100, 400), (2, 300, 450)]);
        let answer = whence(&catalog, &server(3), Some(&history(3, &[(1, 380)]))).unwrap();
        assert_eq!(answer, Whence::Start(TimelineId(3), Offset(300)));
    }

    #[test]
    fn a_recorded_gap_is_not_asked_for_again() {
        let mut catalog = catalog(&[(1, 100, 250)]);
        let range = OffsetRange::new(Offset(250), Offset(700));
        let gap = Gap {
            range,
            cause: "recycled".into(),
            found: crate::model::time::Timestamp(0),
            confirmed: None,
            position: None,
        };
        catalog.timelines.get_mut(&TimelineId(1)).unwrap().gaps.push(gap);
        let answer = whence(&catalog, &server(1), None).unwrap();
        assert_eq!(answer, Whence::Start(TimelineId(1), Offset(700)));
        let answer = whence(&catalog, &server(2), Some(&history(2, &[(1, 650)]))).unwrap();
        assert_eq!(answer, Whence::Start(TimelineId(2), Offset(600)));
    }

    #[test]
    fn several_gaps_in_a_row_are_one() {
        let mut catalog = catalog(&[(1, 100, 250)]);
        for (start, end) in [(250, 700), (700, 900)] {
            let range = OffsetRange::new(Offset(start), Offset(end));
            let gap = Gap {
                range,
                cause: "recycled".into(),
                found: crate::model::time::Timestamp(0),
                confirmed: None,
                position: None,
            };
            catalog.timelines.get_mut(&TimelineId(1)).unwrap().gaps.push(gap);
        }
        assert_eq!(whence(&catalog, &server(1), None).unwrap(), Whence::Start(TimelineId(1), Offset(900)));
    }

    #[test]
    fn a_timeline_of_which_all_is_lost_is_not_asked_for_again() {
        let mut catalog = catalog(&[(1, 100, 400)]);
        let history = history(3, &[(1, 370), (2, 520)]);
        assert_eq!(whence(&catalog, &server(3), Some(&history)).unwrap(), Whence::Start(TimelineId(2), Offset(300)));
        let mut record = |end| {
            let range = OffsetRange::new(Offset(300), Offset(end));
            let gap = Gap {
                range,
                cause: "recycled".into(),
                found: crate::model::time::Timestamp(0),
                confirmed: None,
                position: None,
            };
            catalog.timelines.entry(TimelineId(2)).or_default().gaps = vec![gap];
            whence(&catalog, &server(3), Some(&history)).unwrap()
        };
        assert_eq!(record(500), Whence::Start(TimelineId(2), Offset(500)));
        assert_eq!(record(520), Whence::Start(TimelineId(3), Offset(500)));
        // As older archivers recorded it: up to where the server's slot began.
        assert_eq!(record(900), Whence::Start(TimelineId(3), Offset(500)));
    }

    #[test]
    fn log_behind_a_hole_that_nobody_recorded_does_not_count() {
        let holed = catalog(&[(1, 100, 200), (1, 300, 400)]);
        assert_eq!(whence(&holed, &server(1), None).unwrap(), Whence::EndOf(TimelineId(1)));
        assert_eq!(holed.timelines[&TimelineId(1)].unbroken(), Some((1, Offset(200))));
        let answer = whence(&holed, &server(2), Some(&history(2, &[(1, 370)]))).unwrap();
        assert_eq!(answer, Whence::EndOf(TimelineId(1)));
    }

    #[test]
    fn a_hole_before_the_last_index_is_no_business_of_streaming() {
        let mut holed = catalog(&[(1, 100, 200), (1, 300, 400), (1, 400, 500)]);
        holed.timelines.get_mut(&TimelineId(1)).unwrap().indexes =
            vec![Indexed { level: 0, range: OffsetRange::new(Offset(100), Offset(400)), epoch: 1 }];
        assert_eq!(holed.timelines[&TimelineId(1)].unbroken(), Some((3, Offset(500))));
    }

    fn set_aside(catalog: &mut Catalog, timeline: u32, nth: usize) {
        let timeline = TimelineId(timeline);
        let log = catalog.timelines.get_mut(&timeline).unwrap();
        let segment = log.segments[nth];
        let layout = crate::catalog::layout::Layout::new("main".parse().unwrap());
        let error = Error::corruption("rubbish");
        let damaged = crate::catalog::damage::Damaged::new(&layout, segment.object(timeline), error).unwrap();
        log.set_aside(&segment, damaged);
    }

    #[test]
    fn a_damaged_segment_deep_in_the_past_is_no_hole() {
        let mut catalog = catalog(&[(1, 100, 200), (1, 200, 300), (1, 300, 400)]);
        set_aside(&mut catalog, 1, 1);
        assert_eq!(whence(&catalog, &server(1), None).unwrap(), Whence::EndOf(TimelineId(1)));
        assert_eq!(catalog.timelines[&TimelineId(1)].unbroken(), Some((2, Offset(400))));
        assert!(catalog.lacks_base());
    }

    #[test]
    fn a_damaged_last_segment_is_streamed_again() {
        let mut holed = catalog(&[(1, 100, 200), (1, 200, 300), (1, 300, 400)]);
        set_aside(&mut holed, 1, 2);
        assert_eq!(holed.timelines[&TimelineId(1)].unbroken(), Some((2, Offset(300))));
        assert_eq!(whence(&holed, &server(1), None).unwrap(), Whence::EndOf(TimelineId(1)));
        let mut orphan = catalog(&[(1, 100, 400), (2, 300, 450)]);
        orphan.timelines.get_mut(&TimelineId(2)).unwrap().history = Some(history(2, &[(1, 370)]));
        set_aside(&mut orphan, 2, 0);
        let answer = whence(&orphan, &server(2), Some(&history(2, &[(1, 370)]))).unwrap();
        assert_eq!(answer, Whence::Start(TimelineId(2), Offset(300)));
        // The archive has followed to timeline 2, whatever has become of its log.
        assert_eq!(whence(&orphan, &server(1), None).unwrap_err().kind().exit_code(), 5);
    }

    #[test]
    fn an_old_primary_that_comes_back_is_refused() {
        let mut catalog = catalog(&[(1, 100, 400), (2, 300, 450)]);
        // Somebody's log, of which nobody knows how it came here, is no failover.
        assert_eq!(whence(&catalog, &server(1), None).unwrap(), Whence::EndOf(TimelineId(1)));
        catalog.timelines.get_mut(&TimelineId(2)).unwrap().history = Some(history(2, &[(1, 350)]));
        let error = whence(&catalog, &server(1), None).unwrap_err();
        assert_eq!(error.kind().exit_code(), 5);
        assert!(error.message().contains("timeline 1") && error.message().contains("timeline 2"), "{error}");
    }

    #[test]
    fn a_stranger_is_refused() {
        let error = whence(&catalog(&[(1, 100, 400)]), &server(3), Some(&history(3, &[(2, 200)]))).unwrap_err();
        assert_eq!(error.kind().exit_code(), 5);
    }
}
