//! Which bundles decide: all of them together or none, and a newcomer only when it gets along with the others.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{MutexGuard, PoisonError},
};

use bytes::Bytes;
use http::HeaderValue;
use serde_json::json;

use super::core::{Core, Member};
use crate::{
    ConfigError,
    policy::bundle::{Bundle, BundleError, BundleErrorKind, Contents},
    time::UnixTime,
};

/// The bundles by their names. Every configured name is in it.
pub(super) type Shelves = BTreeMap<String, Slot>;

#[derive(Default)]
pub(super) struct Slot {
    active: Option<Version>,
    /// Read and verified, and not in force: others are missing, or what it makes of them was refused.
    pending: Option<Version>,
    /// The revision that none may fall behind of.
    floor: Option<String>,
}

struct Version {
    bundle: Bundle,
    /// As it came; empty once it is in force, unless it is still to be kept.
    archive: Bytes,
    etag: Option<HeaderValue>,
    /// When the server confirmed it, as [`Record::confirmed`](super::status::Record).
    confirmed: i64,
    /// On disk, or not to be kept there.
    is_kept: bool,
}

/// What became of a bundle that is as it should be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Installed {
    Activated,
    /// It is the one that is in force.
    Unchanged,
    /// For these, of which there is none yet.
    Waits(String),
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Policy(#[from] ConfigError),
    #[error("the policy engine panicked over it: find out which rule it is by leaving some out")]
    Panicked,
}

impl Refused {
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Bundle(error) => error.kind().as_str(),
            Self::Policy(_) | Self::Panicked => "activation",
        }
    }

    /// Whether another download may bring what this one should have.
    pub(super) fn is_of_transfer(&self) -> bool {
        matches!(self, Self::Bundle(error) if error.kind() == BundleErrorKind::Archive)
    }
}

impl Core {
    /// Reads a bundle that has come, and puts it in force with the others. Blocks. Whoever waits for it may go away: it is whole all the
    /// same.
    pub(super) fn install(
        &self,
        member: &Member,
        archive: Bytes,
        etag: Option<HeaderValue>,
    ) -> Result<Installed, Refused> {
        let feed = &member.feed;
        let bundle = Bundle::read(&feed.name, &archive, &feed.verification, &feed.limits)?;
        let confirmed = self.steady_now();
        member.record().status.last_successful_download = Some(self.clock.now());
        let mut shelves = self.shelves();
        let slot = shelves.entry(feed.name.clone()).or_default();
        if let Some(active) = slot.active.as_mut().filter(|active| active.bundle.digest() == bundle.digest()) {
            active.etag.clone_from(&etag);
            slot.pending = None;
            let mut record = member.record();
            (record.etag, record.confirmed) = (etag, Some(confirmed));
            return Ok(Installed::Unchanged);
        }
        // The server has this one now: what came before it and still waits is withdrawn, and so is what a 304 would confirm of it.
        slot.pending = None;
        if slot.active.is_none() {
            member.record().etag = None;
        }
        feed.rule.check(&feed.name, slot.floor.as_deref(), &bundle.manifest().revision)?;
        slot.pending = Some(Version { bundle, archive, etag: etag.clone(), confirmed, is_kept: false });
        let installed = self.activate_pending(&mut shelves, Some(&feed.name));
        // Until the others come there is no need to send this one again.
        if let Ok(Installed::Waits(_)) = installed {
            member.record().etag = etag;
        }
        installed
    }

    /// The server has what is in force: what it had in between is withdrawn. Blocks.
    pub(super) fn settle(&self, name: &str, now: UnixTime) {
        let mut shelves = self.shelves();
        let Some(slot) = shelves.get_mut(name) else { return };
        slot.pending = None;
        let (Some(shelf), Some(active)) = (&self.shelf, &mut slot.active) else { return };
        // The file of an earlier version must not look as if the server had confirmed that one.
        if !active.is_kept {
            if shelf.keep(name, &active.archive, now).is_ok() {
                (active.is_kept, active.archive) = (true, Bytes::new());
            }
        } else if self.freshness.is_some()
            && let Err(error) = shelf.confirm(name, now)
        {
            tracing::debug!(bundle = name, %error, "the file does not tell that the bundle was confirmed");
        }
    }

    /// Takes up what was kept on disk. Blocks.
    pub(super) fn restore(&self) {
        let Some(shelf) = &self.shelf else { return };
        let mut shelves = self.shelves();
        let mut restored = Vec::new();
        for member in &self.members {
            let feed = &member.feed;
            let slot = shelves.entry(feed.name.clone()).or_default();
            // It has been here before, and whoever waited for it went away.
            if slot.active.is_some() || slot.pending.is_some() {
                continue;
            }
            let kept = match shelf.read(&feed.name, feed.limits.compressed(), self.clock.now()) {
                Ok(None) => continue,
                Ok(Some(kept)) => kept,
                Err(error) => {
                    let why = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                    member.record().failed("disk", format!("the bundle that was kept is not used: {error}{why}"));
                    continue;
                }
            };
            let read = Bundle::read(&feed.name, &kept.archive, &feed.verification, &feed.limits).and_then(|bundle| {
                feed.rule.check(&feed.name, None, &bundle.manifest().revision)?;
                Ok(bundle)
            });
            match read {
                Ok(bundle) => {
                    let age = kept.age.map(|age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
                    let confirmed = age.map_or(i64::MIN, |age| self.steady_now().saturating_sub(age));
                    slot.floor = Some(bundle.manifest().revision.clone());
                    slot.pending =
                        Some(Version { bundle, archive: kept.archive, etag: None, confirmed, is_kept: true });
                    restored.push(member);
                }
                Err(error) => {
                    member.record().failed("disk", format!("the bundle that was kept is not used: {error}"));
                }
            }
        }
        if restored.is_empty() {
            return;
        }
        if let Err(refused) = self.activate_pending(&mut shelves, None) {
            for member in restored {
                let message = format!("the bundles that were kept are not used: {refused}");
                member.record().failed(refused.code(), message);
            }
        }
        self.announce();
    }

    /// First everything that has come: bundles that were changed together may only fit together. Then the newcomer alone, beside what is in
    /// force.
    fn activate_pending(&self, shelves: &mut Shelves, newcomer: Option<&str>) -> Result<Installed, Refused> {
        let missing = |(name, slot): (&String, &Slot)| {
            (slot.active.is_none() && slot.pending.is_none()).then(|| format!("`{name}`"))
        };
        let missing: Vec<_> = shelves.iter().filter_map(missing).collect();
        if !missing.is_empty() {
            return Ok(Installed::Waits(missing.join(", ")));
        }
        let Err(refused) = self.activate_some(shelves, |_| true) else { return Ok(Installed::Activated) };
        let Some(newcomer) = newcomer else { return Err(refused) };
        let others = || shelves.iter().filter(|(name, _)| *name != newcomer).map(|(_, slot)| slot);
        if others().all(|slot| slot.pending.is_none()) || others().any(|slot| slot.active.is_none()) {
            return Err(refused);
        }
        self.activate_some(shelves, |name| name == newcomer).map(|()| Installed::Activated)
    }

    /// Puts those that wait and are `wanted` in force, with what is in force of the others.
    fn activate_some(&self, shelves: &mut Shelves, wanted: impl Fn(&str) -> bool) -> Result<(), Refused> {
        let chosen = shelves
            .iter()
            .filter_map(|(name, slot)| slot.pending.as_ref().filter(|_| wanted(name)).or(slot.active.as_ref()));
        let contents = contents(&chosen.collect::<Vec<_>>())?;
        let revision = contents.revision.clone();
        catch_unwind(AssertUnwindSafe(|| (self.activate)(contents))).map_err(|_| Refused::Panicked)??;
        tracing::info!(revision, "bundles were activated");
        for member in self.members.iter().filter(|member| wanted(&member.feed.name)) {
            let Some(slot) = shelves.get_mut(&member.feed.name) else { continue };
            if let Some(version) = slot.pending.take() {
                self.promote(member, slot, version);
            }
        }
        self.announce();
        Ok(())
    }

    fn promote(&self, member: &Member, slot: &mut Slot, mut version: Version) {
        let now = self.clock.now();
        let is_saved = match &self.shelf {
            Some(shelf) if !version.is_kept => match shelf.keep(&member.feed.name, &version.archive, now) {
                Ok(()) => true,
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(tracing::field::display);
                    tracing::warn!(bundle = member.feed.name, why = %error, cause, "a bundle could not be kept on disk");
                    false
                }
            },
            _ => true,
        };
        version.is_kept = is_saved;
        if is_saved {
            version.archive = Bytes::new();
        }
        slot.floor = Some(version.bundle.manifest().revision.clone());
        let mut record = member.record();
        record.recovered();
        record.status.active_revision = Some(version.bundle.revision());
        record.status.last_successful_activation = Some(now);
        record.status.activations += 1;
        record.status.unsaved += u64::from(!is_saved);
        record.etag.clone_from(&version.etag);
        record.confirmed = Some(version.confirmed);
        drop(record);
        slot.active = Some(version);
    }

    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the bundles are together, and at `data.system.bundles` what they are, as Open Policy Agent tells its policies.
fn contents(versions: &[&Version]) -> Result<Contents, BundleError> {
    let mut contents = Contents::of(versions.iter().map(|version| &version.bundle))?;
    for Version { bundle, etag, .. } in versions {
        let manifest = bundle.manifest();
        let roots: Vec<_> = manifest.roots.iter().map(|root| root.steps().join("/")).collect();
        let mut told = json!({"revision": manifest.revision, "roots": roots});
        if let Some(told) = told.as_object_mut().filter(|_| !manifest.metadata.is_empty()) {
            told.insert("metadata".to_owned(), manifest.metadata.clone().into());
        }
        let document = match etag.as_ref().and_then(|etag| etag.to_str().ok()) {
            Some(etag) => json!({"manifest": told, "etag": etag}),
            None => json!({"manifest": told}),
        };
        let mount = ["system", "bundles", bundle.name()].map(str::to_owned);
        contents.data.push((mount.into(), document.to_string()));
    }
    Ok(contents)
}
