//! Sets of GTIDs against a plain model, and the texts and bytes of real servers.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::Kind;

const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
const B: &str = "4c2c85e9-71ca-11e1-9e33-c80aa9429562";

fn mysql(text: &str) -> GtidSet {
    GtidSet::parse_mysql(text).unwrap()
}

fn mariadb(text: &str) -> GtidSet {
    GtidSet::parse_mariadb(text).unwrap()
}

fn gtid(text: &str) -> Gtid {
    text.parse().unwrap()
}

#[test]
fn a_gtid_is_written_as_it_was_read() {
    for text in
        [&format!("{A}:1"), &format!("{A}:tag_1:9223372036854775806"), "0-1-100", "4294967295-0-18446744073709551615"]
    {
        assert_eq!(gtid(text).to_string(), *text);
    }
    assert_eq!(gtid(&format!(" {}:TAG:7 ", A.to_uppercase())).to_string(), format!("{A}:tag:7"));
}

#[test]
fn refuses_what_is_no_gtid() {
    let long = format!("{A}:{}:1", "t".repeat(33));
    for text in [
        "",
        "1",
        "0-1",
        "0-1-2-3",
        "0-1-",
        "0--1-2",
        "-1-2",
        "0-1-x",
        "0-4294967296-1",
        "+0-1-1",
        "0-1-1:",
        &format!("{A}:0"),
        &format!("{A}:"),
        A,
        &format!("{A}:1-2"),
        &format!("{A}:9223372036854775807"),
        &format!("{A}:+1"),
        &format!("{A}:1t:1"),
        &format!("{A}:t-t:1"),
        &format!("{A}:t:u:1"),
        &format!("{A}::1"),
        &long,
        "3e11fa4771ca11e19e33c80aa9429562:1",
        "3e11fa47-71ca-11e1-9e33-c80aa942956é:1",
        "3e11fa4-771ca-11e1-9e33-c80aa9429562:1",
    ] {
        assert_eq!(text.parse::<Gtid>().unwrap_err().kind(), Kind::Usage, "{text}");
    }
}

#[test]
fn a_set_of_mysql_is_written_as_the_server_writes_it() {
    for case in ["anonymous", "untagged", "tagged", "tags_before"] {
        let text = fixtures::text(&format!("mysql/9.7/gtid/{case}/gtid_executed.txt"));
        assert_eq!(mysql(&text).to_string(), text);
    }
    let set = mysql(&format!(" {B} : 7 , {A}:5-6:1 - 3:4:t:1,,\n{} :T : 2-4: 9:1,", A.to_uppercase()));
    assert_eq!(set.to_string(), format!("{A}:1-6:t:1-4:9,\n{B}:7"));
    assert_eq!(format!("{set:#}"), format!("{A}:1-6:t:1-4:9,{B}:7"));
    assert_eq!(mysql("").to_string(), "");
}

#[test]
fn refuses_what_is_no_set_of_mysql() {
    for text in [
        "x",
        A,
        &format!("{A}:"),
        &format!("{A}:t"),
        &format!("{A}:1:t"),
        &format!("{A}:t:u:1"),
        &format!("{A}:t::1"),
        &format!("{A}:3-1"),
        &format!("{A}:0-1"),
        &format!("{A}:1-"),
        &format!("{A}:-1"),
        &format!("{A}:1-9223372036854775807"),
        &format!("{A}:1--2"),
        &format!("{A}:1 2"),
        "0-1-100",
        &format!("{A}:1;{B}:1"),
    ] {
        assert_eq!(GtidSet::parse_mysql(text).unwrap_err().kind(), Kind::Usage, "{text}");
    }
}

/// Each file begins with what all files before it held, which is what the server said
/// was executed when it ended the one before.
#[test]
fn reads_the_sets_that_begin_the_files_of_mysql() {
    for (case, before) in [("tagged", "untagged"), ("tags_before", "tagged")] {
        let events = fixtures::events(&format!("mysql/9.7/gtid/{case}"));
        let (_, content) = events.iter().find(|(header, _)| header.kind == 35).unwrap();
        let set = GtidSet::MySql(MySqlSet::decode(content).unwrap());
        assert_eq!(set.to_string(), fixtures::text(&format!("mysql/9.7/gtid/{before}/gtid_executed.txt")));
        let GtidSet::MySql(set) = set else { panic!("{set}") };
        assert_eq!(set.encode(), *content);
        for cut in 0..content.len() {
            assert_eq!(MySqlSet::decode(&content[..cut]).unwrap_err().kind(), Kind::Corruption, "{cut}");
        }
        assert!(MySqlSet::decode(&[&content[..], &[0]].concat()).is_err());
    }
    assert!(MySqlSet::decode(&[0; 8]).unwrap().is_empty());
    assert_eq!(MySqlSet::default().encode(), [0; 8]);
}

#[test]
fn refuses_bytes_that_are_no_set_of_mysql() {
    let set = |head: [u8; 8], intervals: &[[u64; 2]]| {
        let numbers = intervals.iter().flatten().flat_map(|number| number.to_le_bytes());
        let bytes: Vec<u8> =
            (head.into_iter().chain([7; 16]).chain((intervals.len() as u64).to_le_bytes())).chain(numbers).collect();
        MySqlSet::decode(&bytes).map(|set| set.to_string()).map_err(|error| error.to_string())
    };
    let one = 1u64.to_le_bytes();
    let end = 1 << 63;
    assert!(set(one, &[[1, 2], [3, end - 1]]).unwrap().ends_with(":1:3-9223372036854775806"));
    for (head, intervals, why) in [
        (one, &[[0, 2]][..], "the interval from 0 up to 2 after 0"),
        (one, &[[2, 2]], "the interval from 2 up to 2 after 0"),
        (one, &[[1, 3], [2, 4]], "the interval from 2 up to 4 after 3"),
        (one, &[[1, 3], [3, 4]], "the interval from 3 up to 4 after 3"),
        (one, &[[1, end]], "the interval from 1 up to 9223372036854775808"),
        ([1, 0, 0, 0, 0, 0, 0, 2], &[[1, 2]], "the unknown format 2"),
        ([0, 1, 0, 0, 0, 0, 0, 1], &[[1, 2]], "the unknown format 1"),
        ([0; 8], &[[1, 2]], "more than its 0 entries"),
        ([255, 255, 255, 255, 255, 255, 255, 0], &[[1, 2]], "0 bytes left of 16"),
    ] {
        let error = set(head, intervals).unwrap_err();
        assert!(error.contains(why), "{error} does not say {why}");
    }
}

#[test]
fn a_position_of_mariadb_is_written_as_the_server_writes_it() {
    for case in ["from_the_start", "domains", "nothing"] {
        let text = |name: &str| fixtures::text(&format!("mariadb/10.11/gtid/{case}/{name}.txt"));
        let GtidSet::MariaDb(state) = mariadb(&text("gtid_binlog_state")) else { panic!("{case}") };
        assert_eq!(state.to_string(), text("gtid_binlog_pos"));
        assert_eq!(state.state(), text("gtid_binlog_state"));
        assert_eq!(mariadb(&text("gtid_binlog_pos")).to_string(), text("gtid_binlog_pos"));
    }
    assert_eq!(mariadb(" 1-2-3 ,\n0-1-2").to_string(), "0-1-2,1-2-3");
    assert!(mariadb(" ").is_empty());
    for text in ["0-1-2,", ",", "0-1", "0-1-2,0-1-3", "0-2-1,0-1-1,0-2-3", A] {
        assert_eq!(GtidSet::parse_mariadb(text).unwrap_err().kind(), Kind::Usage, "{text}");
    }
}

#[test]
fn reads_the_states_that_begin_the_files_of_mariadb() {
    let lists = ["from_the_start", "domains", "nothing"].map(|case| {
        let events = fixtures::events(&format!("mariadb/10.11/gtid/{case}"));
        let (_, content) = events.into_iter().find(|(header, _)| header.kind == 163).unwrap();
        (case, content)
    });
    let states =
        lists.each_ref().map(|(case, content)| match GtidSet::MariaDb(MariaDbSet::decode_list(content).unwrap()) {
            GtidSet::MariaDb(set) => set.state(),
            GtidSet::MySql(set) => panic!("{case}: {set}"),
        });
    let before = |case: &str| fixtures::text(&format!("mariadb/10.11/gtid/{case}/gtid_binlog_state.txt"));
    assert_eq!(states, [String::new(), before("from_the_start"), before("domains")]);

    let (_, content) = &lists[2];
    for cut in 0..content.len() {
        assert_eq!(MariaDbSet::decode_list(&content[..cut]).unwrap_err().kind(), Kind::Corruption, "{cut}");
    }
    let mut flagged = content.clone();
    flagged[3] = 0x10;
    assert_eq!(MariaDbSet::decode_list(&flagged).unwrap(), MariaDbSet::decode_list(content).unwrap());
    assert!(MariaDbSet::decode_list(&[&content[..], &[1]].concat()).is_err());
    assert!(MariaDbSet::decode_list(&[255; 4]).is_err());
}

/// Transactions of a captured log, added one by one to the set before it, give the set after it.
#[test]
fn adding_a_files_transactions_gives_what_the_server_says() {
    use crate::engine::mysql::binlog::event::begins_group;
    use crate::engine::mysql::binlog::gtid_event::GtidEvent;
    for (case, said) in [
        ("mysql/9.7/gtid/untagged", "gtid_executed"),
        ("mysql/9.7/gtid/tagged", "gtid_executed"),
        ("mariadb/10.11/gtid/domains", "gtid_binlog_pos"),
        ("mariadb/11.8/gtid/domains", "gtid_binlog_pos"),
    ] {
        let events = fixtures::events(case);
        let mut set = events
            .iter()
            .find_map(|(header, content)| match header.kind {
                35 => Some(GtidSet::MySql(MySqlSet::decode(content).unwrap())),
                163 => Some(GtidSet::MariaDb(MariaDbSet::decode_list(content).unwrap())),
                _ => None,
            })
            .unwrap();
        let before = set.clone();
        for (header, content) in events.iter().filter(|(header, _)| begins_group(header.kind)) {
            let gtid = GtidEvent::decode(header.kind, header.server_id, content).unwrap().unwrap().gtid.unwrap();
            assert!(!set.contains(&gtid), "{case}: {gtid}");
            set.add(&gtid).unwrap();
            assert!(set.contains(&gtid), "{case}: {gtid}");
        }
        assert_eq!(set.to_string(), fixtures::text(&format!("{case}/{said}.txt")), "{case}");
        assert!(set.covers(&before) && !before.covers(&set));
        let mut joined = before.clone();
        joined.add_all(&set.minus(&before).unwrap()).unwrap();
        assert_eq!(joined, set, "{case}");
    }
}

#[test]
fn the_two_servers_do_not_mix() {
    let (mut ours, theirs) = (mysql(&format!("{A}:1")), mariadb("0-1-1"));
    assert!(!ours.contains(&gtid("0-1-1")) && !ours.covers(&theirs));
    assert!(ours.covers(&GtidSet::empty(Flavor::MariaDb)));
    let error = ours.add(&gtid("0-1-1")).unwrap_err();
    assert_eq!(error.to_string(), "\"0-1-1\" is no GTID of MySQL");
    assert!(ours.add_all(&theirs).is_err() && ours.minus(&theirs).is_err());
    assert_eq!(ours, mysql(&format!("{A}:1")));
}

#[test]
fn a_domain_of_mariadb_holds_all_before_its_position() {
    let set = mariadb("0-1-100,1-3-9,1-2-7");
    for (text, held) in [
        ("0-1-100", true),
        ("0-9-7", true),
        ("0-1-101", false),
        ("1-2-8", false),
        ("1-3-9", true),
        ("1-3-10", false),
        ("1-4-8", false),
        ("2-1-1", false),
    ] {
        assert_eq!(set.contains(&gtid(text)), held, "{text}");
    }
}

#[test]
fn a_position_of_mariadb_follows_the_log_even_backwards() {
    let mut set = mariadb("0-1-100");
    for (text, position, state) in [
        ("0-2-50", "0-2-50", "0-1-100,0-2-50"),
        ("0-1-101", "0-1-101", "0-2-50,0-1-101"),
        ("0-3-102", "0-3-102", "0-1-101,0-2-50,0-3-102"),
    ] {
        set.add(&gtid(text)).unwrap();
        assert_eq!(set.to_string(), position);
        let GtidSet::MariaDb(set) = &set else { panic!("{set}") };
        assert_eq!(set.state(), state);
        assert!(set.contains(0, 1, 100));
    }
}

#[test]
fn joining_positions_of_mariadb_takes_the_further_one() {
    for (ours, theirs, joined, missing) in [
        ("0-1-5,1-1-7", "0-2-9,2-1-1", "0-2-9,1-1-7,2-1-1", "1-1-7"),
        ("0-2-9", "0-1-5", "0-2-9", "0-2-9"),
        ("0-1-5", "0-1-5", "0-1-5", ""),
        ("", "0-1-5", "0-1-5", ""),
    ] {
        let mut all = mariadb(ours);
        all.add_all(&mariadb(theirs)).unwrap();
        assert_eq!(all.to_string(), joined);
        assert!(all.covers(&mariadb(ours)) && all.covers(&mariadb(theirs)));
        assert_eq!(mariadb(ours).minus(&mariadb(theirs)).unwrap().to_string(), missing);
    }
}

/// Transactions of two UUIDs and two tags, numbers close enough to touch.
fn some_mysql() -> impl Strategy<Value = BTreeSet<(bool, bool, u64)>> {
    proptest::collection::btree_set((any::<bool>(), any::<bool>(), 1u64..40), 0..60)
}

fn name((uuid, tag, number): (bool, bool, u64)) -> Gtid {
    gtid(&format!("{}{}:{number}", if uuid { A } else { B }, if tag { ":tag" } else { "" }))
}

fn set_of<'a>(names: impl IntoIterator<Item = &'a (bool, bool, u64)>) -> GtidSet {
    let mut set = GtidSet::empty(Flavor::MySql);
    for &each in names {
        set.add(&name(each)).unwrap();
    }
    set
}

proptest! {
    #[test]
    fn sets_of_mysql_behave_as_sets(
        (a, order) in some_mysql().prop_flat_map(|set| {
            let order: Vec<_> = set.iter().copied().collect();
            (Just(set), Just(order).prop_shuffle())
        }),
        b in some_mysql(),
    ) {
        let (set, other) = (set_of(&a), set_of(&b));
        prop_assert_eq!(&set_of(&order), &set);
        for number in 1..41 {
            for (uuid, tag) in [(false, false), (false, true), (true, false), (true, true)] {
                prop_assert_eq!(set.contains(&name((uuid, tag, number))), a.contains(&(uuid, tag, number)));
            }
        }
        let mut all = set.clone();
        all.add_all(&other).unwrap();
        prop_assert_eq!(&all, &set_of(a.union(&b)));
        let left = set.minus(&other).unwrap();
        prop_assert_eq!(&left, &set_of(a.difference(&b)));
        prop_assert_eq!(set.covers(&other), b.is_subset(&a));
        prop_assert_eq!(left.is_empty(), a.is_subset(&b));
        prop_assert_eq!(&mysql(&set.to_string()), &set);
        prop_assert_eq!(&mysql(&format!("{set:#}")), &set);
        let GtidSet::MySql(plain) = &set else { panic!("{set}") };
        prop_assert_eq!(&MySqlSet::decode(&plain.encode()).unwrap(), plain);
    }

    #[test]
    fn sets_of_mariadb_keep_their_laws(
        a in proptest::collection::vec((0u32..3, 0u32..3, 0u64..9), 0..12),
        b in proptest::collection::vec((0u32..3, 0u32..3, 0u64..9), 0..12),
    ) {
        let set_of = |entries: &[(u32, u32, u64)]| {
            let mut set = MariaDbSet::default();
            for &(domain, server, sequence) in entries {
                set.add(domain, server, sequence);
                assert!(set.contains(domain, server, sequence));
            }
            set
        };
        let (a, b) = (set_of(&a), set_of(&b));
        let mut all = a.clone();
        all.add_all(&b);
        prop_assert!(all.covers(&a) && all.covers(&b));
        prop_assert_eq!(a.minus(&b).is_empty(), b.covers(&a));
        prop_assert_eq!(a.state().parse::<MariaDbSet>().unwrap(), a.clone());
        let position: MariaDbSet = a.to_string().parse().unwrap();
        prop_assert!(a.covers(&position));
    }

    #[test]
    fn never_panics_on_any_text(text in "[-0-9a-f:,_ \n]{0,80}|\\PC{0,40}") {
        let _ = (text.parse::<Gtid>(), GtidSet::parse_mysql(&text), GtidSet::parse_mariadb(&text));
    }

    #[test]
    fn never_panics_on_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200), tagged: bool) {
        let _ = (MySqlSet::decode(&bytes), MariaDbSet::decode_list(&bytes));
        let head = if tagged { [1, 3, 0, 0, 0, 0, 0, 1] } else { [3, 0, 0, 0, 0, 0, 0, 0] };
        let _ = MySqlSet::decode(&[&head, &bytes[..]].concat());
    }
}
