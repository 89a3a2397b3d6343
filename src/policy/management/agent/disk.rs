//! Bundles kept for a restart while their server is away: `<directory>/bundles/<name>/bundle.tar.gz`, as Open Policy Agent keeps them.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use bytes::Bytes;

use crate::{
    private_file::{PrivateFile, PrivateFileError},
    time::UnixTime,
};

pub(super) struct Shelf(PathBuf);

/// A bundle that was kept.
pub(super) struct Kept {
    pub(super) archive: Bytes,
    /// How long ago its server confirmed it; `None` where the file does not tell, or claims a time that has not come.
    pub(super) age: Option<Duration>,
}

impl Shelf {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self(directory.join("bundles"))
    }

    /// One byte more than `most` of a bundle that is larger. Blocks.
    pub(super) fn read(&self, name: &str, most: usize, now: UnixTime) -> Result<Option<Kept>, PrivateFileError> {
        let Some(held) = self.file(name)?.read(u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1))? else {
            return Ok(None);
        };
        let modified = held.modified.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        let written = modified.map(UnixTime::from_duration).filter(|written| *written <= now.saturating_add(MAX_AHEAD));
        Ok(Some(Kept { archive: held.content.into(), age: written.map(|written| now.duration_since(written)) }))
    }

    /// Blocks.
    pub(super) fn keep(&self, name: &str, archive: &[u8], now: UnixTime) -> Result<(), PrivateFileError> {
        create_private_folders(&self.0)?;
        self.file(name)?.replace(archive, Some(time(now)))
    }

    /// Notes that the server has just confirmed the bundle. Blocks.
    pub(super) fn confirm(&self, name: &str, now: UnixTime) -> Result<(), PrivateFileError> {
        self.file(name)?.touch(time(now))
    }

    fn file(&self, name: &str) -> Result<PrivateFile, PrivateFileError> {
        PrivateFile::new(self.0.join(name).join("bundle.tar.gz")).ok_or(PrivateFileError::NoFile)
    }
}

fn time(now: UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + now.since_epoch()
}

fn create_private_folders(path: &std::path::Path) -> std::io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// How far the clock may have been ahead when the file was written.
const MAX_AHEAD: Duration = Duration::from_secs(120);
