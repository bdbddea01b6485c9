//! A value as a server takes it in a statement whose own text is bytes (`SET NAMES binary`).
//!
//! Strings are bytes in the column's own character set, and go back as they came, without a
//! conversion in either direction. What a server would misread as bytes (JSON, MariaDB's `UUID`
//! and `INET6`, which then expect their stored form) is marked as text.

/// How the values of a column are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Digits as the server gives them.
    Number,
    /// Bytes in quotes.
    Bytes,
    /// Text in quotes, in UTF-8.
    Text,
    /// `BIT`: hexadecimal, for quotes would be taken for digits by some versions.
    Bits,
}

/// Appends `value` as a literal.
pub(super) fn append(out: &mut Vec<u8>, form: Form, value: Option<&[u8]>) {
    let Some(value) = value else {
        out.extend_from_slice(b"NULL");
        return;
    };
    match form {
        Form::Number if is_number(value) => out.extend_from_slice(value),
        Form::Bits if !value.is_empty() => append_hex(out, value),
        Form::Text => {
            out.extend_from_slice(b"_utf8mb4");
            append_quoted(out, value);
        }
        Form::Number | Form::Bytes | Form::Bits => append_quoted(out, value),
    }
}

/// Whether a server reads these bytes as a number and as nothing else.
fn is_number(value: &[u8]) -> bool {
    let digits = value.strip_prefix(b"-").unwrap_or(value);
    digits.first().is_some_and(u8::is_ascii_digit) && digits.iter().all(|b| b.is_ascii_digit() || *b == b'.')
}

fn append_hex(out: &mut Vec<u8>, value: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.extend_from_slice(b"0x");
    for byte in value {
        for nibble in [byte >> 4, byte & 15] {
            out.extend(DIGITS.get(usize::from(nibble)));
        }
    }
}

/// Appends `value` in single quotes. No line break is left in it, so that the text of a
/// statement has them only where a person wants them.
pub(super) fn append_quoted(out: &mut Vec<u8>, value: &[u8]) {
    out.reserve(value.len() + 2);
    out.push(b'\'');
    let mut rest = value;
    while let Some(at) = rest.iter().position(|byte| escape(*byte).is_some()) {
        let (plain, after) = rest.split_at(at);
        out.extend_from_slice(plain);
        let Some((special, after)) = after.split_first() else { break };
        out.push(b'\\');
        out.extend(escape(*special));
        rest = after;
    }
    out.extend_from_slice(rest);
    out.push(b'\'');
}

/// What stands for a byte behind a backslash, where it may not stand itself.
const fn escape(byte: u8) -> Option<u8> {
    match byte {
        0 => Some(b'0'),
        b'\n' => Some(b'n'),
        b'\r' => Some(b'r'),
        0x1a => Some(b'Z'),
        b'\\' | b'\'' => Some(byte),
        _ => None,
    }
}

/// A name in backticks.
pub(super) fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A text in single quotes, for a statement of ours.
pub(in crate::engine::mysql) fn quoted(text: &str) -> String {
    let mut out = Vec::new();
    append_quoted(&mut out, text.as_bytes());
    // Only ASCII was put in.
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn literal(form: Form, value: &[u8]) -> String {
        let mut out = Vec::new();
        append(&mut out, form, Some(value));
        String::from_utf8_lossy(&out).into_owned()
    }

    /// As a server reads it (MySQL manual, "String Literals").
    fn unquoted(literal: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = literal.strip_prefix(b"'")?.strip_suffix(b"'")?.iter();
        let mut value = Vec::new();
        while let Some(byte) = bytes.next() {
            value.push(match byte {
                b'\'' => return None,
                b'\\' => match bytes.next()? {
                    b'0' => 0,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b'Z' => 0x1a,
                    other => *other,
                },
                other => *other,
            });
        }
        Some(value)
    }

    #[test]
    fn each_form_is_what_a_server_reads() {
        assert_eq!(literal(Form::Number, b"-12.50"), "-12.50");
        assert_eq!(literal(Form::Bytes, b"it's \\ \0\n\r\x1a"), r"'it\'s \\ \0\n\r\Z'");
        assert_eq!(literal(Form::Text, b"{\"a\": 1}"), "_utf8mb4'{\"a\": 1}'");
        assert_eq!(literal(Form::Bits, &[2, 0xaf]), "0x02AF");
        assert_eq!(literal(Form::Bits, b""), "''");
        let mut null = Vec::new();
        append(&mut null, Form::Text, None);
        assert_eq!(null, b"NULL");
    }

    #[test]
    fn what_is_no_plain_number_is_quoted() {
        for text in ["", "-", "1e5", "0x1", "nan", "1)", "--1", "-inf"] {
            assert_eq!(literal(Form::Number, text.as_bytes()), format!("'{text}'"), "{text:?}");
        }
    }

    #[test]
    fn names_are_quoted() {
        assert_eq!(identifier("a`b"), "`a``b`");
        assert_eq!(quoted("a'b\\"), r"'a\'b\\'");
    }

    proptest! {
        #[test]
        fn a_quoted_value_reads_back_and_has_no_line_break(value: Vec<u8>) {
            let mut out = Vec::new();
            append(&mut out, Form::Bytes, Some(&value));
            prop_assert!(!out.contains(&b'\n') && !out.contains(&b'\r') && !out.contains(&0));
            prop_assert_eq!(unquoted(&out), Some(value));
        }
    }
}
