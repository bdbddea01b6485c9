//! Percent-encoding, as connection URLs of every engine have it.

/// Resolves `%xx` in a part of a connection URL.
///
/// # Errors
/// Why it cannot be, without the part, which may be a password.
pub(super) fn decode(text: &str) -> Result<String, &'static str> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first != b'%' {
            bytes.push(*first);
            rest = tail;
            continue;
        }
        let digits = tail.split_at_checked(2).and_then(|(digits, after)| {
            let high = char::from(*digits.first()?).to_digit(16)?;
            let low = char::from(*digits.get(1)?).to_digit(16)?;
            Some((u8::try_from(high * 16 + low).ok()?, after))
        });
        match digits {
            Some((0, _)) => return Err("%00 stands for a zero byte, which no part may hold"),
            Some((byte, after)) => {
                bytes.push(byte);
                rest = after;
            }
            None => return Err("`%` is not followed by two hexadecimal digits (write `%25` for `%` itself)"),
        }
    }
    String::from_utf8(bytes).map_err(|_| "a %-encoded part is not UTF-8")
}
