use http::HeaderMap;
#[cfg(any(feature = "authzen", feature = "opa"))]
use http::HeaderValue;

/// The trace id of a valid `traceparent` ([W3C Trace Context §3.2]), to find the request in other telemetry.
///
/// The caller chose it: it is no proof of anything, and its sampling flag never decides whether a record is written. One that
/// is not valid, or comes twice, is ignored whole.
///
/// [W3C Trace Context §3.2]: https://www.w3.org/TR/trace-context/#traceparent-header
pub(crate) fn trace_id(headers: &HeaderMap) -> Option<String> {
    trace(headers).map(|(trace_id, _)| trace_id)
}

/// As [`trace_id`], and whether whoever sent it may have recorded the trace.
pub(crate) fn trace(headers: &HeaderMap) -> Option<(String, bool)> {
    let mut values = headers.get_all("traceparent").iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let mut fields = value.to_str().ok()?.splitn(5, '-');
    let (version, trace_id, parent_id, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let valid = is_hex(version, 2)
        && version != "ff"
        && is_id(trace_id, 32)
        && is_id(parent_id, 16)
        && is_hex(flags, 2)
        // §3.2.4: only versions after 00 may have further fields.
        && (fields.next().is_none() || version != "00");
    let is_sampled = u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & SAMPLED != 0);
    valid.then(|| (trace_id.to_owned(), is_sampled))
}

/// The `traceparent` of a request that is made for the one with this trace id: version 00, a span of its own.
#[cfg(any(feature = "authzen", feature = "opa"))]
pub(crate) fn traceparent(trace_id: &str, is_sampled: bool) -> Option<HeaderValue> {
    let span = crate::random::hex_128();
    let span = span.as_str().get(..16)?;
    let flags = if is_sampled { SAMPLED } else { 0 };
    let is_valid = is_id(trace_id, 32) && is_id(span, 16);
    is_valid.then(|| HeaderValue::from_str(&format!("00-{trace_id}-{span}-{flags:02x}")).ok()).flatten()
}

/// §3.2.2.3 and §3.2.2.4: all zeros is no id.
fn is_id(field: &str, length: usize) -> bool {
    is_hex(field, length) && field.bytes().any(|byte| byte != b'0')
}

fn is_hex(field: &str, length: usize) -> bool {
    field.len() == length && field.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// §3.2.2.5.1.
const SAMPLED: u8 = 1;

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn of(values: &[&str]) -> Option<String> {
        trace_id(&HeaderMap::from_iter(
            values.iter().map(|value| ("traceparent".parse().unwrap(), HeaderValue::from_str(value).unwrap())),
        ))
    }

    #[test]
    fn a_valid_traceparent_gives_its_trace_id() {
        for value in ["00-ID-00f067aa0ba902b7-01", "00-ID-00f067aa0ba902b7-00", "cc-ID-00f067aa0ba902b7-01-more"] {
            assert_eq!(of(&[&value.replace("ID", ID)]).as_deref(), Some(ID), "{value}");
        }
    }

    #[test]
    fn the_flag_says_whether_the_trace_may_have_been_recorded() {
        for (flags, sampled) in [("00", false), ("01", true), ("02", false), ("ff", true)] {
            let value = format!("00-{ID}-00f067aa0ba902b7-{flags}");
            let headers = HeaderMap::from_iter([("traceparent".parse().unwrap(), value.parse().unwrap())]);
            assert_eq!(trace(&headers), Some((ID.to_owned(), sampled)), "{flags}");
        }
    }

    #[cfg(any(feature = "authzen", feature = "opa"))]
    #[test]
    fn a_request_of_ours_goes_under_the_same_trace_with_a_span_of_its_own() {
        let one = traceparent(ID, true).unwrap();
        let two = traceparent(ID, false).unwrap();
        let (one, two) = (one.to_str().unwrap(), two.to_str().unwrap());
        assert!(one.starts_with(&format!("00-{ID}-")) && one.ends_with("-01") && two.ends_with("-00"), "{one} {two}");
        assert_ne!(one[..52], two[..52]);
        assert_eq!(of(&[one]).as_deref(), Some(ID));
        for bad in ["", "0", "00000000000000000000000000000000", &ID.to_uppercase(), &ID[1..], &format!("{ID}\r\nx: y")]
        {
            assert_eq!(traceparent(bad, true), None, "{bad:?}");
        }
    }

    #[test]
    fn an_invalid_or_doubled_traceparent_is_ignored_whole() {
        let cases = [
            "",
            "00",
            "ff-ID-00f067aa0ba902b7-01",
            "00-ID-0000000000000000-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-ID-00f067aa0ba902b7-01-more",
            "00-ID-00f067aa0ba902b7",
            "00-ID-00f067aa0ba902b7-1",
            "0-ID-00f067aa0ba902b7-01",
            "00-ID-00f067aa0ba902b7-01 ",
        ];
        for value in cases {
            assert_eq!(of(&[&value.replace("ID", ID)]), None, "{value}");
        }
        let valid = format!("00-{ID}-00f067aa0ba902b7-01");
        assert_eq!(of(&[&valid, &valid]), None);
        assert_eq!(of(&[]), None);
    }
}
