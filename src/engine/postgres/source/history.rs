//! The `.history` file: where a timeline comes from.
//!
//! One line per ancestor, oldest first: `parent <tab> switch point <tab> reason`. Empty
//! lines and lines that begin with `#` mean nothing.
//! Source: `readTimeLineHistory` in `timeline.c`.

use crate::engine::postgres::wal::name::parse_lsn;
use crate::error::{Error, Result};
use crate::model::timeline::{Ancestor, History, TimelineId};

/// Reads a history file.
///
/// # Errors
/// [`crate::Kind::Corruption`] naming the line that is none, or is out of order.
pub(super) fn parse(timeline: TimelineId, native: String) -> Result<History> {
    let mut ancestors: Vec<Ancestor> = Vec::new();
    for (number, line) in native.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let broken =
            |why: &str| Error::corruption(format!("line {} of {timeline}.history {why}: {line:?}", number + 1));
        let mut words = line.split_whitespace();
        let parent = words.next().and_then(|w| w.parse().ok()).map(TimelineId);
        let switch = words.next().and_then(parse_lsn);
        let (Some(parent), Some(switch)) = (parent, switch) else {
            return Err(broken("is not `timeline, switch point, reason`"));
        };
        let in_order = ancestors.last().is_none_or(|a| a.timeline < parent && a.switch <= switch);
        if !in_order || parent >= timeline {
            return Err(broken("is out of order"));
        }
        ancestors.push(Ancestor { timeline: parent, switch });
    }
    Ok(History { timeline, ancestors, native })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::offset::Offset;

    #[test]
    fn reads_ancestors_oldest_first() {
        let text = "1\t0/3000158\tno recovery target specified\n\n# x\n2\t0/40000A0\tbefore 2026-11-20 01:02:03+00\n";
        let history = parse(TimelineId(3), text.to_owned()).unwrap();
        assert_eq!(history.native, text);
        assert_eq!(
            history.ancestors,
            [
                Ancestor { timeline: TimelineId(1), switch: Offset(0x300_0158) },
                Ancestor { timeline: TimelineId(2), switch: Offset(0x400_00A0) },
            ]
        );
    }

    #[test]
    fn refuses_lines_out_of_order() {
        for text in ["2\t0/2\tx\n1\t0/3\tx\n", "1\t0/5\tx\n2\t0/3\tx\n", "3\t0/5\tx\n", "1 x\n", "one\t0/5\n"] {
            let error = parse(TimelineId(3), text.to_owned()).unwrap_err();
            assert!(error.to_string().contains("00000003.history"), "{error}");
        }
    }
}
