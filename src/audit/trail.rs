use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::Request;

use super::{
    Answer, Audit, AuditRecord, Kind, Mode, Outcome, Phase,
    facts::{Facts, recorded_policy},
    queue::Share,
    text::clean,
    trace_context::trace_id,
};
use crate::{
    denial::{Protocol, Reason, RequestContext, Stage},
    policy::Decision,
    principal::Principal,
    route::Route,
    time::UnixTime,
    token::{Claimed, VerifiedToken},
};

/// The facts of one request, gathered on its way: the one thing that travels back.
///
/// Put into the request by the [`AuditLayer`](crate::layer::audit::AuditLayer); every stage inside writes to it what it
/// found. Cheap to clone: every clone is the same trail.
#[derive(Clone, Debug)]
pub struct Trail(Option<Arc<Shared>>);

pub(super) struct Shared {
    audit: Audit,
    context: RequestContext,
    trace_id: Option<String>,
    method: String,
    arrived: UnixTime,
    since: Duration,
    facts: Mutex<Facts>,
}

/// A trail without a guard: what the stages say is told to whoever holds it, and no record is written.
///
/// It asks for room as any trail does, so that a queue without room refuses here too, and gives the room back.
pub(crate) struct Rehearsal(Arc<Shared>);

/// What the stages said of a request that nobody made.
pub(crate) struct Rehearsed {
    /// Not written, and marked as not enforced.
    pub(crate) record: AuditRecord,
    pub(crate) reason: Option<Reason>,
    pub(crate) route: Option<Route>,
}

impl Rehearsal {
    /// Puts the trail into the request.
    pub(crate) fn open<B>(audit: &Audit, request: &mut Request<B>) -> Self {
        Self(Shared::open(audit, request))
    }

    /// What was said, and how it was answered.
    pub(crate) fn end(self, answered: Answer) -> Rehearsed {
        let ending = Ending { outcome: None, phase: None, answered: Some(answered), bytes: 0 };
        let mut record = self.0.record(Kind::Request, ending);
        let mut facts = self.0.facts();
        facts.fill(&mut record);
        // What is said from here on is said to nobody.
        facts.written = true;
        facts.slots.clear();
        record.sent = None;
        record.enforced = false;
        Rehearsed { record, reason: facts.reason.clone(), route: facts.route.clone() }
    }
}

/// How a request ended, as its guard saw it.
pub(super) struct Ending {
    pub(super) outcome: Option<Outcome>,
    pub(super) phase: Option<Phase>,
    pub(super) answered: Option<Answer>,
    pub(super) bytes: u64,
}

impl Trail {
    /// The trail of a request; one that records nothing when no `AuditLayer` stands outside.
    #[must_use]
    pub fn of<B>(request: &Request<B>) -> Self {
        request.extensions().get().cloned().unwrap_or(Self(None))
    }

    /// True when the request is on a trail whose record is still to be written: who finds one joins it. One that outlived its
    /// record (a handler that calls on in the background with the old extensions) is not joined, or the call would leave none.
    pub(crate) fn is_open<B>(request: &Request<B>) -> bool {
        Self::of(request).0.is_some_and(|shared| !shared.facts().written)
    }

    /// Which route the request matched.
    pub(crate) fn routed(&self, route: &Route) {
        self.write(|facts| {
            facts.stage = Some(Stage::Route);
            facts.route = Some(route.clone());
        });
    }

    /// Credentials came; nothing of them is verified yet.
    pub(crate) fn presented(&self, claimed: Claimed) {
        self.write(|facts| facts.claimed = Some(claimed));
    }

    /// The principal is authenticated. Reserves room for the records of an authenticated request.
    ///
    /// # Errors
    ///
    /// [`Reason::AuditUnavailable`] when the mode demands room and there is none.
    pub(crate) fn authenticated(&self, principal: &Principal, token: Option<&VerifiedToken>) -> Result<(), Reason> {
        self.write(|facts| {
            facts.stage = Some(Stage::Authenticate);
            facts.principal = Some(principal.clone());
            if let Some(token) = token {
                facts.token = Some(token.clone());
                facts.claimed = None;
            }
        });
        self.secure(if principal.is_anonymous() { Share::Half } else { Share::Whole })
    }

    /// The route is public; nobody is authenticated. Reserves room.
    ///
    /// # Errors
    ///
    /// [`Reason::AuditUnavailable`] when the mode demands room and there is none.
    pub(crate) fn public(&self) -> Result<(), Reason> {
        self.secure(Share::Half)
    }

    /// The policy decided.
    pub(crate) fn decided(&self, decision: &Decision) {
        self.write(|facts| {
            facts.stage = Some(Stage::Policy);
            facts.policy = Some(recorded_policy(decision));
        });
    }

    /// The request was refused. The first refusal is the one that counts.
    pub(crate) fn denied(&self, reason: &Reason) {
        self.write(|facts| {
            if facts.reason.is_none() {
                facts.stage = Some(reason.stage());
                facts.reason = Some(reason.clone());
            }
        });
    }

    /// Every gate was passed; the handler is being called.
    pub(crate) fn admitted(&self) {
        self.write(|facts| {
            facts.admitted = true;
            if facts.reason.is_none() {
                facts.stage = Some(Stage::Handler);
            }
        });
    }

    fn write(&self, write: impl FnOnce(&mut Facts)) {
        if let Some(shared) = &self.0 {
            write(&mut shared.facts());
        }
    }

    fn secure(&self, share: Share) -> Result<(), Reason> {
        self.0.as_ref().map_or(Ok(()), |shared| shared.secure(share))
    }
}

impl Shared {
    /// Opens the trail of a request and puts it into the request; without a context, one is put beside it, so that whoever
    /// asks reads the id that the record has.
    pub(super) fn open<B>(audit: &Audit, request: &mut Request<B>) -> Arc<Self> {
        let context = match request.extensions().get::<RequestContext>() {
            Some(context) => context.clone(),
            None => {
                let context = RequestContext::new(Protocol::of(request.headers()), request.method().clone());
                request.extensions_mut().insert(context.clone());
                context
            }
        };
        // Nobody is authenticated yet. Whoever finds the half taken goes on without room: most such requests are refused.
        let slot = match audit.mode() {
            Mode::Deny => audit.reserve(Share::Half),
            Mode::Count => None,
        };
        let shared = Arc::new(Self {
            audit: audit.clone(),
            context,
            trace_id: trace_id(request.headers()),
            method: clean(request.method().as_str()),
            arrived: audit.clock().now(),
            since: audit.clock().elapsed(),
            facts: Mutex::new(Facts::new(slot)),
        });
        request.extensions_mut().insert(Trail(Some(Arc::clone(&shared))));
        shared
    }

    /// Reserves two records: the request's, and the end's should the answer be a stream. It is too late to refuse one then.
    fn secure(&self, share: Share) -> Result<(), Reason> {
        let mut facts = self.facts();
        facts.share = facts.share.max(share);
        match self.audit.mode() {
            Mode::Count => return Ok(()),
            // Nothing that is done from here on would be in the record.
            Mode::Deny if facts.written => return Err(Reason::AuditUnavailable),
            Mode::Deny => {}
        }
        if facts.share == Share::Whole {
            facts.slots.iter_mut().for_each(|slot| slot.move_to_whole());
        }
        while facts.slots.len() < 2 {
            let slot = self.audit.reserve(facts.share).ok_or(Reason::AuditUnavailable)?;
            facts.slots.push(slot);
        }
        Ok(())
    }

    /// Gives back the room for an end record: the length of the body is known.
    pub(super) fn expect_no_end(&self) {
        self.facts().slots.truncate(1);
    }

    /// Gives all room back: the last record was made.
    pub(super) fn close(&self) {
        self.facts().slots.clear();
    }

    /// Makes the record and sends it on its way.
    pub(super) fn emit(&self, kind: Kind, ending: Ending) {
        let mut record = self.record(kind, ending);
        let (slot, share) = {
            let mut facts = self.facts();
            facts.fill(&mut record);
            facts.written = true;
            (facts.slots.pop(), facts.share)
        };
        self.audit.put(slot, share, record);
    }

    /// What is known of a request beside what the stages said.
    fn record(&self, kind: Kind, ending: Ending) -> AuditRecord {
        let clock = self.audit.clock();
        let time = if kind == Kind::Request { self.arrived } else { clock.now() };
        let mut record = AuditRecord::new(kind, time, self.audit.service());
        record.request_id = Some(self.context.request_id().clone());
        record.trace_id.clone_from(&self.trace_id);
        record.method = Some(self.method.clone());
        record.answered = ending.answered;
        record.sent = self.context.sent().map(Answer::from).or(ending.answered);
        record.outcome = ending.outcome;
        record.phase = ending.phase;
        record.bytes = ending.bytes;
        let duration = clock.elapsed().saturating_sub(self.since);
        record.duration_us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        record
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        // A stage that panicked while writing left whole facts behind: each is one assignment.
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shows the request's id alone: facts hold the words of whoever sent the request.
impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trail").field("request_id", self.context.request_id()).finish_non_exhaustive()
    }
}
