/// Why nothing was revoked. Quotes no value of a revocation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RevocationError {
    /// As many revocations as fit are live. None was dropped, and none was added.
    #[error("the list holds {capacity} live revocations and takes no more")]
    Full {
        /// How many fit.
        capacity: usize,
    },
    /// The document is none of revocations. None of it was taken.
    #[error("the document {0}")]
    Document(&'static str),
    /// An entry of the document is not well formed. None of the document was taken.
    #[error("entry {index}: `{field}` {problem}")]
    Entry {
        /// Which one, counted from 0.
        index: usize,
        /// The member at fault, or `entry`.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
}
