//! Calls of built-in functions by which a policy decides otherwise here than in Open Policy Agent.
//!
//! Policies in `tests/peers/opa/corpus` show most of them: both engines are asked about those.

use super::ast::Expr;

/// What to do instead, where the call of this built-in function is known to give other results.
pub(super) fn of(function: &str, params: &[Expr]) -> Option<String> {
    let literal = |index: usize| params.get(index).map(Expr::string);
    match function {
        _ if WHATEVER_THE_ARGUMENTS.contains(&function) => {
            Some(format!("`{function}` gives other results here than in Open Policy Agent: do without it"))
        }
        "glob.match" if !params.get(1).is_none_or(are_sound_delimiters) => Some(
            "`glob.match` knows these delimiters no better than other characters, so that `*` matches them: write them as `[\"/\"]`, \
             `[\".\"]`, `[]` or `null`"
                .to_owned(),
        ),
        "glob.match" if literal(0)?.is_some_and(|pattern| pattern.contains(['?', '['])) => Some(
            "`?` and `[` match other characters here than in Open Policy Agent: do without them in patterns of `glob.match`"
                .to_owned(),
        ),
        "sprintf" if !literal(0)?.is_some_and(is_plain_format) => Some(
            "`sprintf` gives other texts here than in Open Policy Agent unless the format is a literal with no verbs but `%s`, `%v`, `%d`, \
             `%x`, `%X`, `%q`, `%%`, and `%05d` with any digit"
                .to_owned(),
        ),
        _ => {
            let pattern = match function {
                "regex.find_all_string_submatch_n" | "regex.find_n" | "regex.match" | "regex.split" => literal(0)?,
                "regex.replace" => literal(1)?,
                _ => return None,
            };
            match pattern {
                None => Some(format!(
                    "the pattern of `{function}` has to be a literal: only then can it be seen that it means the same in Open Policy \
                     Agent"
                )),
                Some(pattern) => regex(pattern),
            }
        }
    }
}

fn are_sound_delimiters(delimiters: &Expr) -> bool {
    match delimiters {
        Expr::Null {} => true,
        Expr::Array { items } => match items.as_slice() {
            [] => true,
            [one] => matches!(one.string(), Some("/" | ".")),
            _ => false,
        },
        _ => false,
    }
}

pub(in crate::policy) fn is_plain_format(format: &str) -> bool {
    let mut verbs = format.split('%').skip(1);
    while let Some(verb) = verbs.next() {
        let rest = verb.trim_start_matches(|c: char| c.is_ascii_digit());
        let digits = verb.get(..verb.len() - rest.len()).unwrap_or_default();
        let is_plain = match verb.chars().next() {
            // `%%`: what follows the second one is text.
            None => verbs.next().is_some(),
            Some('s' | 'v' | 'd' | 'x' | 'X' | 'q') => true,
            Some('0') => digits.len() == 2 && rest.starts_with('d'),
            Some(_) => false,
        };
        if !is_plain {
            return false;
        }
    }
    true
}

/// Open Policy Agent's expressions are RE2's. Those here know more: classes by Unicode, sets of classes, flags, possessive repetition.
pub(in crate::policy) fn regex(pattern: &str) -> Option<String> {
    let refuse = |what: &str, instead: &str| {
        Some(format!("`{what}` in a regular expression means something else in Open Policy Agent: {instead}"))
    };
    let mut rest = pattern.chars().peekable();
    let (mut in_class, mut repeats) = (false, false);
    while let Some(char) = rest.next() {
        let next = rest.peek().copied();
        let repeated = std::mem::take(&mut repeats);
        match (char, next) {
            ('\\', Some(escaped)) => {
                rest.next();
                match escaped {
                    'w' | 'W' => return refuse(&format!("\\{escaped}"), "write `[0-9A-Za-z_]`"),
                    'd' | 'D' => return refuse(&format!("\\{escaped}"), "write `[0-9]`"),
                    's' | 'S' => return refuse(&format!("\\{escaped}"), "write `[\\t\\n\\f\\r ]`"),
                    // What both read in the same way: marks, control characters, the ends of the text.
                    'A' | 'f' | 'n' | 'r' | 't' | 'v' | 'z' => {}
                    _ if escaped.is_ascii_punctuation() && !matches!(escaped, '<' | '>') => {}
                    _ => return refuse(&format!("\\{escaped}"), "write the characters themselves"),
                }
            }
            ('[', _) if in_class => {
                return refuse("[", "write it as `\\[` in a class, and do without classes in classes");
            }
            ('&' | '-' | '~', Some(same)) if in_class && same == char => {
                return refuse(&format!("{char}{char}"), "name the characters of the class one by one");
            }
            ('[', _) => {
                in_class = true;
                rest.next_if_eq(&'^');
                if rest.peek() == Some(&']') {
                    return refuse("]", "write it as `\\]` in a class");
                }
            }
            (']', _) if in_class => in_class = false,
            _ if in_class => {}
            ('(', Some('?')) => {
                rest.next();
                if rest.next_if_eq(&':').is_none() {
                    return refuse("(?", "do without flags and names, and group with `(?:`");
                }
            }
            ('*' | '+' | '?' | '}', _) => {
                if repeated {
                    return refuse(&char.to_string(), "put what is repeated twice into a group");
                }
                // Once `?` may follow: as few as possible.
                let lazy = rest.next_if_eq(&'?').is_some();
                repeats = true;
                if lazy && matches!(rest.peek(), Some('*' | '+' | '?' | '{')) {
                    return refuse("?", "put what is repeated twice into a group");
                }
            }
            ('{', _) => {
                let bounds: String = std::iter::from_fn(|| rest.next_if(|c| c.is_ascii_digit() || *c == ',')).collect();
                let is_large = |bound: &str| bound.len() > 3 && bound != "1000";
                if repeated || rest.peek() != Some(&'}') || bounds.starts_with(',') || bounds.split(',').any(is_large) {
                    return refuse("{", "repeat once, from and to a number up to 1000, or write `\\{`");
                }
            }
            _ => {}
        }
    }
    None
}

/// Built in here and in Open Policy Agent, with results that differ in more than what can be seen in a call.
pub(super) const WHATEVER_THE_ARGUMENTS: [&str; 11] = [
    "base64.is_valid",
    "json.filter",
    "json.is_valid",
    "json.remove",
    "regex.is_valid",
    "regex.template_match",
    "semver.is_valid",
    "strings.count",
    "time.parse_ns",
    "urlquery.decode",
    "urlquery.decode_object",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regular_expressions_that_mean_the_same_are_taken_and_others_are_not() {
        for same in [
            "",
            "^[a-z][a-z0-9-]{1,30}$",
            "^(mail|search)*?$",
            "a+?b{2,}c??",
            "[^@/ ]+@acme\\.example",
            "(?:a|b)+",
            "[\\[\\]\\-]",
            "\\(\\*\\)",
            "[a*+?{]",
            "a{1000}",
            "\u{e9}.",
            "\\n\\t",
        ] {
            assert_eq!(regex(same), None, "{same}");
        }
        for other in [
            "^\\w+$",
            "\\W",
            "\\d",
            "[\\d]",
            "\\s",
            "[^\\S]",
            "\\bx",
            "\\B",
            "\\pL",
            "\\u00e9",
            "\\x41",
            "\\<a",
            "\\Qa\\E",
            "[a-z&&[^b]]",
            "[a&&b]",
            "[a--b]",
            "[a~~b]",
            "[[a]b]",
            "[[:alpha:]]",
            "[]a]",
            "[^]a]",
            "(?x)a b",
            "(?i)k",
            "(?-u)a",
            "(?P<n>a)",
            "(?<n>a)",
            "a**",
            "a++",
            "a*+",
            "a{2}{3}",
            "a{2}+",
            "a*??",
            "a{1001}",
            "a{,3}",
            "a{b",
            "a+{2}",
        ] {
            assert!(regex(other).is_some(), "{other}");
        }
    }

    #[test]
    fn formats_with_other_than_plain_verbs_are_known() {
        for plain in ["", "a", "%s", "%s %v%d", "%x%X%q", "100 %%", "%%%s", "%05d"] {
            assert!(is_plain_format(plain), "{plain}");
        }
        for other in [
            "%t", "%-8s", "%8s", "%5d", "%+d", "% d", "%[1]s", "%*d", "%.3s", "%", "%z", "%5.1f", "%010d", "%f", "%%%",
            "%.2f",
        ] {
            assert!(!is_plain_format(other), "{other}");
        }
    }
}
