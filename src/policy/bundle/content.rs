//! What the files of a bundle are to a policy, and whether they fit together.

use std::collections::BTreeMap;

use super::{
    BundleErrorKind,
    archive::Files,
    canonical::canonical,
    error::{Fault, Refusal, shown},
    manifest::Manifest,
    signature::SIGNATURES,
    text::Text,
};

/// The files that are read, told apart by their names. All others are left alone, as in Open Policy Agent.
pub(super) struct Content {
    pub(super) manifest: Manifest,
    /// Path and text.
    pub(super) modules: Vec<(String, String)>,
    /// Mount and text.
    pub(super) data: Vec<(Vec<String>, String)>,
    /// Path and bytes.
    pub(super) wasm: Vec<(String, bytes::Bytes)>,
}

/// Refuses what would be left out here and counts elsewhere: before the signature, since no signature can make it good.
pub(super) fn check_names(files: &Files) -> Result<(), Refusal> {
    for path in files.keys() {
        let unsupported = |problem| Err((BundleErrorKind::Unsupported, Fault::new(problem).in_file(path)));
        match path.rsplit('/').next().unwrap_or(path) {
            // Open Policy Agent applies these without looking at a signature.
            "patch.json" => {
                return unsupported("this is a delta bundle: let the server send snapshots (`Prefer: modes=snapshot`)");
            }
            "data.yaml" | "data.yml" => return unsupported("YAML is not read: convert it to `data.json`"),
            name if name.ends_with(".manifest.pb") => {
                return unsupported("the manifest is not JSON: build the bundle with `--format json`");
            }
            // There, whatever ends so is the manifest.
            name if name.ends_with(".manifest") && path != MANIFEST => {
                return unsupported(
                    "Open Policy Agent would take it for the manifest: rename it, or move it to the root",
                );
            }
            // There, the dots are taken away from the name.
            "data.json" if path.starts_with('.') => {
                return unsupported("a data directory begins with a dot: rename it");
            }
            _ => {}
        }
    }
    Ok(())
}

impl Content {
    pub(super) fn read(files: &Files) -> Result<Self, Refusal> {
        let manifest = files.get(MANIFEST).map_or(Ok(Manifest::default()), |text| {
            Manifest::read(text).map_err(|fault| (BundleErrorKind::Manifest, fault.in_file(MANIFEST)))
        })?;
        let mut content = Self { manifest, modules: Vec::new(), data: Vec::new(), wasm: Vec::new() };
        let mut tree = Tree::Object(BTreeMap::new());
        let mut packages = Vec::new();
        for (path, bytes) in files.iter().filter(|(path, _)| !matches!(path.as_str(), MANIFEST | SIGNATURES)) {
            let text =
                || String::from_utf8(bytes.to_vec()).map_err(|_| Fault::new("the file is not UTF-8: save it as UTF-8"));
            let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
            if name.ends_with(".rego") {
                let in_module = |fault: Fault| (BundleErrorKind::Module, fault.in_file(path));
                let text = text().map_err(in_module)?;
                let package = super::package::package_of(path, &text).map_err(in_module)?;
                if !content.manifest.covers(&package) {
                    let problem = format!(
                        "the package `{}` is not under a root: {}",
                        shown(&package.join(".")),
                        roots(&content.manifest)
                    );
                    return Err((BundleErrorKind::Manifest, Fault::new(problem).in_file(path)));
                }
                packages.push((path, package));
                content.modules.push((path.clone(), text));
            } else if name == "data.json" {
                let in_data = |fault: Fault| (BundleErrorKind::Data, fault.in_file(path));
                // The form that is thrown away here was made to find what no two readers agree on: repeated members.
                canonical(bytes).map_err(in_data)?;
                let mount: Vec<_> = directory.split('/').filter(|step| !step.is_empty()).map(str::to_owned).collect();
                tree.add(&mount, bytes).map_err(in_data)?;
                content.data.push((mount, text().map_err(in_data)?));
            } else if name == "policy.wasm" {
                content.wasm.push((path.clone(), bytes.clone()));
            }
        }
        content.check(&tree, &packages)?;
        Ok(content)
    }

    fn check(&self, tree: &Tree, packages: &[(&String, Vec<String>)]) -> Result<(), Refusal> {
        if let Some(path) = tree.outside(&self.manifest, &mut Vec::new()) {
            let problem = format!("the data at `{}` is not under a root: {}", shown(&path), roots(&self.manifest));
            return Err((BundleErrorKind::Manifest, Fault::new(problem)));
        }
        for (file, package) in packages {
            if tree.has_leaf_on(package) {
                let problem = format!(
                    "the package `{}` has its name in the data too: rename one of the two",
                    shown(&package.join("."))
                );
                return Err((BundleErrorKind::Data, Fault::new(problem).in_file(file)));
            }
        }
        let is_there = |module: &str| self.wasm.iter().any(|(path, _)| path == module);
        match self.manifest.wasm.iter().find(|entry| !is_there(&entry.module)) {
            None => Ok(()),
            Some(entry) => {
                let problem = format!("`wasm` names the module `{}`, which is not in the bundle", shown(&entry.module));
                Err((BundleErrorKind::Manifest, Fault::new(problem).in_file(MANIFEST)))
            }
        }
    }
}

fn roots(manifest: &Manifest) -> String {
    let roots: Vec<_> = manifest.roots.iter().take(8).map(|root| format!("`{root}`")).collect();
    format!("the manifest's are {}", if roots.is_empty() { "none".to_owned() } else { roots.join(", ") })
}

/// The shape of all data together: the members of objects, down to what is no object.
enum Tree {
    Object(BTreeMap<String, Tree>),
    Leaf,
}

impl Tree {
    fn add(&mut self, mount: &[String], document: &[u8]) -> Result<(), Fault> {
        let mut text = Text::new(document)?;
        let Some((last, way)) = mount.split_last() else {
            if text.peek() != Some(b'{') {
                return Err(text.fault("the document at the root is not an object: write an object"));
            }
            return self.merge(&mut text);
        };
        let mut here = self;
        for step in way {
            let Self::Object(members) = here else { return Err(twice(step)) };
            here = members.entry(step.clone()).or_insert_with(|| Self::Object(BTreeMap::new()));
        }
        here.member(last, &mut text)
    }

    /// Adds the object that comes next.
    fn merge(&mut self, text: &mut Text<'_>) -> Result<(), Fault> {
        text.object(|text, name| self.member(&name, text))
    }

    fn member(&mut self, name: &str, text: &mut Text<'_>) -> Result<(), Fault> {
        let Self::Object(members) = self else { return Err(twice(name)) };
        let is_object = text.peek() == Some(b'{');
        match members.get_mut(name) {
            // Two documents may have members in one object, and never the same member.
            Some(object @ Self::Object(_)) if is_object => object.merge(text),
            Some(_) => Err(twice(name)),
            None if is_object => {
                members.entry(name.to_owned()).or_insert_with(|| Self::Object(BTreeMap::new())).merge(text)
            }
            None => {
                members.insert(name.to_owned(), Self::Leaf);
                text.skip()
            }
        }
    }

    /// The first path that no root covers. An object above a root is on the way to it.
    fn outside(&self, manifest: &Manifest, path: &mut Vec<String>) -> Option<String> {
        if manifest.covers(path) {
            return None;
        }
        match self {
            Self::Object(members) if path.is_empty() || manifest.roots.iter().any(|root| root.is_below(path)) => {
                members.iter().find_map(|(name, below)| {
                    path.push(name.clone());
                    let outside = below.outside(manifest, path);
                    path.pop();
                    outside
                })
            }
            _ => Some(path.join("/")),
        }
    }

    /// Whether a value that is no object stands where the path, or a part of it, leads.
    fn has_leaf_on(&self, path: &[String]) -> bool {
        let mut here = self;
        for step in path {
            match here {
                Self::Leaf => return true,
                Self::Object(members) => match members.get(step) {
                    Some(below) => here = below,
                    None => return false,
                },
            }
        }
        matches!(here, Self::Leaf)
    }
}

fn twice(name: &str) -> Fault {
    Fault::new(format!("another data document has a value at `{}` too: keep one of them", shown(name)))
}

const MANIFEST: &str = ".manifest";
