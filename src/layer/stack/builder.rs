use std::{error::Error, fmt, sync::Arc, time::Duration};

use super::{Report, Stack, warnings};
use crate::{
    ConfigError,
    audit::{Audit, AuditSink, Mode},
    denial::{Disclosure, Profile, RenderDenial, Renderer},
    layer::{AuthenticateLayer, AuthorizeLayer, DenialLayer, RequireScopeLayer},
    policy::{Obligation, PolicyBackend, PolicyInput, RequestHead},
    principal::Audience,
    revocation::RevocationList,
    rules::{RuleTable, Rules},
    time::{Clock, SystemClock},
    token::{Issuer, Verifier},
};

/// Sets a [`Stack`] up. Nothing is checked and nothing runs before [`build`](Self::build).
#[must_use = "a stack that was not built protects nothing"]
pub struct StackBuilder {
    issuers: Vec<Issuer>,
    verifier: Option<Verifier>,
    revocations: Option<RevocationList>,
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

    /// Another stack with the keys, the policy, the audit trail and the clock of this one.
    pub(super) fn beside(stack: &Stack, rules: Rules) -> Self {
        let beside = Self::around(rules, stack.authorize.clone(), Trail::Running(stack.audit.clone()));
        beside.with_verifier(stack.verifier.clone()).with_clock(stack.authenticate.clock())
    }

    fn around(rules: Rules, authorize: AuthorizeLayer<dyn PolicyBackend>, audit: Trail) -> Self {
        Self {
            issuers: Vec::new(),
            verifier: None,
            revocations: None,
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

    /// Refuses the tokens on this list. A verifier that was made elsewhere has its own: hand it to that one
    /// ([`VerifierBuilder::with_revocations`](crate::token::VerifierBuilder::with_revocations)). A [`Stack::sibling`] has that of the stack
    /// it stands beside. Default none.
    pub fn with_revocations(mut self, revocations: RevocationList) -> Self {
        self.revocations = Some(revocations);
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

    /// Lets the application add to what the policy is asked. See [`AuthorizeLayer::add_enrichment`].
    pub fn add_enrichment(
        mut self,
        enrichment: impl Fn(&RequestHead<'_>, &mut PolicyInput) -> Result<(), Box<dyn Error + Send + Sync>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.authorize = self.authorize.add_enrichment(enrichment);
        self
    }

    /// As [`build`](Self::build), and waits until the keys of every issuer are there, those of a [`with_verifier`](Self::with_verifier)
    /// included, and the policy has stood its test ([`PolicyBackend::preflight`]): for a service that must not start otherwise. A policy
    /// server that is away is no failure: its decisions are 503 until it is back.
    ///
    /// # Errors
    ///
    /// Those of [`build`](Self::build), and [`ConfigError::Unusable`] when the deadline has passed: it names the first issuer whose keys are
    /// not there, the kind of the last failure, and the remedy. What the policy's test finds: a decision path that gives no decision.
    pub async fn build_ready(self, deadline: Duration) -> Result<Stack, ConfigError> {
        let checked = self.check()?;
        checked.verifier.await_keys(deadline).await?;
        checked.authorize.shared_backend().preflight().await?;
        checked.start()
    }

    /// Checks everything, and starts what works in the background. An issuer that is away is no error: calls with its tokens are
    /// answered 503 until it is back.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] of whatever part cannot be built: rules, realm, input headers, issuers, or a missing Tokio runtime; and for a list
    /// of revocations beside a verifier that would never look at it.
    pub fn build(self) -> Result<Stack, ConfigError> {
        self.check()?.start()
    }

    /// Everything but the audit trail.
    fn check(self) -> Result<Checked, ConfigError> {
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
        let verifier = match (self.verifier, self.revocations) {
            (Some(_), Some(revocations)) => {
                let remedy = "hand the list to the verifier that the stack is given, or to the stack that this one stands beside";
                return Err(ConfigError::invalid("revocations", format!("{revocations:?}"), remedy));
            }
            (Some(verifier), None) => verifier,
            (None, revocations) => {
                let builder = Verifier::builder_of(self.issuers).with_clock(Arc::clone(&self.clock));
                match revocations {
                    Some(revocations) => builder.with_revocations(revocations),
                    None => builder,
                }
                .build()?
            }
        };
        if let Some((row, key)) = rules.tenant_row()
            && verifier.mixes_tenants()
        {
            let remedy = "two issuers may give one name to two tenants: drop the tenant parameter and let the policy compare issuer and \
                          tenant, or give the routes of each issuer a stack of their own";
            return Err(ConfigError::invalid(format!("rules[{row}]"), key.to_string(), remedy));
        }
        let (trail, mode, service, clock) = (self.audit, self.mode, self.service, self.clock);
        Ok(Checked { rules, rule_text, denial, refusals, authorize, verifier, trail, mode, service, clock })
    }
}

/// A configuration that is in order, and a verifier that loads its keys.
struct Checked {
    rules: RuleTable,
    rule_text: String,
    denial: DenialLayer,
    refusals: String,
    authorize: AuthorizeLayer<dyn PolicyBackend>,
    verifier: Verifier,
    trail: Trail,
    mode: Mode,
    service: Option<Arc<str>>,
    clock: Arc<dyn Clock>,
}

impl Checked {
    /// The last step: no trail runs in the background when another one fails.
    fn start(self) -> Result<Stack, ConfigError> {
        let Self { rules, rule_text, denial, refusals, authorize, verifier, trail, mode, service, clock } = self;
        let audit = match trail {
            Trail::Running(audit) => audit,
            Trail::New(sink) => {
                let builder = Audit::builder(sink).with_mode(mode).with_clock(Arc::clone(&clock));
                match service {
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
                    match audiences.as_slice() {
                        [] => format!("{issuer} for its listed clients, whatever the audience"),
                        audiences => format!("{issuer} for {}", audiences.join(", ")),
                    }
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
            authenticate: AuthenticateLayer::new(verifier.clone()).with_clock(clock),
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
