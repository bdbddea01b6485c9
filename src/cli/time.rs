//! Reads `--target-time`: a moment without doubt, or a question back.
//!
//! RFC 3339, with a space for the `T` if liked, seconds optional, and one of: `Z`,
//! `UTC`, an offset (`+01`, `+0130`, `+01:30`), a zone (`[Europe/Berlin]`), or an
//! offset and a zone that agree. Fractions are rounded to the microsecond, as
//! PostgreSQL does. A time without a zone is refused unless `--tz` names one, and so is
//! a local time that a change of clocks skips or repeats: each with the readings it
//! could have.

use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};

use crate::error::{Error, Result};
use crate::model::time::Timestamp;

/// Reads a target time. `tz` is the zone for a time that names none, e.g.
/// `Europe/Berlin` or `UTC`.
///
/// # Errors
/// [`crate::Kind::Usage`] for text that is no time or could mean two.
pub fn parse_target_time(text: &str, tz: Option<&str>) -> Result<Timestamp> {
    parse(text, tz, &TimeZone::try_system().unwrap_or(TimeZone::UTC))
}

/// A time in UTC and, where it differs, on this machine's clock.
#[must_use]
pub fn both_zones(time: Timestamp) -> String {
    let local = jiff::Timestamp::from_microsecond(time.0).map(|time| time.to_zoned(TimeZone::system()));
    match local {
        Ok(local) if !local.offset().is_zero() => {
            format!("{time} ({} here)", local.strftime("%Y-%m-%d %H:%M:%S%.6f%:z"))
        }
        _ => time.to_string(),
    }
}

fn parse(text: &str, tz: Option<&str>, local: &TimeZone) -> Result<Timestamp> {
    let refuse = |why: &str| {
        Error::usage(format!("target time {text:?} {why}")).hint(
            "write it like 2026-11-20T21:28:37.123456Z, 2026-11-20 22:28:37+01 or 2026-11-20 22:28:37[Europe/Berlin]",
        )
    };
    let typed = text.trim();
    let (typed, zone) = match typed.strip_suffix(']').map(|typed| typed.split_once('[')) {
        None => (typed, None),
        Some(Some((typed, zone))) => (typed.trim_end(), Some(named(zone)?)),
        Some(None) => return Err(refuse("is not a time")),
    };
    let split = typed.find(['T', 't', ' ']).ok_or_else(|| refuse("has no time of day"))?;
    let (date, time) = typed.split_at(split);
    let time = time.get(1..).unwrap_or_default();
    let end = time.find(['+', '-', 'Z', 'z', 'U', ' ']).unwrap_or(time.len());
    let (time, offset) = time.split_at(end);
    let civil = civil(date, time).ok_or_else(|| refuse("is not a time"))?;
    let offset = match offset.trim_start() {
        "" => None,
        offset => Some(self::offset(offset).ok_or_else(|| refuse("ends in no offset from UTC that can be read"))?),
    };

    let moment = match (offset, zone, tz) {
        (Some(offset), None, _) => at(civil, offset),
        (Some(offset), Some(zone), _) => {
            let moment = at(civil, offset);
            if let Some(moment) = moment
                && zone.to_offset(moment) != offset
            {
                let there = zone.to_offset(moment);
                return Err(refuse(&format!("contradicts itself: {} was at {there} then", name(&zone))));
            }
            moment
        }
        (None, Some(zone), _) => in_zone(text, civil, &zone)?,
        (None, None, Some(tz)) => in_zone(text, civil, &named(tz)?)?,
        (None, None, None) => return Err(without_zone(text, civil, local)),
    };
    let moment = moment.and_then(|moment| moment.round(jiff::Unit::Microsecond).ok());
    moment.map(Timestamp::from).ok_or_else(|| refuse("is outside of the years that can be written"))
}

/// A date and a time of day.
fn civil(date: &str, time: &str) -> Option<DateTime> {
    let digits = |text: &str, more: &[char]| text.chars().all(|c| c.is_ascii_digit() || more.contains(&c));
    if date.len() != 10 || !digits(date, &['-']) || !digits(time, &[':', '.']) || !time.contains(':') {
        return None;
    }
    // Past the ninth digit nothing changes how a fraction rounds to six.
    let end = time.find('.').map_or(time.len(), |dot| time.len().min(dot + 10));
    format!("{date}T{}", time.get(..end)?).parse().ok()
}

/// `Z`, `UTC`, `+01`, `+0130`, `+01:30`.
fn offset(text: &str) -> Option<Offset> {
    if text.eq_ignore_ascii_case("z") || text.eq_ignore_ascii_case("utc") {
        return Some(Offset::UTC);
    }
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let number = |text: &str| match text.as_bytes() {
        [a @ b'0'..=b'9', b @ b'0'..=b'9'] => Some(i32::from(a - b'0') * 10 + i32::from(b - b'0')),
        _ => None,
    };
    let (hours, rest) = rest.split_at_checked(2)?;
    let minutes = if rest.is_empty() { 0 } else { number(rest.strip_prefix(':').unwrap_or(rest))? };
    // PostgreSQL's own limit is 15:59:59.
    let hours = number(hours).filter(|hours| *hours < 16 && minutes < 60)?;
    Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).ok()
}

fn at(civil: DateTime, offset: Offset) -> Option<jiff::Timestamp> {
    offset.to_timestamp(civil).ok()
}

fn named(zone: &str) -> Result<TimeZone> {
    TimeZone::get(zone).map_err(|e| {
        Error::usage(format!("time zone {zone:?} is not known"))
            .because(e)
            .hint("use a name like Europe/Berlin or UTC; is the package tzdata installed?")
    })
}

fn name(zone: &TimeZone) -> String {
    zone.iana_name().unwrap_or("the local zone").to_owned()
}

/// The moment at which clocks in the zone show this, if there is exactly one.
fn in_zone(text: &str, civil: DateTime, zone: &TimeZone) -> Result<Option<jiff::Timestamp>> {
    let (before, after, what) = match zone.to_ambiguous_timestamp(civil).offset() {
        AmbiguousOffset::Unambiguous { offset } => return Ok(at(civil, offset)),
        AmbiguousOffset::Gap { before, after } => (before, after, "never shows: clocks went forward over it"),
        AmbiguousOffset::Fold { before, after } => (before, after, "shows twice: clocks went back over it"),
    };
    let reading = |offset| at(civil, offset).map(|moment| moment.to_string()).unwrap_or_default();
    Err(Error::usage(format!("target time {text:?} is one that {} {what}", name(zone))).hint(format!(
        "with the offset before the change, {before}, it is {}; with that after it, {after}, it is {}: give one of these",
        reading(before),
        reading(after)
    )))
}

/// Shows what a time without a zone could mean.
fn without_zone(text: &str, civil: DateTime, local: &TimeZone) -> Error {
    let mut readings = vec![format!("{civil}Z for UTC")];
    match local.to_ambiguous_timestamp(civil).offset() {
        AmbiguousOffset::Unambiguous { offset } if offset != Offset::UTC => {
            readings.push(format!(
                "{civil}{offset} for the local zone{}",
                local.iana_name().map(|n| format!(", {n}")).unwrap_or_default()
            ));
        }
        AmbiguousOffset::Unambiguous { .. } => {}
        AmbiguousOffset::Gap { before, after } | AmbiguousOffset::Fold { before, after } => {
            readings.push(format!("{civil}{before} or {civil}{after} for {}, whose clocks change there", name(local)));
        }
    }
    Error::usage(format!("target time {text:?} has no time zone"))
        .hint(format!("write {}; or say --tz AREA/CITY", readings.join(", or ")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn berlin() -> TimeZone {
        TimeZone::get("Europe/Berlin").unwrap()
    }

    fn read(text: &str) -> String {
        parse(text, None, &berlin()).unwrap().to_string()
    }

    fn refused(text: &str, tz: Option<&str>) -> (String, String) {
        let error = parse(text, tz, &berlin()).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Usage);
        (error.message().to_owned(), error.advice().unwrap_or_default().to_owned())
    }

    #[test]
    fn one_moment_has_many_spellings() {
        for text in [
            "2026-11-20T21:28:37Z",
            "2026-11-20t21:28:37z",
            "2026-11-20 21:28:37Z",
            "2026-11-20 21:28:37 UTC",
            "2026-11-20 21:28:37.000000+00",
            "2026-11-20 22:28:37+01",
            "2026-11-20 22:28:37 +01",
            "2026-11-20 22:28:37+0100",
            "2026-11-20T22:28:37+01:00",
            "2026-11-20T16:58:37-04:30",
            "2026-11-20T22:28:37[Europe/Berlin]",
            "2026-11-20T22:28:37+01:00[Europe/Berlin]",
            " 2026-11-20 22:28:37 [Europe/Berlin] ",
        ] {
            assert_eq!(read(text), "2026-11-20T21:28:37.000000Z", "{text}");
        }
        assert_eq!(read("2026-11-20 21:28Z"), "2026-11-20T21:28:00.000000Z");
    }

    #[test]
    fn fractions_are_rounded_to_the_microsecond() {
        assert_eq!(read("2026-11-20T21:28:37.5Z"), "2026-11-20T21:28:37.500000Z");
        assert_eq!(read("2026-11-20T21:28:37.1234564Z"), "2026-11-20T21:28:37.123456Z");
        assert_eq!(read("2026-11-20T21:28:37.1234565Z"), "2026-11-20T21:28:37.123457Z");
        assert_eq!(read("2026-11-20T21:28:37.9999999999999Z"), "2026-11-20T21:28:38.000000Z");
    }

    #[test]
    fn a_zone_given_beside_is_used_only_where_the_text_has_none() {
        let tz = |text| parse(text, Some("America/New_York"), &berlin()).unwrap().to_string();
        assert_eq!(tz("2026-11-20 16:28:37"), "2026-11-20T21:28:37.000000Z");
        assert_eq!(tz("2026-11-20 16:28:37Z"), "2026-11-20T16:28:37.000000Z");
        assert_eq!(tz("2026-11-20 16:28:37[Europe/Berlin]"), "2026-11-20T15:28:37.000000Z");
    }

    #[test]
    fn without_a_zone_both_readings_are_shown() {
        assert_eq!(
            refused("2026-07-20 22:28:37", None),
            (
                "target time \"2026-07-20 22:28:37\" has no time zone".into(),
                "write 2026-07-20T22:28:37Z for UTC, or 2026-07-20T22:28:37+02 for the local zone, Europe/Berlin; or say --tz AREA/CITY".into()
            )
        );
        let utc = parse("2026-07-20 22:28:37", None, &TimeZone::UTC).unwrap_err();
        assert_eq!(utc.advice(), Some("write 2026-07-20T22:28:37Z for UTC; or say --tz AREA/CITY"));
    }

    #[test]
    fn a_time_that_clocks_skip_or_repeat_is_refused_with_both_moments() {
        assert_eq!(
            refused("2026-10-25 02:30:00", Some("Europe/Berlin")),
            (
                "target time \"2026-10-25 02:30:00\" is one that Europe/Berlin shows twice: clocks went back over it".into(),
                "with the offset before the change, +02, it is 2026-10-25T00:30:00Z; with that after it, +01, it is 2026-10-25T01:30:00Z: give one of these".into()
            )
        );
        let (message, hint) = refused("2026-03-29 02:30:00[Europe/Berlin]", None);
        assert!(message.ends_with("Europe/Berlin never shows: clocks went forward over it"), "{message}");
        assert!(hint.contains("2026-03-29T01:30:00Z") && hint.contains("2026-03-29T00:30:00Z"), "{hint}");
        // An offset beside the zone settles it.
        assert_eq!(read("2026-10-25 02:30:00+01[Europe/Berlin]"), "2026-10-25T01:30:00.000000Z");
    }

    #[test]
    fn refuses_what_is_no_moment() {
        for text in [
            "",
            "now",
            "2026-11-20",
            "21:28:37Z",
            "2026-11-20T",
            "2026-11-20TZ",
            "2026-13-20T21:28:37Z",
            "2026-11-20T25:28:37Z",
            "2026-02-29T21:28:37Z",
            "2026-11-20T21Z",
            "20261120T212837Z",
            "2026-11-20T21:28:37+1",
            "2026-11-20T21:28:37+99",
            "2026-11-20T21:28:37+01:60",
            "2026-11-20T21:28:37 CET",
            "2026-11-20T21:28:37Zz",
            "2026-11-20T21:28:37[Nowhere/Town]",
            "2026-11-20T21:28:37Z]",
            "2026-11-20T21:28:37+02[Europe/Berlin]",
            "1763674117",
        ] {
            refused(text, None);
        }
        refused("2026-11-20 21:28:37", Some("Nowhere/Town"));
    }

    proptest! {
        #[test]
        fn reads_back_every_time_it_prints(micros in -62_135_596_800_000_000_i64..253_402_300_799_000_000) {
            let time = Timestamp(micros);
            prop_assert_eq!(parse(&time.to_string(), None, &berlin()).unwrap(), time);
        }

        #[test]
        fn never_panics(text in "\\PC{0,40}", likely in "[0-9TZ:+. \\[\\]-]{0,40}") {
            for text in [text, likely] {
                if let Ok(time) = parse(&text, None, &berlin()) {
                    prop_assert_eq!(read(&time.to_string()), time.to_string());
                }
            }
        }
    }
}
