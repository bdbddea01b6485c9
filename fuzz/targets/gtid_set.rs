//! GTIDs and sets of them, as text and as the servers' bytes: what reads must read back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr::engine::mysql::gtid::{Gtid, GtidSet, MariaDbSet, MySqlSet};

fuzz_target!(|data: &[u8]| {
    if let Ok(set) = MySqlSet::decode(data) {
        assert_eq!(MySqlSet::decode(&set.encode()).unwrap(), set);
        assert_eq!(set.to_string().parse::<MySqlSet>().unwrap(), set);
    }
    if let Ok(set) = MariaDbSet::decode_list(data) {
        assert_eq!(set.state().parse::<MariaDbSet>().unwrap(), set);
    }
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(gtid) = text.parse::<Gtid>() {
        assert_eq!(gtid.to_string().parse::<Gtid>().unwrap(), gtid);
        let mut set = GtidSet::empty(gtid.flavor());
        set.add(&gtid).unwrap();
        assert!(set.contains(&gtid));
    }
    // A text of two sets, one in each line's place: their sum and difference must agree.
    let (one, two) = text.split_once(';').unwrap_or((text, ""));
    for parse in [GtidSet::parse_mysql, GtidSet::parse_mariadb] {
        let (Ok(one), Ok(two)) = (parse(one), parse(two)) else { continue };
        let mut sum = one.clone();
        sum.add_all(&two).unwrap();
        assert!(sum.covers(&one) && sum.covers(&two));
        assert_eq!(one.minus(&two).unwrap().is_empty(), two.covers(&one));
    }
});
