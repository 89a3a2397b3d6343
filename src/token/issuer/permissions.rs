/// What the claim `permissions` means for scope, at an issuer that writes it (Auth0 with RBAC).
///
/// `scope` is what the client was granted, `permissions` what the user holds: two namespaces that are never united. Rules ask for scope
/// alone, so this decides what [`Principal::scope`](crate::principal::Principal::scope) is. Under the last two a token without
/// `permissions` is refused: a list that is missing is not an empty one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Permissions {
    /// Nothing: scope is what `scope` says.
    #[default]
    Apart,
    /// A word of `scope` counts when `permissions` has it too.
    AndScope,
    /// `permissions` are the scope, whatever `scope` says: the client's grant no longer limits what it does for a user.
    InsteadOfScope,
}
