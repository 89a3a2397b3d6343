//! Templates and paths where no router has compared them: for explanations, never for decisions.

use std::{borrow::Cow, sync::Arc};

use percent_encoding::percent_decode_str;

pub(crate) type Params = Vec<(Arc<str>, String)>;

/// How well a template fits a path, segment by segment, and the parameters; `None` when it does not.
pub(crate) fn fit(template: &str, path: &str) -> Option<(Vec<u8>, Params)> {
    let decoded = |raw: &str| percent_decode_str(raw).decode_utf8().ok().map(Cow::into_owned);
    let (mut wanted, mut rest) = (template.split('/'), path);
    let (mut ranks, mut params) = (Vec::new(), Params::new());
    loop {
        let (raw, after) = rest.split_once('/').map_or((rest, None), |(raw, after)| (raw, Some(after)));
        let segment = wanted.next()?;
        let name =
            segment.strip_prefix('{').and_then(|name| name.strip_suffix('}')).filter(|name| !name.starts_with('{'));
        match name {
            Some(name) if name.starts_with('*') => {
                ranks.push(0);
                params.push((name.trim_start_matches('*').into(), decoded(rest)?));
                return (!rest.is_empty()).then_some((ranks, params));
            }
            Some(name) if !raw.is_empty() => {
                ranks.push(1);
                params.push((name.into(), decoded(raw)?));
            }
            None if segment.replace("{{", "{").replace("}}", "}") == decoded(raw)? => ranks.push(2),
            _ => return None,
        }
        match after {
            Some(after) => rest = after,
            None => return wanted.next().is_none().then_some((ranks, params)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_fits_as_a_router_would_say() {
        let param = |name: &str, value: &str| vec![(Arc::from(name), value.to_owned())];
        for (template, path, expected) in [
            ("/", "/", Some((vec![2, 2], Vec::new()))),
            ("/jobs", "/jobs", Some((vec![2, 2], Vec::new()))),
            ("/jobs", "/jobs/", None),
            ("/jobs", "/jobs/1", None),
            ("/jobs/{id}", "/jobs/a%20b", Some((vec![2, 2, 1], param("id", "a b")))),
            ("/jobs/{id}", "/jobs/", None),
            ("/jobs/{id}", "/jobs", None),
            ("/jobs/{id}/log", "/jobs/1/log", Some((vec![2, 2, 1, 2], param("id", "1")))),
            ("/files/{*path}", "/files/a/b", Some((vec![2, 2, 0], param("path", "a/b")))),
            ("/files/{*path}", "/files/", None),
            ("/{{id}}", "/{id}", Some((vec![2, 2], Vec::new()))),
        ] {
            assert_eq!(fit(template, path), expected, "{template} {path}");
        }
        assert!(fit("/jobs/mine", "/jobs/mine") > fit("/jobs/{id}", "/jobs/mine"));
        assert!(fit("/jobs/{id}", "/jobs/mine") > fit("/{*rest}", "/jobs/mine"));
    }
}
