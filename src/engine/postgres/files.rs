//! PostgreSQL's WAL files and history files, by name and by content.
//!
//! ```text
//! 0000000200000016000000B3              a WAL file (see `wal::name`)
//! 00000002.history                      a timeline's history
//! 0000000200000016000000B3.partial      the cut-off last file of a timeline
//! 0000000200000016000000B3.00000028.backup   where a base backup began
//! ```
//!
//! A history file lists the ancestors, oldest first, one to a line:
//!
//! ```text
//! 1 <tab> 0/A000A8 <tab> no recovery target specified
//! ```
//!
//! Source: `src/include/access/xlog_internal.h` (`IsXLogFileName` and its siblings),
//! `src/backend/access/transam/timeline.c` (`readTimeLineHistory`).

use super::wal::name::{file_bytes, format_wal_file, parse_lsn, parse_wal_file};
use crate::engine::{LogFile, LogFiles};
use crate::error::{Error, Result};
use crate::model::cluster::Identity;
use crate::model::offset::Offset;
use crate::model::timeline::{Ancestor, History, TimelineId};

/// How a cluster's log lies in WAL files of its `wal_segment_size`.
#[derive(Clone, Debug)]
pub struct PostgresLogFiles {
    file_bytes: u64,
}

impl PostgresLogFiles {
    /// The files of the cluster with this identity.
    #[must_use]
    pub fn new(identity: &Identity) -> Self {
        Self { file_bytes: file_bytes(identity) }
    }
}

impl LogFiles for PostgresLogFiles {
    /// `xlp_sysid` of the long page header (`src/include/access/xlog_internal.h`).
    fn system(&self, bytes: &[u8]) -> Option<String> {
        let id = bytes.get(24..32).and_then(|id| id.try_into().ok()).map(u64::from_le_bytes)?;
        Some(id.to_string())
    }

    fn name(&self, timeline: TimelineId, offset: Offset) -> String {
        format_wal_file(timeline, offset, self.file_bytes)
    }

    fn parse(&self, name: &str) -> Option<LogFile> {
        if let Some(timeline) = name.strip_suffix(".history") {
            return timeline.parse().ok().filter(|t| *t != TimelineId(0)).map(LogFile::History);
        }
        let other = name.strip_suffix(".partial").or_else(|| {
            let (file, start) = name.strip_suffix(".backup")?.split_once('.')?;
            start.parse::<TimelineId>().is_ok().then_some(file)
        });
        if let Some(file) = other {
            return parse_wal_file(file, self.file_bytes).map(|_| LogFile::Other);
        }
        let (timeline, range) = parse_wal_file(name, self.file_bytes)?;
        Some(LogFile::Log { timeline, range })
    }

    fn history_name(&self, timeline: TimelineId) -> String {
        history_name(timeline)
    }

    fn parse_history(&self, timeline: TimelineId, native: &str) -> Result<History> {
        parse_history(timeline, native)
    }
}

/// Reads a history file.
///
/// # Errors
/// [`crate::Kind::Corruption`] naming the line that is none, or is out of order.
pub(super) fn parse_history(timeline: TimelineId, native: &str) -> Result<History> {
    let mut ancestors: Vec<Ancestor> = Vec::new();
    for (number, line) in native.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let refuse = |what: String| {
            let name = history_name(timeline);
            Err(Error::corruption(format!("line {} of history file {name}: {what}", number + 1))
                .hint("was the file changed by hand? fetch it again from the server's pg_wal"))
        };
        let mut fields = line.split_ascii_whitespace();
        let Some(ancestor) = fields.next().and_then(|f| f.parse().ok()).filter(|a| *a > 0) else {
            return refuse(format!("expected the number of a timeline, found {line:?}"));
        };
        let Some(switch) = fields.next().and_then(parse_lsn) else {
            return refuse(format!("expected a switch point such as 0/A000A8, found {line:?}"));
        };
        if let Some(before) = ancestors.last().filter(|before| before.timeline.0 >= ancestor) {
            return refuse(format!("timeline {ancestor} comes after {}", before.timeline.0));
        }
        if ancestor >= timeline.0 {
            return refuse(format!("timeline {ancestor} is no ancestor of {}", timeline.0));
        }
        ancestors.push(Ancestor { timeline: TimelineId(ancestor), switch });
    }
    if ancestors.is_empty() {
        return Err(Error::corruption(format!(
            "history file {} names no ancestor of timeline {}",
            history_name(timeline),
            timeline.0
        )));
    }
    give_up_what_was_left_early(&mut ancestors);
    Ok(History { timeline, ancestors, native: native.to_owned() })
}

fn history_name(timeline: TimelineId) -> String {
    format!("{timeline}.history")
}

/// A recovery along timeline 2 that stopped before 2 even began leaves timeline 1, but
/// the server writes 2 as the parent, with the earlier switch point:
///
/// ```text
/// 1  0/3000000
/// 2  0/2000000
/// ```
///
/// The first offset that no longer belongs to 1 is then 0/2000000 too
/// (`tliOfPointInHistory` in `timeline.c` asks the newest entry first).
fn give_up_what_was_left_early(ancestors: &mut [Ancestor]) {
    let mut earliest = Offset(u64::MAX);
    for ancestor in ancestors.iter_mut().rev() {
        earliest = earliest.min(ancestor.switch);
        ancestor.switch = earliest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::postgres::wal::name::format_lsn;
    use crate::error::Kind;
    use crate::model::offset::OffsetRange;

    fn files() -> PostgresLogFiles {
        PostgresLogFiles { file_bytes: 16 << 20 }
    }

    fn ancestors(text: &str) -> Vec<(u32, String)> {
        let history = files().parse_history(TimelineId(9), text).unwrap();
        assert_eq!(history.timeline, TimelineId(9));
        assert_eq!(history.native, text);
        history.ancestors.iter().map(|a| (a.timeline.0, format_lsn(a.switch))).collect()
    }

    fn refusal(text: &str) -> String {
        let error = files().parse_history(TimelineId(3), text).unwrap_err();
        assert_eq!(error.kind(), Kind::Corruption);
        error.message().to_owned()
    }

    #[test]
    fn names_the_file_that_holds_an_offset() {
        let name = files().name(TimelineId(0x1A), Offset(0x16_B374_D848));
        assert_eq!(name, "0000001A00000016000000B3");
        let range = OffsetRange::new(Offset(0x16_B300_0000), Offset(0x16_B400_0000));
        assert_eq!(files().parse(&name), Some(LogFile::Log { timeline: TimelineId(0x1A), range }));
    }

    #[test]
    fn knows_what_kind_of_file_a_name_means() {
        let cases = [
            ("0000001A.history", Some(LogFile::History(TimelineId(0x1A)))),
            ("0000000100000016000000B3.partial", Some(LogFile::Other)),
            ("0000000100000016000000B3.00000028.backup", Some(LogFile::Other)),
            ("0000000100000016000000B3.backup", None),
            ("00000000.history", None),
            ("1A.history", None),
            ("0000000100000016000000b3", None),
            ("../../etc/passwd", None),
            ("", None),
            ("é000000100000016000000B", None),
        ];
        for (name, expected) in cases {
            assert_eq!(files().parse(name), expected, "{name:?}");
        }
    }

    #[test]
    fn a_history_name_reads_back() {
        let name = files().history_name(TimelineId(0xAB));
        assert_eq!(name, "000000AB.history");
        assert_eq!(files().parse(&name), Some(LogFile::History(TimelineId(0xAB))));
    }

    #[test]
    fn reads_a_history_with_comments_and_blank_lines() {
        let text = "# made by hand\n1\t0/A000A8\tno recovery target specified\n\n  \n4\t16/B374D848\tbefore 2026-11-20 1\t0/1\n";
        assert_eq!(ancestors(text), [(1, "0/A000A8".to_owned()), (4, "16/B374D848".to_owned())]);
        assert_eq!(ancestors("1\t0/A000A8\t"), [(1, "0/A000A8".to_owned())]);
    }

    #[test]
    fn reads_the_history_of_a_real_server() {
        let text = include_str!("../../../proto-fixtures/postgres/15/wal/new_timeline/00000002.history");
        let history = files().parse_history(TimelineId(2), text).unwrap();
        let [parent] = history.ancestors[..] else { panic!("{history:?}") };
        assert_eq!(parent.timeline, TimelineId(1));
        assert_eq!(parent.switch.floor_to(1 << 20), Offset(0xB0_0000));
    }

    #[test]
    fn an_ancestor_ends_where_its_child_was_left_before_it_began() {
        let text = "1\t0/3000000\tx\n2\t0/2000000\tx\n3\t0/5000000\tx\n";
        let expected = [(1, "0/2000000"), (2, "0/2000000"), (3, "0/5000000")].map(|(t, l)| (t, l.to_owned()));
        assert_eq!(ancestors(text), expected);
    }

    #[test]
    fn refuses_text_that_is_no_history() {
        assert!(refusal("").contains("names no ancestor of timeline 3"));
        assert!(refusal("# nothing\n").contains("names no ancestor"));
        assert!(refusal("\nx\t0/1\t").contains("line 2 of history file 00000003.history: expected the number"));
        assert!(refusal("0\t0/1\tx").contains("expected the number"));
        assert!(refusal("1\t01\tx").contains("expected a switch point"));
        assert!(refusal("1").contains("expected a switch point"));
        assert!(refusal("2\t0/1\tx\n1\t0/2\tx").contains("timeline 1 comes after 2"));
        assert!(refusal("1\t0/1\tx\n1\t0/2\tx").contains("timeline 1 comes after 1"));
        assert!(refusal("3\t0/1\tx").contains("timeline 3 is no ancestor of 3"));
    }
}
