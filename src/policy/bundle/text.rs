//! JSON as it is written: the pieces of a text, with the digits of every number left alone.

use std::borrow::Cow;

use super::error::{Fault, shown};

/// Reads one JSON text ([RFC 8259](https://www.rfc-editor.org/rfc/rfc8259)), piece by piece and from one end to the other.
///
/// A number keeps its digits, which parsers into machine numbers lose: `1e3` and `1000.0` are the same number and two texts, and a
/// signature is over the text.
pub(super) struct Text<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Text<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, Fault> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Self { text, at: 0, depth: 0 }),
            Err(error) => {
                let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
                Err(Fault::new("the file is not UTF-8: save it as UTF-8").at_line(line_of(before)))
            }
        }
    }

    /// The first byte of what comes next, which is left to be read.
    pub(super) fn peek(&mut self) -> Option<u8> {
        let rest = self.rest();
        self.at = self.text.len() - rest.trim_start_matches([' ', '\t', '\n', '\r']).len();
        self.rest().bytes().next()
    }

    /// One object: calls `member` with each name, which has to read the value.
    pub(super) fn object(
        &mut self,
        mut member: impl FnMut(&mut Self, Cow<'a, str>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        self.sequence(b'{', b'}', |text| {
            let name = text.string()?;
            text.expect(b':', "a `:` is missing after a member's name")?;
            member(text, name)
        })
    }

    /// One array: calls `element` for each value, which has to read it.
    pub(super) fn array(&mut self, element: impl FnMut(&mut Self) -> Result<(), Fault>) -> Result<(), Fault> {
        self.sequence(b'[', b']', element)
    }

    /// One string, borrowed unless it has escapes.
    pub(super) fn string(&mut self) -> Result<Cow<'a, str>, Fault> {
        self.expect(b'"', "a string is missing")?;
        let rest = self.rest();
        let Some(end) = rest.find(['"', '\\']) else { return Err(self.fault(UNFINISHED)) };
        let plain = rest.get(..end).unwrap_or_default();
        if plain.bytes().any(|byte| byte < 0x20) {
            return Err(self.fault(CONTROL));
        }
        self.at += end;
        if self.next() == Some(b'"') {
            return Ok(Cow::Borrowed(plain));
        }
        self.at -= 1;
        let mut value = plain.to_owned();
        loop {
            let rest = self.rest();
            let Some(end) = rest.find(['"', '\\']) else { return Err(self.fault(UNFINISHED)) };
            let plain = rest.get(..end).unwrap_or_default();
            if plain.bytes().any(|byte| byte < 0x20) {
                return Err(self.fault(CONTROL));
            }
            value.push_str(plain);
            self.at += end;
            if self.next() == Some(b'"') {
                return Ok(Cow::Owned(value));
            }
            value.push(self.escape()?);
        }
    }

    /// A number, `true`, `false` or `null`, as written.
    pub(super) fn scalar(&mut self) -> Result<&'a str, Fault> {
        self.peek();
        let rest = self.rest();
        let end = rest
            .find(|next: char| !matches!(next, 'a'..='z' | '0'..='9' | '+' | '-' | '.' | 'E'))
            .unwrap_or(rest.len());
        let scalar = rest.get(..end).unwrap_or_default();
        if !matches!(scalar, "true" | "false" | "null") && !is_number(scalar) {
            return Err(self.fault("a value is missing"));
        }
        self.at += end;
        Ok(scalar)
    }

    /// Reads a value and forgets it.
    pub(super) fn skip(&mut self) -> Result<(), Fault> {
        match self.peek() {
            Some(b'{') => self.object(|text, _| text.skip()),
            Some(b'[') => self.array(Self::skip),
            Some(b'"') => self.string().map(|_| ()),
            _ => self.scalar().map(|_| ()),
        }
    }

    /// Nothing may come after the value.
    pub(super) fn end(&mut self) -> Result<(), Fault> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.fault("there is more after the value: leave one value")),
        }
    }

    pub(super) fn fault(&self, problem: impl Into<Cow<'static, str>>) -> Fault {
        Fault::new(problem).at_line(line_of(self.text.as_bytes().get(..self.at).unwrap_or_default()))
    }

    pub(super) fn repeated(&self, name: &str) -> Fault {
        self.fault(format!("an object has the member `{}` twice: remove one", shown(name)))
    }

    fn sequence(
        &mut self,
        open: u8,
        close: u8,
        mut item: impl FnMut(&mut Self) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        self.expect(open, "an object or array is missing")?;
        if self.depth == MAX_DEPTH {
            return Err(self.fault(format!("values are nested more than {MAX_DEPTH} levels deep: flatten them")));
        }
        self.depth += 1;
        let mut is_first = true;
        loop {
            match self.peek() {
                Some(next) if next == close && is_first => break,
                Some(_) => item(self)?,
                None => return Err(self.fault(UNFINISHED)),
            }
            is_first = false;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(next) if next == close => break,
                Some(_) => return Err(self.fault("a comma or a closing bracket is missing")),
                None => return Err(self.fault(UNFINISHED)),
            }
        }
        self.at += 1;
        self.depth -= 1;
        Ok(())
    }

    fn expect(&mut self, wanted: u8, problem: &'static str) -> Result<(), Fault> {
        if self.peek() != Some(wanted) {
            return Err(self.fault(problem));
        }
        self.at += 1;
        Ok(())
    }

    /// What a backslash, which was read, stands for.
    fn escape(&mut self) -> Result<char, Fault> {
        let escape = match self.next() {
            Some(plain @ (b'"' | b'\\' | b'/')) => Some(char::from(plain)),
            Some(b'b') => Some('\u{8}'),
            Some(b'f') => Some('\u{c}'),
            Some(b'n') => Some('\n'),
            Some(b'r') => Some('\r'),
            Some(b't') => Some('\t'),
            Some(b'u') => self.unicode(),
            _ => None,
        };
        escape.ok_or_else(|| self.fault("a string has an escape that stands for no character"))
    }

    /// Half of a surrogate pair is no character: Open Policy Agent would put U+FFFD in its place, others refuse.
    fn unicode(&mut self) -> Option<char> {
        let high = self.hex()?;
        if !(0xd800..0xdc00).contains(&high) {
            return char::from_u32(high);
        }
        let is_followed = self.rest().starts_with("\\u");
        self.at += 2;
        let low = self.hex().filter(|low| is_followed && (0xdc00..0xe000).contains(low))?;
        char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00))
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.rest().get(..4).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
        self.at += 4;
        u32::from_str_radix(digits, 16).ok()
    }

    /// One byte, which is ASCII: the rest always begins with a whole character.
    fn next(&mut self) -> Option<u8> {
        let next = self.rest().bytes().next().filter(u8::is_ascii)?;
        self.at += 1;
        Some(next)
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }
}

/// `-? (0 | [1-9][0-9]*) (. [0-9]+)? ([eE] [+-]? [0-9]+)?`
fn is_number(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let text = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) =
        text.split_once(['e', 'E']).map_or((text, None), |(before, after)| (before, Some(after)));
    let (integer, fraction) =
        mantissa.split_once('.').map_or((mantissa, None), |(before, after)| (before, Some(after)));
    digits(integer)
        && (integer == "0" || !integer.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|exponent| digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)))
}

fn line_of(before: &[u8]) -> usize {
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

/// Far below where recursion would reach the end of a small stack.
pub(super) const MAX_DEPTH: usize = 64;
const UNFINISHED: &str = "the file ends in the middle of a value";
const CONTROL: &str = "a string has a control character: write it as an escape";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn read(bytes: &[u8]) -> Result<(), Fault> {
        let mut text = Text::new(bytes)?;
        text.skip()?;
        text.end()
    }

    #[test]
    fn what_is_no_json_is_refused_with_its_line() {
        for (name, odd) in [
            ("nothing", ""),
            ("white space", " \n"),
            ("a comma at the end", "[1,]"),
            ("a comma at the start", "[,1]"),
            ("no comma", "[1 2]"),
            ("a member without a value", r#"{"a"}"#),
            ("a member without a name", "{1:1}"),
            ("a comma at the end of an object", r#"{"a":1,}"#),
            ("unfinished array", "[1"),
            ("unfinished object", r#"{"a":1"#),
            ("unfinished string", r#""a"#),
            ("unfinished escape", r#""a\"#),
            ("the wrong bracket", "[1}"),
            ("two values", "1 2"),
            ("a comment", "1 // one"),
            ("a word", "nul"),
            ("a longer word", "nullx"),
            ("capitals", "True"),
            ("not a number", "NaN"),
            ("infinity", "-Infinity"),
            ("leading zero", "01"),
            ("leading plus", "+1"),
            ("no integer", ".5"),
            ("no fraction", "1."),
            ("no exponent", "1e"),
            ("minus alone", "-"),
            ("hexadecimal", "0x1"),
            ("single quotes", "'a'"),
            ("an unknown escape", r#""\x""#),
            ("a short escape", r#""\u12""#),
            ("a signed escape", r#""\u+123""#),
            ("half a pair", r#""\ud800""#),
            ("half a pair and more", r#""\ud800\n""#),
            ("the other half", r#""\udc00""#),
            ("two first halves", r#""\ud800\ud800""#),
            ("half a pair, then two wide characters", "\"\\ud800\u{1f600}\u{1f600}\""),
            ("a control character", "\"a\tb\""),
            ("a control character after an escape", "\"\\n\tb\""),
            ("byte order mark", "\u{feff}1"),
            ("another white space", "\u{a0}1"),
        ] {
            assert!(read(odd.as_bytes()).is_err(), "{name}");
            assert!(serde_json::from_str::<Value>(odd).is_err(), "{name}");
        }
        assert_eq!(
            read(b"{\n\"a\": 1,\n\"b\" 2}"),
            Err(Fault::new("a `:` is missing after a member's name").at_line(3))
        );
        assert_eq!(read(b"\n\"\xff\""), Err(Fault::new("the file is not UTF-8: save it as UTF-8").at_line(2)));
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(read(nested(MAX_DEPTH).as_bytes()), Ok(()));
        assert!(read(nested(MAX_DEPTH + 1).as_bytes()).is_err());
        assert!(read("{\"a\":".repeat(1_000_000).as_bytes()).is_err());
        for (open, close) in [("[", "]"), ("[[", "]]")] {
            let wide = format!("{open}{}1{close}", "[],".repeat(1000));
            assert_eq!(read(wide.as_bytes()), Ok(()), "side by side is not deep");
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_json_and_the_other_way_round(text in r#"[\[\]{}":,0-9eE.+ntrufalsd\\ -]{0,24}"#) {
            // Surrogates are not looked at where a value is ignored.
            prop_assume!(!text.contains("\\u"));
            prop_assert_eq!(read(text.as_bytes()).is_ok(), serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }
    }
}
