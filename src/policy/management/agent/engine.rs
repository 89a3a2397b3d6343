#[cfg(feature = "opa-wasm")]
use crate::policy::{CompiledPolicy, Wasm, WasmBuilder};
use crate::{
    ConfigError,
    policy::{PolicyBackend, PolicySet, Rego, RegoBuilder, bundle::Contents},
};

/// A policy engine that a [`BundleAgent`](super::BundleAgent) feeds: how it is made of the first bundles, and how it is given others.
///
/// [`RegoBuilder`] is one, and so is `WasmBuilder`; what was added to them as policy is replaced by that of the bundles. Both methods may block, for a second and
/// more where there is much data: they are never called on a thread of the runtime, and never twice at once.
pub trait BundleEngine: Send + Sync + 'static {
    /// What decides.
    type Backend: PolicyBackend;

    /// Finds out, before there is a bundle, what is wrong with the settings. The default finds nothing.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for settings that no bundle could be used with.
    fn check(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    /// Makes a backend that decides by these bundles.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for what is wrong with them, with file and line.
    fn build(&self, contents: Contents) -> Result<Self::Backend, ConfigError>;

    /// Puts these bundles in the place of those that the backend decides by, in one step.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for what is wrong with them, with file and line. The backend then decides as before.
    fn activate(&self, backend: &Self::Backend, contents: Contents) -> Result<(), ConfigError>;
}

impl BundleEngine for RegoBuilder {
    type Backend = Rego;

    fn check(&self) -> Result<(), ConfigError> {
        match self.clone().with_policies(PolicySet::new()).build() {
            // That there is no policy is the last of its complaints.
            Ok(_) | Err(ConfigError::Missing { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn build(&self, contents: Contents) -> Result<Rego, ConfigError> {
        self.clone().with_policies(contents.into()).build()
    }

    fn activate(&self, backend: &Rego, contents: Contents) -> Result<(), ConfigError> {
        backend.activate(contents.into()).map(drop)
    }
}

#[cfg(feature = "opa-wasm")]
impl BundleEngine for WasmBuilder {
    type Backend = Wasm;

    fn check(&self) -> Result<(), ConfigError> {
        match self.clone().with_policy(CompiledPolicy::default()).build() {
            Ok(_) | Err(ConfigError::Missing { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn build(&self, contents: Contents) -> Result<Wasm, ConfigError> {
        self.clone().with_policy(contents).build()
    }

    fn activate(&self, backend: &Wasm, contents: Contents) -> Result<(), ConfigError> {
        backend.activate(contents).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "opa-wasm")]
    #[test]
    fn compiled_policies_are_an_engine_too() {
        assert!(Wasm::builder().check().is_ok());
        for (field, engine) in [
            ("policy.wasm.instances", Wasm::builder().with_instances(0)),
            ("policy.wasm.time_limit", Wasm::builder().with_time_limit(std::time::Duration::ZERO)),
        ] {
            assert_eq!(engine.check().unwrap_err().field(), field);
        }
    }

    #[test]
    fn settings_that_cannot_be_right_are_found_before_the_first_bundle() {
        assert!(Rego::builder().check().is_ok());
        assert!(Rego::builder().with_threads(2).check().is_ok());
        for (field, engine) in [
            ("policy.rego.threads", Rego::builder().with_threads(0)),
            ("policy.rego.time_limit", Rego::builder().with_time_limit(std::time::Duration::ZERO)),
            ("policy.rego.decision_path", Rego::builder().with_decision_path("authz")),
        ] {
            assert_eq!(engine.check().unwrap_err().field(), field);
        }
    }
}
