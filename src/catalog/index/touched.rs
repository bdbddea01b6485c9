//! Which tables the segments of an index change, and how: the same tables all the time in most
//! logs, so that each set of them is written once, and runs of segments that have it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::fields::{Reader, put_unsigned};
use crate::model::changes::{Kinds, TABLES_MAX, Touched};

/// Appends what each segment changes; nothing given: none changes anything.
pub(super) fn put(out: &mut Vec<u8>, touched: &[Arc<Touched>]) {
    let mut names: Vec<&str> = Vec::new();
    let mut named: HashMap<&str, usize> = HashMap::new();
    let mut sets: Vec<&Touched> = Vec::new();
    let mut known: HashMap<&Touched, usize> = HashMap::new();
    let mut runs: Vec<(u64, usize)> = Vec::new();
    for set in touched {
        for (name, _) in &set.tables {
            named.entry(name).or_insert_with(|| {
                names.push(name);
                names.len() - 1
            });
        }
        let number = *known.entry(set).or_insert_with(|| {
            sets.push(set);
            sets.len() - 1
        });
        match runs.last_mut() {
            Some((length, of)) if *of == number => *length += 1,
            _ => runs.push((1, number)),
        }
    }
    put_unsigned(out, names.len() as u64);
    for name in names {
        put_unsigned(out, name.len() as u64);
        out.extend_from_slice(name.as_bytes());
    }
    put_unsigned(out, sets.len() as u64);
    for set in sets {
        put_unsigned(out, (set.tables.len() as u64) << 1 | u64::from(set.more));
        for (name, kinds) in &set.tables {
            put_unsigned(out, named.get(&**name).map_or(0, |number| *number as u64));
            out.push(kinds.bits());
        }
    }
    for (length, set) in runs {
        put_unsigned(out, length);
        put_unsigned(out, set as u64);
    }
}

/// Reads what was written of so many segments. Only that: another form of the same is refused.
pub(super) fn read(r: &mut Reader<'_>, segments: usize) -> Option<Vec<Arc<Touched>>> {
    let count = usize::try_from(r.unsigned()?).ok().filter(|count| *count <= r.0.len())?;
    let (mut names, mut distinct) = (Vec::with_capacity(count), HashSet::new());
    for _ in 0..count {
        let length = usize::try_from(r.unsigned()?).ok()?;
        let name = std::str::from_utf8(r.take(length)?).ok()?;
        names.push(Arc::from(name));
        distinct.insert(name).then_some(())?;
    }
    let count = usize::try_from(r.unsigned()?).ok().filter(|count| *count <= segments.min(r.0.len()))?;
    let (mut sets, mut distinct, mut used) = (Vec::with_capacity(count), HashSet::new(), 0);
    for _ in 0..count {
        let set = Arc::new(read_set(r, &names, &mut used)?);
        distinct.insert(Arc::clone(&set)).then_some(())?;
        sets.push(set);
    }
    if used != names.len() || sets.is_empty() {
        return (used == names.len()).then(Vec::new);
    }
    let (mut touched, mut used, mut before) = (Vec::with_capacity(segments), 0, None);
    while touched.len() < segments {
        let length = usize::try_from(r.unsigned()?).ok()?;
        let number = usize::try_from(r.unsigned()?).ok().filter(|number| *number <= used && before != Some(*number))?;
        if length == 0 || length > segments - touched.len() {
            return None;
        }
        used = used.max(number + 1);
        before = Some(number);
        touched.extend(std::iter::repeat_n(sets.get(number)?, length).cloned());
    }
    (used == sets.len()).then_some(touched)
}

/// Names are numbered in the order in which sets use them; `used` of them have been.
fn read_set(r: &mut Reader<'_>, names: &[Arc<str>], used: &mut usize) -> Option<Touched> {
    let head = r.unsigned()?;
    let count = usize::try_from(head >> 1).ok().filter(|count| *count <= TABLES_MAX)?;
    let mut set = Touched { tables: Vec::with_capacity(count), more: head & 1 != 0 };
    for _ in 0..count {
        let number = usize::try_from(r.unsigned()?).ok().filter(|number| *number <= *used)?;
        *used = (*used).max(number + 1);
        set.tables.push((Arc::clone(names.get(number)?), Kinds::from_bits(r.u8()?)?));
    }
    Some(set)
}
