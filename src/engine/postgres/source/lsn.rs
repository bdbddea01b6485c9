//! Log positions as PostgreSQL writes them: `16/B374D848`, two halves in hexadecimal
//! without leading zeros (`%X/%X`; version 19 pads the second half to eight digits).

use crate::model::offset::Offset;
use crate::model::position::Position;

/// Reads an LSN.
#[must_use]
pub fn parse_lsn(text: &str) -> Option<Offset> {
    let (high, low) = text.trim().split_once('/')?;
    let half = |digits: &str| -> Option<u64> {
        let good = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
        good.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
    };
    Some(Offset(half(high)? << 32 | half(low)?))
}

/// Writes an offset as an LSN.
#[must_use]
pub fn format_lsn(offset: Offset) -> Position {
    Position(format!("{:X}/{:X}", offset.0 >> 32, offset.0 & 0xffff_ffff))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_the_server_prints() {
        assert_eq!(parse_lsn("16/B374D848"), Some(Offset(0x16_B374_D848)));
        assert_eq!(parse_lsn("0/03000000"), Some(Offset(0x0300_0000)));
        for bad in ["", "/", "1/", "/1", "1/123456789", "0x1/2", "+1/2", "1/2/3"] {
            assert_eq!(parse_lsn(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(offset in any::<u64>()) {
            prop_assert_eq!(parse_lsn(&format_lsn(Offset(offset)).0), Some(Offset(offset)));
        }
    }
}
