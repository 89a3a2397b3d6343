use std::sync::Arc;

use super::{
    AuditRecord, Kind, RecordedActor, RecordedClaims, RecordedConfirmation, RecordedKey, RecordedPolicy, RecordedRoute,
    RecordedShadow, Verdict,
    queue::{Share, Slot},
    text::{clean, clean_all},
};
use crate::{
    denial::{Denial, Reason, RequestId, Stage},
    policy::{Decision, PolicyInput, ShadowDifference},
    principal::{Actor, Confirmation, Principal},
    route::Route,
    rules::Demand,
    time::UnixTime,
    token::{Claimed, VerifiedToken},
};

/// What the stages have said of a request so far.
#[derive(Debug)]
pub(super) struct Facts {
    /// True once the `request` record was made: what is said later is said to nobody.
    pub(super) written: bool,
    pub(super) stage: Option<Stage>,
    pub(super) route: Option<Route>,
    pub(super) claimed: Option<Claimed>,
    pub(super) principal: Option<Principal>,
    pub(super) token: Option<VerifiedToken>,
    pub(super) policy: Option<RecordedPolicy>,
    pub(super) reason: Option<Reason>,
    pub(super) admitted: bool,
    /// The room that is reserved for the records to come: at most two.
    pub(super) slots: Vec<Slot>,
    pub(super) share: Share,
}

impl Facts {
    pub(super) fn new(slot: Option<Slot>) -> Self {
        Self {
            written: false,
            stage: None,
            route: None,
            claimed: None,
            principal: None,
            token: None,
            policy: None,
            reason: None,
            admitted: false,
            slots: slot.into_iter().collect(),
            share: Share::Half,
        }
    }

    pub(super) fn fill(&self, record: &mut AuditRecord) {
        if let Some(principal) = &self.principal {
            fill_principal(principal, record);
        }
        if let Some(token) = &self.token {
            record.jti = token.token_id().map(|id| clean(id.as_str()));
            record.thumbprint = Some(clean(token.thumbprint().as_str()));
            record.exp = Some(token.expires_at().as_secs());
            record.key = token
                .key_thumbprint()
                .map(|jkt| RecordedKey { kid: token.key_id().map(clean), jkt: clean(jkt.as_str()) });
        }
        if let Some(claimed) = &self.claimed {
            let presented = || claimed.thumbprint.as_ref().map(|thumbprint| clean(thumbprint.as_str()));
            record.thumbprint = record.thumbprint.take().or_else(presented);
            record.claimed = Some(recorded_claims(claimed));
        }
        if let Some(route) = &self.route {
            record.peer = route.peer();
            record.route = Some(RecordedRoute {
                template: route.key().map(|key| clean(key.template())),
                rule: route.rule().map(|rule| demand_name(rule.demand())),
                tenant: route.rule().and_then(|rule| rule.tenant_of_path(route.params())).map(clean),
            });
        }
        record.stage = self.stage;
        record.reason = self.reason.as_ref().map(Reason::code);
        record.decision = self.verdict();
        record.policy.clone_from(&self.policy);
    }

    /// The answer that the caller gets decides between a denial and an error, so that the two never disagree.
    fn verdict(&self) -> Option<Verdict> {
        match &self.reason {
            Some(reason) => {
                let status = Denial::of(reason, self.route.as_ref()).class().http_status();
                Some(if status.is_server_error() { Verdict::Error } else { Verdict::Deny })
            }
            None => self.admitted.then_some(Verdict::Allow),
        }
    }
}

pub(super) fn recorded_policy(decision: &Decision) -> RecordedPolicy {
    RecordedPolicy {
        effect: decision.effect(),
        revision: clean(decision.revision().as_str()),
        decision_id: clean(decision.id().as_str()),
        reasons: clean_all(decision.reasons().iter().map(String::as_str), REASONS),
        decided_by: decision.decided_by().map(clean),
        cached: decision.is_cached(),
    }
}

/// The record of a call about which two policies differ. It was enforced what the live one said; the difference was not.
pub(super) fn shadow_record(seen: &ShadowDifference, time: UnixTime, service: Option<Arc<str>>) -> AuditRecord {
    let PolicyInput { subject, action, resource, context, credential } = &seen.input;
    let text = |text: &str| (!text.is_empty()).then(|| clean(text));
    let mut record = AuditRecord::new(Kind::Shadow, time, service);
    record.request_id = RequestId::parse(&context.request_id);
    record.trace_id = text(&context.trace_id);
    record.user_id = text(&subject.id);
    record.issuer = text(&subject.properties.issuer);
    record.client_id = text(&subject.properties.client_id);
    record.tenant = text(&subject.properties.tenant);
    record.thumbprint = credential.as_ref().map(|credential| clean(credential.thumbprint.as_str()));
    record.exp = credential.as_ref().map(|credential| credential.expires_at.as_secs());
    record.method = text(&action.method);
    record.route = Some(RecordedRoute { template: text(&resource.id), rule: None, tenant: None });
    record.stage = Some(Stage::Policy);
    record.policy = seen.live.as_ref().ok().map(recorded_policy);
    record.reason = seen.live.as_ref().err().map(|kind| kind.code());
    record.shadow = Some(RecordedShadow {
        policy: seen.candidate.as_ref().ok().map(recorded_policy),
        error: seen.candidate.as_ref().err().map(|kind| kind.code()),
    });
    record.enforced = false;
    record
}

fn fill_principal(principal: &Principal, record: &mut AuditRecord) {
    record.user_id = principal.user_id().map(|id| clean(id.as_str()));
    record.issuer = principal.issuer().map(|issuer| clean(issuer.as_str()));
    record.client_id = principal.client().map(|client| clean(client.as_str()));
    record.tenant = principal.tenant().map(|tenant| clean(tenant.as_str()));
    record.principal = Some(principal.kind());
    record.scope = clean_all(principal.scope().iter().map(|word| word.as_str()), SCOPE_WORDS);
    record.actors = principal.actors().iter().take(ACTORS).map(recorded_actor).collect();
    if principal.actors().len() > ACTORS {
        record.actors.push(RecordedActor { subject: "…".to_owned(), issuer: None, client_id: None });
    }
    record.cnf = principal.confirmation().map(|confirmation| match confirmation {
        Confirmation::Jkt(thumbprint) => RecordedConfirmation { kind: "jkt", value: clean(thumbprint.as_str()) },
        Confirmation::CertificateS256(thumbprint) => {
            RecordedConfirmation { kind: "x5t#S256", value: clean(thumbprint.as_str()) }
        }
    });
}

fn recorded_actor(actor: &Actor) -> RecordedActor {
    RecordedActor {
        subject: clean(actor.subject.as_str()),
        issuer: actor.issuer.as_ref().map(|issuer| clean(issuer.as_str())),
        client_id: actor.client.as_ref().map(|client| clean(client.as_str())),
    }
}

fn recorded_claims(claimed: &Claimed) -> RecordedClaims {
    RecordedClaims {
        verified: false,
        issuer: claimed.issuer.as_deref().map(clean),
        subject: claimed.subject.as_deref().map(clean),
        jti: claimed.token_id.as_deref().map(clean),
        exp: claimed.expires_at,
        kid: claimed.key_id.as_deref().map(clean),
    }
}

const fn demand_name(demand: &Demand) -> &'static str {
    match demand {
        Demand::Scopes(_) => "scopes",
        Demand::PolicyOnly => "policy_only",
        Demand::Optional => "optional",
        Demand::Public { .. } => "public",
    }
}

const REASONS: usize = 16;

const SCOPE_WORDS: usize = 32;

const ACTORS: usize = 8;
