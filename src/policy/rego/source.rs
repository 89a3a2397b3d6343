//! What a policy is made of: modules and data documents, from memory or from disk.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use crate::{ConfigError, policy::PolicyRevision};

/// One module.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// Where it comes from, for messages.
    pub(super) name: String,
    pub(super) text: String,
}

/// One data document.
#[derive(Clone, Debug)]
pub(super) struct Data {
    /// Where it comes from, for messages.
    pub(super) name: String,
    /// Where it goes, below `data`.
    pub(super) mount: Vec<String>,
    /// JSON, as it was written: numbers keep their digits.
    pub(super) text: String,
}

/// Reads what `dir` holds: `*.rego` but `*_test.rego`, and `data.json` under the names of the directories that it lies in. Hidden
/// entries are left out, which also keeps the copies out that a Kubernetes volume holds.
pub(super) fn read_dir(dir: &Path) -> Result<(Vec<Source>, Vec<Data>), ConfigError> {
    let mut found = (Vec::new(), Vec::new());
    visit(dir, &mut Vec::new(), &mut found)?;
    if found.0.is_empty() {
        let remedy = "put at least one `.rego` file there";
        return Err(ConfigError::invalid(DIRECTORY, dir.display().to_string(), remedy));
    }
    Ok(found)
}

fn visit(dir: &Path, mount: &mut Vec<String>, found: &mut (Vec<Source>, Vec<Data>)) -> Result<(), ConfigError> {
    let unreadable = |path: &Path, error| {
        let remedy = "make it a directory that this process may read";
        ConfigError::unusable(DIRECTORY, path.display().to_string(), remedy, error)
    };
    // A link that leads back to its own directory would never end.
    if mount.len() >= MAX_DEPTH {
        let remedy = format!("nest directories at most {MAX_DEPTH} deep");
        return Err(ConfigError::invalid(DIRECTORY, dir.display().to_string(), remedy));
    }
    let entries = fs::read_dir(dir).map_err(|error| unreadable(dir, error))?;
    // Sorted, so that every machine reports the same fault first.
    let entries = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<BTreeSet<PathBuf>, _>>();
    for path in entries.map_err(|error| unreadable(dir, error))? {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            let remedy = "give it a name in UTF-8";
            return Err(ConfigError::invalid(DIRECTORY, path.display().to_string(), remedy));
        };
        if name.starts_with('.') {
            continue;
        }
        if fs::metadata(&path).map_err(|error| unreadable(&path, error))?.is_dir() {
            mount.push(name.to_owned());
            visit(&path, mount, found)?;
            mount.pop();
        } else if name.ends_with(".rego") && !name.ends_with("_test.rego") {
            found.0.push(read_source(&path)?);
        } else if name == "data.json" {
            found.1.push(Data { name: path.display().to_string(), mount: mount.clone(), text: read(&path)? });
        } else if matches!(name, "data.yaml" | "data.yml") {
            // Open Policy Agent would read it, so leaving it out would change decisions.
            let remedy = "convert it to `data.json`: YAML is not read";
            return Err(ConfigError::invalid(DIRECTORY, path.display().to_string(), remedy));
        }
    }
    Ok(())
}

pub(super) fn read_source(path: &Path) -> Result<Source, ConfigError> {
    Ok(Source { name: path.display().to_string(), text: read(path)? })
}

fn read(path: &Path) -> Result<String, ConfigError> {
    fs::read_to_string(path).map_err(|error| {
        let remedy = "make it a UTF-8 file that this process may read";
        ConfigError::unusable("policy.rego.file", path.display().to_string(), remedy, error)
    })
}

/// The digest of all that can influence a decision, whatever the files are called and in whichever order they come: the same on
/// every replica.
pub(super) fn revision(sources: &[Source], data: &[Data]) -> PolicyRevision {
    let digest = |parts: &mut dyn Iterator<Item = &str>| {
        let mut hash = Sha256::new();
        for part in parts {
            // With its length before it, no part can pass for two.
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        <[u8; 32]>::from(hash.finalize())
    };
    let sources = sources.iter().map(|source| digest(&mut ["rego", &source.text].into_iter()));
    let data = data
        .iter()
        .map(|data| digest(&mut ["data", &data.text].into_iter().chain(data.mount.iter().map(String::as_str))));
    let mut hash = Sha256::new();
    for part in sources.chain(data).collect::<BTreeSet<_>>() {
        hash.update(part);
    }
    let hex = hash.finalize().iter().take(REVISION_BYTES).map(|byte| format!("{byte:02x}")).collect::<String>();
    PolicyRevision::new(format!("sha256:{hex}"))
}

const DIRECTORY: &str = "policy.rego.directory";
const MAX_DEPTH: usize = 16;

/// 128 bits: nobody finds a second policy with the same revision.
const REVISION_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str, text: &str) -> Source {
        Source { name: name.to_owned(), text: text.to_owned() }
    }

    fn data(mount: &[&str], text: &str) -> Data {
        let mount = mount.iter().map(ToString::to_string).collect();
        Data { name: String::new(), mount, text: text.to_owned() }
    }

    #[test]
    fn a_directory_gives_policies_without_tests_and_data_under_its_own_name() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("authz.rego", "package authz");
        write("authz_test.rego", "package authz_test");
        write("data.json", "{}");
        write("teams/north/data.json", "{\"size\": 3}");
        write("teams/more.rego", "package teams");
        write("notes.json", "[]");
        write(".hidden/authz.rego", "package hidden");
        let (sources, data) = read_dir(dir.path()).unwrap();
        assert_eq!(sources.iter().map(|source| &*source.text).collect::<Vec<_>>(), ["package authz", "package teams"]);
        assert_eq!(data.iter().map(|data| data.mount.join("/")).collect::<Vec<_>>(), ["", "teams/north"]);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let message = |error: ConfigError| error.to_string();
        assert!(message(read_dir(dir.path()).unwrap_err()).contains("at least one `.rego` file"));
        assert!(message(read_dir(&dir.path().join("absent")).unwrap_err()).contains("absent"));
        fs::write(dir.path().join("a.rego"), b"package a # \xff").unwrap();
        assert!(message(read_dir(dir.path()).unwrap_err()).contains("a.rego"));
        fs::write(dir.path().join("a.rego"), b"package a").unwrap();
        fs::write(dir.path().join("data.yaml"), b"x: 1").unwrap();
        assert!(message(read_dir(dir.path()).unwrap_err()).contains("convert it to `data.json`"));
    }

    #[test]
    fn a_revision_depends_on_content_and_place_but_not_on_file_names_or_order() {
        let (a, b) = (source("a", "package a"), source("b", "package b"));
        let document = data(&["x"], "{}");
        let of = |sources: &[Source], data: &[Data]| revision(sources, data).as_str().to_owned();
        let all = of(&[a.clone(), b.clone()], std::slice::from_ref(&document));
        assert_eq!(all, of(&[b.clone(), source("renamed", "package a")], std::slice::from_ref(&document)));
        assert_eq!(all.len(), "sha256:".len() + 32);
        for (what, other) in [
            ("text", of(&[a.clone(), source("b", "package c")], std::slice::from_ref(&document))),
            ("mount", of(&[a.clone(), b.clone()], &[data(&["y"], "{}")])),
            ("data", of(&[a.clone(), b.clone()], &[data(&["x"], "{\"k\": 1}")])),
            ("kind", of(&[a, b, source("c", "{}")], &[])),
        ] {
            assert_ne!(all, other, "{what}");
        }
    }
}
