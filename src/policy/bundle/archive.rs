use std::{collections::BTreeMap, io::Read as _};

use bytes::Bytes;
use flate2::bufread::GzDecoder;
use tar::{Archive, EntryType};

use super::{
    BundleErrorKind::{Archive as Broken, TooLarge},
    Limits,
    error::{Fault, Refusal},
};

/// The files of an archive, by their path without a leading slash.
pub(super) type Files = BTreeMap<String, Bytes>;

/// Unpacks a gzipped tar in memory. Nothing is ever written, so that a path can lead nowhere; the strictness is there so that this
/// reader and any other see the same files.
pub(super) fn unpack(archive: &[u8], limits: &Limits) -> Result<Files, Refusal> {
    if archive.len() > limits.compressed {
        let problem =
            format!("the archive is larger than {} bytes: raise `Limits::with_compressed`", limits.compressed);
        return Err((TooLarge, Fault::new(problem)));
    }
    files(&gunzip(archive, limits)?, limits)
}

fn gunzip(archive: &[u8], limits: &Limits) -> Result<Bytes, Refusal> {
    let mut decoder = GzDecoder::new(archive);
    let (mut unpacked, mut buffer) = (Vec::new(), vec![0; BUFFER]);
    loop {
        let count = decoder.read(&mut buffer).map_err(|error| {
            let problem = match error.kind() {
                std::io::ErrorKind::UnexpectedEof => "the archive ends too early: send all of it".to_owned(),
                _ => format!("the archive is no gzip, or damaged ({error}): build it with `opa build`"),
            };
            (Broken, Fault::new(problem))
        })?;
        unpacked.extend_from_slice(buffer.get(..count).unwrap_or_default());
        if unpacked.len() > limits.unpacked {
            let problem =
                format!("the archive unpacks to more than {} bytes: raise `Limits::with_unpacked`", limits.unpacked);
            return Err((TooLarge, Fault::new(problem)));
        }
        let read = archive.len() - decoder.get_ref().len();
        if unpacked.len() > FREE && unpacked.len() / limits.ratio.max(1) > read {
            let problem =
                format!("the archive unpacks to more than {} times its size: raise `Limits::with_ratio`", limits.ratio);
            return Err((TooLarge, Fault::new(problem)));
        }
        if count == 0 {
            break;
        }
    }
    // gzip may have several members, of which some readers take the first alone.
    if !decoder.get_ref().is_empty() {
        return Err((
            Broken,
            Fault::new("there is more after the end of the archive: send one gzip member and nothing else"),
        ));
    }
    Ok(unpacked.into())
}

fn files(unpacked: &Bytes, limits: &Limits) -> Result<Files, Refusal> {
    let broken = |error: std::io::Error| {
        (Broken, Fault::new(format!("the tar in the archive is damaged ({error}): build it with `opa build`")))
    };
    let mut archive = Archive::new(unpacked.as_ref());
    let (mut files, mut count, mut end) = (Files::new(), 0, 0);
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        count += 1;
        if count > limits.entries {
            let problem = format!("the archive has more than {} entries: raise `Limits::with_entries`", limits.entries);
            return Err((TooLarge, Fault::new(problem)));
        }
        let path = entry.path_bytes().into_owned();
        let shown = String::from_utf8_lossy(&path).into_owned();
        let refused = |kind, problem: String| (kind, Fault::new(problem).in_file(&shown));

        let (from, size) = (entry.raw_file_position(), entry.size());
        let range = usize::try_from(from).ok().zip(from.checked_add(size).and_then(|to| usize::try_from(to).ok()));
        let Some((from, to)) = range.filter(|(_, to)| *to <= unpacked.len()) else {
            return Err(refused(Broken, "the file is cut off: send all of the archive".to_owned()));
        };
        end = to.next_multiple_of(BLOCK);

        let kind = entry.header().entry_type();
        let is_directory = kind == EntryType::Directory;
        if !is_directory && kind != EntryType::Regular {
            let problem = "links, devices and other special entries are not read: build the bundle of files alone";
            return Err(refused(Broken, problem.to_owned()));
        }
        if let Some(extensions) = entry.pax_extensions().map_err(broken)? {
            check_extensions(extensions).map_err(|fault| (Broken, fault))?;
        }
        if path.len() > limits.path {
            return Err(refused(
                TooLarge,
                format!("the path is longer than {} bytes: raise `Limits::with_path`", limits.path),
            ));
        }
        let path = normal(&path, is_directory).map_err(|problem| refused(Broken, problem.to_owned()))?;
        if path.split('/').count() > limits.depth {
            return Err(refused(
                TooLarge,
                format!("the path has more than {} steps: raise `Limits::with_depth`", limits.depth),
            ));
        }
        if is_directory {
            if size > 0 {
                return Err(refused(Broken, "a directory has content: build the archive with `opa build`".to_owned()));
            }
            continue;
        }
        if to - from > limits.file {
            return Err(refused(
                TooLarge,
                format!("the file is larger than {} bytes: raise `Limits::with_file`", limits.file),
            ));
        }
        // The last one would win here and the first one elsewhere.
        if files.insert(path, unpacked.slice(from..to)).is_some() {
            return Err(refused(Broken, "the archive has this file twice: keep one".to_owned()));
        }
    }
    let rest = unpacked.get(end..).unwrap_or_default();
    if rest.len() < 2 * BLOCK || rest.iter().any(|byte| *byte != 0) {
        let problem = "the tar does not end in two empty blocks and nothing else: build it with `opa build`";
        return Err((Broken, Fault::new(problem)));
    }
    Ok(files)
}

/// Of what a PAX header may say, `path` alone is acted upon; what makes readers disagree on where a file begins or ends is refused.
fn check_extensions(extensions: tar::PaxExtensions<'_>) -> Result<(), Fault> {
    let mut has_path = false;
    for extension in extensions {
        let extension =
            extension.map_err(|_| Fault::new("a PAX header is damaged: build the archive with `opa build`"))?;
        let is_known = match extension.key().unwrap_or_default() {
            "path" => !std::mem::replace(&mut has_path, true),
            "mtime" | "atime" | "ctime" | "comment" | "uid" | "gid" | "uname" | "gname" => true,
            other => other.starts_with("LIBARCHIVE.") || other.starts_with("SCHILY."),
        };
        if !is_known {
            let problem =
                "a PAX header has a member that is not read, or `path` twice: build the archive with `opa build`";
            return Err(Fault::new(problem));
        }
    }
    Ok(())
}

/// `/a/b` as `opa build` writes it, `./a/b` as `tar` does, and `a/b`, all as `a/b`. The root directory is empty.
fn normal(path: &[u8], is_directory: bool) -> Result<String, &'static str> {
    let path = std::str::from_utf8(path).map_err(|_| "the path is not UTF-8: rename the file")?;
    let plain = path.strip_prefix("./").or_else(|| path.strip_prefix('/')).unwrap_or(path);
    let plain = if is_directory { plain.strip_suffix('/').unwrap_or(plain) } else { plain };
    if is_directory && matches!(plain, "" | ".") {
        return Ok(String::new());
    }
    if plain.contains('\\') || plain.chars().any(char::is_control) {
        return Err("the path has a backslash or a control character: rename the file");
    }
    if plain.split('/').any(|step| matches!(step, "" | "." | "..")) {
        return Err("the path has an empty step, `.` or `..`: build the archive of plain paths");
    }
    Ok(plain.to_owned())
}

const BUFFER: usize = 64 * 1024;
/// What may be unpacked however small the archive: a tar of little files is mostly zeros.
const FREE: usize = 1024 * 1024;
/// [POSIX `pax`](https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html#tag_20_94_13_06).
const BLOCK: usize = 512;
