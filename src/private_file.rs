//! Files that nobody but this process may write to: what they hold is believed at the next start.

use std::{
    fs, io,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

/// A path, in a folder that it is safe to read from and to write to.
///
/// On unix it is neither read nor written unless it is a regular file and no link, it and its folder belong to whoever runs this process,
/// and nobody else may write to either.
#[derive(Debug)]
pub(crate) struct PrivateFile {
    path: PathBuf,
    folder: PathBuf,
}

/// What a file holds.
pub(crate) struct Held {
    pub(crate) content: Vec<u8>,
    /// Where the platform knows it.
    #[cfg_attr(
        not(any(feature = "opa-management", test)),
        expect(dead_code, reason = "the part that reads it is not compiled in")
    )]
    pub(crate) modified: Option<SystemTime>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum PrivateFileError {
    #[error("it cannot be read or written")]
    Io(#[from] io::Error),
    #[error("it is no regular file in a folder")]
    NoFile,
    #[cfg(unix)]
    #[error("it, or the folder it is in, belongs to somebody else")]
    OtherOwner,
    #[cfg(unix)]
    #[error("it, or the folder it is in, may be written by others than its owner")]
    OpenToOthers,
    #[cfg(unix)]
    #[error("another file took its place while it was opened")]
    Replaced,
}

impl PrivateFile {
    /// `None` when the path names no file.
    pub(crate) fn new(path: PathBuf) -> Option<Self> {
        let (folder, _) = (path.parent()?, path.file_name()?);
        let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_owned() };
        Some(Self { path, folder })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// At most so many bytes of it; `None` when it is not there.
    pub(crate) fn read(&self, most: u64) -> Result<Option<Held>, PrivateFileError> {
        let Some((file, opened)) = self.open(fs::OpenOptions::new().read(true))? else { return Ok(None) };
        let mut content = Vec::new();
        file.take(most).read_to_end(&mut content)?;
        Ok(Some(Held { content, modified: opened.modified().ok() }))
    }

    /// Makes the file say that it was written at this time.
    #[cfg(feature = "opa-management")]
    pub(crate) fn touch(&self, modified: SystemTime) -> Result<(), PrivateFileError> {
        let (file, _) = self.open(fs::OpenOptions::new().append(true))?.ok_or(PrivateFileError::NoFile)?;
        Ok(file.set_modified(modified)?)
    }

    fn open(&self, options: &fs::OpenOptions) -> Result<Option<(fs::File, fs::Metadata)>, PrivateFileError> {
        if !self.folder.try_exists()? {
            return Ok(None);
        }
        // Who we are is what a file of ours says: the standard library does not tell.
        let own = Temporary::beside(&self.path).and_then(|file| file.file.metadata())?;
        self.check_folder(&own)?;
        let entry = match fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            entry => entry?,
        };
        // Before it is opened: to open a pipe is to wait for its other end.
        if !entry.is_file() {
            return Err(PrivateFileError::NoFile);
        }
        let file = options.open(&self.path)?;
        let opened = file.metadata()?;
        check_opened(&opened, &entry, &own)?;
        Ok(Some((file, opened)))
    }

    /// Puts a new file, mode 0600, in the place of the old one, or leaves that as it is. The last folder of the path is made, mode 0700,
    /// when it is not there. The file says that it was written at `modified`, where that is given.
    pub(crate) fn replace(&self, content: &[u8], modified: Option<SystemTime>) -> Result<(), PrivateFileError> {
        if !self.folder.try_exists()? {
            create_private_folder(&self.folder)?;
        }
        let temporary = Temporary::beside(&self.path)?;
        self.check_folder(&temporary.file.metadata()?)?;
        temporary.replace(&self.path, content, modified)?;
        // What the file says is safe already; this makes its name outlive a power failure, where the platform can.
        if let Ok(folder) = fs::File::open(&self.folder) {
            drop(folder.sync_all());
        }
        Ok(())
    }

    /// A folder of ours that nobody else may write to: nobody else can put a file or a link there, or change one.
    fn check_folder(&self, own: &fs::Metadata) -> Result<(), PrivateFileError> {
        let folder = fs::metadata(&self.folder)?;
        if folder.is_dir() { check_owner(&folder, own) } else { Err(PrivateFileError::NoFile) }
    }
}

/// What was opened has to be what stood at the path, which is no link; all that is asked of the file is asked of what was opened.
fn check_opened(opened: &fs::Metadata, entry: &fs::Metadata, own: &fs::Metadata) -> Result<(), PrivateFileError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;

        if (opened.dev(), opened.ino()) != (entry.dev(), entry.ino()) {
            return Err(PrivateFileError::Replaced);
        }
    }
    if opened.is_file() && entry.is_file() { check_owner(opened, own) } else { Err(PrivateFileError::NoFile) }
}

#[cfg(unix)]
fn check_owner(entry: &fs::Metadata, own: &fs::Metadata) -> Result<(), PrivateFileError> {
    use std::os::unix::fs::MetadataExt as _;

    if entry.uid() != own.uid() {
        return Err(PrivateFileError::OtherOwner);
    }
    if entry.mode() & 0o022 != 0 { Err(PrivateFileError::OpenToOthers) } else { Ok(()) }
}

#[cfg(not(unix))]
fn check_owner(_: &fs::Metadata, _: &fs::Metadata) -> Result<(), PrivateFileError> {
    Ok(())
}

/// A file that only we can open; gone when dropped, unless it has taken the place of another.
struct Temporary {
    path: PathBuf,
    file: fs::File,
}

impl Temporary {
    fn beside(path: &Path) -> io::Result<Self> {
        let mut name = std::ffi::OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(format!(".{}.tmp", crate::random::hex_128().as_str()));
        let path = path.with_file_name(name);
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path)?;
        Ok(Self { path, file })
    }

    fn replace(mut self, path: &Path, contents: &[u8], modified: Option<SystemTime>) -> io::Result<()> {
        self.file.write_all(contents)?;
        if let Some(modified) = modified {
            self.file.set_modified(modified)?;
        }
        // Renamed before its bytes are on disk, an empty file could be all that a power failure leaves.
        self.file.sync_all()?;
        fs::rename(&self.path, path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename there is nothing left to remove.
        drop(fs::remove_file(&self.path));
    }
}

fn create_private_folder(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_with_its_time_and_up_to_a_size() {
        let folder = tempfile::tempdir().unwrap();
        let file = PrivateFile::new(folder.path().join("new/file")).unwrap();
        assert!(file.read(8).unwrap().is_none());
        let modified = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_800_000_000);
        file.replace(b"content", Some(modified)).unwrap();
        let held = file.read(7).unwrap().unwrap();
        assert_eq!((held.content.as_slice(), held.modified), (b"content".as_slice(), Some(modified)));
        assert_eq!(file.read(3).unwrap().unwrap().content, b"con");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_changes_between_the_look_at_its_name_and_its_opening_is_refused() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};

        let folder = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (&folder.path().join("file"), folder.path().join("elsewhere"));
        PrivateFile::new(path.clone()).unwrap().replace(b"content", None).unwrap();
        let own = fs::metadata(path).unwrap();
        let seen = || fs::symlink_metadata(path).unwrap();
        let opened = || fs::File::open(path).unwrap().metadata().unwrap();
        let refusal = |seen: &fs::Metadata| check_opened(&opened(), seen, &own).err().map(|error| error.to_string());

        assert_eq!(refusal(&seen()), None);
        let tight = seen();
        fs::set_permissions(path, fs::Permissions::from_mode(0o602)).unwrap();
        let open = "it, or the folder it is in, may be written by others than its owner";
        assert_eq!(refusal(&tight).as_deref(), Some(open), "its mode");

        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&elsewhere, "content").unwrap();
        let plain = seen();
        fs::remove_file(path).unwrap();
        symlink(&elsewhere, path).unwrap();
        let replaced = "another file took its place while it was opened";
        assert_eq!(refusal(&plain).as_deref(), Some(replaced), "a link");
        fs::remove_file(path).unwrap();
        fs::rename(&elsewhere, path).unwrap();
        assert_eq!(refusal(&plain).as_deref(), Some(replaced), "another file");
    }
}
