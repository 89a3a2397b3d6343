use std::{fmt, sync::Arc};

use super::{Report, Stack, warnings};
use crate::{
    ConfigError,
    audit::{Audit, AuditSink, Mode},
    denial::{Disclosure, Profile, RenderDenial, Renderer},
    layer::{AuthenticateLayer, AuthorizeLayer, DenialLayer, RequireScopeLayer},
    policy::{Obligation, PolicyBackend},
    principal::Audience,
    rules::Rules,
    time::{Clock, SystemClock},
    token::{Issuer, Verifier},
};

/// Sets a [`Stack`] up. Nothing is checked and nothing runs before [`build`](Self::build).
#[must_use = "a stack that was not built protects nothing"]
pub struct StackBuilder {
    issuers: Vec<Issuer>,
    verifier: Option<Verifier>,
    rules: Rules,
    authorize: AuthorizeLayer<dyn PolicyBackend>,
    input_headers: Option<Vec<String>>,
    audit: Trail,
    mode: Mode,
    service: Option<Arc<str>>,
    denial: Option<DenialLayer>,
    realm: Option<String>,
    profile: Profile,
    disclosure: Disclosure,
    clock: Arc<dyn Clock>,
}

/// Where records go.
enum Trail {
    New(Arc<dyn AuditSink>),
    Running(Audit),
}

impl StackBuilder {
    pub(super) fn new(issuer: Issuer, rules: Rules, policy: Arc<dyn PolicyBackend>, sink: Arc<dyn AuditSink>) -> Self {
        Self { issuers: vec![issuer], ..Self::around(rules, AuthorizeLayer::new(policy), Trail::New(sink)) }
    }

    /// Another stack with the keys, the policy and the audit trail of this one.
    pub(super) fn beside(stack: &Stack, rules: Rules) -> Self {
        let beside = Self::around(rules, stack.authorize.clone(), Trail::Running(stack.audit.clone()));
        beside.with_verifier(stack.verifier.clone())
    }

    fn around(rules: Rules, authorize: AuthorizeLayer<dyn PolicyBackend>, audit: Trail) -> Self {
        Self {
            issuers: Vec::new(),
            verifier: None,
            rules,
            authorize,
            input_headers: None,
            audit,
            mode: Mode::default(),
            service: None,
            denial: None,
            realm: None,
            profile: Profile::default(),
            disclosure: Disclosure::default(),
            clock: Arc::new(SystemClock),
        }
    }

    /// Accepts the tokens of one more issuer.
    pub fn add_issuer(mut self, issuer: Issuer) -> Self {
        self.issuers.push(issuer);
        self
    }

    /// Verifies tokens with this verifier, in place of one made of the issuers.
    pub fn with_verifier(mut self, verifier: Verifier) -> Self {
        self.verifier = Some(verifier);
        self
    }

    /// Records into a trail that is running already, in place of one started on the sink. Mode, clock and service name are
    /// then that trail's own.
    pub fn with_audit(mut self, audit: Audit) -> Self {
        self.audit = Trail::Running(audit);
        self
    }

    /// Sets what happens when the audit trail has no room. Default [`Mode::Deny`].
    pub fn with_audit_mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets the name of the service, which stands in every audit record. Default none.
    pub fn with_service(mut self, name: impl Into<Arc<str>>) -> Self {
        self.service = Some(name.into());
        self
    }

    /// Sets who is at the other end: programs (the default) or people.
    pub fn with_profile(mut self, profile: Profile) -> Self {
        self.profile = profile;
        self
    }

    /// Sets how much a refusal tells. Default [`Disclosure::Silent`].
    pub fn with_disclosure(mut self, disclosure: Disclosure) -> Self {
        self.disclosure = disclosure;
        self
    }

    /// Sets the realm of challenges. Default `api`.
    pub fn with_realm(mut self, realm: impl Into<String>) -> Self {
        self.realm = Some(realm.into());
        self
    }

    /// Renders refusals with this renderer; profile, disclosure and realm are then its own business.
    pub fn with_renderer(mut self, renderer: impl RenderDenial) -> Self {
        self.denial = Some(DenialLayer::new(renderer));
        self
    }

    /// Sets the clock of everything in the stack. Default [`SystemClock`].
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Registers what fulfils an obligation of the policy. See [`AuthorizeLayer::with_obligation`].
    pub fn with_obligation(
        mut self,
        id: impl Into<Arc<str>>,
        handler: impl Fn(&Obligation) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.authorize = self.authorize.with_obligation(id, handler);
        self
    }

    /// Names the request headers that the policy may see. See [`AuthorizeLayer::with_input_headers`].
    pub fn with_input_headers<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.input_headers = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// Names the claims that the policy may see. See [`AuthorizeLayer::with_input_claims`].
    pub fn with_input_claims<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.authorize = self.authorize.with_input_claims(names);
        self
    }

    /// Checks everything, and starts what works in the background.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] of whatever part cannot be built: rules, realm, input headers, issuers, or a missing Tokio runtime.
    pub fn build(self) -> Result<Stack, ConfigError> {
        let rule_text = self.rules.to_string();
        let rules = self.rules.into_table()?;
        let (denial, refusals) = match self.denial {
            Some(custom) => (custom, "rendered by the service itself".to_owned()),
            None => {
                let renderer = self.realm.as_deref().map_or_else(|| Ok(Renderer::default()), Renderer::api)?;
                let people = if matches!(self.profile, Profile::Api) { "programs" } else { "people" };
                let renderer = renderer.with_profile(self.profile).with_disclosure(self.disclosure);
                (DenialLayer::new(renderer), format!("{}, for {people}", self.disclosure))
            }
        };
        let authorize = match self.input_headers {
            Some(names) => self.authorize.with_input_headers(names)?,
            None => self.authorize,
        }
        .with_clock(Arc::clone(&self.clock));
        let verifier = match self.verifier {
            Some(verifier) => verifier,
            None => Verifier::builder_of(self.issuers).with_clock(Arc::clone(&self.clock)).build()?,
        };
        // The last step: nothing runs in the background when another one fails.
        let audit = match self.audit {
            Trail::Running(audit) => audit,
            Trail::New(sink) => {
                let builder = Audit::builder(sink).with_mode(self.mode).with_clock(Arc::clone(&self.clock));
                match self.service {
                    Some(name) => builder.with_service(name),
                    None => builder,
                }
                .start()?
            }
        };
        let report = Report {
            issuers: verifier
                .expectations()
                .map(|(issuer, audiences)| {
                    let audiences: Vec<_> = audiences.iter().map(Audience::as_str).collect();
                    format!("{issuer} for {}", audiences.join(", "))
                })
                .chain(
                    verifier
                        .resolves()
                        .then(|| "those that the resolver knows, for the audiences that it gives".to_owned()),
                )
                .collect(),
            audit: match audit.mode() {
                Mode::Deny => "deny: what cannot be written down is refused",
                Mode::Count => "count: what cannot be written down is counted",
            },
            refusals,
            rules: rule_text,
            warnings: warnings(),
        };
        Ok(Stack {
            authenticate: AuthenticateLayer::new(verifier.clone()).with_clock(self.clock),
            require_scope: RequireScopeLayer::from_rules(),
            authorize,
            denial,
            rules,
            verifier,
            audit,
            report: Arc::new(report),
        })
    }
}

impl fmt::Debug for StackBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StackBuilder")
            .field("issuers", &self.issuers)
            .field("rules", &self.rules)
            .field("authorize", &self.authorize)
            .finish_non_exhaustive()
    }
}
