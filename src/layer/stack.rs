use std::{fmt, sync::Arc};

use serde::Serialize;

use super::{AuditLayer, AuthenticateLayer, AuthorizeLayer, DenialLayer, RequireScopeLayer};
use crate::{
    audit::{Audit, AuditSink},
    health::Health,
    policy::PolicyBackend,
    rules::{RuleTable, Rules},
    token::{Issuer, Verifier},
};
pub use builder::StackBuilder;
pub use explain::{ExplainedRoute, Explanation};

mod builder;
mod explain;

/// The layers in their order, set up once: the paved path.
///
/// An edge (`axum::protect`, `tonic::protect`) puts them around a router. Without one of those, take [`outer`](Self::outer) and
/// [`gates`](Self::gates), and write the [`Route`](crate::route::Route) between them. Cheap to clone; every clone shares keys,
/// policy and audit trail.
#[derive(Clone, Debug)]
pub struct Stack {
    rules: RuleTable,
    verifier: Verifier,
    audit: Audit,
    denial: DenialLayer,
    authenticate: AuthenticateLayer,
    require_scope: RequireScopeLayer,
    authorize: AuthorizeLayer<dyn PolicyBackend>,
    report: Arc<Report>,
}

impl Stack {
    /// A stack of what has no safe default: whose tokens are accepted, what each route demands, which policy decides, and
    /// where the audit trail goes.
    ///
    /// A policy that is shared comes as an `Arc`.
    pub fn builder(issuer: Issuer, rules: Rules, policy: impl PolicyBackend, sink: impl AuditSink) -> StackBuilder {
        StackBuilder::new(issuer, rules, Arc::new(policy), Arc::new(sink))
    }

    /// Another stack with the keys, the policy, the audit trail and the clock of this one, for a router with other rules or
    /// another profile: the pages beside an API.
    pub fn sibling(&self, rules: Rules) -> StackBuilder {
        StackBuilder::beside(self, rules)
    }

    /// What each route demands: edges look a request's route up here.
    #[must_use]
    pub fn rules(&self) -> &RuleTable {
        &self.rules
    }

    /// What goes around the finished router, outermost first.
    #[must_use]
    pub fn outer(&self) -> (DenialLayer, AuditLayer) {
        (self.denial.clone(), AuditLayer::new(self.audit.clone()))
    }

    /// What goes around each route, once it is known which one matched; outermost first.
    #[must_use]
    pub fn gates(&self) -> (AuthenticateLayer, RequireScopeLayer, AuthorizeLayer<dyn PolicyBackend>) {
        (self.authenticate.clone(), self.require_scope.clone(), self.authorize.clone())
    }

    /// Whether each part can do its work now. For readiness probes and operators; callers must not see the details.
    #[must_use]
    pub fn health(&self) -> StackHealth {
        StackHealth {
            keys: self.verifier.health(),
            policy: self.authorize.backend().health(),
            audit: self.audit.health(),
        }
    }

    /// The audit trail: flush it before the process ends.
    #[must_use]
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// What this stack does, for whoever starts it.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Logs the report, as edges do when they put the stack around a router.
    #[cfg_attr(not(any(feature = "axum", feature = "tonic")), expect(dead_code, reason = "edges call it"))]
    pub(crate) fn announce(&self) {
        tracing::info!("{}", self.report);
        for warning in &self.report.warnings {
            tracing::warn!("{warning}");
        }
    }
}

/// Whether each part of a [`Stack`] can do its work now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StackHealth {
    /// The keys of every issuer.
    pub keys: Health,
    /// The policy engine.
    pub policy: Health,
    /// The audit trail.
    pub audit: Health,
}

impl StackHealth {
    /// True when protected requests can be answered: no part is unavailable.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.keys.is_serving() && self.policy.is_serving() && self.audit.is_serving()
    }
}

impl fmt::Display for StackHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "keys {}, policy {}, audit {}", self.keys, self.policy, self.audit)
    }
}

/// The start-up report of a [`Stack`]: whose tokens, which rules, and what is unusual. For people; its form may change.
#[derive(Clone, Debug)]
pub struct Report {
    issuers: Vec<String>,
    audit: &'static str,
    refusals: String,
    rules: String,
    warnings: Vec<&'static str>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "portcullis {} guards every route; what is not listed is denied", env!("CARGO_PKG_VERSION"))?;
        writeln!(f, "  issuers   {}", self.issuers.join("\n            "))?;
        writeln!(f, "  audit     {}", self.audit)?;
        writeln!(f, "  refusals  {}", self.refusals)?;
        f.write_str("  rules     ")?;
        if self.rules.is_empty() {
            f.write_str("none: every route is denied")?;
        }
        f.write_str(&self.rules.trim_end().replace('\n', "\n            "))?;
        for warning in &self.warnings {
            write!(f, "\n  WARNING   {warning}")?;
        }
        Ok(())
    }
}

/// What whoever starts a service must not miss.
fn warnings() -> Vec<&'static str> {
    let mut warnings = Vec::new();
    if cfg!(all(feature = "testing", not(debug_assertions))) {
        warnings.push("THE TEST KIT IS IN A RELEASE BUILD: somebody switched on the feature `testing` of portcullis; find out who with `cargo tree -e features -i portcullis`");
    }
    if cfg!(panic = "abort") {
        warnings.push(
            "built with `panic = \"abort\"`: a panic ends the process, without an answer and without an audit record",
        );
    }
    warnings
}

#[cfg(test)]
mod tests;
