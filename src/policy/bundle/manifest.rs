use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{
    error::{Fault, shown},
    text::Text,
};
use crate::json;

/// What a bundle says of itself: [`.manifest`](https://www.openpolicyagent.org/docs/management-bundles#bundle-file-format).
///
/// Without the file a bundle has no revision and one root, which is everything.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Manifest {
    /// The version, in whatever way its maker counts. Empty when there is none; at most 256 bytes, and no control characters.
    pub revision: String,
    /// The paths below `data` that are this bundle's, and nobody else's.
    pub roots: Vec<Root>,
    /// Which rules are answered by which compiled module: for a backend that runs WebAssembly. `Rego` does not.
    pub wasm: Vec<WasmEntry>,
    /// Whatever else the maker wrote down.
    pub metadata: Map<String, Value>,
}

/// A path below `data`, and everything below it. The empty path is everything.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Root(Vec<String>);

/// A rule that a compiled module answers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WasmEntry {
    /// The rule, as a path with slashes.
    pub entrypoint: String,
    /// The module's path in the bundle.
    pub module: String,
}

impl Root {
    /// The steps of the path.
    #[must_use]
    pub fn steps(&self) -> &[String] {
        &self.0
    }

    /// Whether the path is this one or below it.
    pub(super) fn covers<S: AsRef<str>>(&self, path: &[S]) -> bool {
        self.0.len() <= path.len() && is_prefix(self, path)
    }

    /// Whether this one is below the path.
    pub(super) fn is_below<S: AsRef<str>>(&self, path: &[S]) -> bool {
        self.0.len() > path.len() && is_prefix(self, path)
    }

    /// Whether one of the two covers the other.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        is_prefix(self, &other.0)
    }
}

impl std::fmt::Display for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&shown(&self.0.join("/")))
    }
}

/// As far as both go.
fn is_prefix<S: AsRef<str>>(root: &Root, path: &[S]) -> bool {
    std::iter::zip(&root.0, path).all(|(one, other)| one == other.as_ref())
}

impl Manifest {
    pub(super) fn read(text: &[u8]) -> Result<Self, Fault> {
        let mut walk = Text::new(text)?;
        walk.skip()?;
        walk.end()?;
        let refused = |problem: &'static str| Fault::new(problem);
        let mut members = json::own_object(text).ok_or_else(|| {
            refused(
                "the manifest is not one object of unrepeated members, at most 256 in each object and 32 levels deep",
            )
        })?;
        let revision = match members.remove("revision") {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(revision)) if is_plain(&revision) => revision,
            Some(_) => return Err(refused("`revision` is not a text of at most 256 bytes without control characters")),
        };
        // Version 0 gives the same words other meanings, so guessing would change decisions.
        const OLD_REGO: &str =
            "the bundle is Rego of version 0: migrate it with `opa fmt --rego-v1`, and build it again";
        match members.get("rego_version") {
            None | Some(Value::Null) => {}
            Some(version) if version.as_u64() == Some(1) => {}
            Some(_) => return Err(refused(OLD_REGO)),
        }
        match members.get("file_rego_versions") {
            None | Some(Value::Null) => {}
            Some(Value::Object(versions)) if versions.values().all(|version| version.as_u64() == Some(1)) => {}
            Some(_) => return Err(refused(OLD_REGO)),
        }
        let metadata = match members.remove("metadata") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(metadata)) => metadata,
            Some(_) => return Err(refused("`metadata` is not an object")),
        };
        let roots = match members.remove("roots") {
            None | Some(Value::Null) => vec![Root(Vec::new())],
            Some(Value::Array(roots)) => roots.iter().map(root).collect::<Option<_>>().ok_or_else(|| {
                refused("`roots` holds something else than paths of steps between slashes: write `a/b`, or an empty text for everything")
            })?,
            Some(_) => return Err(refused("`roots` is not an array")),
        };
        if let Some((one, other)) = overlap(&roots, &roots, true) {
            return Err(Fault::new(format!("the roots `{one}` and `{other}` overlap: keep the shorter one")));
        }
        let wasm = match members.remove("wasm") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(entries)) => entries
                .iter()
                .map(wasm_entry)
                .collect::<Option<_>>()
                .ok_or_else(|| refused("`wasm` holds something else than objects with `entrypoint` and `module`"))?,
            Some(_) => return Err(refused("`wasm` is not an array")),
        };
        let manifest = Self { revision, roots, wasm, metadata };
        manifest.check_entrypoints()?;
        Ok(manifest)
    }

    /// Whether the path below `data` is this bundle's.
    pub(super) fn covers<S: AsRef<str>>(&self, path: &[S]) -> bool {
        self.roots.iter().any(|root| root.covers(path))
    }

    fn check_entrypoints(&self) -> Result<(), Fault> {
        let mut seen = BTreeSet::new();
        for WasmEntry { entrypoint, .. } in &self.wasm {
            if !self.covers(&entrypoint.split('/').collect::<Vec<_>>()) {
                let problem = format!("the entry point `{}` is not under a root", shown(entrypoint));
                return Err(Fault::new(problem));
            }
            if !seen.insert(entrypoint) {
                return Err(Fault::new(format!("the entry point `{}` is named twice", shown(entrypoint))));
            }
        }
        Ok(())
    }
}

impl Default for Manifest {
    fn default() -> Self {
        Self { revision: String::new(), roots: vec![Root(Vec::new())], wasm: Vec::new(), metadata: Map::new() }
    }
}

/// Two roots of which one covers the other. `same` when it is one list twice.
pub(super) fn overlap<'r>(ones: &'r [Root], others: &'r [Root], same: bool) -> Option<(&'r Root, &'r Root)> {
    ones.iter().enumerate().find_map(|(index, one)| {
        let others = others.iter().skip(if same { index + 1 } else { 0 });
        others.into_iter().find(|other| one.overlaps(other)).map(|other| (one, other))
    })
}

fn is_plain(text: &str) -> bool {
    text.len() <= MAX_REVISION && !text.chars().any(char::is_control)
}

fn root(value: &Value) -> Option<Root> {
    let path = value.as_str()?.trim_matches('/');
    if path.is_empty() {
        return Some(Root(Vec::new()));
    }
    let steps: Vec<_> = path.split('/').map(str::to_owned).collect();
    steps.iter().all(|step| !step.is_empty()).then_some(Root(steps))
}

fn wasm_entry(value: &Value) -> Option<WasmEntry> {
    let text = |name| Some(value.get(name)?.as_str()?.trim_start_matches('/').to_owned());
    Some(WasmEntry { entrypoint: text("entrypoint")?, module: text("module")? })
}

const MAX_REVISION: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Manifest, String> {
        Manifest::read(text.as_bytes()).map_err(|fault| format!("{fault:?}"))
    }

    #[test]
    fn what_is_left_out_has_the_defaults_of_open_policy_agent() {
        for empty in ["{}", r#"{"roots":null,"revision":null,"metadata":null,"wasm":null,"rego_version":null}"#] {
            assert_eq!(read(empty), Ok(Manifest::default()), "{empty}");
        }
        assert!(Manifest::default().covers(&["any", "thing"]));
        assert!(!read(r#"{"roots":[]}"#).unwrap().covers(&["any"]), "no root is nothing, not everything");
    }

    #[test]
    fn each_fault_has_its_own_text() {
        for (text, why) in [
            ("[]", "not one object"),
            ("{\n\"revision\":\"7\"", "line: Some(2)"),
            (r#"{"revision":"7","revision":"8"}"#, "unrepeated"),
            (r#"{"revision":7}"#, "`revision`"),
            (r#"{"revision":"a\nb"}"#, "`revision`"),
            (r#"{"rego_version":0}"#, "opa fmt"),
            (r#"{"rego_version":"1"}"#, "opa fmt"),
            (r#"{"rego_version":2}"#, "opa fmt"),
            (r#"{"rego_version":1,"file_rego_versions":{"/a.rego":0}}"#, "opa fmt"),
            (r#"{"file_rego_versions":[]}"#, "opa fmt"),
            (r#"{"roots":"a"}"#, "`roots`"),
            (r#"{"roots":[1]}"#, "`roots`"),
            (r#"{"roots":["a//b"]}"#, "`roots`"),
            (r#"{"roots":["a","a"]}"#, "overlap"),
            (r#"{"roots":["a/b","c","a/b/d"]}"#, "overlap"),
            (r#"{"roots":["a","/a/"]}"#, "overlap"),
            (r#"{"roots":["","a"]}"#, "overlap"),
            (r#"{"metadata":[]}"#, "`metadata`"),
            (r#"{"wasm":{}}"#, "`wasm`"),
            (r#"{"wasm":[{"entrypoint":"a"}]}"#, "`wasm`"),
            (r#"{"roots":["a"],"wasm":[{"entrypoint":"b/c","module":"policy.wasm"}]}"#, "not under a root"),
            (r#"{"wasm":[{"entrypoint":"b","module":"1"},{"entrypoint":"b","module":"2"}]}"#, "twice"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(read(&format!(r#"{{"revision":"{}"}}"#, "7".repeat(256))).is_ok());
        assert!(read(&format!(r#"{{"revision":"{}"}}"#, "7".repeat(257))).is_err());
    }

    #[test]
    fn a_root_is_of_whole_steps() {
        let manifest = read(r#"{"roots":["/a/b/","ab"],"file_rego_versions":{"*.rego":1},"rego_version":1}"#).unwrap();
        for (path, is_covered) in [
            ("a/b", true),
            ("a/b/c", true),
            ("a", false),
            ("a/bc", false),
            ("ab", true),
            ("ab/c", true),
            ("abc", false),
        ] {
            assert_eq!(manifest.covers(&path.split('/').collect::<Vec<_>>()), is_covered, "{path}");
        }
        let root = &manifest.roots[0];
        assert_eq!((root.steps(), root.to_string().as_str()), (&["a".to_owned(), "b".to_owned()][..], "a/b"));
        for (path, is_above) in
            [(&[][..], true), (&["a"], true), (&["a", "b"], false), (&["a", "b", "c"], false), (&["b"], false)]
        {
            assert_eq!(root.is_below(path), is_above, "{path:?}");
        }
    }
}
