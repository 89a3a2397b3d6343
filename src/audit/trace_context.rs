use http::HeaderMap;

/// The trace id of a valid `traceparent` ([W3C Trace Context §3.2]), to find the request in other telemetry.
///
/// The caller chose it: it is no proof of anything, and its sampling flag never decides whether a record is written. One that
/// is not valid, or comes twice, is ignored whole.
///
/// [W3C Trace Context §3.2]: https://www.w3.org/TR/trace-context/#traceparent-header
pub(crate) fn trace_id(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all("traceparent").iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let mut fields = value.to_str().ok()?.splitn(5, '-');
    let (version, trace_id, parent_id, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let valid = is_hex(version, 2)
        && version != "ff"
        && is_hex(trace_id, 32)
        && is_hex(parent_id, 16)
        && is_hex(flags, 2)
        && has_a_bit(trace_id)
        && has_a_bit(parent_id)
        // §3.2.4: only versions after 00 may have further fields.
        && (fields.next().is_none() || version != "00");
    valid.then(|| trace_id.to_owned())
}

fn is_hex(field: &str, length: usize) -> bool {
    field.len() == length && field.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn has_a_bit(field: &str) -> bool {
    field.bytes().any(|byte| byte != b'0')
}

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
