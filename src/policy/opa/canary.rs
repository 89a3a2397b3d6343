//! The question that tells a wrong decision path from a server that is away. Without it, a typing error in the path is a server that
//! denies everything, with status 200.

use std::borrow::Cow;

use http::{Method, Request};

use crate::{
    ConfigError,
    policy::{Decision, PolicyError, PolicyErrorKind, PolicyInput},
    principal::Principal,
    route::{Route, RouteKey},
    rules::Rules,
};

/// What an anonymous caller's `GET /` would be asked, under a request id that stands out in the server's decision log.
pub(super) fn input() -> Result<PolicyInput, ConfigError> {
    let rules = Rules::new().into_table()?;
    let mut request = Request::new(());
    request.extensions_mut().insert(Principal::anonymous());
    request
        .extensions_mut()
        .insert(Route::matched(&rules, RouteKey::Http { method: Method::GET, template: "/".into() }));
    let mut input = PolicyInput::from_request(&request, &[])
        .map_err(|error| ConfigError::unusable("policy.opa", "canary", "report this as a bug", error))?;
    "portcullis-canary".clone_into(&mut input.context.request_id);
    Ok(input)
}

/// `Ok(Err(_))` when nobody answered, and so nothing is known.
pub(super) fn judge(
    answer: Result<Decision, PolicyError>,
    decision_path: &str,
) -> Result<Result<(), Cow<'static, str>>, ConfigError> {
    let field = "policy.opa.decision_path";
    match answer {
        Ok(decision) if decision.is_undefined() => Err(ConfigError::invalid(field, decision_path, UNDEFINED)),
        Ok(_) => Ok(Ok(())),
        Err(error) => match error.kind() {
            PolicyErrorKind::InvalidResult | PolicyErrorKind::Evaluation => {
                Err(ConfigError::unusable(field, decision_path, NO_DECISION, error))
            }
            kind => Ok(Err(format!("the server does not decide: {}", kind.code()).into())),
        },
    }
}

const UNDEFINED: &str = "the server knows no such document, or the rule says nothing about an anonymous caller: name package and rule \
                         as the policy does, and give the rule a default (`default decision := false`)";
const NO_DECISION: &str = "name the rule that decides, not its package or a member of its result; it must be true, false or an object \
                           with `allow`, also for an anonymous caller";
