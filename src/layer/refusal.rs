use http::Response;

use crate::{
    audit::Trail,
    denial::{Denial, Reason},
    route::Route,
};

/// The answer of a gate that refuses. The reason goes into the trail; what the response carries is the [`Denial`] alone.
pub(crate) fn refuse<B: Default>(reason: &Reason, route: Option<&Route>, trail: &Trail) -> Response<B> {
    if let Reason::MissingLayer(missing) = reason {
        tracing::error!(code = reason.code(), "every request is refused: {missing}");
    }
    trail.denied(reason);
    let denial = Denial::of(reason, route);
    let mut response = Response::new(B::default());
    *response.status_mut() = denial.class().http_status();
    response.extensions_mut().insert(denial);
    response
}
