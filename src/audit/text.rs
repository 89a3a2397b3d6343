/// What a field of a record keeps of a text that a caller, an issuer or a policy chose: at most [`CAP`] bytes, with nothing in
/// it that a terminal, a log viewer or a line splitter would act upon.
///
/// Hidden characters become `\u{…}`, so that they are seen instead of obeyed. What is cut ends in `…`.
pub(super) fn clean(text: &str) -> String {
    if text.len() <= CAP && !text.chars().any(is_hidden) {
        return text.to_owned();
    }
    let mut clean = String::with_capacity(CAP + 8);
    let mut cut = 0;
    for character in text.chars() {
        if is_hidden(character) {
            clean.extend(character.escape_unicode());
        } else {
            clean.push(character);
        }
        if clean.len() <= CAP - MARK.len_utf8() {
            cut = clean.len();
        } else if clean.len() > CAP {
            clean.truncate(cut);
            clean.push(MARK);
            break;
        }
    }
    clean
}

/// The whole text, with what is hidden in it made visible: for an operator's terminal.
pub(crate) fn visible(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    for character in text.chars() {
        if is_hidden(character) {
            visible.extend(character.escape_unicode());
        } else {
            visible.push(character);
        }
    }
    visible
}

/// The first `limit` texts, cleaned; a further `…` stands for the others.
pub(super) fn clean_all<'a>(texts: impl IntoIterator<Item = &'a str>, limit: usize) -> Vec<String> {
    let mut texts = texts.into_iter();
    let mut clean: Vec<_> = texts.by_ref().take(limit).map(self::clean).collect();
    if texts.next().is_some() {
        clean.push(MARK.to_string());
    }
    clean
}

/// JSON escapes only the C0 controls. The others end lines in some viewers (C1, U+2028, U+2029), drive old terminals (C1),
/// reorder what is read (bidirectional controls: "Trojan Source", CVE-2021-42574), or make two texts look alike (zero width).
const fn is_hidden(character: char) -> bool {
    matches!(
        character,
        '\0'..='\x1f'
            | '\x7f'..='\u{9f}'
            | '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

/// The most bytes that a field keeps of one text, the mark included.
const CAP: usize = 256;

const MARK: char = '…';

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_plain_short_text_is_kept_as_it_is() {
        for text in ["", "auth0|5f7c", r"DOMAIN\user", "Zoë 日本", &"x".repeat(CAP)] {
            assert_eq!(clean(text), text);
        }
    }

    #[test]
    fn hidden_characters_are_shown_and_not_obeyed() {
        let cases = [
            ("a\r\nb", r"a\u{d}\u{a}b"),
            ("a\u{1b}[31mb", r"a\u{1b}[31mb"),
            ("a\u{7f}\u{85}b", r"a\u{7f}\u{85}b"),
            ("a\u{2028}\u{2029}b", r"a\u{2028}\u{2029}b"),
            ("a\u{202e}b\u{2066}\u{200b}", r"a\u{202e}b\u{2066}\u{200b}"),
        ];
        for (text, shown) in cases {
            assert_eq!(clean(text), shown);
        }
    }

    #[test]
    fn a_long_text_is_cut_and_marked() {
        let cut = clean(&"x".repeat(CAP + 1));
        assert_eq!(cut.len(), CAP);
        assert!(cut.ends_with("x…"));
        assert!(clean(&"\n".repeat(CAP)).ends_with(r"\u{a}…"), "an escape is never cut in two");
    }

    #[test]
    fn a_long_list_is_cut_and_marked() {
        assert_eq!(clean_all(["a", "b", "c"], 3), ["a", "b", "c"]);
        assert_eq!(clean_all(["a", "b", "c"], 2), ["a", "b", "…"]);
    }

    proptest! {
        #[test]
        fn whatever_comes_stays_short_and_visible(text in any::<String>(), times in 1_usize..40) {
            let clean = clean(&text.repeat(times));
            prop_assert!(clean.len() <= CAP);
            prop_assert!(!clean.chars().any(is_hidden));
        }
    }
}
