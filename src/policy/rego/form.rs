//! What a module must not look like, because the engine's parser does not survive it.

/// A text that must not reach the parser.
#[derive(Debug)]
pub(in crate::policy) struct Odd {
    pub(in crate::policy) line: usize,
    pub(in crate::policy) remedy: String,
}

pub(in crate::policy) fn check(text: &str) -> Result<(), Odd> {
    // The engine would take it for the end of the text, and what comes after it would not be there.
    if let Some((before, _)) = text.split_once('\0') {
        let remedy = "the module has a NUL character: remove it".to_owned();
        return Err(Odd { line: before.lines().count().max(1), remedy });
    }
    check_nesting(text)
}

/// The parser takes twice as long for each bracket inside of another, and ends the process when they reach the end of its stack: both
/// have to be found out before it begins.
fn check_nesting(text: &str) -> Result<(), Odd> {
    let (mut bytes, mut line) = (text.bytes(), 1);
    let (mut brackets, mut signs) = (0_usize, 0_usize);
    while let Some(byte) = bytes.next() {
        match byte {
            b'\n' => line += 1,
            b'#' => line += usize::from(bytes.by_ref().any(|byte| byte == b'\n')),
            b'`' => line += bytes.by_ref().take_while(|byte| *byte != b'`').filter(|byte| *byte == b'\n').count(),
            b'"' => {
                while let Some(byte) = bytes.next().filter(|byte| *byte != b'"') {
                    if byte == b'\\' {
                        bytes.next();
                    }
                }
            }
            b'(' | b'[' | b'{' => brackets += 1,
            b')' | b']' | b'}' => brackets = brackets.saturating_sub(1),
            b'-' => signs += 1,
            _ => {}
        }
        if !matches!(byte, b'-' | b' ' | b'\t' | b'\r' | b'\n') {
            signs = 0;
        }
        if brackets > MAX_NESTING || signs > MAX_NESTING {
            let remedy =
                format!("expressions are nested more than {MAX_NESTING} levels deep: take them apart into rules");
            return Err(Odd { line, remedy });
        }
    }
    Ok(())
}

const MAX_NESTING: usize = 16;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{ConfigError, policy::Rego};

    fn build(text: &str) -> Result<Rego, ConfigError> {
        let source = format!("package authz\n\n{text}\ndecision := true\n");
        Rego::builder().add_source("authz.rego", source).with_time_limit(Duration::from_secs(1)).build()
    }

    #[test]
    fn what_would_keep_the_parser_busy_end_the_process_or_hide_from_it_does_not_reach_it() {
        for (open, close) in [("[", "]"), ("{", "}"), ("{\"a\":", "}"), ("(", ")"), ("f(", ")"), ("y[", "]"), ("-", "")]
        {
            for depth in [17, 40, 100_000] {
                let error = build(&format!("x := {}1{}", open.repeat(depth), close.repeat(depth))).unwrap_err();
                assert_eq!(error.field(), "policy.rego.source");
                assert!(
                    error.to_string().contains("authz.rego:3") && error.to_string().contains("16 levels"),
                    "{error}"
                );
            }
        }
        let error = build("x := 1\n# \0\ndecision := false").unwrap_err();
        assert!(error.to_string().contains("authz.rego:4") && error.to_string().contains("NUL"), "{error}");
        assert!(build(&format!("x := {}1{}", "[".repeat(8), "]".repeat(8))).is_ok());
    }

    #[test]
    fn depth_is_counted_where_the_parser_nests_and_found_on_its_line() {
        let (deep, flat) = ("[".repeat(17), "[".repeat(16));
        for (what, text, line) in [
            ("as deep as may be", flat.clone(), None),
            ("one deeper", format!("\n\n{deep}"), Some(3)),
            ("other brackets", "({[".repeat(6), Some(1)),
            ("one after the other", "()[]{}".repeat(17), None),
            ("more closed than opened", format!("]]{deep}"), Some(1)),
            ("closed before", format!("[]{flat}"), None),
            ("in a comment", format!("# {deep}\n{flat}"), None),
            ("after a comment", format!("# \"\n{deep}"), Some(2)),
            ("in a last comment", format!("# {deep}"), None),
            ("in a text", format!("\"{deep}\" {flat}"), None),
            ("in a text behind a quote", format!(r#""\"{deep}""#), None),
            ("after a text that ends in a backslash", format!(r#""\\"{deep}"#), Some(1)),
            ("in a raw text", format!("`{deep}\\` {flat}"), None),
            ("after a raw text", format!("`\n\"\n`{deep}"), Some(3)),
            ("as many signs as may be", "-".repeat(16), None),
            ("one sign more", "-".repeat(17), Some(1)),
            ("signs apart", "- \t\r\n".repeat(17), Some(17)),
            ("signs between numbers", "1-".repeat(17), None),
            ("a NUL at once", "\0".to_owned(), Some(1)),
            ("a NUL in a text", "x\n\"\0\"".to_owned(), Some(2)),
        ] {
            assert_eq!(check(&text).err().map(|odd| odd.line), line, "{what}");
        }
    }
}
