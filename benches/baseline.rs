//! What every other number is compared with: a service that does nothing.
//!
//! `cargo bench --bench baseline`. The absolute numbers say more about the machine than about the crate. Read the other benches as
//! ratios: the time of a layer around the empty service, divided by `baseline/empty service` from the same run on the same machine.
//! `boxed` and `cloned` are here because real stacks box and clone: they tell how much of a ratio is Tower and not portcullis.
#![allow(clippy::expect_used, missing_docs, reason = "a bench that cannot be set up stops")]

use std::{convert::Infallible, hint::black_box, time::Duration};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::{Request, Response};
use http_body_util::Empty;
use tower::{Service as _, ServiceExt as _, service_fn, util::BoxCloneSyncService};

type Body = Empty<Bytes>;

fn baseline(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let empty = service_fn(async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Body::new())));
    let request = || Request::new(Body::new());
    let mut group = criterion.benchmark_group("baseline");
    group.bench_function("empty service", |bencher| {
        let call = |request| async move { black_box({ empty }.call(request).await) };
        bencher.to_async(&runtime).iter_batched(request, call, BatchSize::SmallInput);
    });
    group.bench_function("cloned", |bencher| {
        bencher.to_async(&runtime).iter_batched(request, |request| empty.oneshot(request), BatchSize::SmallInput);
    });
    group.bench_function("boxed", |bencher| {
        let boxed = BoxCloneSyncService::new(empty);
        bencher.to_async(&runtime).iter_batched(
            request,
            |request| boxed.clone().oneshot(request),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(1));
    targets = baseline
}
criterion_main!(benches);
