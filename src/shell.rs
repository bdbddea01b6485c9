//! Words of a shell's command line.

/// `text` as one word for `sh`: as it is where that is safe, else in single quotes.
pub(crate) fn word(text: &str) -> String {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-:".contains(&b));
    if plain { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// As [`word`], for a `restore_command`: PostgreSQL replaces `%f` and `%p` in it.
pub(crate) fn restore_command_word(text: &str) -> String {
    word(text).replace('%', "%%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_safe_in_a_command() {
        assert_eq!(word("/usr/bin/pitr"), "/usr/bin/pitr");
        assert_eq!(word("o'neil x"), r"'o'\''neil x'");
        assert_eq!(word(""), "''");
        assert_eq!(word("$(id)"), "'$(id)'");
        assert_eq!(restore_command_word("/a b/it's"), r"'/a b/it'\''s'");
        assert_eq!(restore_command_word("/50%f"), "'/50%%f'");
    }
}
