use std::{fmt, sync::Arc};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::policy::{
    PolicyRevision,
    bundle::{CompiledModule, Contents},
};

/// What [`Wasm`](super::Wasm) runs: a module that `opa build -t wasm` made, its data, and the name of this version of them. From a file,
/// or from [bundles](Contents).
///
/// Nothing is compiled here: [`WasmBuilder::build`](super::WasmBuilder::build) and [`Wasm::activate`](super::Wasm::activate) do that, and
/// refuse what is wrong.
#[derive(Clone, Default)]
#[must_use = "a policy decides nothing before it is given to a `Wasm`"]
pub struct CompiledPolicy {
    pub(super) modules: Vec<CompiledModule>,
    /// Where below `data`, and JSON as it is written.
    pub(super) data: Vec<(Vec<String>, String)>,
    revision: Option<Arc<str>>,
}

impl CompiledPolicy {
    /// A `policy.wasm` alone. All entry points that it was built with can be asked for.
    pub fn new(module: impl Into<Bytes>) -> Self {
        let module = CompiledModule { name: "policy.wasm".to_owned(), entry_points: None, module: module.into() };
        Self { modules: vec![module], ..Self::default() }
    }

    /// Adds to the data document: an object, found at `data`. Documents are merged; they may not contradict each other.
    pub fn add_data(mut self, data: &serde_json::Value) -> Self {
        self.data.push((Vec::new(), data.to_string()));
        self
    }

    /// Names this version, where whoever distributes the policy has a name for it. Default: the bundles' revision, else `sha256:` and 32
    /// hexadecimal digits of a digest over the module and the data.
    pub fn with_revision(mut self, revision: impl Into<Arc<str>>) -> Self {
        self.revision = Some(revision.into());
        self
    }

    /// The name of this version: the one that was given, or the digest.
    #[must_use]
    pub fn revision(&self) -> PolicyRevision {
        self.revision.clone().map_or_else(|| self.digest(), PolicyRevision::new)
    }

    fn digest(&self) -> PolicyRevision {
        let mut hash = Sha256::new();
        // With its length before it, no part can pass for two.
        let mut part = |part: &[u8]| {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        };
        self.modules.iter().for_each(|module| part(&module.module));
        for (mount, text) in &self.data {
            part(mount.join("/").as_bytes());
            part(text.as_bytes());
        }
        let hex: String = hash.finalize().iter().take(REVISION_BYTES).map(|byte| format!("{byte:02x}")).collect();
        PolicyRevision::new(format!("sha256:{hex}"))
    }
}

/// The compiled modules and the documents of bundles are a policy, under the revision of the bundles.
impl From<Contents> for CompiledPolicy {
    fn from(contents: Contents) -> Self {
        let Contents { wasm, data, revision, .. } = contents;
        Self { modules: wasm, data, revision: Some(revision.into()) }
    }
}

impl fmt::Debug for CompiledPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompiledPolicy")
            .field("modules", &self.modules)
            .field("documents", &self.data.len())
            .field("revision", &self.revision)
            .finish()
    }
}

/// 128 bits: nobody finds a second policy with the same revision.
const REVISION_BYTES: usize = 16;
