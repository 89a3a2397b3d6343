use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use sha2::Sha256;

use super::{
    BundleError, BundleErrorKind, Limits, Manifest, Verification, archive,
    content::{Content, check_names},
    error::{Fault, Refusal, shown},
    manifest::{self, Root},
    signature::hex,
};
use crate::policy::PolicySet;

/// One bundle that was read whole, verified as it was asked for, and found consistent in itself. Cheap to clone.
#[derive(Clone)]
pub struct Bundle(Arc<Inner>);

struct Inner {
    name: String,
    digest: String,
    signed_by: Option<Arc<str>>,
    content: Content,
}

impl Bundle {
    /// Reads a gzipped tar, as `opa build` writes it and bundle servers send it.
    ///
    /// The name is the one that this service is configured with, as in Open Policy Agent's `bundles.<name>`: it stands before the paths
    /// of modules, in errors and in the status.
    ///
    /// What is checked, in this order: see the [module's documentation](super#what-is-checked).
    ///
    /// # Errors
    ///
    /// [`BundleError`], the first that applies.
    pub fn read(
        name: impl Into<String>,
        archive: &[u8],
        verification: &Verification,
        limits: &Limits,
    ) -> Result<Self, BundleError> {
        let name = name.into();
        match Self::read_content(archive, verification, limits) {
            Ok((signed_by, content)) => {
                Ok(Self(Arc::new(Inner { name, digest: hex::<Sha256>(archive), signed_by, content })))
            }
            Err((kind, fault)) => Err(BundleError::new(kind, &name, fault)),
        }
    }

    fn read_content(
        archive: &[u8],
        verification: &Verification,
        limits: &Limits,
    ) -> Result<(Option<Arc<str>>, Content), Refusal> {
        let files = archive::unpack(archive, limits)?;
        check_names(&files)?;
        // Before anything of the content counts.
        let signed_by = verification.verify(&files).map_err(|fault| (BundleErrorKind::Signature, fault))?;
        Ok((signed_by, Content::read(&files)?))
    }

    /// The name that it was read under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What it says of itself.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.0.content.manifest
    }

    /// SHA-256 of the archive as it was sent, in hexadecimal.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.0.digest
    }

    /// The manifest's revision; where there is none, `sha256:` and 32 hexadecimal digits of the [digest](Self::digest).
    #[must_use]
    pub fn revision(&self) -> String {
        match self.manifest().revision.as_str() {
            "" => format!("sha256:{}", self.digest().get(..32).unwrap_or_default()),
            revision => revision.to_owned(),
        }
    }

    /// The id of the key that signed it; `None` where no signature was [required](Verification::required).
    #[must_use]
    pub fn signed_by(&self) -> Option<&str> {
        self.0.signed_by.as_deref()
    }

    /// The modules: path in the bundle, and text. Tests (`*_test.rego`) are among them, as in Open Policy Agent: leave them out with
    /// `opa build --ignore '*_test.rego'`.
    pub fn modules(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.content.modules.iter().map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// The data documents: where below `data` each one goes, and JSON as it is written.
    pub fn data(&self) -> impl Iterator<Item = (&[String], &str)> {
        self.0.content.data.iter().map(|(mount, text)| (mount.as_slice(), text.as_str()))
    }

    /// The compiled modules (`policy.wasm`): path in the bundle, and bytes. Kept as they are, and never run by `Rego`.
    pub fn wasm(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        self.0.content.wasm.iter().map(|(path, bytes)| (path.as_str(), bytes))
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle")
            .field("name", &self.name())
            .field("revision", &self.revision())
            .field("signed_by", &self.signed_by())
            .finish_non_exhaustive()
    }
}

/// What one bundle or several give a policy, put together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Contents {
    /// The modules: `bundle/path.rego`, and text.
    pub modules: Vec<(String, String)>,
    /// The data documents: where below `data` each one goes, and JSON as it is written. No two have a value at the same path.
    pub data: Vec<(Vec<String>, String)>,
    /// The compiled modules that the manifests name, for `policy::Wasm`.
    pub wasm: Vec<CompiledModule>,
    /// One bundle's [revision](Bundle::revision); of several, `name=revision` of each, by name and separated by commas.
    pub revision: String,
}

/// A module that `opa build -t wasm` made.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompiledModule {
    /// Where it comes from: `bundle/policy.wasm`.
    pub name: String,
    /// The rules that it answers, as paths with slashes; `None` where only the module itself knows.
    pub entry_points: Option<Vec<String>>,
    /// Its bytes.
    pub module: Bytes,
}

impl fmt::Debug for CompiledModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompiledModule")
            .field("name", &self.name)
            .field("entry_points", &self.entry_points)
            .field("bytes", &self.module.len())
            .finish()
    }
}

/// The modules and documents of bundles are a policy, under the revision of the bundles.
impl From<Contents> for PolicySet {
    fn from(contents: Contents) -> Self {
        let set = contents.modules.into_iter().fold(Self::new(), |set, (name, text)| set.add_source(name, text));
        let documents = contents.data.into_iter();
        let set = documents.fold(set, |set, (mount, text)| {
            let name = ["data"].into_iter().chain(mount.iter().map(String::as_str)).collect::<Vec<_>>().join(".");
            set.add_document(name, mount, text)
        });
        set.with_revision(contents.revision)
    }
}

impl Contents {
    /// Puts bundles together.
    ///
    /// The order they are given in does not matter. That no rule has its name in the data document is for whoever loads the policy, who
    /// knows the rules.
    ///
    /// # Errors
    ///
    /// [`BundleErrorKind::Conflict`] when two have the same name, or roots of which one covers the other. The error is about the later
    /// of the two.
    pub fn of<'a>(bundles: impl IntoIterator<Item = &'a Bundle>) -> Result<Self, BundleError> {
        let mut by_name = BTreeMap::<&str, &Bundle>::new();
        for bundle in bundles {
            for (name, other) in &by_name {
                check_disjoint(bundle, name, &other.manifest().roots)?;
            }
            if by_name.insert(bundle.name(), bundle).is_some() {
                let fault = Fault::new("another bundle has the same name: give each a name of its own");
                return Err(BundleError::new(BundleErrorKind::Conflict, bundle.name(), fault));
            }
        }
        let mut contents = Self::default();
        let mut revisions = Vec::new();
        for (name, bundle) in &by_name {
            contents.modules.extend(bundle.modules().map(|(path, text)| (format!("{name}/{path}"), text.to_owned())));
            contents.data.extend(bundle.data().map(|(mount, text)| (mount.to_vec(), text.to_owned())));
            for (path, module) in bundle.wasm() {
                let entries = bundle.manifest().wasm.iter().filter(|entry| entry.module == path);
                let entry_points: Vec<_> = entries.map(|entry| entry.entrypoint.clone()).collect();
                // One that the manifest does not name answers nothing, as in Open Policy Agent.
                if !entry_points.is_empty() {
                    let (name, module) = (format!("{name}/{path}"), module.clone());
                    contents.wasm.push(CompiledModule { name, entry_points: Some(entry_points), module });
                }
            }
            revisions.push(if by_name.len() == 1 {
                bundle.revision()
            } else {
                format!("{name}={}", bundle.revision())
            });
        }
        contents.revision = revisions.join(",");
        Ok(contents)
    }
}

/// Whether a bundle may stand beside the one of this name and roots: neither may cover a path of the other's.
fn check_disjoint(bundle: &Bundle, name: &str, roots: &[Root]) -> Result<(), BundleError> {
    match manifest::overlap(&bundle.manifest().roots, roots, false) {
        None => Ok(()),
        Some((own, other)) => {
            let problem = format!(
                "its root `{own}` overlaps the root `{other}` of the bundle `{}`: give each bundle roots of its own in `.manifest`",
                shown(name),
            );
            Err(BundleError::new(BundleErrorKind::Conflict, bundle.name(), Fault::new(problem)))
        }
    }
}
