//! What modules are known to decide otherwise than a server of Open Policy Agent.

/// The built-in functions, compiled into the module, by which it can allow what a server denies. `None` when the module does not name its
/// functions, as the compiler of policies lets it.
pub(super) fn differences(module: &[u8]) -> Option<Vec<&'static str>> {
    let names = names(module)?;
    let is_in = |name: &str| names.windows(name.len()).any(|window| window == name.as_bytes());
    Some(KNOWN.into_iter().filter(|(inner, _)| is_in(inner)).map(|(_, function)| function).collect())
}

/// The [name section](https://webassembly.github.io/spec/core/appendix/custom.html#name-section). Functions that a policy does not call are
/// not in the module, and so not in there.
fn names(module: &[u8]) -> Option<&[u8]> {
    let mut rest = module.get(HEADER..)?;
    while let Some((id, after)) = rest.split_first() {
        let (length, after) = number(after)?;
        let (section, others) = after.split_at_checked(length)?;
        rest = others;
        if let (0, Some(names)) = (*id, section.strip_prefix(b"\x04name")) {
            return Some(names);
        }
    }
    None
}

/// LEB128, as the specification has it for lengths.
fn number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut number = 0;
    for (index, byte) in bytes.iter().enumerate().take(MAX_DIGITS) {
        number |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((number, bytes.get(index + 1..)?));
        }
    }
    None
}

/// By the names that they have in modules. The first two (`net.cidr_overlap` is the first one as well) take an IPv4 address that is
/// written as IPv6 for another one; the last finds an empty text at the start of every text, which is an error there.
const KNOWN: [(&str, &str); 3] = [
    ("opa_cidr_contains", "net.cidr_contains"),
    ("opa_cidr_intersects", "net.cidr_intersects"),
    ("opa_strings_indexof", "indexof"),
];

/// Magic number and version.
const HEADER: usize = 8;
const MAX_DIGITS: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_called_is_seen_in_the_names_and_nowhere_else() {
        let of = |text: &str| differences(&wat::parse_str(text).unwrap());
        assert_eq!(
            of("(module (func $opa_cidr_contains) (func $opa_strings_indexof))"),
            Some(vec!["net.cidr_contains", "indexof"])
        );
        let elsewhere =
            "(module (memory 1) (data (i32.const 0) \"opa_cidr_contains\") (func $f (export \"opa_strings_indexof\")))";
        assert_eq!(of(elsewhere), Some(vec![]));
        assert_eq!(of("(module (func))"), None);
        let whole = wat::parse_str("(module (func $opa_cidr_contains))").unwrap();
        for length in 0..whole.len() {
            assert_eq!(differences(&whole[..length]), None, "{length}");
        }
        assert_eq!(differences(b"\0asm\x01\0\0\0\0\xff\xff\xff\xff\xff\x01"), None);
    }
}
