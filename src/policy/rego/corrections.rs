//! Built-in functions that are replaced, because the engine's give other results than Open Policy Agent's.
//!
//! Where Open Policy Agent reads more than the standard says, an error is given instead: that is no decision.

use std::net::{IpAddr, Ipv6Addr};

use regorus::{Engine, Value};

use super::engine::broken;
use crate::ConfigError;

/// Puts them in the place of the engine's own.
pub(in crate::policy) fn install(engine: &mut Engine) -> Result<(), ConfigError> {
    const CORRECTIONS: [(&str, u8, Function); 9] = [
        ("count", 1, |values| count(values.first()?)),
        ("indexof", 2, |values| {
            let (all, wanted) = (text(values.first()?)?, text(values.get(1)?)?);
            Some(positions(all, wanted)?.next().map_or_else(|| Value::from(-1_i64), Value::from))
        }),
        ("indexof_n", 2, |values| {
            let (all, wanted) = (text(values.first()?)?, text(values.get(1)?)?);
            Some(Value::from(positions(all, wanted)?.map(Value::from).collect::<Vec<_>>()))
        }),
        ("lower", 1, |values| lower(text(values.first()?)?).map(Value::from)),
        ("net.cidr_contains", 2, |values| contains(text(values.first()?)?, text(values.get(1)?)?).map(Value::from)),
        ("net.cidr_is_valid", 1, |values| Some(Value::from(Network::read(text(values.first()?)?).is_some()))),
        ("time.parse_rfc3339_ns", 1, |values| nanoseconds(text(values.first()?)?).map(Value::from)),
        ("to_number", 1, |values| to_number(values.first()?)),
        ("upper", 1, |values| upper(text(values.first()?)?).map(Value::from)),
    ];
    for (name, arguments, function) in CORRECTIONS {
        let extension = move |values: Vec<Value>| function(&values).ok_or_else(|| Refused.into());
        engine.add_extension(name.to_owned(), arguments, Box::new(extension)).map_err(|error| broken(name, error))?;
    }
    Ok(())
}

/// `None` is an error.
type Function = fn(&[Value]) -> Option<Value>;

#[derive(Debug, thiserror::Error)]
#[error("an argument is refused")]
struct Refused;

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

/// The engine counts UTF-16 units.
fn count(value: &Value) -> Option<Value> {
    let count = match value {
        Value::String(text) => text.chars().count(),
        Value::Array(items) => items.len(),
        Value::Set(items) => items.len(),
        Value::Object(members) => members.len(),
        _ => return None,
    };
    Some(Value::from(u64::try_from(count).ok()?))
}

/// In characters. Nothing at all is found nowhere: an error there, the first place in the engine.
fn positions(all: &str, wanted: &str) -> Option<impl Iterator<Item = u64>> {
    let starts = all.char_indices().map(|(at, _)| at).zip(0..);
    (!wanted.is_empty()).then(|| {
        starts
            .filter(move |(at, _)| all.get(*at..).is_some_and(|rest| rest.starts_with(wanted)))
            .map(|(_, number)| number)
    })
}

/// Each character for itself; the engine knows that a sigma at the end of a word is another one.
fn lower(text: &str) -> Option<String> {
    let single = |char: char| {
        let mut lower = char.to_lowercase();
        // The dotted capital I is the only character that becomes two.
        lower.next().filter(|_| lower.next().is_none() || char == '\u{130}')
    };
    text.chars().map(single).collect()
}

/// Each character for itself; where the engine writes several, it stays as it is.
fn upper(text: &str) -> Option<String> {
    let single = |char: char| {
        let mut upper = char.to_uppercase();
        match (upper.next(), upper.next()) {
            (first, None) => first,
            // Greek with an iota below has capitals of one character too, which the standard library does not know.
            _ if ('\u{1f00}'..='\u{1fff}').contains(&char) => None,
            _ => Some(char),
        }
    };
    text.chars().map(single).collect()
}

/// The engine passes over spaces around it.
fn to_number(value: &Value) -> Option<Value> {
    match value {
        Value::Null | Value::Bool(false) => Some(Value::from(0_u64)),
        Value::Bool(true) => Some(Value::from(1_u64)),
        Value::Number(_) => Some(value.clone()),
        Value::String(text) if !text.contains(|char: char| char.is_ascii_whitespace()) => {
            Value::from_json_str(text).ok().filter(|value| matches!(value, Value::Number(_)))
        }
        _ => None,
    }
}

/// RFC 3339 §5.6 with a capital `T` and `Z`, to the nanosecond; the engine also takes small letters, a space and a 60th second.
fn nanoseconds(text: &str) -> Option<i64> {
    let number = |at: std::ops::Range<usize>| {
        text.get(at).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?.parse::<u8>().ok()
    };
    let sign = |at: usize, sign: char| text.get(at..).filter(|rest| rest.starts_with(sign)).map(drop);
    [(4, '-'), (7, '-'), (10, 'T'), (13, ':'), (16, ':')].into_iter().try_for_each(|(at, char)| sign(at, char))?;
    let year = i32::from(number(0..2)?) * 100 + i32::from(number(2..4)?);
    let month = time::Month::try_from(number(5..7)?).ok()?;
    let date = time::Date::from_calendar_date(year, month, number(8..10)?).ok()?;
    let moment = date.with_hms(number(11..13)?, number(14..16)?, number(17..19)?).ok()?.assume_utc();
    let rest = text.get(19..)?;
    let (fraction, zone) = match rest.strip_prefix('.') {
        None => (0, rest),
        Some(rest) => {
            let zone = rest.trim_start_matches(|char: char| char.is_ascii_digit());
            let digits: String = rest.strip_suffix(zone)?.chars().take(9).collect();
            (format!("{digits:0<9}").parse::<i128>().ok().filter(|_| !digits.is_empty())?, zone)
        }
    };
    let offset = match (zone, text.len() - zone.len()) {
        ("Z", _) => 0,
        (_, at) if zone.len() == 6 && sign(at + 3, ':').is_some() => {
            let (hours, minutes) = (number(at + 1..at + 3)?, number(at + 4..at + 6)?);
            let seconds = i128::from(hours) * 3600 + i128::from(minutes) * 60;
            match zone.chars().next()? {
                _ if hours > 23 || minutes > 59 => return None,
                '+' => seconds,
                '-' => -seconds,
                _ => return None,
            }
        }
        _ => return None,
    };
    i64::try_from(moment.unix_timestamp_nanos() + fraction - offset * 1_000_000_000).ok()
}

/// An IPv4 address is one also when it is written as IPv6, on both sides.
fn contains(network: &str, other: &str) -> Option<bool> {
    let network = Network::read(network)?;
    let (first, last) = match other.parse::<IpAddr>() {
        Ok(address) => (bits(address), bits(address)),
        Err(_) => Network::read(other)?.bounds(),
    };
    Some(network.holds(first) && network.holds(last))
}

#[derive(Clone, Copy)]
struct Network {
    is_v4: bool,
    first: u128,
    /// The bits that differ within it.
    rest: u128,
}

impl Network {
    fn read(text: &str) -> Option<Self> {
        let (address, length) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let length: u32 = length.bytes().all(|byte| byte.is_ascii_digit()).then(|| length.parse().ok())??;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let rest = u128::MAX.checked_shr(length.checked_add(128 - width)?).unwrap_or_default();
        let rest = if length > width { return None } else { rest };
        match address {
            IpAddr::V4(address) => Some(Self { is_v4: true, first: u128::from(u32::from(address)) & !rest, rest }),
            IpAddr::V6(address) => {
                let first = u128::from(address) & !rest;
                let (is_v4, bits) = bits(IpAddr::V6(Ipv6Addr::from(first)));
                Some(Self { is_v4, first: bits, rest: if is_v4 { rest & u128::from(u32::MAX) } else { rest } })
            }
        }
    }

    fn holds(self, (is_v4, address): (bool, u128)) -> bool {
        self.is_v4 == is_v4 && address & !self.rest == self.first
    }

    fn bounds(self) -> ((bool, u128), (bool, u128)) {
        ((self.is_v4, self.first), (self.is_v4, self.first | self.rest))
    }
}

fn bits(address: IpAddr) -> (bool, u128) {
    match address.to_canonical() {
        IpAddr::V4(address) => (true, u32::from(address).into()),
        IpAddr::V6(address) => (false, address.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_counted_found_and_changed_by_character() {
        assert_eq!(count(&Value::from("a\u{1f600}b")), Some(Value::from(3_u64)));
        assert_eq!(count(&Value::from(vec![Value::Null])), Some(Value::from(1_u64)));
        assert_eq!(count(&Value::from_json_str(r#"{"a": 1, "b": 2}"#).unwrap()), Some(Value::from(2_u64)));
        assert_eq!(count(&Value::Null), None);
        let found = |all: &str, wanted: &str| positions(all, wanted).map(Iterator::collect::<Vec<_>>);
        assert_eq!(found("\u{e9}\u{1f600}\u{e9}", "\u{e9}"), Some(vec![0, 2]));
        assert_eq!(found("aaa", "aa"), Some(vec![0, 1]));
        assert_eq!((found("abc", "x"), found("abc", "")), (Some(vec![]), None));
        assert_eq!(lower("A\u{130}\u{c9} \u{391}\u{3a3}").as_deref(), Some("ai\u{e9} \u{3b1}\u{3c3}"));
        assert_eq!(upper("a\u{df}\u{fb01}\u{e9}").as_deref(), Some("A\u{df}\u{fb01}\u{c9}"));
        assert_eq!(upper("\u{1f80}"), None);
    }

    #[test]
    fn a_number_has_nothing_around_it() {
        for (text, expected) in
            [("1", Some(1)), ("-1", Some(-1)), (" 1", None), ("1 ", None), ("1\n", None), ("", None), ("true", None)]
        {
            assert_eq!(to_number(&Value::from(text)), expected.map(|number: i64| Value::from(number)), "{text:?}");
        }
        for (value, expected) in
            [(Value::Null, 0), (Value::from(false), 0), (Value::from(true), 1), (Value::from(7_u64), 7)]
        {
            assert_eq!(to_number(&value), Some(Value::from(expected)), "{value}");
        }
        assert_eq!(to_number(&Value::from(vec![])), None);
    }

    #[test]
    fn a_time_is_read_as_open_policy_agent_reads_it_or_not_at_all() {
        const MIDNIGHT: i64 = 1_772_323_200_000_000_000;
        for (text, expected) in [
            ("2026-03-01T00:00:00Z", Some(MIDNIGHT)),
            ("2026-03-01T00:00:00+01:00", Some(MIDNIGHT - 3_600_000_000_000)),
            ("2026-03-01T00:00:00-00:30", Some(MIDNIGHT + 1_800_000_000_000)),
            ("2026-03-01T00:00:00.5Z", Some(MIDNIGHT + 500_000_000)),
            ("2026-03-01T00:00:00.1234567899Z", Some(MIDNIGHT + 123_456_789)),
            ("2026-03-01T00:00:00.5+01:00", Some(MIDNIGHT + 500_000_000 - 3_600_000_000_000)),
            ("2026-03-01T00:00:00-23:59", Some(MIDNIGHT + 86_340_000_000_000)),
            ("1969-12-31T23:59:59Z", Some(-1_000_000_000)),
            ("2026-03-01t00:00:00Z", None),
            ("2026-03-01T00:00:00z", None),
            ("2026-03-01 00:00:00Z", None),
            ("2026-03-01T23:59:60Z", None),
            ("2026-03-01T24:00:00Z", None),
            ("2026-02-30T00:00:00Z", None),
            ("2026-03-01T00:00:00", None),
            ("2026-03-01T00:00:00.Z", None),
            ("2026-03-01T00:00:00+0100", None),
            ("2026-03-01T00:00:00*01:00", None),
            ("2026-03-01T00:00:00+24:00", None),
            ("2026-03-01T00:00:00+01:60", None),
            ("2026-03-01T00:00:00+01:000", None),
            ("2026-03-01T00:00:00+01-00", None),
            ("2026-03-01T00:00:00Zx", None),
            ("2300-01-01T00:00:00Z", None),
            ("+026-03-01T00:00:00Z", None),
            ("2026-03-0\u{663}T00:00:00Z", None),
            ("", None),
        ] {
            assert_eq!(nanoseconds(text), expected, "{text}");
        }
    }

    #[test]
    fn a_network_holds_its_addresses_however_they_are_written() {
        for (network, other, expected) in [
            ("10.0.0.0/8", "10.1.2.3", Some(true)),
            ("10.1.2.3/8", "10.200.0.1", Some(true)),
            ("10.0.0.0/8", "11.0.0.1", Some(false)),
            ("10.0.0.0/8", "::ffff:10.1.2.3", Some(true)),
            ("::/0", "::ffff:10.1.2.3", Some(false)),
            ("::/0", "10.1.2.3", Some(false)),
            ("0.0.0.0/0", "2001:db8::1", Some(false)),
            ("0.0.0.0/0", "255.255.255.255", Some(true)),
            ("::ffff:10.0.0.0/104", "10.1.2.3", Some(true)),
            ("::ffff:10.0.0.0/104", "11.1.2.3", Some(false)),
            ("2001:db8::/32", "2001:db8:ffff::1", Some(true)),
            ("2001:db8::/32", "2001:db9::1", Some(false)),
            ("10.0.0.0/8", "10.1.2.3/16", Some(true)),
            ("10.0.0.0/8", "10.0.0.0/7", Some(false)),
            ("192.0.2.1/32", "192.0.2.1", Some(true)),
            ("192.0.2.1/32", "192.0.2.2", Some(false)),
            ("::1/128", "::1", Some(true)),
            ("10.0.0.0/33", "10.0.0.1", None),
            ("10.0.0.0/+8", "10.0.0.1", None),
            ("10.0.0.0/", "10.0.0.1", None),
            ("10.0.0.0/4294967295", "10.0.0.1", None),
            ("10.0.0.1", "10.0.0.1", None),
            ("010.0.0.0/8", "10.0.0.1", None),
            ("10.0.0.0/8", "010.0.0.1", None),
            ("10.0.0.0/8", "", None),
        ] {
            assert_eq!(contains(network, other), expected, "{network} {other}");
        }
    }
}
