//! `--target-lsn` and `--target-xid`, as predicates on segments and marks.
//!
//! Both mean what PostgreSQL's `recovery_target_lsn` and `recovery_target_xid` mean
//! (`recoveryStopsBefore` and `recoveryStopsAfter` in
//! `src/backend/access/transam/xlogrecovery.c`): the point is the *first* record for
//! which [`Locator::is`] holds, in log order. Replay stops after it, or before it
//! where the target is exclusive; which of the two is the planner's business.
//!
//! - **lsn**: the first record of any kind that *begins* at or past the LSN. So the
//!   end of one record, as `pg_current_wal_lsn()` gives it, takes in the next record.
//! - **xid**: the record that ends the transaction of this number, by commit or
//!   rollback, prepared or not.

use super::wal::name::parse_lsn;
use crate::catalog::SegmentInfo;
use crate::engine::{Detail, Locator};
use crate::error::{Error, Result};
use crate::model::mark::{Mark, MarkKind, TransactionId};
use crate::model::offset::Offset;
use crate::model::target::{Point, Target};

/// Below this, an xid is none of a user's transaction (`FirstNormalTransactionId`).
const XID_MIN: u64 = 3;

/// Reads the terms `lsn` and `xid` of [`Point::Native`].
///
/// # Errors
/// [`crate::Kind::Usage`] for a value that is not one, for any other term, and for
/// a point that is not in an engine's terms.
pub fn locator(target: &Target) -> Result<Box<dyn Locator>> {
    match &target.point {
        Point::Native { term: "lsn", value } => Ok(Box::new(AtLsn(parse_lsn_position(value)?))),
        Point::Native { term: "xid", value } => Ok(Box::new(EndOf(parse_xid(value)?))),
        Point::Native { term, value } => {
            Err(Error::usage(format!("target {term} {value:?} is not one of PostgreSQL's"))
                .hint("use --target-time, --target-lsn, --target-xid or --target-name"))
        }
        Point::Latest | Point::Time(_) | Point::Name(_) => {
            Err(Error::usage(format!("target {:?} is not in PostgreSQL's own terms", target.point)))
        }
    }
}

/// Reads an LSN as an operator types it.
///
/// # Errors
/// [`crate::Kind::Usage`] for text that is none.
pub fn parse_lsn_position(text: &str) -> Result<Offset> {
    parse_lsn(text.trim()).ok_or_else(|| {
        Error::usage(format!("{text:?} is not an LSN"))
            .hint("an LSN looks like 16/B374D848; `select pg_current_wal_lsn()` gives the present one")
    })
}

fn parse_xid(text: &str) -> Result<u64> {
    let refuse = || Error::usage(format!("{text:?} is not a transaction's xid"));
    let xid: u64 = text.trim().parse().map_err(|_| refuse().hint("an xid is a number such as 48213"))?;
    match u32::try_from(xid) {
        Ok(_) if xid >= XID_MIN => Ok(xid),
        Ok(_) => Err(refuse().hint("the xids 0, 1 and 2 belong to no transaction; the first is 3")),
        // pg_current_xact_id() and txid_current() count epochs above the xid's 32 bits.
        Err(_) => Err(refuse().hint(format!("an xid has 32 bits: without its epoch this one is {}", xid as u32))),
    }
}

/// The first record that begins at or past an LSN.
struct AtLsn(Offset);

impl Locator for AtLsn {
    /// A segment's marks end in it; one that begins at or past the LSN ends past it.
    fn may_hold(&self, segment: &SegmentInfo) -> bool {
        segment.range.end > self.0
    }

    fn is(&self, mark: &Mark) -> bool {
        mark.start >= self.0
    }

    fn detail(&self) -> Detail {
        Detail::Records
    }
}

/// The end of a transaction.
struct EndOf(u64);

impl Locator for EndOf {
    fn may_hold(&self, segment: &SegmentInfo) -> bool {
        segment.ids.is_some_and(|(low, high)| (low..=high).contains(&self.0))
    }

    fn is(&self, mark: &Mark) -> bool {
        matches!(mark.kind, MarkKind::Transaction { id: TransactionId::Number(id), .. } if id == self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Codec, Holder};
    use crate::error::Kind;
    use crate::model::offset::OffsetRange;
    use crate::model::time::Timestamp;

    fn native(term: &'static str, value: &str) -> Target {
        Target { point: Point::Native { term, value: value.to_owned() }, inclusive: true, timeline: None }
    }

    fn segment(start: u64, end: u64, ids: Option<(u64, u64)>) -> SegmentInfo {
        SegmentInfo {
            range: OffsetRange::new(Offset(start), Offset(end)),
            boundary: Offset(end),
            epoch: 1,
            transactions: 1,
            times: None,
            ids,
            holder: Holder::Segment(Codec::Lz4),
        }
    }

    fn mark(start: u64, kind: MarkKind) -> Mark {
        Mark { start: Offset(start), end: Offset(start + 64), kind }
    }

    fn refusal(target: &Target) -> Error {
        let error = locator(target).err().unwrap();
        assert_eq!(error.kind(), Kind::Usage);
        error
    }

    #[test]
    fn an_lsn_is_the_first_record_that_begins_there_or_later() {
        let lsn = locator(&native("lsn", " 0/2000040 ")).unwrap();
        assert_eq!(lsn.detail(), Detail::Records);
        assert!(!lsn.is(&mark(0x200_0000, MarkKind::Record)), "it only ends there");
        assert!(lsn.is(&mark(0x200_0040, MarkKind::Record)));
        assert!(lsn.is(&mark(0x200_0080, MarkKind::Record)));
        assert!(!lsn.may_hold(&segment(0x100_0000, 0x200_0040, None)));
        assert!(lsn.may_hold(&segment(0x100_0000, 0x200_0048, None)));
        assert!(lsn.may_hold(&segment(0x300_0000, 0x400_0000, None)));
    }

    #[test]
    fn an_xid_is_the_end_of_that_transaction_and_no_other() {
        let xid = locator(&native("xid", "4711")).unwrap();
        assert_eq!(xid.detail(), Detail::Marks);
        let end = |id, committed| {
            mark(0, MarkKind::Transaction { id: TransactionId::Number(id), time: Timestamp(0), committed })
        };
        assert!(xid.is(&end(4711, true)));
        assert!(xid.is(&end(4711, false)), "a rollback ends it too");
        assert!(!xid.is(&end(4712, true)));
        assert!(!xid.is(&mark(0, MarkKind::Record)));
        assert!(xid.may_hold(&segment(0, 1, Some((4711, 4711)))));
        assert!(!xid.may_hold(&segment(0, 1, Some((4712, 5000)))));
        assert!(!xid.may_hold(&segment(0, 1, None)));
    }

    #[test]
    fn refuses_values_that_are_none_and_says_what_would_do() {
        assert!(refusal(&native("lsn", "2000040")).advice().unwrap().contains("16/B374D848"));
        assert!(refusal(&native("xid", "a")).advice().unwrap().contains("48213"));
        assert!(refusal(&native("xid", "-4")).advice().unwrap().contains("48213"));
        assert!(refusal(&native("xid", "2")).advice().unwrap().contains("the first is 3"));
        // Epoch 1, xid 4711.
        assert!(refusal(&native("xid", "4294972007")).advice().unwrap().contains("this one is 4711"));
        assert!(refusal(&native("gtid", "0-1-2")).advice().unwrap().contains("--target-lsn"));
        assert!(refusal(&Target { point: Point::Latest, ..native("lsn", "") }).message().contains("Latest"));
    }
}
