use std::{
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::task::{AbortHandle, spawn_blocking};

use super::{PolicySet, Rego};
use crate::{ConfigError, error::runtime, policy::PolicyRevision};

/// How a directory is watched by [`Rego::watch`].
#[derive(Clone, Debug)]
#[must_use]
pub struct WatchSettings {
    interval: Duration,
}

/// A directory that is being watched. Dropping it ends that; a policy that is just being loaded may still come to serve.
#[derive(Debug)]
#[must_use = "the watching ends when this is dropped"]
pub struct Watch(AbortHandle);

impl WatchSettings {
    /// How long after one look the next one follows. Default 5 s; at least 100 ms, at most 1 h.
    pub const fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }
}

impl Default for WatchSettings {
    fn default() -> Self {
        Self { interval: Duration::from_secs(5) }
    }
}

impl Rego {
    /// Keeps to what a directory holds, as [`PolicySet::add_dir`] reads it: a change there is [activated](Rego::activate) within one
    /// interval, or two.
    ///
    /// All files are read at each look and compared by content, so that it works with whatever replaces them: an editor, a mounted volume,
    /// a link that is pointed elsewhere. Several files that are written one after the other can be seen half way; where that matters, write
    /// a new directory and exchange a link to it. What cannot be read or is refused leaves the old policy in place. It is logged once, with
    /// file and line, and health is [degraded](crate::health::Health::Degraded) until the directory is mended. It is tried again every
    /// twelfth look, in case that the cause was elsewhere.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), portcullis::ConfigError> {
    /// use std::sync::Arc;
    /// use portcullis::policy::{Rego, WatchSettings};
    ///
    /// let rego = Arc::new(Rego::from_dir("/etc/orders/policy")?);
    /// let _watch = rego.watch("/etc/orders/policy", WatchSettings::default())?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] for an interval outside its bounds, [`ConfigError::NoRuntime`] outside a Tokio runtime.
    pub fn watch(self: &Arc<Self>, dir: impl Into<PathBuf>, settings: WatchSettings) -> Result<Watch, ConfigError> {
        let WatchSettings { interval } = settings;
        if interval < MIN_INTERVAL || interval > MAX_INTERVAL {
            let remedy = format!("choose {MIN_INTERVAL:?} to {MAX_INTERVAL:?}");
            return Err(ConfigError::invalid("policy.rego.watch.interval", format!("{interval:?}"), remedy));
        }
        let mut watcher = Watcher::new(self, dir.into());
        let watching = async move {
            loop {
                let look = spawn_blocking(move || {
                    let looked = watcher.check_once();
                    (watcher, looked)
                });
                watcher = match look.await {
                    Ok((_, Looked::Ended)) => return,
                    Ok((watcher, _)) => watcher,
                    Err(error) => {
                        tracing::error!(%error, "the policy directory is no longer watched");
                        return;
                    }
                };
                tokio::time::sleep(interval).await;
            }
        };
        Ok(Watch(runtime("policy::Watch")?.spawn(watching).abort_handle()))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Watcher {
    rego: Weak<Rego>,
    dir: PathBuf,
    /// What was found when something was last done about it.
    seen: Option<Found>,
    /// How many looks ago that was refused.
    refused: Option<u32>,
    logged: Option<(Found, String)>,
}

/// A readable policy by its digest, or why it cannot be read.
type Found = Result<PolicyRevision, String>;

#[derive(Debug, PartialEq, Eq)]
enum Looked {
    Unchanged,
    /// It changes as it is read: next time.
    Unsettled,
    Activated,
    Refused,
    /// Nobody decides by it any more.
    Ended,
}

impl Watcher {
    fn new(rego: &Arc<Rego>, dir: PathBuf) -> Self {
        Self { rego: Arc::downgrade(rego), dir, seen: None, refused: None, logged: None }
    }

    fn check_once(&mut self) -> Looked {
        self.check_between(|| ())
    }

    /// `between` happens between the two times that a change is read.
    fn check_between(&mut self, between: impl FnOnce()) -> Looked {
        let Some(rego) = self.rego.upgrade() else {
            return Looked::Ended;
        };
        let policies = PolicySet::from_dir(&self.dir);
        let found = found(&policies);
        if self.seen.as_ref() == Some(&found) {
            match &mut self.refused {
                None => return Looked::Unchanged,
                Some(ago) if *ago < LOOKS_BEFORE_RETRY => {
                    *ago += 1;
                    return Looked::Unchanged;
                }
                Some(_) => {}
            }
        } else {
            between();
            // Files that are being exchanged while they are read give a mixture that never was.
            if self::found(&PolicySet::from_dir(&self.dir)) != found {
                return Looked::Unsettled;
            }
        }
        let done = match policies {
            Ok(policies) if policies.revision() == rego.revision() => {
                let trouble = rego.trouble().take();
                if trouble.is_some() {
                    tracing::info!(revision = %rego.revision(), "the policy directory is as it was again");
                }
                Ok(Looked::Unchanged)
            }
            Ok(policies) => rego.activate(policies).map(|_| Looked::Activated),
            Err(error) => {
                rego.reject(&error);
                Err(error)
            }
        };
        self.refused = done.is_err().then_some(1);
        let looked = done.unwrap_or_else(|error| {
            let line = (found.clone(), error.to_string());
            if self.logged.as_ref() != Some(&line) {
                tracing::warn!(%error, serving = %rego.revision(), "the changed policy is refused");
                self.logged = Some(line);
            }
            Looked::Refused
        });
        self.seen = Some(found);
        looked
    }
}

fn found(policies: &Result<PolicySet, ConfigError>) -> Found {
    policies.as_ref().map(PolicySet::revision).map_err(ToString::to_string)
}

const MIN_INTERVAL: Duration = Duration::from_millis(100);
const MAX_INTERVAL: Duration = Duration::from_secs(60 * 60);

const LOOKS_BEFORE_RETRY: u32 = 12;

#[cfg(test)]
mod tests {
    use std::{fs, io, path::Path, sync::Mutex};

    use tempfile::TempDir;

    use super::*;
    use crate::{
        health::Health,
        policy::{Effect, PolicyBackend as _},
        testing::policy_input,
    };

    struct Stage {
        dir: TempDir,
        rego: Arc<Rego>,
        watcher: Watcher,
    }

    impl Stage {
        fn new(decision: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            write(dir.path(), decision);
            let builder = Rego::builder().add_dir(dir.path()).unwrap().with_time_limit(Duration::from_secs(1));
            let rego = Arc::new(builder.build().unwrap());
            let watcher = Watcher::new(&rego, dir.path().to_owned());
            Self { dir, rego, watcher }
        }

        fn allows(&self) -> bool {
            self.rego.decide_now(&policy_input("GET", "/jobs")).unwrap().unwrap().effect() == Effect::Allow
        }
    }

    fn write(dir: &Path, decision: &str) {
        fs::write(dir.join("authz.rego"), format!("package authz\n\ndecision := {decision}")).unwrap();
    }

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_change_of_the_directory_is_activated_once() {
        let mut stage = Stage::new("false");
        assert_eq!(stage.watcher.check_once(), Looked::Unchanged);
        assert!(!stage.allows());
        write(stage.dir.path(), "true");
        assert_eq!(stage.watcher.check_once(), Looked::Activated);
        assert!(stage.allows());
        assert_eq!(stage.watcher.check_once(), Looked::Unchanged);
        write(stage.dir.path(), "data.allowed");
        fs::write(stage.dir.path().join("data.json"), "{\"allowed\": false}").unwrap();
        assert_eq!(stage.watcher.check_once(), Looked::Activated);
        assert!(!stage.allows());
    }

    #[test]
    fn a_broken_edit_keeps_the_old_policy_and_is_told_once_until_it_is_mended() {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let _kept = tracing::subscriber::set_default(subscriber);
        let mut stage = Stage::new("true");
        let good = stage.rego.revision();
        write(stage.dir.path(), "{");
        assert_eq!(stage.watcher.check_once(), Looked::Refused);
        for _ in 0..3 * LOOKS_BEFORE_RETRY {
            stage.watcher.check_once();
        }
        assert!(stage.allows());
        assert_eq!(stage.rego.revision(), good);
        let health = stage.rego.health();
        assert!(matches!(&health, Health::Degraded(text) if text.contains("authz.rego:3:")), "{health}");
        let log = || String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        assert_eq!(log().matches("the changed policy is refused").count(), 1, "{}", log());
        assert!(log().contains("authz.rego:3:") && log().contains("mend the policy"), "{}", log());

        // Another fault is told as well.
        fs::write(stage.dir.path().join("data.yaml"), "x: 1").unwrap();
        assert_eq!(stage.watcher.check_once(), Looked::Refused);
        assert_eq!(log().matches("the changed policy is refused").count(), 2, "{}", log());
        assert!(stage.rego.health().to_string().contains("convert it to `data.json`"));

        fs::remove_file(stage.dir.path().join("data.yaml")).unwrap();
        write(stage.dir.path(), "true");
        assert_eq!(stage.watcher.check_once(), Looked::Unchanged);
        assert_eq!(stage.rego.health(), Health::Ready, "what serves is what is there");
        write(stage.dir.path(), "false");
        assert_eq!(stage.watcher.check_once(), Looked::Activated);
    }

    #[test]
    fn a_directory_that_goes_away_and_comes_back_keeps_the_policy() {
        let mut stage = Stage::new("true");
        let (here, away) = (stage.dir.path().to_owned(), stage.dir.path().with_extension("away"));
        fs::rename(&here, &away).unwrap();
        assert_eq!(stage.watcher.check_once(), Looked::Refused);
        assert!(stage.allows() && matches!(stage.rego.health(), Health::Degraded(_)));
        fs::rename(&away, &here).unwrap();
        assert_eq!(stage.watcher.check_once(), Looked::Unchanged);
        assert_eq!(stage.rego.health(), Health::Ready);
    }

    #[test]
    fn files_that_change_while_they_are_read_wait_for_the_next_look() {
        let mut stage = Stage::new("true");
        let path = stage.dir.path().to_owned();
        write(&path, "{");
        assert_eq!(stage.watcher.check_between(|| write(&path, "false")), Looked::Unsettled);
        assert!(stage.allows() && stage.rego.health() == Health::Ready);
        assert_eq!(stage.watcher.check_once(), Looked::Activated);
        assert!(!stage.allows());
    }

    #[test]
    #[cfg(unix)]
    fn a_volume_that_exchanges_a_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let version = |name: &str, decision: &str| {
            fs::create_dir(dir.path().join(name)).unwrap();
            write(&dir.path().join(name), decision);
        };
        let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, dir.path().join(name)).unwrap();
        version("..2026_1", "false");
        link("..2026_1", "..data");
        link("..data/authz.rego", "authz.rego");
        let rego = Arc::new(Rego::from_dir(dir.path()).unwrap());
        let mut watcher = Watcher::new(&rego, dir.path().to_owned());
        assert_eq!(watcher.check_once(), Looked::Unchanged);
        version("..2026_2", "true");
        link("..2026_2", "..data_tmp");
        fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
        assert_eq!(watcher.check_once(), Looked::Activated);
    }

    #[test]
    fn a_cause_that_lies_elsewhere_is_tried_again() {
        let list = crate::revocation::RevocationList::builder().with_capacity(1).build().unwrap();
        let entry = |name| format!("{{\"issuer\": \"i\", \"subject\": \"{name}\", \"not_before\": 4000000000}}");
        let document = |entries: &str| format!("{{\"portcullis\": {{\"revocations\": {{\"entries\": [{entries}]}}}}}}");
        let mut stage = Stage::new("true");
        let builder = Rego::builder().add_dir(stage.dir.path()).unwrap().with_revocations(list.feed("policy"));
        stage.rego = Arc::new(builder.build().unwrap());
        stage.watcher = Watcher::new(&stage.rego, stage.dir.path().to_owned());
        let other = list.feed("other");
        let now = crate::time::UnixTime::from_secs(1_800_000_000);
        other.replace(format!("{{\"entries\": [{}]}}", entry("a")).as_bytes(), now).unwrap();
        fs::write(stage.dir.path().join("data.json"), document(&entry("b"))).unwrap();
        assert_eq!(stage.watcher.check_once(), Looked::Refused);
        other.replace(b"{\"entries\": []}", now).unwrap();
        let looks = (0..=LOOKS_BEFORE_RETRY).map(|_| stage.watcher.check_once()).collect::<Vec<_>>();
        let activated = looks.iter().enumerate().filter(|(_, looked)| **looked == Looked::Activated);
        assert_eq!(activated.map(|(look, _)| look).collect::<Vec<_>>(), [LOOKS_BEFORE_RETRY as usize - 1], "{looks:?}");
        assert_eq!((stage.rego.health(), list.len()), (Health::Ready, 1));
    }

    #[test]
    fn nobody_watches_for_a_backend_that_is_gone() {
        let Stage { dir: _dir, rego, mut watcher } = Stage::new("true");
        drop(rego);
        assert_eq!(watcher.check_once(), Looked::Ended);
    }

    #[test]
    fn an_interval_outside_its_bounds_and_a_missing_runtime_are_refused() {
        let stage = Stage::new("true");
        for interval in [Duration::from_millis(99), Duration::from_secs(3601)] {
            let error =
                stage.rego.watch(stage.dir.path(), WatchSettings::default().with_interval(interval)).unwrap_err();
            assert!(error.to_string().ends_with("choose 100ms to 3600s"), "{error}");
        }
        let error = stage.rego.watch(stage.dir.path(), WatchSettings::default()).unwrap_err();
        assert!(matches!(error, ConfigError::NoRuntime { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_watched_directory_is_followed_until_the_watch_is_dropped() {
        let stage = Stage::new("false");
        let settings = WatchSettings::default().with_interval(MIN_INTERVAL);
        let watch = stage.rego.watch(stage.dir.path(), settings).unwrap();
        write(stage.dir.path(), "true");
        while !stage.allows() {
            tokio::task::yield_now().await;
        }
        let task = watch.0.clone();
        drop(watch);
        while !task.is_finished() {
            tokio::task::yield_now().await;
        }
    }
}
