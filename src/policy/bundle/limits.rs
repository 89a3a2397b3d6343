/// How much of a bundle is read. Whatever is over a limit is refused as soon as it shows, before the rest is unpacked.
///
/// Open Policy Agent allows a gibibyte for each file; these are for services that have better uses for their memory. Raise what a bundle
/// needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    pub(super) compressed: usize,
    pub(super) unpacked: usize,
    pub(super) file: usize,
    pub(super) entries: usize,
    pub(super) ratio: usize,
    pub(super) path: usize,
    pub(super) depth: usize,
}

impl Limits {
    /// The archive as it is sent, in bytes. Default 16 MiB.
    #[must_use]
    pub const fn with_compressed(mut self, bytes: usize) -> Self {
        self.compressed = bytes;
        self
    }

    #[cfg(feature = "opa-management")]
    pub(crate) const fn compressed(&self) -> usize {
        self.compressed
    }

    /// The archive as it is unpacked, in bytes. Default 128 MiB.
    #[must_use]
    pub const fn with_unpacked(mut self, bytes: usize) -> Self {
        self.unpacked = bytes;
        self
    }

    /// Each file, in bytes. Default 64 MiB.
    #[must_use]
    pub const fn with_file(mut self, bytes: usize) -> Self {
        self.file = bytes;
        self
    }

    /// Files and directories. Default 4096.
    #[must_use]
    pub const fn with_entries(mut self, entries: usize) -> Self {
        self.entries = entries;
        self
    }

    /// How many times its compressed size an archive may grow to, once it is over 1 MiB. Default 200: gzip itself can reach 1000 with
    /// nothing but zeros, data documents seldom pass 50.
    #[must_use]
    pub const fn with_ratio(mut self, ratio: usize) -> Self {
        self.ratio = ratio;
        self
    }

    /// The path of each file, in bytes. Default 256.
    #[must_use]
    pub const fn with_path(mut self, bytes: usize) -> Self {
        self.path = bytes;
        self
    }

    /// The steps of each path. Default 16, as where a directory is read.
    #[must_use]
    pub const fn with_depth(mut self, steps: usize) -> Self {
        self.depth = steps;
        self
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            compressed: 16 * 1024 * 1024,
            unpacked: 128 * 1024 * 1024,
            file: 64 * 1024 * 1024,
            entries: 4096,
            ratio: 200,
            path: 256,
            depth: 16,
        }
    }
}
