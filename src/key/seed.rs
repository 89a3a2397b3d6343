//! Keys on disk, for the one case that memory does not cover: a restart while the issuer is away.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{JwkError, JwkSet};
use crate::{
    ConfigError,
    private_file::{PrivateFile, PrivateFileError},
    time::UnixTime,
};

/// A file with the keys of one issuer.
pub(super) struct Seed {
    file: PrivateFile,
    issuer: Arc<str>,
    writing: Mutex<()>,
}

/// Keys that were found, and how long ago they were loaded.
pub(super) struct Found {
    pub(super) set: JwkSet,
    pub(super) age: Duration,
}

impl Seed {
    pub(super) fn new(path: PathBuf, issuer: Arc<str>) -> Result<Self, ConfigError> {
        let shown = path.display().to_string();
        let file = PrivateFile::new(path).ok_or_else(|| {
            let remedy = "name a file, in a folder that nobody but this service may write to";
            ConfigError::invalid("key.seed", shown, remedy)
        })?;
        Ok(Self { file, issuer, writing: Mutex::new(()) })
    }

    /// What the file holds, unless there is a reason not to believe it: then that is logged.
    pub(super) fn read(&self, now: UnixTime, limit: Duration) -> Option<Found> {
        self.try_read(now, limit).unwrap_or_else(|error| {
            self.warn("the key seed is not used", &error);
            None
        })
    }

    /// Replaces the file, or leaves it as it is. Blocks.
    pub(super) fn write(&self, set: &JwkSet, now: UnixTime) {
        // On a disk so slow that the write before this one has not ended, this one is left out: threads must not pile up.
        if let Ok(_writing) = self.writing.try_lock()
            && let Err(error) = self.try_write(set, now)
        {
            self.warn("the key seed could not be written", &error);
        }
    }

    fn warn(&self, what: &'static str, error: &SeedError) {
        let cause = std::error::Error::source(error).map(tracing::field::display);
        tracing::warn!(keys = &*self.issuer, path = ?self.file.path(), why = %error, cause, "{what}");
    }

    fn try_read(&self, now: UnixTime, limit: Duration) -> Result<Option<Found>, SeedError> {
        let Some(held) = self.file.read(MAX_FILE)? else { return Ok(None) };
        let document = held.content;
        let head: Head = serde_json::from_slice(&document).map_err(|_| SeedError::NoSeed)?;
        if head.version != VERSION {
            return Err(SeedError::NoSeed);
        }
        if *head.issuer != *self.issuer {
            return Err(SeedError::OtherIssuer);
        }
        let loaded_at = UnixTime::from_secs(head.loaded_at);
        if loaded_at > now.saturating_add(MAX_AHEAD) {
            return Err(SeedError::FromTheFuture);
        }
        let age = now.duration_since(loaded_at);
        if age >= limit {
            return Err(SeedError::TooOld);
        }
        Ok(Some(Found { set: JwkSet::parse(&document)?, age }))
    }

    fn try_write(&self, set: &JwkSet, now: UnixTime) -> Result<(), SeedError> {
        let keys = set.iter().filter_map(|key| RawValue::from_string(key.to_json()).ok()).collect();
        let head = Head { version: VERSION, issuer: (&*self.issuer).into(), loaded_at: now.as_secs() };
        let document = serde_json::to_vec(&Contents { head, keys })
            .map_err(|error| SeedError::File(std::io::Error::from(error).into()))?;
        Ok(self.file.replace(&document, None)?)
    }
}

/// The keys are read by [`JwkSet::parse`], to which this is one more key document.
#[derive(Serialize)]
struct Contents<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    keys: Vec<Box<RawValue>>,
}

#[derive(Serialize, Deserialize)]
struct Head<'a> {
    version: u32,
    issuer: std::borrow::Cow<'a, str>,
    loaded_at: u64,
}

#[derive(Debug, thiserror::Error)]
enum SeedError {
    #[error(transparent)]
    File(#[from] PrivateFileError),
    #[error("it is no key seed")]
    NoSeed,
    #[error("it holds the keys of another issuer")]
    OtherIssuer,
    #[error("it says that it was written in the future")]
    FromTheFuture,
    #[error("it is older than its keys may become")]
    TooOld,
    #[error("it holds no usable key")]
    Keys(#[from] JwkError),
}

const VERSION: u32 = 1;
/// More than any set that is written here takes.
const MAX_FILE: u64 = 512 * 1024;
/// How far the clock may have been ahead when the file was written.
const MAX_AHEAD: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::key::snapshot::tests::set_of;

    const LIMIT: Duration = Duration::from_secs(4_200);
    const ISSUER: &str = "https://login.example/";

    fn now() -> UnixTime {
        UnixTime::from_secs(1_800_000_000)
    }

    struct Stage {
        folder: tempfile::TempDir,
        seed: Seed,
    }

    impl Stage {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let seed = Seed::new(folder.path().join("keys.json"), ISSUER.into()).unwrap();
            Self { folder, seed }
        }

        fn written() -> Self {
            let stage = Self::new();
            stage.seed.try_write(&set_of(&["a", "b"]), now()).unwrap();
            stage
        }

        fn text(&self) -> String {
            fs::read_to_string(self.seed.file.path()).unwrap()
        }

        /// What keeps the file from being used.
        fn refusal(&self, now: UnixTime) -> Option<String> {
            self.seed.try_read(now, LIMIT).err().map(|error| error.to_string())
        }

        fn with(text: &str) -> Self {
            let stage = Self::written();
            fs::write(stage.seed.file.path(), text).unwrap();
            stage
        }
    }

    #[test]
    fn what_is_written_is_read_with_its_age() {
        let stage = Stage::written();
        let found = stage.seed.read(UnixTime::from_secs(1_800_000_090), LIMIT).unwrap();
        assert_eq!(found.age, Duration::from_secs(90));
        assert_eq!(found.set.iter().map(|key| &**key.kid().unwrap()).collect::<Vec<_>>(), ["a", "b"]);
        assert!(!stage.text().contains("\"d\""), "public members alone");
        let names: Vec<_> =
            fs::read_dir(stage.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["keys.json"], "nothing is left beside it");
    }

    #[test]
    fn a_file_that_is_not_there_is_no_fault_and_its_folder_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let seed = Seed::new(folder.path().join("own/keys.json"), ISSUER.into()).unwrap();
        assert!(seed.try_read(now(), LIMIT).unwrap().is_none());
        seed.try_write(&set_of(&["a"]), now()).unwrap();
        assert!(seed.try_read(now(), LIMIT).unwrap().is_some());
        assert_eq!(Stage::new().refusal(now()), None, "the folder is there, and the file is not");
    }

    #[test]
    fn a_seed_is_good_for_its_time_and_for_its_issuer() {
        let stage = Stage::written();
        let at = |seconds| stage.refusal(UnixTime::from_secs(seconds));
        let future = Some("it says that it was written in the future".to_owned());
        let cases = [
            ("two minutes and more ahead", 1_799_999_879, future),
            ("two minutes ahead", 1_799_999_880, None),
            ("just before the limit", 1_800_004_199, None),
            ("at the limit", 1_800_004_200, Some("it is older than its keys may become".to_owned())),
        ];
        for (name, seconds, refusal) in cases {
            assert_eq!(at(seconds), refusal, "{name}");
        }
        let other = Seed::new(stage.seed.file.path().to_owned(), "https://login.example".into()).unwrap();
        let error = other.try_read(now(), LIMIT).err().unwrap();
        assert_eq!(error.to_string(), "it holds the keys of another issuer");
    }

    #[test]
    fn what_is_no_seed_is_refused() {
        let good = Stage::written().text();
        let cut = &good[..good.len() - 1];
        let cases = [
            ("empty", String::new(), "it is no key seed"),
            ("cut off", cut.to_owned(), "it is no key seed"),
            ("another version", good.replace("\"version\":1", "\"version\":2"), "it is no key seed"),
            ("issuer twice", good.replacen('{', &format!("{{\"issuer\":\"{ISSUER}\","), 1), "it is no key seed"),
            ("time is text", good.replace("1800000000", "\"1800000000\""), "it is no key seed"),
            (
                "no keys",
                format!("{{\"version\":1,\"issuer\":\"{ISSUER}\",\"loaded_at\":1800000000}}"),
                "it holds no usable key",
            ),
            ("a secret", good.replace("\"crv\"", "\"d\":\"AAAA\",\"crv\""), "it holds no usable key"),
            ("too large", format!("{cut},\"pad\":\"{}\"}}", "x".repeat(256 * 1024)), "it holds no usable key"),
            ("far too large", format!("{cut},\"pad\":\"{}\"}}", "x".repeat(1024 * 1024)), "it is no key seed"),
        ];
        for (name, text, refusal) in cases {
            assert_eq!(Stage::with(&text).refusal(now()).as_deref(), Some(refusal), "{name}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_others_may_write_is_neither_read_nor_written() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};

        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let open = Some("it, or the folder it is in, may be written by others than its owner".to_owned());
        let stage = Stage::written();
        assert_eq!(fs::metadata(stage.seed.file.path()).unwrap().permissions().mode() & 0o777, 0o600);
        for (bits, refusal) in [(0o600, &None), (0o644, &None), (0o660, &open), (0o602, &open)] {
            mode(stage.seed.file.path(), bits);
            assert_eq!(stage.refusal(now()), *refusal, "{bits:o}");
        }
        stage.seed.try_write(&set_of(&["a"]), now()).unwrap();
        assert_eq!(stage.refusal(now()), None, "a new file takes the place of the old one");
        for bits in [0o770, 0o777, 0o1777] {
            mode(stage.folder.path(), bits);
            assert_eq!(stage.refusal(now()), open, "{bits:o}");
            assert!(stage.seed.try_write(&set_of(&["a"]), now()).is_err(), "{bits:o}");
        }
        mode(stage.folder.path(), 0o700);

        let elsewhere = stage.folder.path().join("elsewhere.json");
        fs::rename(stage.seed.file.path(), &elsewhere).unwrap();
        symlink(&elsewhere, stage.seed.file.path()).unwrap();
        assert_eq!(stage.refusal(now()).as_deref(), Some("it is no regular file in a folder"), "a link");
        fs::remove_file(stage.seed.file.path()).unwrap();
        fs::create_dir(stage.seed.file.path()).unwrap();
        assert_eq!(stage.refusal(now()).as_deref(), Some("it is no regular file in a folder"), "a folder");
    }

    #[test]
    fn a_write_that_fails_leaves_the_file_as_it_was() {
        let stage = Stage::written();
        let path = stage.folder.path().join("taken");
        fs::create_dir(&path).unwrap();
        let seed = Seed::new(path.join("x"), ISSUER.into()).unwrap();
        seed.try_write(&set_of(&["a"]), now()).unwrap();
        fs::remove_file(path.join("x")).unwrap();
        fs::create_dir(path.join("x")).unwrap();
        assert!(seed.try_write(&set_of(&["a"]), now()).is_err());
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1, "the temporary file is gone");
    }

    #[test]
    fn a_path_that_names_no_file_is_refused() {
        for path in ["/", "..", ""] {
            let error = Seed::new(path.into(), ISSUER.into()).err().unwrap();
            assert_eq!(error.field(), "key.seed", "{path:?}");
        }
    }
}
