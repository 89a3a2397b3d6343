//! What is built in, here and in Open Policy Agent.

/// Defined for all arguments that they do not refuse as an error.
pub(super) const TOTAL: [&str; 7] = ["concat", "count", "lower", "object.get", "sum", "trim_space", "upper"];

/// Their results differ from call to call.
pub(super) const FICKLE: [&str; 3] = ["rand.intn", "time.now_ns", "uuid.rfc4122"];

/// How many arguments a built-in function of the engine takes: `Some(None)` for any number. `None` when there is no such function.
pub(super) fn arity(name: &str) -> Option<Option<usize>> {
    BUILTINS.iter().find(|(known, _)| *known == name).map(|(_, arity)| *arity)
}

/// What the engine has built in, and how many arguments it takes. A list of our own, because another crate of the same build may switch
/// more on (`http.send`).
pub(super) const BUILTINS: [(&str, Option<usize>); 116] = [
    ("abs", Some(1)),
    ("array.concat", Some(2)),
    ("array.reverse", Some(1)),
    ("array.slice", Some(3)),
    ("base64.decode", Some(1)),
    ("base64.encode", Some(1)),
    ("base64.is_valid", Some(1)),
    ("base64url.decode", Some(1)),
    ("base64url.encode", Some(1)),
    ("base64url.encode_no_pad", Some(1)),
    ("bits.and", Some(2)),
    ("bits.lsh", Some(2)),
    ("bits.negate", Some(1)),
    ("bits.or", Some(2)),
    ("bits.rsh", Some(2)),
    ("bits.xor", Some(2)),
    ("ceil", Some(1)),
    ("concat", Some(2)),
    ("contains", Some(2)),
    ("count", Some(1)),
    ("endswith", Some(2)),
    ("floor", Some(1)),
    ("format_int", Some(2)),
    ("glob.match", Some(3)),
    ("glob.quote_meta", Some(1)),
    ("graph.reachable", Some(2)),
    ("graph.reachable_paths", Some(2)),
    ("hex.decode", Some(1)),
    ("hex.encode", Some(1)),
    ("indexof", Some(2)),
    ("indexof_n", Some(2)),
    ("intersection", Some(1)),
    ("is_array", Some(1)),
    ("is_boolean", Some(1)),
    ("is_null", Some(1)),
    ("is_number", Some(1)),
    ("is_object", Some(1)),
    ("is_set", Some(1)),
    ("is_string", Some(1)),
    ("json.filter", Some(2)),
    ("json.is_valid", Some(1)),
    ("json.marshal", Some(1)),
    ("json.marshal_with_options", Some(2)),
    ("json.patch", Some(2)),
    ("json.remove", Some(2)),
    ("json.unmarshal", Some(1)),
    ("lower", Some(1)),
    ("max", Some(1)),
    ("min", Some(1)),
    ("net.cidr_contains", Some(2)),
    ("net.cidr_expand", Some(1)),
    ("net.cidr_is_valid", Some(1)),
    ("numbers.range", Some(2)),
    ("numbers.range_step", Some(3)),
    ("object.filter", Some(2)),
    ("object.get", Some(3)),
    ("object.keys", Some(1)),
    ("object.remove", Some(2)),
    ("object.subset", Some(2)),
    ("object.union", Some(2)),
    ("object.union_n", Some(1)),
    ("print", None),
    ("product", Some(1)),
    ("rand.intn", Some(2)),
    ("regex.find_all_string_submatch_n", Some(3)),
    ("regex.find_n", Some(3)),
    ("regex.is_valid", Some(1)),
    ("regex.match", Some(2)),
    ("regex.replace", Some(3)),
    ("regex.split", Some(2)),
    ("regex.template_match", Some(4)),
    ("replace", Some(3)),
    ("round", Some(1)),
    ("semver.compare", Some(2)),
    ("semver.is_valid", Some(1)),
    ("sort", Some(1)),
    ("split", Some(2)),
    ("sprintf", Some(2)),
    ("startswith", Some(2)),
    ("strings.any_prefix_match", Some(2)),
    ("strings.any_suffix_match", Some(2)),
    ("strings.count", Some(2)),
    ("strings.replace_n", Some(2)),
    ("strings.reverse", Some(1)),
    ("substring", Some(3)),
    ("sum", Some(1)),
    ("time.add_date", Some(4)),
    ("time.clock", Some(1)),
    ("time.date", Some(1)),
    ("time.diff", Some(2)),
    ("time.format", Some(1)),
    ("time.now_ns", Some(0)),
    ("time.parse_duration_ns", Some(1)),
    ("time.parse_ns", Some(2)),
    ("time.parse_rfc3339_ns", Some(1)),
    ("time.weekday", Some(1)),
    ("to_number", Some(1)),
    ("trace", Some(1)),
    ("trim", Some(2)),
    ("trim_left", Some(2)),
    ("trim_prefix", Some(2)),
    ("trim_right", Some(2)),
    ("trim_space", Some(1)),
    ("trim_suffix", Some(2)),
    ("type_name", Some(1)),
    ("union", Some(1)),
    ("units.parse", Some(1)),
    ("units.parse_bytes", Some(1)),
    ("upper", Some(1)),
    ("urlquery.decode", Some(1)),
    ("urlquery.decode_object", Some(1)),
    ("urlquery.encode", Some(1)),
    ("urlquery.encode_object", Some(1)),
    ("uuid.parse", Some(1)),
    ("uuid.rfc4122", Some(1)),
    ("walk", Some(1)),
];

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::Value;

    use super::*;
    use crate::policy::{Rego, rego::differences::WHATEVER_THE_ARGUMENTS};

    #[test]
    fn the_functions_that_are_taken_are_those_of_the_engine() {
        for (name, arity) in BUILTINS.into_iter().filter(|(name, _)| *name != "print") {
            let (_, takes) = regorus::unstable::BUILTINS.get(name).expect(name);
            assert_eq!(arity, Some(usize::from(*takes)), "{name}");
        }
    }

    /// When this fails, take the declarations of the functions that it names out of `opa capabilities --current`.
    #[test]
    fn the_capabilities_file_has_the_functions_that_are_taken_and_no_other() {
        let file: Value = serde_json::from_str(Rego::CAPABILITIES).unwrap();
        let declared: BTreeMap<_, _> = file["builtins"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|builtin| builtin.get("infix").is_none() && builtin["name"] != "internal.print")
            .map(|builtin| {
                let arity = builtin["decl"].get("variadic").is_none();
                let arity = arity.then(|| builtin["decl"]["args"].as_array().map_or(0, Vec::len));
                (builtin["name"].as_str().unwrap(), arity)
            })
            .collect();
        let taken: BTreeMap<_, _> =
            BUILTINS.into_iter().filter(|(name, _)| !WHATEVER_THE_ARGUMENTS.contains(name)).collect();
        assert_eq!(declared, taken);
        let operators = file["builtins"].as_array().unwrap().iter().filter_map(|builtin| builtin.get("infix"));
        let operators: BTreeSet<_> = operators.map(|operator| operator.as_str().unwrap()).collect();
        let known = ["!=", "%", "&", "*", "+", "-", "/", ":=", "<", "<=", "=", "==", ">", ">=", "in", "|"];
        assert_eq!(operators, BTreeSet::from(known));
        // The engine parses neither template strings nor keywords as names.
        assert_eq!(
            (&file["features"], &file["future_keywords"]),
            (&serde_json::json!(["rego_v1"]), &serde_json::json!(["not"]))
        );
    }
}
