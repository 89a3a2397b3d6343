//! Backends made of backends.

mod all_of;
mod cached;
mod projection;
mod shadow;
mod standby;

pub use all_of::AllOf;
pub use cached::{CacheMetrics, Cached, CachedBuilder};
pub use shadow::{Shadow, ShadowBuilder, ShadowDifference, ShadowMetrics};
pub use standby::Standby;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use async_trait::async_trait;

    use super::*;
    use crate::{
        ConfigError,
        health::Health,
        policy::{
            Decision, PolicyBackend, PolicyError, PolicyInForce, PolicyInput, PolicyRevision, Reads,
            dangerous_allow_all,
        },
    };

    /// Wrongly configured, and down.
    struct Unfit;

    #[async_trait]
    impl PolicyBackend for Unfit {
        async fn decide(self: Arc<Self>, _: PolicyInput) -> Result<Decision, PolicyError> {
            Err(PolicyError::unavailable("never asked"))
        }

        fn in_force(&self) -> Option<PolicyInForce> {
            Some(PolicyInForce::new(PolicyRevision::new("r7"), Reads::everything()))
        }

        async fn preflight(self: Arc<Self>) -> Result<(), ConfigError> {
            Err(ConfigError::missing("unfit", "mend it"))
        }

        fn health(&self) -> Health {
            Health::Unavailable("unfit".into())
        }
    }

    #[tokio::test]
    async fn a_mistake_within_is_found_before_the_first_request_whatever_stands_around_it() {
        let (unfit, fit) = (|| Arc::new(Unfit) as Arc<dyn PolicyBackend>, || Arc::new(dangerous_allow_all()));
        let around: [(&str, Arc<dyn PolicyBackend>); 7] = [
            ("shared", Arc::new(unfit())),
            ("all of, first", Arc::new(AllOf::new("a", unfit()).add("b", fit()))),
            ("all of, second", Arc::new(AllOf::new("a", fit()).add("b", unfit()))),
            ("cached", Arc::new(Cached::builder(unfit()).build().unwrap())),
            ("shadow", Arc::new(Shadow::builder(unfit(), fit()).build().unwrap())),
            ("standby, first", Arc::new(Standby::new(("a", unfit()), ("b", fit())))),
            ("standby, second", Arc::new(Standby::new(("a", fit()), ("b", unfit())))),
        ];
        for (what, backend) in around {
            let found = backend.preflight().await.map_err(|error| error.field().to_owned());
            assert_eq!(found, Err("unfit".to_owned()), "{what}");
        }
        let candidate = Arc::new(Shadow::builder(fit(), unfit()).build().unwrap());
        assert!(candidate.preflight().await.is_ok(), "a candidate keeps no service from starting");
    }

    #[tokio::test]
    async fn who_decides_for_another_has_its_version_and_its_health() {
        let unfit = || Arc::new(Unfit) as Arc<dyn PolicyBackend>;
        let around: [(&str, Arc<dyn PolicyBackend>); 3] = [
            ("shared", Arc::new(unfit())),
            ("cached", Arc::new(Cached::builder(unfit()).build().unwrap())),
            ("shadow", Arc::new(Shadow::builder(unfit(), Arc::new(dangerous_allow_all())).build().unwrap())),
        ];
        for (what, backend) in around {
            assert_eq!(backend.in_force(), unfit().in_force(), "{what}");
            assert_eq!(backend.health(), unfit().health(), "{what}");
        }
    }
}
