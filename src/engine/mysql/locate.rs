//! Targets in MySQL's and MariaDB's own terms: a GTID, and where a base ends.

use super::gtid::{Gtid, GtidSet};
use crate::catalog::SegmentInfo;
use crate::engine::Locator;
use crate::error::{Error, Result};
use crate::model::mark::{Mark, MarkKind};
use crate::model::position::Position;
use crate::model::target::{Point, Target};

/// Reads a target.
pub(super) fn locator(target: &Target) -> Result<Box<dyn Locator>> {
    let Point::Native { term, value } = &target.point else {
        return Err(Error::usage("this target is not in the engine's own terms"));
    };
    match *term {
        "gtid" => {
            let gtid: Gtid = value.parse()?;
            Ok(Box::new(TheTransaction { number: gtid.number(), text: gtid.to_string() }))
        }
        "base" => {
            let position = Position(value.clone());
            Ok(Box::new(FirstBehind { gtids: super::read_place(&position)?.gtids }))
        }
        other => Err(Error::usage(format!("--target-{other} is not a term of MySQL or MariaDB"))
            .hint("use --target-time, --target-gtid, --target-position or --target latest")),
    }
}

/// The transaction with this GTID.
struct TheTransaction {
    number: u64,
    text: String,
}

impl Locator for TheTransaction {
    fn may_hold(&self, segment: &SegmentInfo) -> bool {
        segment.ids.is_some_and(|(least, most)| least <= self.number && self.number <= most)
    }

    fn is(&self, mark: &Mark) -> bool {
        matches!(&mark.kind, MarkKind::Transaction { id, .. } if id.to_string() == self.text)
    }
}

/// The first transaction that is none of a set.
struct FirstBehind {
    gtids: GtidSet,
}

impl Locator for FirstBehind {
    fn may_hold(&self, segment: &SegmentInfo) -> bool {
        segment.transactions > 0
    }

    fn is(&self, mark: &Mark) -> bool {
        let MarkKind::Transaction { id, .. } = &mark.kind else { return false };
        id.to_string().parse::<Gtid>().is_ok_and(|gtid| !self.gtids.contains(&gtid))
    }
}
