//! Numbers from 1, kept as sorted intervals that neither overlap nor touch.

/// The numbers from `start` up to but without `end`, as the servers' binary form has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interval {
    pub(super) start: u64,
    pub(super) end: u64,
}

/// A set of numbers. Adding the number after the last one costs nothing; other changes
/// cost what is moved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Intervals(Vec<Interval>);

impl Intervals {
    /// In ascending order.
    pub(super) fn as_slice(&self) -> &[Interval] {
        &self.0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the numbers of `new`, which is not empty.
    pub(super) fn add(&mut self, new: Interval) {
        debug_assert!(new.start < new.end, "{new:?}");
        match self.0.last_mut() {
            // The next number of the log: the usual case.
            Some(last) if last.start <= new.start && new.start <= last.end => last.end = last.end.max(new.end),
            Some(last) if new.start <= last.end => self.merge(new),
            _ => self.0.push(new),
        }
    }

    /// Puts `new` in the place of all that it overlaps or touches.
    fn merge(&mut self, new: Interval) {
        let from = self.0.partition_point(|held| held.end < new.start);
        let to = self.0.partition_point(|held| held.start <= new.end);
        let joined = self
            .0
            .get(from..to)
            .unwrap_or_default()
            .iter()
            .fold(new, |all, held| Interval { start: all.start.min(held.start), end: all.end.max(held.end) });
        self.0.splice(from..to, [joined]);
    }

    /// Whether all numbers of `asked` are held.
    pub(super) fn covers(&self, asked: Interval) -> bool {
        let after = self.0.partition_point(|held| held.start <= asked.start);
        after.checked_sub(1).and_then(|index| self.0.get(index)).is_some_and(|held| asked.end <= held.end)
    }

    /// The numbers held here and not by `other`.
    pub(super) fn minus(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        let mut taken = other.0.iter().peekable();
        for &held in &self.0 {
            let mut start = held.start;
            while taken.next_if(|cut| cut.end <= start).is_some() {}
            // The last cut may reach into the next interval, so it stays.
            while let Some(cut) = taken.peek().filter(|cut| cut.start < held.end) {
                if start < cut.start {
                    left.push(Interval { start, end: cut.start });
                }
                start = cut.end;
                if cut.end >= held.end {
                    break;
                }
                taken.next();
            }
            if start < held.end {
                left.push(Interval { start, end: held.end });
            }
        }
        Self(left)
    }
}
