use http::{Method, Request};

use crate::{
    policy::PolicyInput,
    principal::Principal,
    route::{Route, RouteKey},
    rules::Rules,
};

/// What a policy is asked about an anonymous caller of this route; its members are public, for a test to change them.
///
/// # Panics
///
/// When the method is none.
#[must_use]
pub fn policy_input(method: &str, template: &str) -> PolicyInput {
    let rules = Rules::new().into_table().expect("no rules are valid rules");
    let method = Method::from_bytes(method.as_bytes()).expect("an HTTP method");
    let path = template.split('/').skip(1).map(str::to_owned).collect();
    let route =
        Route::matched(&rules, RouteKey::Http { method: method.clone(), template: template.into() }).with_path(path);
    let mut request = Request::new(());
    *request.method_mut() = method;
    request.extensions_mut().insert(Principal::anonymous());
    request.extensions_mut().insert(route);
    PolicyInput::from_request(&request, &[]).expect("principal and route are there")
}
