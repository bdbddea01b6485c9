//! What each member has of what was created, what waits for it, and who is passed over. Values only: no store is touched
//! here, and the time is an argument.
//!
//! A create is an *item* until every current member has it and its callers have left. An item waits, in each member, for all
//! those before it whose caller had *left* when it came: what somebody may build on is visible first. Creates that were under
//! way together may come to be in any order, as in any store.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::error::{Error, Kind, Result};
use crate::store::Created;

/// Bytes that may wait for a member before it is passed over.
pub(super) const WAITING_BYTES_MAX: u64 = 64 << 20;
/// How long a member may refuse what others have.
pub(super) const FAILING_MAX: Duration = Duration::from_secs(10);
/// How long a member may be silent over one create: a large object takes its time.
pub(super) const SILENT_MAX: Duration = Duration::from_secs(120);

/// An error that more than one is told.
#[derive(Clone, Debug)]
pub(super) struct Said {
    kind: Kind,
    text: String,
    hint: Option<String>,
}

impl Said {
    pub(super) fn error(&self) -> Error {
        let error = Error::new(self.kind, self.text.clone());
        match &self.hint {
            Some(hint) => error.hint(hint.clone()),
            None => error,
        }
    }
}

impl From<&Error> for Said {
    fn from(error: &Error) -> Self {
        Self { kind: error.kind(), text: error.to_string(), hint: error.advice().map(str::to_owned) }
    }
}

/// How a member stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It lacks something, and gets nothing but what a back-fill brings.
    Behind,
    /// A back-fill brings the last it lacks; what is created meanwhile waits for it.
    Joining,
    /// It has everything, or it waits for it.
    Current,
}

/// One create in one member.
enum At {
    /// It is none of this member's.
    Not,
    Waits(Waits),
    Has(Created),
    /// It never will be.
    Refused(Said),
}

#[derive(Default)]
struct Waits {
    begun: Option<Instant>,
    /// Since when it fails, and how.
    failing: Option<(Instant, Said)>,
    /// It failed since a caller asked last.
    given_up: bool,
}

struct Item {
    name: String,
    body: Vec<Bytes>,
    bytes: u64,
    callers: u32,
    /// A caller has left, with an answer or without one: what comes now may build on it.
    left: bool,
    after: Vec<u64>,
    at: Vec<At>,
}

impl Item {
    fn waits_at(&self, member: usize) -> Option<&Waits> {
        match self.at.get(member) {
            Some(At::Waits(waits)) => Some(waits),
            _ => None,
        }
    }

    fn count(&self, counts: impl Fn(&At) -> bool) -> usize {
        self.at.iter().filter(|at| counts(at)).count()
    }
}

/// What a member's worker is to do with an item.
pub(super) enum Turn {
    /// It is no longer to be made there.
    Gone,
    /// Not yet.
    Wait,
    Go(String, Vec<Bytes>),
}

/// A create that is under way.
pub(super) struct Enqueued {
    pub(super) number: u64,
    /// The members it goes to; none, if it was under way already.
    pub(super) members: Vec<usize>,
}

pub(super) struct Table {
    /// How many members have to have what is to count as created.
    need: usize,
    /// How many bytes may wait for one.
    limit: u64,
    standings: Vec<Standing>,
    /// Whether as many as are needed have been up to date at some time.
    were_enough: bool,
    next: u64,
    items: BTreeMap<u64, Item>,
}

impl Table {
    pub(super) fn new(members: usize, need: usize, limit: u64) -> Self {
        Self {
            need,
            limit,
            standings: vec![Standing::Behind; members],
            were_enough: false,
            next: 0,
            items: BTreeMap::new(),
        }
    }

    pub(super) fn standing(&self, member: usize) -> Standing {
        self.standings.get(member).copied().unwrap_or(Standing::Behind)
    }

    pub(super) fn count_current(&self) -> usize {
        self.standings.iter().filter(|standing| **standing == Standing::Current).count()
    }

    pub(super) const fn were_enough(&self) -> bool {
        self.were_enough
    }

    /// Whether a member lacks something that somebody may build on.
    pub(super) fn is_lagging(&self, member: usize) -> bool {
        self.items.values().any(|item| item.left && item.waits_at(member).is_some())
    }

    /// Whether an item waits for a member.
    pub(super) fn waits(&self, member: usize, number: u64) -> bool {
        self.items.get(&number).is_some_and(|item| item.waits_at(member).is_some())
    }

    /// Whether an object is still to be made in some member.
    pub(super) fn is_being_created(&self, name: &str) -> bool {
        self.items.values().any(|item| item.name == name && item.count(|at| matches!(at, At::Waits(_))) > 0)
    }

    /// Whether anything waits for a member.
    pub(super) fn is_waited_for(&self, member: usize) -> bool {
        self.items.values().any(|item| item.waits_at(member).is_some())
    }

    /// The number of the next create, if all callers of those before `number` have left.
    pub(super) fn have_all_left(&self, number: u64) -> bool {
        self.items.range(..number).all(|(_, item)| item.left)
    }

    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn set(&mut self, member: usize, standing: Standing) {
        if let Some(own) = self.standings.get_mut(member) {
            *own = standing;
        }
        self.were_enough |= self.count_current() >= self.need;
        if standing == Standing::Behind {
            for item in self.items.values_mut() {
                if let Some(at) = item.at.get_mut(member).filter(|at| matches!(at, At::Waits(_))) {
                    *at = At::Not;
                }
            }
            self.forget();
        }
    }

    /// Takes in a create. One of the same object that is under way is joined, and tried again at once.
    ///
    /// # Errors
    /// [`Kind::Fenced`] when other bytes are under way under that name; [`Kind::StoreUnreachable`] when too few members are
    /// up to date, or too much waits already for one that cannot be passed over.
    pub(super) fn enqueue(&mut self, name: &str, body: Vec<Bytes>) -> Result<Enqueued> {
        if let Some((number, item)) =
            self.items.iter_mut().find(|(_, item)| item.name == name && item.count(|at| matches!(at, At::Waits(_))) > 0)
        {
            if !same(&item.body, &body) {
                return Err(Error::new(Kind::Fenced, format!("object {name} is being created with other bytes")));
            }
            item.callers += 1;
            for at in &mut item.at {
                if let At::Waits(waits) = at {
                    waits.given_up = false;
                }
            }
            return Ok(Enqueued { number: *number, members: Vec::new() });
        }
        let current = self.count_current();
        if current < self.need {
            return Err(Error::new(
                Kind::StoreUnreachable,
                format!(
                    "{current} of {} stores are up to date, and ack_stores asks for {}",
                    self.standings.len(),
                    self.need
                ),
            )
            .hint("the others are brought up as soon as they answer; the log says what is wrong with them"));
        }
        let members: Vec<usize> =
            (0..self.standings.len()).filter(|&member| self.standing(member) != Standing::Behind).collect();
        if let Some(full) = members.iter().copied().find(|&member| self.is_full(member)) {
            let said = self.items.values().find_map(|item| item.waits_at(full)?.failing.as_ref().map(|(_, said)| said));
            return Err(said.map_or_else(
                || Error::new(Kind::StoreUnreachable, "too much waits for a store that is slow"),
                Said::error,
            ));
        }
        let number = self.next;
        self.next += 1;
        let at = (0..self.standings.len())
            .map(|member| if members.contains(&member) { At::Waits(Waits::default()) } else { At::Not });
        let item = Item {
            name: name.to_owned(),
            bytes: body.iter().map(|piece| piece.len() as u64).sum(),
            body,
            callers: 1,
            left: false,
            after: self.items.iter().filter(|(_, item)| item.left).map(|(number, _)| *number).collect(),
            at: at.collect(),
        };
        self.items.insert(number, item);
        Ok(Enqueued { number, members })
    }

    fn is_full(&self, member: usize) -> bool {
        let waiting = self.items.values().filter(|item| item.waits_at(member).is_some());
        waiting.map(|item| item.bytes).sum::<u64>() > self.limit
    }

    /// Whether a create may begin in a member.
    pub(super) fn turn(&mut self, member: usize, number: u64, now: Instant) -> Turn {
        let is_joining = self.standing(member) == Standing::Joining;
        let Some(item) = self.items.get(&number).filter(|item| item.waits_at(member).is_some()) else {
            return Turn::Gone;
        };
        let waits = |before: &u64| self.items.get(before).is_some_and(|item| item.waits_at(member).is_some());
        if is_joining || item.after.iter().any(waits) {
            return Turn::Wait;
        }
        let go = Turn::Go(item.name.clone(), item.body.clone());
        self.at(member, number, |at| {
            if let At::Waits(waits) = at {
                waits.begun = Some(now);
            }
        });
        go
    }

    fn at(&mut self, member: usize, number: u64, change: impl FnOnce(&mut At)) {
        if let Some(at) = self.items.get_mut(&number).and_then(|item| item.at.get_mut(member)) {
            change(at);
        }
    }

    pub(super) fn done(&mut self, member: usize, number: u64, created: Created) {
        self.at(member, number, |at| {
            if matches!(at, At::Waits(_)) {
                *at = At::Has(created);
            }
        });
        // What came behind it has not failed by itself.
        self.behind(member, number, |waits| *waits = Waits::default());
        self.forget();
    }

    /// What waits in a member for this item to be there first.
    fn behind(&mut self, member: usize, number: u64, change: impl Fn(&mut Waits)) {
        for item in self.items.values_mut().filter(|item| item.after.contains(&number)) {
            if let Some(At::Waits(waits)) = item.at.get_mut(member) {
                change(waits);
            }
        }
    }

    pub(super) fn failed(&mut self, member: usize, number: u64, said: Said, now: Instant) {
        let fail = |waits: &mut Waits| {
            let since = waits.failing.take().map_or(now, |(since, _)| since);
            *waits = Waits { begun: None, failing: Some((since, said.clone())), given_up: true };
        };
        self.at(member, number, |at| {
            if let At::Waits(waits) = at {
                fail(waits);
            }
        });
        // Nobody may be there any more who asked for this one. Who waits behind it is told as well.
        self.behind(member, number, fail);
    }

    /// The member will never have it. If nobody waits for the answer any more, the member does not belong to the others as it
    /// is: then `false`.
    pub(super) fn refused(&mut self, member: usize, number: u64, said: Said) -> bool {
        let is_told = self.items.get(&number).is_some_and(|item| item.callers > 0);
        self.at(member, number, |at| *at = At::Refused(said));
        self.forget();
        is_told
    }

    /// Whether a caller asked for it again since it failed.
    pub(super) fn is_asked_again(&self, member: usize, number: u64) -> bool {
        self.items.get(&number).and_then(|item| item.waits_at(member)).is_none_or(|waits| !waits.given_up)
    }

    /// What a create has come to, once that is known.
    pub(super) fn outcome(&self, number: u64) -> Option<Result<Created>> {
        let item = self.items.get(&number)?;
        if let Some(said) = item.at.iter().find_map(|at| if let At::Refused(said) = at { Some(said) } else { None }) {
            return Some(Err(said.error()));
        }
        let has = item.count(|at| matches!(at, At::Has(_)));
        if has >= self.need {
            let is_new = item.count(|at| matches!(at, At::Has(Created::Same))) == 0 && !item.left;
            return Some(Ok(if is_new { Created::New } else { Created::Same }));
        }
        if has + item.count(|at| matches!(at, At::Waits(waits) if !waits.given_up)) >= self.need {
            return None;
        }
        let said = item.at.iter().find_map(|at| match at {
            At::Waits(Waits { failing: Some((_, said)), .. }) => Some(said.error()),
            _ => None,
        });
        Some(Err(said.unwrap_or_else(|| Error::new(Kind::StoreUnreachable, "a store fell behind before it had this"))))
    }

    /// A caller has gone, whatever it knows.
    pub(super) fn leave(&mut self, number: u64) {
        if let Some(item) = self.items.get_mut(&number) {
            item.callers = item.callers.saturating_sub(1);
            item.left = true;
        }
        self.forget();
    }

    fn forget(&mut self) {
        self.items.retain(|_, item| item.callers > 0 || item.count(|at| matches!(at, At::Waits(_))) > 0);
    }

    /// A member that is to be passed over, and why: it is in trouble, and enough others have what waits for it.
    pub(super) fn to_pass_over(&self, now: Instant) -> Option<(usize, String)> {
        (0..self.standings.len())
            .filter(|&member| self.standing(member) != Standing::Behind && self.can_do_without(member))
            .find_map(|member| Some((member, self.trouble(member, now)?)))
    }

    fn trouble(&self, member: usize, now: Instant) -> Option<String> {
        let mut waiting = self.items.values().filter_map(|item| item.waits_at(member));
        let is_over = |since: Instant, limit| now.saturating_duration_since(since) >= limit;
        let said = waiting.find_map(|waits| match (&waits.failing, waits.begun) {
            (Some((since, said)), _) if is_over(*since, FAILING_MAX) => Some(said.text.clone()),
            (_, Some(begun)) if is_over(begun, SILENT_MAX) => {
                Some(format!("it has not answered for {} seconds", SILENT_MAX.as_secs()))
            }
            _ => None,
        });
        said.or_else(|| self.is_full(member).then(|| "it takes less than comes".to_owned()))
    }

    /// Whether enough others have, or are about to have, all that waits for a member.
    fn can_do_without(&self, member: usize) -> bool {
        let others: Vec<usize> = (0..self.standings.len())
            .filter(|&other| other != member && self.standing(other) == Standing::Current)
            .collect();
        let others_with = |item: &Item, counts: &dyn Fn(&At) -> bool| {
            others.iter().filter_map(|other| item.at.get(*other)).filter(|at| counts(at)).count()
        };
        let has = |at: &At| matches!(at, At::Has(_));
        let will = |at: &At| matches!(at, At::Has(_)) || matches!(at, At::Waits(waits) if !waits.given_up);
        others.len() >= self.need
            && self
                .items
                .values()
                .filter(|item| item.waits_at(member).is_some())
                .all(|item| others_with(item, &has) >= self.need || !item.left && others_with(item, &will) >= self.need)
    }
}

fn same(one: &[Bytes], other: &[Bytes]) -> bool {
    one.iter().flat_map(|piece| piece.iter()).eq(other.iter().flat_map(|piece| piece.iter()))
}
