use std::{borrow::Cow, fmt, fmt::Write as _};

/// Why a bundle is not used. The bundle that was active stays active.
///
/// The text is for operators: it names the bundle, the file inside of it, the line where there is one, and the remedy. Names of files
/// come from whoever made the bundle, so they are shortened, and escaped where a terminal or a log would stumble.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleError(Box<Parts>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Parts {
    kind: BundleErrorKind,
    bundle: String,
    file: Option<String>,
    line: Option<usize>,
    problem: Cow<'static, str>,
}

/// What is wrong with a bundle, in classes to alert on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BundleErrorKind {
    /// No archive of the one form that is read: damaged, cut off, or with entries that no bundle has.
    Archive,
    /// Over one of the [`Limits`](super::Limits).
    TooLarge,
    /// Something that Open Policy Agent reads and this crate does not: a delta, YAML, Rego of version 0.
    Unsupported,
    /// The signature is missing where one is required, is there where none is expected, does not verify, or is for other files.
    Signature,
    /// The manifest is broken, or the bundle holds what its roots do not cover.
    Manifest,
    /// A data document is broken, or two of them, or a document and a package, claim the same path.
    Data,
    /// A module does not parse.
    Module,
    /// Two bundles claim the same name or the same roots.
    Conflict,
    /// The revision is older than the active one, or cannot be compared with it.
    Revision,
}

impl BundleErrorKind {
    /// The stable name, for metrics and the status of a bundle.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Archive => "archive",
            Self::TooLarge => "too_large",
            Self::Unsupported => "unsupported",
            Self::Signature => "signature",
            Self::Manifest => "manifest",
            Self::Data => "data",
            Self::Module => "module",
            Self::Conflict => "conflict",
            Self::Revision => "revision",
        }
    }
}

impl BundleError {
    pub(super) fn new(kind: BundleErrorKind, bundle: &str, fault: Fault) -> Self {
        let Fault { file, line, problem } = fault;
        let (bundle, file) = (shown(bundle), file.as_deref().map(shown));
        Self(Box::new(Parts { kind, bundle, file, line, problem }))
    }

    /// The class.
    #[must_use]
    pub fn kind(&self) -> BundleErrorKind {
        self.0.kind
    }

    /// Which bundle, by the name that it was read under.
    #[must_use]
    pub fn bundle(&self) -> &str {
        &self.0.bundle
    }

    /// Which file of the bundle, where the error is about one.
    #[must_use]
    pub fn file(&self) -> Option<&str> {
        self.0.file.as_deref()
    }

    /// Which line of the file, from 1, where it is known.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        self.0.line
    }
}

impl fmt::Display for BundleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { bundle, file, line, problem, .. } = &*self.0;
        write!(f, "bundle `{bundle}`")?;
        if let Some(file) = file {
            write!(f, ", `{file}`")?;
        }
        if let Some(line) = line {
            write!(f, " line {line}")?;
        }
        write!(f, ": {problem}")
    }
}

impl std::error::Error for BundleError {}

/// An error before it is known which bundle it is in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    file: Option<String>,
    line: Option<usize>,
    problem: Cow<'static, str>,
}

impl Fault {
    pub(super) fn new(problem: impl Into<Cow<'static, str>>) -> Self {
        Self { file: None, line: None, problem: problem.into() }
    }

    pub(super) fn in_file(mut self, file: &str) -> Self {
        self.file = Some(file.to_owned());
        self
    }

    pub(super) fn at_line(mut self, line: usize) -> Self {
        self.line = Some(line);
        self
    }
}

/// A fault and its class.
pub(super) type Refusal = (BundleErrorKind, Fault);

/// A text of the bundle's, as an error may show it.
pub(super) fn shown(text: &str) -> String {
    let mut shown = String::new();
    for character in text.chars().take(MAX_SHOWN) {
        if character.is_control()
            || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            let _ = write!(shown, "{}", character.escape_unicode());
        } else {
            shown.push(character);
        }
    }
    if text.chars().nth(MAX_SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

const MAX_SHOWN: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_bundle_file_line_and_problem() {
        let fault = || Fault::new("`a` is given twice: remove one");
        let error = |fault| BundleError::new(BundleErrorKind::Data, "authz", fault);
        let plain = error(fault());
        assert_eq!(plain.to_string(), "bundle `authz`: `a` is given twice: remove one");
        assert_eq!((plain.bundle(), plain.file(), plain.line()), ("authz", None, None));
        let placed = error(fault().in_file("roles/data.json").at_line(3));
        assert_eq!(placed.to_string(), "bundle `authz`, `roles/data.json` line 3: `a` is given twice: remove one");
        assert_eq!((placed.bundle(), placed.file(), placed.line()), ("authz", Some("roles/data.json"), Some(3)));
        assert_eq!((placed.kind(), placed.kind().as_str()), (BundleErrorKind::Data, "data"));
    }

    #[test]
    fn a_name_from_outside_can_forge_no_line_and_fill_no_log() {
        assert_eq!(shown("a\n\u{1b}[31mb\u{202e}c"), "a\\u{a}\\u{1b}[31mb\\u{202e}c");
        assert_eq!(shown(&"é".repeat(5000)).chars().count(), MAX_SHOWN + 1);
        assert_eq!(shown(&"é".repeat(200)), "é".repeat(200));
        assert!(shown(&"\0".repeat(201)).ends_with('…'));
    }
}
